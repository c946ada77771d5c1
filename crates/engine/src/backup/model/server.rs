//! What a server sends in an incremental backup, as far as the model needs it: the decisions of `GetFileBackupMethod`
//! (`backup/basebackup_incremental.c`, PostgreSQL 17 and 18), and the tar stream of BASE_BACKUP.

use pgkeep_format::incremental_file::{INCREMENTAL_PREFIX, IncrementalHeader};
use pgkeep_format::tar::{TarEntry, TarEntryKind, padding_of};
use pgkeep_format::wal::BlockSummary;
use pgkeep_format::{Fork, RelationFile};

use super::world::{BLOCK, SEGMENT_BLOCKS};
use crate::changed_blocks::{LimitBlocks, ParentFile};

/// The archive of the data directory. `parent` are the files of the uploaded manifest and what changed since; none for a
/// backup of everything.
pub fn stream(
    files: &[(String, Vec<u8>)],
    parent: Option<(&[ParentFile], &BlockSummary)>,
    version: u32,
) -> Vec<u8> {
    let mut tar = Vec::new();
    for (path, bytes) in files {
        let sent = parent.and_then(|(listed, changes)| {
            let listed = listed.iter().find(|file| file.path == *path);
            let listed = listed.filter(|file| file.is_listed(version, BLOCK as u32))?;
            in_part(listed.relation.as_ref()?, bytes, changes)
        });
        match sent {
            Some(part) => {
                let (folder, name) = path.rsplit_once('/').unwrap();
                add(&mut tar, &format!("{folder}/{INCREMENTAL_PREFIX}{name}"), &part);
            }
            None => add(&mut tar, path, bytes),
        }
    }
    tar.extend([0; 1024]);
    tar
}

/// The incremental file; none where the whole file is sent.
fn in_part(relation: &RelationFile, bytes: &[u8], changes: &BlockSummary) -> Option<Vec<u8>> {
    let blocks = u32::try_from(bytes.len() / BLOCK).unwrap();
    let locator = relation.locator;
    if relation.fork == Fork::Fsm || changes.is_full_database(locator.tablespace, locator.database) {
        return None;
    }
    let first = relation.first_block(SEGMENT_BLOCKS).unwrap();
    let mut header = IncrementalHeader { truncation_block_length: blocks, blocks: Vec::new() };
    match changes.changes_of(locator, relation.fork) {
        None if blocks == 0 => return None,
        None => {}
        Some(changes) => {
            if changes.limit.is_some_and(|limit| limit <= first) {
                return None;
            }
            header.blocks =
                changes.blocks.iter_range(first..first + blocks).map(|block| block - first).collect();
            if header.blocks.len() * 10 > blocks as usize * 9 {
                return None;
            }
            if let Some(limit) = changes.limit {
                header.truncation_block_length = blocks.max(limit - first).min(SEGMENT_BLOCKS);
            }
        }
    }
    let mut sent = header.encode(BLOCK as u32);
    for block in &header.blocks {
        sent.extend_from_slice(&bytes[*block as usize * BLOCK..][..BLOCK]);
    }
    Some(sent)
}

fn add(tar: &mut Vec<u8>, path: &str, bytes: &[u8]) {
    let entry = TarEntry {
        path: path.as_bytes().to_vec(),
        kind: TarEntryKind::File,
        size: bytes.len() as u64,
        mode: 0o600,
        mtime: 0,
        link: Vec::new(),
    };
    tar.extend(entry.header().unwrap());
    tar.extend_from_slice(bytes);
    tar.resize(tar.len() + usize::try_from(padding_of(entry.size)).unwrap(), 0);
}

/// The limits that the server tells by SQL.
pub fn limits(changes: &BlockSummary) -> LimitBlocks {
    LimitBlocks::of(changes.clone())
}
