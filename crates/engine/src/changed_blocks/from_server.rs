//! The producer that lets the server do it: from 17 on, BASE_BACKUP can send only what changed since a backup whose manifest
//! was uploaded before (`backup/basebackup_incremental.c`). The manifest is made up from what the repository knows, so any
//! backup can be the parent.
//!
//! In order: [`check_server`] before the backup, to decide; [`upload_parent`] and BASE_BACKUP over one replication session;
//! then [`limit_blocks`] over an SQL session, now that the start is known.
//!
//! A file that comes in part is put together from the blocks that were sent and the parent's. A block that was not sent is
//! the parent's **only** below the parent's length and below the limit, the shortest length that the file had since
//! ([`LimitBlocks::parent_blocks`]); everything else is zeros. The server does not say the limit in what it sends, hence the
//! second look. See `docs/design/0009-changed-blocks-from-the-server.md`.

use aws_lc_rs::digest::{Context, SHA256};
use pgkeep_format::pg_manifest::{ManifestWalRange, Sha256, SyntheticManifest, has_stale_vm_fault};
use pgkeep_format::wal::BlockSummary;
use pgkeep_format::{Fork, Lsn, RelFileLocator, RelationFile, TimelineId};
use pgkeep_repo::ManifestHeader;
use pgkeep_wire::{Connection, WireError};

use super::NotUsable;
use crate::error::{Error, Result};
use crate::history::{PathStep, TimelinePath};

/// The first version that can.
const FIRST_MAJOR: u32 = 17;
/// The manifest is sent in pieces of about this size.
const PIECE: usize = 256 << 10;
/// SQLSTATE of a missing privilege.
const INSUFFICIENT_PRIVILEGE: &str = "42501";

/// The shortest lengths that relations had between the start of the parent and the start of the new backup, by the server's own
/// summaries: the very ones from which it decides what it sends.
#[derive(Clone, Debug, Default)]
pub struct LimitBlocks {
    limits: BlockSummary,
}

impl LimitBlocks {
    /// The limits that a summary of the same range has.
    #[cfg(test)]
    pub(crate) fn of(limits: BlockSummary) -> LimitBlocks {
        LimitBlocks { limits }
    }

    /// How many of the file's first blocks are the parent's unless they were sent; the parent has `parent_blocks` of them.
    /// Blocks from there on that were not sent are zeros.
    #[must_use]
    pub fn parent_blocks(
        &self,
        file: &RelationFile,
        parent_blocks: u32,
        relation_segment_blocks: u32,
    ) -> u32 {
        let locator = file.locator;
        if self.limits.is_full_database(locator.tablespace, locator.database) {
            return 0;
        }
        let limit = self.limits.changes_of(locator, file.fork).and_then(|changes| changes.limit);
        match (limit, file.first_block(relation_segment_blocks)) {
            (_, None) => 0,
            (None, _) => parent_blocks,
            (Some(limit), Some(first)) => parent_blocks.min(limit.saturating_sub(first)),
        }
    }

    /// How many forks have a limit.
    #[must_use]
    pub fn len(&self) -> usize {
        self.limits.forks().count()
    }

    /// Whether nothing was created, truncated or dropped.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.limits.is_empty()
    }

    fn add(&mut self, [tablespace, database, number, fork, limit]: [u32; 5]) {
        // A database that was created or dropped is kept as relation 0 of it.
        if number == 0 {
            self.limits.mark_full_database(tablespace, database);
        } else if let Some(fork) = Fork::from_number(fork) {
            self.limits.set_limit(RelFileLocator { tablespace, database, number }, fork, limit);
        }
    }
}

/// Whether the server can send what changed since that parent, as far as can be seen before a backup is begun: it keeps
/// summaries, and has them from the parent's start on without a gap. `path` is the way to the server's timeline.
///
/// # Errors
/// When the server cannot be asked.
pub fn check_server(
    session: &mut Connection,
    parent: &ManifestHeader,
    path: &TimelinePath,
) -> Result<Result<(), NotUsable>> {
    let major = session.server_major();
    if major < FIRST_MAJOR {
        return Ok(Err(NotUsable::ServerTooOld { major }));
    }
    if session.show("summarize_wal")? != "on" {
        return Ok(Err(NotUsable::SummarizerOff));
    }
    if !path.contains(parent.timeline, parent.stop_lsn) {
        return Ok(Err(NotUsable::OffHistory {
            parent_timeline: parent.timeline,
            parent_stop: parent.stop_lsn,
            timeline: path.target(),
        }));
    }
    // What the server has not summarized yet it will before it answers to BASE_BACKUP; right after the parent that may be all
    // of it. Whether it really has everything is looked at again once the start is known.
    allowed(available(session, parent.start_lsn).and_then(|summaries| {
        let newest = summaries.iter().map(|summary| summary.end).max();
        let until = newest.unwrap_or(parent.start_lsn).max(summarized(session)?);
        Ok(covered(&summaries, path, parent.start_lsn, until))
    }))
}

