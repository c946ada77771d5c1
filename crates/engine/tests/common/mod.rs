//! A repository beside test clusters. What writes to it (init, backup, `wal push`) is the program itself, run as the server's
//! user, as in production: the archiver of a cluster writes to the same directories. What only reads it is called as a library,
//! so that tests see typed errors.
#![allow(dead_code, clippy::unwrap_used, reason = "each test binary uses its own part; helpers fail loudly")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use pgkeep_engine::event::Silent;
use pgkeep_engine::restore::{
    RecoveryTarget, RestoreReport, RestoreRequest, TargetAction, TargetTimeline, restore,
};
use pgkeep_engine::{Cancel, Error, Location};
use pgkeep_testkit::{
    Cluster, ClusterBuilder, Scratch, pgkeep_binary, run_as_server_user, table_digests, wait_until,
};
use serde_json::Value;

/// How long WAL may take to arrive, or recovery to end, on a machine that does much else.
pub const LIMIT: Duration = Duration::from_secs(90);

/// A repository, and room for restored clusters.
pub struct Site {
    pub scratch: Scratch,
    counter: AtomicU32,
}

impl Site {
    pub fn new() -> Site {
        let site = Site { scratch: Scratch::new(), counter: AtomicU32::new(0) };
        // Made here, so that it belongs to the server's user.
        let _repository: PathBuf = site.scratch.create_dir("repo", 0o755);
        site
    }

    pub fn repository(&self) -> PathBuf {
        self.scratch.path().join("repo")
    }

    pub fn location(&self) -> Location {
        Location { repository: self.repository().display().to_string(), stanza: "main".to_owned() }
    }

    pub fn archive_command(&self) -> String {
        self.server_command("wal push %p")
    }

    pub fn restore_command(&self) -> String {
        self.server_command("wal get %f %p")
    }

    fn server_command(&self, verb: &str) -> String {
        format!("{} --repo {} {verb}", pgkeep_binary().display(), self.repository().display())
    }

    /// The program with this repository, as the server's user, with nothing of the caller's environment.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(pgkeep_binary());
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("PG") {
                command.env_remove(name);
            }
        }
        command.env("TZ", "UTC").arg("--repo").arg(self.repository()).args(arguments);
        run_as_server_user(&mut command);
        command
    }

    /// Runs the program and gives its JSON.
    #[track_caller]
    pub fn run(&self, arguments: &[&str]) -> Value {
        let output = self.command(arguments).arg("--json").output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {}", said(&output));
        serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|error| panic!("{arguments:?}: {error}: {}", said(&output)))
    }

    #[track_caller]
    pub fn init(&self, cluster: &Cluster) {
        self.run(&["init", "-d", &cluster.conninfo()]);
    }

    /// Takes a backup and gives its report.
    #[track_caller]
    pub fn backup(&self, cluster: &Cluster, arguments: &[&str]) -> Value {
        let conninfo = cluster.conninfo();
        let mut all = vec!["backup", "-d", &conninfo];
        all.extend(arguments);
        let report = self.run(&all);
        assert!(report["id"].is_string(), "{report}");
        report
    }

    /// A cluster that archives here. It must be initialised before it archives with success.
    pub fn archiving(&self, builder: ClusterBuilder) -> Cluster {
        let cluster =
            builder.conf("archive_mode", "on").conf("archive_command", self.archive_command()).start();
        self.init(&cluster);
        cluster
    }

    /// Ends the current segment and waits until it is in the repository.
    #[track_caller]
    pub fn archive_all(&self, cluster: &Cluster) -> String {
        let segment = cluster.switch_wal();
        self.wait_for_segment(&segment);
        segment
    }

    #[track_caller]
    pub fn wait_for_segment(&self, segment: &str) {
        let object = self.wal_object(segment);
        wait_until(&format!("{segment} in the repository"), LIMIT, || object.exists());
    }

    /// The file that holds a segment in the repository.
    pub fn wal_object(&self, segment: &str) -> PathBuf {
        let timeline = &segment[..8];
        self.repository().join(format!("main/wal/000001/{timeline}/{}/{segment}", &segment[8..16]))
    }

    /// An empty directory that belongs to the server's user: only into such a one does root restore.
    pub fn destination(&self) -> PathBuf {
        let number = self.counter.fetch_add(1, Ordering::Relaxed);
        self.scratch.create_dir(&format!("d{number}"), 0o700)
    }

    /// A restore that makes a primary at the target.
    pub fn request(&self, target: RecoveryTarget) -> RestoreRequest {
        RestoreRequest {
            location: self.location(),
            backup: None,
            target,
            exclusive: false,
            timeline: TargetTimeline::Latest,
            action: Some(TargetAction::Promote),
            tablespace_map: Vec::new(),
            standby: false,
            settings: Vec::new(),
            destination: self.destination(),
            external_config: None,
            restore_command: self.restore_command(),
            caller_time_zone: "UTC".to_owned(),
            jobs: 2,
            delta: false,
            dry_run: false,
        }
    }

    /// Restores, starts and waits until the cluster takes writes.
    #[track_caller]
    pub fn bring_back(&self, major: u32, request: &RestoreRequest) -> Cluster {
        run_restore(request).unwrap_or_else(|error| panic!("{request:?}: {error:#?}"));
        start_restored(major, &request.destination)
    }
}

