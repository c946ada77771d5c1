//! The definition of an entry: comment, SQL, owner.

use pgkeep_format::archive::{ArchiveFormat, DataLocation, Text, TocEntry};
use pgkeep_tool::{Result, ToolError};

use super::Emitter;
use super::older::definition_for;
use crate::restore::list::push_line;
use crate::restore::select::is_acl;

/// Partitioned tables have no storage, so their access method is set by an ALTER.
const PARTITIONED: u8 = b'p';

/// What the comment above an entry begins with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    Definition,
    Data,
    Statistics,
}

impl Emitter<'_> {
    /// Writes an entry without its rows.
    pub(super) fn print_entry(&mut self, entry: &TocEntry, part: Part) -> Result<()> {
        let options = self.job.options;
        self.become_owner(entry.owner.as_ref())?;
        self.select_schema(entry.namespace.as_ref())?;
        self.select_tablespace(entry.tablespace.as_ref())?;
        if entry.relkind != PARTITIONED {
            self.select_table_access_method(entry.table_access_method.as_ref())?;
        }
        if self.is_script() {
            let comment = self.entry_comment(entry, part);
            self.comment(comment)?;
        }
        let definition = match self.server() {
            Some(server) => definition_for(entry, server.major()),
            None => entry.definition.as_deref().unwrap_or_default().into(),
        };
        if options.no_owner && entry.desc == "SCHEMA" && !definition.starts_with(b"--") {
            let mut sql = b"CREATE SCHEMA ".to_vec();
            self.push_identifier(&mut sql, &entry.tag);
            sql.extend_from_slice(b";\n\n\n");
            self.command(sql)?;
        } else if entry.desc == "BLOB METADATA" {
            self.for_each_large_object(entry, b"SELECT pg_catalog.lo_create('", b"')")?;
        } else if entry.desc == "ACL" && entry.tag.starts_with(b"LARGE OBJECTS") {
            self.large_object_privileges(entry)?;
        } else if !definition.is_empty() {
            self.command([&definition[..], b"\n\n"].concat())?;
            // Several commands count as several objects; function bodies would be miscounted.
            if entry.desc != "FUNCTION" && entry.desc != "PROCEDURE" {
                let semicolons = definition.iter().filter(|byte| **byte == b';').count();
                let more = u32::try_from(semicolons.saturating_sub(1)).unwrap_or(u32::MAX);
                self.in_transaction = self.in_transaction.saturating_add(more);
            }
        }
        let by_alter =
            !options.use_session_authorization || (entry.desc == "SCHEMA" && definition.starts_with(b"--"));
        let drop_statement = entry.drop_statement.as_deref().unwrap_or_default();
        if let Some(owner) = entry.owner.as_ref().filter(|owner| !owner.is_empty())
            && !options.no_owner
            && by_alter
            && !drop_statement.is_empty()
        {
            self.alter_owner(entry, owner)?;
        }
        if entry.relkind == PARTITIONED {
            self.alter_access_method(entry)?;
        }
        if is_acl(entry) {
            // It may have changed the session's user.
            self.user = None;
        }
        Ok(())
    }

    fn entry_comment(&self, entry: &TocEntry, part: Part) -> Vec<u8> {
        let options = self.job.options;
        let mut text = b"--\n".to_vec();
        if options.verbose {
            text.extend_from_slice(
                format!(
                    "-- TOC entry {} (class {} OID {})\n",
                    entry.dump_id, entry.catalog_id.table_oid, entry.catalog_id.oid
                )
                .as_bytes(),
            );
            if !entry.dependencies.is_empty() {
                text.extend_from_slice(b"-- Dependencies:");
                for dependency in &entry.dependencies {
                    text.extend_from_slice(format!(" {dependency}").as_bytes());
                }
                text.push(b'\n');
            }
        }
        text.extend_from_slice(match part {
            Part::Definition => b"-- Name: ",
            Part::Data => b"-- Data for Name: ",
            Part::Statistics => b"-- Statistics for Name: ",
        });
        push_line(&mut text, Some(&entry.tag), false);
        text.extend_from_slice(b"; Type: ");
        text.extend_from_slice(&entry.desc);
        text.extend_from_slice(b"; Schema: ");
        push_line(&mut text, entry.namespace.as_deref(), true);
        text.extend_from_slice(b"; Owner: ");
        push_line(&mut text, entry.owner.as_deref().filter(|_| !options.no_owner), true);
        if let Some(tablespace) = entry.tablespace.as_deref()
            && !tablespace.is_empty()
            && !options.no_tablespaces
        {
            text.extend_from_slice(b"; Tablespace: ");
            push_line(&mut text, Some(tablespace), false);
        }
        text.push(b'\n');
        if options.verbose {
            match (self.job.contents.header.format, &entry.data) {
                (ArchiveFormat::Custom, DataLocation::Offset(offset)) => {
                    text.extend_from_slice(format!("-- Data Pos: {offset}\n").as_bytes());
                }
                (ArchiveFormat::Custom, _) => text.extend_from_slice(b"-- Data Pos: 0\n"),
                (_, DataLocation::File(file)) => {
                    text.extend_from_slice(b"-- File: ");
                    push_line(&mut text, Some(file), false);
                    text.push(b'\n');
                }
                _ => {}
            }
        }
        text.extend_from_slice(b"--\n\n");
        text
    }

    fn alter_owner(&mut self, entry: &TocEntry, owner: &Text) -> Result<()> {
        if entry.desc == "BLOB METADATA" {
            let mut end = b" OWNER TO ".to_vec();
            self.push_identifier(&mut end, owner);
            return self.for_each_large_object(entry, b"ALTER LARGE OBJECT ", &end);
        }
        let Some(object) = owned_object(self, entry)? else { return Ok(()) };
        let mut sql = b"ALTER ".to_vec();
        sql.extend_from_slice(&object);
        sql.extend_from_slice(b" OWNER TO ");
        self.push_identifier(&mut sql, owner);
        sql.extend_from_slice(b";\n\n");
        self.command(sql)
    }

    fn alter_access_method(&mut self, entry: &TocEntry) -> Result<()> {
        let Some(method) = &entry.table_access_method else { return Ok(()) };
        if self.job.options.no_table_access_method {
            return Ok(());
        }
        let mut sql = b"ALTER TABLE ".to_vec();
        self.push_qualified(&mut sql, entry.namespace.as_deref(), &entry.tag);
        sql.extend_from_slice(b" SET ACCESS METHOD ");
        self.push_identifier(&mut sql, method);
        self.setting(&sql, "could not alter table access method")
    }
}

