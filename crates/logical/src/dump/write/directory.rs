//! The directory format: a file for each entry with data, the index of pieces, and `toc.dat`, which is written last.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::sync::mpsc::{self, SyncSender};
use std::thread::{Scope, ScopedJoinHandle};

use pgkeep_format::archive::directory::{
    TOC_FILE, data_file, large_object_file, large_object_line, large_object_list,
};
use pgkeep_format::archive::{ArchiveHeader, DataKind, DataLocation, INDEX_FILE};
use pgkeep_tool::compress::Framing;
use pgkeep_tool::{Result, ToolError};

use super::indexing::IndexBuilder;
use super::output_file::sync_directory;
use super::{ArchiveOptions, Chosen, with_data, write_table};
use crate::dump::Dump;
use crate::dump::fetch::{Delivery, Item, PlannedEntry, Sequence};

pub(super) fn write(
    dump: &mut Dump,
    mut entries: Vec<Chosen>,
    options: &ArchiveOptions,
    header: &ArchiveHeader,
    path: &Path,
) -> Result<()> {
    create(path)?;
    for chosen in &mut entries {
        if !chosen.entry.had_dumper {
            continue;
        }
        let id = chosen.entry.dump_id;
        let name = if dump.large_objects(id).is_some() { large_object_list(id) } else { data_file(id) };
        chosen.entry.data = DataLocation::File(name.as_str().into());
    }
    let data = with_data(&entries);
    let written = std::thread::scope(|scope| {
        let syncing = Syncing::start(scope, options.sync);
        let mut directory =
            Directory { path, options, syncing, index: IndexBuilder::new(options.compression) };
        // Files can be written in any order.
        let sequence = Sequence::LargestFirst;
        dump.fetch(&data, sequence, (options.codec(), Framing::File), |delivery| directory.all(delivery))?;
        if options.index {
            let bytes =
                std::mem::replace(&mut directory.index, IndexBuilder::new(options.compression)).finish();
            let mut file = directory.open(INDEX_FILE)?;
            file.put(&bytes)?;
            directory.close(file)?;
        }
        directory.syncing.finish()
    });
    written?;
    let unfinished = format!("{TOC_FILE}.unfinished");
    let mut file = open(&path.join(&unfinished))?;
    write_table(dump, header, &entries, &mut file, |_, _| ())?;
    let file = file.into_inner().map_err(|error| ToolError::output(error.error()))?;
    if options.sync {
        file.sync_all().map_err(|error| ToolError::output(&error))?;
    }
    fs::rename(path.join(unfinished), path.join(TOC_FILE)).map_err(|error| ToolError::output(&error))?;
    if options.sync {
        sync_directory(path).map_err(|error| ToolError::output(&error))?;
        if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
            sync_directory(parent).map_err(|error| ToolError::output(&error))?;
        }
    }
    Ok(())
}

/// Makes the directory, or takes an empty one.
fn create(path: &Path) -> Result<()> {
    let shown = path.display();
    let reason = |error: &io::Error| pgkeep_tool::system_text(error);
    match fs::read_dir(path) {
        Ok(mut files) => match files.next() {
            None => Ok(()),
            Some(_) => Err(ToolError::new(format!("directory \"{shown}\" is not empty"))),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            fs::DirBuilder::new().mode(0o700).create(path).map_err(|error| {
                ToolError::new(format!("could not create directory \"{shown}\": {}", reason(&error)))
            })
        }
        Err(error) => {
            Err(ToolError::new(format!("could not open directory \"{shown}\": {}", reason(&error))))
        }
    }
}

struct Directory<'a, 'scope> {
    path: &'a Path,
    options: &'a ArchiveOptions,
    syncing: Syncing<'scope>,
    index: IndexBuilder,
}

impl Directory<'_, '_> {
    fn all(&mut self, mut delivery: Delivery) -> Result<()> {
        let plan = delivery.plan();
        for entry in &plan.entries {
            self.index.begin(entry, 0);
            if entry.kind == DataKind::LargeObjects {
                self.objects(entry, &mut delivery)?;
            } else {
                self.rows(entry, &mut delivery)?;
            }
            let (bytes, rows) = self.index.totals();
            delivery.ended(entry, bytes, rows);
        }
        Ok(())
    }

