//! The stream of a base backup: archives into their sinks, the manifest into its file.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use pgkeep_format::archive::Compression;
use pgkeep_tool::compress::{Codec, ParallelCompressor};
use pgkeep_tool::server_text::{notice_text, server_words};
use pgkeep_tool::{Result, ToolError};
use pgkeep_wire::{BaseBackup, BaseBackupEvent, WireError};

use super::decompress::Decompressing;
use super::extract::{DataDirectory, Extractor};
use super::inject::{Injector, LateMember};
use super::observer::{Observer, Progress};
use super::sink::{ArchiveSink, CompressedOutput, Whole, not_written};
use super::tablespaces::Places;
use super::wal::{Signals, create_new};
use crate::output_files::Modes;

/// The manifest's name, and the one that it has until everything else is there.
pub(super) const MANIFEST: &str = "backup_manifest";
pub(super) const UNFINISHED_MANIFEST: &str = "backup_manifest.tmp";
/// A manifest that goes into an archive is held in memory: some 150 bytes for each file.
const LONGEST_MANIFEST: usize = 1 << 30;

/// Where archives go.
pub(super) enum Output {
    Plain {
        directory: PathBuf,
        wal_directory: Option<PathBuf>,
        places: Places,
    },
    Tar {
        directory: PathBuf,
        codec: Codec,
        threads: usize,
    },
    Stream {
        output: Option<Box<dyn Write + Send>>,
        codec: Codec,
        threads: usize,
    },
    /// Nothing comes.
    Nowhere,
}

/// What is done with what comes.
pub(super) struct Receiving<'a> {
    pub(super) output: Output,
    /// Settings of a standby.
    pub(super) standby: Option<Vec<u8>>,
    pub(super) has_manifest: bool,
    pub(super) modes: Modes,
    /// Archives lack their end, as those of servers up to 14 do; the server does not say how far it is either.
    pub(super) is_old_server: bool,
    pub(super) observer: &'a dyn Observer,
}

enum ManifestSink {
    File(BufWriter<File>, PathBuf),
    Memory(Arc<Mutex<Vec<u8>>>),
    Nowhere,
}

impl Receiving<'_> {
    /// Takes everything.
    pub(super) fn run(mut self, backup: &mut BaseBackup<'_>, signals: &Signals<'_>) -> Result<Progress> {
        let mut progress = Progress {
            done_bytes: 0,
            total_kib: backup
                .tablespaces
                .iter()
                .filter_map(|tablespace| tablespace.size_kib)
                .fold(0, u64::saturating_add),
            tablespaces_done: 0,
            tablespaces: backup.tablespaces.len(),
            file: None,
        };
        let late = Arc::new(Mutex::new(Vec::new()));
        let mut archive: Option<Box<dyn ArchiveSink>> = None;
        let mut manifest = ManifestSink::Nowhere;
        let mut archives = 0;
        let mut has_come = false;
        loop {
            tell_notices(&mut backup.take_notices(), self.observer);
            let event = match backup.next() {
                Ok(Some(event)) => event,
                Ok(None) => break,
                Err(error) => {
                    tell_notices(&mut backup.take_notices(), self.observer);
                    return Err(signals.failure().unwrap_or_else(|| broken(&error)));
                }
            };
            match event {
                BaseBackupEvent::NewArchive { name, tablespace } => {
                    if let Some(done) = archive.take() {
                        done.finish()?;
                        progress.tablespaces_done += 1;
                    }
                    archive = self.open(&name, tablespace, &late)?;
                    archives += 1;
                }
                BaseBackupEvent::Data(bytes) => {
                    if self.is_old_server {
                        progress.done_bytes += bytes.len() as u64;
                    }
                    let Some(archive) = &mut archive else { continue };
                    archive.write(bytes)?;
                    if self.is_old_server {
                        progress.file = Some(archive.file());
                        self.observer.progress(&progress);
                    }
                }
                BaseBackupEvent::Progress(bytes) => {
                    progress.done_bytes = bytes;
                    progress.file = archive.as_ref().map(|archive| archive.file());
                    self.observer.progress(&progress);
                }
                BaseBackupEvent::NewManifest => {
                    manifest = self.open_manifest(&late)?;
                    has_come = true;
                }
                BaseBackupEvent::Manifest(bytes) => manifest.write(bytes)?,
            }
        }
        if archives != progress.tablespaces || has_come != self.has_manifest {
            return Err(ToolError::new(format!(
                "server sent {archives} archives and {} manifest where {} and {} were due",
                if has_come { "a" } else { "no" },
                progress.tablespaces,
                if self.has_manifest { "one" } else { "none" }
            )));
        }
        manifest.finish()?;
        // After the manifest, which may be a member.
        if let Some(archive) = archive {
            archive.finish()?;
        }
        progress.tablespaces_done = progress.tablespaces;
        progress.file = None;
        Ok(progress)
    }

    /// The sink of an archive.
    fn open(
        &mut self,
        name: &str,
        tablespace: Option<u32>,
        late: &Arc<Mutex<Vec<u8>>>,
    ) -> Result<Option<Box<dyn ArchiveSink>>> {
        let compression = compression_of(name);
        let standby = if tablespace.is_none() { self.standby.clone() } else { None };
        let (output, late) = match &mut self.output {
            Output::Nowhere => return Ok(None),
            Output::Plain { directory, wal_directory, places } => {
                let sink: Box<dyn ArchiveSink> = Box::new(match tablespace {
                    None => {
                        let linked = places.iter().filter(|(_, place)| place.is_linked);
                        let links =
                            linked.map(|(oid, place)| (*oid, (place.server.clone(), place.here.clone())));
                        let data = DataDirectory {
                            links: links.collect(),
                            wal: wal_directory.clone(),
                            standby,
                            file_mode: self.modes.file,
                        };
                        Extractor::new(directory, data)?
                    }
                    Some(oid) => {
                        let place = places.get(&oid).ok_or_else(|| unexpected(name))?;
                        Extractor::new(&place.here, DataDirectory::default())?
                    }
                });
                return decompressed(name, compression, sink).map(Some);
            }
            Output::Tar { directory, codec, threads } => {
                let is_looked_into = standby.is_some() && compression != Compression::None;
                // What is decompressed to be looked into is compressed again.
                let codec = if is_looked_into { Codec::of(compression) } else { *codec };
                let own = if compression == Compression::None { codec.compression.file_suffix() } else { "" };
                let path = directory.join(format!("{name}{own}"));
                let file: Box<dyn Write + Send> = Box::new(create_new(&path, self.modes.file)?);
                (compressed(&path, file, codec, *threads)?, None)
            }
            Output::Stream { output, codec, threads } => {
                let stream = output.take().ok_or_else(|| unexpected(name))?;
                let late = LateMember { path: MANIFEST, contents: Arc::clone(late) };
                let late = self.has_manifest.then_some(late);
                let is_looked_into = standby.is_some() || late.is_some();
                let codec = if is_looked_into && compression != Compression::None {
                    Codec::of(compression)
                } else {
                    *codec
                };
                (compressed(Path::new("-"), stream, codec, *threads)?, late)
            }
        };
        if standby.is_none() && late.is_none() {
            let lacks_end = self.is_old_server && compression == Compression::None;
            return Ok(Some(Box::new(Whole::new(output, lacks_end))));
        }
        let injector = Box::new(Injector::new(output, standby, late, self.modes.file));
        decompressed(name, compression, injector).map(Some)
    }

    fn open_manifest(&self, late: &Arc<Mutex<Vec<u8>>>) -> Result<ManifestSink> {
        let directory = match &self.output {
            Output::Plain { directory, .. } | Output::Tar { directory, .. } => directory,
            Output::Stream { .. } => return Ok(ManifestSink::Memory(Arc::clone(late))),
            Output::Nowhere => return Ok(ManifestSink::Nowhere),
        };
        let path = directory.join(UNFINISHED_MANIFEST);
        let file = create_new(&path, self.modes.file)?;
        Ok(ManifestSink::File(BufWriter::new(file), path))
    }
}

