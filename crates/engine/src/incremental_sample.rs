//! The self-check of incremental backups that do not read everything: a random sample of blocks that WAL does not name is
//! read from the cluster and compared with what the newest backup has.
//!
//! Blocks are read first, and the WAL is asked afterwards: WAL is written before the page that it changes, so whatever was
//! read is explained by the WAL up to then. A block that differs in more than hints and that no WAL names is a reason to
//! distrust every backup that relied on WAL since: it is told, kept as a report, and the next backup reads and compares
//! everything (`distrust`). A backup notes in its manifest which alarms it knew before it read anything; a parent that does not
//! know of one is not trusted, also where it was running when the alarm was given. Killed at any point, nothing was learnt.

use std::fs::File;
use std::hash::{BuildHasher, Hasher};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use jiff::Timestamp;
use pgkeep_format::relation::{Fork, RelationFile};
use pgkeep_format::{Lsn, differs_only_in_hints};
use pgkeep_repo::{BackupReader, FileEntry, ManifestHeader, ParentLeaf, RunTarget, Stanza};
use pgkeep_wire::Connection;
use serde::{Deserialize, Serialize};

use crate::backup::server::{self, ServerFacts};
use crate::backup::source_local::{NotThisCluster, prove_directory};
use crate::changed_blocks::{ChangedBlocks, FileChange, WalRequest, comparable, from_wal};
use crate::error::{Error, ErrorKind, Result};
use crate::event::Cancel;
use crate::wal::push::newest_record;

/// The verb under which reports of samples are kept that found nothing.
const VERB: &str = "sample";
/// The verb of those that found something.
const ALARM: &str = "sample-alarm";
/// Differing blocks that are remembered until the WAL is asked; of the rest of the sample nothing is said.
const MOST_DIFFERENT: usize = 1 << 20;
/// Blocks that are named in the report.
const MOST_NAMED: usize = 100;

/// A block that differs and that no WAL names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnexplainedBlock {
    /// The file, relative to the data directory.
    pub path: String,
    /// The block in it.
    pub block: u32,
}

/// What a sample showed.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SampleReport {
    /// When, RFC 3339 UTC.
    pub at: Timestamp,
    /// The backup that was compared with.
    pub backup: String,
    /// Blocks that were read.
    pub blocks: u64,
    /// Of these, blocks that are the backup's, byte by byte or but for hints.
    pub same: u64,
    /// Of these, blocks that differ and that WAL names.
    pub explained: u64,
    /// How many differ and are named by no WAL.
    pub unexplained: u64,
    /// The first of them.
    pub unexplained_blocks: Vec<UnexplainedBlock>,
}

/// A block of the sample that differs in more than hints.
#[derive(Debug)]
struct Different {
    path: String,
    relation: RelationFile,
    parent_bytes: u64,
    bytes: u64,
    block: u32,
}

/// Takes a sample of so many percent of the blocks of relations; none, with the reason, where that cannot be done.
///
/// # Errors
/// When the server, the disk or the repository fails.
pub fn sample(
    stanza: &Stanza,
    connection: &mut Connection,
    percent: f64,
    cancel: &Cancel,
) -> Result<Result<SampleReport, String>> {
    let facts = ServerFacts::read(connection)?;
    if facts.standby {
        return Ok(Err("a standby does not switch WAL segments: sample the primary".to_owned()));
    }
    let Some(directory) = facts.data_directory.clone() else {
        return Ok(Err("the role may not see `data_directory`".to_owned()));
    };
    if let Err(NotThisCluster(why)) = prove_directory(&directory, &facts) {
        return Ok(Err(why));
    }
    let record = *newest_record(stanza)?;
    let headers = stanza.backups()?.into_iter().filter_map(|listing| listing.header.ok());
    let Some(header) = headers.filter(|header| header.record == record.sequence).last() else {
        return Ok(Err("there is no backup to compare with".to_owned()));
    };
    if let Err(why) = comparable(&header, &facts.shape()) {
        return Ok(Err(why.to_string()));
    }
    let reader = stanza.backup(header.id)?;
    let mut report = SampleReport {
        at: Timestamp::now(),
        backup: header.id.to_string(),
        blocks: 0,
        same: 0,
        explained: 0,
        unexplained: 0,
        unexplained_blocks: Vec::new(),
    };
    let different = compare(&reader, &directory, &facts, percent, &mut report, cancel)?;
    let start = switch(connection, &facts)?;
    let changes = from_wal(&WalRequest {
        archive: &stanza.wal(&record),
        local_wal: Some(&directory.join("pg_wal")),
        parent: &header,
        start,
        timeline: server::timeline(connection)?,
        cancel,
    })?;
    let changes = match changes {
        Ok(changes) => changes,
        Err(why) => return Ok(Err(format!("WAL since the backup is not complete: {why}"))),
    };
    judge(&different, &changes, &mut report);
    let json = serde_json::to_vec(&report).map_err(|error| {
        Error::new(ErrorKind::Internal, "cannot write the report of the sample")
            .caused_by(&error)
            .hint("report this")
    })?;
    stanza.put_report(report.at, if report.unexplained > 0 { ALARM } else { VERB }, json)?;
    Ok(Ok(report))
}

