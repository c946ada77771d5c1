//! The directory format: a file for each entry with data, and `toc.dat`, which is written last.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

use pgkeep_format::archive::directory::{
    TOC_FILE, data_file, large_object_file, large_object_line, large_object_list,
};
use pgkeep_format::archive::{ArchiveHeader, DataLocation, DumpId};

use super::output_file::sync_directory;
use super::{ArchiveOptions, Chosen, output_error, table_of_contents, write_stream};
use crate::compress::{Compressor, Framing};
use crate::dump::Dump;
use crate::dump::error::{DumpError, Result};

pub(super) fn write(
    dump: &mut Dump,
    mut entries: Vec<Chosen>,
    options: &ArchiveOptions,
    header: &ArchiveHeader,
    path: &Path,
) -> Result<()> {
    create(path)?;
    let directory = Directory { path, options };
    for chosen in &mut entries {
        if !chosen.entry.had_dumper {
            continue;
        }
        let id = chosen.entry.dump_id;
        let oids = dump.large_objects(id).map(<[u32]>::to_vec);
        let name = if oids.is_some() { large_object_list(id) } else { data_file(id) };
        chosen.entry.data = DataLocation::File(name.as_str().into());
        if !chosen.with_data {
            continue;
        }
        match oids {
            Some(oids) => directory.large_objects(dump, &name, &oids)?,
            None => directory.rows(dump, id, &name)?,
        }
    }
    let table = table_of_contents(header, &entries)?;
    let unfinished = path.join(format!("{TOC_FILE}.unfinished"));
    let mut file = directory.open(&unfinished)?;
    file.write_all(&table).map_err(|error| output_error(&error))?;
    directory.close(file)?;
    fs::rename(&unfinished, path.join(TOC_FILE)).map_err(|error| output_error(&error))?;
    if options.sync {
        sync_directory(path).map_err(|error| output_error(&error))?;
        if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
            sync_directory(parent).map_err(|error| output_error(&error))?;
        }
    }
    Ok(())
}

/// Makes the directory, or takes an empty one.
fn create(path: &Path) -> Result<()> {
    let shown = path.display();
    let reason = |error: &io::Error| super::super::error::system_text(error);
    match fs::read_dir(path) {
        Ok(mut files) => match files.next() {
            None => Ok(()),
            Some(_) => Err(DumpError::new(format!("directory \"{shown}\" is not empty"))),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            fs::DirBuilder::new().mode(0o700).create(path).map_err(|error| {
                DumpError::new(format!("could not create directory \"{shown}\": {}", reason(&error)))
            })
        }
        Err(error) => {
            Err(DumpError::new(format!("could not open directory \"{shown}\": {}", reason(&error))))
        }
    }
}

struct Directory<'a> {
    path: &'a Path,
    options: &'a ArchiveOptions,
}

impl Directory<'_> {
    fn open(&self, path: &Path) -> Result<io::BufWriter<File>> {
        File::create_new(path).map(io::BufWriter::new).map_err(|error| {
            DumpError::new(format!("could not open output file \"{}\": {error}", path.display()))
        })
    }

    fn close(&self, file: io::BufWriter<File>) -> Result<()> {
        let file = file.into_inner().map_err(|error| output_error(error.error()))?;
        if self.options.sync {
            file.sync_all().map_err(|error| output_error(&error))?;
        }
        Ok(())
    }

    fn compressor(&self, name: &str) -> Result<Compressor<io::BufWriter<File>>> {
        let name = format!("{name}{}", self.options.compression.file_suffix());
        let file = self.open(&self.path.join(name))?;
        Compressor::new(file, self.options.compression, self.options.level, Framing::File)
            .map_err(|error| output_error(&error))
    }

    fn rows(&self, dump: &mut Dump, id: DumpId, name: &str) -> Result<()> {
        let compressor = write_stream(dump, id, self.compressor(name)?)?;
        self.close(compressor.finish().map_err(|error| output_error(&error))?)
    }

    fn large_objects(&self, dump: &mut Dump, name: &str, oids: &[u32]) -> Result<()> {
        // The list is not compressed.
        let mut list = self.open(&self.path.join(name))?;
        for oid in oids {
            let mut compressor = self.compressor(&large_object_file(*oid))?;
            dump.write_large_object(*oid, &mut compressor)?;
            self.close(compressor.finish().map_err(|error| output_error(&error))?)?;
            list.write_all(large_object_line(*oid).as_bytes()).map_err(|error| output_error(&error))?;
        }
        self.close(list)
    }
}
