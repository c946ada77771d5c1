//! Walking through a backup that is a directory: everything there is listed, with its size.
//!
//! Links are followed, as those to tablespaces must be.

use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;
use std::sync::atomic::Ordering;

use pgkeep_tool::{Result, system_text};

use super::Check;

/// Deeper directories are not gone into: a link may lead back to where it is.
const MAX_DEPTH: usize = 64;

/// The names in a directory, in order.
pub(crate) fn sorted_entries(path: &Path) -> io::Result<Vec<OsString>> {
    let mut names = path.read_dir()?.map(|entry| Ok(entry?.file_name())).collect::<io::Result<Vec<_>>>()?;
    names.sort_unstable();
    Ok(names)
}

impl Check<'_> {
    /// Checks what is in the backup; `entries` are those at its top.
    pub(super) fn check_directory(&self, entries: Vec<OsString>) -> Result<()> {
        self.check_entries(b"", entries, 0)
    }

    fn check_entries(&self, directory: &[u8], entries: Vec<OsString>, depth: usize) -> Result<()> {
        for name in entries {
            let path = if directory.is_empty() {
                name.into_vec()
            } else {
                [directory, b"/", name.as_bytes()].concat()
            };
            if !self.ignored.contains(&path) {
                self.check_entry(&path, depth)?;
            }
        }
        Ok(())
    }

    fn check_entry(&self, path: &[u8], depth: usize) -> Result<()> {
        let shown = String::from_utf8_lossy(path);
        let full_path = self.request.directory.join(std::ffi::OsStr::from_bytes(path));
        let metadata = match full_path.metadata() {
            Ok(metadata) => metadata,
            Err(error) => {
                self.ignored.add(path);
                let text = system_text(&error);
                return self.findings.add(&format!("could not stat file or directory \"{shown}\": {text}"));
            }
        };
        if metadata.is_dir() {
            let entries = if depth < MAX_DEPTH {
                sorted_entries(&full_path)
            } else {
                Err(io::Error::from_raw_os_error(rustix::io::Errno::LOOP.raw_os_error()))
            };
            return match entries {
                Ok(entries) => self.check_entries(path, entries, depth + 1),
                Err(error) => {
                    self.ignored.add(path);
                    let (full_path, text) = (full_path.display(), system_text(&error));
                    self.findings.add(&format!("could not open directory \"{full_path}\": {text}"))
                }
            };
        }
        if !metadata.is_file() {
            return self.findings.add(&format!("\"{shown}\" is not a regular file or directory"));
        }
        let Some(file) = self.table.get(path) else {
            return self.findings.add(&format!("\"{shown}\" is present on disk but not in the manifest"));
        };
        file.set_seen();
        if file.size != metadata.len() {
            file.set_bad();
            self.findings.add(&format!(
                "\"{shown}\" has size {} on disk but size {} in the manifest",
                metadata.len(),
                file.size
            ))?;
        }
        self.check_control_file(path, &full_path)?;
        if !self.request.skip_checksums && !file.is_bad() && file.checksum.is_some() {
            self.total.fetch_add(file.size, Ordering::Relaxed);
        }
        Ok(())
    }
}