/// The names of all reports of samples that found something.
///
/// A backup asks before it reads anything, and keeps the answer: what it read after that answers these alarms and no others.
/// No clock is asked, since the sample and the backups may be those of different machines.
///
/// # Errors
/// When the storage fails.
pub fn alarms(stanza: &Stanza) -> Result<Vec<String>> {
    let alarms = stanza.reports()?.into_iter().filter(|name| name.verb() == Some(ALARM));
    Ok(alarms.map(|name| name.as_str().to_owned()).collect())
}

/// Why what WAL says about changes since that backup is not to be relied upon; none where every alarm is answered by it.
pub fn distrust(alarms: &[String], parent: &ManifestHeader) -> Option<String> {
    let alarm = alarms.iter().rev().find(|alarm| !parent.answered_alarms.contains(alarm))?;
    Some(format!("a sample found changed blocks that no WAL names, see the report `{alarm}`"))
}

/// Reads a random sample; what differs is handed back.
fn compare(
    reader: &BackupReader,
    directory: &Path,
    facts: &ServerFacts,
    percent: f64,
    report: &mut SampleReport,
    cancel: &Cancel,
) -> Result<Vec<Different>> {
    let version_directory = facts.tablespace_directory();
    let mut chance = Chance::new(percent);
    let mut different = Vec::new();
    for entry in reader.files() {
        cancel.check()?;
        let entry = entry?;
        let path = entry.path_text();
        let Some(relation) = RelationFile::parse_path(&path, &version_directory) else { continue };
        if relation.fork != Fork::Main {
            continue;
        }
        let file = match File::open(directory.join(&path)) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(cannot_read(&path, &error)),
        };
        let found = compare_file(reader, &entry, &file, facts.block_size, &mut chance, report)
            .map_err(|error| error.while_doing(format!("cannot compare `{path}`")))?;
        let bytes = file.metadata().map_err(|error| cannot_read(&path, &error))?.len();
        for block in found {
            if different.len() < MOST_DIFFERENT {
                let parent_bytes = entry.meta.size;
                different.push(Different { path: path.clone(), relation, parent_bytes, bytes, block });
            }
        }
    }
    Ok(different)
}

fn compare_file(
    reader: &BackupReader,
    entry: &FileEntry,
    file: &File,
    block_size: u32,
    chance: &mut Chance,
    report: &mut SampleReport,
) -> Result<Vec<u32>> {
    let Some(map) = reader.parent_map(entry)? else { return Ok(Vec::new()) };
    let key = reader.stanza().repository().digest_key();
    let mut found = Vec::new();
    let mut leaf: Option<ParentLeaf> = None;
    let mut page = vec![0; block_size as usize];
    for block in 0..map.block_count() {
        if !chance.next() {
            continue;
        }
        match file.read_exact_at(&mut page, u64::from(block) * u64::from(block_size)) {
            Ok(()) => {}
            // Cut off since.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => break,
            Err(error) => return Err(cannot_read(&entry.path_text(), &error)),
        }
        report.blocks += 1;
        if leaf.as_ref().is_none_or(|leaf| leaf.digest(block).is_none()) {
            leaf = map.leaf_of(block)?;
        }
        let Some(leaf) = &leaf else { break };
        if leaf.digest(block) == Some(key.block(&page))
            || differs_only_in_hints(&page, &stored_page(reader, leaf, block, block_size)?)
        {
            report.same += 1;
        } else {
            found.push(block);
        }
    }
    Ok(found)
}

