//! BASE_BACKUP as a source: one stream of tar archives, cut into the same work as a data directory.
//!
//! The server sends the tablespaces one after the other and the data directory among them; each is a tar stream, parsed as it
//! comes. `backup_label` and `tablespace_map` become part of the manifest, as with a local source; everything else is a
//! file. Names from the server are hostile input: `TarReader` refuses what would leave the data directory.
//!
//! In an incremental backup (17 and later) the server sends some files as `INCREMENTAL.<name>`, with only those blocks that
//! changed: these come out as scattered blocks of the file `<name>`. What becomes of the others is for the receiver to
//! decide.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use pgkeep_format::incremental_file::{IncrementalEvent, IncrementalHeader, IncrementalReader, whole_path};
use pgkeep_format::relation::RelationFile;
use pgkeep_format::tar::{TarEntry, TarEntryKind, TarEvent, TarReader};

use super::parent_files::ParentFiles;
use super::work::{Bundler, STRETCH_BYTES, SourceFile, Stretch, Work};
use crate::error::{Error, ErrorKind, Result};

/// Stretches that are compared are gathered up to this many bytes, which they carry with them.
const COMPARED_BYTES: usize = 4 << 20;
/// The longest text that `backup_label` or `tablespace_map` may be.
const LONGEST_TEXT: u64 = 16 << 20;

/// Something that the parsed stream gave.
#[derive(Debug)]
pub enum StreamItem {
    /// Blocks to be handled.
    Work(Work),
    /// A directory.
    Directory {
        /// Relative to the data directory.
        path: String,
        /// Permission bits.
        mode: u32,
    },
    /// The `backup_label` file.
    Label(String),
    /// The `tablespace_map` file.
    TablespaceMap(String),
    /// Some blocks of a file that is otherwise the parent backup's.
    Scattered(ScatteredBlocks),
}

/// A relation file of which the server sent only the blocks that changed.
#[derive(Debug, PartialEq, Eq)]
pub struct ScatteredFile {
    /// A number of its own in this backup, from the same row as [`SourceFile::number`].
    pub number: u64,
    /// The whole file, relative to the data directory.
    pub path: String,
    /// Permission bits.
    pub mode: u32,
    /// Seconds since 1970.
    pub modified: i64,
    /// What relation it belongs to.
    pub relation: RelationFile,
    /// The least length of the whole file, in blocks: its length now, or the shortest that it had since the parent,
    /// whichever is more.
    pub truncation_block_length: u32,
    /// The length of the whole file, in blocks: more than `truncation_block_length` only if a block beyond it was sent.
    pub file_blocks: u32,
    /// How many blocks the server sends.
    pub sent_blocks: u32,
}

/// The next blocks of a scattered file; at least one piece for each file, the last one marked.
#[derive(Debug, PartialEq, Eq)]
pub struct ScatteredBlocks {
    /// Which file.
    pub file: Arc<ScatteredFile>,
    /// The numbers of the blocks within the file, ascending, also from piece to piece.
    pub numbers: Vec<u32>,
    /// Their contents, one after the other; at most [`STRETCH_BYTES`].
    pub bytes: Vec<u8>,
    /// Whether these are the last ones.
    pub is_last: bool,
}

#[derive(Debug)]
enum Current {
    None,
    Scattered(Box<Scattered>),
    File { file: Arc<SourceFile>, offset: u64, buffer: Vec<u8> },
    Text { name: String, bytes: Vec<u8> },
    Ignored,
}

/// An incremental file while it comes.
#[derive(Debug)]
struct Scattered {
    reader: IncrementalReader,
    /// Everything but what the header of the file says.
    file: ScatteredFile,
    begun: Option<(Arc<ScatteredFile>, std::vec::IntoIter<u32>)>,
    buffer: Vec<u8>,
    block_size: usize,
}

/// Cuts the stream into work.
#[derive(Debug)]
pub struct StreamCutter<'a> {
    parent: Option<&'a ParentFiles>,
    version_directory: String,
    prefix: String,
    reader: TarReader,
    current: Current,
    bundler: Bundler,
    next_number: u64,
    block_size: u32,
    /// Blocks of a relation's segment; none where the backup is not incremental.
    incremental: Option<u32>,
}

