//! Messages of the server: framing over one reusable buffer, and a bounds-checked reader for their bodies (protocol
//! 3.0).
//!
//! A length is checked before memory is taken for it: little before the server has authenticated us, up to 1 GiB
//! after. A read that times out loses nothing.

use std::io::Read;
use std::ops::Range;

use crate::error::WireError;

/// Reads are at least this large when there is as much to read: 64 KiB costs 0.16 CPU seconds per GB, 32 KiB 0.23.
const READ_SIZE: usize = 256 * 1024;
/// A buffer that one large message made bigger than this is given back.
const KEEP_SIZE: usize = 4 << 20;
/// No message may be longer; PostgreSQL itself cannot build a field beyond 1 GiB.
const MAX_MESSAGE: usize = 1 << 30;
/// Before the server has authenticated us, nothing long can be meant for us.
const MAX_EARLY_MESSAGE: usize = 64 << 10;

/// Cuts the byte stream into messages. The body of the current message stays in the buffer until the next call.
#[derive(Debug)]
pub(crate) struct MessageReader {
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    body: Range<usize>,
    limit: usize,
}

impl MessageReader {
    pub(crate) fn new() -> MessageReader {
        MessageReader { buffer: Vec::new(), start: 0, end: 0, body: 0..0, limit: MAX_EARLY_MESSAGE }
    }

    /// From now on messages of full length are accepted.
    pub(crate) fn lift_limit(&mut self) {
        self.limit = MAX_MESSAGE;
    }

    /// The body of the message that [`MessageReader::advance`] found last.
    pub(crate) fn body(&self) -> &[u8] {
        &self.buffer[self.body.clone()]
    }

    /// Whether a whole message has arrived beyond the current one.
    pub(crate) fn has_message(&self) -> bool {
        match self.buffer[self.start..self.end] {
            [_, a, b, c, d, ..] => self.end - self.start > u32::from_be_bytes([a, b, c, d]) as usize,
            _ => false,
        }
    }

    /// Moves to the next message and returns its type. After a timeout it can be called again; nothing is lost.
    pub(crate) fn advance(&mut self, source: &mut impl Read, during: &'static str) -> Result<u8, WireError> {
        self.body = self.start..self.start;
        loop {
            let available = &self.buffer[self.start..self.end];
            let mut need = 5;
            if let [tag, a, b, c, d, ..] = *available {
                let length = u32::from_be_bytes([a, b, c, d]) as usize;
                if !tag.is_ascii_alphanumeric() {
                    return Err(WireError::protocol("the answer is not that of a PostgreSQL server"));
                }
                if length < 4 || length > self.limit {
                    return Err(WireError::protocol(format!(
                        "a message of type `{}` claims to be {length} bytes long",
                        char::from(tag)
                    )));
                }
                need = length + 1;
                if available.len() >= need {
                    self.body = self.start + 5..self.start + need;
                    self.start += need;
                    return Ok(tag);
                }
            }
            self.fill(need, source, during)?;
        }
    }

    /// Reads once, after making room. The buffer grows with what has arrived, not with what a length promises.
    fn fill(&mut self, need: usize, source: &mut impl Read, during: &'static str) -> Result<(), WireError> {
        let held = self.end - self.start;
        if held == 0 {
            (self.start, self.end) = (0, 0);
            if self.buffer.len() > KEEP_SIZE && need <= READ_SIZE {
                self.buffer = Vec::new();
            }
        }
        if self.buffer.is_empty() {
            self.buffer = vec![0; READ_SIZE];
        }
        let tail_room = self.buffer.len() - self.end;
        if self.start > 0 && (self.start + need > self.buffer.len() || tail_room < READ_SIZE / 2) {
            self.buffer.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, held);
        }
        if self.end == self.buffer.len() {
            let size = (self.buffer.len() * 2).min((self.start + need).max(READ_SIZE));
            self.buffer.resize(size, 0);
        }
        self.body = self.start..self.start;
        loop {
            match source.read(&mut self.buffer[self.end..]) {
                Ok(0) => return Err(WireError::Closed { mid_message: held > 0 }),
                Ok(count) => {
                    self.end += count;
                    return Ok(());
                }
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => {
                    return Err(WireError::Closed { mid_message: held > 0 });
                }
                Err(error) => return Err(WireError::from_io(error, during)),
            }
        }
    }
}

