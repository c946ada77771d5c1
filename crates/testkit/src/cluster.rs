//! One running server, in a temporary directory of its own, stopped and removed when it is dropped.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::process::Signal;

use crate::cluster_builder::ClusterBuilder;
use crate::launch::{clear_postgres_environment, launch_server, process_tree, send_signal};
use crate::port::Port;
use crate::scratch::Scratch;
use crate::server_install::{Installation, client, installation};
use crate::server_user::ServerUser;
use crate::wait::wait_for;

/// How long a server may take to open or to end. Recovery of a test's WAL is far below it.
const SERVER_LIMIT: Duration = Duration::from_secs(180);

/// How a server is asked to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StopMode {
    /// Ends sessions, writes a shutdown checkpoint.
    Fast,
    /// Quits at once; the next start recovers.
    Immediate,
}

/// A server that did not come up.
#[derive(Debug, thiserror::Error)]
#[error("the server did not start ({outcome}); its log ends:\n{log}")]
pub struct StartError {
    /// What the process did instead.
    pub outcome: String,
    /// The end of the server's log.
    pub log: String,
}

/// What `psql` said about a statement that failed.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct SqlError {
    /// Its standard error.
    pub message: String,
}

/// One throw-away server: stopped and removed on drop. Methods take `&self`, so that a workload in one thread and
/// the test in another can share it.
#[derive(Debug)]
pub struct Cluster {
    pub(crate) installation: Installation,
    pub(crate) data: PathBuf,
    pub(crate) scratch: Scratch,
    port: Port,
    sockets: PathBuf,
    log: PathBuf,
    tcp: bool,
    overrides: Vec<(String, String)>,
    process: Mutex<Option<Child>>,
}

impl Cluster {
    /// Describes a new cluster of this major.
    #[must_use]
    pub fn builder(major: u32) -> ClusterBuilder {
        ClusterBuilder::new(major)
    }

    /// Starts a server on an existing data directory, such as a restored one, as it is: port, sockets and
    /// `settings` are given on the command line. `archive_mode` is off unless `settings` names it, so that a
    /// restored cluster does not push WAL into the repository it came from.
    ///
    /// The directory stays when the cluster is dropped. As root, it and what its links lead to is given to the
    /// server user, and closed directories above it are opened for passing through.
    ///
    /// # Panics
    /// When the server does not start.
    #[must_use]
    pub fn from_data_dir(major: u32, data: &Path, settings: &[(&str, &str)]) -> Cluster {
        Cluster::try_from_data_dir(major, data, settings)
            .unwrap_or_else(|error| panic!("PostgreSQL {major}: {error}"))
    }

    /// [`from_data_dir`](Cluster::from_data_dir) for a directory that may well not start.
    ///
    /// # Errors
    /// The end of the server's log.
    pub fn try_from_data_dir(
        major: u32,
        data: &Path,
        settings: &[(&str, &str)],
    ) -> Result<Cluster, StartError> {
        let data = data.canonicalize().unwrap_or_else(|error| panic!("{}: {error}", data.display()));
        give_to_server_user(&data);
        let mut overrides: Vec<(String, String)> =
            settings.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        if !settings.iter().any(|(key, _)| *key == "archive_mode") {
            overrides.push(("archive_mode".to_owned(), "off".to_owned()));
        }
        Cluster::launch(installation(major), Scratch::new(), data, false, overrides)
    }

    pub(crate) fn launch(
        installation: Installation,
        scratch: Scratch,
        data: PathBuf,
        tcp: bool,
        overrides: Vec<(String, String)>,
    ) -> Result<Cluster, StartError> {
        let sockets = scratch.create_dir("s", 0o755);
        let log = scratch.path().join("log");
        let port = Port::take();
        let cluster = Cluster {
            installation,
            data,
            scratch,
            port,
            sockets,
            log,
            tcp,
            overrides,
            process: Mutex::new(None),
        };
        cluster.try_start()?;
        Ok(cluster)
    }

    /// Server major.
    #[must_use]
    pub fn major(&self) -> u32 {
        self.installation.major
    }

    /// Its installation.
    #[must_use]
    pub fn installation(&self) -> &Installation {
        &self.installation
    }

