//! One header of an archive, with the extended headers before it.
//!
//! Fields (POSIX ustar): name 0, mode 100, uid 108, gid 116, size 124, mtime 136, checksum 148, type 156, link 157,
//! magic 257, version 263, user 265, group 297, device 329 and 337, prefix 345; 500 bytes, then zeros.

use super::{BLOCK, MAX_PATH_LENGTH, TarEntry, TarEntryKind, padding_of, show};
use crate::relative_path;

/// Why an archive was refused. `position` is the place of the header in the archive, in bytes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TarError {
    /// The checksum of a header does not fit: this is no archive, or bytes are missing or damaged.
    #[error("no valid tar header at byte {position}")]
    BadHeader {
        /// Where.
        position: u64,
    },
    /// A number in a header is malformed or does not fit.
    #[error("malformed or oversized {field} in the tar header at byte {position}")]
    BadNumber {
        /// Which field.
        field: &'static str,
        /// Where.
        position: u64,
    },
    /// A path is absolute, empty, or has `..` or NUL in it.
    #[error("unsafe path `{path}` in the tar archive at byte {position}")]
    UnsafePath {
        /// The path, with unprintable bytes escaped.
        path: String,
        /// Where.
        position: u64,
    },
    /// The target of a link is empty, or has `..` or NUL in it.
    #[error("unsafe target `{target}` of the link `{path}` in the tar archive at byte {position}")]
    UnsafeLink {
        /// The link.
        path: String,
        /// Its target.
        target: String,
        /// Where.
        position: u64,
    },
    /// A path leads through, or replaces, a link that the same archive brought.
    #[error(
        "the path `{path}` in the tar archive at byte {position} leads through a link of the same archive"
    )]
    ThroughLink {
        /// The path.
        path: String,
        /// Where.
        position: u64,
    },
    /// A path, or the extended header that holds it, is too long.
    #[error("path or extended header too long in the tar archive at byte {position}")]
    NameTooLong {
        /// Where.
        position: u64,
    },
    /// More links than a cluster can have tablespaces.
    #[error("too many links in the tar archive at byte {position}")]
    TooManyLinks {
        /// Where.
        position: u64,
    },
    /// A hard link, a device, a sparse file or another thing that no server sends.
    #[error("unsupported tar entry of type `{kind}` at byte {position}")]
    Unsupported {
        /// The type letter, or the extension's keyword.
        kind: String,
        /// Where.
        position: u64,
    },
    /// A directory or link that claims to have contents.
    #[error("`{path}` in the tar archive at byte {position} has contents but is no file")]
    UnexpectedContents {
        /// The path.
        path: String,
        /// Where.
        position: u64,
    },
    /// A malformed extended header, or two of a kind for one entry.
    #[error("malformed extended tar header before byte {position}")]
    BadExtension {
        /// Where it ends.
        position: u64,
    },
    /// Something other than zeros after an end block.
    #[error("data after the end of the tar archive at byte {position}")]
    TrailingData {
        /// Where.
        position: u64,
    },
    /// The archive stops within a header or an entry.
    #[error("the tar archive stops at byte {position}, within an entry")]
    Truncated {
        /// Where.
        position: u64,
    },
}

/// A header whose contents say something about the next entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Extension {
    /// pax records for the next entry.
    Pax,
    /// pax records for all entries that follow; only such as do not matter here are accepted.
    PaxGlobal,
    /// GNU: the path of the next entry.
    GnuPath,
    /// GNU: the link target of the next entry.
    GnuLink,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum HeaderKind {
    Entry(TarEntryKind),
    Extension(Extension),
}

pub(super) struct Header {
    pub(super) kind: HeaderKind,
    pub(super) size: u64,
    path: Vec<u8>,
    link: Vec<u8>,
    mode: u32,
    mtime: i64,
}

