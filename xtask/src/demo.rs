//! `cargo xtask demo`: a table dropped by accident comes back.
//!
//! Every command is printed as a user would type it and is then run exactly so. Servers run as the unprivileged
//! server user when this runs as root, and are stopped however the demo ends.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use pgkeep_testkit::{Scratch, ServerUser, pgkeep_binary, project_root};

use crate::shell::Shell;
use crate::{Failure, servers};

/// Rows of the table that gets dropped.
const ROWS: u32 = 50_000;

/// How big the show is.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Size of the workload's tables, in pgbench's unit of 15 MB
    #[arg(long, default_value_t = 5)]
    scale: u32,
    /// Folder with PostgreSQL's programs, instead of one that is found or installed
    #[arg(long)]
    bin: Option<PathBuf>,
    /// Leave the directory with repository and clusters in place
    #[arg(long)]
    keep: bool,
}

/// A server to be stopped when the demo ends, however it ends.
struct Running<'a> {
    shell: &'a Shell,
    data: &'a str,
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        // Stopped already is as good.
        drop(self.shell.quietly("pg_ctl", &["stop", "-D", self.data, "-m", "immediate", "-w"]));
    }
}

/// Runs the demo.
pub(crate) fn run(options: &Options) -> Result<(), Failure> {
    let bin = match &options.bin {
        Some(bin) => bin.clone(),
        None => find_postgres().map_or_else(install_postgres, Ok)?,
    };
    build()?;
    let pgkeep = pgkeep_binary();
    let scratch = Scratch::new();
    let folder = scratch.path().to_owned();
    let result = play(options, &bin, &pgkeep, &scratch);
    if options.keep {
        println!("\nkept: {}", folder.display());
        std::mem::forget(scratch);
    } else {
        drop(scratch);
        println!("\ncleaned up: servers stopped, {} removed", folder.display());
    }
    result
}

fn play(options: &Options, bin: &Path, pgkeep: &Path, scratch: &Scratch) -> Result<(), Failure> {
    let user = ServerUser::current();
    if user.dropped {
        title("A server refuses to run as root: everything below runs as `nobody`, in");
    } else {
        title("Everything below happens in");
    }
    println!("{}", scratch.path().display());
    let pgkeep_folder = pgkeep.parent().ok_or("the program has no folder")?;
    let mut shell = Shell::new(&[pgkeep_folder, bin])?;
    println!("$ export PATH={}:{}:$PATH", pgkeep_folder.display(), bin.display());
    let place = |name: &str| scratch.path().join(name).display().to_string();
    let (data, restored, repository) = (place("data"), place("restored"), place("repository"));
    let (log, restored_log) = (place("log"), place("restored.log"));
    let sockets = scratch.path().display().to_string();
    shell.export("PGHOST", &sockets);
    shell.export("PGUSER", "postgres");
    shell.export("PGDATABASE", "postgres");
    let shell = &shell;

    title("A cluster like yours");
    shell.just("initdb", &["-D", &data, "-U", "postgres", "-A", "trust", "--data-checksums", "--no-sync"])?;
    let server_options = format!("-k {sockets} -c listen_addresses=''");
    let start = |data: &str, log: &str, server_options: &str| {
        shell.run("pg_ctl", &["start", "-w", "-s", "-D", data, "-l", log, "-o", server_options])
    };
    let server = Running { shell, data: &data };
    start(&data, &log, &server_options)?;

    title("A repository, and archiving switched on (this changes archive_mode, so one restart)");
    shell.run("pgkeep", &["init", "--repo", &repository, "--apply"])?;
    shell.run("pg_ctl", &["restart", "-w", "-s", "-D", &data, "-l", &log, "-o", &server_options])?;

    title("A workload, and a backup while it runs");
    let scale = options.scale.to_string();
    shell.just("pgbench", &["-i", "-q", "-s", &scale])?;
    let mut workload = shell.background("pgbench", &["-n", "-c", "2", "-T", "10"])?;
    let backup = shell.run("pgkeep", &["backup", "--repo", &repository]);
    title("More work after the backup");
    let orders = format!(
        "CREATE TABLE orders AS SELECT id, md5(id::text) AS note FROM generate_series(1, {ROWS}) AS id"
    );
    let created = backup.and_then(|()| shell.run("psql", &["-X", "-c", &orders]));
    let ended = workload.wait();
    created?;
    if !ended?.success() {
        return Err("pgbench failed".into());
    }
    let transactions = shell.ask("psql", &["-XAtc", "SELECT count(*) FROM pgbench_history"])?;

    title("The accident");
    let moment = shell.ask("psql", &["-XAtc", "SELECT clock_timestamp()"])?;
    // A commit's time may not be the very moment asked for.
    std::thread::sleep(Duration::from_millis(200));
    shell.run("psql", &["-X", "-c", "DROP TABLE orders"])?;
    shell.run(
        "psql",
        &["-X", "-c", "INSERT INTO pgbench_history SELECT 0, 0, 0, 0, now() FROM generate_series(1, 1000)"],
    )?;

    title("Is everything in the repository? `check` also sends the current WAL there");
    shell.run("pgkeep", &["check", "--repo", &repository])?;
    shell.run("pgkeep", &["list", "--repo", &repository])?;

    title("Back to just before it, in a second directory");
    let arguments =
        ["restore", "--repo", &repository, "--target-time", &moment, "--target-action", "promote"];
    shell.run("pgkeep", &[&arguments[..], &["--set", "archive_mode=off", &restored]].concat())?;
    let second_options = format!("-p 5433 {server_options}");
    let second = Running { shell, data: &restored };
    start(&restored, &restored_log, &second_options).map_err(|failure| with_log(failure, &restored_log))?;
    wait_for_recovery(shell)?;

    title("The table is back");
    let rows = shell.ask("psql", &["-p", "5433", "-XAtc", "SELECT count(*) FROM orders"])?;
    let history = shell.ask("psql", &["-p", "5433", "-XAtc", "SELECT count(*) FROM pgbench_history"])?;
    drop(second);
    drop(server);
    if rows != ROWS.to_string() || history != transactions {
        return Err(format!("{ROWS} rows and {transactions} transactions were expected").into());
    }
    println!(
        "\nThe dropped table has its {ROWS} rows again, and all {transactions} transactions from before the accident"
    );
    println!("are there, those made after the backup too.");
    Ok(())
}

