//! Tar archives as servers stream them in a base backup: ustar, read piece by piece without ever holding a file.
//!
//! Everything in an archive is taken as hostile. A path is relative and stays below the directory it is unpacked in; it
//! never leads through a link that the same archive brought; numbers fit; headers carry their checksum; names that need
//! the pax or GNU extensions are read up to [`MAX_EXTENSION_LENGTH`], everything else that is not a file, a directory or
//! a symbolic link is refused. The target of a link may be absolute, as those of `pg_tblspc` are: whoever unpacks
//! creates the link and does not follow it.
//!
//! Servers up to 14 leave out the two zero blocks that end an archive, hence [`TarReader::finish`].

use std::collections::BTreeSet;

mod header;

pub use header::TarError;
use header::{Extension, Header, HeaderKind};

/// The unit of an archive: headers are one block, contents are padded to whole blocks.
pub const BLOCK: usize = 512;
/// The bytes that end an archive.
pub const END_OF_ARCHIVE: [u8; 2 * BLOCK] = [0; 2 * BLOCK];
/// The longest extended header that is read; a path and a link target fit several times.
pub const MAX_EXTENSION_LENGTH: u64 = 64 << 10;
/// The longest path, and the longest target of a link.
pub const MAX_PATH_LENGTH: usize = 4096;
/// The most links in one archive: a cluster has one for each tablespace.
pub const MAX_LINKS: usize = 1 << 16;

/// What an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TarEntryKind {
    /// A regular file; its contents follow.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
}

/// A file, directory or link in an archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TarEntry {
    /// Relative, without `.`, `..`, empty names or a slash at the end; `.` alone for the archive's root.
    pub path: Vec<u8>,
    /// What it is.
    pub kind: TarEntryKind,
    /// Bytes of contents; 0 for all but files.
    pub size: u64,
    /// Permission bits.
    pub mode: u32,
    /// Time of the last change, in seconds since 1970.
    pub mtime: i64,
    /// The target of a symbolic link; empty otherwise. Not to be followed while unpacking.
    pub link: Vec<u8>,
}

/// What comes next in an archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TarEvent<'a> {
    /// An entry begins.
    Entry(TarEntry),
    /// The next bytes of the entry's contents; never empty.
    Data(&'a [u8]),
    /// The entry is complete. Follows every entry, also those without contents.
    EndOfEntry,
}

#[derive(Debug)]
enum State {
    Header,
    Extension { kind: Extension, contents: Vec<u8>, remaining: u64, padding: u64 },
    Contents { remaining: u64, padding: u64 },
    Padding { remaining: u64 },
    Ended,
}

/// Reads an archive that arrives in pieces.
///
/// ```
/// use pgkeep_format::tar::{TarEvent, TarReader};
///
/// let mut reader = TarReader::new();
/// for mut piece in [&[0u8; 700][..], &[0; 324]] {
///     while let Some(event) = reader.next(&mut piece)? {
///         match event {
///             TarEvent::Entry(entry) => println!("{}", entry.path.escape_ascii()),
///             TarEvent::Data(_) | TarEvent::EndOfEntry => {}
///         }
///     }
/// }
/// assert!(reader.has_ended());
/// reader.finish()?;
/// # Ok::<(), pgkeep_format::tar::TarError>(())
/// ```
#[derive(Debug)]
pub struct TarReader {
    state: State,
    /// The part of a block that has arrived.
    partial: Vec<u8>,
    /// How many bytes were taken.
    position: u64,
    zero_blocks: u8,
    extensions: header::Extensions,
    links: BTreeSet<Vec<u8>>,
}

impl Default for TarReader {
    fn default() -> Self {
        TarReader::new()
    }
}

impl TarReader {
    /// A reader at the start of an archive.
    #[must_use]
    pub fn new() -> TarReader {
        TarReader {
            state: State::Header,
            partial: Vec::new(),
            position: 0,
            zero_blocks: 0,
            extensions: header::Extensions::default(),
            links: BTreeSet::new(),
        }
    }

