//! The manifest of a dump: the start and the header line as a backup's manifest has them, then lines of two kinds.
//!
//! - *Frames*: neighbours in one pack, in the order of the part's bytes.
//! - *Tables*: an entry of an archive, how many rows and bytes it has.

use std::io::{BufRead, BufReader, Cursor, Read};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::{DumpHeader, DumpId, DumpedTable};
use crate::bytes::{Malformed, Parsed};
use crate::digest::finish16;
use crate::error::Result;
use crate::frame::FrameRef;
use crate::manifest::{PackEntry, Preamble};
use crate::stanza::Stanza;
use crate::{RepoError, key, stored_manifest};

/// Frames of one line.
pub(super) const LINE_FRAMES: usize = 1024;
/// The longest line.
const MAX_LINE: u64 = 1 << 20;
/// Frames of one dump: 16 TiB. Lines of a hostile manifest would fill memory.
const MAX_FRAMES: usize = 1 << 24;
/// Tables of one dump.
const MAX_TABLES: usize = 1 << 24;

/// A line as JSON has it.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Line {
    Frames {
        part: u32,
        /// Index in the header's list of packs.
        pack: u32,
        /// Where the first frame begins.
        offset: u64,
        /// Stored and plain length of each.
        frames: Vec<[u32; 2]>,
    },
    Table {
        part: u32,
        #[serde(flatten)]
        table: DumpedTable,
    },
}

/// The line of frames that follow each other in one pack.
pub(super) fn frames_line(part: u32, pack: u32, frames: &[FrameRef]) -> Vec<u8> {
    let line = Line::Frames {
        part,
        pack,
        offset: frames.first().map_or(0, |frame| frame.offset),
        frames: frames.iter().map(|frame| [frame.stored_len, frame.raw_len]).collect(),
    };
    // Numbers always serialise.
    serde_json::to_vec(&line).unwrap_or_default()
}

/// The line of a table.
pub(super) fn table_line(part: u32, table: &DumpedTable) -> Vec<u8> {
    serde_json::to_vec(&Line::Table { part, table: table.clone() }).unwrap_or_default()
}

/// What the lines of a part say.
#[derive(Clone, Debug, Default)]
pub(super) struct PartLines {
    /// Its frames, in the order of its bytes.
    pub(super) frames: Vec<FrameRef>,
    /// Its tables.
    pub(super) tables: Vec<DumpedTable>,
}

/// Reads the header of a dump; [`RepoError::NotFound`] where there is none.
pub(super) fn read_header(stanza: &Stanza, id: DumpId) -> Result<(DumpHeader, Preamble)> {
    stored_manifest::read_header(stanza, id, key::dump_manifest(stanza.name(), id))
}

/// Reads the whole manifest; [`RepoError::NotFound`] where there is none.
pub(super) fn read(stanza: &Stanza, id: DumpId) -> Result<(DumpHeader, Vec<PartLines>)> {
    let key = key::dump_manifest(stanza.name(), id);
    let (header, preamble, stored) = stored_manifest::read(stanza, id, &key)?;
    let lines = read_lines(stanza, &key, &preamble, &header, stored)?;
    Ok((header, lines))
}

/// Reads all lines, and believes them when their digest is right and they add up to the sizes of the parts.
fn read_lines(
    stanza: &Stanza,
    key: &str,
    preamble: &Preamble,
    header: &DumpHeader,
    stored: Bytes,
) -> Result<Vec<PartLines>> {
    let corrupt = |what: &str| RepoError::corrupt(key, preamble.files_offset(), what);
    let broken = |_| corrupt("the lines cannot be decompressed");
    let mut parts = vec![PartLines::default(); header.parts.len()];
    let mut hasher = stanza.repository().digest_key().manifest_hasher();
    let (mut length, mut frames, mut tables) = (0_u64, 0, 0);
    let decoder = zstd::Decoder::with_buffer(Cursor::new(stored)).map_err(broken)?;
    let mut reader = BufReader::new(decoder);
    loop {
        let mut line = Vec::new();
        (&mut reader).take(MAX_LINE).read_until(b'\n', &mut line).map_err(broken)?;
        if line.is_empty() {
            break;
        }
        hasher.update(&line);
        length += line.len() as u64;
        if length > preamble.files_plain || line.pop() != Some(b'\n') {
            return Err(corrupt("the lines are longer than they declare, or cut"));
        }
        let line: Line =
            serde_json::from_slice(&line).map_err(|_| corrupt("a line is not the JSON of a dump"))?;
        take(line, header, &mut parts).map_err(|m| corrupt(m.0))?;
        frames = parts.iter().map(|part| part.frames.len()).sum::<usize>().max(frames);
        tables = parts.iter().map(|part| part.tables.len()).sum::<usize>().max(tables);
        if frames > MAX_FRAMES || tables > MAX_TABLES {
            return Err(corrupt("there are too many lines"));
        }
    }
    if length != preamble.files_plain || finish16(&hasher) != preamble.files_digest {
        return Err(corrupt("the digest of the lines is wrong"));
    }
    for (part, lines) in header.parts.iter().zip(&parts) {
        let size: u64 = lines.frames.iter().map(|frame| u64::from(frame.raw_len)).sum();
        if size != part.size || lines.tables.len() as u64 != part.tables {
            return Err(corrupt("the lines do not add up to what the header says"));
        }
    }
    Ok(parts)
}

/// For the fuzzer: lines of a manifest with this header.
pub(crate) fn answer_lines<'a>(header: &DumpHeader, lines: impl Iterator<Item = &'a [u8]>) {
    let mut parts = vec![PartLines::default(); header.parts.len()];
    for line in lines {
        if let Ok(line) = serde_json::from_slice(line)
            && take(line, header, &mut parts).is_err()
        {
            break;
        }
    }
}

fn take(line: Line, header: &DumpHeader, parts: &mut [PartLines]) -> Parsed<()> {
    let unknown = Malformed("a line of an unknown part");
    match line {
        Line::Frames { part, pack, offset, frames } => {
            let lines = parts.get_mut(part as usize).ok_or(unknown)?;
            let pack: &PackEntry =
                header.packs.get(pack as usize).ok_or(Malformed("a line names an unknown pack"))?;
            let mut offset = offset;
            for [stored_len, raw_len] in frames {
                let frame = FrameRef { epoch: pack.epoch, pack: pack.number, offset, stored_len, raw_len };
                frame.check()?;
                offset = frame.end();
                lines.frames.push(frame);
            }
        }
        Line::Table { part, table } => parts.get_mut(part as usize).ok_or(unknown)?.tables.push(table),
    }
    Ok(())
}
