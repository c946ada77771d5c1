//! Parts on their way from the sessions that fetch them to the one who writes them, in order and in bounded memory.
//!
//! Parts are taken in their order. What belongs to the *head*, the part that is being written, waits in memory, little of
//! it; a session that is ahead of the head may fill memory up to a budget that all share, then an unnamed temporary file up
//! to another one, and waits then. The head is always somebody's who waits for nothing but the writer, so it goes on.

use std::collections::{HashMap, VecDeque};
use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Seek, Write};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use pgkeep_format::archive::PIECE_DIGEST_LENGTH;
use pgkeep_tool::{Result, ToolError, system_text};
use pgkeep_wire::CancelHandle;

/// Bytes of parts ahead of the head that wait in memory.
const MEMORY: usize = 80 << 20;
/// Bytes of the head that wait in memory.
const HEAD_MEMORY: usize = 8 << 20;
/// Bytes that wait in temporary files.
const SPILLED: u64 = 2 << 30;
/// What an item without bytes counts for.
const SMALL: usize = 16;
/// Parts that may be taken ahead of the head.
const PARTS_AHEAD: usize = 256;

/// What comes of a part, compressed.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Item {
    Bytes(Vec<u8>),
    /// A large object begins.
    LargeObject(u32),
    /// It ends.
    LargeObjectEnd,
    /// What came since the last end is a piece. Every part ends with one.
    PieceEnd(PieceFacts),
}

impl Item {
    /// What it counts for.
    fn length(&self) -> usize {
        match self {
            Item::Bytes(bytes) => bytes.len(),
            Item::LargeObject(_) | Item::LargeObjectEnd | Item::PieceEnd(_) => SMALL,
        }
    }
}

/// What a piece holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PieceFacts {
    pub(crate) plain_length: u64,
    pub(crate) rows: u64,
    pub(crate) digest: [u8; PIECE_DIGEST_LENGTH],
    /// Adler-32, where it is needed.
    pub(crate) checksum: u32,
}

impl PieceFacts {
    const ENCODED_LENGTH: usize = 16 + PIECE_DIGEST_LENGTH;

    /// All but the checksum, for a temporary file.
    fn encode(&self) -> Vec<u8> {
        [&self.plain_length.to_le_bytes()[..], &self.rows.to_le_bytes(), &self.digest].concat()
    }

    fn decode(bytes: &[u8; Self::ENCODED_LENGTH], checksum: u32) -> PieceFacts {
        let mut facts = PieceFacts { plain_length: 0, rows: 0, digest: [0; PIECE_DIGEST_LENGTH], checksum };
        let (numbers, digest) = bytes.split_at(16);
        if let (Some((length, rest)), Ok(digest)) = (numbers.split_first_chunk(), digest.try_into()) {
            facts.plain_length = u64::from_le_bytes(*length);
            facts.rows = rest.try_into().map_or(0, u64::from_le_bytes);
            facts.digest = digest;
        }
        facts
    }
}

/// Where sessions and the writer meet.
#[derive(Debug)]
pub(crate) struct Window {
    state: Mutex<State>,
    /// Sessions wait here.
    room: Condvar,
    /// The writer waits here.
    news: Condvar,
    parts: usize,
    cancels: Vec<CancelHandle>,
    memory: usize,
}

#[derive(Debug, Default)]
struct State {
    next: usize,
    head: usize,
    slots: HashMap<usize, Slot>,
    /// Of all slots but the head's.
    buffered: usize,
    spilled: u64,
    failure: Option<ToolError>,
    stopped: bool,
}

/// What waits of a part: first what is in memory, then what was spilled.
#[derive(Debug, Default)]
struct Slot {
    items: VecDeque<Item>,
    bytes: usize,
    spill: Option<Spill>,
    done: bool,
}

/// What the writer gets.
enum News {
    Item(Item),
    Spill(Spill),
    Done,
}

impl Window {
    /// For so many parts. The handles stop the sessions when nobody wants their parts any more.
    pub(crate) fn new(parts: usize, cancels: Vec<CancelHandle>) -> Window {
        Window::with_memory(parts, cancels, MEMORY)
    }

