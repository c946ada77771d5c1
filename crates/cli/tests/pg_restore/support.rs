//! Servers with the demonstration database, dumps of it, and the two programs.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use pgkeep_testkit::{Cluster, Scratch, client, installation, pgkeep_binary};

/// No run of a test takes near as long.
const LIMIT: Duration = Duration::from_secs(120);

/// What a program did.
#[derive(PartialEq, Eq)]
pub(crate) struct Ran {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: String,
}

impl Ran {
    /// Fails the test unless the program was content and silent.
    #[track_caller]
    pub(crate) fn is_fine(&self, what: &str) {
        assert_eq!((self.code, self.stderr.as_str()), (Some(0), ""), "{what}");
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }
}

fn run(mut command: Command, input: Option<&[u8]>) -> Ran {
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("PG")) {
        command.env_remove(name);
    }
    command.env("TZ", "UTC").stdout(Stdio::piped()).stderr(Stdio::piped());
    command.stdin(if input.is_some() { Stdio::piped() } else { Stdio::null() });
    let mut child = command.spawn().expect("the program");
    let begin = Instant::now();
    let (mut out, mut err) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
    let read = |source: &mut dyn std::io::Read| {
        let mut bytes = Vec::new();
        source.read_to_end(&mut bytes).unwrap();
        bytes
    };
    std::thread::scope(|scope| {
        let stdout = scope.spawn(|| read(&mut out));
        let stderr = scope.spawn(|| read(&mut err));
        if let Some(input) = input {
            let mut pipe = child.stdin.take().unwrap();
            // The program may have seen enough.
            drop(pipe.write_all(input));
        }
        let status = loop {
            if let Some(status) = child.try_wait().unwrap() {
                break status;
            }
            if begin.elapsed() > LIMIT {
                child.kill().unwrap();
                panic!("{command:?} hangs");
            }
            std::thread::sleep(Duration::from_millis(2));
        };
        let stderr = String::from_utf8_lossy(&stderr.join().unwrap()).into_owned();
        Ran { code: status.code(), stdout: stdout.join().unwrap(), stderr }
    })
}

/// Our program.
pub(crate) fn ours(arguments: &[&str]) -> Ran {
    ours_with(arguments, None)
}

/// Our program with something on its standard input.
pub(crate) fn ours_with(arguments: &[&str], input: Option<&[u8]>) -> Ran {
    let mut command = Command::new(pgkeep_binary());
    command.arg("pg_restore").args(arguments);
    run(command, input)
}

/// Our program in a shell that limits its memory, in KiB.
pub(crate) fn ours_within(kib: u64, arguments: &[&str]) -> Ran {
    let mut command = Command::new("sh");
    command.arg("-c").arg(format!("ulimit -v {kib}; exec \"$0\" pg_restore \"$@\""));
    command.arg(pgkeep_binary()).args(arguments);
    run(command, None)
}

/// Stock's `pg_restore` 18. Its messages begin with the name alone, as those of a program that is found by its name.
pub(crate) fn stock(arguments: &[&str]) -> Ran {
    let program = client("pg_restore");
    let mut command = Command::new(&program);
    command.args(arguments);
    let mut ran = run(command, None);
    ran.stderr = ran.stderr.replace(&format!("{}: ", program.display()), "pg_restore: ");
    ran
}

/// Both programs must do the same. Returns what ours did.
#[track_caller]
pub(crate) fn same(arguments: &[&str]) -> Ran {
    let (mine, theirs) = (ours(arguments), stock(arguments));
    assert_eq!(mine.code, theirs.code, "{arguments:?}: {} | {}", mine.stderr, theirs.stderr);
    assert_eq!(mine.stderr, theirs.stderr, "{arguments:?}");
    let (left, right) = (without_end_time(&mine.stdout), without_end_time(&theirs.stdout));
    if left != right {
        let shown = |line: &[u8]| String::from_utf8_lossy(line).into_owned();
        let differing = left
            .iter()
            .zip(&right)
            .find(|(left, right)| left != right)
            .map(|(left, right)| (shown(left), shown(right)));
        panic!(
            "{arguments:?}: {} and {} bytes differ first at {differing:?}",
            mine.stdout.len(),
            theirs.stdout.len()
        );
    }
    mine
}

