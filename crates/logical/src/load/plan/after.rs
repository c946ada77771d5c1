//! What is decided when all steps are known: statistics for the planner, and what every step waits for.

use std::collections::{BTreeMap, BTreeSet};

use pgkeep_format::archive::{Section, TocEntry};

use super::{Basis, Builder, Phase};
use crate::load::select::{Chosen, label};
use crate::quote;
use crate::restore::Wanted;

impl Builder<'_> {
    /// Statistics for the planner, of every table that got rows and whose statistics the archive does not bring.
    pub(super) fn analyze(&mut self, chosen: &Chosen) {
        let Basis { contents, belongings, facts, .. } = *self.basis;
        let brought: BTreeSet<usize> = (0..contents.entries.len())
            .filter(|index| {
                chosen.entries[*index]
                    && contents.entries[*index].desc == "STATISTICS DATA"
                    && facts.major >= 18
            })
            .filter_map(|index| belongings.owner(index))
            .collect();
        let mut targets: BTreeMap<usize, &str> = BTreeMap::new();
        for table in self.rows_of.keys().copied() {
            let mut root = table;
            let mut seen = BTreeSet::new();
            while let Some(parent) = belongings.parent(root).filter(|parent| seen.insert(*parent)) {
                if facts.major >= 18 && chosen.entries[parent] {
                    targets.insert(parent, "ANALYZE ONLY ");
                }
                root = parent;
            }
            // Before 18 there is no way to look at a partitioned table but with all that it has.
            let whole = if facts.major < 18 && chosen.entries[root] { root } else { table };
            targets.entry(whole).or_insert("ANALYZE ");
        }
        for (index, entry) in contents.entries.iter().enumerate() {
            if chosen.entries[index] && entry.desc == "MATERIALIZED VIEW DATA" {
                targets.extend(belongings.owner(index).map(|view| (view, "ANALYZE ")));
            }
        }
        for (table, verb) in targets.into_iter().filter(|(table, _)| !brought.contains(table)) {
            let entry = &contents.entries[table];
            let mut instead = TocEntry::new(entry.dump_id, "ANALYZE", entry.tag.clone(), Section::PostData);
            let name = quote::qualified(entry.namespace.as_deref(), &entry.tag);
            instead.definition = Some([verb.as_bytes(), &name, b";\n"].concat().into());
            instead.namespace.clone_from(&entry.namespace);
            let mut step = self.step(table, Phase::Last);
            step.key.push_str(".analyze");
            step.label = label(&instead);
            step.weight = self.size_of_table(table) / 16 + 1;
            let refresh = contents.entries.iter().enumerate().find(|(index, entry)| {
                entry.desc == "MATERIALIZED VIEW DATA" && belongings.owner(*index) == Some(table)
            });
            step.needs.extend(refresh.and_then(|(index, _)| self.last_of[index]));
            step.instead = Some(Box::new(instead));
            step.wanted = Wanted { schema: true, ..Wanted::default() };
            self.steps.push(step);
        }
    }

    /// What every step waits for, from the dependencies of the archive.
    pub(super) fn needs(&mut self) {
        let contents = self.basis.contents;
        for number in 0..self.steps.len() {
            let step = &self.steps[number];
            if step.rows.is_none()
                && !step.key.ends_with(".index")
                && !step.key.chars().all(|digit| digit.is_ascii_digit())
                && !step.key.ends_with(".add")
            {
                // Not of an entry.
                continue;
            }
            let entry = &contents.entries[step.index];
            let mut needs = step.needs.clone();
            let is_attach =
                step.instead.is_some() && entry.desc == "CONSTRAINT" && !step.key.ends_with(".index");
            for need in entry.dependencies.iter().filter_map(|id| contents.index_of(*id)) {
                let rows = self.rows_of.get(&need).filter(|_| entry.section == Section::PostData);
                match rows.or_else(|| self.pieces_of.get(&need)) {
                    Some(rows) => needs.extend(rows),
                    None => needs.extend(self.last_of[need]),
                }
            }
            if is_attach && let Some(table) = self.basis.belongings.owner(step.index) {
                // It locks builders out, and would wait for them.
                needs.extend(self.builds_of.get(&table).into_iter().flatten());
            }
            let phase = step.phase;
            needs.sort_unstable();
            needs.dedup();
            needs.retain(|need| *need != number && self.steps[*need].phase == phase);
            self.steps[number].needs = needs;
        }
    }
}
