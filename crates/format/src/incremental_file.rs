//! `INCREMENTAL.<name>`: some blocks of one relation file, as servers from 17 on send them instead of the whole
//! (`backup/basebackup_incremental.c`, `backup/basebackup.c`, the same in 17 and 18).
//!
//! A header in machine order: magic, number of blocks, truncation block length, the numbers of the blocks within the file,
//! ascending. If there are blocks, zeros up to the next multiple of the block size, then the blocks in that order. The
//! *truncation block length* is the length that a file put together from this one has at least: the length of the file, or
//! the shortest length that it had since the parent, whichever is more. Versions before 17.8 and 18.2 do not keep it below
//! the length of a segment; here it is.
//!
//! The length of the member is known beforehand (from the tar header), so the number of blocks must fit it, and nothing is
//! allocated for numbers that cannot follow.

use crate::le::u32_at;

/// What the names of such files begin with.
pub const INCREMENTAL_PREFIX: &str = "INCREMENTAL.";

const MAGIC: u32 = 0xD3AE_1F0D;
/// Magic, number of blocks, truncation block length.
const FIXED: usize = 12;

/// The path of the whole file that an incremental one stands for; none where the name is no incremental file's.
#[must_use]
pub fn whole_path(path: &str) -> Option<String> {
    let (folder, name) = path.rsplit_once('/').map_or(("", path), |(folder, name)| (folder, name));
    let whole = name.strip_prefix(INCREMENTAL_PREFIX).filter(|whole| !whole.is_empty())?;
    Some(if folder.is_empty() { whole.to_owned() } else { format!("{folder}/{whole}") })
}

/// What precedes the blocks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IncrementalHeader {
    /// The length, in blocks, that the whole file has at least; at most a segment.
    pub truncation_block_length: u32,
    /// The blocks that follow, by their numbers within the file, ascending.
    pub blocks: Vec<u32>,
}

impl IncrementalHeader {
    /// Blocks of the whole file: what is neither in this file nor in the parent is zeros.
    #[must_use]
    pub fn file_blocks(&self) -> u32 {
        let sent = self.blocks.last().map_or(0, |last| last.saturating_add(1));
        self.truncation_block_length.max(sent)
    }

    /// The bytes before the blocks, as a server writes them.
    #[must_use]
    pub fn encode(&self, block_size: u32) -> Vec<u8> {
        let count = u32::try_from(self.blocks.len()).unwrap_or(u32::MAX);
        let mut bytes: Vec<u8> = [MAGIC, count, self.truncation_block_length]
            .iter()
            .flat_map(|field| field.to_le_bytes())
            .collect();
        bytes.extend(self.blocks.iter().flat_map(|block| block.to_le_bytes()));
        bytes.resize(padded(bytes.len(), count, block_size), 0);
        bytes
    }
}

/// Bytes before the blocks, of which `length` are not padding.
fn padded(length: usize, blocks: u32, block_size: u32) -> usize {
    match usize::try_from(block_size) {
        Ok(size) if blocks > 0 && size > 0 => length.next_multiple_of(size),
        _ => length,
    }
}

/// Why the bytes are no incremental file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum IncrementalFileError {
    /// It begins with something else.
    #[error("the file begins with {found:#010x}, which is not how an incremental file begins")]
    BadMagic {
        /// With what.
        found: u32,
    },
    /// More blocks than a segment of a relation has.
    #[error("the file has {count} blocks, and a segment has {most}")]
    TooManyBlocks {
        /// How many.
        count: u32,
        /// How many a segment has.
        most: u32,
    },
    /// The numbers do not ascend, or one is beyond the segment.
    #[error("block {block} is out of order or beyond the segment")]
    BadBlock {
        /// Which.
        block: u32,
    },
    /// Something else than zeros between the header and the blocks.
    #[error("what fills up the header is not zero")]
    BadPadding,
    /// Not as long as its header says.
    #[error("the file has {found} bytes, and by its header {expected}")]
    WrongLength {
        /// By the header.
        expected: u64,
        /// Really, or as announced.
        found: u64,
    },
}

/// What the reader found.
#[derive(Debug, PartialEq, Eq)]
pub enum IncrementalEvent<'a> {
    /// All of the header.
    Header(IncrementalHeader),
    /// The next bytes of the blocks, in the order of the header, cut anywhere.
    Data(&'a [u8]),
}

/// Reads an incremental file from pieces cut anywhere.
#[derive(Debug)]
pub struct IncrementalReader {
    file_length: u64,
    block_size: u32,
    segment_blocks: u32,
    read: u64,
    /// The fixed part and the numbers, as far as they came.
    header: Vec<u8>,
    state: State,
}

#[derive(Debug, Clone, Copy)]
enum State {
    Fixed,
    Numbers { end: usize },
    Padding { left: usize },
    Data,
}

