//! Starting and ending server processes.
//!
//! A server must not outlive the tests, however they end. `setpriv --pdeathsig QUIT` makes the kernel send
//! the postmaster an immediate shutdown when its parent *thread* ends, so all of them are started by one thread
//! that lives as long as the process.

use std::io;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::mpsc::{Sender, channel};

use rustix::process::{Pid, Signal, kill_process};

use crate::server_user::run_as_server_user;

type Request = (Command, Sender<io::Result<Child>>);

/// Spawns `command` from the thread that lives as long as this process.
fn spawn_from_lasting_thread(command: Command) -> io::Result<Child> {
    static SPAWNER: OnceLock<Sender<Request>> = OnceLock::new();
    let spawner = SPAWNER.get_or_init(|| {
        let (sender, receiver) = channel::<Request>();
        std::thread::Builder::new()
            .name("server-spawner".to_owned())
            .spawn(move || {
                while let Ok((mut command, reply)) = receiver.recv() {
                    drop(reply.send(command.spawn()));
                }
            })
            .expect("a thread can be started");
        sender
    });
    let (reply, answer) = channel();
    spawner.send((command, reply)).expect("the spawner thread lives");
    answer.recv().expect("the spawner thread answers")
}

/// Starts `program` with `arguments` as the server user, with standard output and error in `log`.
pub(crate) fn launch_server(program: &Path, arguments: &[String], log: &Path) -> io::Result<Child> {
    let output = std::fs::OpenOptions::new().create(true).append(true).open(log)?;
    let mut command = Command::new("setpriv");
    command
        .args(["--pdeathsig", "QUIT", "--"])
        .arg(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(output.try_clone()?)
        .stderr(output)
        // Its own group: a Ctrl-C in the terminal is for the test runner, which then ends the server.
        .process_group(0);
    clear_postgres_environment(&mut command);
    run_as_server_user(&mut command);
    spawn_from_lasting_thread(command)
}

/// Keeps the caller's PG* variables and locale away from a server or client program.
pub(crate) fn clear_postgres_environment(command: &mut Command) {
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("PG") && !name.to_string_lossy().starts_with("PGKEEP_") {
            command.env_remove(name);
        }
    }
    command.env("LC_ALL", "C").env("TZ", "UTC");
}

/// Sends a signal; a process that is gone already is no error.
pub(crate) fn send_signal(pid: u32, signal: Signal) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
        // ESRCH is the only failure possible for our own children, and it is fine.
        kill_process(pid, signal).unwrap_or(());
    }
}

/// The process and everything below it, parents first, as `/proc` shows it now.
pub(crate) fn process_tree(root: u32) -> Vec<u32> {
    let mut parents = Vec::new();
    for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        let Ok(stat) = std::fs::read_to_string(entry.path().join("stat")) else { continue };
        // The command name in parentheses may hold spaces; state and parent follow the last one.
        let parent =
            stat.rsplit(')').next().and_then(|rest| rest.split_whitespace().nth(1)?.parse::<u32>().ok());
        if let Some(parent) = parent {
            parents.push((pid, parent));
        }
    }
    let mut tree = vec![root];
    let mut next = 0;
    while next < tree.len() {
        let current = tree[next];
        tree.extend(parents.iter().filter(|(_, parent)| *parent == current).map(|(pid, _)| *pid));
        next += 1;
    }
    tree
}
