//! Where the WAL in a directory ends, and so where streaming goes on.
//!
//! Files that look whole by their names are counted only when they are: by their length, by the length that gzip files end
//! with, by reading LZ4 files through.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;

use pgkeep_format::archive::Compression;
use pgkeep_format::{Lsn, TimelineId, WalSegmentName, WalSegmentSize};
use pgkeep_tool::compress::{Framing, buffered_reader};
use pgkeep_tool::{Reporter, Result, ToolError, system_text};

use super::directory::PARTIAL;

/// Where to go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StreamingStart {
    /// The beginning of a segment.
    pub position: Lsn,
    /// The timeline of the file that was found last.
    pub timeline: TimelineId,
}

/// A WAL file by its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Found {
    segment: WalSegmentName,
    compression: Compression,
    is_partial: bool,
}

fn parse(name: &str, size: WalSegmentSize) -> Option<Found> {
    let (name, is_partial) = match name.strip_suffix(PARTIAL) {
        Some(name) => (name, true),
        None => (name, false),
    };
    let (name, compression) = match name.rsplit_once('.') {
        Some((name, "gz")) => (name, Compression::Gzip),
        Some((name, "lz4")) => (name, Compression::Lz4),
        _ => (name, Compression::None),
    };
    Some(Found { segment: WalSegmentName::parse(name, size)?, compression, is_partial })
}

/// Where streaming goes on after what a directory holds: behind its last whole segment, or at the beginning of a later
/// unfinished one; none where it holds no WAL.
///
/// # Errors
/// When the directory or a file in it cannot be read.
pub fn streaming_start(
    directory: &Path,
    size: WalSegmentSize,
    reporter: &dyn Reporter,
) -> Result<Option<StreamingStart>> {
    let unreadable = |error: io::Error| ToolError::could_not("read directory", directory.display(), &error);
    let mut last: Option<Found> = None;
    for entry in fs::read_dir(directory).map_err(unreadable)? {
        let entry = entry.map_err(unreadable)?;
        let name = entry.file_name();
        let Some(found) = name.to_str().and_then(|name| parse(name, size)) else { continue };
        if !found.is_partial && !is_whole(&entry.path(), found.compression, size, reporter)? {
            continue;
        }
        // Positions first: an older timeline's file may be ahead.
        let order = |found: &Found| (found.segment.number, found.segment.timeline, !found.is_partial);
        if last.as_ref().is_none_or(|last| order(last) < order(&found)) {
            last = Some(found);
        }
    }
    Ok(last.map(|last| {
        let number = if last.is_partial { last.segment.number } else { last.segment.number.next() };
        StreamingStart { position: size.start_of(number), timeline: last.segment.timeline }
    }))
}

