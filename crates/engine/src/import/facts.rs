//! What a source says of itself: its label, its control file, its manifest; and whether that fits the stanza.

use std::collections::BTreeMap;

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::{Offset, TimeZone};
use pgkeep_format::backup_label::BackupLabel;
use pgkeep_format::control_file::{CONTROL_FILE_PATH, CONTROL_FILE_SIZE, ControlFile};
use pgkeep_format::pg_manifest::{ManifestWalRange, PgManifest};
use pgkeep_format::tablespace_map;
use pgkeep_repo::ClusterRecord;

use super::source::{Source, read_small};
use crate::error::{Error, ErrorKind, Result};
use pgkeep_physical::checksum::sha256;

/// The longest manifest that is read.
const LONGEST_MANIFEST: u64 = pgkeep_format::pg_manifest::MAX_MANIFEST_LENGTH as u64;
/// The longest text of a label, a map or a version.
pub const LONGEST_TEXT: u64 = 1 << 20;
/// Barman's note.
const LONGEST_NOTE: u64 = 1 << 20;

/// The small files that say what a backup is.
pub const TELLING_FILES: [&str; 4] = ["backup_label", "tablespace_map", "PG_VERSION", CONTROL_FILE_PATH];

/// What a source says of itself.
#[derive(Clone, Debug)]
pub struct SourceFacts {
    /// The text of `backup_label`.
    pub label_text: String,
    /// The label.
    pub label: BackupLabel,
    /// The control file.
    pub control: ControlFile,
    /// Major version.
    pub major: u32,
    /// OIDs and places of tablespaces.
    pub tablespaces: Vec<(u32, String)>,
    /// Whether the group may read the cluster.
    pub group_access: bool,
}

/// Reads the manifest; none where there is none.
pub fn read_manifest(source: &Source) -> Result<Option<PgManifest>> {
    let path = source.manifest_path();
    let Some(bytes) = read_small(&path, LONGEST_MANIFEST)? else { return Ok(None) };
    let manifest = PgManifest::parse(&bytes, sha256).map_err(|error| {
        Error::new(ErrorKind::Corrupt, format!("`{}` cannot be believed", path.display()))
            .caused_by(&error)
            .hint("the backup is damaged or was never finished: import another one")
    })?;
    Ok(Some(manifest))
}

impl SourceFacts {
    /// Puts together what the small files say.
    pub fn read(source: &Source, mut files: BTreeMap<String, (Vec<u8>, u32)>) -> Result<SourceFacts> {
        let mut text = |name: &str| -> Result<Option<(String, u32)>> {
            let Some((bytes, mode)) = files.remove(name) else { return Ok(None) };
            let text = String::from_utf8(bytes).map_err(|_| damaged(name, "it is not text"))?;
            Ok(Some((text, mode)))
        };
        let (label_text, _) = text("backup_label")?.ok_or_else(|| no_label(source))?;
        let label =
            BackupLabel::parse(&label_text).map_err(|error| damaged("backup_label", "").caused_by(&error))?;
        let (version, mode) = text("PG_VERSION")?.ok_or_else(|| missing("PG_VERSION"))?;
        let major = version.trim().parse().map_err(|_| damaged("PG_VERSION", &version))?;
        let map = text("tablespace_map")?;
        let (control, _) = files.remove(CONTROL_FILE_PATH).ok_or_else(|| missing(CONTROL_FILE_PATH))?;
        let control =
            ControlFile::parse(&control).map_err(|error| damaged(CONTROL_FILE_PATH, "").caused_by(&error))?;
        let tablespaces = match map {
            Some((map, _)) => tablespace_map::parse(&map)
                .map_err(|error| damaged("tablespace_map", "").caused_by(&error))?,
            None => source.links()?,
        };
        Ok(SourceFacts { label_text, label, control, major, tablespaces, group_access: mode & 0o040 != 0 })
    }

    /// Refuses what is of another cluster than the stanza.
    pub fn refuse_other_cluster(&self, source: &Source, record: &ClusterRecord, stanza: &str) -> Result<()> {
        let control = &self.control;
        if control.system_identifier == record.system_identifier
            && self.major == record.major
            && control.catalog_version == record.catalog_version
            && control.block_size == record.block_size
            && u32::from(control.wal_segment_size) == record.wal_segment_size
        {
            return Ok(());
        }
        Err(Error::new(ErrorKind::Mismatch, format!("the stanza `{stanza}` belongs to another cluster"))
            .cause(format!(
                "the stanza is of cluster {} (PostgreSQL {}), {} is of cluster {} (PostgreSQL {})",
                record.system_identifier,
                record.major,
                source.describe(),
                control.system_identifier,
                self.major
            ))
            .hint("name the stanza of that cluster: `--stanza NAME`")
            .hint("a cluster that has none yet gets one with `--init --stanza NAME`"))
    }

