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
use crate::manifest::{PREAMBLE_LEN, PackEntry, Preamble};
use crate::stanza::Stanza;
use crate::{RepoError, key, lease};

/// Frames of one line.
pub(super) const LINE_FRAMES: usize = 1024;
/// One read of this size mostly has the whole header.
const FIRST_READ: u64 = 64 << 10;
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
    let store = stanza.repository().store();
    let key = key::dump_manifest(stanza.name(), id);
    let (start, size) = store.get_start(&key, FIRST_READ)?;
    if start.as_ref() == lease::ABANDONED {
        return Err(RepoError::NotFound { key });
    }
    let preamble = Preamble::decode(&key, &start)?;
    check_length(&key, &preamble, size)?;
    let end = preamble.files_offset();
    let stored = match usize::try_from(end).ok().and_then(|end| start.get(PREAMBLE_LEN..end)) {
        Some(stored) => Bytes::copy_from_slice(stored),
        None => store.get_range(&key, PREAMBLE_LEN as u64..end)?,
    };
    Ok((decode_header(stanza, id, &key, &preamble, &stored)?, preamble))
}

/// Reads the whole manifest; [`RepoError::NotFound`] where there is none.
pub(super) fn read(stanza: &Stanza, id: DumpId) -> Result<(DumpHeader, Vec<PartLines>)> {
    let key = key::dump_manifest(stanza.name(), id);
    let bytes = stanza.repository().store().get(&key)?;
    if bytes.as_ref() == lease::ABANDONED {
        return Err(RepoError::NotFound { key });
    }
    let preamble = Preamble::decode(&key, &bytes)?;
    check_length(&key, &preamble, bytes.len() as u64)?;
    let begin = usize::try_from(preamble.files_offset()).unwrap_or(usize::MAX);
    let header =
        decode_header(stanza, id, &key, &preamble, bytes.get(PREAMBLE_LEN..begin).unwrap_or_default())?;
    let lines = read_lines(stanza, &key, &preamble, &header, bytes.slice(begin..))?;
    Ok((header, lines))
}

fn check_length(key: &str, preamble: &Preamble, size: u64) -> Result<()> {
    let end = preamble.files_offset();
    if end.checked_add(preamble.files_stored) == Some(size) {
        return Ok(());
    }
    let what = "the manifest does not have the length that it declares";
    Err(RepoError::corrupt(key, size.min(end), what))
}

fn decode_header(
    stanza: &Stanza,
    id: DumpId,
    key: &str,
    preamble: &Preamble,
    stored: &[u8],
) -> Result<DumpHeader> {
    let repository = stanza.repository();
    let corrupt = |what: &str| RepoError::corrupt(key, PREAMBLE_LEN as u64, what);
    let plain_len = preamble.header_plain as usize;
    let plain = zstd::bulk::decompress(stored, plain_len)
        .map_err(|_| corrupt("the header cannot be decompressed"))?;
    if plain.len() != plain_len || repository.digest_key().manifest(&plain) != preamble.header_digest {
        return Err(corrupt("the digest of the header is wrong"));
    }
    let header: DumpHeader = serde_json::from_slice(&plain)
        .map_err(|e| corrupt(&format!("the header is not the JSON of a dump: {e}")))?;
    if preamble.repository_id != repository.id_bytes()
        || preamble.epoch != id.epoch()
        || header.id != id
        || header.stanza != stanza.name().as_str()
    {
        return Err(corrupt("the manifest is that of another dump"));
    }
    if header.packs.iter().any(|pack| pack.backup != id || pack.epoch != id.epoch()) {
        return Err(corrupt("a pack of another dump"));
    }
    Ok(header)
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
