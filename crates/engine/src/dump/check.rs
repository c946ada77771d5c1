//! `dump verify`, and the dumps' part of `verify`: every pack, every frame, every entry's data decoded and counted.

use std::collections::BTreeMap;
use std::io::Read;
use std::sync::{Arc, Mutex, PoisonError};

use pgkeep_format::archive::{ArchiveFormat, DumpId as EntryId, TocEntry};
use pgkeep_logical::restore::{Archive, Input, count_data};
use pgkeep_repo::{
    DumpId, DumpPart, DumpPartKind, DumpPartReader, DumpReader, DumpedTable, PartHasher, RepoError, Stanza,
};

use super::find;
use crate::Location;
use crate::error::{Error, Result};
use crate::event::{Cancel, Event, Observer, Step};

/// A damaged place of a dump.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct DumpDamage {
    /// The object's key in the repository.
    pub object: String,
    /// Where in it, in bytes; none where it is the whole.
    pub offset: Option<u64>,
    /// What is wrong.
    pub what: String,
    /// The database whose archive it is; none for globals, and for the dump as a whole.
    pub database: Option<String>,
}

/// What was found about one dump.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct DumpVerification {
    /// The dump.
    pub id: String,
    /// Whether there is no damage.
    pub ok: bool,
    /// Databases whose archive was decoded.
    pub databases: u64,
    /// Entries whose data was decoded.
    pub tables: u64,
    /// Rows that were counted.
    pub rows: u64,
    /// Bytes that were decoded.
    pub size_bytes: u64,
    /// What is damaged.
    pub damage: Vec<DumpDamage>,
}

/// What `dump verify` found.
#[derive(Clone, Debug, serde::Serialize)]
pub struct DumpVerifyReport {
    /// The stanza.
    pub stanza: String,
    /// Whether there is no damage.
    pub ok: bool,
    /// Oldest first.
    pub dumps: Vec<DumpVerification>,
}

/// Verifies one dump, or all of them.
pub fn verify_dumps(
    location: &Location,
    id: Option<&str>,
    observer: &dyn Observer,
    cancel: &Cancel,
) -> Result<DumpVerifyReport> {
    let doing = format!("cannot verify dumps of `{}` in `{}`", location.stanza, location.repository);
    let verify = || {
        let stanza = location.open_stanza()?;
        let ids = match id {
            Some(id) => vec![find(&stanza, id)?],
            None => stanza.dumps()?.iter().map(|listing| listing.id).collect(),
        };
        let mut dumps = Vec::new();
        for id in ids {
            dumps.push(check(&stanza, id, observer, cancel)?);
        }
        Ok(DumpVerifyReport { stanza: location.stanza.clone(), ok: dumps.iter().all(|dump| dump.ok), dumps })
    };
    verify().map_err(|error: Error| error.while_doing(doing))
}

/// Verifies dumps, oldest first, while `goes_on` says so.
pub(crate) fn check_all(
    stanza: &Stanza,
    observer: &dyn Observer,
    cancel: &Cancel,
    goes_on: &dyn Fn() -> bool,
) -> Result<Vec<DumpVerification>> {
    let mut dumps = Vec::new();
    for listing in stanza.dumps()? {
        if !goes_on() {
            break;
        }
        dumps.push(check(stanza, listing.id, observer, cancel)?);
    }
    Ok(dumps)
}

fn check(stanza: &Stanza, id: DumpId, observer: &dyn Observer, cancel: &Cancel) -> Result<DumpVerification> {
    let mut found = DumpVerification {
        id: id.to_string(),
        ok: true,
        databases: 0,
        tables: 0,
        rows: 0,
        size_bytes: 0,
        damage: Vec::new(),
    };
    let key = format!("{}/dump/{id}/manifest", stanza.name());
    match stanza.dump(id) {
        Ok(dump) => {
            let total_bytes = Some(dump.header().size_bytes());
            observer.event(Event::StepStarted { step: Step::Verify, total_bytes });
            for pack in &dump.header().packs {
                if let Err(error) = dump.pack_index(pack) {
                    found.damage.push(damage(&key, error, None)?);
                }
            }
            for index in 0..dump.header().parts.len() {
                cancel.check()?;
                check_part(&dump, index, &mut found, observer, cancel)?;
            }
            observer.event(Event::StepFinished { step: Step::Verify });
        }
        // Removed since it was listed.
        Err(RepoError::DumpNotFound { .. }) => {}
        Err(error) => found.damage.push(damage(&key, error, None)?),
    }
    found.ok = found.damage.is_empty();
    Ok(found)
}