/// Lines, as bytes: databases need not be UTF-8.
fn without_end_time(script: &[u8]) -> Vec<&[u8]> {
    let lines = script.split_inclusive(|byte| *byte == b'\n');
    lines.filter(|line| !line.starts_with(b"-- Completed on ")).collect()
}

/// A server with the database `demo`.
pub(crate) struct Lab {
    pub(crate) cluster: Cluster,
    scratch: Scratch,
}

impl Lab {
    /// A server of this major with the demonstration database.
    pub(crate) fn new(major: u32) -> Lab {
        let lab = Lab::empty(major);
        lab.create("demo");
        lab.cluster.sql_db("demo", include_str!("demo.sql"));
        lab
    }

    /// A server with the roles, but without the database.
    pub(crate) fn empty(major: u32) -> Lab {
        let cluster = Cluster::builder(major).start();
        cluster.sql("CREATE ROLE alice; CREATE ROLE \"Bob \"\"x\"\"\"");
        Lab { cluster, scratch: Scratch::new() }
    }

    /// Creates an empty database.
    pub(crate) fn create(&self, database: &str) {
        self.cluster.sql(&format!(
            "CREATE DATABASE {database} TEMPLATE template0 ENCODING 'UTF8' LC_COLLATE 'C' LC_CTYPE 'C'"
        ));
    }

    /// A path beside the server.
    pub(crate) fn path(&self, name: &str) -> String {
        self.scratch.path().join(name).display().to_string()
    }

    /// Dumps the database with stock's `pg_dump` of a major into a file or directory of that name.
    #[track_caller]
    pub(crate) fn dump_by(&self, major: u32, name: &str, arguments: &[&str]) -> String {
        self.dump_of("demo", major, name, arguments)
    }

    /// The same of another database.
    #[track_caller]
    pub(crate) fn dump_of(&self, database: &str, major: u32, name: &str, arguments: &[&str]) -> String {
        let path = self.path(name);
        let mut command = Command::new(installation(major).program("pg_dump"));
        command.args(arguments).args(["-f", &path, "-d", &self.cluster.conninfo_db(database)]);
        run(command, None).is_fine("pg_dump");
        path
    }

    /// The same with `pg_dump` 18.
    #[track_caller]
    pub(crate) fn dump(&self, name: &str, arguments: &[&str]) -> String {
        self.dump_by(18, name, arguments)
    }

    /// A database as `pg_dump` 18 shows it, without the server's version.
    #[track_caller]
    pub(crate) fn shown(&self, database: &str, arguments: &[&str]) -> String {
        String::from_utf8_lossy(&self.shown_bytes(database, arguments)).into_owned()
    }

    /// The same for databases that are not UTF-8.
    #[track_caller]
    pub(crate) fn shown_bytes(&self, database: &str, arguments: &[&str]) -> Vec<u8> {
        let mut command = Command::new(client("pg_dump"));
        command.args(["--restrict-key=k", "-d", &self.cluster.conninfo_db(database)]).args(arguments);
        let ran = run(command, None);
        ran.is_fine("pg_dump");
        let lines = ran.stdout.split_inclusive(|byte| *byte == b'\n');
        lines.filter(|line| !line.starts_with(b"-- Dumped from ")).flatten().copied().collect()
    }
}

/// A file's bytes.
pub(crate) fn bytes_of(path: &str) -> Vec<u8> {
    std::fs::read(path).expect(path)
}

/// Writes a file in a scratch directory.
pub(crate) fn write(scratch: &Scratch, name: &str, bytes: impl AsRef<[u8]>) -> String {
    let path: PathBuf = scratch.path().join(name);
    std::fs::create_dir_all(path.parent().unwrap_or(Path::new("/"))).unwrap();
    std::fs::write(&path, bytes).unwrap();
    path.display().to_string()
}
