//! `pgkeep wal receive` as a process of the server's user, beside the clusters of a site.
#![allow(dead_code, clippy::unwrap_used, reason = "each test binary uses its own part; helpers fail loudly")]

use std::path::PathBuf;
use std::process::{Child, Output, Stdio};

use pgkeep_testkit::{Cluster, wait_until};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::common::{LIMIT, Site, said};

/// A receiver that runs.
pub struct Receiver {
    child: Option<Child>,
}

/// Where a site's receiver keeps what is not stored yet.
pub fn spool(site: &Site) -> PathBuf {
    site.scratch.path().join("repo").with_file_name("receive-spool")
}

impl Receiver {
    pub fn start(site: &Site, conninfo: &str, arguments: &[&str]) -> Receiver {
        let spool = spool(site);
        if !spool.exists() {
            drop(site.scratch.create_dir("receive-spool", 0o700));
        }
        let mut all = vec!["wal", "receive", "--json", "-d", conninfo, "--create-slot"];
        let spool = spool.display().to_string();
        all.extend(["--spool", &spool]);
        all.extend(arguments);
        let mut command = site.command(&all);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        Receiver { child: Some(command.spawn().unwrap()) }
    }

    /// SIGKILL.
    pub fn kill(mut self) {
        let mut child = self.child.take().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// SIGINT; its report and exit code.
    #[track_caller]
    pub fn stop(mut self) -> (Value, Option<i32>) {
        let child = self.child.take().unwrap();
        kill_process(Pid::from_child(&child), Signal::INT).unwrap();
        let output = child.wait_with_output().unwrap();
        (report_of(&output), output.status.code())
    }

    /// Waits for its end.
    #[track_caller]
    pub fn wait(mut self) -> Output {
        self.child.take().unwrap().wait_with_output().unwrap()
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            drop(child.kill());
            drop(child.wait());
        }
    }
}

#[track_caller]
pub fn report_of(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {}", said(output)))
}

/// Stores what the spool holds, without a server.
#[track_caller]
pub fn store_spool(site: &Site) -> Value {
    site.run(&["wal", "receive", "--spool-only", "--spool", &spool(site).display().to_string()])
}

/// Waits until the server's slot stands at what is written now.
#[track_caller]
pub fn wait_for_flush(cluster: &Cluster) {
    let position = cluster.current_lsn();
    wait_until(&format!("the receiver at {position}"), LIMIT, || {
        let sql =
            format!("SELECT coalesce(bool_or(flush_lsn >= '{position}'), false) FROM pg_stat_replication");
        cluster.sql(&sql) == "t"
    });
}

/// The end of the last recoverable window.
pub fn window_end(site: &Site) -> String {
    let list = site.run(&["list"]);
    list["windows"].as_array().unwrap().last().unwrap()["to_lsn"].as_str().unwrap().to_owned()
}
