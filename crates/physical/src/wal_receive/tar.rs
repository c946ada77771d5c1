//! WAL files in an archive of tar, perhaps compressed: `pg_wal.tar` of a backup.
//!
//! The archive is written front to back: the length of every file is known when it begins, since a segment that stays
//! unfinished is filled up with zeros.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use pgkeep_format::tar::{END_OF_ARCHIVE, TarEntry, TarEntryKind, padding_of};
use pgkeep_format::{Lsn, TimelineId, WalSegmentName, WalSegmentSize};
use pgkeep_tool::compress::{Codec, Compressor, Framing};
use pgkeep_tool::{Result, ToolError};

use super::history_name::checked_history_name;
use super::stream::WalSink;

/// An archive that takes WAL. It is whole after [`TarSink::finish`] only.
#[derive(Debug)]
pub struct TarSink<W: Write> {
    path: PathBuf,
    output: Compressor<W>,
    segment_size: WalSegmentSize,
    mode: u32,
    /// Name and missing bytes of the open segment.
    open: Option<(String, u64)>,
    histories: Vec<TimelineId>,
}

impl<W: Write> TarSink<W> {
    /// An archive that is written to `output`; `path` is its name in messages, `mode` that of the files in it.
    ///
    /// # Errors
    /// When the codec refuses its level.
    pub fn new(
        path: &Path,
        output: W,
        codec: Codec,
        segment_size: WalSegmentSize,
        mode: u32,
    ) -> Result<TarSink<W>> {
        let output =
            Compressor::new(output, codec, Framing::File).map_err(|error| not_written(path, &error))?;
        Ok(TarSink { path: path.to_owned(), output, segment_size, mode, open: None, histories: Vec::new() })
    }

    /// Ends the archive and gives what it was written to, to be flushed.
    ///
    /// # Errors
    /// When writing fails.
    pub fn finish(mut self) -> Result<W> {
        self.put(&END_OF_ARCHIVE)?;
        let TarSink { path, output, .. } = self;
        output.finish().map_err(|error| not_written(&path, &error))
    }

    fn put(&mut self, bytes: &[u8]) -> Result<()> {
        self.output.write_all(bytes).map_err(|error| not_written(&self.path, &error))
    }

    fn begin_entry(&mut self, name: &str, size: u64) -> Result<()> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let entry = TarEntry {
            path: name.as_bytes().to_vec(),
            kind: TarEntryKind::File,
            size,
            mode: self.mode,
            mtime: i64::try_from(now.as_secs()).unwrap_or(0),
            link: Vec::new(),
        };
        let header = entry.header().map_err(|error| ToolError::new(error.to_string()))?;
        self.put(&header)
    }

    fn put_zeros(&mut self, count: u64) -> Result<()> {
        io::copy(&mut io::Read::take(io::repeat(0), count), &mut self.output)
            .map(drop)
            .map_err(|error| not_written(&self.path, &error))
    }

    fn put_file(&mut self, name: &str, content: &[u8]) -> Result<()> {
        let size = content.len() as u64;
        self.begin_entry(name, size)?;
        self.put(content)?;
        self.put_zeros(padding_of(size))
    }

    /// Tells a server that starts with these files that this one is archived.
    fn mark_done(&mut self, name: &str) -> Result<()> {
        self.put_file(&format!("archive_status/{name}.done"), b"")
    }

    /// Fills the open segment up, and answers its name.
    fn close(&mut self) -> Result<String> {
        let Some((name, missing)) = self.open.take() else {
            return Err(ToolError::new("no write-ahead log file is open")
                .hint("this is a defect of pgkeep: report it"));
        };
        self.put_zeros(missing + padding_of(self.segment_size.bytes()))?;
        Ok(name)
    }
}

impl<W: Write> WalSink for TarSink<W> {
    type Error = ToolError;

    fn has_history(&mut self, timeline: TimelineId) -> Result<bool> {
        Ok(self.histories.contains(&timeline))
    }

