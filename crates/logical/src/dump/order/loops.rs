//! Finding loops of dependencies and breaking each at the place where it can be: by taking something apart that is
//! written as one, or by moving it behind the data.

use pgkeep_tool::{Result, ToolError};

use super::Boundaries;
use crate::dump::model::{Id, Kind, Model, Parts};

/// Breaks some loops among objects that could not be sorted: all that have no member in common.
pub(super) fn repair(
    model: &mut Model,
    stuck: &[Id],
    boundaries: Boundaries,
    warnings: &mut Vec<String>,
) -> Result<()> {
    let count = model.len() + 1;
    let mut search =
        Search { done: vec![false; count], no_way_to: vec![0; count], on_path: vec![false; count] };
    let mut repaired = false;
    for start in stuck {
        match search.find(model, *start) {
            Some(members) => {
                Loop { model, members: &members, boundaries }.repair(warnings);
                repaired = true;
                for member in members {
                    search.done[member.0 as usize] = true;
                }
            }
            None => search.done[start.0 as usize] = true,
        }
    }
    if repaired { Ok(()) } else { Err(ToolError::new("could not identify dependency loop")) }
}

struct Search {
    /// Objects of loops that were found, or from which none starts.
    done: Vec<bool>,
    /// The start to which no way leads from the object of this number.
    no_way_to: Vec<u32>,
    /// Between searches false for all: there are as many searches as there are objects in loops.
    on_path: Vec<bool>,
}

impl Search {
    /// A loop from `start` to itself, depth first along dependencies in their order. Not by recursion: chains of
    /// dependencies are as long as their makers like.
    fn find(&mut self, model: &Model, start: Id) -> Option<Vec<Id>> {
        let mut path: Vec<Id> = Vec::new();
        // The next dependency to follow of each object on the path.
        let mut next: Vec<usize> = Vec::new();
        let mut candidate = Some(start);
        loop {
            if let Some(id) = candidate.take() {
                let index = id.0 as usize;
                if !self.done[index] && self.no_way_to[index] != start.0 && !self.on_path[index] {
                    path.push(id);
                    next.push(0);
                    self.on_path[index] = true;
                    if model.get(id).dependencies.contains(&start) {
                        for id in &path {
                            self.on_path[id.0 as usize] = false;
                        }
                        return Some(path);
                    }
                }
            }
            let (id, position) = (*path.last()?, next.last_mut()?);
            if let Some(on) = model.get(id).dependencies.get(*position) {
                *position += 1;
                candidate = Some(*on);
            } else {
                self.no_way_to[id.0 as usize] = start.0;
                self.on_path[id.0 as usize] = false;
                path.pop();
                next.pop();
            }
        }
    }
}

struct Loop<'a> {
    model: &'a mut Model,
    members: &'a [Id],
    boundaries: Boundaries,
}

