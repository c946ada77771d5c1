//! The manifest of the result, written as its files are.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use pgkeep_format::pg_manifest::{ManifestChecksum, ManifestFile, ManifestWalRange, SyntheticManifest};
use pgkeep_tool::{Result, ToolError};

use super::copy::{create, not_written};
use crate::checksum::ManifestDigest;
use crate::output_files::Modes;

/// Bytes that are written at once.
const PIECE: usize = 128 << 10;

pub(super) struct NewManifest {
    path: PathBuf,
    mode: u32,
    /// Made when there is something to write.
    file: Option<File>,
    text: SyntheticManifest<ManifestDigest>,
    buffer: Vec<u8>,
}

impl NewManifest {
    pub(super) fn begin(output: &Path, system_identifier: u64, modes: Modes) -> NewManifest {
        let mut buffer = Vec::with_capacity(PIECE);
        let text = SyntheticManifest::begin(system_identifier, ManifestDigest::new(), &mut buffer);
        NewManifest { path: output.join("backup_manifest"), mode: modes.file, file: None, text, buffer }
    }

    /// Adds a file of the result, which is there.
    pub(super) fn add(
        &mut self,
        path: &[u8],
        full_path: &Path,
        checksum: Option<ManifestChecksum>,
    ) -> Result<()> {
        let metadata = full_path.metadata().map_err(|error| {
            let path = full_path.display();
            ToolError::could_not("stat file", path, &error)
        })?;
        let entry = ManifestFile {
            path: path.to_vec(),
            size: metadata.len(),
            last_modified: Some(time_text(metadata.mtime())),
            checksum,
        };
        self.text.entry(&entry, &mut self.buffer);
        if self.buffer.len() >= PIECE { self.flush() } else { Ok(()) }
    }

    pub(super) fn finish(self, wal_ranges: &[ManifestWalRange]) -> Result<()> {
        let NewManifest { path, mode, file, text, mut buffer } = self;
        text.finish(wal_ranges, &mut buffer);
        write(&path, mode, file, &buffer).map(drop)
    }

    fn flush(&mut self) -> Result<()> {
        self.file = Some(write(&self.path, self.mode, self.file.take(), &self.buffer)?);
        self.buffer.clear();
        Ok(())
    }
}

fn write(path: &Path, mode: u32, file: Option<File>, bytes: &[u8]) -> Result<File> {
    let mut file = file.map_or_else(|| create(path, mode), Ok)?;
    file.write_all(bytes).map_err(|error| not_written(path, &error))?;
    Ok(file)
}

fn time_text(seconds: i64) -> String {
    let time = jiff::Timestamp::from_second(seconds).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
    time.strftime("%Y-%m-%d %H:%M:%S GMT").to_string()
}

#[cfg(test)]
mod tests {
    #[test]
    fn times_are_as_servers_write_them() {
        assert_eq!(super::time_text(1_795_600_000), "2026-11-25 09:46:40 GMT");
        assert_eq!(super::time_text(i64::MAX), "1970-01-01 00:00:00 GMT");
    }
}
