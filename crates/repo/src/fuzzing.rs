//! Doors for fuzz targets: every decoder of stored bytes, with the checksums that would keep a fuzzer out computed for it.
//! No part of the interface.

use crate::block_map::{Root, decode_digests, decode_runs};
use crate::bytes::Reader;
use crate::digest::crc32c;
use crate::frame::{FRAME_HEADER_LEN, FrameDecoder, FramePlace, FrameRef};
use crate::journal::Journal;
use crate::manifest::{PREAMBLE_LEN, Preamble, decode_line, encode_line};
use crate::pack::{PACK_HEADER_LEN, PackHeader, PackTrailer, decode_index};
use crate::wal_object::{self, WAL_HEADER_LEN, WalHeader};
use crate::{BackupId, BlockRun, DigestKey, ManifestHeader, RunTarget, StanzaName};

/// Whether it is an error does not matter, only that there is an answer.
fn answer<T>(_: T) {}

fn key() -> DigestKey {
    DigestKey::new(&[0; 32])
}

/// Writes the CRC-32C of what comes before it at the end of the first `length` bytes.
fn with_crc(bytes: &[u8], length: usize) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    if let Some((covered, crc)) = bytes.get_mut(..length).and_then(|head| head.split_last_chunk_mut::<4>()) {
        *crc = crc32c(&[covered]).to_le_bytes();
    }
    bytes
}

fn check_cover(runs: &[BlockRun], blocks: u32, block_size: u32) {
    let mut next = 0;
    for run in runs {
        assert_eq!(run.first_block, next);
        assert!(run.count > 0);
        if let RunTarget::Frame { frame, position } = run.target {
            assert!((position + run.count) * block_size <= frame.raw_len);
        }
        next += run.count;
    }
    assert_eq!(next, blocks);
}

/// Roots, leaves and digests of block maps.
pub fn block_map(bytes: &[u8]) {
    let Some((choice, rest)) = bytes.split_first() else { return };
    let blocks = u32::from(*choice) + 1;
    if let Ok(runs) = decode_runs(rest, 0, blocks, 8192) {
        check_cover(&runs, blocks, 8192);
    }
    answer(decode_digests(rest));
    if let Ok(root) = Root::decode(rest, 8192, &key()) {
        assert_eq!(Root::decode(&root.encode(), 8192, &key()), Ok(root));
    }
    answer(FrameRef::decode(None, &mut Reader::new(rest)));
}

/// The header of a dump's manifest, then its lines.
pub fn dump_manifest(bytes: &[u8]) {
    let mut lines = bytes.split(|byte| *byte == b'\n');
    let header = serde_json::from_slice(lines.next().unwrap_or_default());
    let Ok(header) = header else { return };
    crate::dump::answer_lines(&header, lines);
}

/// The start of a manifest, its header, its lines.
pub fn manifest(bytes: &[u8]) {
    answer(Preamble::decode("manifest", &with_crc(bytes, PREAMBLE_LEN)));
    answer(serde_json::from_slice::<ManifestHeader>(bytes));
    if let Ok(entry) = decode_line(bytes, &[]) {
        assert_eq!(decode_line(&encode_line(&entry, |_| 0), &[]), Ok(entry));
    }
    if let Ok(text) = std::str::from_utf8(bytes) {
        if let Ok(id) = text.parse::<BackupId>() {
            assert_eq!(id.to_string(), text);
        }
        answer(text.parse::<StanzaName>());
    }
}

/// Headers, trailers, indexes and frames of packs.
pub fn pack(bytes: &[u8]) {
    answer(PackHeader::decode("pack", &with_crc(bytes, PACK_HEADER_LEN)));
    answer(PackTrailer::decode(bytes));
    let mut entries = Vec::new();
    let mut offset = PACK_HEADER_LEN as u64;
    if decode_index(bytes, 1, 1, &mut offset, &mut entries).is_ok() {
        assert_eq!(entries.last().map_or(PACK_HEADER_LEN as u64, |entry| entry.frame.end()), offset);
    }
    let place = FramePlace { pack_id: [0; 16], offset: 64 };
    let mut frame = bytes.to_vec();
    if frame.len() > FRAME_HEADER_LEN {
        frame[0..4].copy_from_slice(&(bytes.len() as u32).to_le_bytes());
        let crc = crc32c(&[&place.pack_id, &place.offset.to_le_bytes(), &frame[..12], &frame[16..]]);
        frame[12..16].copy_from_slice(&crc.to_le_bytes());
        let raw_len = u32::from_le_bytes([frame[4], frame[5], frame[6], frame[7]]);
        answer(FrameDecoder::new(key(), 8192).decode(&frame, place, raw_len, &mut Vec::new()));
    }
}

/// Journals of packs.
pub fn journal(bytes: &[u8]) {
    if let Ok(journal) = Journal::decode(bytes, 1, 1) {
        for run in &journal.runs {
            assert!((run.path as usize) < journal.paths.len());
            let last = u64::from(run.position) + u64::from(run.count);
            assert!(last * u64::from(journal.block_size) <= u64::from(run.frame.raw_len));
        }
    }
}

/// Whole WAL objects.
pub fn wal(bytes: &[u8]) {
    let fixed = with_crc(bytes, WAL_HEADER_LEN);
    if let Ok(header) = WalHeader::decode("wal", &fixed, [0; 16]) {
        let end = usize::try_from(header.summary_end()).unwrap_or(usize::MAX);
        answer(header.decode_summary("wal", fixed.get(WAL_HEADER_LEN..end).unwrap_or_default()));
    }
    answer(wal_object::decode("wal", &fixed, [0; 16], &key()));
}
