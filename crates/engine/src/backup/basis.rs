//! What a backup builds on: pure, and said in the plan.
//!
//! Every backup is complete, whatever it builds on: the type says how much is read and written, not what is needed to
//! restore. Any backup of the same cluster will do as a parent, as far as the bytes go, for blocks are compared by their
//! digests. What will not: a backup of another layout, and one that is known to be damaged, whose damage would be
//! inherited.

use std::collections::BTreeMap;

use pgkeep_repo::{BackupId, BackupKind, ManifestHeader};

use super::server::ServerFacts;
use super::{BackupType, TypeChoice};

/// What the new backup is, and on what it builds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Basis {
    /// How much is read and written.
    pub kind: BackupType,
    /// The backup that it builds on; none for a full one.
    pub parent: Option<BackupId>,
    /// Why.
    pub reason: String,
}

impl Basis {
    fn full(reason: impl Into<String>) -> Basis {
        Basis { kind: BackupType::Full, parent: None, reason: reason.into() }
    }
}

/// Decides. `headers` are the backups of this very cluster that can be read, oldest first; `damaged` says which of them
/// are known to be bad, and how.
pub fn choose(
    choice: TypeChoice,
    headers: &[ManifestHeader],
    damaged: &BTreeMap<BackupId, String>,
    facts: &ServerFacts,
) -> Basis {
    let (kind, only_full) = match choice {
        TypeChoice::Full => return Basis::full("asked for"),
        TypeChoice::Differential => (BackupType::Differential, true),
        TypeChoice::Auto | TypeChoice::Incremental => (BackupType::Incremental, false),
    };
    let mut refused = None;
    for header in headers.iter().rev().filter(|header| !only_full || header.kind == BackupKind::Full) {
        match why_not(header, damaged, facts) {
            None => {
                let reason = match (refused, only_full) {
                    (Some(why), _) => format!("the newest that can be built on: {why}"),
                    (None, true) => "the last full backup".to_owned(),
                    (None, false) => "the newest backup".to_owned(),
                };
                return Basis { kind, parent: Some(header.id), reason };
            }
            Some(why) => refused = refused.or(Some(format!("{} {why}", header.id))),
        }
    }
    Basis::full(match (refused, only_full) {
        (Some(why), _) => format!("no backup can be built on: {why}"),
        (None, true) => "there is no full backup yet".to_owned(),
        (None, false) => "there is no backup yet".to_owned(),
    })
}

fn why_not(
    header: &ManifestHeader,
    damaged: &BTreeMap<BackupId, String>,
    facts: &ServerFacts,
) -> Option<String> {
    if let Some(damage) = damaged.get(&header.id) {
        return Some(format!("is damaged ({damage})"));
    }
    let same_layout = header.system_identifier == facts.system_identifier
        && header.major == facts.major()
        && header.catalog_version == facts.catalog_version
        && header.block_size == facts.block_size
        && header.relation_segment_blocks == facts.relation_segment_blocks;
    (!same_layout).then(|| "is of another version or layout".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use jiff::Timestamp;

    fn facts() -> ServerFacts {
        super::super::plan::tests::facts("off", "")
    }

    fn header(epoch: u32, kind: BackupKind) -> ManifestHeader {
        let facts = facts();
        ManifestHeader {
            id: BackupId::new(epoch, Timestamp::UNIX_EPOCH),
            kind,
            system_identifier: facts.system_identifier,
            major: facts.major(),
            catalog_version: facts.catalog_version,
            block_size: facts.block_size,
            relation_segment_blocks: facts.relation_segment_blocks,
            ..ManifestHeader::default()
        }
    }

    fn parent(choice: TypeChoice, headers: &[ManifestHeader], damaged: &[u32]) -> Option<u32> {
        let damaged = damaged
            .iter()
            .map(|epoch| (BackupId::new(*epoch, Timestamp::UNIX_EPOCH), "a pack is gone".to_owned()))
            .collect();
        choose(choice, headers, &damaged, &facts()).parent.map(BackupId::epoch)
    }

    #[test]
    fn the_newest_backup_that_is_good_is_built_on() {
        let headers = [
            header(1, BackupKind::Full),
            header(2, BackupKind::Incremental),
            header(3, BackupKind::Incremental),
        ];
        assert_eq!(parent(TypeChoice::Auto, &headers, &[]), Some(3));
        assert_eq!(parent(TypeChoice::Incremental, &headers, &[3]), Some(2));
        assert_eq!(parent(TypeChoice::Differential, &headers, &[]), Some(1));
        assert_eq!(parent(TypeChoice::Differential, &headers, &[1]), None);
        assert_eq!(parent(TypeChoice::Full, &headers, &[]), None);
        assert_eq!(parent(TypeChoice::Incremental, &[], &[]), None);
    }

    #[test]
    fn another_layout_is_not_built_on_and_the_reason_names_it() {
        let mut other = header(1, BackupKind::Full);
        other.catalog_version += 1;
        let basis = choose(TypeChoice::Auto, &[other], &BTreeMap::new(), &facts());
        assert_eq!(basis.kind, BackupType::Full);
        assert!(basis.reason.contains("another version"), "{}", basis.reason);
    }
}
