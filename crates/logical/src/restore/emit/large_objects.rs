//! Commands for groups of large objects: an entry lists many OIDs, and one command is made for each.

use pgkeep_format::archive::TocEntry;
use pgkeep_tool::{Result, ToolError};

use super::Emitter;

impl Emitter<'_> {
    /// One command for each large object that a `BLOB METADATA` entry lists.
    pub(super) fn for_each_large_object(
        &mut self,
        metadata: &TocEntry,
        begin: &[u8],
        end: &[u8],
    ) -> Result<()> {
        let list = metadata.definition.as_deref().unwrap_or_default();
        for oid in list.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            if !oid.iter().all(u8::is_ascii_digit) {
                return Err(ToolError::new(format!(
                    "invalid large object OID \"{}\" in entry {}",
                    oid.escape_ascii(),
                    metadata.dump_id
                ))
                .hint("the archive is damaged or was tampered with: use another copy of it"));
            }
            self.command([begin, oid, end, b";\n"].concat())?;
            self.count_objects(1, "COMMIT;\nBEGIN;\n\n")?;
        }
        self.comment("\n")
    }

    /// Privileges of a group: the commands are written for its first large object only.
    pub(super) fn large_object_privileges(&mut self, entry: &TocEntry) -> Result<()> {
        let contents = self.job.contents;
        let metadata = entry
            .dependencies
            .iter()
            .filter_map(|id| contents.index_of(*id))
            .map(|index| &contents.entries[index])
            .find(|parent| parent.desc == "BLOB METADATA")
            .ok_or_else(|| {
                ToolError::new(format!("could not find entry for ID {}", entry.dump_id))
                    .hint("the archive is damaged: leave this entry out with -L")
            })?;
        const MARK: &[u8] = b" LARGE OBJECT ";
        for command in lines_outside_quotes(entry.definition.as_deref().unwrap_or_default()) {
            let Some(at) = command.windows(MARK.len()).position(|window| window == MARK) else {
                self.command([command, b"\n"].concat())?;
                continue;
            };
            let (begin, rest) = command.split_at(at + MARK.len());
            let digits = rest.iter().position(|byte| !byte.is_ascii_digit()).unwrap_or(rest.len());
            let end = rest[digits..].strip_suffix(b";").unwrap_or(&rest[digits..]);
            self.for_each_large_object(metadata, begin, end)?;
        }
        Ok(())
    }
}

/// Lines, but not those inside quoted names.
fn lines_outside_quotes(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut quoted = false;
    text.split(move |byte| {
        quoted ^= *byte == b'"';
        *byte == b'\n' && !quoted
    })
    .filter(|line| !line.is_empty())
}
