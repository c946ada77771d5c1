//! Data in tar archives: members, found by scanning headers once and only as far as needed.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;

use pgkeep_format::archive::{
    ArchiveDecoder, ArchiveFormat, Compression, DataKind, DataLocation, DataPiece, INDEX_FILE, IndexedEntry,
    PieceIndex, TocEntry, directory as names,
};
use pgkeep_format::tar::{BLOCK, TarEntryKind, TarEvent, TarReader, padding_of};
use pgkeep_tool::{Result, ToolError, system_text};

use super::directory::{MAX_INDEX_LENGTH, each_large_object};
use super::pieces::are_joined;
use super::{Piece, Sink, data_error, pass};
use crate::restore::contents::Contents;

/// More members than a dump can have entries and large objects in reason.
const MAX_MEMBERS: usize = 1 << 26;

/// A tar archive.
#[derive(Debug)]
pub(crate) struct Tar {
    file: File,
    members: HashMap<Vec<u8>, Member>,
    /// Where the next header lies; none when all were read.
    next_header: Option<u64>,
}

#[derive(Debug, Clone, Copy)]
struct Member {
    offset: u64,
    size: u64,
}

/// Whether the first bytes are a tar header.
pub(super) fn is_header(start: &[u8]) -> bool {
    let Some(mut block) = start.get(..BLOCK) else { return false };
    matches!(TarReader::new().next(&mut block), Ok(Some(TarEvent::Entry(_))))
}

impl Tar {
    pub(super) fn open(file: File) -> Result<(Contents, Tar)> {
        let mut tar = Tar { file, members: HashMap::new(), next_header: Some(0) };
        let toc = tar
            .member(names::TOC_FILE.as_bytes())?
            .ok_or_else(|| ToolError::new("could not find header for file \"toc.dat\" in tar archive"))?;
        let reader = io::BufReader::with_capacity(128 << 10, Contained::new(&tar.file, toc));
        let mut decoder = ArchiveDecoder::new(reader);
        let header = decoder.header(ArchiveFormat::Tar)?;
        if header.compression != Compression::None {
            return Err(ToolError::new("compression is not supported by tar archive format"));
        }
        let entries = decoder.table(&header)?;
        drop(decoder);
        Ok((Contents::new(header, entries)?, tar))
    }

    pub(super) fn rows(&mut self, entry: &TocEntry, sink: &mut Sink<'_>) -> Result<()> {
        let DataLocation::File(name) = &entry.data else { return Ok(()) };
        let member = self.required(name)?;
        let place = format!("entry {}, member \"{name}\" at byte {}", entry.dump_id, member.offset);
        pass(&mut Contained::new(&self.file, member), &place, sink)
    }

    pub(super) fn large_objects(&mut self, entry: &TocEntry, sink: &mut Sink<'_>) -> Result<()> {
        // The table names a file that is not there; the list has a name of its own.
        let candidates =
            [names::large_object_list(entry.dump_id), names::LARGE_OBJECT_LIST_OF_OLD.to_owned()];
        for name in candidates {
            let Some(list) = self.member(name.as_bytes())? else { continue };
            let mut objects = Vec::new();
            each_large_object(Contained::new(&self.file, list), &name, &mut |oid, file| {
                objects.push((oid, file.to_vec()));
                Ok(())
            })?;
            for (oid, file) in objects {
                let member = self.required(&file)?;
                sink(Piece::LargeObject(oid))?;
                let place = format!("large object {oid} at byte {}", member.offset);
                pass(&mut Contained::new(&self.file, member), &place, sink)?;
                sink(Piece::LargeObjectEnd)?;
            }
            return Ok(());
        }
        Err(ToolError::new(format!(
            "could not find file \"{}\" in archive",
            names::large_object_list(entry.dump_id)
        )))
    }

    /// pgkeep's index; none when there is none.
    pub(super) fn index(&mut self) -> Result<Option<PieceIndex>> {
        let Some(member) = self.member(INDEX_FILE.as_bytes())? else { return Ok(None) };
        let mut bytes = Vec::new();
        let place = format!("member \"{INDEX_FILE}\" at byte {}", member.offset);
        Contained::new(&self.file, member)
            .take(MAX_INDEX_LENGTH)
            .read_to_end(&mut bytes)
            .map_err(|error| data_error(&error, &place))?;
        PieceIndex::decode(&bytes)
            .map(Some)
            .map_err(|error| ToolError::new(format!("{error} ({place})")).hint("the archive is damaged"))
    }