/// An entry's object as `ALTER … OWNER TO` names it; none where the object has no owner of its own.
fn owned_object(emitter: &Emitter<'_>, entry: &TocEntry) -> Result<Option<Vec<u8>>> {
    let desc = &entry.desc[..];
    match desc {
        b"COLLATION"
        | b"CONVERSION"
        | b"DOMAIN"
        | b"FOREIGN TABLE"
        | b"MATERIALIZED VIEW"
        | b"SEQUENCE"
        | b"STATISTICS"
        | b"TABLE"
        | b"TEXT SEARCH DICTIONARY"
        | b"TEXT SEARCH CONFIGURATION"
        | b"TYPE"
        | b"VIEW"
        | b"DATABASE"
        | b"PROCEDURAL LANGUAGE"
        | b"SCHEMA"
        | b"EVENT TRIGGER"
        | b"FOREIGN DATA WRAPPER"
        | b"SERVER"
        | b"PUBLICATION"
        | b"SUBSCRIPTION" => {
            let mut object = [desc, b" "].concat();
            emitter.push_qualified(&mut object, entry.namespace.as_deref(), &entry.tag);
            Ok(Some(object))
        }
        b"BLOB" => Ok(Some([b"LARGE OBJECT ", &entry.tag[..]].concat())),
        // The DROP has the arguments that tell these apart.
        b"AGGREGATE" | b"FUNCTION" | b"OPERATOR" | b"OPERATOR CLASS" | b"OPERATOR FAMILY" | b"PROCEDURE" => {
            let mut object = entry.drop_statement.as_deref().unwrap_or_default().get(5..).unwrap_or_default();
            while let [rest @ .., b';' | b'\n'] = object {
                object = rest;
            }
            Ok((!object.is_empty()).then(|| object.to_vec()))
        }
        b"CAST"
        | b"CHECK CONSTRAINT"
        | b"CONSTRAINT"
        | b"DATABASE PROPERTIES"
        | b"DEFAULT"
        | b"FK CONSTRAINT"
        | b"INDEX"
        | b"RULE"
        | b"TRIGGER"
        | b"ROW SECURITY"
        | b"POLICY"
        | b"USER MAPPING" => Ok(None),
        _ => Err(ToolError::new(format!("don't know how to set owner for object type \"{}\"", entry.desc))
            .hint("use -O to restore without owners")),
    }
}