    /// Takes bytes from the front of `input` and says what they mean. None: all of `input` was taken, more is needed.
    ///
    /// # Errors
    /// When the bytes are no archive that a server writes. The reader is of no further use then.
    pub fn next<'a>(&mut self, input: &mut &'a [u8]) -> Result<Option<TarEvent<'a>>, TarError> {
        loop {
            match &mut self.state {
                State::Header => {
                    let Some(block) = take_block(&mut self.partial, input, &mut self.position) else {
                        return Ok(None);
                    };
                    if let Some(entry) = self.begin(&block)? {
                        return Ok(Some(TarEvent::Entry(entry)));
                    }
                }
                State::Extension { kind, contents, remaining, padding } => {
                    contents.extend_from_slice(take(input, remaining, &mut self.position));
                    if *remaining > 0 {
                        return Ok(None);
                    }
                    self.extensions.keep(*kind, contents, self.position)?;
                    self.state = State::Padding { remaining: *padding };
                }
                State::Contents { remaining: 0, padding } => {
                    self.state = State::Padding { remaining: *padding };
                    return Ok(Some(TarEvent::EndOfEntry));
                }
                State::Contents { remaining, .. } => {
                    let data = take(input, remaining, &mut self.position);
                    return Ok(if data.is_empty() { None } else { Some(TarEvent::Data(data)) });
                }
                State::Padding { remaining } => {
                    take(input, remaining, &mut self.position);
                    if *remaining > 0 {
                        return Ok(None);
                    }
                    self.state = State::Header;
                }
                State::Ended => {
                    // Archives may be padded to a whole record.
                    if input.iter().any(|byte| *byte != 0) {
                        return Err(TarError::TrailingData { position: self.position });
                    }
                    take(input, &mut u64::MAX.clone(), &mut self.position);
                    return Ok(None);
                }
            }
        }
    }

    /// Whether the two zero blocks that end an archive have come.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        matches!(self.state, State::Ended)
    }

    /// Says that no more bytes come: fine after the end blocks, and between two entries when they are missing.
    ///
    /// # Errors
    /// When the archive stops within an entry or a header.
    pub fn finish(self) -> Result<(), TarError> {
        let is_between_entries =
            matches!(self.state, State::Header) && self.partial.is_empty() && self.extensions.is_empty();
        if self.has_ended() || is_between_entries {
            Ok(())
        } else {
            Err(TarError::Truncated { position: self.position })
        }
    }

    /// Reads a header block. None: it was an end block, or announces an extension.
    fn begin(&mut self, block: &[u8; BLOCK]) -> Result<Option<TarEntry>, TarError> {
        let position = self.position.saturating_sub(BLOCK as u64);
        if block.iter().all(|byte| *byte == 0) {
            self.zero_blocks += 1;
            if !self.extensions.is_empty() {
                return Err(TarError::Truncated { position });
            }
            if self.zero_blocks == 2 {
                self.state = State::Ended;
            }
            return Ok(None);
        }
        if self.zero_blocks > 0 {
            return Err(TarError::TrailingData { position });
        }
        let header = Header::parse(block, position)?;
        let padding = padding_of(header.size);
        match header.kind {
            HeaderKind::Extension(kind) => {
                if header.size > MAX_EXTENSION_LENGTH {
                    return Err(TarError::NameTooLong { position });
                }
                self.state = State::Extension { kind, contents: Vec::new(), remaining: header.size, padding };
                Ok(None)
            }
            HeaderKind::Entry(kind) => {
                let entry = std::mem::take(&mut self.extensions).apply(header, kind, position)?;
                self.check_links(&entry, position)?;
                self.state = State::Contents { remaining: entry.size, padding: padding_of(entry.size) };
                Ok(Some(entry))
            }
        }
    }

    /// Refuses a path that leads through a link of this archive, and remembers the links.
    fn check_links(&mut self, entry: &TarEntry, position: u64) -> Result<(), TarError> {
        if !self.links.is_empty() {
            let slashes = entry.path.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(at, _)| at);
            for end in slashes.chain([entry.path.len()]) {
                if entry.path.get(..end).is_some_and(|ancestor| self.links.contains(ancestor)) {
                    return Err(TarError::ThroughLink { path: show(&entry.path), position });
                }
            }
        }
        if entry.kind == TarEntryKind::Symlink {
            if self.links.len() >= MAX_LINKS {
                return Err(TarError::TooManyLinks { position });
            }
            self.links.insert(entry.path.clone());
        }
        Ok(())
    }
}

impl TarEntry {
    /// The header blocks of the entry. Contents follow, then [`padding_of`] zero bytes.
    ///
    /// # Errors
    /// When a reader would refuse the entry.
    pub fn header(&self) -> Result<Vec<u8>, TarError> {
        header::write(self)
    }
}

/// How many zero bytes follow contents of `size` bytes.
#[must_use]
pub const fn padding_of(size: u64) -> u64 {
    (BLOCK as u64 - size % BLOCK as u64) % BLOCK as u64
}

/// Up to `remaining` bytes off the front of `input`.
fn take<'a>(input: &mut &'a [u8], remaining: &mut u64, position: &mut u64) -> &'a [u8] {
    let length = usize::try_from(*remaining).unwrap_or(usize::MAX).min(input.len());
    let (taken, rest) = input.split_at_checked(length).unwrap_or((input, &[]));
    *input = rest;
    *remaining -= length as u64;
    *position = position.saturating_add(length as u64);
    taken
}

/// A whole block, once all of it has come.
fn take_block(partial: &mut Vec<u8>, input: &mut &[u8], position: &mut u64) -> Option<[u8; BLOCK]> {
    let mut wanted = BLOCK.saturating_sub(partial.len()) as u64;
    partial.extend_from_slice(take(input, &mut wanted, position));
    let block = *partial.first_chunk::<BLOCK>()?;
    partial.clear();
    Some(block)
}

/// A path for people.
fn show(path: &[u8]) -> String {
    path.escape_ascii().to_string()
}

#[cfg(test)]
mod tests;
