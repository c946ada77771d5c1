//! Names of objects. Every key is made here, so that the layout of a repository can be read in one place.
//!
//! Keys use letters, digits, `.`, `_`, `-` and `/` only: every storage takes them as they are, without encoding, and no
//! part can climb out of the repository. See `docs/format/overview.md`.

use std::fmt;
use std::str::FromStr;

use pgkeep_format::TimelineId;

use crate::{BackupId, RepoError};

/// The longest key that is written or read.
const LONGEST_KEY: usize = 512;

/// The folder of the repository's own records; no stanza may have this name.
pub(crate) const REPOSITORY_FOLDER: &str = "pgkeep";

/// The checked name of a stanza.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StanzaName(String);

impl StanzaName {
    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for StanzaName {
    type Err = RepoError;

    fn from_str(name: &str) -> Result<StanzaName, RepoError> {
        let refuse = |what| Err(RepoError::BadStanzaName { name: name.to_owned(), what });
        if name.is_empty() || name.len() > 63 {
            return refuse("it must have 1 to 63 letters");
        }
        if !name.starts_with(|c: char| c.is_ascii_alphanumeric()) {
            return refuse("it must begin with a letter or a digit");
        }
        if !name.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b)) {
            return refuse("only letters, digits, `.`, `_` and `-` are allowed");
        }
        if name == REPOSITORY_FOLDER {
            return refuse("the repository keeps its own records under this name");
        }
        Ok(StanzaName(name.to_owned()))
    }
}

impl fmt::Display for StanzaName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for StanzaName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Whether the storage may be asked for this key: plain letters, no empty, `.` or `..` part, not too long.
#[must_use]
pub(crate) fn is_valid(key: &str) -> bool {
    key.len() <= LONGEST_KEY && key.split('/').all(is_valid_part)
}

/// Whether one part of a key is plain letters and neither `.` nor `..`.
#[must_use]
pub(crate) fn is_valid_part(part: &str) -> bool {
    !part.is_empty()
        && part != "."
        && part != ".."
        && part.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
}

pub(crate) fn repository(sequence: u32) -> String {
    format!("{REPOSITORY_FOLDER}/repo-{sequence:06}.json")
}

/// The sequence in the last part of a key made by [`repository`].
pub(crate) fn parse_repository(name: &str) -> Option<u32> {
    parse_number(name.strip_prefix("repo-")?.strip_suffix(".json")?, 6)
}

pub(crate) fn history(stanza: &StanzaName, sequence: u32) -> String {
    format!("{stanza}/history/{sequence:06}.json")
}

/// The number in names such as `000001.json`.
pub(crate) fn parse_sequence(name: &str, digits: usize) -> Option<u32> {
    parse_number(name.strip_suffix(".json")?, digits)
}

pub(crate) fn lease(stanza: &StanzaName, epoch: u32) -> String {
    format!("{stanza}/lease/{epoch:010}.json")
}

/// Where the writer of an epoch says that it stopped.
pub(crate) fn lease_end(stanza: &StanzaName, epoch: u32) -> String {
    format!("{stanza}/lease/{epoch:010}.ended")
}

/// The epoch in the last part of a key made by [`lease_end`].
pub(crate) fn parse_lease_end(name: &str) -> Option<u32> {
    parse_number(name.strip_suffix(".ended")?, 10)
}

pub(crate) fn fence(stanza: &StanzaName, epoch: u32) -> String {
    format!("{stanza}/expire/{epoch:010}.json")
}

/// What is going to be removed; `random` is hexadecimal digits.
pub(crate) fn condemned(stanza: &StanzaName, random: &str) -> String {
    format!("{stanza}/expire/condemned-{random}.json")
}

/// The random part of the last part of a key made by [`condemned`].
pub(crate) fn parse_condemned(name: &str) -> Option<&str> {
    name.strip_prefix("condemned-")?.strip_suffix(".json")
}

/// WAL that was removed on purpose from between other WAL; the numbers of segments are hexadecimal.
pub(crate) fn removed_wal(stanza: &StanzaName, record: u32, timeline: u32, segments: [u64; 2]) -> String {
    let [first, last] = segments;
    format!("{stanza}/expire/wal-{record:06}-{timeline:08X}-{first:016X}-{last:016X}.json")
}

