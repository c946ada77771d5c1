//! The commands that users type from memory, to the letter, by the names that they know, on every server.

use std::path::Path;
use std::process::{Command, Output};

use pgkeep_testkit::{Cluster, Scratch, client, pgkeep_binary};

/// Runs a line in a shell whose `PATH` leads to the links first, in the folder of the links.
fn shell(cluster: &Cluster, folder: &Path, line: &str) -> Output {
    let mut command = Command::new("/bin/sh");
    command.args(["-c", line]).current_dir(folder).env("PATH", format!("{}:/usr/bin:/bin", folder.display()));
    for (name, _) in std::env::vars_os() {
        let name = name.to_string_lossy();
        if name.starts_with("PG") && !name.starts_with("PGKEEP") {
            command.env_remove(&*name);
        }
    }
    command.env("PGHOST", cluster.socket_dir()).env("PGPORT", cluster.port().to_string());
    command.output().unwrap()
}

fn silently(cluster: &Cluster, folder: &Path, line: &str) {
    let output = shell(cluster, folder, line);
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    assert!(output.status.success() && said.is_empty(), "{} on {}: {said}", line, cluster.major());
}

fn rows(cluster: &Cluster, database: &str) -> String {
    let query = "SELECT (SELECT count(*) FROM users), (SELECT sum(amount) FROM orders), \
                 (SELECT count(*) FROM pg_indexes WHERE schemaname = 'public')";
    cluster.sql_db(database, query)
}

#[test]
fn what_users_type_works_on_every_server() {
    for major in [14, 15, 16, 17, 18] {
        let cluster = Cluster::builder(major).start();
        let scratch = Scratch::new();
        let folder = scratch.path();
        for name in ["pg_dump", "pg_restore"] {
            std::os::unix::fs::symlink(pgkeep_binary(), folder.join(name)).unwrap();
        }
        cluster.sql("CREATE DATABASE mydb");
        cluster.sql_db(
            "mydb",
            "CREATE TABLE users (id serial PRIMARY KEY, name text UNIQUE);
             CREATE TABLE orders (id int PRIMARY KEY, owner int REFERENCES users, amount numeric);
             INSERT INTO users (name) SELECT 'user ' || n FROM generate_series(1, 500) AS n;
             INSERT INTO orders SELECT n, 1 + n % 500, n / 7.0 FROM generate_series(1, 2000) AS n",
        );
        let before = rows(&cluster, "mydb");

        silently(&cluster, folder, "pg_dump -U postgres -d mydb -F c -f mydb_backup.dump");
        silently(&cluster, folder, "pg_dump -U postgres -d mydb -t users -F c -f users_backup.dump");
        silently(&cluster, folder, "pg_dump -U postgres -d mydb -s -f schema_only.sql");

        // The database is lost, and made again by the archive.
        cluster.sql("DROP DATABASE mydb");
        silently(&cluster, folder, "pg_restore -U postgres -C -d postgres mydb_backup.dump");
        assert_eq!(rows(&cluster, "mydb"), before, "{major}: -C");

        // And into an empty one that somebody made.
        cluster.sql("DROP DATABASE mydb");
        cluster.sql("CREATE DATABASE mydb");
        silently(&cluster, folder, "pg_restore -U postgres -d mydb mydb_backup.dump");
        assert_eq!(rows(&cluster, "mydb"), before, "{major}: -d mydb");

        // One table of it, and its definitions, with stock's tools to read them.
        cluster.sql("DROP DATABASE mydb");
        cluster.sql("CREATE DATABASE mydb");
        silently(&cluster, folder, "pg_restore -U postgres -d mydb users_backup.dump");
        assert_eq!(cluster.sql_db("mydb", "SELECT count(*) FROM users"), "500", "{major}: -t users");
        assert_eq!(cluster.sql_db("mydb", "SELECT to_regclass('orders') IS NULL"), "t", "{major}: -t users");
        cluster.sql("DROP DATABASE mydb");
        cluster.sql("CREATE DATABASE mydb");
        // The script sets what servers before 17 do not know, as stock's does; psql tells it and goes on.
        let psql = format!(
            "{} -X -q -U postgres -d mydb -f schema_only.sql > psql.out 2>&1",
            client("psql").display()
        );
        silently(&cluster, folder, &psql);
        assert_eq!(cluster.sql_db("mydb", "SELECT count(*) FROM orders"), "0", "{major}: -s");
        let said = std::fs::read_to_string(folder.join("psql.out")).unwrap();
        assert!(said.matches("ERROR").count() == usize::from(major < 17), "{major}: {said}");
    }
}
