//! The journal of a pack: which blocks of which files lie in its frames. See `docs/format/pack.md`.
//!
//! A backup that was interrupted has no manifest and no block maps that could be found; the journals of its whole packs say
//! what the next backup may go on with ([`crate::Leftovers`]). No backup that exists is read by its journals. They hold no
//! digests: what is taken over is decompressed and compared with the cluster byte by byte, so a journal may be old, or
//! wrong, and costs time at most.
//!
//! A journal frame can be understood by itself. It is written when it is full, so a writer holds 64 KiB of it.

use crate::bytes::{Malformed, Parsed, Reader, offset_u32, offset_u64, put_signed, put_varint};
use crate::frame::{FrameRef, MAX_BLOCKS_FRAME};
use crate::manifest::is_safe_path;
use crate::pack::PACK_HEADER_LEN;

/// Journal frames are closed at this size.
const JOURNAL_FRAME_BYTES: usize = 64 << 10;
const VERSION: u8 = 1;

/// Neighbouring blocks of one file that lie one after another in a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PlacedBlocks<'a> {
    /// The file, relative to the data directory.
    pub path: &'a [u8],
    /// The first of the blocks in the file.
    pub first_block: u32,
    /// How many; at least one.
    pub count: u32,
    /// Where the first of them lies in the frame, in blocks.
    pub position: u32,
}

/// Gathers the journal of the open pack.
#[derive(Debug)]
pub(crate) struct JournalWriter {
    record: u32,
    block_size: u32,
    raw: Vec<u8>,
    frame_end: u64,
    path: Vec<u8>,
    block_end: u32,
}

impl JournalWriter {
    pub(crate) fn new(record: u32, block_size: u32) -> JournalWriter {
        JournalWriter { record, block_size, raw: Vec::new(), frame_end: 0, path: Vec::new(), block_end: 0 }
    }

    /// Says what lies in a frame; `blocks` are in the order of their positions, and not empty.
    pub(crate) fn add(&mut self, frame: &FrameRef, blocks: &[PlacedBlocks<'_>]) {
        if self.raw.is_empty() {
            self.raw.push(VERSION);
            put_varint(&mut self.raw, u64::from(self.record));
            put_varint(&mut self.raw, u64::from(self.block_size));
            self.frame_end = PACK_HEADER_LEN as u64;
            self.path.clear();
            self.block_end = 0;
        }
        let out = &mut self.raw;
        put_varint(out, frame.offset.saturating_sub(self.frame_end));
        put_varint(out, u64::from(frame.stored_len));
        put_varint(out, u64::from(frame.raw_len));
        self.frame_end = frame.end();
        put_varint(out, blocks.len() as u64);
        let mut position = 0;
        for run in blocks {
            put_varint(out, u64::from(run.count));
            put_varint(out, u64::from(run.position.saturating_sub(position)));
            if run.path == self.path {
                put_varint(out, 0);
            } else {
                put_varint(out, run.path.len() as u64);
                out.extend_from_slice(run.path);
                self.path.clear();
                self.path.extend_from_slice(run.path);
                self.block_end = 0;
            }
            put_signed(out, i64::from(run.first_block) - i64::from(self.block_end));
            position = run.position.saturating_add(run.count);
            self.block_end = run.first_block.saturating_add(run.count);
        }
    }

    /// The plain bytes of a journal frame that is full.
    pub(crate) fn take_full(&mut self) -> Option<Vec<u8>> {
        (self.raw.len() >= JOURNAL_FRAME_BYTES).then(|| self.take()).flatten()
    }

    /// What is there yet.
    pub(crate) fn take(&mut self) -> Option<Vec<u8>> {
        Some(std::mem::take(&mut self.raw)).filter(|raw| !raw.is_empty())
    }
}

/// One journal frame, decoded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Journal {
    /// The cluster, by its sequence in the history of the stanza.
    pub(crate) record: u32,
    pub(crate) block_size: u32,
    /// Files that are named, in order; the same one may come again.
    pub(crate) paths: Vec<Box<[u8]>>,
    pub(crate) runs: Vec<JournalRun>,
    /// How many frames it speaks of.
    pub(crate) frames: u32,
}

