//! What interrupted backups left: found when a backup begins, and on the side of a worker, where blocks that may lie in a
//! left frame wait until it is clear how many of the frame's blocks the cluster still has.
//!
//! A frame is taken over only when more than half of its blocks are, byte by byte, those that were read just now. Each
//! block is read once in a backup, so this can be true for one piece of work at most, and a frame is copied at most once,
//! without a word between the workers. Memory: the bytes of the waiting blocks ([`Reuse::held_bytes`], which the worker
//! bounds), and one frame.

use std::collections::BTreeMap;
use std::sync::Arc;

use pgkeep_repo::{
    BackupId, BlockDigest, ClusterRecord, EncodedFrame, FrameDecoder, FrameRef, LeftBlock, Leftovers, Stanza,
};

use crate::error::Error;
use crate::event::{Event, Observer};

/// What interrupted backups left, and is gone on with. Without it a backup does all by itself, so nothing that is wrong with
/// it is an error.
pub fn leftovers(
    stanza: &Stanza,
    record: &ClusterRecord,
    own: Option<BackupId>,
    observer: &dyn Observer,
) -> Option<Arc<Leftovers>> {
    match stanza.leftovers(record, own) {
        Ok(Some(left)) if left.frames() > 0 => {
            observer.event(Event::Note { text: leftovers_text(&left) });
            Some(Arc::new(left))
        }
        Ok(left) => {
            left.iter().for_each(|left| tell_damaged(left, observer));
            None
        }
        Err(error) => {
            let error = Error::from(error);
            observer.event(Event::Warning {
                text: format!("what interrupted backups left cannot be read: {error}"),
                hint: Some("the backup begins anew; nothing is missing in it".to_owned()),
            });
            None
        }
    }
}

fn leftovers_text(left: &Leftovers) -> String {
    let ids: Vec<String> = left.backups().iter().map(BackupId::to_string).collect();
    let backups = if ids.len() == 1 { "backup" } else { "backups" };
    format!("goes on with what {backups} {} left: {} frames", ids.join(", "), left.frames())
}

/// Warns of damage in what interrupted backups left.
pub fn tell_damaged(left: &Leftovers, observer: &dyn Observer) {
    if left.damaged() > 0 {
        observer.event(Event::Warning {
            text: format!("{} packs or frames that interrupted backups left are damaged", left.damaged()),
            hint: Some(
                "they were not used, and nothing is missing in this backup; look at the repository's disk"
                    .to_owned(),
            ),
        });
    }
}

/// A block that waits.
#[derive(Clone, Copy, Debug)]
pub struct Held {
    /// Which stretch of those that are processed together.
    pub stretch: usize,
    /// The block in its file.
    pub block: u32,
    /// Its digest.
    pub digest: BlockDigest,
    left: LeftBlock,
    /// Where its bytes wait, in blocks.
    at: usize,
}

impl Held {
    /// The position in the frame, in blocks.
    pub const fn position(&self) -> u32 {
        self.left.position
    }
}

/// A frame that is taken over, and the blocks that are the cluster's.
pub type TakenOver = (EncodedFrame, Vec<Held>);

/// One worker's view of what is left.
#[derive(Debug)]
pub struct Reuse {
    left: Arc<Leftovers>,
    decoder: FrameDecoder,
    block_size: usize,
    held: Vec<Held>,
    bytes: Vec<u8>,
    plain: Vec<u8>,
}

impl Reuse {
    /// Nothing waits yet.
    pub fn new(left: Arc<Leftovers>, block_size: usize) -> Reuse {
        Reuse {
            decoder: left.decoder(),
            left,
            block_size,
            held: Vec::new(),
            bytes: Vec::new(),
            plain: Vec::new(),
        }
    }

    /// Where blocks of a file may lie: one entry for each, or none at all.
    pub fn find(&self, path: &str, first: u32, count: usize) -> Vec<Option<LeftBlock>> {
        self.left.find(path.as_bytes(), first, u32::try_from(count).unwrap_or(u32::MAX))
    }

    /// Lets a block wait.
    pub fn hold(&mut self, stretch: usize, block: u32, digest: BlockDigest, left: LeftBlock, bytes: &[u8]) {
        let at = self.held.len();
        self.held.push(Held { stretch, block, digest, left, at });
        self.bytes.extend_from_slice(bytes);
    }

    /// How much waits.
    pub fn held_bytes(&self) -> usize {
        self.bytes.len()
    }

