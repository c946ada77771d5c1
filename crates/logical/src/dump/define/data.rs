//! Rows of tables: the entry, and where the rows come from.

use pgkeep_format::archive::Section;
use pgkeep_tool::Result;

use super::{DataSource, Definer, Draft, InsertSource, RowSource, Rows};
use crate::dump::model::{Id, Kind, Parts, Table};
use crate::dump::options::RowFormat;
use crate::dump::sql::one_line;

/// Behind a COPY that speaks the binary form.
const BINARY: &str = " WITH (FORMAT binary)";

impl Definer<'_> {
    pub(super) fn table_data(&mut self, id: Id) -> Result<()> {
        let Kind::TableData(data) = &self.model.get(id).kind else { return Ok(()) };
        if !self.wants(id, Parts::DATA) {
            return Ok(());
        }
        let id_of_table = data.table;
        let table = self.model.table(id_of_table);
        let condition = data.condition.as_deref().unwrap_or("");
        let source_name = self.qualified(id_of_table);
        let through_root = table.partition
            && (self.options.load_via_partition_root || self.forces_load_through_root(id_of_table));
        let target =
            if through_root { self.qualified(self.root_of(id_of_table)) } else { source_name.clone() };
        let definition = through_root.then(|| format!("-- load via partition root {}", one_line(&target)));
        let columns = self.column_list(table);
        let copies = !matches!(self.options.rows, RowFormat::Inserts { .. });
        let list = columns.strip_prefix('(').and_then(|list| list.strip_suffix(')'));
        // Of other access methods it is not known what a place is, and policies may be queries of any kind.
        let has_places = table.kind == b'r'
            && table.access_method.as_deref() == Some("heap")
            && !(table.row_security && self.options.session.enable_row_security);
        let ranged = list
            .filter(|_| has_places && condition.is_empty() && copies)
            .map(|list| format!("SELECT {list} FROM ONLY {source_name}"));
        let (copy, how) = match self.options.rows {
            RowFormat::Copy | RowFormat::CopyBinary => {
                let form = if self.options.rows == RowFormat::Copy { "" } else { BINARY };
                let command = if condition.is_empty() && table.kind != b'f' {
                    format!("COPY {source_name} {columns} TO stdout{form};")
                } else {
                    let list = list.unwrap_or("*");
                    format!("COPY (SELECT {list} FROM {source_name} {condition}) TO stdout{form};")
                };
                (Some(format!("COPY {target} {columns} FROM stdin{form};\n")), Rows::Copy(command))
            }
            RowFormat::Inserts { name_columns, .. } => {
                let source = self.insert_source(table, &source_name, &target, condition, name_columns);
                (None, Rows::Inserts(source))
            }
        };
        let of = self.model.get(id_of_table);
        let source = RowSource {
            table: source_name.clone(),
            oid: of.catalog.oid,
            name: of.name.clone(),
            foreign: table.kind == b'f',
            pages: table.pages,
            how,
            ranged,
        };
        let owner = Some(of.owner.clone());
        let draft = Draft {
            definition,
            copy,
            section: Some(Section::Data),
            owner,
            dependencies: vec![id_of_table],
            data: Some(DataSource::Rows(source)),
            ..self.draft(id, "TABLE DATA")
        };
        self.add(draft);
        Ok(())
    }

    /// `(a, b)`, without generated columns; nothing when there are none.
    fn column_list(&self, table: &Table) -> String {
        let columns: Vec<String> = table
            .columns
            .iter()
            .filter(|column| !column.dropped && column.generated == 0)
            .map(|column| self.quoting.name(&column.name))
            .collect();
        if columns.is_empty() { String::new() } else { format!("({})", columns.join(", ")) }
    }

    fn insert_source(
        &self,
        table: &Table,
        source: &str,
        target: &str,
        condition: &str,
        name_columns: bool,
    ) -> InsertSource {
        // Generated columns are left out where columns are named, and are DEFAULT where not.
        let columns: Vec<_> = table
            .columns
            .iter()
            .filter(|column| !column.dropped && (!name_columns || column.generated == 0))
            .collect();
        let expressions: Vec<String> = columns
            .iter()
            .map(|column| match column.generated {
                0 => self.quoting.name(&column.name),
                _ => "NULL".to_owned(),
            })
            .collect();
        let expressions = if expressions.is_empty() { "NULL".to_owned() } else { expressions.join(", ") };
        let mut query = format!("SELECT {expressions} FROM ONLY {source}");
        if !condition.is_empty() {
            query.push_str(&format!(" {condition}"));
        }
        let mut command = format!("INSERT INTO {target} ");
        if columns.is_empty() {
            command.push_str("DEFAULT VALUES;\n");
        } else {
            if name_columns {
                let names: Vec<String> =
                    columns.iter().map(|column| self.quoting.name(&column.name)).collect();
                command.push_str(&format!("({}) ", names.join(", ")));
            }
            if table.needs_override {
                command.push_str("OVERRIDING SYSTEM VALUE ");
            }
            command.push_str("VALUES");
        }
        let generated = columns.iter().map(|column| column.generated != 0).collect();
        InsertSource { query, command, generated }
    }

    fn forces_load_through_root(&self, partition: Id) -> bool {
        self.ancestors(partition).any(|parent| self.model.table(parent).unsafe_partitions)
    }

    fn root_of(&self, partition: Id) -> Id {
        self.ancestors(partition).last().unwrap_or(partition)
    }

    /// Parents of a partition, up to the root.
    fn ancestors(&self, partition: Id) -> impl Iterator<Item = Id> + '_ {
        std::iter::successors(Some(partition), |id| {
            let table = self.model.table(*id);
            table.parents.first().copied().filter(|_| table.partition)
        })
        .skip(1)
    }
}
