//! The table of contents of an open archive, with what its special entries say.

use std::collections::HashMap;

use pgkeep_format::archive::{ArchiveHeader, DumpId, Text, TocEntry};
use pgkeep_tool::{Result, ToolError};

/// Header and entries.
#[derive(Debug)]
pub struct Contents {
    /// The header.
    pub header: ArchiveHeader,
    /// The entries as they stand in the archive.
    pub entries: Vec<TocEntry>,
    /// In which order they are restored: places in [`entries`](Self::entries).
    pub order: Vec<usize>,
    /// The encoding of all texts and rows.
    pub encoding: Text,
    /// Whether literals in definitions take a backslash as it is.
    pub standard_strings: bool,
    /// The command that sets the search path; archives up to 1.12 have none.
    pub search_path: Option<Text>,
    by_id: HashMap<DumpId, usize>,
}

impl Contents {
    pub(crate) fn new(header: ArchiveHeader, entries: Vec<TocEntry>) -> Result<Contents> {
        let mut contents = Contents {
            header,
            order: (0..entries.len()).collect(),
            encoding: "SQL_ASCII".into(),
            standard_strings: false,
            search_path: None,
            by_id: entries.iter().enumerate().map(|(index, entry)| (entry.dump_id, index)).collect(),
            entries,
        };
        for entry in &contents.entries {
            let definition = entry.definition.as_deref().unwrap_or_default();
            match &entry.desc[..] {
                b"ENCODING" => {
                    let quoted = definition.split(|byte| *byte == b'\'').nth(1);
                    let name =
                        quoted.filter(|_| definition.iter().filter(|byte| **byte == b'\'').count() > 1);
                    contents.encoding = name
                        .ok_or_else(|| {
                            let shown = String::from_utf8_lossy(definition);
                            ToolError::new(format!("invalid ENCODING item: {shown}"))
                        })?
                        .into();
                }
                b"STDSTRINGS" => {
                    let value = definition.iter().position(|byte| *byte == b'\'').map(|at| &definition[at..]);
                    contents.standard_strings = match value {
                        Some(value) if value.starts_with(b"'on'") => true,
                        Some(value) if value.starts_with(b"'off'") => false,
                        _ => {
                            let shown = String::from_utf8_lossy(definition);
                            return Err(ToolError::new(format!("invalid STDSTRINGS item: {shown}")));
                        }
                    };
                }
                b"SEARCHPATH" => contents.search_path.clone_from(&entry.definition),
                _ => {}
            }
        }
        Ok(contents)
    }

    /// The place of an entry.
    #[must_use]
    pub fn index_of(&self, id: DumpId) -> Option<usize> {
        self.by_id.get(&id).copied()
    }

    pub(crate) fn largest_id(&self) -> u32 {
        self.entries.iter().map(|entry| entry.dump_id.0).max().unwrap_or(0)
    }
}
