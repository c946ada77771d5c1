//! `check`: runs the set-up end to end and says what is wrong before the disaster does.
//!
//! Each check is a finding with a hint; what depends on a failed one is not tried and says so. It changes little: an
//! object is written and taken away again, and the server writes a restore point and switches to a new WAL segment,
//! whose arrival in the repository proves the whole way from `archive_command` to the disk. Bytes of backups and WAL
//! are not read.

mod receivers;

use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};
use pgkeep_format::{Lsn, TimelineId, WalFileName, WalSegmentName};
use pgkeep_repo::Stanza;
use pgkeep_wire::Connection;

use crate::init::ServerIdentity;
use crate::list::{ListReport, list_stanza};
use crate::server_settings::{self, ServerSettings};
use crate::wal::push::newest_record;
use crate::{Cancel, ConnectionRequest, Error, Event, Location, Observer, Result, incremental_sample};

/// Clocks that differ by more than this make time targets miss.
const CLOCK_TOLERANCE: SignedDuration = SignedDuration::from_secs(5);

/// Between two looks for the forced segment.
const POLL: Duration = Duration::from_millis(200);

/// So many failures of the archiver since the switch are one round of retries.
const FAILURES_OF_ONE_ROUND: i64 = 3;

/// What was asked.
#[derive(Clone, Debug)]
pub struct CheckRequest {
    /// Where.
    pub location: Location,
    /// The server.
    pub connection: ConnectionRequest,
    /// The `archive_command` that feeds this stanza.
    pub archive_command: String,
    /// Seconds to wait for the forced segment to arrive.
    pub archive_timeout_seconds: u64,
    /// Percent of the blocks of relations that are compared with the newest backup, where WAL says that they did not
    /// change; none are unless asked for.
    pub incremental_sample: Option<f64>,
}

/// How one check came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// As it should be.
    Ok,
    /// Works, but will not always.
    Warning,
    /// Does not work.
    Failed,
    /// Could not be tried, since something before it failed.
    NotTried,
}

/// One check.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Finding {
    /// Its short, stable name: `repository`, `permissions`, `space`, `connection`, `replication`, `settings`, `clock`,
    /// `archive`, `conflicts`, `backups`, `gaps`, `incremental_sample`.
    pub check: String,
    /// How it came out.
    pub outcome: Outcome,
    /// What was found.
    pub text: String,
    /// What to do, unless it is as it should be.
    pub hint: Option<String>,
}

/// How the set-up is.
#[derive(Clone, Debug, serde::Serialize)]
pub struct CheckReport {
    /// In the order in which they ran.
    pub findings: Vec<Finding>,
    /// Whether none failed.
    pub ok: bool,
}

/// Runs every check that can be run. Failing checks are findings; an error means that the request itself is wrong.
pub fn check(request: &CheckRequest, observer: &dyn Observer) -> Result<CheckReport> {
    let mut check = Check { request, observer, findings: Vec::new() };
    let stanza = check.repository();
    if let Some(stanza) = &stanza {
        check.permissions(stanza);
        check.space(stanza);
    } else {
        check.not_tried(&["permissions", "space"], "there is no repository to look at");
    }
    match check.connection(stanza.as_ref()) {
        Some(mut connection) => {
            check.replication();
            let is_received = check.receivers(&mut connection);
            let settings = check.settings(&mut connection, is_received);
            check.clock(&mut connection);
            match (&stanza, settings) {
                (Some(stanza), Some(settings)) => check.archive(stanza, &mut connection, &settings),
                _ => check.not_tried(&["archive"], "something before it failed"),
            }
            if let (Some(stanza), Some(percent)) = (&stanza, request.incremental_sample) {
                check.incremental_sample(stanza, &mut connection, percent);
            }
        }
        None => check.not_tried(
            &["replication", "receivers", "settings", "clock", "archive"],
            "there is no connection",
        ),
    }
    match &stanza {
        Some(stanza) => check.contents(stanza),
        None => check.not_tried(&["conflicts", "backups", "gaps"], "there is no repository to look at"),
    }
    let ok = !check.findings.iter().any(|finding| finding.outcome == Outcome::Failed);
    Ok(CheckReport { findings: check.findings, ok })
}

