//! Standbys and promotion: streaming copies of a running cluster.

use std::process::Command;
use std::time::Duration;

use crate::cluster::Cluster;
use crate::cluster_builder::append;
use crate::launch::clear_postgres_environment;
use crate::scratch::Scratch;
use crate::server_install::client;
use crate::server_user::run_as_server_user;
use crate::wait::wait_until;

/// How long replay or promotion may take.
const LIMIT: Duration = Duration::from_secs(60);

impl Cluster {
    /// A streaming standby of `primary`, through a slot, made with `pg_basebackup` of the newest major (which
    /// serves older servers too). Tablespaces are copied beside it.
    ///
    /// # Panics
    /// When the copy or the start fails.
    #[must_use]
    pub fn standby_of(primary: &Cluster) -> Cluster {
        Cluster::standby_with(primary, &[])
    }

    /// A standby with settings of its own.
    ///
    /// # Panics
    /// When the copy or the start fails.
    #[must_use]
    pub fn standby_with(primary: &Cluster, settings: &[(&str, &str)]) -> Cluster {
        let scratch = Scratch::new();
        let data = scratch.path().join("data");
        let slot = format!(
            "standby_{}",
            scratch.path().display().to_string().replace(|c: char| !c.is_ascii_digit(), "")
        );
        let mut command = Command::new(client("pg_basebackup"));
        command.args([
            "-d",
            &primary.conninfo(),
            "-c",
            "fast",
            "-X",
            "stream",
            "--no-sync",
            "-C",
            "-S",
            &slot,
        ]);
        command.arg("-D").arg(&data);
        let locations = primary.sql(
            "SELECT pg_tablespace_location(oid) FROM pg_tablespace WHERE spcname NOT IN ('pg_default', 'pg_global')",
        );
        for (number, location) in locations.lines().enumerate() {
            let target = scratch.path().join(format!("tblspc-{number}"));
            command.arg("-T").arg(format!("{location}={}", target.display()));
        }
        clear_postgres_environment(&mut command);
        run_as_server_user(&mut command);
        let output = command.output().unwrap_or_else(|error| panic!("cannot run pg_basebackup: {error}"));
        assert!(output.status.success(), "pg_basebackup failed: {}", String::from_utf8_lossy(&output.stderr));
        // Not `-R`: a newer pg_basebackup writes connection options that older servers do not know.
        let signal = data.join("standby.signal");
        std::fs::write(&signal, "").unwrap_or_else(|error| panic!("{}: {error}", signal.display()));
        append(
            &data.join("postgresql.auto.conf"),
            &format!("primary_conninfo = '{}'\nprimary_slot_name = '{slot}'\n", primary.conninfo()),
        );
        let overrides =
            settings.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        Cluster::launch(primary.installation.clone(), scratch, data, false, overrides)
            .unwrap_or_else(|error| panic!("standby of PostgreSQL {}: {error}", primary.major()))
    }

    /// Waits until this standby has replayed what `primary` has written so far.
    ///
    /// # Panics
    /// When it does not get there.
    pub fn wait_for_replay_of(&self, primary: &Cluster) {
        let position = primary.current_lsn();
        wait_until(&format!("replay of {position}"), LIMIT, || {
            self.sql(&format!("SELECT coalesce(pg_last_wal_replay_lsn() >= '{position}', false)")) == "t"
        });
    }

    /// Ends recovery and waits until the server takes writes on its new timeline.
    ///
    /// # Panics
    /// When it does not get there.
    pub fn promote(&self) {
        self.sql("SELECT pg_promote(true, 60)");
        self.wait_for_writes();
    }

    /// Waits until recovery is over.
    ///
    /// # Panics
    /// When it does not end, or the server does.
    pub fn wait_for_writes(&self) {
        wait_until("the end of recovery", LIMIT, || self.sql("SELECT pg_is_in_recovery()") == "f");
    }
}
