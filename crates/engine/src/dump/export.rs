//! `dump export`: a part of a dump as a file that stock's programs read.

use std::io::{Read, Write};
use std::path::PathBuf;

use pgkeep_logical::dump::write::OutputFile;
use pgkeep_repo::{DumpReader, RepoError};

use super::{failure, find};
use crate::Location;
use crate::error::{Error, ErrorKind, Result};
use crate::event::Cancel;

const BUFFER: usize = 1 << 20;

/// What was asked.
#[derive(Clone, Debug)]
pub struct DumpExportRequest {
    /// Where.
    pub location: Location,
    /// The dump: an id, an unambiguous beginning of one, or `latest`.
    pub id: String,
    /// Which database; none where there is but one.
    pub database: Option<String>,
    /// What belongs to no database, instead of one.
    pub globals: bool,
    /// Where to; none is standard output.
    pub output: Option<PathBuf>,
}

/// What was done.
#[derive(Clone, Debug, serde::Serialize)]
pub struct DumpExportReport {
    /// The dump.
    pub id: String,
    /// The database; none for globals.
    pub database: Option<String>,
    /// The file; none is standard output.
    pub output: Option<String>,
    /// Its bytes.
    pub size_bytes: u64,
}

/// Writes the archive of a database, or the script of what belongs to none.
pub fn export(request: &DumpExportRequest, cancel: &Cancel) -> Result<DumpExportReport> {
    let doing = format!("cannot export dump `{}` of `{}`", request.id, request.location.stanza);
    run(request, cancel).map_err(|error| error.while_doing(doing))
}

fn run(request: &DumpExportRequest, cancel: &Cancel) -> Result<DumpExportReport> {
    let stanza = request.location.open_stanza()?;
    let dump = stanza.dump(find(&stanza, &request.id)?)?;
    let index = choose_part(&dump, request.database.as_deref(), request.globals)?;
    let part = &dump.header().parts[index];
    let missing = || Error::from(RepoError::NotFound { key: dump.manifest_key() });
    let mut reader = dump.open_part(index).ok_or_else(missing)?;
    let mut output = OutputFile::create(request.output.as_deref(), true).map_err(failure)?;
    let unwritten = |error: std::io::Error| {
        Error::new(ErrorKind::Space, "the file cannot be written")
            .cause(error)
            .hint("free space or choose another file; nothing was written under its name")
    };
    let mut hasher = dump.hasher();
    let mut buffer = vec![0; BUFFER];
    loop {
        cancel.check()?;
        let count = match reader.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => count,
            Err(error) => {
                return Err(reader.take_failure().map_or_else(|| unwritten(error), Error::from));
            }
        };
        let bytes = buffer.get(..count).unwrap_or_default();
        hasher.update(bytes);
        output.write_all(bytes).map_err(unwritten)?;
    }
    if !dump.is_digest_of(part, &hasher) {
        return Err(Error::new(ErrorKind::Corrupt, "the digest of the archive is wrong")
            .hint(format!("`pgkeep dump verify {}` says more", dump.id())));
    }
    output.finish().map_err(failure)?;
    Ok(DumpExportReport {
        id: dump.id().to_string(),
        database: part.database.clone(),
        output: request.output.as_ref().map(|path| path.display().to_string()),
        size_bytes: part.size,
    })
}

/// The part with the globals, or with a database: the one of that name, or the only one.
pub(crate) fn choose_part(dump: &DumpReader, database: Option<&str>, globals: bool) -> Result<usize> {
    let names: Vec<&str> = dump.header().databases().collect();
    let known =
        || format!("it has {}", names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", "));
    if globals {
        return dump.globals().ok_or_else(|| {
            Error::new(ErrorKind::NotFound, "the dump has no script of roles and tablespaces")
                .hint("only dumps with `--all` have one")
        });
    }
    let name = match (database, names.as_slice()) {
        (Some(name), _) => name,
        (None, [one]) => one,
        (None, _) => {
            return Err(Error::new(ErrorKind::Usage, "the dump has several databases")
                .hint(format!("choose one with `--database`: {}", known())));
        }
    };
    dump.archive_of(name).ok_or_else(|| {
        Error::new(ErrorKind::NotFound, format!("the dump has no database `{name}`")).hint(known())
    })
}
