//! Follows the framing of LZ4 while its bytes pass, so that a frame that is cut short is an error: the decoder takes the
//! end of its input between two blocks for the end of the frame.

use std::io::{self, BufRead, Read};

const MAGIC: u32 = 0x184d_2204;
/// 16 values, of frames that carry what is not data.
const SKIPPABLE: u32 = 0x184d_2a50;

/// Which part of a frame comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Magic,
    Flags,
    HeaderRest,
    BlockSize,
    Block,
    ContentChecksum,
    SkippableSize,
    Skippable,
    /// Nothing that is known here; the decoder says so.
    Unknown,
}

/// A reader that knows where frames end.
#[derive(Debug)]
pub(super) struct Lz4Walk<R> {
    inner: R,
    part: Part,
    /// Bytes of the part that are still to come.
    remaining: u64,
    /// The last four bytes of the part.
    last: [u8; 4],
    block_checksums: bool,
    content_checksum: bool,
}

impl<R> Lz4Walk<R> {
    pub(super) fn new(inner: R) -> Lz4Walk<R> {
        Lz4Walk {
            inner,
            part: Part::Magic,
            remaining: 4,
            last: [0; 4],
            block_checksums: false,
            content_checksum: false,
        }
    }

    fn pass(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() && self.part != Part::Unknown {
            let length = usize::try_from(self.remaining).unwrap_or(usize::MAX).min(bytes.len());
            let (now, later) = bytes.split_at(length);
            for byte in &now[now.len().saturating_sub(4)..] {
                self.last.rotate_left(1);
                self.last[3] = *byte;
            }
            self.remaining -= now.len() as u64;
            bytes = later;
            while self.remaining == 0 && self.part != Part::Unknown {
                self.turn();
            }
        }
    }

    /// The part is complete.
    fn turn(&mut self) {
        let word = u32::from_le_bytes(self.last);
        (self.part, self.remaining) = match self.part {
            Part::Magic if word == MAGIC => (Part::Flags, 2),
            Part::Magic if word & !15 == SKIPPABLE => (Part::SkippableSize, 4),
            Part::Magic | Part::Unknown => (Part::Unknown, 0),
            Part::Flags => {
                let flags = self.last[2];
                let is_set = |bit: u8| flags & (1 << bit) != 0;
                (self.block_checksums, self.content_checksum) = (is_set(4), is_set(2));
                let size = if is_set(3) { 8 } else { 0 };
                let dictionary = if is_set(0) { 4 } else { 0 };
                (Part::HeaderRest, size + dictionary + 1)
            }
            Part::HeaderRest | Part::Block => (Part::BlockSize, 4),
            Part::BlockSize if word == 0 && self.content_checksum => (Part::ContentChecksum, 4),
            Part::BlockSize if word == 0 => (Part::Magic, 4),
            Part::BlockSize => {
                let checksum = if self.block_checksums { 4 } else { 0 };
                (Part::Block, u64::from(word & 0x7fff_ffff) + checksum)
            }
            Part::ContentChecksum | Part::Skippable => (Part::Magic, 4),
            Part::SkippableSize => (Part::Skippable, u64::from(word)),
        };
    }

    fn check_end(&self) -> io::Result<()> {
        if self.part == Part::Unknown || (self.part == Part::Magic && self.remaining == 4) {
            return Ok(());
        }
        // Not `UnexpectedEof`, which the decoder would take for an end.
        Err(io::Error::new(io::ErrorKind::InvalidData, "the LZ4 frame is cut short"))
    }
}

impl<R: BufRead> Lz4Walk<R> {
    /// Whether all was read.
    pub(super) fn is_at_end(&mut self) -> io::Result<bool> {
        Ok(self.inner.fill_buf()?.is_empty())
    }
}

impl<R: Read> Read for Lz4Walk<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        if read == 0 && !buffer.is_empty() {
            self.check_end()?;
        }
        self.pass(&buffer[..read]);
        Ok(read)
    }
}
