//! WAL files in a directory: `<segment>.partial` until whole, compressed or not, and timeline histories.
//!
//! A file that is not compressed has its full length, filled with zeros, from the beginning, so that a full disk shows
//! before its WAL is reported as written. A file is renamed only after it is flushed, and the directory is flushed then.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use pgkeep_format::archive::Compression;
use pgkeep_format::{Lsn, TimelineId, WalSegmentName, WalSegmentSize};
use pgkeep_tool::compress::{Codec, Compressor, Framing};
use pgkeep_tool::{Reporter, Result, ToolError, system_text};

use super::history_name::{checked_history_name, history_name};
use super::stream::WalSink;
use crate::output_files::rename_file;

/// What files that are not whole end with.
pub const PARTIAL: &str = ".partial";

/// How a directory takes WAL.
#[derive(Debug, Clone, Copy)]
pub struct DirectoryOptions {
    /// Bytes of a segment.
    pub segment_size: WalSegmentSize,
    /// How segments are compressed; histories never are.
    pub codec: Codec,
    /// Unfinished segments are called `.partial`.
    pub marks_partial: bool,
    /// Whole files get a `.done` in `archive_status`, so that a server which starts here does not archive them again.
    pub marks_done: bool,
    /// Files and directory are flushed.
    pub is_durable: bool,
    /// Permissions of new files, less the umask.
    pub mode: u32,
}

/// A directory that takes WAL.
pub struct DirectorySink<'a> {
    directory: PathBuf,
    options: DirectoryOptions,
    reporter: &'a dyn Reporter,
    open: Option<OpenSegment>,
}

impl std::fmt::Debug for DirectorySink<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DirectorySink").field("directory", &self.directory).finish_non_exhaustive()
    }
}

struct OpenSegment {
    /// Its name when it is whole.
    name: String,
    path: PathBuf,
    output: Compressor<File>,
    /// The same file, to be flushed while the compressor owns it.
    file: File,
}

