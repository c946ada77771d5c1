//! `wal push`: one file from `archive_command` into the repository, durable before it says so.
//!
//! PostgreSQL removes or recycles the segment once this succeeds, offers the same file again after a crash, and retries for
//! ever after a failure. Hence: what is there already with the same bytes is a success; other bytes under the same name are
//! never stored in its place, but kept beside it for a human; a file that is not what its name says, or comes from another
//! cluster, is refused. Needs the repository and the file only: no server, no network, one segment of memory.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use pgkeep_repo::{ClusterRecord, Compression, Stanza};

use crate::wal::segment::{largest, parse_name};
use crate::wal::store::{expected_cluster, put_file};
use crate::{Error, ErrorKind, Location, Result};

/// What was asked.
#[derive(Clone, Debug)]
pub struct PushRequest {
    /// Where to.
    pub location: Location,
    /// The file, as `%p` names it (relative to the data directory, which is where PostgreSQL runs the command).
    pub path: PathBuf,
    /// Codec and level.
    pub compression: Compression,
}

/// How it came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum PushOutcome {
    /// It is in the repository now.
    Stored,
    /// The very same bytes were there already.
    AlreadyThere,
}

/// What was done.
#[derive(Clone, Debug, serde::Serialize)]
pub struct PushReport {
    /// The file's name.
    pub name: String,
    /// How it came out.
    pub outcome: PushOutcome,
    /// Its bytes.
    pub size_bytes: u64,
    /// Bytes that the repository spends on it.
    pub stored_bytes: u64,
    /// Something odd about the file that does not keep it from being stored.
    pub warning: Option<String>,
}

/// Stores one WAL file.
pub fn push(request: &PushRequest) -> Result<PushReport> {
    run(request).map_err(|error| error.while_doing(format!("cannot archive `{}`", request.path.display())))
}

fn run(request: &PushRequest) -> Result<PushReport> {
    let stanza = request.location.open_stanza()?;
    let record = newest_record(&stanza)?;
    let cluster = expected_cluster(record)?;
    let name = request.path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let name = parse_name(name, cluster.segment_size)?;
    let bytes = read_bounded(&request.path, largest(name, cluster.segment_size))?;
    put_file(&stanza.wal(record), cluster, name, &bytes, request.compression)
}

/// The cluster that a stanza's WAL is of now.
pub(crate) fn newest_record(stanza: &Stanza) -> Result<&ClusterRecord> {
    stanza.records().last().ok_or_else(|| {
        Error::new(ErrorKind::Corrupt, format!("the stanza `{}` has no cluster", stanza.name()))
            .hint(format!("`pgkeep init --stanza {}` makes it again", stanza.name()))
    })
}

/// Reads a file that has at most `limit` bytes.
fn read_bounded(path: &Path, limit: u64) -> Result<Vec<u8>> {
    let failed = |error: io::Error| {
        let (kind, hint) = match error.kind() {
            io::ErrorKind::NotFound => (
                ErrorKind::NotFound,
                "PostgreSQL runs the command in the data directory and `%p` is relative to it; by hand, give the whole path",
            ),
            io::ErrorKind::PermissionDenied => (ErrorKind::Storage, "run the command as the server's user"),
            _ => (ErrorKind::Storage, "look at the disk beneath `pg_wal`"),
        };
        Error::new(kind, format!("cannot read `{}`", path.display())).cause(error).hint(hint)
    };
    let file = File::open(path).map_err(failed)?;
    let metadata = file.metadata().map_err(failed)?;
    if !metadata.is_file() {
        return Err(Error::new(ErrorKind::Usage, format!("`{}` is not a file", path.display()))
            .hint("write `%p` in `archive_command`"));
    }
    if metadata.len() > limit {
        return Err(too_long(path, metadata.len(), limit));
    }
    let mut bytes = Vec::with_capacity(usize::try_from(metadata.len()).unwrap_or(0));
    // One more than allowed, so that a file which grows meanwhile is noticed.
    file.take(limit + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > limit {
        return Err(too_long(path, bytes.len() as u64, limit));
    }
    Ok(bytes)
}

fn too_long(path: &Path, found: u64, limit: u64) -> Error {
    Error::new(
        ErrorKind::Mismatch,
        format!("`{}` has {found} bytes, more than such a file can have", path.display()),
    )
    .cause(format!("at most {limit} bytes are expected"))
    .hint("check that this is the server's own file and that `--stanza` names its cluster")
}
