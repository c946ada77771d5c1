//! The directory format: a file for each entry with data, and `toc.dat`, which is written last.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use pgkeep_format::archive::directory::{
    TOC_FILE, data_file, large_object_file, large_object_line, large_object_list,
};
use pgkeep_format::archive::{ArchiveHeader, DataLocation, DumpId};

use super::output_file::sync_directory;
use super::{ArchiveOptions, Chosen, write_table};
use crate::compress::{Compressor, Framing};
use crate::dump::{Dump, Fetcher};
use crate::error::{LogicalError, Result};

pub(super) fn write(
    dump: &mut Dump,
    mut entries: Vec<Chosen>,
    options: &ArchiveOptions,
    header: &ArchiveHeader,
    path: &Path,
) -> Result<()> {
    create(path)?;
    let directory = Directory { path, options };
    let mut work = Vec::new();
    for chosen in &mut entries {
        if !chosen.entry.had_dumper {
            continue;
        }
        let id = chosen.entry.dump_id;
        let name = if dump.large_objects(id).is_some() { large_object_list(id) } else { data_file(id) };
        chosen.entry.data = DataLocation::File(name.as_str().into());
        if chosen.with_data {
            work.push((id, name));
        }
    }
    // The largest first, so that no session is left alone with it in the end.
    work.sort_by_key(|(id, _)| std::cmp::Reverse(dump.size(*id)));
    directory.fetch(dump.fetchers(), &work)?;
    let unfinished = path.join(format!("{TOC_FILE}.unfinished"));
    let mut file = directory.open(&unfinished)?;
    write_table(dump, header, &entries, &mut file, |_, _| ())?;
    directory.close(file)?;
    fs::rename(&unfinished, path.join(TOC_FILE)).map_err(|error| LogicalError::output(&error))?;
    if options.sync {
        sync_directory(path).map_err(|error| LogicalError::output(&error))?;
        if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
            sync_directory(parent).map_err(|error| LogicalError::output(&error))?;
        }
    }
    Ok(())
}

/// Makes the directory, or takes an empty one.
fn create(path: &Path) -> Result<()> {
    let shown = path.display();
    let reason = |error: &io::Error| crate::error::system_text(error);
    match fs::read_dir(path) {
        Ok(mut files) => match files.next() {
            None => Ok(()),
            Some(_) => Err(LogicalError::new(format!("directory \"{shown}\" is not empty"))),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            fs::DirBuilder::new().mode(0o700).create(path).map_err(|error| {
                LogicalError::new(format!("could not create directory \"{shown}\": {}", reason(&error)))
            })
        }
        Err(error) => {
            Err(LogicalError::new(format!("could not open directory \"{shown}\": {}", reason(&error))))
        }
    }
}

struct Directory<'a> {
    path: &'a Path,
    options: &'a ArchiveOptions,
}

impl Directory<'_> {
    /// Lets each session fetch what comes next until nothing is left, or one fails.
    fn fetch(&self, mut fetchers: Vec<Fetcher<'_>>, work: &[(DumpId, String)]) -> Result<()> {
        let next = AtomicUsize::new(0);
        let work_on = |fetcher: &mut Fetcher<'_>| -> Result<()> {
            while let Some((id, name)) = work.get(next.fetch_add(1, Ordering::Relaxed)) {
                let result = match fetcher.large_objects(*id).map(<[u32]>::to_vec) {
                    Some(oids) => self.large_objects(fetcher, name, &oids),
                    None => self.rows(fetcher, *id, name),
                };
                if result.is_err() {
                    // Nobody begins anything more.
                    next.store(work.len(), Ordering::Relaxed);
                    return result;
                }
            }
            Ok(())
        };
        if let [fetcher] = &mut fetchers[..] {
            return work_on(fetcher);
        }
        std::thread::scope(|scope| {
            let threads: Vec<_> =
                fetchers.iter_mut().map(|fetcher| scope.spawn(|| work_on(fetcher))).collect();
            let results: Vec<Result<()>> = threads
                .into_iter()
                .map(|thread| {
                    thread
                        .join()
                        .unwrap_or_else(|_| Err(LogicalError::new("a session's thread ended by a defect")))
                })
                .collect();
            results.into_iter().collect()
        })
    }

    fn open(&self, path: &Path) -> Result<io::BufWriter<File>> {
        File::create_new(path).map(io::BufWriter::new).map_err(|error| {
            LogicalError::new(format!("could not open output file \"{}\": {error}", path.display()))
        })
    }

    fn close(&self, file: io::BufWriter<File>) -> Result<()> {
        let file = file.into_inner().map_err(|error| LogicalError::output(error.error()))?;
        if self.options.sync {
            file.sync_all().map_err(|error| LogicalError::output(&error))?;
        }
        Ok(())
    }

    fn compressor(&self, name: &str) -> Result<Compressor<io::BufWriter<File>>> {
        let name = format!("{name}{}", self.options.compression.file_suffix());
        let file = self.open(&self.path.join(name))?;
        Compressor::new(file, self.options.compression, self.options.level, Framing::File)
            .map_err(|error| LogicalError::output(&error))
    }

    fn rows(&self, fetcher: &mut Fetcher<'_>, id: DumpId, name: &str) -> Result<()> {
        let mut compressor = self.compressor(name)?;
        fetcher.write_rows(id, &mut compressor)?;
        self.close(compressor.finish().map_err(|error| LogicalError::output(&error))?)
    }

    fn large_objects(&self, fetcher: &mut Fetcher<'_>, name: &str, oids: &[u32]) -> Result<()> {
        // The list is not compressed.
        let mut list = self.open(&self.path.join(name))?;
        for oid in oids {
            let mut compressor = self.compressor(&large_object_file(*oid))?;
            fetcher.write_large_object(*oid, &mut compressor)?;
            self.close(compressor.finish().map_err(|error| LogicalError::output(&error))?)?;
            list.write_all(large_object_line(*oid).as_bytes())
                .map_err(|error| LogicalError::output(&error))?;
        }
        self.close(list)
    }
}