impl Header {
    pub(super) fn parse(block: &[u8; BLOCK], position: u64) -> Result<Header, TarError> {
        let bad_header = || TarError::BadHeader { position };
        let stored = number(field(block, 148, 8)).ok_or_else(bad_header)?;
        if stored != u64::from(checksum(block)) {
            return Err(bad_header());
        }
        // The two letters of the version tell old GNU archives, which keep other things where ustar has the prefix.
        let has_prefix = match field(block, 257, 8) {
            b"ustar\x0000" => true,
            b"ustar  \0" => false,
            _ => return Err(bad_header()),
        };
        let bad_number = |field| TarError::BadNumber { field, position };
        let type_letter = block.get(156).copied().unwrap_or_default();
        let kind = match type_letter {
            b'0' | 0 => HeaderKind::Entry(TarEntryKind::File),
            b'2' => HeaderKind::Entry(TarEntryKind::Symlink),
            b'5' => HeaderKind::Entry(TarEntryKind::Directory),
            b'x' => HeaderKind::Extension(Extension::Pax),
            b'g' => HeaderKind::Extension(Extension::PaxGlobal),
            b'L' => HeaderKind::Extension(Extension::GnuPath),
            b'K' => HeaderKind::Extension(Extension::GnuLink),
            other => return Err(TarError::Unsupported { kind: show(&[other]), position }),
        };
        let mut path = until_nul(field(block, 0, 100)).to_vec();
        let prefix = until_nul(field(block, 345, 155));
        if has_prefix && !prefix.is_empty() {
            path = [prefix, b"/", &path].concat();
        }
        let mode = optional_number(field(block, 100, 8)).ok_or_else(|| bad_number("mode"))?;
        let mtime = optional_number(field(block, 136, 12)).ok_or_else(|| bad_number("mtime"))?;
        Ok(Header {
            kind,
            size: number(field(block, 124, 12)).ok_or_else(|| bad_number("size"))?,
            path,
            link: until_nul(field(block, 157, 100)).to_vec(),
            mode: u32::try_from(mode & 0o7777).map_err(|_| bad_number("mode"))?,
            mtime: i64::try_from(mtime).map_err(|_| bad_number("mtime"))?,
        })
    }
}

/// What extended headers said about the next entry.
#[derive(Debug, Default)]
pub(super) struct Extensions {
    /// A header of any kind has come, even if it said nothing.
    is_pending: bool,
    has_pax: bool,
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    gnu_path: Option<Vec<u8>>,
    gnu_link: Option<Vec<u8>>,
    size: Option<u64>,
    mtime: Option<i64>,
}

impl Extensions {
    pub(super) fn is_empty(&self) -> bool {
        !self.is_pending
    }

    /// Takes the contents of an extended header that ends at `position`.
    pub(super) fn keep(&mut self, kind: Extension, contents: &[u8], position: u64) -> Result<(), TarError> {
        let bad = Err(TarError::BadExtension { position });
        match kind {
            Extension::PaxGlobal => {
                let mut global = Extensions::default();
                global.keep_pax(contents, position)?;
                let matters = global.path.is_some() || global.link.is_some() || global.size.is_some();
                return if matters { bad } else { Ok(()) };
            }
            Extension::Pax => {
                if self.has_pax {
                    return bad;
                }
                self.has_pax = true;
                self.keep_pax(contents, position)?;
            }
            Extension::GnuPath => {
                if self.gnu_path.replace(without_nul(contents).to_vec()).is_some() {
                    return bad;
                }
            }
            Extension::GnuLink => {
                if self.gnu_link.replace(without_nul(contents).to_vec()).is_some() {
                    return bad;
                }
            }
        }
        self.is_pending = true;
        Ok(())
    }

    /// Records `<length> <keyword>=<value>\n`, the length counting the whole record.
    fn keep_pax(&mut self, mut records: &[u8], position: u64) -> Result<(), TarError> {
        let bad = || TarError::BadExtension { position };
        while !records.is_empty() {
            let space = records.iter().position(|byte| *byte == b' ').ok_or_else(bad)?;
            let (digits, _) = records.split_at_checked(space).ok_or_else(bad)?;
            let length = decimal(digits).and_then(|length| usize::try_from(length).ok()).ok_or_else(bad)?;
            let (record, rest) = records.split_at_checked(length).ok_or_else(bad)?;
            let record = record.get(space + 1..).and_then(|r| r.strip_suffix(b"\n")).ok_or_else(bad)?;
            let equals = record.iter().position(|byte| *byte == b'=').ok_or_else(bad)?;
            let (keyword, value) = record.split_at_checked(equals).ok_or_else(bad)?;
            let value = value.get(1..).ok_or_else(bad)?;
            match keyword {
                b"path" => self.path = Some(value.to_vec()),
                b"linkpath" => self.link = Some(value.to_vec()),
                b"size" => self.size = Some(decimal(value).ok_or_else(bad)?),
                b"mtime" => self.mtime = Some(seconds(value).ok_or_else(bad)?),
                _ if keyword.starts_with(b"GNU.sparse") => {
                    return Err(TarError::Unsupported { kind: show(keyword), position });
                }
                _ => {}
            }
            records = rest;
        }
        Ok(())
    }