    fn put_history(&mut self, timeline: TimelineId, file_name: &str, content: &[u8]) -> Result<()> {
        let name = checked_history_name(timeline, self.segment_size, file_name)?;
        self.put_file(&name, content)?;
        self.histories.push(timeline);
        self.mark_done(&name)
    }

    fn begin(&mut self, segment: WalSegmentName) -> Result<()> {
        let name = segment.file_name(self.segment_size);
        let size = self.segment_size.bytes();
        self.begin_entry(&name, size)?;
        self.open = Some((name, size));
        Ok(())
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.put(bytes)?;
        if let Some((_, missing)) = &mut self.open {
            *missing = missing.saturating_sub(bytes.len() as u64);
        }
        Ok(())
    }

    fn complete(&mut self) -> Result<()> {
        let name = self.close()?;
        self.mark_done(&name)
    }

    fn leave(&mut self) -> Result<()> {
        self.close().map(drop)
    }

    /// The archive counts when it is whole; until then the server's temporary slot may go on as fast as WAL arrives.
    fn flush(&mut self, written: Lsn) -> Result<Lsn> {
        Ok(written)
    }
}

fn not_written(path: &Path, error: &io::Error) -> ToolError {
    ToolError::could_not("write to file", path.display(), error)
}

#[cfg(test)]
mod tests {
    use pgkeep_format::SegmentNumber;
    use pgkeep_format::archive::Compression;
    use pgkeep_format::tar::{TarEvent, TarReader};
    use pgkeep_tool::compress::buffered_reader;

    use super::*;

    fn files(mut archive: &[u8]) -> Vec<(String, Vec<u8>)> {
        let mut reader = TarReader::new();
        let mut files: Vec<(String, Vec<u8>)> = Vec::new();
        while let Some(event) = reader.next(&mut archive).unwrap() {
            match event {
                TarEvent::Entry(entry) => {
                    assert_eq!(entry.mode, 0o640);
                    files.push((String::from_utf8(entry.path).unwrap(), Vec::new()));
                }
                TarEvent::Data(bytes) => files.last_mut().unwrap().1.extend_from_slice(bytes),
                TarEvent::EndOfEntry => {}
            }
        }
        reader.finish().unwrap();
        files
    }

    #[test]
    fn an_archive_holds_segments_of_full_length_and_says_which_are_whole() {
        for compression in [Compression::None, Compression::Gzip] {
            let size = WalSegmentSize::try_from(1 << 20).unwrap();
            let path = Path::new("pg_wal.tar");
            let mut sink = TarSink::new(path, Vec::new(), Codec::of(compression), size, 0o640).unwrap();
            let timeline = TimelineId::new(2).unwrap();
            let segment = |number| WalSegmentName { timeline, number: SegmentNumber(number) };
            sink.put_history(timeline, "00000002.history", b"1\t0/1\tx\n").unwrap();
            assert!(sink.has_history(timeline).unwrap());
            sink.begin(segment(3)).unwrap();
            sink.write(&vec![7; 1 << 20]).unwrap();
            sink.complete().unwrap();
            sink.begin(segment(4)).unwrap();
            sink.write(b"abc").unwrap();
            sink.leave().unwrap();
            let archive = sink.finish().unwrap();
            let mut plain = Vec::new();
            io::Read::read_to_end(
                &mut buffered_reader(archive.as_slice(), compression, Framing::File).unwrap(),
                &mut plain,
            )
            .unwrap();
            let files = files(&plain);
            let names: Vec<&str> = files.iter().map(|(name, _)| name.as_str()).collect();
            assert_eq!(
                names,
                [
                    "00000002.history",
                    "archive_status/00000002.history.done",
                    "000000020000000000000003",
                    "archive_status/000000020000000000000003.done",
                    "000000020000000000000004",
                ]
            );
            assert!(files[2].1 == vec![7; 1 << 20]);
            assert!(files[4].1.len() == 1 << 20 && files[4].1.starts_with(b"abc\0"));
        }
    }
}