/// Up to where the server has summarized its WAL.
fn summarized(session: &mut Connection) -> Result<Lsn, WireError> {
    let rows = session.query("select summarized_lsn from pg_get_wal_summarizer_state()")?;
    match rows.first() {
        Some(row) => row.parse("summarized_lsn"),
        None => Ok(Lsn::INVALID),
    }
}

/// The limits for a backup that starts at `start`. Asked once the server has answered with that position: then it has
/// summarized everything before.
///
/// # Errors
/// When the server cannot be asked.
pub fn limit_blocks(
    session: &mut Connection,
    parent: &ManifestHeader,
    path: &TimelinePath,
    start: Lsn,
) -> Result<Result<LimitBlocks, NotUsable>> {
    if start <= parent.stop_lsn {
        return Ok(Err(NotUsable::StartsBeforeParentEnds { start, parent_stop: parent.stop_lsn }));
    }
    // Old summaries are only ever removed. What was there before and after was there in between.
    let check = |session: &mut Connection| -> Result<Result<(), NotUsable>> {
        let summaries = available(session, parent.start_lsn);
        allowed(summaries.map(|summaries| covered(&summaries, path, parent.start_lsn, start)))
    };
    if let Err(reason) = check(session)? {
        return Ok(Err(reason));
    }
    let limits = match allowed(read_limits(session, path, parent.start_lsn, start).map(Ok))? {
        Ok(limits) => limits,
        Err(reason) => return Ok(Err(reason)),
    };
    Ok(check(session)?.map(|()| limits))
}

/// A file of the parent backup.
#[derive(Clone, Debug)]
pub struct ParentFile {
    /// Relative to the data directory.
    pub path: String,
    /// What relation it is of; none for any other file.
    pub relation: Option<RelationFile>,
    /// Its length in the parent.
    pub bytes: u64,
}

impl ParentFile {
    /// Whether a server of that version may send it in part. What it is not told of it sends whole.
    #[must_use]
    pub fn is_listed(&self, server_version_num: u32, block_size: u32) -> bool {
        let Some(relation) = &self.relation else { return false };
        let is_sound = match relation.fork {
            Fork::Main | Fork::Init => true,
            Fork::Vm => !has_stale_vm_fault(server_version_num),
            Fork::Fsm => false,
        };
        is_sound && self.bytes.is_multiple_of(u64::from(block_size.max(1)))
    }
}

/// Tells the server, over a replication session, what the parent backup has. The next thing over this session must be
/// BASE_BACKUP with `incremental`.
///
/// Only files of relations are listed that may come in part; nothing else is looked up by the server.
///
/// # Errors
/// When `files` fails, or the server does not take the manifest.
pub fn upload_parent(
    session: &mut Connection,
    parent: &ManifestHeader,
    files: impl IntoIterator<Item = Result<ParentFile>>,
) -> Result<()> {
    let version = session.server_version_num();
    let mut upload = session.upload_manifest()?;
    let mut out = Vec::with_capacity(2 * PIECE);
    let hash = Hash(Context::new(&SHA256));
    let mut manifest = SyntheticManifest::begin(parent.system_identifier, hash, &mut out);
    for file in files {
        let file = match file {
            Ok(file) => file,
            Err(error) => {
                // The session is of no more use; the first error is the one that matters.
                drop(upload.abort("the parent backup cannot be read"));
                return Err(error);
            }
        };
        if file.is_listed(version, parent.block_size) {
            manifest.file(file.path.as_bytes(), &mut out);
        }
        if out.len() >= PIECE {
            upload.write(&out)?;
            out.clear();
        }
    }
    let range = ManifestWalRange { timeline: parent.timeline, start: parent.start_lsn, end: parent.stop_lsn };
    manifest.finish(&[range], &mut out);
    upload.write(&out)?;
    upload.finish().map_err(|error| {
        Error::from(error).while_doing("the server did not take the list of the parent's files")
    })
}

struct Hash(Context);

impl Sha256 for Hash {
    fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    fn finish(self) -> [u8; 32] {
        let digest = self.0.finish();
        // SHA-256 has 32 bytes.
        digest.as_ref().try_into().unwrap_or_default()
    }
}