    fn with_memory(parts: usize, cancels: Vec<CancelHandle>, memory: usize) -> Window {
        let (state, room, news) = (Mutex::default(), Condvar::new(), Condvar::new());
        Window { state, room, news, parts, cancels, memory }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The number of the next part to be fetched; none when there is no more, or the dump has failed.
    pub(crate) fn take(&self) -> Option<usize> {
        let mut state = self.lock();
        loop {
            if state.stopped || state.next >= self.parts {
                return None;
            }
            let is_ahead = state.next > state.head;
            let has_room = state.next < state.head + PARTS_AHEAD && state.buffered < self.memory;
            if !is_ahead || has_room {
                state.next += 1;
                return Some(state.next - 1);
            }
            state = self.room.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Hands over what comes next of a part that was taken.
    pub(crate) fn push(&self, part: usize, item: Item) -> Result<()> {
        let length = item.length();
        let mut state = self.lock();
        loop {
            if state.stopped {
                return Err(ToolError::new("the dump was given up"));
            }
            let State { head, slots, buffered, spilled, .. } = &mut *state;
            let slot = slots.entry(part).or_default();
            let is_head = *head == part;
            if slot.spill.is_none() {
                let has_room =
                    if is_head { slot.bytes < HEAD_MEMORY } else { *buffered + length <= self.memory };
                if has_room {
                    slot.items.push_back(item);
                    slot.bytes += length;
                    if is_head {
                        self.news.notify_one();
                    } else {
                        *buffered += length;
                    }
                    return Ok(());
                }
            }
            // What is spilled already goes first. The writer fetches it as soon as it gets here.
            let may_spill = if is_head { slot.spill.is_some() } else { *spilled + length as u64 <= SPILLED };
            if may_spill {
                let spill = match slot.spill.take() {
                    Some(spill) => Some(spill),
                    // Without a temporary file it waits.
                    None => Spill::new().ok(),
                };
                if let Some(mut spill) = spill {
                    spill.put(&item)?;
                    *spilled += length as u64;
                    slot.spill = Some(spill);
                    return Ok(());
                }
            }
            state = self.room.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// A part is complete.
    pub(crate) fn done(&self, part: usize) {
        let mut state = self.lock();
        state.slots.entry(part).or_default().done = true;
        self.news.notify_one();
    }

    /// A session failed; the first failure is the dump's.
    pub(crate) fn fail(&self, error: ToolError) {
        let mut state = self.lock();
        state.failure.get_or_insert(error);
        drop(state);
        self.stop();
    }

    /// Nobody fetches anything more.
    pub(crate) fn stop(&self) {
        let mut state = self.lock();
        let is_over = state.stopped || state.head >= self.parts;
        state.stopped = true;
        drop(state);
        self.room.notify_all();
        self.news.notify_all();
        if !is_over {
            for cancel in &self.cancels {
                drop(cancel.cancel());
            }
        }
    }

    fn news(&self) -> Result<News> {
        let mut state = self.lock();
        loop {
            if let Some(failure) = &state.failure {
                return Err(failure.clone());
            }
            if state.stopped {
                return Err(ToolError::new("the dump was given up"));
            }
            let head = state.head;
            let slot = state.slots.entry(head).or_default();
            if let Some(item) = slot.items.pop_front() {
                slot.bytes = slot.bytes.saturating_sub(item.length());
                self.room.notify_all();
                return Ok(News::Item(item));
            }
            if let Some(spill) = slot.spill.take() {
                state.spilled = state.spilled.saturating_sub(spill.length);
                self.room.notify_all();
                return Ok(News::Spill(spill));
            }
            if slot.done {
                state.slots.remove(&head);
                state.head += 1;
                let next = state.head;
                // What waited for the new head is its own from now on.
                let waiting = state.slots.get(&next).map_or(0, |slot| slot.bytes);
                state.buffered = state.buffered.saturating_sub(waiting);
                self.room.notify_all();
                return Ok(News::Done);
            }
            state = self.news.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Hands the next part to `take`, item by item.
    pub(crate) fn deliver(&self, take: &mut dyn FnMut(Item) -> Result<()>) -> Result<()> {
        loop {
            match self.news()? {
                News::Item(item) => take(item)?,
                News::Spill(spill) => spill.each(take)?,
                News::Done => return Ok(()),
            }
        }
    }
}

/// Items in a temporary file.
#[derive(Debug)]
struct Spill {
    file: BufWriter<File>,
    /// As it counts against the budget.
    length: u64,
}

fn spill_error(error: &io::Error) -> ToolError {
    ToolError::new(format!("could not use a temporary file: {}", system_text(error)))
        .hint("free space in the temporary folder, or dump with fewer jobs")
}

impl Spill {
    fn new() -> io::Result<Spill> {
        Ok(Spill { file: BufWriter::new(tempfile::tempfile()?), length: 0 })
    }

    fn put(&mut self, item: &Item) -> Result<()> {
        let encoded;
        let (kind, value, bytes): (u8, u32, &[u8]) = match item {
            Item::Bytes(bytes) => (0, u32::try_from(bytes.len()).unwrap_or(u32::MAX), bytes),
            Item::LargeObject(oid) => (1, *oid, &[]),
            Item::LargeObjectEnd => (2, 0, &[]),
            Item::PieceEnd(facts) => {
                encoded = facts.encode();
                (3, facts.checksum, &encoded)
            }
        };
        self.length += item.length() as u64;
        let head = [&[kind][..], &value.to_le_bytes()].concat();
        self.file
            .write_all(&head)
            .and_then(|()| self.file.write_all(bytes))
            .map_err(|error| spill_error(&error))
    }

    fn each(self, take: &mut dyn FnMut(Item) -> Result<()>) -> Result<()> {
        let failed = |error: io::Error| spill_error(&error);
        let mut file = self.file.into_inner().map_err(|error| failed(error.into_error()))?;
        let length = file.stream_position().map_err(failed)?;
        file.rewind().map_err(failed)?;
        let mut file = BufReader::new(file.take(length));
        loop {
            let mut head = [0; 5];
            match file.read_exact(&mut head) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
                Err(error) => return Err(failed(error)),
            }
            let [kind, a, b, c, d] = head;
            let value = u32::from_le_bytes([a, b, c, d]);
            take(match kind {
                0 => {
                    let mut bytes = vec![0; value as usize];
                    file.read_exact(&mut bytes).map_err(failed)?;
                    Item::Bytes(bytes)
                }
                1 => Item::LargeObject(value),
                2 => Item::LargeObjectEnd,
                _ => {
                    let mut bytes = [0; PieceFacts::ENCODED_LENGTH];
                    file.read_exact(&mut bytes).map_err(failed)?;
                    Item::PieceEnd(PieceFacts::decode(&bytes, value))
                }
            })?;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(rows: u64) -> PieceFacts {
        PieceFacts { plain_length: rows << 40, rows, digest: [7; 16], checksum: 1 }
    }

    #[test]
    fn parts_come_out_in_order_whoever_is_fast() {
        // Little memory, so that most of it is spilled.
        let window = Window::with_memory(50, Vec::new(), 1000);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    while let Some(part) = window.take() {
                        let byte = u8::try_from(part).unwrap();
                        for _ in 0..part % 7 {
                            window.push(part, Item::Bytes(vec![byte; 300])).unwrap();
                        }
                        window.push(part, Item::LargeObject(part as u32)).unwrap();
                        window.push(part, Item::LargeObjectEnd).unwrap();
                        window.push(part, Item::PieceEnd(facts(part as u64))).unwrap();
                        window.done(part);
                    }
                });
            }
            for part in 0..50 {
                let mut items = Vec::new();
                window
                    .deliver(&mut |item| {
                        items.push(item);
                        Ok(())
                    })
                    .unwrap();
                let byte = u8::try_from(part).unwrap();
                let mut expected: Vec<Item> = (0..part % 7).map(|_| Item::Bytes(vec![byte; 300])).collect();
                let ended = Item::PieceEnd(facts(part as u64));
                expected.extend([Item::LargeObject(part as u32), Item::LargeObjectEnd, ended]);
                assert_eq!(items, expected);
            }
            assert!(window.take().is_none());
            let state = window.lock();
            assert_eq!((state.buffered, state.spilled, state.slots.len()), (0, 0, 0));
        });
    }

    #[test]
    fn a_failure_ends_everybody() {
        let window = Window::with_memory(3, Vec::new(), 1000);
        let (first, second) = (window.take().unwrap(), window.take().unwrap());
        window.push(second, Item::Bytes(vec![1])).unwrap();
        std::thread::scope(|scope| {
            let writer = scope.spawn(|| window.deliver(&mut |_| Ok(())).unwrap_err().message);
            window.fail(ToolError::new("lost"));
            window.fail(ToolError::new("later"));
            assert_eq!(writer.join().unwrap(), "lost");
        });
        assert!(window.push(first, Item::LargeObjectEnd).is_err());
        assert!(window.take().is_none());
    }
}
