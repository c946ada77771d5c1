//! Sequences: by themselves, owned by a column, or behind an identity column; and where they stand.

use pgkeep_format::archive::Section;
use pgkeep_tool::{Result, ToolError};

use super::{Definer, Draft};
use crate::dump::collect::Sequence;
use crate::dump::model::{Id, Kind, Parts};

impl Definer<'_> {
    fn sequence_facts(&self, id: Id) -> Result<&Sequence> {
        let object = self.model.get(id);
        self.sequences
            .get(&object.catalog.oid)
            .ok_or_else(|| ToolError::catalog(format!("failed to get data for sequence \"{}\"", object.name)))
    }

    pub(super) fn sequence(&mut self, id: Id) -> Result<()> {
        let facts = self.sequence_facts(id)?;
        let table = self.model.table(id);
        let name = self.qualified(id);
        let owner = table.owned_by.and_then(|(oid, column)| {
            let owner = self.model.find_table(oid)?;
            let position = usize::try_from(column).ok()?.checked_sub(1)?;
            Some((owner, self.model.table(owner).columns.get(position)?))
        });
        if table.owned_by.is_some() && owner.is_none() {
            return Err(ToolError::catalog(format!(
                "failed sanity check, parent table of sequence \"{}\" not found",
                self.model.get(id).name
            )));
        }
        let ascending = facts.increment >= 0;
        let (least, greatest) = match (facts.type_name.as_str(), ascending) {
            ("smallint", true) => (1, i64::from(i16::MAX)),
            ("smallint", false) => (i64::from(i16::MIN), -1),
            ("integer", true) => (1, i64::from(i32::MAX)),
            ("integer", false) => (i64::from(i32::MIN), -1),
            ("bigint", true) => (1, i64::MAX),
            ("bigint", false) => (i64::MIN, -1),
            (other, _) => return Err(ToolError::catalog(format!("unrecognized sequence type: {other}"))),
        };
        let mut definition = self.preserve_class(self.model.get(id).catalog.oid)?;
        let mut drop = String::new();
        if let Some((owner, column)) = owner.filter(|_| table.identity_sequence) {
            let when = if column.identity == b'a' { "ALWAYS" } else { "BY DEFAULT" };
            definition.push_str(&format!(
                "ALTER TABLE {} ALTER COLUMN {} ADD GENERATED {when} AS IDENTITY (\n    SEQUENCE NAME {name}\n",
                self.qualified(owner),
                self.quoting.name(&column.name)
            ));
            if table.persistence != self.model.table(owner).persistence {
                definition.push_str(if table.persistence == b'u' {
                    "    UNLOGGED\n"
                } else {
                    "    LOGGED\n"
                });
            }
        } else {
            let unlogged = if table.persistence == b'u' { "UNLOGGED " } else { "" };
            definition.push_str(&format!("CREATE {unlogged}SEQUENCE {name}\n"));
            if facts.type_name != "bigint" {
                definition.push_str(&format!("    AS {}\n", facts.type_name));
            }
            drop = format!("DROP SEQUENCE {name};\n");
        }
        definition
            .push_str(&format!("    START WITH {}\n    INCREMENT BY {}\n", facts.start, facts.increment));
        definition.push_str(&match facts.minimum {
            minimum if minimum == least => "    NO MINVALUE\n".to_owned(),
            minimum => format!("    MINVALUE {minimum}\n"),
        });
        definition.push_str(&match facts.maximum {
            maximum if maximum == greatest => "    NO MAXVALUE\n".to_owned(),
            maximum => format!("    MAXVALUE {maximum}\n"),
        });
        definition.push_str(&format!("    CACHE {}", facts.cache));
        if facts.cycles {
            definition.push_str("\n    CYCLE");
        }
        definition.push_str(if table.identity_sequence { "\n);\n" } else { ";\n" });
        let owned_by = owner.filter(|(owner, _)| {
            !table.identity_sequence && self.model.get(*owner).wanted.has(Parts::DEFINITION)
        });
        let owned_by = owned_by.map(|(owner, column)| {
            let column = self.quoting.name(&column.name);
            format!("ALTER SEQUENCE {name} OWNED BY {}.{column};\n", self.qualified(owner))
        });
        let draft = Draft { definition: Some(definition), drop: Some(drop), ..self.draft(id, "SEQUENCE") };
        self.add(draft);
        if let Some(owned_by) = owned_by {
            let draft = Draft {
                catalog: Default::default(),
                id: None,
                definition: Some(owned_by),
                dependencies: vec![id],
                ..self.draft(id, "SEQUENCE OWNED BY")
            };
            self.add(draft);
        }
        let name = self.name(id);
        if self.wants(id, Parts::COMMENT) {
            self.comment(id, "SEQUENCE", &name);
        }
        self.labels(id, "SEQUENCE", &name);
        Ok(())
    }

    pub(super) fn sequence_set(&mut self, id: Id) -> Result<()> {
        let Kind::SequenceSet(data) = &self.model.get(id).kind else { return Ok(()) };
        // Before the position is asked for: in a dump without data nobody need be allowed to read it.
        let wanted = self.options.data || self.options.sequence_data;
        if !wanted || !self.wants(id, Parts::DATA) {
            return Ok(());
        }
        let table = data.table;
        let oid = self.model.get(table).catalog.oid;
        let position = self.texts.positions.get(&oid).copied().or(self.sequence_facts(table)?.position);
        let Some((last, called)) = position else {
            return Err(ToolError::new(format!(
                "failed to get data for sequence \"{}\"; user may lack SELECT privilege on the sequence or the \
                 sequence may have been concurrently dropped",
                self.model.get(table).name
            )));
        };
        let name = self.quoting.literal(&self.qualified(table));
        let draft = Draft {
            catalog: Default::default(),
            id: None,
            section: Some(Section::Data),
            definition: Some(format!("SELECT pg_catalog.setval({name}, {last}, {called});\n")),
            dependencies: vec![table],
            ..self.draft(table, "SEQUENCE SET")
        };
        self.add(draft);
        Ok(())
    }
}