/// A summary that the server has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Available {
    timeline: TimelineId,
    start: Lsn,
    end: Lsn,
}

fn available(session: &mut Connection, from: Lsn) -> Result<Vec<Available>, WireError> {
    let rows = session.query(&format!(
        "select tli, start_lsn, end_lsn from pg_available_wal_summaries() where end_lsn > '{from}' \
         order by start_lsn, end_lsn"
    ))?;
    rows.iter()
        .map(|row| {
            let timeline: u32 = row.parse("tli")?;
            let timeline = TimelineId::try_from(timeline)
                .map_err(|_| WireError::UnexpectedResult("a WAL summary of timeline 0".to_owned()))?;
            Ok(Available { timeline, start: row.parse("start_lsn")?, end: row.parse("end_lsn")? })
        })
        .collect()
}

/// Whether the summaries cover every byte from `from` to `until` along the path; sorted by their start.
fn covered(summaries: &[Available], path: &TimelinePath, from: Lsn, until: Lsn) -> Result<(), NotUsable> {
    let mut at = from;
    while at < until {
        let step = path.step_at(at);
        let end = summaries
            .iter()
            .filter(|summary| summary.timeline == step.timeline && summary.start <= at && summary.end > at)
            .map(|summary| summary.end)
            .max()
            .ok_or(NotUsable::ServerSummaryGap { timeline: step.timeline, from: at })?;
        // A summary of an old timeline counts up to where the path leaves that.
        at = step.to.map_or(end, |to| end.min(to));
    }
    Ok(())
}

fn read_limits(
    session: &mut Connection,
    path: &TimelinePath,
    from: Lsn,
    until: Lsn,
) -> Result<LimitBlocks, WireError> {
    // The same choice as the server makes: every summary that shares a byte with the range, timeline by timeline.
    let overlaps = |step: &PathStep| {
        let (start, end) = (step.from.max(from), step.to.unwrap_or(until).min(until));
        (start < end).then(|| {
            format!("(s.tli = {} and s.end_lsn > '{start}' and s.start_lsn < '{end}')", step.timeline.get())
        })
    };
    let chosen: Vec<String> = path.steps().iter().filter_map(overlaps).collect();
    let sql = format!(
        "copy (select c.reltablespace, c.reldatabase, c.relfilenode, c.relforknumber, min(c.relblocknumber) \
         from pg_available_wal_summaries() s, \
         lateral pg_wal_summary_contents(s.tli, s.start_lsn, s.end_lsn) c \
         where c.is_limit_block and ({}) group by 1, 2, 3, 4) to stdout",
        chosen.join(" or ")
    );
    let mut limits = LimitBlocks::default();
    let mut copy = session.copy_out(&sql)?;
    while let Some(line) = copy.next()? {
        let fields = parse_limit(line)
            .ok_or_else(|| WireError::UnexpectedResult("a WAL summary that is not understood".to_owned()))?;
        limits.add(fields);
    }
    Ok(limits)
}

/// Tablespace, database, file number, fork and limit.
fn parse_limit(line: &[u8]) -> Option<[u32; 5]> {
    let text = std::str::from_utf8(line).ok()?;
    let mut fields = text.trim_end_matches('\n').split('\t').map(|field| field.parse::<u32>());
    let mut next = || fields.next()?.ok();
    let found = [next()?, next()?, next()?, next()?, next()?];
    fields.next().is_none().then_some(found)
}