/// The page that the backup has.
fn stored_page(reader: &BackupReader, leaf: &ParentLeaf, block: u32, block_size: u32) -> Result<Vec<u8>> {
    let size = block_size as usize;
    let run = leaf.runs().iter().find_map(|run| run.part(block, block + 1));
    match run.map(|run| run.target) {
        Some(RunTarget::Frame { frame, position }) => {
            let plain = reader.frames().read(frame)?;
            let from = position as usize * size;
            plain.get(from..from + size).map(<[u8]>::to_vec).ok_or_else(|| {
                Error::new(ErrorKind::Corrupt, "a block map points beyond its frame")
                    .hint("`pgkeep verify` tells what is damaged")
            })
        }
        _ => Ok(vec![0; size]),
    }
}

/// Ends the WAL segment, so that what was read is covered by whole segments; answers where the next one begins.
fn switch(connection: &mut Connection, facts: &ServerFacts) -> Result<Lsn> {
    let rows = connection.query("select pg_switch_wal() as lsn")?;
    let end: Lsn = rows.one()?.parse("lsn")?;
    // The next segment must begin on the disk, for it proves that the archive is this server's: a commit that is flushed.
    connection.query("set synchronous_commit = local")?;
    connection.query("select pg_logical_emit_message(true, 'pgkeep', 'sample')")?;
    let size = facts.wal_segment_size;
    Ok(size.end_of(size.segment_before(end)))
}

/// Asks the WAL about every block that differs.
fn judge(different: &[Different], changes: &ChangedBlocks, report: &mut SampleReport) {
    let mut last: Option<(&str, FileChange)> = None;
    for found in different {
        if last.as_ref().is_none_or(|(path, _)| *path != found.path) {
            let change = changes.of_file(Some(&found.relation), Some(found.parent_bytes), found.bytes);
            last = Some((&found.path, change));
        }
        let is_explained = last.as_ref().is_some_and(|(_, change)| match change {
            FileChange::ReadAll(_) => true,
            FileChange::Blocks { marked, from } => {
                found.block >= *from || marked.binary_search(&found.block).is_ok()
            }
        });
        if is_explained {
            report.explained += 1;
            continue;
        }
        report.unexplained += 1;
        if report.unexplained_blocks.len() < MOST_NAMED {
            report.unexplained_blocks.push(UnexplainedBlock { path: found.path.clone(), block: found.block });
        }
    }
}

fn cannot_read(path: &str, error: &io::Error) -> Error {
    Error::new(ErrorKind::Storage, format!("cannot read `{path}` of the cluster"))
        .caused_by(error)
        .hint("run pgkeep as the server's user; look at the server's disk")
}

/// Says yes so many times in a hundred.
#[derive(Debug)]
struct Chance {
    state: u64,
    limit: u64,
}

impl Chance {
    fn new(percent: f64) -> Chance {
        let seed = std::collections::hash_map::RandomState::new().build_hasher().finish();
        let share = (percent / 100.0).clamp(0.0, 1.0);
        let limit = if share >= 1.0 { u64::MAX } else { (share * u64::MAX as f64) as u64 };
        Chance { state: seed, limit }
    }

    /// splitmix64.
    fn next(&mut self) -> bool {
        self.state = self.state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (z ^ (z >> 31)) <= self.limit
    }
}

#[cfg(test)]
mod tests {
    use pgkeep_repo::ManifestHeader;

    use super::{Chance, distrust};

    /// Also one that was running when the alarm was given, whatever the clocks say.
    #[test]
    fn a_backup_is_trusted_that_knew_every_alarm_before_it_read() {
        let alarms = ["b".to_owned(), "a".to_owned()];
        let knew = |names: &[&str]| ManifestHeader {
            answered_alarms: names.iter().map(|name| (*name).to_owned()).collect(),
            ..ManifestHeader::default()
        };
        assert_eq!(distrust(&[], &knew(&[])), None);
        assert_eq!(distrust(&alarms, &knew(&["a", "b", "removed since"])), None);
        for header in [knew(&[]), knew(&["a"]), knew(&["b"])] {
            assert!(distrust(&alarms, &header).is_some(), "{:?}", header.answered_alarms);
        }
    }

    #[test]
    fn a_sample_is_about_as_large_as_asked() {
        let count = |percent| {
            let mut chance = Chance::new(percent);
            (0..100_000).filter(|_| chance.next()).count()
        };
        assert_eq!(count(100.0), 100_000);
        assert!(count(0.0) < 5);
        assert!((8_000..12_000).contains(&count(10.0)));
    }
}