impl<'a> StreamCutter<'a> {
    /// Begins outside of any archive. Files are compared with those of `parent`.
    pub fn new(
        version_directory: String,
        block_size: u32,
        parent: Option<&'a ParentFiles>,
    ) -> StreamCutter<'a> {
        StreamCutter {
            version_directory,
            prefix: String::new(),
            reader: TarReader::new(),
            current: Current::None,
            bundler: Bundler::new(block_size, COMPARED_BYTES),
            parent,
            next_number: 0,
            block_size,
            incremental: None,
        }
    }

    /// Expects incremental files, of a cluster with segments of that many blocks. Without this a file of such a name is a
    /// file like any other.
    #[must_use]
    pub fn expecting_incremental(mut self, relation_segment_blocks: u32) -> StreamCutter<'a> {
        self.incremental = Some(relation_segment_blocks);
        self
    }

    /// A new archive begins: the data directory's, or a tablespace's.
    pub fn begin_archive(&mut self, tablespace: Option<u32>) {
        self.prefix = tablespace.map_or_else(String::new, |oid| format!("pg_tblspc/{oid}/"));
        self.reader = TarReader::new();
        self.current = Current::None;
    }

    /// The archive ended; it must not end inside an entry.
    pub fn end_archive(&mut self) -> Result<()> {
        std::mem::take(&mut self.reader).finish().map_err(|error| broken(&error))
    }

    /// The next bytes of the archive.
    pub fn feed(&mut self, mut bytes: &[u8], sink: &mut dyn FnMut(StreamItem) -> Result<()>) -> Result<()> {
        loop {
            let event = match self.reader.next(&mut bytes) {
                Ok(Some(event)) => event,
                Ok(None) => return Ok(()),
                Err(error) => return Err(broken(&error)),
            };
            self.event(event, sink)?;
        }
    }

    /// What an archive holds next, or anything else that comes as entries with paths relative to the data directory.
    pub fn event(
        &mut self,
        event: TarEvent<'_>,
        sink: &mut dyn FnMut(StreamItem) -> Result<()>,
    ) -> Result<()> {
        match event {
            TarEvent::Entry(entry) => self.begin_entry(&entry, sink),
            TarEvent::Data(data) => self.current.take(data, self.block_size, &mut self.bundler, sink),
            TarEvent::EndOfEntry => self.end_entry(sink),
        }
    }

    /// Gives out what waits for company.
    pub fn flush(&mut self, sink: &mut dyn FnMut(StreamItem) -> Result<()>) -> Result<()> {
        match self.bundler.flush() {
            Some(work) => sink(StreamItem::Work(work)),
            None => Ok(()),
        }
    }

    fn begin_entry(
        &mut self,
        entry: &TarEntry,
        sink: &mut dyn FnMut(StreamItem) -> Result<()>,
    ) -> Result<()> {
        let name = std::str::from_utf8(&entry.path).map_err(|_| {
            Error::new(ErrorKind::Unsupported, "a file name in the data directory is not UTF-8")
                .cause(String::from_utf8_lossy(&entry.path).into_owned())
                .hint("rename or remove the file: PostgreSQL makes no such names in its data directory")
        })?;
        let path = format!("{}{name}", self.prefix);
        self.current = match entry.kind {
            TarEntryKind::Directory => {
                if name != "." {
                    sink(StreamItem::Directory { path, mode: entry.mode & 0o7777 })?;
                }
                Current::Ignored
            }
            // The links in pg_tblspc: their targets are in the tablespace map.
            TarEntryKind::Symlink => Current::Ignored,
            TarEntryKind::File
                if self.prefix.is_empty() && matches!(name, "backup_label" | "tablespace_map") =>
            {
                if entry.size > LONGEST_TEXT {
                    return Err(Error::new(
                        ErrorKind::Corrupt,
                        format!("the server sent a `{name}` of {} bytes", entry.size),
                    )
                    .hint("this server cannot be backed up over this connection; report this"));
                }
                Current::Text { name: name.to_owned(), bytes: Vec::new() }
            }
            TarEntryKind::File => {
                let number = self.next_number;
                self.next_number += 1;
                if let Some(scattered) = self.scattered(&path, number, entry)? {
                    self.current = Current::Scattered(Box::new(scattered));
                    return Ok(());
                }
                Current::File {
                    file: Arc::new(SourceFile {
                        number,
                        relation: RelationFile::parse_path(&path, &self.version_directory),
                        parent: match self.parent {
                            Some(parent) => parent.take(&path)?,
                            None => None,
                        },
                        path,
                        mode: entry.mode & 0o7777,
                        modified: entry.mtime,
                        size: entry.size,
                        file: None,
                        stretches: AtomicU64::new(SourceFile::stretches_of(entry.size)),
                        read_end: AtomicU64::new(0),
                    }),
                    offset: 0,
                    buffer: Vec::new(),
                }
            }
        };
        Ok(())
    }

    /// The reader of an incremental file, where this is one.
    fn scattered(&self, path: &str, number: u64, entry: &TarEntry) -> Result<Option<Scattered>> {
        let Some((segment_blocks, whole)) = self.incremental.zip(whole_path(path)) else { return Ok(None) };
        let relation = RelationFile::parse_path(&whole, &self.version_directory).ok_or_else(|| {
            Error::new(ErrorKind::Corrupt, "the server sent a part of a file that has no blocks")
                .cause(path)
                .hint("take a full backup over the stream, or back up locally: `--source local`")
        })?;
        Ok(Some(Scattered {
            reader: IncrementalReader::new(entry.size, self.block_size, segment_blocks),
            file: ScatteredFile {
                number,
                path: whole,
                mode: entry.mode & 0o7777,
                modified: entry.mtime,
                relation,
                truncation_block_length: 0,
                file_blocks: 0,
                sent_blocks: 0,
            },
            begun: None,
            buffer: Vec::new(),
            block_size: self.block_size as usize,
        }))
    }

    fn end_entry(&mut self, sink: &mut dyn FnMut(StreamItem) -> Result<()>) -> Result<()> {
        match std::mem::replace(&mut self.current, Current::None) {
            Current::Scattered(scattered) => scattered.finish(sink),
            Current::File { file, offset, buffer } => {
                if !buffer.is_empty() || file.size == 0 {
                    let stretch =
                        Stretch { offset, length: buffer.len(), bytes: Some(buffer), file, skipped: 0 };
                    if let Some(work) = self.bundler.add(stretch) {
                        sink(StreamItem::Work(work))?;
                    }
                }
                Ok(())
            }
            Current::Text { name, bytes } => {
                let text = String::from_utf8(bytes).map_err(|_| {
                    Error::new(ErrorKind::Corrupt, format!("the server sent a `{name}` that is not UTF-8"))
                        .hint("rename the tablespace's directory, or back up locally: `--source local`")
                })?;
                sink(if name == "backup_label" {
                    StreamItem::Label(text)
                } else {
                    StreamItem::TablespaceMap(text)
                })
            }
            Current::None | Current::Ignored => Ok(()),
        }
    }
}

