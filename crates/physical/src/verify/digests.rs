//! Digesting the files of a directory, by several threads.
//!
//! Threads take files in the order of paths; what they find is told in that order, whoever finishes first.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::sync::atomic::{AtomicUsize, Ordering};

use pgkeep_tool::{Result, system_text};

use super::Check;
use crate::checksum::Hasher;
use crate::manifest_table::TableFile;

const BUFFER: usize = 256 << 10;

impl Check<'_> {
    /// Compares the checksum of every file that is there and lists one.
    pub(super) fn check_digests(&self) -> Result<()> {
        self.tell_progress(false);
        let files: Vec<&TableFile> = self
            .table
            .files
            .iter()
            .filter(|file| file.is_seen() && !file.is_bad() && file.checksum.is_some())
            .filter(|file| !self.ignored.contains(&file.path))
            .collect();
        let next = AtomicUsize::new(0);
        let result = std::thread::scope(|scope| {
            let (sender, verdicts) = crossbeam_channel::bounded(1024);
            for _ in 0..self.request.jobs.clamp(1, files.len().max(1)) {
                let (sender, next, files) = (sender.clone(), &next, &files);
                scope.spawn(move || {
                    let mut buffer = vec![0; BUFFER];
                    while !self.findings.is_over() {
                        let at = next.fetch_add(1, Ordering::Relaxed);
                        let Some(file) = files.get(at) else { break };
                        let verdict = self.digest_file(file, &mut buffer);
                        if sender.send((at, verdict)).is_err() {
                            break;
                        }
                    }
                });
            }
            drop(sender);
            self.tell_in_order(&verdicts)
        });
        if result.is_ok() {
            self.tell_progress(true);
        }
        result
    }

    fn tell_in_order(
        &self,
        verdicts: &crossbeam_channel::Receiver<(usize, std::result::Result<(), String>)>,
    ) -> Result<()> {
        let mut waiting = BTreeMap::new();
        let mut next = 0;
        for (at, verdict) in verdicts {
            waiting.insert(at, verdict);
            while let Some(verdict) = waiting.remove(&next) {
                next += 1;
                if let Err(text) = verdict {
                    self.findings.add(&text)?;
                }
            }
        }
        Ok(())
    }

    fn digest_file(&self, file: &TableFile, buffer: &mut [u8]) -> std::result::Result<(), String> {
        let Some(expected) = &file.checksum else { return Ok(()) };
        let failed = |what: &str, error: &io::Error| {
            format!("could not {what} file \"{}\": {}", file.shown(), system_text(error))
        };
        let path = self.request.directory.join(OsStr::from_bytes(&file.path));
        let mut source = File::open(&path).map_err(|error| failed("open", &error))?;
        let mut hasher = Hasher::new(expected.algorithm);
        let mut read = 0_u64;
        loop {
            match source.read(buffer) {
                Ok(0) => break,
                Ok(length) => {
                    hasher.update(buffer.get(..length).unwrap_or_default());
                    read += length as u64;
                    self.advance(length as u64);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(failed("read", &error)),
            }
        }
        if read != file.size {
            let (path, size) = (file.shown(), file.size);
            return Err(format!("file \"{path}\" should contain {size} bytes, but read {read}"));
        }
        file.check(&hasher.finish(), "")
    }
}
