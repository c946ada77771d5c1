//! What kind of cluster a test wants, and making it.
//!
//! `initdb` takes seconds, so its result is kept per major and options in the cache folder and copied. Copies
//! share a system identifier; a test about telling clusters apart asks for
//! [`fresh_identity`](ClusterBuilder::fresh_identity).

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::cluster::{Cluster, StartError};
use crate::launch::clear_postgres_environment;
use crate::scratch::{Scratch, remove_tree};
use crate::server_install::{Installation, cache_root, installation};
use crate::server_user::{ServerUser, run_as_server_user};

/// Settings of every test cluster: small, quick, and no surprise in what a test reads from the log.
const BASE_SETTINGS: &str = "\
shared_buffers = 16MB
max_connections = 40
log_line_prefix = '%m [%p] %q%u@%d '
timezone = 'UTC'
log_timezone = 'UTC'
";

/// A cluster to be made.
#[derive(Debug, Clone)]
pub struct ClusterBuilder {
    major: u32,
    checksums: bool,
    settings: Vec<(String, String)>,
    wal_segment_mib: u32,
    group_access: bool,
    fresh_identity: bool,
    durable: bool,
    tcp: bool,
    separate_wal: bool,
    hba_lines: Vec<String>,
}

impl ClusterBuilder {
    pub(crate) fn new(major: u32) -> ClusterBuilder {
        ClusterBuilder {
            major,
            checksums: true,
            settings: Vec::new(),
            wal_segment_mib: 16,
            group_access: false,
            fresh_identity: false,
            durable: false,
            tcp: false,
            separate_wal: false,
            hba_lines: Vec::new(),
        }
    }

    /// Page checksums, on unless said otherwise.
    #[must_use]
    pub fn checksums(mut self, on: bool) -> ClusterBuilder {
        self.checksums = on;
        self
    }

    /// A line of `postgresql.conf`.
    #[must_use]
    pub fn conf(mut self, key: &str, value: impl ToString) -> ClusterBuilder {
        self.settings.push((key.to_owned(), value.to_string()));
        self
    }

    /// WAL segment size; 1 MiB makes many segments cheap.
    #[must_use]
    pub fn wal_segment_mib(mut self, size: u32) -> ClusterBuilder {
        self.wal_segment_mib = size;
        self
    }

    /// Files readable by the group (`initdb -g`).
    #[must_use]
    pub fn group_access(mut self, on: bool) -> ClusterBuilder {
        self.group_access = on;
        self
    }

    /// A real `initdb`, and with it a system identifier of its own.
    #[must_use]
    pub fn fresh_identity(mut self) -> ClusterBuilder {
        self.fresh_identity = true;
        self
    }

    /// `fsync` on, for tests about crashes of the machine. Killing processes needs none of it.
    #[must_use]
    pub fn durable(mut self) -> ClusterBuilder {
        self.durable = true;
        self
    }

    /// Listens on 127.0.0.1 too; see [`Cluster::tcp_conninfo`].
    #[must_use]
    pub fn tcp(mut self) -> ClusterBuilder {
        self.tcp = true;
        self
    }

    /// `pg_wal` as a symbolic link to a directory outside PGDATA.
    #[must_use]
    pub fn separate_wal(mut self) -> ClusterBuilder {
        self.separate_wal = true;
        self
    }

    /// A line put before those of `initdb` in `pg_hba.conf` (which trust everyone local).
    #[must_use]
    pub fn hba(mut self, line: &str) -> ClusterBuilder {
        self.hba_lines.push(line.to_owned());
        self
    }

    /// Makes and starts the cluster.
    ///
    /// # Panics
    /// When it does not start; the message has the server's log.
    #[must_use]
    pub fn start(self) -> Cluster {
        let major = self.major;
        self.try_start().unwrap_or_else(|error| panic!("PostgreSQL {major}: {error}"))
    }