fn title(text: &str) {
    println!("\n# {text}");
}

fn wait_for_recovery(shell: &Shell) -> Result<(), Failure> {
    for _ in 0..600 {
        if shell
            .quietly("psql", &["-p", "5433", "-XAtc", "SELECT pg_is_in_recovery()"])
            .is_ok_and(|answer| answer == "f")
        {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    Err("the restored server is still in recovery after a minute".into())
}

fn with_log(failure: Failure, log: &str) -> Failure {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    format!("{failure}\n--- {log} ---\n{text}").into()
}

/// An installation of this machine with everything the demo types, newest first.
fn find_postgres() -> Option<PathBuf> {
    let packaged =
        [18, 17, 16, 15, 14].map(|major| PathBuf::from(format!("/usr/lib/postgresql/{major}/bin")));
    let path = std::env::var_os("PATH").unwrap_or_default();
    let complete = |folder: &PathBuf| {
        ["initdb", "pg_ctl", "postgres", "psql", "pgbench"]
            .iter()
            .all(|program| folder.join(program).is_file())
    };
    packaged.into_iter().chain(std::env::split_paths(&path)).find(complete)
}

fn install_postgres() -> Result<PathBuf, Failure> {
    println!("no PostgreSQL here: installing one below the project's cache folder");
    let newest = servers::ensure()?.into_iter().max_by_key(|installation| installation.major);
    Ok(newest.ok_or("no server was installed")?.bin)
}

/// Builds the program beside this one, unless `PGKEEP_BINARY` names one to show.
fn build() -> Result<(), Failure> {
    if std::env::var_os("PGKEEP_BINARY").is_some() {
        return Ok(());
    }
    println!("building pgkeep …");
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(["build", "--quiet", "--package", "pgkeep"]).current_dir(project_root());
    if command.status()?.success() { Ok(()) } else { Err("`cargo build -p pgkeep` failed".into()) }
}