/// Neighbouring blocks of one file that lie one after another in a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct JournalRun {
    /// Index in the paths.
    pub(crate) path: u32,
    pub(crate) first_block: u32,
    pub(crate) count: u32,
    pub(crate) frame: FrameRef,
    pub(crate) position: u32,
}

impl Journal {
    /// Decodes the plain bytes of a journal frame of that pack.
    pub(crate) fn decode(raw: &[u8], epoch: u32, pack: u32) -> Parsed<Journal> {
        let mut reader = Reader::new(raw);
        if reader.u8()? != VERSION {
            return Err(Malformed("the version of the journal is unknown"));
        }
        let (record, block_size) = (reader.varint_u32()?, reader.varint_u32()?);
        if !block_size.is_power_of_two() || block_size as usize > MAX_BLOCKS_FRAME {
            return Err(Malformed("the journal has an impossible block size"));
        }
        let mut journal = Journal { record, block_size, paths: Vec::new(), runs: Vec::new(), frames: 0 };
        let mut frame_end = PACK_HEADER_LEN as u64;
        let mut block_end = 0;
        while reader.remaining() > 0 {
            let gap = i64::try_from(reader.varint()?).map_err(|_| Malformed("a number is too large"))?;
            let offset = offset_u64(frame_end, gap)?;
            let (stored_len, raw_len) = (reader.varint_u32()?, reader.varint_u32()?);
            let frame = FrameRef { epoch, pack, offset, stored_len, raw_len };
            frame.check()?;
            if raw_len as usize > MAX_BLOCKS_FRAME || !raw_len.is_multiple_of(block_size) {
                return Err(Malformed("the journal names a frame that holds no blocks"));
            }
            frame_end = frame.end();
            journal.frames += 1;
            let runs = reader.varint()?;
            if runs == 0 {
                return Err(Malformed("the journal says nothing of a frame"));
            }
            let mut position = 0_u32;
            for _ in 0..runs {
                journal.read_run(&mut reader, frame, &mut position, &mut block_end)?;
            }
        }
        if journal.frames == 0 {
            return Err(Malformed("the journal is empty"));
        }
        Ok(journal)
    }