impl ManifestSink {
    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        match self {
            ManifestSink::File(file, path) => {
                file.write_all(bytes).map_err(|error| not_written(path, &error))
            }
            ManifestSink::Memory(contents) => {
                let mut contents = contents.lock().unwrap_or_else(PoisonError::into_inner);
                if contents.len().saturating_add(bytes.len()) > LONGEST_MANIFEST {
                    return Err(ToolError::new("the manifest is too long to be written to an archive"));
                }
                contents.extend_from_slice(bytes);
                Ok(())
            }
            ManifestSink::Nowhere => Ok(()),
        }
    }

    fn finish(&mut self) -> Result<()> {
        match self {
            ManifestSink::File(file, path) => file.flush().map_err(|error| not_written(path, &error)),
            ManifestSink::Memory(_) | ManifestSink::Nowhere => Ok(()),
        }
    }
}

/// Hands notices on.
pub(super) fn tell_notices(notices: &mut Vec<pgkeep_wire::Notice>, observer: &dyn Observer) {
    for notice in notices.drain(..) {
        observer.notice(&notice_text(&notice));
    }
}

fn decompressed(
    name: &str,
    compression: Compression,
    sink: Box<dyn ArchiveSink>,
) -> Result<Box<dyn ArchiveSink>> {
    Ok(match compression {
        Compression::None => sink,
        compression => Box::new(Decompressing::start(name.to_owned(), compression, sink)?),
    })
}

fn compressed(
    path: &Path,
    output: Box<dyn Write + Send>,
    codec: Codec,
    threads: usize,
) -> Result<CompressedOutput> {
    ParallelCompressor::new(output, codec, threads)
        .map(|output| CompressedOutput::new(path, output))
        .map_err(|error| not_written(path, &error))
}

/// What the server compressed an archive with, by its name.
fn compression_of(name: &str) -> Compression {
    let methods = [Compression::Gzip, Compression::Lz4, Compression::Zstd];
    methods.into_iter().find(|method| name.ends_with(method.file_suffix())).unwrap_or(Compression::None)
}

fn unexpected(name: &str) -> ToolError {
    ToolError::new(format!("server sent an archive that it had not announced: \"{name}\""))
}

fn broken(error: &WireError) -> ToolError {
    ToolError::new(format!("could not read COPY data: {}", server_words(error)))
}