    /// Port number, of the socket's name and of TCP when that is on.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port.number
    }

    /// Directory of its Unix socket.
    #[must_use]
    pub fn socket_dir(&self) -> &Path {
        &self.sockets
    }

    /// PGDATA.
    #[must_use]
    pub fn data_dir(&self) -> &Path {
        &self.data
    }

    /// A directory beside PGDATA for what the test wants to add; goes away with the cluster.
    #[must_use]
    pub fn scratch(&self) -> &Scratch {
        &self.scratch
    }

    /// Connection string over the Unix socket, as superuser `postgres`.
    #[must_use]
    pub fn conninfo(&self) -> String {
        self.conninfo_db("postgres")
    }

    /// The same to another database.
    #[must_use]
    pub fn conninfo_db(&self, database: &str) -> String {
        format!("host={} port={} user=postgres dbname={database}", self.sockets.display(), self.port())
    }

    /// Connection string over TCP; the builder's `tcp()` must have been asked for.
    #[must_use]
    pub fn tcp_conninfo(&self) -> String {
        assert!(self.tcp, "this cluster has no TCP: ask the builder for tcp()");
        format!("host=127.0.0.1 port={} user=postgres dbname=postgres", self.port())
    }

    /// Runs SQL in database `postgres`; the answer is `psql -AtX` output without the last line feed.
    ///
    /// # Panics
    /// When a statement fails.
    #[track_caller]
    pub fn sql(&self, sql: &str) -> String {
        self.sql_db("postgres", sql)
    }

    /// Runs SQL in another database.
    ///
    /// # Panics
    /// When a statement fails.
    #[track_caller]
    pub fn sql_db(&self, database: &str, sql: &str) -> String {
        self.try_sql_db(database, sql).unwrap_or_else(|error| panic!("`{sql}` failed: {error}"))
    }

    /// Runs SQL that may fail.
    ///
    /// # Errors
    /// What `psql` printed.
    pub fn try_sql(&self, sql: &str) -> Result<String, SqlError> {
        self.try_sql_db("postgres", sql)
    }

    /// Runs SQL in another database that may fail. Each statement is its own transaction.
    ///
    /// # Errors
    /// What `psql` printed.
    pub fn try_sql_db(&self, database: &str, sql: &str) -> Result<String, SqlError> {
        use std::io::Write as _;
        let mut command = Command::new(client("psql"));
        command
            .args(["-AtXq", "-v", "ON_ERROR_STOP=1", "-d", &self.conninfo_db(database), "-f", "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        clear_postgres_environment(&mut command);
        let mut child = command.spawn().unwrap_or_else(|error| panic!("cannot run psql: {error}"));
        let mut input = child.stdin.take().expect("piped");
        let text = sql.to_owned();
        // psql may stop reading at the first error: a broken pipe is its business.
        let writer = std::thread::spawn(move || drop(input.write_all(text.as_bytes())));
        let output = child.wait_with_output().unwrap_or_else(|error| panic!("cannot wait for psql: {error}"));
        drop(writer.join());
        if output.status.success() {
            Ok(String::from_utf8_lossy(&output.stdout).trim_end_matches('\n').to_owned())
        } else {
            Err(SqlError { message: String::from_utf8_lossy(&output.stderr).trim_end().to_owned() })
        }
    }

    /// Starts the server after [`stop`](Cluster::stop) or [`crash`](Cluster::crash).
    ///
    /// # Panics
    /// When it does not come up.
    pub fn start(&self) {
        self.try_start().unwrap_or_else(|error| panic!("PostgreSQL {}: {error}", self.major()));
    }

    /// Starts the server, which may fail.
    ///
    /// # Errors
    /// The end of its log.
    pub fn try_start(&self) -> Result<(), StartError> {
        let mut process = self.process();
        assert!(process.is_none(), "the server runs already");
        let program = self.installation.program("postgres");
        let mut child = launch_server(&program, &self.arguments(), &self.log)
            .unwrap_or_else(|error| panic!("cannot run {}: {error}", program.display()));
        let pid_file = self.data.join("postmaster.pid");
        let outcome = wait_for(SERVER_LIMIT, || {
            if let Ok(Some(status)) = child.try_wait() {
                return Some(Err(status.to_string()));
            }
            let text = fs::read_to_string(&pid_file).unwrap_or_default();
            let mut lines = text.lines();
            let ours = lines.next() == Some(child.id().to_string().as_str());
            // Line 8: `ready` takes connections; `standby` is up but takes none (hot_standby off).
            let open = matches!(lines.nth(6).map(str::trim), Some("ready" | "standby"));
            (ours && open).then_some(Ok(()))
        })
        .unwrap_or_else(|| {
            end(&mut child, Signal::QUIT);
            Err(format!("not ready after {} s", SERVER_LIMIT.as_secs()))
        });
        match outcome {
            Ok(()) => {
                *process = Some(child);
                Ok(())
            }
            Err(outcome) => Err(StartError { outcome, log: last_lines(&self.log(), 40) }),
        }
    }

    /// Stops the server and waits for its end. Fine when it has ended already.
    pub fn stop(&self, mode: StopMode) {
        if let Some(mut child) = self.process().take() {
            end(&mut child, if mode == StopMode::Fast { Signal::INT } else { Signal::QUIT });
        }
    }

    /// Stops (fast) and starts.
    pub fn restart(&self) {
        self.stop(StopMode::Fast);
        self.start();
    }

    /// Kills every process of the server with SIGKILL. [`start`](Cluster::start) then recovers.
    pub fn crash(&self) {
        if let Some(mut child) = self.process().take() {
            end(&mut child, Signal::KILL);
        }
    }

    /// Whether the server process is there.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.process().as_mut().is_some_and(|child| matches!(child.try_wait(), Ok(None)))
    }

    /// Waits until the server has ended by itself (`recovery_target_action = shutdown`, a fatal recovery error).
    ///
    /// # Panics
    /// When it goes on running.
    pub fn wait_for_end(&self) {
        crate::wait_until("the server to end", SERVER_LIMIT, || !self.is_running());
        self.process().take();
    }

    /// The server process's id.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.process().as_ref().map(Child::id)
    }

    /// Everything the server has logged.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read(&self.log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
    }

    /// Sets a parameter with ALTER SYSTEM and reloads; restart yourself where the parameter needs it.
    pub fn alter_system(&self, key: &str, value: &str) {
        self.sql(&format!("ALTER SYSTEM SET {key} = '{}'", value.replace('\'', "''")));
        self.sql("SELECT pg_reload_conf()");
    }

    fn arguments(&self) -> Vec<String> {
        let mut arguments = vec!["-D".to_owned(), self.data.display().to_string()];
        let mut set = |key: &str, value: &str| arguments.extend(["-c".to_owned(), format!("{key}={value}")]);
        set("port", &self.port().to_string());
        set("unix_socket_directories", &self.sockets.display().to_string());
        set("listen_addresses", if self.tcp { "127.0.0.1" } else { "" });
        for (key, value) in &self.overrides {
            set(key, value);
        }
        arguments
    }

    fn process(&self) -> MutexGuard<'_, Option<Child>> {
        // A test that panicked while holding it still has to stop its server.
        self.process.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- log of PostgreSQL {} ---\n{}", self.major(), last_lines(&self.log(), 30));
        }
        self.stop(StopMode::Immediate);
    }
}