impl Current {
    fn take(
        &mut self,
        mut data: &[u8],
        block_size: u32,
        bundler: &mut Bundler,
        sink: &mut dyn FnMut(StreamItem) -> Result<()>,
    ) -> Result<()> {
        match self {
            Current::Scattered(scattered) => scattered.take(data, sink),
            Current::File { file, offset, buffer } => {
                while !data.is_empty() {
                    if buffer.capacity() == 0 {
                        let rest = file.size.saturating_sub(*offset).min(STRETCH_BYTES) as usize;
                        buffer.reserve_exact(rest.next_multiple_of(block_size as usize));
                    }
                    let room = STRETCH_BYTES as usize - buffer.len();
                    let (now, later) = data.split_at(room.min(data.len()));
                    buffer.extend_from_slice(now);
                    data = later;
                    if buffer.len() == STRETCH_BYTES as usize {
                        let stretch = Stretch {
                            file: Arc::clone(file),
                            offset: *offset,
                            length: buffer.len(),
                            bytes: Some(std::mem::take(buffer)),
                            skipped: 0,
                        };
                        *offset += STRETCH_BYTES;
                        if let Some(work) = bundler.add(stretch) {
                            sink(StreamItem::Work(work))?;
                        }
                    }
                }
                Ok(())
            }
            Current::Text { bytes, .. } => {
                bytes.extend_from_slice(data);
                Ok(())
            }
            Current::None | Current::Ignored => Ok(()),
        }
    }
}

