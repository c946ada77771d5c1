//! Types of all kinds, with the constraints of domains.

use std::collections::HashMap;

use pgkeep_format::archive::CatalogId;
use pgkeep_tool::Result;
use pgkeep_wire::{Row, Rows};

use super::{Collector, catalog_id};
use crate::dump::model::{Constraint, Id, Kind, Parts, Type};
use crate::dump::session::{flag, letter, number, text};

impl Collector<'_> {
    pub(super) fn types(&mut self) -> Result<()> {
        let constraints = self.domain_constraints()?;
        let mut of_domain: HashMap<u32, Vec<Row<'_>>> = HashMap::new();
        for row in constraints.iter() {
            of_domain.entry(row.parse("contypid")?).or_default().push(row);
        }
        let rows = self.session.query(
            "SELECT tableoid, oid, typname, typnamespace, typacl, pg_catalog.acldefault('T', typowner) AS acldefault, \
             typowner, typelem, typrelid, \
             CASE WHEN typrelid = 0 THEN ' '::\"char\" \
                  ELSE (SELECT relkind FROM pg_catalog.pg_class WHERE oid = typrelid) END AS typrelkind, \
             typtype, typisdefined, typname[0] = '_' AND typelem <> 0 AND \
               (SELECT typarray FROM pg_catalog.pg_type te WHERE oid = pg_type.typelem) = oid AS isarray \
             FROM pg_catalog.pg_type",
        )?;
        for row in rows.iter() {
            let facts = Type {
                element: number(row, "typelem")?,
                relation: number(row, "typrelid")?,
                relation_kind: letter(row, "typrelkind")?,
                kind: letter(row, "typtype")?,
                defined: flag(row, "typisdefined")?,
                shell: None,
                checks: Vec::new(),
                not_null: None,
            };
            let row_type_of = (facts.relation != 0 && facts.relation_kind != b'c').then_some(facts.relation);
            let automatic = flag(row, "isarray")? || facts.kind == b'm';
            let kind = facts.kind;
            let schema = self.schema(row.parse("typnamespace")?)?;
            let catalog = catalog_id(row)?;
            let id = self.model.add(catalog, row.text("typname")?, Some(schema), Kind::Type(facts));
            self.owner(id, row.parse("typowner")?)?;
            self.select_type(id, row_type_of, automatic);
            self.privileges(id, row, "typacl")?;
            if !self.model.get(id).wanted.has(Parts::DEFINITION) {
                continue;
            }
            match kind {
                b'd' => {
                    for constraint in of_domain.remove(&catalog.oid).unwrap_or_default() {
                        self.domain_constraint(id, constraint)?;
                    }
                }
                b'b' | b'r' => self.shell_type(id),
                _ => {}
            }
        }
        Ok(())
    }

    /// From 17 on NOT NULL is a constraint of its own.
    fn domain_constraints(&mut self) -> Result<Rows> {
        let kinds = if self.session.is_at_least(17) { "'c', 'n'" } else { "'c'" };
        self.session.query(&format!(
            "SELECT tableoid, oid, contypid, conname, pg_catalog.pg_get_constraintdef(oid) AS consrc, convalidated, \
             contype FROM pg_catalog.pg_constraint WHERE contypid <> 0 AND contype IN ({kinds}) \
             ORDER BY conname"
        ))
    }

    fn domain_constraint(&mut self, domain: Id, row: Row<'_>) -> Result<()> {
        let validated = flag(row, "convalidated")?;
        let kind = letter(row, "contype")?;
        let constraint = Constraint {
            domain: Some(domain),
            table: None,
            definition: Some(text(row, "consrc")?),
            separate: !validated,
            ..Constraint::of_table(domain, kind)
        };
        let schema = self.model.get(domain).schema;
        let id = self.model.add(
            catalog_id(row)?,
            row.text("conname")?,
            schema,
            Kind::Constraint(Box::new(constraint)),
        );
        if validated {
            self.model.depend(domain, id);
        }
        if let Kind::Type(facts) | Kind::DummyType(facts) = &mut self.model.get_mut(domain).kind {
            match kind {
                b'n' => facts.not_null = Some(id),
                _ => facts.checks.push(id),
            }
        }
        Ok(())
    }

    /// Base types and ranges have functions that need them, so that a name without a definition may have to go before.
    fn shell_type(&mut self, base: Id) {
        let object = self.model.get(base);
        let (name, schema) = (object.name.clone(), object.schema);
        let shell = self.model.add(CatalogId::default(), name, schema, Kind::ShellType { base });
        self.model.get_mut(shell).wanted = Parts::NONE;
        if let Kind::Type(facts) | Kind::DummyType(facts) = &mut self.model.get_mut(base).kind {
            facts.shell = Some(shell);
        }
    }
}