    /// The entry that a header and the extended headers before it make.
    pub(super) fn apply(
        self,
        header: Header,
        kind: TarEntryKind,
        position: u64,
    ) -> Result<TarEntry, TarError> {
        let path = self.path.or(self.gnu_path).unwrap_or(header.path);
        let link = self.link.or(self.gnu_link).unwrap_or(header.link);
        let size = self.size.unwrap_or(header.size);
        let mtime = self.mtime.unwrap_or(header.mtime);
        let is_link = kind == TarEntryKind::Symlink;
        let link = if is_link { link } else { Vec::new() };
        checked(TarEntry { path, kind, size, mode: header.mode, mtime, link }, position)
    }
}

/// The entry with its path in the one form that is passed on, if it is harmless.
fn checked(mut entry: TarEntry, position: u64) -> Result<TarEntry, TarError> {
    if entry.path.len() > MAX_PATH_LENGTH || entry.link.len() > MAX_PATH_LENGTH {
        return Err(TarError::NameTooLong { position });
    }
    let unsafe_path = || TarError::UnsafePath { path: show(&entry.path), position };
    let path = relative_path::normalize(&entry.path).ok_or_else(unsafe_path)?;
    if path == b"." && entry.kind != TarEntryKind::Directory {
        return Err(unsafe_path());
    }
    if entry.kind == TarEntryKind::File && entry.path.ends_with(b"/") {
        return Err(unsafe_path());
    }
    if i64::try_from(entry.size).is_err() {
        return Err(TarError::BadNumber { field: "size", position });
    }
    if entry.kind != TarEntryKind::File && entry.size != 0 {
        return Err(TarError::UnexpectedContents { path: show(&path), position });
    }
    if entry.kind == TarEntryKind::Symlink && !is_harmless_target(&entry.link) {
        return Err(TarError::UnsafeLink { path: show(&path), target: show(&entry.link), position });
    }
    entry.path = path;
    Ok(entry)
}

fn is_harmless_target(target: &[u8]) -> bool {
    !target.is_empty() && !target.contains(&0) && target.split(|byte| *byte == b'/').all(|name| name != b"..")
}

/// The header blocks of an entry, with a pax header before it for what ustar cannot hold.
pub(super) fn write(entry: &TarEntry) -> Result<Vec<u8>, TarError> {
    let entry = checked(entry.clone(), 0)?;
    let mut path = entry.path.clone();
    if entry.kind == TarEntryKind::Directory {
        path.push(b'/');
    }
    let mut records = Vec::new();
    let (prefix, name) = split_path(&path).unwrap_or_else(|| {
        push_record(&mut records, "path", &path);
        (&[], path.get(..100).unwrap_or(&path))
    });
    let link = if entry.link.len() <= 100 {
        entry.link.as_slice()
    } else {
        push_record(&mut records, "linkpath", &entry.link);
        &[]
    };
    let mtime = u64::try_from(entry.mtime).unwrap_or_else(|_| {
        push_record(&mut records, "mtime", entry.mtime.to_string().as_bytes());
        0
    });
    let type_letter = match entry.kind {
        TarEntryKind::File => b'0',
        TarEntryKind::Directory => b'5',
        TarEntryKind::Symlink => b'2',
    };
    let mut blocks = Vec::new();
    if !records.is_empty() {
        let size = records.len() as u64;
        blocks.extend_from_slice(&block(b"pax-header", b"", b"", 0o600, size, 0, b'x'));
        blocks.append(&mut records);
        blocks.resize(blocks.len() + usize::try_from(padding_of(size)).unwrap_or_default(), 0);
    }
    blocks.extend_from_slice(&block(name, prefix, link, entry.mode, entry.size, mtime, type_letter));
    Ok(blocks)
}

fn block(
    name: &[u8],
    prefix: &[u8],
    link: &[u8],
    mode: u32,
    size: u64,
    mtime: u64,
    letter: u8,
) -> [u8; BLOCK] {
    let mut block = [0; BLOCK];
    put(&mut block, 0, name);
    put(&mut block, 100, &numeral(u64::from(mode & 0o7777), 8));
    put(&mut block, 108, &numeral(0, 8));
    put(&mut block, 116, &numeral(0, 8));
    put(&mut block, 124, &numeral(size, 12));
    put(&mut block, 136, &numeral(mtime, 12));
    put(&mut block, 156, &[letter]);
    put(&mut block, 157, link);
    put(&mut block, 257, b"ustar\x0000");
    put(&mut block, 329, &numeral(0, 8));
    put(&mut block, 337, &numeral(0, 8));
    put(&mut block, 345, prefix);
    let sum = checksum(&block);
    put(&mut block, 148, format!("{sum:06o}\0 ").as_bytes());
    block
}