/// What an error says about an object of the repository; other errors are handed back.
fn damage(key: &str, error: RepoError, database: Option<&String>) -> Result<DumpDamage> {
    let (object, offset, what) = match error {
        RepoError::NotFound { key } => (key, None, "it is not there".to_owned()),
        RepoError::Corrupt { key, offset, what } => (key, Some(offset), what),
        RepoError::NewerFormat { key, what } => (key, None, what),
        RepoError::Storage { source, .. } => (key.to_owned(), None, source.to_string()),
        other => return Err(other.into()),
    };
    Ok(DumpDamage { object, offset, what, database: database.cloned() })
}

/// Decodes a part from its beginning to its end.
fn check_part(
    dump: &DumpReader,
    index: usize,
    found: &mut DumpVerification,
    observer: &dyn Observer,
    cancel: &Cancel,
) -> Result<()> {
    let part = &dump.header().parts[index];
    let key = dump.manifest_key();
    let Some(reader) = dump.open_part(index) else { return Ok(()) };
    let shared = Arc::new(Mutex::new(Tapped { reader, hasher: dump.hasher(), cancel: cancel.clone() }));
    let says = |what: String| DumpDamage {
        object: key.clone(),
        offset: None,
        what,
        database: part.database.clone(),
    };
    let decoded = match part.kind {
        DumpPartKind::Archive => decode(dump, part, index, &shared, found),
        DumpPartKind::Globals => Ok(()),
    };
    // The rest, for the digest: the end of an archive, or a script.
    let rest = std::io::copy(&mut Tap(shared.clone()), &mut std::io::sink());
    cancel.check()?;
    let mut tapped = shared.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(error) = tapped.reader.take_failure() {
        found.damage.push(damage(&key, error, part.database.as_ref())?);
        return Ok(());
    }
    if let Err(error) = rest {
        found.damage.push(says(error.to_string()));
    }
    if let Err(what) = decoded {
        found.damage.push(says(what));
    }
    if !dump.is_digest_of(part, &tapped.hasher) {
        found.damage.push(says("the digest of a part is wrong".to_owned()));
    }
    found.size_bytes += part.size;
    observer.event(Event::Progress { step: Step::Verify, done_bytes: found.size_bytes });
    Ok(())
}

fn decode(
    dump: &DumpReader,
    part: &DumpPart,
    index: usize,
    shared: &Arc<Mutex<Tapped>>,
    found: &mut DumpVerification,
) -> Result<(), String> {
    let input = Input::Stream(Box::new(Tap(shared.clone())));
    let mut archive = Archive::open(input, Some(ArchiveFormat::Custom)).map_err(|error| error.message)?;
    let entries = archive.contents.entries.len() as u64;
    if entries > part.entries {
        return Err(format!("the archive has {entries} entries, the manifest says {}", part.entries));
    }
    let tables: BTreeMap<u32, &DumpedTable> =
        dump.tables(index).iter().map(|table| (table.entry, table)).collect();
    // Large objects have no rows; they are decoded all the same.
    let with_data = !dump.header().options.iter().any(|option| option == "--schema-only");
    let is_read = |entry: &&TocEntry| {
        tables.contains_key(&entry.dump_id.0) || (with_data && entry.desc.as_bytes() == b"BLOBS")
    };
    let ids: Vec<EntryId> =
        archive.contents.entries.iter().filter(is_read).map(|entry| entry.dump_id).collect();
    let counts = count_data(&mut archive, &ids).map_err(|error| error.message)?;
    let mut counted = 0;
    for (id, count) in ids.iter().zip(&counts) {
        let Some(table) = tables.get(&id.0) else { continue };
        if table.rows.is_some_and(|rows| count.rows != Some(rows)) || count.bytes != table.bytes {
            return Err(format!(
                "table {}.{} has {} rows in {} bytes, the manifest says {} in {}",
                table.schema,
                table.name,
                count.rows.unwrap_or(0),
                count.bytes,
                table.rows.unwrap_or(0),
                table.bytes
            ));
        }
        found.rows += count.rows.unwrap_or(0);
        counted += 1;
    }
    found.tables += counted;
    if counted < tables.len() as u64 {
        return Err("the archive has not all tables that the manifest lists".to_owned());
    }
    found.databases += 1;
    Ok(())
}

/// The bytes of a part, and what is learned of them while somebody reads.
struct Tapped {
    reader: DumpPartReader,
    hasher: PartHasher,
    cancel: Cancel,
}

struct Tap(Arc<Mutex<Tapped>>);

impl Read for Tap {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let mut tapped = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if tapped.cancel.is_cancelled() {
            return Err(std::io::Error::other("interrupted"));
        }
        let count = tapped.reader.read(buffer)?;
        tapped.hasher.update(buffer.get(..count).unwrap_or_default());
        Ok(count)
    }
}