/// Reads a message body field by field; every read is checked.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Fields<'a>(pub(crate) &'a [u8]);

impl<'a> Fields<'a> {
    pub(crate) fn bytes(&mut self, count: usize) -> Result<&'a [u8], WireError> {
        let (head, tail) =
            self.0.split_at_checked(count).ok_or_else(|| WireError::protocol("a message is too short"))?;
        self.0 = tail;
        Ok(head)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], WireError> {
        let mut array = [0; N];
        array.copy_from_slice(self.bytes(N)?);
        Ok(array)
    }

    pub(crate) fn u8(&mut self) -> Result<u8, WireError> {
        Ok(self.array::<1>()?[0])
    }

    pub(crate) fn u16(&mut self) -> Result<u16, WireError> {
        Ok(u16::from_be_bytes(self.array()?))
    }

    pub(crate) fn i32(&mut self) -> Result<i32, WireError> {
        Ok(i32::from_be_bytes(self.array()?))
    }

    pub(crate) fn u64(&mut self) -> Result<u64, WireError> {
        Ok(u64::from_be_bytes(self.array()?))
    }

    /// Bytes up to a zero byte, which is taken too.
    pub(crate) fn c_string(&mut self) -> Result<&'a [u8], WireError> {
        let end = self
            .0
            .iter()
            .position(|byte| *byte == 0)
            .ok_or_else(|| WireError::protocol("a text in a message has no end"))?;
        let text = &self.0[..end];
        self.0 = &self.0[end + 1..];
        Ok(text)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use proptest::prelude::*;

    use super::*;

    fn message(tag: u8, body: &[u8]) -> Vec<u8> {
        let mut bytes = vec![tag];
        bytes.extend_from_slice(&u32::try_from(body.len() + 4).unwrap().to_be_bytes());
        bytes.extend_from_slice(body);
        bytes
    }

    /// Hands out at most `step` bytes at a time.
    struct Slow(Cursor<Vec<u8>>, usize);

    impl Read for Slow {
        fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
            let count = buffer.len().min(self.1);
            self.0.read(&mut buffer[..count])
        }
    }

    #[test]
    fn a_promised_gigabyte_is_not_allocated() {
        let mut reader = MessageReader::new();
        reader.lift_limit();
        let mut bytes = vec![b'd'];
        bytes.extend_from_slice(&(1u32 << 30).to_be_bytes());
        bytes.extend_from_slice(&[0; 1000]);
        let error = reader.advance(&mut Cursor::new(bytes), "test").unwrap_err();
        assert!(matches!(error, WireError::Closed { mid_message: true }));
        assert!(reader.buffer.len() <= READ_SIZE);
    }

    #[test]
    fn absurd_lengths_are_refused_at_once() {
        for length in [0u32, 3, u32::MAX, (1 << 30) + 1] {
            let mut reader = MessageReader::new();
            reader.lift_limit();
            let mut bytes = vec![b'd'];
            bytes.extend_from_slice(&length.to_be_bytes());
            bytes.extend_from_slice(&[0; 100]);
            assert!(matches!(reader.advance(&mut Cursor::new(bytes), "test"), Err(WireError::Protocol(_))));
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn messages_come_out_as_they_went_in(
            sizes in prop::collection::vec(0usize..400_000, 1..6),
            step in 1usize..300_000,
        ) {
            let step = step.max(sizes.iter().sum::<usize>() / 2000);
            let mut bytes = Vec::new();
            for (index, size) in sizes.iter().enumerate() {
                bytes.extend(message(b'd', &vec![index as u8; *size]));
            }
            let mut source = Slow(Cursor::new(bytes), step);
            let mut reader = MessageReader::new();
            reader.lift_limit();
            for (index, size) in sizes.iter().enumerate() {
                prop_assert_eq!(reader.advance(&mut source, "test").unwrap(), b'd');
                prop_assert_eq!(reader.body().len(), *size);
                prop_assert!(reader.body().iter().all(|byte| *byte == index as u8));
            }
            prop_assert!(reader.advance(&mut source, "test").is_err());
        }
    }
}