    /// Whether the index says of an entry what can be.
    pub(super) fn fits(&mut self, entry: &TocEntry, indexed: &IndexedEntry) -> Result<bool> {
        let DataLocation::File(name) = &entry.data else { return Ok(false) };
        if indexed.kind == DataKind::LargeObjects {
            // Each is a member of its own, whose place the index does not say.
            return Ok(true);
        }
        let member = self.member(name)?;
        let is_member_of = |member: Member| {
            member.size == indexed.end() && indexed.pieces.first().is_none_or(|piece| piece.offset == 0)
        };
        Ok(are_joined(indexed) && member.is_some_and(is_member_of))
    }

    /// What a piece holds.
    pub(super) fn piece(&mut self, entry: &TocEntry, piece: &DataPiece) -> Result<Box<dyn Read + '_>> {
        let DataLocation::File(name) = &entry.data else { return Ok(Box::new(io::empty())) };
        let member = self.required(name)?;
        let offset = member.offset.saturating_add(piece.offset);
        let size = piece.length.min(member.size.saturating_sub(piece.offset));
        Ok(Box::new(Contained::new(&self.file, Member { offset, size })))
    }

    fn required(&mut self, name: &[u8]) -> Result<Member> {
        self.member(name)?.ok_or_else(|| {
            ToolError::new(format!("could not find file \"{}\" in archive", name.escape_ascii()))
        })
    }

    /// Finds a member, reading headers as far as needed.
    fn member(&mut self, name: &[u8]) -> Result<Option<Member>> {
        loop {
            if let Some(member) = self.members.get(name) {
                return Ok(Some(*member));
            }
            let Some(position) = self.next_header else { return Ok(None) };
            match self.read_header(position)? {
                Some((found, member)) => {
                    if self.members.len() >= MAX_MEMBERS {
                        return Err(ToolError::new("too many members in tar archive"));
                    }
                    self.next_header = member
                        .offset
                        .checked_add(member.size)
                        .and_then(|end| end.checked_add(padding_of(member.size)));
                    self.members.entry(found).or_insert(member);
                }
                None => self.next_header = None,
            }
        }
    }

    /// Reads the header at a position; none at the end of the archive.
    fn read_header(&self, mut position: u64) -> Result<Option<(Vec<u8>, Member)>> {
        let begin = position;
        let corrupt = |what: String| {
            ToolError::new(format!("corrupt tar header found at byte {begin}: {what}"))
                .hint("the archive is damaged or incomplete: use another copy of it")
        };
        let mut reader = TarReader::new();
        loop {
            let mut block = [0; BLOCK];
            match self.file.read_exact_at(&mut block, position) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof && position == begin => {
                    return Ok(None);
                }
                Err(error) => return Err(corrupt(system_text(&error))),
            }
            if position == begin && block.iter().all(|byte| *byte == 0) {
                return Ok(None);
            }
            position = position.saturating_add(BLOCK as u64);
            let mut rest = &block[..];
            if let Some(event) = reader.next(&mut rest).map_err(|error| corrupt(error.to_string()))? {
                let TarEvent::Entry(entry) = event else { continue };
                if entry.kind != TarEntryKind::File {
                    return Err(corrupt(format!("\"{}\" is not a file", entry.path.escape_ascii())));
                }
                return Ok(Some((entry.path, Member { offset: position, size: entry.size })));
            }
        }
    }
}

/// The contents of a member.
struct Contained<'a> {
    file: &'a File,
    offset: u64,
    remaining: u64,
}

impl<'a> Contained<'a> {
    fn new(file: &'a File, member: Member) -> Contained<'a> {
        Contained { file, offset: member.offset, remaining: member.size }
    }
}

impl Read for Contained<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = usize::try_from(self.remaining).unwrap_or(usize::MAX).min(buffer.len());
        if length == 0 {
            return Ok(0);
        }
        let read = self.file.read_at(&mut buffer[..length], self.offset)?;
        if read == 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the tar archive ends within a member"));
        }
        self.offset += read as u64;
        self.remaining -= read as u64;
        Ok(read)
    }
}