impl IncrementalReader {
    /// A file that is announced with that length, of a cluster with those sizes.
    #[must_use]
    pub fn new(file_length: u64, block_size: u32, relation_segment_blocks: u32) -> IncrementalReader {
        IncrementalReader {
            file_length,
            block_size,
            segment_blocks: relation_segment_blocks,
            read: 0,
            header: Vec::new(),
            state: State::Fixed,
        }
    }

    /// Takes from the front of `bytes`; none when they are used up.
    ///
    /// # Errors
    /// When they are not an incremental file's. The reader is of no more use then.
    pub fn next<'a>(
        &mut self,
        bytes: &mut &'a [u8],
    ) -> Result<Option<IncrementalEvent<'a>>, IncrementalFileError> {
        loop {
            match self.state {
                State::Fixed => {
                    if !self.fill(bytes, FIXED) {
                        return Ok(None);
                    }
                    self.state = self.check_fixed()?;
                }
                State::Numbers { end } => {
                    if !self.fill(bytes, end) {
                        return Ok(None);
                    }
                    let header = self.parse()?;
                    let count = self.count();
                    let left = padded(end, count, self.block_size).saturating_sub(end);
                    self.state = State::Padding { left };
                    self.header = Vec::new();
                    return Ok(Some(IncrementalEvent::Header(header)));
                }
                State::Padding { left: 0 } => self.state = State::Data,
                State::Padding { left } => {
                    let padding = self.take(bytes, left);
                    if padding.is_empty() {
                        return Ok(None);
                    }
                    if padding.iter().any(|byte| *byte != 0) {
                        return Err(IncrementalFileError::BadPadding);
                    }
                    self.state = State::Padding { left: left.saturating_sub(padding.len()) };
                }
                State::Data => {
                    let rest =
                        usize::try_from(self.file_length.saturating_sub(self.read)).unwrap_or(usize::MAX);
                    if rest == 0 && !bytes.is_empty() {
                        let found = self.read.saturating_add(bytes.len() as u64);
                        return Err(IncrementalFileError::WrongLength { expected: self.file_length, found });
                    }
                    let data = self.take(bytes, rest);
                    return Ok((!data.is_empty()).then_some(IncrementalEvent::Data(data)));
                }
            }
        }
    }

    /// That the file was there to its end.
    ///
    /// # Errors
    /// When bytes are missing.
    pub fn finish(self) -> Result<(), IncrementalFileError> {
        let is_whole =
            self.read == self.file_length && matches!(self.state, State::Data | State::Padding { left: 0 });
        if is_whole {
            return Ok(());
        }
        let expected = self.file_length.max(self.read.saturating_add(1));
        Err(IncrementalFileError::WrongLength { expected, found: self.read })
    }

    /// Gathers the header up to `end`; says whether it is there.
    fn fill(&mut self, bytes: &mut &[u8], end: usize) -> bool {
        let piece = self.take(bytes, end.saturating_sub(self.header.len()));
        self.header.extend_from_slice(piece);
        self.header.len() >= end
    }

    fn take<'a>(&mut self, bytes: &mut &'a [u8], most: usize) -> &'a [u8] {
        let (piece, rest) = bytes.split_at_checked(most).unwrap_or((bytes, &[]));
        *bytes = rest;
        self.read = self.read.saturating_add(piece.len() as u64);
        piece
    }

    fn count(&self) -> u32 {
        u32_at(&self.header, 4).unwrap_or_default()
    }

    fn check_fixed(&self) -> Result<State, IncrementalFileError> {
        let found = u32_at(&self.header, 0).unwrap_or_default();
        if found != MAGIC {
            return Err(IncrementalFileError::BadMagic { found });
        }
        let count = self.count();
        if count > self.segment_blocks {
            return Err(IncrementalFileError::TooManyBlocks { count, most: self.segment_blocks });
        }
        let end = (count as usize).saturating_mul(4).saturating_add(FIXED);
        let blocks = u64::from(count).saturating_mul(u64::from(self.block_size));
        let expected = (padded(end, count, self.block_size) as u64).saturating_add(blocks);
        if expected != self.file_length {
            return Err(IncrementalFileError::WrongLength { expected, found: self.file_length });
        }
        Ok(State::Numbers { end })
    }

    fn parse(&self) -> Result<IncrementalHeader, IncrementalFileError> {
        let numbers = self.header.get(FIXED..).unwrap_or_default();
        let mut blocks: Vec<u32> = Vec::with_capacity(numbers.len() / 4);
        for number in numbers.as_chunks::<4>().0 {
            let block = u32::from_le_bytes(*number);
            if block >= self.segment_blocks || blocks.last().is_some_and(|last| *last >= block) {
                return Err(IncrementalFileError::BadBlock { block });
            }
            blocks.push(block);
        }
        let truncation_block_length = u32_at(&self.header, 8).unwrap_or_default().min(self.segment_blocks);
        Ok(IncrementalHeader { truncation_block_length, blocks })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const BLOCK: u32 = 1024;
    const SEGMENT: u32 = 1000;

    fn file(header: &IncrementalHeader) -> Vec<u8> {
        let mut bytes = header.encode(BLOCK);
        for block in &header.blocks {
            bytes.extend(std::iter::repeat_n(*block as u8 | 1, BLOCK as usize));
        }
        bytes
    }

    /// Header and blocks of a file that comes in pieces of that size.
    fn read(
        bytes: &[u8],
        length: u64,
        piece: usize,
    ) -> Result<(IncrementalHeader, Vec<u8>), IncrementalFileError> {
        let mut reader = IncrementalReader::new(length, BLOCK, SEGMENT);
        let (mut header, mut data) = (None, Vec::new());
        for mut piece in bytes.chunks(piece) {
            while let Some(event) = reader.next(&mut piece)? {
                match event {
                    IncrementalEvent::Header(found) => header = Some(found),
                    IncrementalEvent::Data(bytes) => data.extend_from_slice(bytes),
                }
            }
        }
        reader.finish()?;
        Ok((header.unwrap(), data))
    }

    fn read_whole(bytes: &[u8]) -> Result<(IncrementalHeader, Vec<u8>), IncrementalFileError> {
        read(bytes, bytes.len() as u64, bytes.len().max(1))
    }

    fn header(truncation_block_length: u32, blocks: &[u32]) -> IncrementalHeader {
        IncrementalHeader { truncation_block_length, blocks: blocks.to_vec() }
    }

    #[test]
    fn a_file_without_blocks_is_twelve_bytes() {
        let bytes = file(&header(7, &[]));
        assert_eq!(bytes, [0x0D, 0x1F, 0xAE, 0xD3, 0, 0, 0, 0, 7, 0, 0, 0]);
        for piece in 1..13 {
            assert_eq!(read(&bytes, 12, piece).unwrap(), (header(7, &[]), Vec::new()));
        }
        assert_eq!(header(7, &[]).file_blocks(), 7);
        assert_eq!(header(7, &[3, 8]).file_blocks(), 9);
    }

    #[test]
    fn the_truncation_length_is_kept_within_the_segment() {
        assert_eq!(read_whole(&file(&header(5000, &[]))).unwrap().0, header(SEGMENT, &[]));
    }

    #[test]
    fn what_is_not_such_a_file_is_refused() {
        use IncrementalFileError as E;
        let good = file(&header(9, &[1, 5]));
        let with = |at: usize, value: u32| {
            let mut bytes = good.clone();
            bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
            read_whole(&bytes).unwrap_err()
        };
        assert_eq!(with(0, 1), E::BadMagic { found: 1 });
        assert_eq!(with(4, SEGMENT + 1), E::TooManyBlocks { count: SEGMENT + 1, most: SEGMENT });
        assert_eq!(with(4, u32::MAX), E::TooManyBlocks { count: u32::MAX, most: SEGMENT });
        assert!(matches!(with(4, 1), E::WrongLength { .. }));
        assert!(matches!(with(4, 0), E::WrongLength { .. }));
        assert_eq!(with(12, 5), E::BadBlock { block: 5 });
        assert_eq!(with(16, SEGMENT), E::BadBlock { block: SEGMENT });
        assert_eq!(with(20, 1), E::BadPadding);
        for length in 0..good.len() {
            assert!(read(&good[..length], good.len() as u64, 100).is_err(), "{length}");
        }
        let mut longer = good.clone();
        longer.push(0);
        assert!(matches!(read_whole(&longer), Err(E::WrongLength { .. })));
        assert!(matches!(read(&longer, good.len() as u64, 100), Err(E::WrongLength { .. })));
    }

    #[test]
    fn the_path_of_the_whole_file() {
        assert_eq!(whole_path("base/5/INCREMENTAL.16384.1").as_deref(), Some("base/5/16384.1"));
        assert_eq!(whole_path("INCREMENTAL.x").as_deref(), Some("x"));
        for path in ["base/5/16384", "INCREMENTAL./x", "base/INCREMENTAL.", "xINCREMENTAL.1"] {
            assert_eq!(whole_path(path), None, "{path}");
        }
    }

    proptest! {
        #[test]
        fn any_cut_gives_the_same(blocks in proptest::collection::btree_set(0..SEGMENT, 0..300), truncation in 0..=SEGMENT, piece in 1_usize..5000) {
            let header = header(truncation, &blocks.into_iter().collect::<Vec<_>>());
            let bytes = file(&header);
            let (found, data) = read(&bytes, bytes.len() as u64, piece).unwrap();
            prop_assert_eq!(data.len(), header.blocks.len() * BLOCK as usize);
            prop_assert!(data.chunks(BLOCK as usize).zip(&header.blocks).all(|(page, block)| page[0] == *block as u8 | 1));
            prop_assert_eq!(found, header);
        }

        #[test]
        fn damage_does_no_harm(mut bytes in proptest::collection::vec(any::<u8>(), 0..3000), length in any::<u64>(), keep in any::<bool>()) {
            if keep && bytes.len() >= 4 {
                bytes[..4].copy_from_slice(&MAGIC.to_le_bytes());
            }
            drop(read(&bytes, length, 70));
            drop(read_whole(&bytes));
        }
    }
}