    /// Makes and starts the cluster, for tests of settings that a server refuses.
    ///
    /// # Errors
    /// The server's log when it did not start.
    pub fn try_start(self) -> Result<Cluster, StartError> {
        let installation = installation(self.major);
        let scratch = Scratch::new();
        let data = scratch.path().join("data");
        if self.fresh_identity {
            self.initdb(&installation, &data);
        } else {
            copy_tree(&self.template(&installation), &data);
        }
        self.write_settings(&data);
        if self.separate_wal {
            let wal = scratch.path().join("wal");
            fs::rename(data.join("pg_wal"), &wal)
                .and_then(|()| std::os::unix::fs::symlink(&wal, data.join("pg_wal")))
                .unwrap_or_else(|error| panic!("cannot move pg_wal: {error}"));
        }
        Cluster::launch(installation, scratch, data, self.tcp, Vec::new())
    }

    fn initdb_arguments(&self) -> Vec<String> {
        let mut arguments: Vec<String> =
            ["--no-sync", "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-instructions"]
                .map(str::to_owned)
                .to_vec();
        arguments.push(format!("--wal-segsize={}", self.wal_segment_mib));
        if self.checksums {
            arguments.push("--data-checksums".to_owned());
        } else if self.major >= 18 {
            arguments.push("--no-data-checksums".to_owned());
        }
        if self.group_access {
            arguments.push("--allow-group-access".to_owned());
        }
        arguments
    }

    fn initdb(&self, installation: &Installation, data: &Path) {
        let mut command = Command::new(installation.program("initdb"));
        command.args(self.initdb_arguments()).arg("-D").arg(data);
        clear_postgres_environment(&mut command);
        run_as_server_user(&mut command);
        let output = command.output().unwrap_or_else(|error| panic!("cannot run initdb: {error}"));
        assert!(
            output.status.success(),
            "initdb of PostgreSQL {} failed: {}{}",
            self.major,
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
    }

    /// The result of `initdb` with these options, made once per installed version and server user.
    fn template(&self, installation: &Installation) -> PathBuf {
        let user = ServerUser::current();
        let version = installation
            .bin
            .ancestors()
            .find_map(|path| {
                path.file_name()?.to_str().filter(|name| name.starts_with(&format!("{}-", self.major)))
            })
            .unwrap_or("unknown");
        let name = format!(
            "{version}-wal{}{}{}-uid{}",
            self.wal_segment_mib,
            if self.checksums { "-sums" } else { "" },
            if self.group_access { "-group" } else { "" },
            user.uid
        );
        let root = cache_root().join("templates");
        let template = root.join(&name);
        if template.join("data").exists() {
            return template.join("data");
        }
        let staging = root.join(format!("{name}.{}-{:?}", std::process::id(), std::thread::current().id()));
        remove_tree(&staging);
        fs::create_dir_all(&staging)
            .unwrap_or_else(|error| panic!("cannot create {}: {error}", staging.display()));
        user.own(&staging);
        self.initdb(installation, &staging.join("data"));
        if fs::rename(&staging, &template).is_err() {
            // Another process was quicker; its result is as good.
            remove_tree(&staging);
        }
        assert!(template.join("data").exists(), "no template at {}", template.display());
        template.join("data")
    }

    fn write_settings(&self, data: &Path) {
        let mut text = format!("\n# settings of the test\n{BASE_SETTINGS}");
        writeln!(text, "fsync = {}", if self.durable { "on" } else { "off" }).expect("a string takes it");
        for (key, value) in &self.settings {
            writeln!(text, "{key} = '{}'", value.replace('\'', "''")).expect("a string takes it");
        }
        append(&data.join("postgresql.conf"), &text);
        if !self.hba_lines.is_empty() {
            let path = data.join("pg_hba.conf");
            let old = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            let text = format!("{}\n{old}", self.hba_lines.join("\n"));
            fs::write(&path, text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        }
    }
}

/// Appends to a file that exists, so that its owner stays.
pub(crate) fn append(path: &Path, text: &str) {
    use std::io::Write as _;
    fs::OpenOptions::new()
        .append(true)
        .open(path)
        .and_then(|mut file| file.write_all(text.as_bytes()))
        .unwrap_or_else(|error| panic!("cannot append to {}: {error}", path.display()));
}

/// Copies a directory with owners and modes, sharing blocks where the file system can.
pub(crate) fn copy_tree(source: &Path, target: &Path) {
    let status = Command::new("cp")
        .args(["-a", "--reflink=auto"])
        .arg(source)
        .arg(target)
        .status()
        .unwrap_or_else(|error| panic!("cannot run cp: {error}"));
    assert!(status.success(), "cp -a {} {} failed", source.display(), target.display());
}