impl Loop<'_> {
    /// The first rule that fits.
    fn repair(mut self, warnings: &mut Vec<String>) {
        let fixed = match self.members.len() {
            1 => self.table_of_itself(),
            2 => {
                self.type_and_function()
                    || self.cut_off(|this, view, rule| this.is_view_rule_of(view, rule, b"vm"))
                    || self.cut_off(Self::is_check_of)
                    || self.cut_off(Self::is_default_of)
                    || self.cut_off(Self::is_index_of_parent)
                    || self.cut_off(Self::is_constraint_of_domain)
            }
            _ => {
                self.view_through_others()
                    || self.matview_through_boundary()
                    || self.function_through_boundary()
                    || self.separate_constraint(Self::is_check_of)
                    || self.default_through_others()
                    || self.separate_constraint(Self::is_constraint_of_domain)
            }
        };
        if !fixed && !self.table_data(warnings) {
            self.anything(warnings);
        }
    }

    fn kind(&self, id: Id) -> &Kind {
        &self.model.get(id).kind
    }

    /// Both members of a loop of two, either way round.
    fn pairs(&self) -> [(Id, Id); 2] {
        let (a, b) = (self.members[0], self.members[1]);
        [(a, b), (b, a)]
    }

    /// The members `(a, b)` for which `fits` holds, in their order.
    fn pair_where(&self, fits: impl Fn(&Self, Id, Id) -> bool) -> Option<(Id, Id)> {
        let mut all = self.members.iter().flat_map(|a| self.members.iter().map(|b| (*a, *b)));
        all.find(|(a, b)| fits(self, *a, *b))
    }

    /// The object behind `id` in the loop.
    fn after(&self, id: Id) -> Option<Id> {
        let position = self.members.iter().position(|member| *member == id)?;
        self.members.get((position + 1) % self.members.len()).copied()
    }

    /// A function of a type needs its name only.
    fn type_and_function(&mut self) -> bool {
        for (of_type, function) in self.pairs() {
            let (Kind::Type(facts), Kind::Function(_)) = (self.kind(of_type), self.kind(function)) else {
                continue;
            };
            let shell = facts.shell;
            self.model.undepend(function, of_type);
            if let Some(shell) = shell {
                self.model.depend(function, shell);
                let mut wanted = self.model.get(function).wanted;
                if !wanted.is_empty() {
                    wanted.add(Parts::DEFINITION);
                    self.model.get_mut(shell).wanted = wanted;
                }
            }
            return true;
        }
        false
    }

    fn is_view_rule_of(&self, view: Id, rule: Id, kinds: &[u8]) -> bool {
        matches!(self.kind(view), Kind::Table(table) if kinds.contains(&table.kind))
            && matches!(self.kind(rule), Kind::Rule(rule) if rule.is_view() && rule.table == view)
    }

    /// The view gets its columns first and its definition later.
    fn view_through_others(&mut self) -> bool {
        let Some((view, rule)) = self.pair_where(|this, view, rule| this.is_view_rule_of(view, rule, b"v"))
        else {
            return false;
        };
        self.model.undepend(view, rule);
        self.model.with_table(view, |table| table.dummy_view = true);
        if let Kind::Rule(facts) = &mut self.model.get_mut(rule).kind {
            facts.separate = true;
        }
        self.model.depend(rule, view);
        self.model.depend(rule, self.boundaries.post_data);
        true
    }

    /// What a boundary holds in front of itself moves behind it: a materialised view behind the data, its statistics
    /// behind that. It may have to be said several times, until the view or the statistics are reached.
    fn matview_through_boundary(&mut self) -> bool {
        let boundary = self.members.iter().find_map(|id| {
            let boundary = match self.kind(*id) {
                Kind::Table(table) if table.kind == b'm' => self.boundaries.pre_data,
                Kind::Statistics(facts) if facts.kind == b'm' => self.boundaries.post_data,
                _ => return None,
            };
            self.after(boundary).map(|next| (boundary, next))
        });
        let Some((boundary, next)) = boundary else { return false };
        self.model.undepend(boundary, next);
        match &mut self.model.get_mut(next).kind {
            Kind::Table(table) => table.postponed |= table.kind == b'm',
            Kind::Statistics(facts) => facts.post_data |= facts.kind == b'm',
            _ => {}
        }
        true
    }

    fn function_through_boundary(&mut self) -> bool {
        let has_function = self.members.iter().any(|id| matches!(self.kind(*id), Kind::Function(_)));
        let boundary = self.boundaries.pre_data;
        let Some(next) = self.after(boundary).filter(|_| has_function) else { return false };
        self.model.undepend(boundary, next);
        if let Kind::Function(function) = &mut self.model.get_mut(next).kind {
            function.postponed = true;
        }
        true
    }

    fn is_check_of(&self, table: Id, constraint: Id) -> bool {
        matches!(self.kind(table), Kind::Table(_))
            && matches!(self.kind(constraint), Kind::Constraint(facts)
                if facts.kind == b'c' && facts.table == Some(table))
    }

    fn is_constraint_of_domain(&self, domain: Id, constraint: Id) -> bool {
        matches!(self.kind(domain), Kind::Type(_))
            && matches!(self.kind(constraint), Kind::Constraint(facts)
                if matches!(facts.kind, b'c' | b'n') && facts.domain == Some(domain))
    }

    /// A part of something, such as a check of its table, that is written within it need not wait for it.
    fn cut_off(&mut self, is_part: impl Fn(&Self, Id, Id) -> bool) -> bool {
        let Some((of, part)) = self.pair_where(is_part) else { return false };
        self.model.undepend(part, of);
        true
    }

    /// A constraint that is no more part of its table or domain comes when the data is there.
    fn separate_constraint(&mut self, is_part: impl Fn(&Self, Id, Id) -> bool) -> bool {
        let Some((of, constraint)) = self.pair_where(is_part) else { return false };
        self.model.undepend(of, constraint);
        if let Kind::Constraint(facts) = &mut self.model.get_mut(constraint).kind {
            facts.separate = true;
        }
        self.model.depend(constraint, of);
        self.model.depend(constraint, self.boundaries.post_data);
        true
    }

    /// The index of a partition and that of its parent.
    fn is_index_of_parent(&self, parent: Id, index: Id) -> bool {
        matches!((self.kind(parent), self.kind(index)), (Kind::Index(_), Kind::Index(facts))
            if facts.parent == self.model.get(parent).catalog.oid)
    }

    fn is_default_of(&self, table: Id, default: Id) -> bool {
        matches!(self.kind(table), Kind::Table(_))
            && matches!(self.kind(default), Kind::Default(facts) if facts.table == table)
    }

    fn default_through_others(&mut self) -> bool {
        let Some((table, default)) = self.pair_where(Self::is_default_of) else { return false };
        self.model.undepend(table, default);
        if let Kind::Default(facts) = &mut self.model.get_mut(default).kind {
            facts.separate = true;
        }
        self.model.depend(default, table);
        true
    }

    /// Columns that depend on others of the same table.
    fn table_of_itself(&mut self) -> bool {
        let id = self.members[0];
        let is_table = matches!(self.kind(id), Kind::Table(_));
        if is_table {
            self.model.undepend(id, id);
        }
        is_table
    }

    /// Foreign keys in a circle, where only data is dumped.
    fn table_data(&mut self, warnings: &mut Vec<String>) -> bool {
        if !self.members.iter().all(|id| matches!(self.kind(*id), Kind::TableData(_))) {
            return false;
        }
        let mut warning = if self.members.len() == 1 {
            "there are circular foreign-key constraints on this table:".to_owned()
        } else {
            "there are circular foreign-key constraints among these tables:".to_owned()
        };
        for member in self.members {
            warning.push_str("\ndetail: ");
            warning.push_str(&self.model.get(*member).name);
        }
        warning.push_str(
            "\nhint: You might not be able to restore the dump without using --disable-triggers or temporarily \
             dropping the constraints.\
             \nhint: Consider using a full dump instead of a --data-only dump to avoid this problem.",
        );
        warnings.push(warning);
        self.break_first();
        true
    }

    fn anything(&mut self, warnings: &mut Vec<String>) {
        let mut warning = "could not resolve dependency loop among these items:".to_owned();
        for member in self.members {
            let object = self.model.get(*member);
            warning.push_str(&format!(
                "\ndetail: {} {}  (ID {} OID {})",
                object.kind.class(),
                object.name,
                object.id.0,
                object.catalog.oid
            ));
        }
        warnings.push(warning);
        self.break_first();
    }

    fn break_first(&mut self) {
        let first = self.members[0];
        let on = self.members.get(1).copied().unwrap_or(first);
        self.model.undepend(first, on);
    }
}