impl Scattered {
    fn take(&mut self, mut data: &[u8], sink: &mut dyn FnMut(StreamItem) -> Result<()>) -> Result<()> {
        let largest = STRETCH_BYTES as usize / self.block_size * self.block_size;
        while let Some(event) = self.reader.next(&mut data).map_err(|error| broken(&error))? {
            match event {
                IncrementalEvent::Header(header) => self.begin(header),
                IncrementalEvent::Data(mut bytes) => {
                    while !bytes.is_empty() {
                        // The last piece waits for the end of the file.
                        if self.buffer.len() == largest {
                            self.give(false, sink)?;
                        }
                        let room = largest - self.buffer.len();
                        let (now, later) = bytes.split_at(room.min(bytes.len()));
                        self.buffer.extend_from_slice(now);
                        bytes = later;
                    }
                }
            }
        }
        Ok(())
    }

    fn begin(&mut self, header: IncrementalHeader) {
        let file = ScatteredFile {
            path: self.file.path.clone(),
            truncation_block_length: header.truncation_block_length,
            file_blocks: header.file_blocks(),
            // As many as a segment has at most.
            sent_blocks: header.blocks.len() as u32,
            ..self.file
        };
        self.begun = Some((Arc::new(file), header.blocks.into_iter()));
    }

    /// Gives out the blocks that are there; the reader has proved that there are as many as numbers.
    fn give(&mut self, is_last: bool, sink: &mut dyn FnMut(StreamItem) -> Result<()>) -> Result<()> {
        let Some((file, numbers)) = &mut self.begun else { return Ok(()) };
        let bytes = std::mem::take(&mut self.buffer);
        let numbers = numbers.take(bytes.len() / self.block_size).collect();
        sink(StreamItem::Scattered(ScatteredBlocks { file: Arc::clone(file), numbers, bytes, is_last }))
    }

    fn finish(mut self, sink: &mut dyn FnMut(StreamItem) -> Result<()>) -> Result<()> {
        let none = IncrementalReader::new(0, 0, 0);
        std::mem::replace(&mut self.reader, none).finish().map_err(|error| broken(&error))?;
        self.give(true, sink)
    }
}

