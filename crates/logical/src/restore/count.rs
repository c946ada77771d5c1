//! Decoding the data of an archive without restoring it: what each entry holds.

use std::collections::HashMap;

use pgkeep_format::archive::DumpId;

use super::source::{Archive, Piece};
use crate::dump::WrittenData;
use crate::error::{LogicalError, Result};

/// What ends the rows of COPY in an archive.
const END: &[u8] = b"\\.\n\n\n";

/// Decodes the data of these entries, which must be in the order of the table of contents, and counts it.
///
/// # Errors
/// When there is no such entry, or its data cannot be read.
pub fn count_data(archive: &mut Archive, entries: &[DumpId]) -> Result<Vec<WrittenData>> {
    let mut counts = Vec::with_capacity(entries.len());
    let places: HashMap<DumpId, usize> =
        archive.contents.entries.iter().map(|entry| entry.dump_id).zip(0..).collect();
    for id in entries {
        let found = places.get(id).and_then(|place| archive.contents.entries.get(*place));
        let entry = found.ok_or_else(|| LogicalError::new(format!("the archive has no entry {id}")))?.clone();
        let is_blobs = entry.desc.as_bytes() == b"BLOBS";
        let (mut bytes, mut lines) = (0_u64, 0_u64);
        let mut tail: Vec<u8> = Vec::new();
        let mut sink = |piece: Piece<'_>| {
            if let Piece::Bytes(piece) = piece {
                bytes += piece.len() as u64;
                lines += piece.iter().filter(|byte| **byte == b'\n').count() as u64;
                let kept = piece.len().saturating_sub(END.len());
                tail.extend_from_slice(piece.get(kept..).unwrap_or(piece));
                let surplus = tail.len().saturating_sub(END.len());
                tail.drain(..surplus);
            }
            Ok(())
        };
        if is_blobs {
            archive.source.large_objects(&entry, &mut sink)?;
        } else {
            archive.source.rows(&entry, &mut sink)?;
        }
        let is_copy = !is_blobs && tail == END;
        counts.push(WrittenData { bytes, rows: is_copy.then(|| lines.saturating_sub(3)) });
    }
    Ok(counts)
}
