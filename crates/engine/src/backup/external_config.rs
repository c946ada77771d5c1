//! Configuration files that lie outside the data directory, as Debian keeps them in `/etc`.
//!
//! They are kept in the manifest, and put where the user says on restore; never back into place by themselves. What the role
//! may not see is a warning, not an error: a backup without them restores all the same.

use std::path::Path;

use pgkeep_repo::ExternalFile;
use pgkeep_wire::Connection;

use super::server::{ServerFacts, read_server_file};
use crate::error::Result;
use crate::event::{Event, Observer};

/// The largest file that is taken for configuration.
const LARGEST: usize = 1 << 20;

/// Collects them: through the file system where it is the server's, through the server otherwise.
pub fn collect(
    session: &mut Connection,
    facts: &ServerFacts,
    local: bool,
    observer: &dyn Observer,
) -> Result<Vec<ExternalFile>> {
    let mut locations = facts.config_files.clone();
    // Included files; only superusers may ask.
    if let Ok(rows) =
        session.query("select distinct sourcefile from pg_file_settings where sourcefile is not null")
    {
        for row in rows.iter() {
            locations.push(row.text("sourcefile")?.into());
        }
    }
    locations.sort();
    locations.dedup();
    let data_directory = facts.data_directory.as_deref().unwrap_or(Path::new("/nonexistent"));
    let mut files = Vec::new();
    for location in locations {
        if location.starts_with(data_directory) {
            continue;
        }
        let Some(absolute) = location.to_str().filter(|text| text.starts_with('/')) else { continue };
        let read =
            if local { read_here(&location) } else { read_server_file(session, absolute, 0, LARGEST as u64) };
        match read {
            Ok(bytes) => {
                files.push(ExternalFile { path: absolute.to_owned(), mode: 0o600, contents: bytes });
            }
            Err(why) => observer.event(Event::Warning {
                text: format!("`{absolute}` is not kept with the backup: {why}"),
                hint: Some("let the role read it, or keep your configuration in another way".to_owned()),
            }),
        }
    }
    Ok(files)
}

fn read_here(location: &Path) -> std::result::Result<Vec<u8>, String> {
    match std::fs::read(location) {
        Ok(bytes) if bytes.len() <= LARGEST => Ok(bytes),
        Ok(bytes) => Err(format!("it has {} bytes", bytes.len())),
        Err(error) => Err(error.to_string()),
    }
}