fn broken(error: &(dyn std::error::Error + 'static)) -> Error {
    Error::new(ErrorKind::Corrupt, "the server's base backup stream cannot be read")
        .caused_by(error)
        .hint("try again; if it stays, back up on the server's machine with `--source local` and report this")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(path: &str, kind: TarEntryKind, bytes: &[u8]) -> Vec<u8> {
        let entry = TarEntry {
            path: path.as_bytes().to_vec(),
            kind,
            size: bytes.len() as u64,
            mode: 0o600,
            mtime: 5,
            link: if kind == TarEntryKind::Symlink { b"/elsewhere".to_vec() } else { Vec::new() },
        };
        let mut tar = entry.header().unwrap();
        tar.extend_from_slice(bytes);
        tar.extend(vec![0; pgkeep_format::tar::padding_of(bytes.len() as u64) as usize]);
        tar
    }

    /// Files as (path, offset, bytes), directories, and the label.
    type Cut = (Vec<(String, u64, Vec<u8>)>, Vec<String>, Option<String>);

    /// What the cutter makes of an archive that arrives in pieces of that size.
    fn cut(tar: &[u8], piece: usize, tablespace: Option<u32>) -> Cut {
        let mut cutter = StreamCutter::new("PG_18_202506291".to_owned(), 8192, None);
        let (mut files, mut directories, mut label) = (Vec::new(), Vec::new(), None);
        let mut sink = |item| {
            match item {
                StreamItem::Work(work) => {
                    for stretch in work.stretches {
                        files.push((
                            stretch.file.path.clone(),
                            stretch.offset,
                            stretch.bytes.unwrap_or_default(),
                        ));
                    }
                }
                StreamItem::Directory { path, .. } => directories.push(path),
                StreamItem::Label(text) => label = Some(text),
                StreamItem::TablespaceMap(_) => {}
                StreamItem::Scattered(_) => panic!("not asked for"),
            }
            Ok(())
        };
        cutter.begin_archive(tablespace);
        for bytes in tar.chunks(piece) {
            cutter.feed(bytes, &mut sink).unwrap();
        }
        cutter.end_archive().unwrap();
        cutter.flush(&mut sink).unwrap();
        (files, directories, label)
    }

    #[test]
    fn any_cut_of_the_stream_gives_the_same_files() {
        let large: Vec<u8> = (0..STRETCH_BYTES as usize + 9000).map(|i| (i % 251) as u8).collect();
        let mut tar = entry("backup_label", TarEntryKind::File, b"START");
        tar.extend(entry("base", TarEntryKind::Directory, b""));
        tar.extend(entry("base/5/16384", TarEntryKind::File, &large));
        tar.extend(entry("empty", TarEntryKind::File, b""));
        tar.extend(entry("pg_tblspc/16500", TarEntryKind::Symlink, b""));
        tar.extend(entry("PG_VERSION", TarEntryKind::File, b"18\n"));
        let whole = cut(&tar, tar.len(), None);
        for piece in [1000, 512, 32 << 10] {
            assert_eq!(cut(&tar, piece, None), whole);
        }
        let (files, directories, label) = whole;
        assert_eq!(label.as_deref(), Some("START"));
        assert_eq!(directories, ["base"]);
        let joined: Vec<u8> =
            files.iter().filter(|f| f.0 == "base/5/16384").flat_map(|f| f.2.clone()).collect();
        assert!(joined == large);
        let names: Vec<&str> = files.iter().map(|file| file.0.as_str()).collect();
        assert_eq!(names, ["base/5/16384", "base/5/16384", "empty", "PG_VERSION"]);
    }

    #[test]
    fn files_of_a_tablespace_are_named_by_its_oid() {
        let tar = entry("PG_18_202506291/5/1", TarEntryKind::File, b"x");
        let (files, ..) = cut(&tar, tar.len(), Some(16500));
        assert_eq!(files[0].0, "pg_tblspc/16500/PG_18_202506291/5/1");
    }

    #[test]
    fn a_stream_that_stops_in_a_file_is_an_error() {
        let tar = entry("PG_VERSION", TarEntryKind::File, b"18\n");
        let mut cutter = StreamCutter::new("PG_18_202506291".to_owned(), 8192, None);
        cutter.begin_archive(None);
        cutter.feed(&tar[..514], &mut |_| Ok(())).unwrap();
        assert_eq!(cutter.end_archive().unwrap_err().kind, ErrorKind::Corrupt);
    }

    /// The scattered pieces and the ordinary files of an incremental archive that arrives in pieces of that size.
    fn cut_incremental(tar: &[u8], piece: usize) -> Result<(Vec<ScatteredBlocks>, Vec<String>)> {
        let mut cutter =
            StreamCutter::new("PG_18_202506291".to_owned(), 8192, None).expecting_incremental(131_072);
        let (mut pieces, mut files) = (Vec::new(), Vec::new());
        let mut sink = |item| {
            match item {
                StreamItem::Scattered(blocks) => pieces.push(blocks),
                StreamItem::Work(work) => files.extend(work.stretches.iter().map(|s| s.file.path.clone())),
                _ => {}
            }
            Ok(())
        };
        cutter.begin_archive(None);
        for bytes in tar.chunks(piece) {
            cutter.feed(bytes, &mut sink)?;
        }
        cutter.end_archive()?;
        cutter.flush(&mut sink)?;
        Ok((pieces, files))
    }

    /// An incremental file in which each block is filled with the lowest byte of its number.
    fn incremental(truncation_block_length: u32, blocks: Vec<u32>) -> Vec<u8> {
        let header = IncrementalHeader { truncation_block_length, blocks };
        let mut bytes = header.encode(8192);
        bytes.extend(header.blocks.iter().flat_map(|block| vec![*block as u8; 8192]));
        bytes
    }

    #[test]
    fn incremental_files_come_as_scattered_blocks() {
        let many: Vec<u32> = (0..300).map(|n| n * 7).collect();
        let mut tar = entry("base/5/INCREMENTAL.16384.1", TarEntryKind::File, &incremental(9, vec![3, 11]));
        tar.extend(entry("base/5/INCREMENTAL.16385", TarEntryKind::File, &incremental(4, vec![])));
        tar.extend(entry("base/5/16386", TarEntryKind::File, b"x"));
        tar.extend(entry("base/5/INCREMENTAL.16387", TarEntryKind::File, &incremental(2100, many.clone())));
        let (whole, files) = cut_incremental(&tar, tar.len()).unwrap();
        for piece in [1000, 512, 32 << 10] {
            assert_eq!(
                cut_incremental(&tar, piece).unwrap(),
                (whole.iter().map(same).collect(), files.clone())
            );
        }
        assert_eq!(files, ["base/5/16386"]);
        let shown: Vec<_> = whole
            .iter()
            .map(|piece| {
                (piece.file.path.as_str(), piece.file.file_blocks, piece.numbers.len(), piece.is_last)
            })
            .collect();
        assert_eq!(
            shown,
            [
                ("base/5/16384.1", 12, 2, true),
                ("base/5/16385", 4, 0, true),
                ("base/5/16387", 2100, 128, false),
                ("base/5/16387", 2100, 128, false),
                ("base/5/16387", 2100, 44, true),
            ]
        );
        assert_eq!(whole[0].file.relation.segment, 1);
        assert_eq!((whole[0].file.truncation_block_length, whole[0].file.sent_blocks), (9, 2));
        let numbers: Vec<u32> = whole[2..].iter().flat_map(|piece| piece.numbers.clone()).collect();
        assert_eq!(numbers, many);
        for piece in &whole {
            let pages = piece.bytes.chunks(8192);
            assert_eq!(pages.len(), piece.numbers.len());
            assert!(
                pages
                    .zip(&piece.numbers)
                    .all(|(page, number)| page.iter().all(|byte| *byte == *number as u8))
            );
        }
    }

    fn same(piece: &ScatteredBlocks) -> ScatteredBlocks {
        ScatteredBlocks {
            file: Arc::clone(&piece.file),
            numbers: piece.numbers.clone(),
            bytes: piece.bytes.clone(),
            is_last: piece.is_last,
        }
    }

    #[test]
    fn damaged_incremental_files_are_refused() {
        let good = incremental(9, vec![3, 11]);
        for (name, bytes) in [
            ("base/5/INCREMENTAL.16384", &good[..good.len() - 1]),
            ("base/5/INCREMENTAL.16384", b"rubbish which is long enough"),
            ("base/5/INCREMENTAL.16384", b""),
            ("base/5/INCREMENTAL.PG_VERSION", &good),
            ("INCREMENTAL.16384", &good),
        ] {
            let tar = entry(name, TarEntryKind::File, bytes);
            assert_eq!(cut_incremental(&tar, 700).unwrap_err().kind, ErrorKind::Corrupt, "{name}");
        }
    }

    #[test]
    fn a_file_of_such_a_name_is_an_ordinary_one_in_a_full_backup() {
        let tar = entry("base/5/INCREMENTAL.16384", TarEntryKind::File, &incremental(9, vec![3]));
        assert_eq!(cut(&tar, tar.len(), None).0[0].0, "base/5/INCREMENTAL.16384");
    }
}
