//! The bytes of a part of a dump, to be read in order or at any place.
//!
//! Frames are proved as they are decoded (place, length, digest), so what is read is what was written, or an error. A
//! stretch that is read in order is fetched ahead by some frames.

use std::collections::VecDeque;
use std::io::{self, Read, Seek, SeekFrom};
use std::sync::Arc;

use crate::RepoError;
use crate::frame::{FrameDecoder, FrameKind, FrameRef};
use crate::frame_fetcher::{FrameFetcher, StoredFrame};

/// Frames that are fetched with one read when the frame before was read as well.
const FRAMES_AHEAD: usize = 4;

/// Reads a part of a dump.
#[derive(Debug)]
pub struct DumpPartReader {
    fetcher: FrameFetcher,
    decoder: FrameDecoder,
    frames: Arc<Vec<FrameRef>>,
    /// Where each frame's bytes begin in the part.
    starts: Arc<Vec<u64>>,
    size: u64,
    position: u64,
    /// The frame that is decoded, and its bytes.
    current: Option<usize>,
    plain: Vec<u8>,
    /// Frames that were fetched and come next.
    ahead: VecDeque<(usize, StoredFrame)>,
    failure: Option<RepoError>,
}

impl DumpPartReader {
    pub(super) fn new(fetcher: FrameFetcher, frames: Vec<FrameRef>) -> DumpPartReader {
        let mut size = 0_u64;
        let starts = frames.iter().map(|frame| {
            let start = size;
            size = size.saturating_add(frame.raw_len.into());
            start
        });
        let starts = starts.collect();
        DumpPartReader::at_beginning(fetcher, Arc::new(frames), Arc::new(starts), size)
    }

    /// Another reader of the same bytes, at their beginning: for another thread.
    #[must_use]
    pub fn reopen(&self) -> DumpPartReader {
        let (frames, starts) = (Arc::clone(&self.frames), Arc::clone(&self.starts));
        DumpPartReader::at_beginning(self.fetcher.clone(), frames, starts, self.size)
    }

    fn at_beginning(
        fetcher: FrameFetcher,
        frames: Arc<Vec<FrameRef>>,
        starts: Arc<Vec<u64>>,
        size: u64,
    ) -> DumpPartReader {
        DumpPartReader {
            decoder: fetcher.decoder(),
            fetcher,
            frames,
            starts,
            size,
            position: 0,
            current: None,
            plain: Vec::new(),
            ahead: VecDeque::new(),
            failure: None,
        }
    }

    /// How many bytes there are.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The error behind the [`io::Error`] that reading ended with: it names the object and the place.
    pub fn take_failure(&mut self) -> Option<RepoError> {
        self.failure.take()
    }

    fn load(&mut self, index: usize) -> Result<(), RepoError> {
        if self.current == Some(index) {
            return Ok(());
        }
        while self.ahead.front().is_some_and(|(next, _)| *next != index) {
            self.ahead.pop_front();
        }
        if self.ahead.is_empty() {
            let in_order = self.current.is_some_and(|current| current + 1 == index);
            let count = if in_order { FRAMES_AHEAD } else { 1 };
            let frames = self.frames.get(index..).unwrap_or_default();
            let frames = frames.get(..count).unwrap_or(frames);
            self.ahead.extend((index..).zip(self.fetcher.fetch(frames)?));
        }
        let Some((_, stored)) = self.ahead.pop_front() else {
            return Err(RepoError::unrepresentable("a frame beyond the end of a dump"));
        };
        self.current = None;
        self.fetcher.decode_as(FrameKind::Dump, &mut self.decoder, &stored, &mut self.plain)?;
        self.current = Some(index);
        Ok(())
    }
}

impl Read for DumpPartReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() || self.position >= self.size {
            return Ok(0);
        }
        let index = self.starts.partition_point(|start| *start <= self.position).saturating_sub(1);
        if let Err(error) = self.load(index) {
            let told = io::Error::other(error.to_string());
            self.failure.get_or_insert(error);
            return Err(told);
        }
        let start = self.starts.get(index).copied().unwrap_or(0);
        let from = usize::try_from(self.position.saturating_sub(start)).unwrap_or(usize::MAX);
        let rest = self.plain.get(from..).unwrap_or_default();
        let count = rest.len().min(buffer.len());
        if let (Some(to), Some(bytes)) = (buffer.get_mut(..count), rest.get(..count)) {
            to.copy_from_slice(bytes);
        }
        self.position += count as u64;
        Ok(count)
    }
}

impl Seek for DumpPartReader {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let target = match to {
            SeekFrom::Start(at) => Some(at),
            SeekFrom::End(offset) => self.size.checked_add_signed(offset),
            SeekFrom::Current(offset) => self.position.checked_add_signed(offset),
        };
        self.position = target.ok_or_else(|| {
            io::Error::new(io::ErrorKind::InvalidInput, "a position before the beginning of a dump")
        })?;
        Ok(self.position)
    }
}
