//! Load on a server, by `pgbench`.

use std::process::{Child, Command, Stdio};

use rustix::process::Signal;

use crate::cluster::Cluster;
use crate::launch::{clear_postgres_environment, send_signal};
use crate::server_install::client;

impl Cluster {
    /// Creates pgbench's tables: about 15 MB per unit of scale.
    ///
    /// # Panics
    /// When pgbench fails.
    pub fn pgbench_init(&self, scale: u32) {
        let output = self.pgbench(&["-i", "-q", "-s", &scale.to_string()]).output();
        let output = output.unwrap_or_else(|error| panic!("cannot run pgbench: {error}"));
        assert!(output.status.success(), "pgbench -i failed: {}", String::from_utf8_lossy(&output.stderr));
    }

    /// Runs pgbench's transactions with two clients in the background for so many seconds.
    #[must_use]
    pub fn pgbench_start(&self, seconds: u32) -> Pgbench {
        let mut command = self.pgbench(&["-n", "-c", "2", "-T", &seconds.to_string()]);
        let child = command.spawn().unwrap_or_else(|error| panic!("cannot run pgbench: {error}"));
        Pgbench { child: Some(child) }
    }

    fn pgbench(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(client("pgbench"));
        command.args(arguments).arg(self.conninfo());
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        clear_postgres_environment(&mut command);
        command
    }
}

/// A running pgbench; ended on drop.
#[derive(Debug)]
pub struct Pgbench {
    child: Option<Child>,
}

impl Pgbench {
    /// Waits for its end.
    ///
    /// # Panics
    /// When pgbench reports an error.
    pub fn wait(mut self) {
        if let Some(child) = self.child.take() {
            let output =
                child.wait_with_output().unwrap_or_else(|error| panic!("cannot wait for pgbench: {error}"));
            assert!(output.status.success(), "pgbench failed: {}", String::from_utf8_lossy(&output.stderr));
        }
    }

    /// Ends it now, in the middle of its transactions.
    pub fn stop(self) {}
}

impl Drop for Pgbench {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            send_signal(child.id(), Signal::INT);
            drop(child.wait());
        }
    }
}
