//! `--clean`: dropping what is about to be created.

use pgkeep_format::archive::TocEntry;
use pgkeep_tool::Result;

use super::Emitter;
use crate::restore::select::Wanted;

impl Emitter<'_> {
    /// Drops what is wanted, last things first.
    pub(crate) fn drop_objects(&mut self, wanted: &[Wanted]) -> Result<()> {
        let job = self.job;
        for index in job.contents.order.iter().rev().copied() {
            let entry = &job.contents.entries[index];
            let is_database = entry.desc == "DATABASE" || entry.desc == "DATABASE PROPERTIES";
            // With -C the database goes as a whole, and this is not even the one that its objects are in.
            if job.options.selection.create && !is_database {
                continue;
            }
            let Some(statement) = entry.drop_statement.as_deref() else { continue };
            if !wanted[index].schema && !wanted[index].data {
                continue;
            }
            job.reporter.info(&format!("dropping {} {}", entry.desc, entry.tag));
            let leaves_transaction = self.transaction_size > 0 && is_database;
            if leaves_transaction {
                self.commit("COMMIT;\n")?;
            }
            self.become_owner(entry.owner.as_ref())?;
            self.select_schema(entry.namespace.as_ref())?;
            self.drop_object(entry, statement)?;
            if leaves_transaction {
                self.begin("BEGIN;\n")?;
                self.in_transaction = 0;
            } else {
                self.count_objects(1, "COMMIT;\nBEGIN;\n")?;
            }
        }
        // The schema that the path leads to may be gone.
        self.forget_schema();
        Ok(())
    }

    fn drop_object(&mut self, entry: &TocEntry, statement: &[u8]) -> Result<()> {
        let if_exists = self.job.options.if_exists;
        if entry.desc == "BLOB METADATA" {
            return if if_exists {
                self.for_each_large_object(
                    entry,
                    b"SELECT pg_catalog.lo_unlink(oid) FROM pg_catalog.pg_largeobject_metadata WHERE oid = '",
                    b"'",
                )
            } else {
                self.for_each_large_object(entry, b"SELECT pg_catalog.lo_unlink('", b"')")
            };
        }
        if statement.is_empty() {
            return Ok(());
        }
        if !if_exists || statement.starts_with(b"--") {
            return self.command(statement);
        }
        if entry.desc == "BLOB" {
            return self.command(format!(
                "SELECT pg_catalog.lo_unlink(oid) FROM pg_catalog.pg_largeobject_metadata WHERE oid = '{}';\n",
                entry.catalog_id.oid
            ));
        }
        match with_if_exists(&entry.desc, statement) {
            Some(sql) => self.command(sql),
            None => {
                let shown = String::from_utf8_lossy(statement);
                self.job
                    .reporter
                    .warning(&format!("could not find where to insert IF EXISTS in statement \"{shown}\""));
                self.command(statement)
            }
        }
    }
}

/// Puts IF EXISTS in; none where there is no place for it.
fn with_if_exists(desc: &[u8], statement: &[u8]) -> Option<Vec<u8>> {
    let (head, rest) = match statement.strip_prefix(b"ALTER TABLE") {
        Some(rest) => (&b"ALTER TABLE IF EXISTS"[..], rest),
        None => (&b""[..], statement),
    };
    // DROP DEFAULT has no IF EXISTS, and a view that replaces another is no DROP.
    if matches!(desc, b"DEFAULT" | b"DATABASE PROPERTIES") || rest.starts_with(b"CREATE OR REPLACE VIEW") {
        return Some([head, rest].concat());
    }
    let verb = match desc {
        b"CONSTRAINT" | b"CHECK CONSTRAINT" | b"FK CONSTRAINT" => b"DROP CONSTRAINT".to_vec(),
        _ => [b"DROP ", desc].concat(),
    };
    let at = rest.windows(verb.len()).position(|window| window == verb)?;
    let (before, after) = rest.split_at(at);
    Some([head, before, &verb, b" IF EXISTS", &after[verb.len()..]].concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn if_exists_goes_behind_the_kind_of_object() {
        for (desc, statement, expected) in [
            ("TABLE", "DROP TABLE public.t;\n", Some("DROP TABLE IF EXISTS public.t;\n")),
            (
                "FK CONSTRAINT",
                "ALTER TABLE ONLY public.t DROP CONSTRAINT k;\n",
                Some("ALTER TABLE IF EXISTS ONLY public.t DROP CONSTRAINT IF EXISTS k;\n"),
            ),
            (
                "DEFAULT",
                "ALTER TABLE public.t ALTER COLUMN a DROP DEFAULT;\n",
                Some("ALTER TABLE IF EXISTS public.t ALTER COLUMN a DROP DEFAULT;\n"),
            ),
            ("RULE", "CREATE OR REPLACE VIEW v AS x;\n", Some("CREATE OR REPLACE VIEW v AS x;\n")),
            ("TABLE", "TRUNCATE t;\n", None),
        ] {
            let shown = with_if_exists(desc.as_bytes(), statement.as_bytes())
                .map(|sql| String::from_utf8(sql).unwrap());
            assert_eq!(shown.as_deref(), expected);
        }
    }
}
