//! Databases for measuring dumps: one big table, many small ones, wide jsonb, and a schema of 100,000 objects.

use pgkeep_testkit::Cluster;

use super::Options;

/// Tables made in one transaction; each takes locks until its end.
const TABLES_PER_TRANSACTION: u32 = 200;
/// What a table of the database `objects` comes to: itself, its primary key, a second index, a sequence, its owner, a
/// default, a check constraint is part of the table, a comment, a trigger-free view on it: eight entries.
const OBJECTS_PER_TABLE: u32 = 8;

/// A database that is dumped and restored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Database {
    /// One table.
    Big,
    /// Many tables of 20 rows.
    Small,
    /// Few rows, each with a long jsonb document.
    Wide,
    /// Nothing but definitions.
    Objects,
}

impl Database {
    /// Those that are asked for.
    pub(super) fn wanted(options: &Options) -> Vec<Database> {
        match options.database.as_slice() {
            [] => vec![Database::Big, Database::Small, Database::Wide, Database::Objects],
            named => named.to_vec(),
        }
    }

    /// Its name on the server and in the table.
    pub(super) fn name(self) -> &'static str {
        match self {
            Database::Big => "big",
            Database::Small => "small",
            Database::Wide => "wide",
            Database::Objects => "objects",
        }
    }

    /// Makes and fills it. Two runs hold the same bytes.
    pub(super) fn generate(self, cluster: &Cluster, options: &Options, big_mib: u32) {
        let name = self.name();
        cluster.sql(&format!("CREATE DATABASE {name} TEMPLATE template0"));
        match self {
            Database::Big => big(cluster, big_mib),
            Database::Small => in_batches(
                cluster,
                name,
                options.tables,
                "CREATE TABLE small_%1$s (id int PRIMARY KEY, note text);
                 INSERT INTO small_%1$s SELECT id, md5(id::text) FROM generate_series(1, 20) AS id",
            ),
            Database::Wide => wide(cluster, options.text),
            Database::Objects => in_batches(
                cluster,
                name,
                options.objects / OBJECTS_PER_TABLE,
                "CREATE TABLE t_%1$s (id bigserial PRIMARY KEY, note text NOT NULL, amount numeric(12, 2) DEFAULT 0 CHECK (amount >= 0));
                 CREATE INDEX t_%1$s_note ON t_%1$s (note);
                 COMMENT ON TABLE t_%1$s IS 'number %1$s';
                 CREATE VIEW v_%1$s AS SELECT id, note FROM t_%1$s WHERE amount > 0",
            ),
        }
        cluster.sql_db(name, "VACUUM (ANALYZE)");
        cluster.sql("CHECKPOINT");
    }
}

/// About 1,000,000 rows for 120 MiB, of the kinds that tables are made of.
fn big(cluster: &Cluster, mib: u32) {
    const ROWS_PER_MIB: u32 = 8_000;
    let rows = mib * ROWS_PER_MIB;
    cluster.sql_db(
        "big",
        &format!(
            "CREATE TABLE big (id bigint NOT NULL, account int NOT NULL, amount numeric(12, 2), made timestamptz, note text, ok boolean);
             INSERT INTO big SELECT id, (hashint8(id) & 1048575), (hashint8(id * 7) & 16777215) / 100.0,
                    timestamptz '2020-01-01 00:00+00' + (id % 100000000) * interval '1 second', md5(id::text) || ' ' || (id % 977), id % 3 = 0
             FROM generate_series(1::bigint, {rows}) AS id;
             ALTER TABLE big ADD PRIMARY KEY (id);
             CREATE INDEX big_account ON big (account)"
        ),
    );
}

/// Documents of about 8 KiB, which the server keeps compressed apart from their rows.
fn wide(cluster: &Cluster, mib: u32) {
    let rows = mib * 128;
    cluster.sql_db(
        "wide",
        &format!(
            "CREATE TABLE wide (id bigint PRIMARY KEY, body jsonb);
             INSERT INTO wide SELECT id, (SELECT jsonb_object_agg('key ' || n, md5((id * 100 + n)::text) || md5((id + n)::text)) FROM generate_series(1, 100) AS n)
             FROM generate_series(1, {rows}) AS id"
        ),
    );
}

/// Runs a script once for each number from 1 on; `%1$s` is the number.
fn in_batches(cluster: &Cluster, database: &str, count: u32, script: &str) {
    let mut done = 0;
    while done < count {
        let last = (done + TABLES_PER_TRANSACTION).min(count);
        cluster.sql_db(
            database,
            &format!(
                "DO $do$ BEGIN FOR n IN {}..{last} LOOP EXECUTE format($script${script}$script$, n); END LOOP; END $do$",
                done + 1
            ),
        );
        done = last;
    }
}