/// A missing privilege is a reason to choose another way, not a failure.
fn allowed<T>(answer: Result<Result<T, NotUsable>, WireError>) -> Result<Result<T, NotUsable>> {
    match answer {
        Ok(answer) => Ok(answer),
        Err(error) if error.sqlstate() == Some(INSUFFICIENT_PRIVILEGE) => {
            Ok(Err(NotUsable::NotAllowed { what: error.to_string() }))
        }
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use pgkeep_format::timeline_history::{Ancestor, TimelineHistory};

    use super::*;

    const TABLE: RelFileLocator = RelFileLocator { tablespace: 1663, database: 5, number: 16384 };

    fn tli(number: u32) -> TimelineId {
        TimelineId::new(number).unwrap()
    }

    fn file(fork: Fork, segment: u32) -> RelationFile {
        RelationFile { locator: TABLE, fork, segment }
    }

    fn limits(lines: &[[u32; 5]]) -> LimitBlocks {
        let mut limits = LimitBlocks::default();
        lines.iter().for_each(|line| limits.add(*line));
        limits
    }

    #[test]
    fn a_block_is_the_parents_only_below_its_length_and_the_limit() {
        let none = limits(&[]);
        assert_eq!(none.parent_blocks(&file(Fork::Main, 0), 10, 100), 10);
        let cut = limits(&[[1663, 5, 16384, 0, 104], [1663, 5, 16384, 2, 1], [1663, 5, 16385, 0, 0]]);
        assert_eq!(cut.parent_blocks(&file(Fork::Main, 0), 100, 100), 100);
        assert_eq!(cut.parent_blocks(&file(Fork::Main, 1), 100, 100), 4);
        assert_eq!(cut.parent_blocks(&file(Fork::Main, 1), 2, 100), 2);
        assert_eq!(cut.parent_blocks(&file(Fork::Main, 2), 100, 100), 0);
        assert_eq!(cut.parent_blocks(&file(Fork::Vm, 0), 10, 100), 1);
        assert_eq!(cut.parent_blocks(&file(Fork::Init, 0), 10, 100), 10);
        assert_eq!(cut.parent_blocks(&file(Fork::Main, u32::MAX), 10, 100), 0);
        // The lowest of several counts.
        let twice = limits(&[[1663, 5, 16384, 0, 4], [1663, 5, 16384, 0, 8]]);
        assert_eq!(twice.parent_blocks(&file(Fork::Main, 0), 10, 100), 4);
        let made = limits(&[[1663, 5, 0, 0, 0]]);
        assert_eq!(made.parent_blocks(&file(Fork::Main, 0), 10, 100), 0);
        assert!(!made.is_empty() && none.is_empty());
    }

    #[test]
    fn lines_of_the_server_are_checked() {
        assert_eq!(parse_limit(b"1663\t5\t16384\t0\t4294967295\n"), Some([1663, 5, 16384, 0, u32::MAX]));
        for bad in [
            &b""[..],
            b"1\t2\t3\t4",
            b"1\t2\t3\t4\t5\t6",
            b"1\t2\t3\t4\t-1",
            b"1\t2\t3\t4\tx",
            b"\xff\t2\t3\t4\t5",
        ] {
            assert_eq!(parse_limit(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn summaries_must_cover_the_path() {
        let summary =
            |timeline, start, end| Available { timeline: tli(timeline), start: Lsn(start), end: Lsn(end) };
        let ancestor = Ancestor { timeline: tli(1), switch: Lsn(250), reason: String::new() };
        let path = TimelinePath::of_history(&TimelineHistory { timeline: tli(2), ancestors: vec![ancestor] });
        let good = [summary(1, 50, 120), summary(1, 120, 250), summary(2, 250, 300), summary(2, 300, 400)];
        assert_eq!(covered(&good, &path, Lsn(100), Lsn(400)), Ok(()));
        let gap =
            |timeline, from| Err(NotUsable::ServerSummaryGap { timeline: tli(timeline), from: Lsn(from) });
        assert_eq!(covered(&good, &path, Lsn(100), Lsn(401)), gap(2, 400));
        assert_eq!(covered(&good, &path, Lsn(40), Lsn(400)), gap(1, 40));
        assert_eq!(covered(&good[1..], &path, Lsn(100), Lsn(400)), gap(1, 100));
        // The old timeline went on after the switch: that is not this server's past.
        let other = [summary(1, 50, 350), summary(2, 300, 400)];
        assert_eq!(covered(&other, &path, Lsn(100), Lsn(400)), gap(2, 250));
        assert_eq!(covered(&[], &path, Lsn(100), Lsn(101)), gap(1, 100));
    }

    #[test]
    fn only_what_can_safely_come_in_part_is_listed() {
        let listed = |relation: Option<RelationFile>, bytes, version| {
            ParentFile { path: "x".to_owned(), relation, bytes }.is_listed(version, 8192)
        };
        assert!(listed(Some(file(Fork::Main, 0)), 8192, 170_010));
        assert!(!listed(Some(file(Fork::Main, 0)), 8193, 170_010));
        assert!(!listed(Some(file(Fork::Fsm, 0)), 8192, 180_006));
        assert!(!listed(Some(file(Fork::Vm, 0)), 8192, 170_010));
        assert!(listed(Some(file(Fork::Vm, 0)), 8192, 170_011));
        assert!(!listed(Some(file(Fork::Vm, 0)), 8192, 180_005));
        assert!(listed(Some(file(Fork::Vm, 0)), 8192, 180_006));
        assert!(!listed(None, 8192, 180_006));
    }
}