fn put(block: &mut [u8; BLOCK], at: usize, bytes: &[u8]) {
    if let Some(place) = block.get_mut(at..at + bytes.len()) {
        place.copy_from_slice(bytes);
    }
}

/// A path as ustar's prefix and name; none where no slash divides it so that both fit.
fn split_path(path: &[u8]) -> Option<(&[u8], &[u8])> {
    if path.len() <= 100 {
        return Some((&[], path));
    }
    (1..path.len().min(156)).rev().filter(|at| path.get(*at) == Some(&b'/')).find_map(|at| {
        let (prefix, name) = (path.get(..at)?, path.get(at + 1..)?);
        (!name.is_empty() && name.len() <= 100).then_some((prefix, name))
    })
}

fn push_record(records: &mut Vec<u8>, keyword: &str, value: &[u8]) {
    // The length counts its own digits.
    let rest = keyword.len() + value.len() + 3;
    let mut length = rest + 1;
    while length != rest + length.to_string().len() {
        length = rest + length.to_string().len();
    }
    records.extend_from_slice(format!("{length} {keyword}=").as_bytes());
    records.extend_from_slice(value);
    records.push(b'\n');
}

/// A number as octal digits, or in base 256 with the highest bit set where they do not fit.
fn numeral(value: u64, width: usize) -> Vec<u8> {
    let digits = format!("{value:0width$o}\0", width = width - 1);
    if digits.len() <= width {
        return digits.into_bytes();
    }
    let mut bytes = vec![0x80];
    bytes.resize(width - 8, 0);
    bytes.extend_from_slice(&value.to_be_bytes());
    bytes
}

/// The sum of all bytes, the checksum's own counting as spaces.
fn checksum(block: &[u8; BLOCK]) -> u32 {
    let all: u32 = block.iter().copied().map(u32::from).sum();
    let own: u32 = field(block, 148, 8).iter().copied().map(u32::from).sum();
    all - own + 8 * u32::from(b' ')
}

fn field(block: &[u8; BLOCK], at: usize, length: usize) -> &[u8] {
    block.get(at..at + length).unwrap_or_default()
}

fn until_nul(bytes: &[u8]) -> &[u8] {
    bytes.split(|byte| *byte == 0).next().unwrap_or_default()
}

/// GNU tar ends the contents of its long names with one NUL.
fn without_nul(bytes: &[u8]) -> &[u8] {
    bytes.strip_suffix(b"\0").unwrap_or(bytes)
}

/// A number field: octal digits between spaces and NULs, or base 256. None where it is neither, or beyond 2^63.
fn number(bytes: &[u8]) -> Option<u64> {
    if let Some((0x80, rest)) = bytes.split_first() {
        let mut value: u64 = 0;
        for byte in rest {
            value = value.checked_mul(256)?.checked_add(u64::from(*byte))?;
        }
        return i64::try_from(value).is_ok().then_some(value);
    }
    let digits = bytes.trim_ascii_start();
    let end = digits.iter().position(|byte| matches!(byte, 0 | b' ')).unwrap_or(digits.len());
    let (digits, rest) = digits.split_at_checked(end)?;
    if digits.is_empty() || !rest.iter().all(|byte| matches!(byte, 0 | b' ')) {
        return None;
    }
    digits.iter().try_fold(0u64, |value, digit| match digit {
        b'0'..=b'7' => value.checked_mul(8)?.checked_add(u64::from(digit - b'0')),
        _ => None,
    })
}

/// Like [`number`], with 0 for a field that was left empty.
fn optional_number(bytes: &[u8]) -> Option<u64> {
    if bytes.iter().all(|byte| matches!(byte, 0 | b' ')) { Some(0) } else { number(bytes) }
}

fn decimal(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(digits).ok()?.parse().ok()
}

/// The whole seconds of a time such as `-3.25`.
fn seconds(value: &[u8]) -> Option<i64> {
    let text = std::str::from_utf8(value).ok()?;
    let whole = text.split_once('.').map_or(text, |(whole, _)| whole);
    let digits = whole.strip_prefix('-').unwrap_or(whole);
    decimal(digits.as_bytes())?;
    whole.parse().ok()
}