    /// Refuses a backup that does not build on the one before; the first of a chain is a full one.
    pub fn refuse_broken_chain(&self, source: &Source, before: Option<&SourceFacts>) -> Result<()> {
        let refuse = |why: String| {
            Err(Error::new(ErrorKind::Mismatch, format!("{} does not fit into the chain", source.describe()))
                .cause(why)
                .hint("name the full backup first, then those that build on it, oldest first, with none left out"))
        };
        match (before, self.label.incremental_from) {
            (None, None) => Ok(()),
            (None, Some(from)) => refuse(format!("it builds on a backup that began at {}", from.lsn)),
            (Some(_), None) => refuse("it is a full backup, and not the first".to_owned()),
            (Some(before), Some(from)) => {
                let label = &before.label;
                if (from.lsn, from.timeline) != (label.start_lsn, label.start_timeline) {
                    return refuse(format!(
                        "it builds on a backup that began at {} on timeline {}, the one before began at {} on timeline {}",
                        from.lsn, from.timeline, label.start_lsn, label.start_timeline
                    ));
                }
                if before.control.system_identifier != self.control.system_identifier {
                    return refuse("it is of another cluster than the one before".to_owned());
                }
                Ok(())
            }
        }
    }

    /// What a chain stands for builds on nothing: a server refuses to start with those lines in its label.
    pub fn forget_what_it_builds_on(&mut self) {
        self.label.incremental_from = None;
        self.label_text = self.label.to_string();
    }

    /// Refuses a manifest of another backup.
    pub fn refuse_other_manifest(&self, manifest: &PgManifest) -> Result<()> {
        let other_cluster =
            manifest.system_identifier.is_some_and(|identifier| identifier != self.control.system_identifier);
        let begins_here = manifest
            .wal_ranges
            .iter()
            .any(|range| range.start == self.label.start_lsn && range.timeline == self.label.start_timeline);
        if begins_here && !other_cluster {
            return Ok(());
        }
        Err(Error::new(ErrorKind::Mismatch, "`backup_manifest` belongs to another backup")
            .cause(if other_cluster {
                "it names another cluster than the control file".to_owned()
            } else {
                format!(
                    "no WAL in it begins at {} on timeline {}, where the label says that this backup does",
                    self.label.start_lsn, self.label.start_timeline
                )
            })
            .hint("import a backup whose files were not mixed with those of another"))
    }

    /// When the backup began: the label says it with the abbreviation of a time zone, which only sometimes is clear.
    pub fn started(&self) -> Timestamp {
        read_label_time(&self.label.start_time)
            .or_else(|| Timestamp::from_second(self.control.checkpoint_time).ok())
            .unwrap_or_default()
    }
}

/// `2026-11-22 07:34:51 UTC`, or with an offset.
pub fn read_label_time(text: &str) -> Option<Timestamp> {
    let (time, zone) = text.trim().rsplit_once(' ')?;
    let time: DateTime = time.parse().ok()?;
    let offset = match zone {
        "UTC" | "GMT" | "Z" => Offset::UTC,
        numeric => {
            let (sign, hours) = match numeric.split_at_checked(1)? {
                ("+", hours) => (1, hours),
                ("-", hours) => (-1, hours),
                _ => return None,
            };
            let hours: i8 = hours.parse().ok()?;
            Offset::from_hours(sign * hours).ok()?
        }
    };
    Some(time.to_zoned(TimeZone::fixed(offset)).ok()?.timestamp())
}

/// Up to where WAL must be replayed, as Barman's note says it.
pub fn end_by_note(source: &Source) -> Result<Option<pgkeep_format::Lsn>> {
    let Some(path) = source.note_path() else { return Ok(None) };
    let Some(bytes) = read_small(&path, LONGEST_NOTE)? else { return Ok(None) };
    let text = String::from_utf8_lossy(&bytes);
    let value = text.lines().find_map(|line| line.strip_prefix("end_xlog="));
    Ok(value.and_then(|lsn| lsn.trim().parse().ok()))
}

/// The last of the ranges: where the backup becomes consistent.
pub fn last_range(manifest: &PgManifest) -> Option<ManifestWalRange> {
    manifest.wal_ranges.iter().copied().max_by_key(|range| range.end)
}

/// Whether a small file may be what its name says.
pub fn largest_telling(path: &str) -> u64 {
    if path == CONTROL_FILE_PATH { CONTROL_FILE_SIZE as u64 } else { LONGEST_TEXT }
}

/// A small file that is not what it should be.
pub fn damaged(name: &str, what: &str) -> Error {
    let error = Error::new(ErrorKind::Corrupt, format!("`{name}` of the backup cannot be read"))
        .hint("the backup is damaged: import another one");
    if what.is_empty() { error } else { error.cause(what.trim()) }
}

fn missing(name: &str) -> Error {
    Error::new(ErrorKind::Corrupt, format!("the backup has no `{name}`"))
        .hint("it is not complete: import another one")
}

fn no_label(source: &Source) -> Error {
    Error::new(ErrorKind::Corrupt, format!("{} has no `backup_label`", source.describe()))
        .cause("without it nobody knows where replay begins: a server was started from it, or it never was a backup")
        .hint("import a backup that was not started; a running server is backed up with `pgkeep backup`")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_read_where_its_zone_is_clear() {
        let at = |text: &str| read_label_time(text).map(|time| time.to_string());
        assert_eq!(at("2026-11-22 07:34:51 UTC").as_deref(), Some("2026-11-22T07:34:51Z"));
        assert_eq!(at("2026-11-22 07:34:51 +02").as_deref(), Some("2026-11-22T05:34:51Z"));
        for unclear in ["2026-11-22 07:34:51 IST", "2026-11-22 07:34:51", "", "x UTC"] {
            assert_eq!(at(unclear), None, "{unclear}");
        }
    }
}