    /// Decides about all that waits. The second list are the blocks that must be stored anew, in the order in which they
    /// came; [`Self::bytes`] has them until [`Self::clear`].
    pub fn decide(&mut self) -> (Vec<TakenOver>, Vec<Held>) {
        let mut by_frame: BTreeMap<FrameRef, Vec<Held>> = BTreeMap::new();
        for held in std::mem::take(&mut self.held) {
            by_frame.entry(held.left.frame).or_default().push(held);
        }
        let promising: Vec<FrameRef> = by_frame
            .iter()
            .filter(|(frame, held)| self.is_most(held.len(), frame))
            .map(|(frame, _)| *frame)
            .collect();
        let mut taken = Vec::new();
        let mut anew = Vec::new();
        for stored in self.left.fetch(&promising) {
            let mut plain = std::mem::take(&mut self.plain);
            let frame = self.left.take_over(&mut self.decoder, &stored, &mut plain);
            self.plain = plain;
            let Some(frame) = frame else { continue };
            let Some(held) = by_frame.remove(&stored.frame) else { continue };
            let (same, other): (Vec<Held>, Vec<Held>) = held.into_iter().partition(|held| self.is_same(held));
            if self.is_most(same.len(), &stored.frame) {
                anew.extend(other);
                taken.push((frame, same));
            } else {
                anew.extend(same);
                anew.extend(other);
            }
        }
        anew.extend(by_frame.into_values().flatten());
        anew.sort_by_key(|held| held.at);
        (taken, anew)
    }

    /// The bytes of a block that `decide` answered.
    pub fn bytes(&self, held: &Held) -> &[u8] {
        &self.bytes[held.at * self.block_size..][..self.block_size]
    }

    /// Forgets the bytes.
    pub fn clear(&mut self) {
        self.bytes.clear();
    }

    fn is_most(&self, blocks: usize, frame: &FrameRef) -> bool {
        blocks * 2 > frame.raw_len as usize / self.block_size
    }