struct Check<'a> {
    request: &'a CheckRequest,
    observer: &'a dyn Observer,
    findings: Vec<Finding>,
}

impl Check<'_> {
    fn ok(&mut self, check: &str, text: impl Into<String>) {
        self.add(check, Outcome::Ok, text, None);
    }

    fn warn(&mut self, check: &str, text: impl Into<String>, hint: impl Into<String>) {
        self.add(check, Outcome::Warning, text, Some(hint.into()));
    }

    fn fail(&mut self, check: &str, text: impl Into<String>, hint: impl Into<String>) {
        self.add(check, Outcome::Failed, text, Some(hint.into()));
    }

    fn fail_with(&mut self, check: &str, error: &Error) {
        self.add(check, Outcome::Failed, error.to_string(), Some(error.hints.join("; ")));
    }

    fn not_tried(&mut self, checks: &[&str], why: &str) {
        for check in checks {
            self.add(
                check,
                Outcome::NotTried,
                why,
                Some("correct what failed above, then check again".to_owned()),
            );
        }
    }

    fn add(&mut self, check: &str, outcome: Outcome, text: impl Into<String>, hint: Option<String>) {
        self.findings.push(Finding { check: check.to_owned(), outcome, text: text.into(), hint });
    }

    fn repository(&mut self) -> Option<Stanza> {
        match self.request.location.open_stanza() {
            Ok(stanza) => {
                let text = format!("`{}` in `{}`", stanza.name(), self.request.location.repository);
                self.ok("repository", text);
                Some(stanza)
            }
            Err(error) => {
                self.fail_with("repository", &error);
                None
            }
        }
    }

    /// Writes an object, as every backup does, and takes it away again.
    fn permissions(&mut self, stanza: &Stanza) {
        let probe = || -> Result<()> {
            let name = stanza.put_report(Timestamp::now(), "probe", b"{}\n".to_vec())?;
            let key = format!("{}/report/{}", stanza.name(), name.as_str());
            Ok(stanza.repository().store().delete(&key)?)
        };
        match probe() {
            Ok(()) => self.ok("permissions", "this user can write to the repository"),
            Err(error) => self.fail_with("permissions", &error),
        }
    }

    fn space(&mut self, stanza: &Stanza) {
        let Some(root) = stanza.repository().store().local_root() else { return };
        match rustix::fs::statvfs(root) {
            Ok(stat) => {
                let free = stat.f_bavail.saturating_mul(stat.f_frsize);
                let needed = stanza
                    .backups()
                    .ok()
                    .and_then(|backups| backups.into_iter().rev().find_map(|backup| backup.header.ok()))
                    .map_or(0, |header| header.totals.stored_bytes);
                let text = format!("{} MiB free for the repository", free >> 20);
                let hint = "free space, or move the repository to a larger disk before the next backup";
                match free {
                    0 => self.fail("space", "the disk of the repository is full", hint),
                    _ if free < needed => {
                        self.warn(
                            "space",
                            format!("{text}, less than the newest backup took ({} MiB)", needed >> 20),
                            hint,
                        );
                    }
                    _ => self.ok("space", text),
                }
            }
            Err(error) => {
                let text = format!("cannot ask for the free space of `{}`: {error}", root.display());
                self.warn("space", text, "look at the disk beneath the repository");
            }
        }
    }

    fn connection(&mut self, stanza: Option<&Stanza>) -> Option<Connection> {
        let connected = self.request.connection.connect().and_then(|mut connection| {
            let identity = ServerIdentity::read(&mut connection)?;
            Ok((connection, identity))
        });
        let (connection, identity) = match connected {
            Ok(connected) => connected,
            Err(error) => {
                self.fail_with("connection", &error);
                return None;
            }
        };
        let expected =
            stanza.and_then(|stanza| newest_record(stanza).ok()).map(|record| record.system_identifier);
        if expected.is_some_and(|expected| expected != identity.system_identifier) {
            let text = format!(
                "the server is another cluster (system identifier {}) than the stanza's ({})",
                identity.system_identifier,
                expected.unwrap_or_default()
            );
            self.fail("connection", text, "correct the connection (`-d`, PGHOST, PGPORT) or `--stanza`");
            return None;
        }
        let text = format!(
            "PostgreSQL {}, system identifier {}",
            connection.parameter("server_version").unwrap_or("(unknown version)"),
            identity.system_identifier
        );
        self.ok("connection", text);
        Some(connection)
    }

    fn replication(&mut self) {
        let identified =
            self.request.connection.connect_replication().and_then(|mut c| Ok(c.identify_system()?));
        match identified {
            Ok(_) => self.ok("replication", "WAL and base backups can be streamed"),
            Err(error) => {
                let text = format!(
                    "no replication connection, so no `--source stream` and no `--wal include`: {error}"
                );
                self.warn("replication", text, error.hints.join("; "));
            }
        }
    }

    /// What the server's settings are, where its WAL comes here: by its archiver, or because it `is_received`.
    fn settings(&mut self, connection: &mut Connection, is_received: bool) -> Option<ServerSettings> {
        let settings = match ServerSettings::read(connection) {
            Ok(settings) => settings,
            Err(error) => {
                self.fail_with("settings", &error);
                return None;
            }
        };
        let mut found = server_settings::findings(&settings, &self.request.archive_command);
        if is_received {
            found.retain(|finding| !finding.name.starts_with("archive_"));
        }
        let mut can_archive = true;
        for finding in &found {
            let is_ours = finding.name == "archive_command"
                && server_settings::is_ours(&finding.current, &self.request.archive_command);
            let text = match &finding.note {
                Some(note) => format!("`{}` is `{}`: {note}", finding.name, finding.current),
                None => format!("`{}` is `{}`", finding.name, finding.current),
            };
            let then = if finding.needs_restart { "restart the server" } else { "reload it" };
            let hint =
                format!("`{}` in postgresql.conf, then {then}; `pgkeep init --apply` sets it", finding.line);
            if is_ours
                || finding.name == "max_wal_senders"
                || finding.current.is_empty() && !finding.can_be_set
            {
                self.warn("settings", text, hint);
            } else {
                can_archive = false;
                self.fail("settings", text, hint);
            }
        }
        if found.is_empty() {
            let how = if settings.archives() || !is_received { "archives into" } else { "is received into" };
            self.ok("settings", format!("the server {how} this stanza"));
        }
        can_archive.then_some(settings)
    }

    fn clock(&mut self, connection: &mut Connection) {
        let before = Timestamp::now();
        let asked = connection
            .query("SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint AS now")
            .and_then(|rows| rows.one()?.parse::<i64>("now"));
        let after = Timestamp::now();
        let server = match asked.map(Timestamp::from_microsecond) {
            Ok(Ok(server)) => server,
            Ok(Err(error)) => return self.warn("clock", error.to_string(), "look at the server's clock"),
            Err(error) => return self.fail_with("clock", &error.into()),
        };
        // The server looked at its clock somewhere between the two.
        let difference = if server < before {
            before.duration_since(server)
        } else if server > after {
            server.duration_since(after)
        } else {
            SignedDuration::ZERO
        };
        if difference > CLOCK_TOLERANCE {
            let text =
                format!("the server's clock differs from this machine's by {} s", difference.as_secs());
            self.warn("clock", text, "let NTP or chrony set both clocks: `--target-time` means the server's");
        } else {
            self.ok("clock", "the server's clock and this machine's agree");
        }
    }

    /// Compares blocks that WAL says did not change with the newest backup.
    fn incremental_sample(&mut self, stanza: &Stanza, connection: &mut Connection, percent: f64) {
        const NAME: &str = "incremental_sample";
        match incremental_sample::sample(stanza, connection, percent, &Cancel::default()) {
            Ok(Ok(report)) if report.unexplained == 0 => {
                let text = format!(
                    "{} blocks agree with backup {}, {} more were changed and WAL names them",
                    report.same, report.backup, report.explained
                );
                self.ok(NAME, text);
            }
            Ok(Ok(report)) => {
                let blocks = report.unexplained_blocks.iter().take(5);
                let named: Vec<String> =
                    blocks.map(|found| format!("`{}` block {}", found.path, found.block)).collect();
                self.fail(
                    NAME,
                    format!(
                        "{} of {} blocks differ from backup {} and no WAL names them: {}",
                        report.unexplained,
                        report.blocks,
                        report.backup,
                        named.join(", ")
                    ),
                    "the next backup compares every block: take it now; then look for what writes to the data \
                     directory beside the server, and at its disk",
                );
            }
            Ok(Err(why)) => self.warn(
                NAME,
                format!("no sample could be taken: {why}"),
                "run it on the server's machine as the server's user, after a backup",
            ),
            Err(error) => self.fail_with(NAME, &error),
        }
    }

    /// Forces a segment switch and waits until the segment is in the repository: the whole way that WAL takes.
    fn archive(&mut self, stanza: &Stanza, connection: &mut Connection, settings: &ServerSettings) {
        match self.try_archive(stanza, connection, settings) {
            Ok(()) => {}
            Err(error) => self.fail_with("archive", &error),
        }
    }

    fn try_archive(
        &mut self,
        stanza: &Stanza,
        connection: &mut Connection,
        settings: &ServerSettings,
    ) -> Result<()> {
        let archive = stanza.wal(newest_record(stanza)?);
        if connection.query("SELECT pg_is_in_recovery() AS standby")?.one()?.boolean("standby")? {
            self.add(
                "archive",
                Outcome::NotTried,
                "this server is a standby, which cannot switch WAL segments",
                Some("run `pgkeep check` against the primary too".to_owned()),
            );
            return Ok(());
        }
        let before = ArchiverState::read(connection)?;
        // Something to switch away from: on an idle server the switch would do nothing.
        connection.execute("SELECT pg_create_restore_point('pgkeep check')")?;
        let rows =
            connection.query("SELECT lsn, pg_walfile_name(lsn) AS name FROM pg_switch_wal() AS lsn")?;
        let row = rows.one()?;
        let lsn: Lsn = row.parse("lsn")?;
        let timeline = row
            .text("name")?
            .get(..8)
            .and_then(|digits| TimelineId::new(u32::from_str_radix(digits, 16).ok()?))
            .unwrap_or(TimelineId::FIRST);
        let size = archive.segment_size();
        let segment = WalSegmentName { timeline, number: size.segment_before(lsn) };
        let file_name = segment.file_name(size);
        self.observer
            .event(Event::Note { text: format!("waiting for WAL segment {file_name} in the repository") });

        let started = Instant::now();
        let limit = Duration::from_secs(self.request.archive_timeout_seconds);
        loop {
            if archive.header(WalFileName::Segment(segment))?.is_some() {
                break;
            }
            let now = ArchiverState::read(connection)?;
            let failed = now.failed.saturating_sub(before.failed);
            let is_given_up = failed >= FAILURES_OF_ONE_ROUND;
            if is_given_up || started.elapsed() >= limit {
                let text = format!(
                    "WAL segment {file_name} did not arrive within {} s; {}",
                    started.elapsed().as_secs(),
                    now.describe()
                );
                let hint = "the server's log has what the `archive_command` said; run that command by hand, as the server's user, in the data directory";
                self.fail("archive", text, hint);
                return Ok(());
            }
            std::thread::sleep(POLL);
        }
        let seconds = started.elapsed().as_secs_f64();
        let now = ArchiverState::read(connection)?;
        let text = format!("WAL segment {file_name} arrived within {seconds:.1} s");
        match now.waiting {
            Some(waiting) if waiting > 10 => self.warn(
                "archive",
                format!("{text}, but {waiting} more wait to be archived"),
                "the server writes WAL faster than it is archived: see `archive.compress`, and the disk beneath the repository",
            ),
            _ if settings.value("archive_timeout") == Some("0") => {
                self.ok("archive", format!("{text}; `archive_timeout` is 0, so a quiet server keeps its newest changes to itself until a segment is full"));
            }
            _ => self.ok("archive", text),
        }
        Ok(())
    }

    fn contents(&mut self, stanza: &Stanza) {
        self.conflicts(stanza);
        match list_stanza(stanza) {
            Ok(listed) => {
                self.backups(&listed);
                self.gaps(&listed);
            }
            Err(error) => {
                self.fail_with("backups", &error);
                self.not_tried(&["gaps"], "the stanza could not be listed");
            }
        }
    }

    fn conflicts(&mut self, stanza: &Stanza) {
        let find = || -> Result<Vec<String>> {
            let mut found = Vec::new();
            for record in stanza.records() {
                let archive = stanza.wal(record);
                for timeline in archive.timelines()? {
                    found.extend(archive.conflicts(timeline)?);
                }
            }
            Ok(found)
        };
        match find() {
            Ok(found) => match found.first() {
                None => self.ok("conflicts", "no WAL file came twice with different contents"),
                Some(first) => self.warn(
                    "conflicts",
                    format!("{} WAL files came with other contents than the stored ones, the first is `{first}`", found.len()),
                    "two servers archive one timeline: give the one that should not (an old primary, a restored copy) `archive_mode = off` or a stanza of its own",
                ),
            },
            Err(error) => self.fail_with("conflicts", &error),
        }
    }

    fn backups(&mut self, listed: &ListReport) {
        let stanza = &listed.stanza;
        let mut bad = listed.backups.iter().filter(|backup| !backup.restorable).peekable();
        if bad.peek().is_some() {
            for backup in bad {
                self.fail(
                    "backups",
                    format!(
                        "`{}` cannot be restored: {}",
                        backup.id,
                        backup.problem.as_deref().unwrap_or("unknown")
                    ),
                    format!("take a new backup: `pgkeep backup --stanza {stanza}`"),
                );
            }
            return;
        }
        match listed.backups.last() {
            Some(newest) => {
                let count = listed.backups.len();
                let text = format!(
                    "{count} backup{}, the newest is `{}`",
                    if count == 1 { "" } else { "s" },
                    newest.id
                );
                self.ok("backups", text);
            }
            None => self.warn(
                "backups",
                "there is no backup yet",
                format!("`pgkeep backup --stanza {stanza}` takes one"),
            ),
        }
    }

    fn gaps(&mut self, listed: &ListReport) {
        let newest_start = listed.backups.iter().map(|backup| backup.start_lsn).max().unwrap_or_default();
        let mut found = false;
        for gap in listed.gaps.iter().filter(|gap| gap.harmful) {
            found = true;
            let text = format!(
                "{} WAL segments are missing on timeline {}, {} to {}",
                gap.segments, gap.timeline, gap.first_missing, gap.last_missing
            );
            let hint = format!(
                "where the files still exist, `pgkeep wal push FILE` adds them; otherwise nothing between {} and the next backup can be recovered",
                gap.from_lsn
            );
            if gap.to_lsn > newest_start {
                self.fail(
                    "gaps",
                    text,
                    format!("{hint}: take one now (`pgkeep backup --stanza {}`)", listed.stanza),
                );
            } else {
                self.warn("gaps", text, hint);
            }
        }
        if !found {
            let text = match listed.gaps.len() {
                0 => "the archived WAL has no gap".to_owned(),
                count => format!(
                    "{count} gaps in the archived WAL, none of which keeps anything from being recovered"
                ),
            };
            self.ok("gaps", text);
        }
    }
}