/// Ends a server and whatever it started (an archive_command in the middle of its work too).
fn end(child: &mut Child, signal: Signal) {
    if signal == Signal::KILL {
        // A postmaster that runs on may start a backend that the list below lacks, and that keeps the shared memory.
        send_signal(child.id(), Signal::STOP);
        wait_for(Duration::from_secs(1), || is_stopped(child.id()).then_some(()));
    }
    let tree = process_tree(child.id());
    if signal == Signal::KILL {
        tree.iter().for_each(|pid| send_signal(*pid, Signal::KILL));
    } else {
        send_signal(child.id(), signal);
    }
    let ended = |child: &mut Child, limit| wait_for(limit, || child.try_wait().ok().flatten()).is_some();
    if !ended(child, SERVER_LIMIT) {
        process_tree(child.id()).into_iter().for_each(|pid| send_signal(pid, Signal::KILL));
        ended(child, Duration::from_secs(10));
    }
    if signal != Signal::INT {
        // Backends end by themselves once the postmaster is gone; the shared memory is free only then.
        let gone = |pid: &u32| !Path::new("/proc").join(pid.to_string()).exists();
        if wait_for(Duration::from_secs(10), || tree.iter().all(gone).then_some(())).is_none() {
            tree.iter().filter(|pid| !gone(pid)).for_each(|pid| send_signal(*pid, Signal::KILL));
        }
    }
}

/// Whether the process is stopped, or gone.
fn is_stopped(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // Behind the name, which stands in parentheses and may hold anything.
    stat.rsplit(')').next().is_none_or(|rest| !rest.trim_start().starts_with(['R', 'S', 'D']))
}

fn last_lines(text: &str, count: usize) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(count)..].join("\n")
}

/// Makes a directory that root restored usable for the server user, tablespaces and moved `pg_wal` included.
fn give_to_server_user(data: &Path) {
    let user = ServerUser::current();
    if !user.dropped {
        return;
    }
    let mut trees = vec![data.to_owned()];
    let links =
        fs::read_dir(data.join("pg_tblspc")).into_iter().flatten().flatten().map(|entry| entry.path());
    trees.extend(links.chain([data.join("pg_wal")]).filter(|path| path.is_symlink()));
    for tree in trees.iter().filter_map(|path| path.canonicalize().ok()) {
        user.own_tree(&tree);
        open_parents(&tree);
    }
}

/// Lets everyone pass through the closed directories above `path` that are ours to change.
fn open_parents(path: &Path) {
    for parent in path.ancestors().skip(1) {
        let Ok(metadata) = fs::metadata(parent) else { continue };
        let mode = metadata.permissions().mode();
        if mode & 0o001 == 0 && parent.starts_with(std::env::temp_dir()) {
            fs::set_permissions(parent, fs::Permissions::from_mode(mode | 0o011))
                .unwrap_or_else(|error| panic!("cannot open {}: {error}", parent.display()));
        } else {
            assert!(
                mode & 0o001 != 0,
                "the server user cannot pass {}: use testkit's Scratch",
                parent.display()
            );
        }
    }
}