    /// Whether the frame that was decoded last has the very bytes of this block.
    fn is_same(&self, held: &Held) -> bool {
        let from = held.left.position as usize * self.block_size;
        self.plain.get(from..from + self.block_size) == Some(self.bytes(held))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::atomic::AtomicU64;

    use jiff::Timestamp;
    use pgkeep_format::Lsn;
    use pgkeep_repo::{BlockEncoder, Compression, LeaseInfo, ManifestHeader};

    use super::super::collector::Collector;
    use super::super::work::{SourceFile, Stretch, Work};
    use super::super::worker::{PageRule, Processed, Worker};
    use super::*;
    use crate::made_up;

    const BLOCK: usize = 8192;

    fn worker(stanza: &Stanza, left: Option<Arc<Leftovers>>) -> Worker {
        let key = stanza.repository().digest_key().clone();
        let rule =
            PageRule { block_size: BLOCK, checksums: false, start: Lsn(0), relation_segment_blocks: 131_072 };
        let encoder = BlockEncoder::new(Compression::Lz4, key, BLOCK as u32);
        Worker::new(encoder, rule, Arc::default()).reusing(left)
    }

    /// Files of blocks that each hold one byte all over, as work.
    fn work(files: &[(&str, Vec<u8>)]) -> Work {
        let stretch = |(number, (path, blocks)): (u64, &(&str, Vec<u8>))| {
            let bytes: Vec<u8> = blocks.iter().flat_map(|byte| [*byte; BLOCK]).collect();
            let file = Arc::new(SourceFile {
                number,
                path: (*path).to_owned(),
                mode: 0o600,
                modified: 0,
                size: bytes.len() as u64,
                relation: None,
                parent: None,
                file: None,
                stretches: AtomicU64::new(1),
                read_end: AtomicU64::new(0),
            });
            Stretch { file, offset: 0, length: bytes.len(), bytes: Some(bytes), skipped: 0 }
        };
        Work { padded_bytes: 0, stretches: (0..).zip(files).map(stretch).collect() }
    }

    fn process(stanza: &Stanza, left: Option<Arc<Leftovers>>, files: &[(&str, Vec<u8>)]) -> Vec<Processed> {
        let mut parts = Vec::new();
        let mut take = |part| {
            parts.push(part);
            Ok(())
        };
        worker(stanza, left).process(work(files), &mut take).unwrap();
        parts
    }

    /// Copied frames of each part, and the blocks of each file that lie in them.
    fn reused(parts: &[Processed]) -> (usize, BTreeMap<String, Vec<u32>>) {
        let mut blocks: BTreeMap<String, Vec<u32>> = BTreeMap::new();
        let mut frames = 0;
        for part in parts {
            frames += part.frames.iter().filter(|frame| frame.is_copy).count();
            for stretch in &part.stretches {
                let runs = stretch.runs.iter();
                let copied =
                    runs.filter(|run| run.place.is_some_and(|(frame, _)| part.frames[frame].is_copy));
                let numbers = copied.flat_map(|run| run.first_block..run.first_block + run.count);
                blocks.entry(stretch.file.path.clone()).or_default().extend(numbers);
            }
        }
        blocks.retain(|_, blocks| !blocks.is_empty());
        blocks.values_mut().for_each(|blocks| blocks.sort_unstable());
        (frames, blocks)
    }

    /// Writes the parts, and reads all files back by their maps.
    fn store(stanza: &Stanza, parts: Vec<Processed>, files: &[(&str, Vec<u8>)]) {
        let mut writer = begin(stanza);
        collect(stanza, &mut writer, parts);
        let record = stanza.records()[0];
        let header =
            ManifestHeader { record: record.sequence, block_size: BLOCK as u32, ..ManifestHeader::default() };
        let id = writer.commit(header).unwrap().id;
        let reader = stanza.backup(id).unwrap();
        for entry in reader.files() {
            let entry = entry.unwrap();
            let map = reader.map(&entry).unwrap();
            let expected = &files.iter().find(|(path, _)| *path == entry.path_text()).unwrap().1;
            let mut found = Vec::new();
            for run in map.runs() {
                match run.target {
                    pgkeep_repo::RunTarget::Zero => found.extend(std::iter::repeat_n(0, run.count as usize)),
                    pgkeep_repo::RunTarget::Frame { frame, position } => {
                        let plain = reader.frames().read(frame).unwrap();
                        let blocks = plain.chunks(BLOCK).map(|block| block[0]);
                        found.extend(blocks.skip(position as usize).take(run.count as usize));
                    }
                }
            }
            assert_eq!(&found, expected, "{}", entry.path_text());
        }
    }

    fn begin(stanza: &Stanza) -> pgkeep_repo::BackupWriter {
        let info = LeaseInfo { verb: "backup".into(), host: "h".into(), pid: 1, program: "test".into() };
        stanza.begin_backup(Timestamp::now(), info).unwrap()
    }

    fn collect(stanza: &Stanza, writer: &mut pgkeep_repo::BackupWriter, parts: Vec<Processed>) {
        let zero = stanza.repository().digest_key().zero_block(BLOCK as u32);
        let mut collector = Collector::new(writer, BLOCK as u32, zero);
        for part in parts {
            collector.accept(part).unwrap();
        }
        collector.finish().unwrap();
    }

    /// A backup of these files that was interrupted.
    fn interrupted(stanza: &Stanza, files: &[(&str, Vec<u8>)]) -> Option<Arc<Leftovers>> {
        let mut writer = begin(stanza);
        collect(stanza, &mut writer, process(stanza, None, files));
        writer.leave();
        stanza.leftovers(&stanza.records()[0], None).unwrap().map(Arc::new)
    }

    fn blocks(from: u8, count: u8) -> Vec<u8> {
        (from..from + count).collect()
    }

    #[test]
    fn a_block_that_changed_is_not_taken_from_a_frame_that_is() {
        let directory = tempfile::tempdir().unwrap();
        let stanza = made_up::stanza(directory.path());
        let mut files = vec![("base/5/1", blocks(1, 32))];
        let left = interrupted(&stanza, &files);
        files[0].1[3] = 99;
        files[0].1[17] = 0;
        let parts = process(&stanza, left, &files);
        let all_but_two: Vec<u32> = (0..32).filter(|block| ![3, 17].contains(block)).collect();
        assert_eq!(reused(&parts), (2, BTreeMap::from([("base/5/1".to_owned(), all_but_two)])));
        store(&stanza, parts, &files);
    }

    #[test]
    fn a_frame_of_which_half_changed_is_not_copied() {
        let directory = tempfile::tempdir().unwrap();
        let stanza = made_up::stanza(directory.path());
        let mut files = vec![("base/5/1", blocks(1, 32))];
        let left = interrupted(&stanza, &files);
        files[0].1[..8].fill(99);
        files[0].1[16..23].fill(99);
        let parts = process(&stanza, left, &files);
        assert_eq!(reused(&parts), (1, BTreeMap::from([("base/5/1".to_owned(), (23..32).collect())])));
        store(&stanza, parts, &files);
    }

    #[test]
    fn small_files_share_a_frame_that_is_taken_over_when_most_of_them_are_the_same() {
        let directory = tempfile::tempdir().unwrap();
        let stanza = made_up::stanza(directory.path());
        let files = [("a", blocks(1, 6)), ("b", blocks(20, 6)), ("c", blocks(40, 4))];
        let left = interrupted(&stanza, &files);
        // One is gone, one is new, one has the bytes of another under its own name.
        let now = [("b", blocks(20, 6)), ("c", blocks(40, 4)), ("d", blocks(1, 6))];
        let parts = process(&stanza, left, &now);
        let expected =
            BTreeMap::from([("b".to_owned(), (0..6).collect()), ("c".to_owned(), (0..4).collect())]);
        assert_eq!(reused(&parts), (1, expected));
        store(&stanza, parts, &now);
    }

    #[test]
    fn what_was_copied_can_be_copied_again() {
        let directory = tempfile::tempdir().unwrap();
        let stanza = made_up::stanza(directory.path());
        let mut files = vec![("base/5/1", blocks(1, 32)), ("base/5/2", blocks(50, 100))];
        let left = interrupted(&stanza, &files[..1]);
        files[0].1[3] = 99;
        let mut second = begin(&stanza);
        collect(&stanza, &mut second, process(&stanza, left, &files));
        let id = second.id();
        second.leave();
        let left = stanza.leftovers(&stanza.records()[0], None).unwrap().unwrap();
        assert_eq!(left.backups()[0], id);
        let parts = process(&stanza, Some(Arc::new(left)), &files);
        let (_, found) = reused(&parts);
        assert_eq!(found["base/5/2"].len(), 100);
        assert!(found["base/5/1"].len() >= 31, "{found:?}");
        store(&stanza, parts, &files);
    }
}