fn is_whole(
    path: &Path,
    compression: Compression,
    size: WalSegmentSize,
    reporter: &dyn Reporter,
) -> Result<bool> {
    let shown = path.display();
    let failed = |what: &str, error: &io::Error| {
        ToolError::new(format!("could not {what} file \"{shown}\": {}", system_text(error)))
    };
    match compression {
        Compression::None | Compression::Zstd => {
            let length = fs::metadata(path).map_err(|error| failed("stat", &error))?.len();
            if length != size.bytes() {
                reporter.warning(&format!("segment file \"{shown}\" has incorrect size {length}, skipping"));
                return Ok(false);
            }
        }
        Compression::Gzip => {
            let mut file =
                File::open(path).map_err(|e| ToolError::could_not("open compressed file", &shown, &e))?;
            let mut length = [0; 4];
            // A file of less than four bytes is no gzip file; what it claims to hold cannot be right.
            let read = file.seek(SeekFrom::End(-4)).and_then(|_| file.read_exact(&mut length));
            let length = if read.is_ok() { u32::from_le_bytes(length) } else { 0 };
            if u64::from(length) != size.bytes() {
                reporter.warning(&format!(
                    "compressed segment file \"{shown}\" has incorrect uncompressed size {length}, skipping"
                ));
                return Ok(false);
            }
        }
        Compression::Lz4 => {
            let file = File::open(path).map_err(|error| failed("open", &error))?;
            let contents = buffered_reader(file, Compression::Lz4, Framing::File)
                .map_err(|error| failed("decompress", &error))?;
            // One byte more than a segment has is enough to know.
            let length = io::copy(&mut contents.take(size.bytes() + 1), &mut io::sink())
                .map_err(|error| failed("decompress", &error))?;
            if length != size.bytes() {
                reporter.warning(&format!(
                    "compressed segment file \"{shown}\" has incorrect uncompressed size {length}, skipping"
                ));
                return Ok(false);
            }
        }
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::Mutex;

    use pgkeep_tool::compress::{Codec, Compressor};

    use super::*;

    const MIB: u64 = 1 << 20;

    #[derive(Default)]
    struct Warnings(Mutex<Vec<String>>);

    impl Reporter for Warnings {
        fn info(&self, _: &str) {}
        fn warning(&self, text: &str) {
            self.0.lock().unwrap().push(text.to_owned());
        }
        fn error(&self, _: &str) {}
    }

    fn compressed(length: usize, compression: Compression) -> Vec<u8> {
        let mut compressor = Compressor::new(Vec::new(), Codec::of(compression), Framing::File).unwrap();
        compressor.write_all(&vec![3; length]).unwrap();
        compressor.finish().unwrap()
    }

    fn start(files: &[(&str, Vec<u8>)]) -> (Option<(u64, u32)>, usize) {
        let directory = tempfile::tempdir().unwrap();
        for (name, bytes) in files {
            fs::write(directory.path().join(name), bytes).unwrap();
        }
        let warnings = Warnings::default();
        let size = WalSegmentSize::try_from(1 << 20).unwrap();
        let start = streaming_start(directory.path(), size, &warnings).unwrap();
        let warned = warnings.0.lock().unwrap().len();
        (start.map(|start| (start.position.0 / MIB, start.timeline.get())), warned)
    }

    const A: &str = "000000010000000000000005";

    #[test]
    fn streaming_goes_on_behind_the_last_whole_file() {
        let whole = vec![0; MIB as usize];
        assert_eq!(start(&[]), (None, 0));
        assert_eq!(start(&[(A, whole.clone())]), (Some((6, 1)), 0));
        assert_eq!(start(&[(A, vec![0; 77])]), (None, 1));
        let later = format!("{A}.partial").replace("05", "06");
        assert_eq!(start(&[(A, whole.clone()), (&later, whole.clone())]), (Some((6, 1)), 0));
        assert_eq!(start(&[(&format!("{A}.partial"), whole.clone()), (A, whole.clone())]), (Some((6, 1)), 0));
        // Of two timelines the one that is further ahead.
        assert_eq!(
            start(&[(A, whole.clone()), (&A.replace("01", "02").replace("05", "04"), whole)]),
            (Some((6, 1)), 0)
        );
        assert_eq!(start(&[("00000002.history", b"x".to_vec()), ("foo.gz", b"x".to_vec())]), (None, 0));
    }

    #[test]
    fn compressed_files_are_judged_by_what_they_hold() {
        for (suffix, compression) in [("gz", Compression::Gzip), ("lz4", Compression::Lz4)] {
            let name = format!("{A}.{suffix}");
            assert_eq!(start(&[(&name, compressed(MIB as usize, compression))]), (Some((6, 1)), 0));
            assert_eq!(start(&[(&name, compressed(1000, compression))]), (None, 1));
            assert_eq!(start(&[(&format!("{name}.partial"), b"rubbish".to_vec())]), (Some((5, 1)), 0));
        }
        assert_eq!(start(&[(&format!("{A}.gz"), b"x".to_vec())]), (None, 1));
    }
}