impl<'a> DirectorySink<'a> {
    /// A sink for a directory that exists.
    #[must_use]
    pub fn new(directory: &Path, options: DirectoryOptions, reporter: &'a dyn Reporter) -> DirectorySink<'a> {
        DirectorySink { directory: directory.to_owned(), options, reporter, open: None }
    }

    fn creating(&self) -> OpenOptions {
        let mut options = OpenOptions::new();
        options.write(true).create(true).mode(self.options.mode);
        options
    }

    fn open_segment(&self, name: String) -> Result<OpenSegment> {
        let partial = if self.options.marks_partial { PARTIAL } else { "" };
        let path = self.directory.join(format!("{name}{partial}"));
        let opened = if self.options.codec.compression == Compression::None {
            self.open_padded(&path)
        } else {
            self.creating().truncate(true).open(&path).map_err(|e| not_open(&path, &e))
        };
        let file = opened?;
        let to_flush = file.try_clone().map_err(|error| not_open(&path, &error))?;
        let output =
            Compressor::new(file, self.options.codec, Framing::File).map_err(|e| not_open(&path, &e))?;
        self.sync_file(&to_flush, &path)?;
        self.sync_directory(&self.directory)?;
        Ok(OpenSegment { name, path, output, file: to_flush })
    }

    /// The file at its full length. One that is there already has it, and is written over.
    fn open_padded(&self, path: &Path) -> Result<File> {
        let size = self.options.segment_size.bytes();
        let mut file = self.creating().truncate(false).open(path).map_err(|error| not_open(path, &error))?;
        let length = file.metadata().map_err(|error| not_open(path, &error))?.len();
        if length == size {
            return Ok(file);
        }
        if length != 0 {
            return Err(ToolError::new(format!(
                "write-ahead log file \"{}\" has {length} bytes, should be 0 or {size}",
                path.display()
            )));
        }
        let padded = io::copy(&mut io::Read::take(io::repeat(0), size), &mut file)
            .and_then(|_| file.seek(SeekFrom::Start(0)));
        match padded {
            Ok(_) => Ok(file),
            Err(error) => {
                // A file of any other length would not be opened again.
                drop(fs::remove_file(path));
                Err(not_open(path, &error))
            }
        }
    }

    fn take_open(&mut self) -> Result<OpenSegment> {
        self.open.take().ok_or_else(|| {
            ToolError::new("no write-ahead log file is open").hint("this is a defect of pgkeep: report it")
        })
    }

    /// Closes the file at its present name.
    fn close(&self, open: OpenSegment) -> Result<(String, PathBuf)> {
        let OpenSegment { name, path, output, file } = open;
        let closed = output.finish().map_err(|error| not_closed(&path, &error))?;
        drop(closed);
        self.sync_file(&file, &path)?;
        Ok((name, path))
    }

    fn sync_file(&self, file: &File, path: &Path) -> Result<()> {
        if !self.options.is_durable {
            return Ok(());
        }
        file.sync_all().map_err(|error| ToolError::could_not("fsync file", path.display(), &error))
    }

    fn sync_directory(&self, directory: &Path) -> Result<()> {
        if !self.options.is_durable {
            return Ok(());
        }
        File::open(directory)
            .and_then(|directory| directory.sync_all())
            .map_err(|error| ToolError::could_not("fsync file", directory.display(), &error))
    }

    /// Tells a server that the file is archived.
    fn mark_done(&self, name: &str) -> Result<()> {
        if !self.options.marks_done {
            return Ok(());
        }
        let directory = self.directory.join("archive_status");
        let path = directory.join(format!("{name}.done"));
        let made = self.creating().truncate(true).open(&path);
        let file =
            made.map_err(|error| ToolError::could_not("create archive status file", path.display(), &error))?;
        self.sync_file(&file, &path)?;
        self.sync_directory(&directory)
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<()> {
        rename_file(from, to)?;
        self.sync_directory(&self.directory)
    }
}

impl WalSink for DirectorySink<'_> {
    type Error = ToolError;

    fn has_history(&mut self, timeline: TimelineId) -> Result<bool> {
        Ok(self.directory.join(history_name(timeline, self.options.segment_size)).exists())
    }

    fn put_history(&mut self, timeline: TimelineId, file_name: &str, content: &[u8]) -> Result<()> {
        let name = checked_history_name(timeline, self.options.segment_size, file_name)?;
        let path = self.directory.join(&name);
        let staging = self.directory.join(format!("{name}.tmp"));
        let written = self
            .creating()
            .truncate(true)
            .open(&staging)
            .and_then(|mut file| file.write_all(content).map(|()| file));
        let file = written.map_err(|error| {
            // It is written anew the next time.
            drop(fs::remove_file(&staging));
            ToolError::could_not("write timeline history file", path.display(), &error)
        })?;
        self.sync_file(&file, &staging)?;
        self.rename(&staging, &path)?;
        self.mark_done(&name)
    }

    fn begin(&mut self, segment: WalSegmentName) -> Result<()> {
        let suffix = self.options.codec.compression.file_suffix();
        let name = format!("{}{suffix}", segment.file_name(self.options.segment_size));
        self.open = Some(self.open_segment(name)?);
        Ok(())
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        let Some(open) = &mut self.open else { return self.take_open().map(drop) };
        open.output.write_all(bytes).map_err(|error| {
            ToolError::new(format!(
                "could not write {} bytes to WAL file \"{}\": {}",
                bytes.len(),
                open.path.display(),
                system_text(&error)
            ))
        })
    }

    fn complete(&mut self) -> Result<()> {
        let open = self.take_open()?;
        let (name, path) = self.close(open)?;
        if self.options.marks_partial {
            self.rename(&path, &self.directory.join(&name))?;
        }
        self.mark_done(&name)
    }

    fn leave(&mut self) -> Result<()> {
        let open = self.take_open()?;
        let (_, path) = self.close(open)?;
        if self.options.marks_partial {
            self.reporter.info(&format!("not renaming \"{}\", segment is not complete", path.display()));
        }
        Ok(())
    }

    fn flush(&mut self, written: Lsn) -> Result<Lsn> {
        if let Some(open) = self.open.as_mut().filter(|_| self.options.is_durable) {
            open.output
                .flush()
                .and_then(|()| open.file.sync_data())
                .map_err(|error| ToolError::could_not("fsync file", open.path.display(), &error))?;
        }
        Ok(written)
    }
}

fn not_open(path: &Path, error: &io::Error) -> ToolError {
    ToolError::could_not("open write-ahead log file", path.display(), error)
}

fn not_closed(path: &Path, error: &io::Error) -> ToolError {
    ToolError::could_not("close file", path.display(), error)
}

#[cfg(test)]
mod tests {
    use pgkeep_format::SegmentNumber;
    use pgkeep_tool::compress::buffered_reader;