    fn read_run(
        &mut self,
        reader: &mut Reader<'_>,
        frame: FrameRef,
        position: &mut u32,
        block_end: &mut u32,
    ) -> Parsed<()> {
        let (count, gap) = (reader.varint_u32()?, reader.varint_u32()?);
        let length = reader.varint()?;
        if length > 0 {
            let length = usize::try_from(length).map_err(|_| Malformed("a number is too large"))?;
            let path = reader.take(length)?;
            if !is_safe_path(path) {
                return Err(Malformed("the journal names an impossible path"));
            }
            self.paths.push(path.into());
            *block_end = 0;
        }
        let path = self.paths.len().checked_sub(1).ok_or(Malformed("the journal names blocks of no file"))?;
        let first_block = offset_u32(*block_end, reader.signed()?)?;
        let from = position.checked_add(gap);
        let to = from.and_then(|from| from.checked_add(count)).filter(|_| count > 0);
        let last = first_block.checked_add(count);
        let (Some(from), Some(to), Some(last)) = (from, to, last) else {
            return Err(Malformed("a run of the journal is empty or too long"));
        };
        if to > frame.raw_len / self.block_size {
            return Err(Malformed("a run of the journal lies outside of its frame"));
        }
        // At most 2^24 bytes hold fewer paths.
        self.runs.push(JournalRun { path: path as u32, first_block, count, frame, position: from });
        (*position, *block_end) = (to, last);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const BLOCK: u32 = 8192;

    type DrawnRun = (u8, u32, u32, u32);
    type Noted = (FrameRef, Vec<(Vec<u8>, u32, u32, u32)>);

    fn write(noted: &[Noted]) -> Vec<Vec<u8>> {
        let mut writer = JournalWriter::new(3, BLOCK);
        let mut parts = Vec::new();
        for (frame, runs) in noted {
            let runs: Vec<PlacedBlocks<'_>> = runs
                .iter()
                .map(|(path, first_block, count, position)| PlacedBlocks {
                    path,
                    first_block: *first_block,
                    count: *count,
                    position: *position,
                })
                .collect();
            writer.add(frame, &runs);
            parts.extend(writer.take_full());
        }
        parts.extend(writer.take());
        parts
    }

    fn read(parts: &[Vec<u8>]) -> Vec<Noted> {
        let mut noted: Vec<Noted> = Vec::new();
        for part in parts {
            let journal = Journal::decode(part, 5, 2).unwrap();
            assert_eq!((journal.record, journal.block_size), (3, BLOCK));
            for run in &journal.runs {
                let path = journal.paths[run.path as usize].to_vec();
                let own = (path, run.first_block, run.count, run.position);
                match noted.last_mut() {
                    Some((frame, runs)) if *frame == run.frame => runs.push(own),
                    _ => noted.push((run.frame, vec![own])),
                }
            }
        }
        noted
    }

    fn frames() -> impl Strategy<Value = Vec<Noted>> {
        let run = (0..4_u8, any::<u32>(), 1..5_u32, 0..3_u32);
        let frame = (0..5000_u64, 40..4000_u32, prop::collection::vec(run, 1..8));
        prop::collection::vec(frame, 1..60).prop_map(|frames| {
            let mut at = 64;
            let frame_of = |(gap, stored_len, runs): (u64, u32, Vec<DrawnRun>)| {
                let mut position = 0;
                let place = |(file, first, count, skip): DrawnRun| {
                    let path = format!("base/5/{}", "1".repeat(usize::from(file) + 1)).into_bytes();
                    let from = position + skip;
                    position = from + count;
                    (path, first.min(u32::MAX - count), count, from)
                };
                let runs: Vec<_> = runs.into_iter().map(place).collect();
                let frame =
                    FrameRef { epoch: 5, pack: 2, offset: at + gap, stored_len, raw_len: position * BLOCK };
                at = frame.end();
                (frame, runs)
            };
            frames.into_iter().map(frame_of).collect()
        })
    }

    proptest! {
        #[test]
        fn what_was_noted_is_read(noted in frames()) {
            prop_assert_eq!(read(&write(&noted)), noted);
        }

        #[test]
        fn arbitrary_bytes_are_refused_or_make_sense(bytes: Vec<u8>) {
            let mut whole = vec![VERSION, 1, 0x80, 0x40];
            whole.extend(bytes);
            if let Ok(journal) = Journal::decode(&whole, 1, 1) {
                for run in journal.runs {
                    prop_assert!((run.position + run.count) * BLOCK <= run.frame.raw_len);
                    prop_assert!((run.path as usize) < journal.paths.len());
                }
            }
        }

        #[test]
        fn a_journal_that_is_cut_or_changed_is_refused_or_makes_sense(
            noted in frames(),
            at in any::<prop::sample::Index>(),
            value: u8,
        ) {
            for mut part in write(&noted) {
                let at = at.index(part.len());
                part[at] = value;
                drop(Journal::decode(&part, 5, 2));
                drop(Journal::decode(&part[..at], 5, 2));
            }
        }
    }

    #[test]
    fn long_journals_are_cut_into_frames_that_stand_alone() {
        let frame = |index: u64| FrameRef {
            epoch: 5,
            pack: 2,
            offset: 64 + index * 1000,
            stored_len: 1000,
            raw_len: BLOCK,
        };
        let noted: Vec<Noted> =
            (0..20_000).map(|i| (frame(i), vec![(b"base/5/1".to_vec(), i as u32 * 7, 1, 0)])).collect();
        let parts = write(&noted);
        assert!(parts.len() > 1 && parts.iter().all(|part| part.len() < JOURNAL_FRAME_BYTES + 100));
        assert_eq!(read(&parts), noted);
    }

    #[test]
    fn paths_that_leave_the_data_directory_are_refused() {
        let frame = FrameRef { epoch: 5, pack: 2, offset: 64, stored_len: 100, raw_len: BLOCK };
        for path in ["../x", "/etc/passwd", "a//b"] {
            let parts = write(&[(frame, vec![(path.as_bytes().to_vec(), 0, 1, 0)])]);
            assert!(Journal::decode(&parts[0], 5, 2).is_err(), "{path}");
        }
    }
}
