//! Data in directory archives: files beside `toc.dat`, each compressed or not as its suffix says.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use pgkeep_format::archive::{
    ArchiveDecoder, ArchiveFormat, Compression, DataKind, DataLocation, DataPiece, INDEX_FILE, IndexedEntry,
    PieceIndex, TocEntry, directory as names,
};
use pgkeep_tool::compress::{Framing, buffered_reader, piece_reader};
use pgkeep_tool::{Result, ToolError, system_text};

use super::pieces::are_joined;
use super::{Piece, Sink, data_error, pass};
use crate::restore::contents::Contents;

/// In the order in which stock looks for them.
const COMPRESSIONS: [Compression; 4] =
    [Compression::None, Compression::Gzip, Compression::Lz4, Compression::Zstd];
/// The largest index that is read: that of 10 TiB of rows in pieces of 32 MiB has 15 MiB.
pub(super) const MAX_INDEX_LENGTH: u64 = 1 << 30;
/// A line of a list of large objects is an OID and a name.
const MAX_LINE_LENGTH: u64 = 1024;

/// A directory archive.
#[derive(Debug, Clone)]
pub(crate) struct Directory {
    path: PathBuf,
}

impl Directory {
    /// Whether there is a table of contents.
    pub(super) fn has_table(path: &Path) -> bool {
        COMPRESSIONS.iter().any(|compression| {
            path.join(format!("{}{}", names::TOC_FILE, compression.file_suffix())).is_file()
        })
    }

    pub(super) fn open(path: &Path) -> Result<(Contents, Directory)> {
        let directory = Directory { path: path.to_owned() };
        let (file, compression) = directory.find(names::TOC_FILE.as_bytes()).map_err(|error| {
            ToolError::new(format!(
                "could not open input file \"{}\": {}",
                path.join(names::TOC_FILE).display(),
                system_text(&error)
            ))
        })?;
        let reader = buffered_reader(file, compression, Framing::File)
            .map_err(|error| data_error(&error, names::TOC_FILE))?;
        let mut decoder = ArchiveDecoder::new(BufReader::with_capacity(128 << 10, reader));
        let header = decoder.header(ArchiveFormat::Directory)?;
        let entries = decoder.table(&header)?;
        Ok((Contents::new(header, entries)?, directory))
    }