/// Record, timeline and segments in the last part of a key made by [`removed_wal`].
pub(crate) fn parse_removed_wal(name: &str) -> Option<(u32, u32, [u64; 2])> {
    let mut parts = name.strip_prefix("wal-")?.strip_suffix(".json")?.split('-');
    let record = parse_number(parts.next()?, 6)?;
    let timeline = u32::from_str_radix(parts.next().filter(|part| part.len() == 8)?, 16).ok()?;
    let mut number = || u64::from_str_radix(parts.next().filter(|part| part.len() == 16)?, 16).ok();
    let segments = [number()?, number()?];
    (parts.next().is_none() && segments[0] <= segments[1]).then_some((record, timeline, segments))
}

pub(crate) fn hold(stanza: &StanzaName, id: BackupId, random: &str) -> String {
    format!("{stanza}/hold/{id}-{random}.json")
}

/// The backup in the last part of a key made by [`hold`].
pub(crate) fn parse_hold(name: &str) -> Option<BackupId> {
    name.strip_suffix(".json")?.rsplit_once('-')?.0.parse().ok()
}

/// The number in the last part of a key made by [`pack`].
pub(crate) fn parse_pack(name: &str) -> Option<u32> {
    parse_number(name.strip_prefix("pack-")?, 6)
}

pub(crate) fn pack(stanza: &StanzaName, id: BackupId, number: u32) -> String {
    format!("{stanza}/backup/{id}/pack-{number:06}")
}

pub(crate) fn manifest(stanza: &StanzaName, id: BackupId) -> String {
    format!("{stanza}/backup/{id}/manifest")
}

/// The folder of all dumps.
pub(crate) fn dumps(stanza: &StanzaName) -> String {
    format!("{stanza}/dump")
}

/// A pack of a dump.
pub(crate) fn dump_pack(stanza: &StanzaName, id: BackupId, number: u32) -> String {
    format!("{stanza}/dump/{id}/pack-{number:06}")
}

/// What makes a dump exist.
pub(crate) fn dump_manifest(stanza: &StanzaName, id: BackupId) -> String {
    format!("{stanza}/dump/{id}/manifest")
}

pub(crate) fn backup_wal(stanza: &StanzaName, id: BackupId, name: &str) -> String {
    format!("{stanza}/backup/{id}/wal/{name}")
}

pub(crate) fn wal_record(stanza: &StanzaName, record: u32) -> String {
    format!("{stanza}/wal/{record:06}")
}

pub(crate) fn wal_timeline(stanza: &StanzaName, record: u32, timeline: TimelineId) -> String {
    format!("{stanza}/wal/{record:06}/{:08X}", timeline.get())
}

/// Digits only, at least `digits` of them, without a superfluous leading zero.
pub(crate) fn parse_number(text: &str, digits: usize) -> Option<u32> {
    if !text.bytes().all(|b| b.is_ascii_digit()) || text.len() < digits {
        return None;
    }
    if text.len() > digits && text.starts_with('0') {
        return None;
    }
    text.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_cannot_leave_the_repository() {
        for key in ["", "/a", "a/", "a//b", ".", "a/../b", "a/./b", "a#1", "a b", "é", "a\\b", "a%2Fb"] {
            assert!(!is_valid(key), "{key}");
        }
        assert!(is_valid("main/wal/000001/00000001/00000000/000000010000000000000001.00000028.backup"));
    }

    #[test]
    fn names_of_stanzas_are_plain() {
        for name in ["main", "pg-17.prod_2", "0"] {
            assert_eq!(name.parse::<StanzaName>().unwrap().as_str(), name);
        }
        for name in ["", "..", ".hidden", "-x", "a/b", "a b", "pgkeep", "ü", &"a".repeat(64)] {
            assert!(name.parse::<StanzaName>().is_err(), "{name}");
        }
    }

    #[test]
    fn numbers_in_names_have_one_spelling() {
        assert_eq!(parse_sequence("000001.json", 6), Some(1));
        assert_eq!(parse_sequence("1000000.json", 6), Some(1_000_000));
        for name in ["1.json", "0000001.json", "00000a.json", "+00001.json", "99999999999.json", "000001"] {
            assert_eq!(parse_sequence(name, 6), None, "{name}");
        }
    }
}
