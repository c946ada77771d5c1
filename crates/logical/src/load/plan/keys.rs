//! Keys and foreign keys, made in steps that lock less and can run at the same time.

use pgkeep_format::archive::TocEntry;

use super::{Basis, Builder, Lock, Phase};
use crate::load::lexer::QualifiedName;
use crate::load::select::is_relation;
use crate::load::statements::{foreign_key, is_partitioned, key_in_steps};

impl Builder<'_> {
    /// The tables that an entry after the data is taken to lock.
    pub(super) fn tables_of(&self, index: usize) -> Vec<(usize, Lock)> {
        let contents = self.basis.contents;
        let entry = &contents.entries[index];
        let needed = entry.dependencies.iter().filter_map(|id| contents.index_of(*id));
        let tables = needed.filter_map(|need| {
            let is_rows = contents.entries[need].desc == "TABLE DATA";
            if is_rows {
                self.basis.belongings.owner(need)
            } else {
                is_relation(&contents.entries[need]).then_some(need)
            }
        });
        tables.map(|table| (table, Lock::Exclusive)).collect()
    }

    pub(super) fn with_definition(&self, index: usize, definition: Vec<u8>) -> Option<Box<TocEntry>> {
        let mut instead = self.basis.contents.entries[index].clone();
        instead.definition = Some(definition.into());
        Some(Box::new(instead))
    }

    pub(super) fn key_in_steps(&mut self, index: usize, table: usize, size: u64) -> bool {
        let contents = self.basis.contents;
        let standard_strings = self.standard_strings();
        let definition = contents.entries[index].definition.as_deref().unwrap_or_default();
        let key = key_in_steps(definition, standard_strings)
            .filter(|_| !is_partitioned(&contents.entries[table], standard_strings));
        let Some(key) = key else { return false };
        let mut build = self.step(index, Phase::Main);
        build.key.push_str(".index");
        build.label = format!("index of {}", build.label);
        build.instead = self.with_definition(index, key.build);
        build.weight = size / 2 + 1;
        build.locks.push((table, Lock::Build));
        self.steps.push(build);
        let built = self.steps.len() - 1;
        self.builds_of.entry(table).or_default().push(built);
        let mut attach = self.step(index, Phase::Main);
        attach.instead = self.with_definition(index, key.attach);
        attach.needs.push(built);
        attach.locks.push((table, Lock::Exclusive));
        self.push(index, attach);
        self.keys_in_steps += 1;
        true
    }

    pub(super) fn foreign_key_in_steps(&mut self, index: usize, size: u64) -> bool {
        let Basis { contents, belongings, .. } = *self.basis;
        let standard_strings = self.standard_strings();
        let entry = &contents.entries[index];
        let definition = entry.definition.as_deref().unwrap_or_default();
        let Some(key) = foreign_key(definition, standard_strings) else { return false };
        let QualifiedName { schema, name } = key.referenced;
        let schema = schema.or_else(|| entry.namespace.as_deref().map(<[u8]>::to_vec)).unwrap_or_default();
        let referenced = self.relations.get(&(schema, name)).copied();
        let (Some(steps), Some(table), Some(referenced)) =
            (key.in_steps, belongings.owner(index), referenced)
        else {
            return false;
        };
        // Partitions would have keys of their own that stay not valid.
        if [table, referenced].iter().any(|table| is_partitioned(&contents.entries[*table], standard_strings))
        {
            return false;
        }
        let mut add = self.step(index, Phase::Main);
        add.key.push_str(".add");
        add.label = format!("{}, not valid yet", add.label);
        add.instead = self.with_definition(index, steps.add);
        add.locks = vec![(table, Lock::Exclusive), (referenced, Lock::Exclusive)];
        self.steps.push(add);
        let added = self.steps.len() - 1;
        let mut validate = self.step(index, Phase::Main);
        validate.instead = self.with_definition(index, steps.validate);
        validate.needs.push(added);
        validate.weight = size / 4 + 1;
        validate.locks = vec![(table, Lock::Validate), (referenced, Lock::Read)];
        self.push(index, validate);
        self.foreign_keys_in_steps += 1;
        true
    }
}