    fn rows(&mut self, entry: &PlannedEntry, delivery: &mut Delivery) -> Result<()> {
        let mut file = self.open_data(&data_file(entry.id))?;
        let mut offset = 0;
        for _ in entry.parts.clone() {
            delivery.part(&mut |item| {
                match item {
                    Item::Bytes(bytes) => file.put(&bytes)?,
                    Item::PieceEnd(facts) => {
                        self.index.piece(offset, file.position, &facts);
                        offset = file.position;
                    }
                    Item::LargeObject(_) | Item::LargeObjectEnd => {}
                }
                Ok(())
            })?;
        }
        self.close(file)
    }

    fn objects(&mut self, entry: &PlannedEntry, delivery: &mut Delivery) -> Result<()> {
        // The list is not compressed.
        let mut list = self.open(&large_object_list(entry.id))?;
        for _ in entry.parts.clone() {
            let mut file = None;
            delivery.part(&mut |item| match (item, &mut file) {
                (Item::LargeObject(oid), file) => {
                    *file = Some(self.open_data(&large_object_file(oid))?);
                    list.put(large_object_line(oid).as_bytes())
                }
                (Item::Bytes(bytes), Some(file)) => file.put(&bytes),
                (Item::Bytes(_), None) => Ok(()),
                (Item::LargeObjectEnd, file) => file.take().map_or(Ok(()), |file| self.close(file)),
                (Item::PieceEnd(facts), _) => {
                    self.index.piece(0, 0, &facts);
                    Ok(())
                }
            })?;
        }
        self.close(list)
    }

    fn open_data(&self, name: &str) -> Result<Output> {
        self.open(&format!("{name}{}", self.options.compression.file_suffix()))
    }

    fn open(&self, name: &str) -> Result<Output> {
        Ok(Output { file: open(&self.path.join(name))?, position: 0 })
    }

    fn close(&self, output: Output) -> Result<()> {
        let file = output.file.into_inner().map_err(|error| ToolError::output(error.error()))?;
        self.syncing.take(file)
    }
}

fn open(path: &Path) -> Result<io::BufWriter<File>> {
    File::create_new(path).map(io::BufWriter::new).map_err(|error| {
        ToolError::new(format!("could not open output file \"{}\": {error}", path.display()))
    })
}

/// A file, with how much was written.
struct Output {
    file: io::BufWriter<File>,
    position: u64,
}

impl Output {
    fn put(&mut self, bytes: &[u8]) -> Result<()> {
        self.position += bytes.len() as u64;
        self.file.write_all(bytes).map_err(|error| ToolError::output(&error))
    }
}

/// A thread that flushes files to disk, so that nobody else waits for that.
struct Syncing<'scope>(Option<(SyncSender<File>, ScopedJoinHandle<'scope, io::Result<()>>)>);

/// Files that wait to be flushed.
const UNFLUSHED: usize = 128;

impl<'scope> Syncing<'scope> {
    fn start<'env>(scope: &'scope Scope<'scope, 'env>, sync: bool) -> Syncing<'scope> {
        Syncing(sync.then(|| {
            let (sender, files) = mpsc::sync_channel::<File>(UNFLUSHED);
            (sender, scope.spawn(move || files.into_iter().try_for_each(|file| file.sync_all())))
        }))
    }

    fn take(&self, file: File) -> Result<()> {
        match &self.0 {
            // When the thread has failed the end tells why.
            Some((sender, _)) => {
                drop(sender.send(file));
                Ok(())
            }
            None => Ok(()),
        }
    }

    /// All files are on disk.
    fn finish(self) -> Result<()> {
        let Some((sender, thread)) = self.0 else { return Ok(()) };
        drop(sender);
        match thread.join() {
            Ok(result) => result.map_err(|error| ToolError::output(&error)),
            Err(_) => Err(ToolError::new("the thread that flushes files ended by a defect")),
        }
    }
}