pub fn said(output: &Output) -> String {
    format!(
        "{}\nstdout: {}\nstderr: {}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

pub fn run_restore(request: &RestoreRequest) -> Result<RestoreReport, Error> {
    restore(request, &Silent, &Cancel::default())
}

/// Starts a restored directory and waits until recovery is over.
#[track_caller]
pub fn start_restored(major: u32, directory: &Path) -> Cluster {
    // Archiving stays off; a statement that waits for ever would hide what went wrong.
    let cluster = Cluster::from_data_dir(major, directory, &[("statement_timeout", "60s")]);
    wait_until("the end of recovery", LIMIT, || {
        assert!(cluster.is_running(), "the server ended: {}", cluster.log());
        cluster.try_sql("SELECT pg_is_in_recovery()").is_ok_and(|answer| answer == "f")
    });
    cluster
}

/// Digests of all tables of all databases that take connections.
pub fn all_digests(cluster: &Cluster) -> BTreeMap<String, String> {
    let databases = cluster.sql("SELECT datname FROM pg_database WHERE datallowconn ORDER BY 1");
    let mut digests = BTreeMap::new();
    for database in databases.lines() {
        for (table, digest) in table_digests(cluster, database) {
            digests.insert(format!("{database}.{table}"), digest);
        }
    }
    digests
}

/// Every entry below a directory: mode, and the contents of files.
pub fn tree(root: &Path) -> BTreeMap<PathBuf, (u32, Vec<u8>)> {
    use std::os::unix::fs::PermissionsExt;
    let mut entries = BTreeMap::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            let metadata = fs::symlink_metadata(&path).unwrap();
            let contents = if metadata.is_dir() {
                folders.push(path.clone());
                Vec::new()
            } else if metadata.is_symlink() {
                fs::read_link(&path).unwrap().into_os_string().into_encoded_bytes()
            } else {
                fs::read(&path).unwrap()
            };
            let name = path.strip_prefix(root).unwrap().to_owned();
            entries.insert(name, (metadata.permissions().mode(), contents));
        }
    }
    entries
}

/// Numbers that a seed determines (splitmix64).
pub struct Dice(u64);

impl Dice {
    /// From `PGKEEP_TEST_SEED`, else from the clock; printed, so that a failure can be played again.
    pub fn new(test: &str) -> Dice {
        let seed = std::env::var("PGKEEP_TEST_SEED").map_or_else(
            |_| {
                let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
                now.as_micros() as u64
            },
            |text| text.parse().expect("PGKEEP_TEST_SEED is a number"),
        );
        println!("{test}: PGKEEP_TEST_SEED={seed}");
        Dice(seed)
    }

    /// From another's number.
    pub fn seeded(seed: u64) -> Dice {
        Dice(seed)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// Below `limit`.
    pub fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit.max(1)
    }
}
