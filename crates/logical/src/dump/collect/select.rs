//! Which objects are dumped: the policy of stock 18 (`selectDumpable…`).

use super::Collector;
use crate::dump::model::{FIRST_NORMAL_OID, Id, Kind, Parts};

/// The role that owns `public` from 15 on, by its fixed OID.
const DATABASE_OWNER_ROLE: u32 = 6171;

impl Collector<'_> {
    /// Members of extensions come with their extension; only what was granted on them since then is dumped.
    pub(super) fn is_member(&mut self, id: Id) -> bool {
        let Some(extension) = self.model.members.get(&self.model.get(id).catalog).copied() else {
            return false;
        };
        let of_extension = self.model.get(extension);
        // In a binary upgrade they are made one by one.
        let wanted = match self.options.binary_upgrade {
            true => of_extension.wanted,
            false => of_extension.wanted_inside.and(Parts::PRIVILEGES),
        };
        let object = self.model.get_mut(id);
        object.extension_member = true;
        object.wanted = wanted;
        object.dependencies.push(extension);
        true
    }

    fn everything(&self) -> Parts {
        if self.options.everything { Parts::ALL } else { Parts::NONE }
    }

    /// What the schema of an object says about what lies in it.
    pub(super) fn wanted_in_schema(&self, id: Id) -> Parts {
        self.model.get(id).schema.map_or(Parts::NONE, |schema| self.model.get(schema).wanted_inside)
    }

    /// Objects without a rule of their own: as their schema, or in dumps of everything.
    pub(super) fn select(&mut self, id: Id) {
        if self.is_member(id) {
            return;
        }
        let wanted = match self.model.get(id).schema {
            Some(schema) => self.model.get(schema).wanted_inside,
            None => self.everything(),
        };
        self.model.get_mut(id).wanted = wanted;
    }

    /// Objects without a schema of which `initdb` makes some: those are there already, but perhaps with other privileges.
    pub(super) fn select_unless_built_in(&mut self, id: Id, built_in: Parts) {
        if self.is_member(id) {
            return;
        }
        let wanted = match self.everything() {
            Parts::NONE => Parts::NONE,
            _ if self.model.get(id).catalog.oid < FIRST_NORMAL_OID => built_in,
            all => all,
        };
        self.model.get_mut(id).wanted = wanted;
    }

    pub(super) fn select_extension(&mut self, id: Id) {
        let oid = self.model.get(id).catalog.oid;
        let wanted = if oid < FIRST_NORMAL_OID {
            Parts::PRIVILEGES
        } else {
            let included = match &self.selection.extensions {
                Some(included) => included.contains(&oid),
                None => self.options.everything,
            };
            match included && !self.selection.exclude_extensions.contains(&oid) {
                true => Parts::ALL,
                false => Parts::NONE,
            }
        };
        let object = self.model.get_mut(id);
        object.wanted = wanted;
        object.wanted_inside = wanted;
    }

    pub(super) fn select_schema(&mut self, id: Id, owner: u32) {
        let (oid, name) = {
            let object = self.model.get(id);
            (object.catalog.oid, object.name.clone())
        };
        let mut wanted = Parts::ALL;
        let mut inside = Parts::ALL;
        if self.selection.tables.is_some() {
            (wanted, inside) = (Parts::NONE, Parts::NONE);
        } else if let Some(included) = &self.selection.schemas {
            if !included.contains(&oid) {
                (wanted, inside) = (Parts::NONE, Parts::NONE);
            }
        } else if name == "pg_catalog" {
            (wanted, inside) = (Parts::PRIVILEGES, Parts::PRIVILEGES);
        } else if name.starts_with("pg_") || name == "information_schema" {
            (wanted, inside) = (Parts::NONE, Parts::NONE);
        } else if name == "public" {
            // It is there in a new database; an entry is only needed to say that its owner is another than usual.
            if owner == DATABASE_OWNER_ROLE {
                wanted = wanted.without(Parts::DEFINITION);
            }
            let object = self.model.get_mut(id);
            object.kind = Kind::Schema { create: false };
            // So that a comment that was dropped is dropped again.
            object.present.add(Parts::COMMENT);
        }
        if !inside.is_empty() && self.selection.exclude_schemas.contains(&oid) {
            (wanted, inside) = (Parts::NONE, Parts::NONE);
        }
        let object = self.model.get_mut(id);
        object.wanted = wanted;
        object.wanted_inside = inside;
        // What lies in an extension's schema is not for that reason part of the extension.
        self.is_member(id);
    }

    pub(super) fn select_table(&mut self, id: Id) {
        if self.is_member(id) {
            return;
        }
        let oid = self.model.get(id).catalog.oid;
        let mut wanted = match &self.selection.tables {
            Some(included) if included.contains(&oid) => Parts::ALL,
            Some(_) => Parts::NONE,
            None => self.wanted_in_schema(id),
        };
        if self.selection.exclude_tables.contains(&oid) {
            wanted = Parts::NONE;
        }
        self.model.get_mut(id).wanted = wanted;
    }

    /// Row types go with their table; they and array types come into being by themselves, and become dummies.
    pub(super) fn select_type(&mut self, id: Id, row_type_of: Option<u32>, automatic: bool) {
        if let Some(table) = row_type_of {
            let wanted =
                self.model.find_table(table).map_or(Parts::NONE, |table| self.model.get(table).wanted);
            self.make_dummy(id);
            self.model.get_mut(id).wanted = wanted;
            return;
        }
        if automatic {
            self.make_dummy(id);
        }
        if !self.is_member(id) {
            self.model.get_mut(id).wanted = self.wanted_in_schema(id);
        }
    }

    fn make_dummy(&mut self, id: Id) {
        let object = self.model.get_mut(id);
        object.kind = match std::mem::replace(&mut object.kind, Kind::PreDataBoundary) {
            Kind::Type(facts) => Kind::DummyType(facts),
            other => other,
        };
    }

    pub(super) fn select_default_privileges(&mut self, id: Id) {
        let wanted = match self.model.get(id).schema {
            Some(_) => self.wanted_in_schema(id),
            None => self.everything(),
        };
        self.model.get_mut(id).wanted = wanted;
    }

    pub(super) fn select_publication_member(&mut self, id: Id) {
        if !self.is_member(id) {
            self.model.get_mut(id).wanted = self.everything();
        }
    }

    pub(super) fn select_extended_statistics(&mut self, id: Id, table: Option<Id>) {
        if self.is_member(id) {
            return;
        }
        let of_table = table.is_some_and(|table| self.model.get(table).wanted.has(Parts::DEFINITION));
        self.model.get_mut(id).wanted = if of_table { self.wanted_in_schema(id) } else { Parts::NONE };
    }
}