/// What the server says of its archiver.
struct ArchiverState {
    failed: i64,
    last_failed: Option<String>,
    waiting: Option<u64>,
}

impl ArchiverState {
    fn read(connection: &mut Connection) -> Result<ArchiverState> {
        let rows =
            connection.query("SELECT failed_count, last_failed_wal FROM pg_catalog.pg_stat_archiver")?;
        let row = rows.one()?;
        let (failed, last_failed) = (row.parse("failed_count")?, row.optional("last_failed_wal")?);
        let last_failed = last_failed.map(str::to_owned);
        // Not everybody may look into the directory.
        let waiting = connection
            .query("SELECT count(*) AS waiting FROM pg_catalog.pg_ls_archive_statusdir() WHERE name LIKE '%.ready'")
            .and_then(|rows| rows.one()?.parse("waiting"))
            .ok();
        Ok(ArchiverState { failed, last_failed, waiting })
    }

    fn describe(&self) -> String {
        let waiting =
            self.waiting.map_or_else(String::new, |count| format!("{count} segments wait to be archived, "));
        match &self.last_failed {
            Some(name) if self.failed > 0 => {
                format!("{waiting}the archiver failed {} times so far, last with {name}", self.failed)
            }
            _ => format!("{waiting}the archiver reports no failure"),
        }
    }
}