    use super::*;

    struct Silent;

    impl Reporter for Silent {
        fn info(&self, _: &str) {}
        fn warning(&self, _: &str) {}
        fn error(&self, _: &str) {}
    }

    fn options(compression: Compression) -> DirectoryOptions {
        DirectoryOptions {
            segment_size: WalSegmentSize::try_from(1 << 20).unwrap(),
            codec: Codec::of(compression),
            marks_partial: true,
            marks_done: false,
            is_durable: true,
            mode: 0o600,
        }
    }

    fn segment(number: u64) -> WalSegmentName {
        WalSegmentName { timeline: TimelineId::FIRST, number: SegmentNumber(number) }
    }

    fn names(directory: &Path) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(directory)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn a_file_is_partial_until_it_is_whole() {
        for compression in [Compression::None, Compression::Gzip, Compression::Lz4] {
            let directory = tempfile::tempdir().unwrap();
            let mut sink = DirectorySink::new(directory.path(), options(compression), &Silent);
            let suffix = compression.file_suffix();
            let (first, second) = (vec![7; 400_000], vec![8; (1 << 20) - 400_000]);
            sink.begin(segment(3)).unwrap();
            sink.write(&first).unwrap();
            assert_eq!(sink.flush(Lsn(9)).unwrap(), Lsn(9));
            assert_eq!(names(directory.path()), [format!("000000010000000000000003{suffix}.partial")]);
            sink.write(&second).unwrap();
            sink.complete().unwrap();
            sink.begin(segment(4)).unwrap();
            sink.write(b"x").unwrap();
            sink.leave().unwrap();
            assert_eq!(
                names(directory.path()),
                [
                    format!("000000010000000000000003{suffix}"),
                    format!("000000010000000000000004{suffix}.partial")
                ]
            );
            let file =
                File::open(directory.path().join(format!("000000010000000000000003{suffix}"))).unwrap();
            let mut read = Vec::new();
            io::Read::read_to_end(&mut buffered_reader(file, compression, Framing::File).unwrap(), &mut read)
                .unwrap();
            assert!(read == [first, second].concat());
        }
    }

    #[test]
    fn an_unfinished_file_is_full_of_zeros_and_taken_up_again() {
        let directory = tempfile::tempdir().unwrap();
        for _ in 0..2 {
            let mut sink = DirectorySink::new(directory.path(), options(Compression::None), &Silent);
            sink.begin(segment(3)).unwrap();
            sink.write(b"abc").unwrap();
            sink.leave().unwrap();
        }
        let path = directory.path().join("000000010000000000000003.partial");
        let bytes = fs::read(&path).unwrap();
        assert_eq!(bytes.len(), 1 << 20);
        assert!(bytes.starts_with(b"abc\0") && bytes[3..].iter().all(|byte| *byte == 0));
        fs::write(&path, b"short").unwrap();
        let error = DirectorySink::new(directory.path(), options(Compression::None), &Silent)
            .begin(segment(3))
            .unwrap_err();
        assert!(error.message.ends_with("has 5 bytes, should be 0 or 1048576"), "{error}");
    }

    #[test]
    fn histories_and_whole_files_are_marked_as_archived() {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir(directory.path().join("archive_status")).unwrap();
        let options =
            DirectoryOptions { marks_partial: false, marks_done: true, ..options(Compression::None) };
        let mut sink = DirectorySink::new(directory.path(), options, &Silent);
        let timeline = TimelineId::new(2).unwrap();
        assert!(!sink.has_history(timeline).unwrap());
        assert!(sink.put_history(timeline, "../00000002.history", b"").is_err());
        sink.put_history(timeline, "00000002.history", b"1\t0/1\tx\n").unwrap();
        assert!(sink.has_history(timeline).unwrap());
        sink.begin(segment(3)).unwrap();
        sink.write(&vec![1; 1 << 20]).unwrap();
        sink.complete().unwrap();
        sink.begin(segment(4)).unwrap();
        sink.leave().unwrap();
        assert_eq!(
            names(&directory.path().join("archive_status")),
            ["000000010000000000000003.done", "00000002.history.done"]
        );
        assert_eq!(
            names(directory.path()),
            ["000000010000000000000003", "000000010000000000000004", "00000002.history", "archive_status"]
        );
    }
}