    /// Opens a file by its name without suffix.
    fn find(&self, name: &[u8]) -> io::Result<(File, Compression)> {
        let name = std::str::from_utf8(name).map_err(io::Error::other)?;
        let mut failure = None;
        for compression in COMPRESSIONS {
            match File::open(self.path.join(format!("{name}{}", compression.file_suffix()))) {
                Ok(file) => return Ok((file, compression)),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    failure.get_or_insert(error);
                }
                Err(error) => return Err(error),
            }
        }
        Err(failure.unwrap_or_else(|| io::ErrorKind::NotFound.into()))
    }

    fn read(&self, name: &[u8]) -> Result<Box<dyn Read>> {
        let shown = self.path.join(String::from_utf8_lossy(name).as_ref());
        let shown = shown.display();
        if !names::is_plain_file_name(name) {
            return Err(ToolError::new(format!(
                "invalid file name \"{}\" in the table of contents",
                name.escape_ascii()
            ))
            .hint("the archive is damaged or was tampered with: use another copy of it"));
        }
        let (file, compression) =
            self.find(name).map_err(|error| ToolError::could_not("open input file", &shown, &error))?;
        buffered_reader(file, compression, Framing::File)
            .map_err(|error| data_error(&error, &format!("file \"{shown}\"")))
    }

    pub(super) fn rows(&self, entry: &TocEntry, sink: &mut Sink<'_>) -> Result<()> {
        // An entry without a file has no rows.
        let DataLocation::File(name) = &entry.data else { return Ok(()) };
        let place = format!("entry {}, file \"{name}\"", entry.dump_id);
        let mut end = RowsEnd::default();
        pass(&mut *self.read(name)?, &place, &mut |piece| {
            if let Piece::Bytes(bytes) = piece {
                end.note(bytes);
            }
            sink(piece)
        })?;
        // A file that is not compressed could be cut short, and nothing but the rows themselves would tell.
        let copy = entry.copy_statement.as_deref().filter(|copy| !copy.is_empty());
        if copy.is_some_and(|copy| copy.ends_with(b" FROM stdin;\n")) && !end.is_marked() {
            return Err(ToolError::new(format!(
                "could not read from input file: end of file at byte {}, before the end of the rows ({place})",
                end.length
            ))
            .hint("the archive is damaged or incomplete: use another copy of it, or leave this entry out with -L"));
        }
        Ok(())
    }

    pub(super) fn large_objects(&self, entry: &TocEntry, sink: &mut Sink<'_>) -> Result<()> {
        let DataLocation::File(name) = &entry.data else { return Ok(()) };
        let list = self.read(name)?;
        each_large_object(list, &name.to_lossy(), &mut |oid, file| {
            sink(Piece::LargeObject(oid))?;
            pass(&mut *self.read(file)?, &format!("large object {oid}"), sink)?;
            sink(Piece::LargeObjectEnd)
        })
    }

    /// pgkeep's index; none when there is none.
    pub(super) fn index(&self) -> Result<Option<PieceIndex>> {
        let path = self.path.join(INDEX_FILE);
        let mut bytes = Vec::new();
        match File::open(&path).and_then(|file| file.take(MAX_INDEX_LENGTH).read_to_end(&mut bytes)) {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => {
                let error = system_text(&error);
                return Err(ToolError::new(format!("could not read \"{}\": {error}", path.display())));
            }
        }
        PieceIndex::decode(&bytes).map(Some).map_err(|error| {
            ToolError::new(format!("{error} (file \"{}\")", path.display())).hint("the archive is damaged")
        })
    }

    /// Whether the index says of an entry what can be.
    pub(super) fn fits(&self, entry: &TocEntry, indexed: &IndexedEntry, compression: Compression) -> bool {
        let DataLocation::File(name) = &entry.data else { return false };
        if indexed.kind == DataKind::LargeObjects {
            // Each is a file of its own, whose place the index does not say.
            return true;
        }
        let found = names::is_plain_file_name(name).then(|| self.find(name).ok()).flatten();
        let is_file_of = |(file, found): (File, Compression)| {
            found == compression
                && file.metadata().is_ok_and(|metadata| metadata.len() == indexed.end())
                && indexed.pieces.first().is_none_or(|piece| piece.offset == 0)
        };
        are_joined(indexed) && found.is_some_and(is_file_of)
    }

    /// What a piece holds.
    pub(super) fn piece(&self, entry: &TocEntry, piece: &DataPiece, place: &str) -> Result<Box<dyn Read>> {
        let DataLocation::File(name) = &entry.data else { return Ok(Box::new(io::empty())) };
        let opened = self.find(name).and_then(|(mut file, compression)| {
            file.seek(SeekFrom::Start(piece.offset))?;
            let reader = BufReader::with_capacity(128 << 10, file.take(piece.length));
            piece_reader(reader, compression, Framing::File)
        });
        opened.map_err(|error| data_error(&error, place))
    }

    pub(super) fn sizes(&self, contents: &Contents) -> Vec<u64> {
        let size = |entry: &TocEntry| match &entry.data {
            DataLocation::File(name) if names::is_plain_file_name(name) => {
                self.find(name).and_then(|(file, _)| file.metadata()).map_or(0, |metadata| metadata.len())
            }
            _ => 0,
        };
        contents.entries.iter().map(size).collect()
    }
}

/// The end of rows that went by.
#[derive(Default)]
struct RowsEnd {
    length: u64,
    last: Vec<u8>,
}

impl RowsEnd {
    /// What `pg_dump` ends the rows of a table with: the marker that ends a COPY, and empty lines.
    const MARKER: &'static [u8] = b"\\.\n\n\n";

    fn note(&mut self, bytes: &[u8]) {
        self.length += bytes.len() as u64;
        self.last.extend_from_slice(&bytes[bytes.len().saturating_sub(Self::MARKER.len())..]);
        self.last.drain(..self.last.len().saturating_sub(Self::MARKER.len()));
    }

    fn is_marked(&self) -> bool {
        self.last.trim_ascii_end().ends_with(b"\\.")
    }
}

/// Takes the OID and the file name of a large object.
pub(super) type TakeLargeObject<'a> = dyn FnMut(u32, &[u8]) -> Result<()> + 'a;

/// Reads a list of large objects line by line.
pub(super) fn each_large_object(list: impl Read, name: &str, take: &mut TakeLargeObject<'_>) -> Result<()> {
    let mut list = BufReader::new(list);
    let mut line = Vec::new();
    for number in 1.. {
        line.clear();
        (&mut list)
            .take(MAX_LINE_LENGTH)
            .read_until(b'\n', &mut line)
            .map_err(|error| data_error(&error, &format!("file \"{name}\"")))?;
        if line.is_empty() {
            break;
        }
        let text = line.strip_suffix(b"\n").unwrap_or(&line);
        let (oid, file) = names::parse_large_object_line(text, number).map_err(|error| {
            ToolError::new(format!("{error} \"{name}\": \"{}\"", text.escape_ascii()))
                .hint("the archive is damaged or was tampered with: use another copy of it")
        })?;
        take(oid, file)?;
    }
    Ok(())
}
