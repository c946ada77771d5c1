//! The objects of a database as a dump sees them: one arena of all classes, with what each depends on.
//!
//! An object is there for order and dependencies even when nothing of it is dumped. Its number ([`Id`]) is the number of
//! its entry in the archive. Mirrors the object types of PostgreSQL 18's `src/bin/pg_dump/pg_dump.h`.

use std::collections::HashMap;

use pgkeep_format::archive::{CatalogId, Section};
use pgkeep_tool::{Result, ToolError};

/// The number of an object: 1 and up, in the order of collection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Id(pub(crate) u32);

/// OIDs of system catalogs.
pub(crate) mod catalog {
    pub(crate) const CLASS: u32 = 1259;
    pub(crate) const TYPE: u32 = 1247;
    pub(crate) const NAMESPACE: u32 = 2615;
    pub(crate) const EXTENSION: u32 = 3079;
    pub(crate) const COLLATION: u32 = 3456;
    pub(crate) const ACCESS_METHOD: u32 = 2601;
    pub(crate) const PUBLICATION: u32 = 6104;
    pub(crate) const DATABASE: u32 = 1262;
    pub(crate) const SUBSCRIPTION: u32 = 6100;
    pub(crate) const LARGE_OBJECT: u32 = 2613;
    pub(crate) const FUNCTION: u32 = 1255;
    pub(crate) const OPERATOR: u32 = 2617;
}

/// OIDs below are given by `initdb`.
pub(crate) const FIRST_NORMAL_OID: u32 = 16384;

/// Parts of an object that can be dumped, as bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Parts(u16);

impl Parts {
    pub(crate) const NONE: Parts = Parts(0);
    pub(crate) const DEFINITION: Parts = Parts(1);
    pub(crate) const DATA: Parts = Parts(2);
    pub(crate) const COMMENT: Parts = Parts(4);
    pub(crate) const LABEL: Parts = Parts(8);
    pub(crate) const PRIVILEGES: Parts = Parts(16);
    pub(crate) const POLICY: Parts = Parts(32);
    pub(crate) const USER_MAPPING: Parts = Parts(64);
    pub(crate) const STATISTICS: Parts = Parts(128);
    pub(crate) const ALL: Parts = Parts(255);
    /// What there is to know of a relation.
    pub(crate) const CONTENTS: Parts = Parts(1 | 2 | 128);
    /// What needs the table locked, since the server computes it from the present catalogs.
    pub(crate) const LOCKED: Parts = Parts(1 | 2 | 32 | 128);

    pub(crate) fn has(self, other: Parts) -> bool {
        self.0 & other.0 != 0
    }

    pub(crate) fn is_empty(self) -> bool {
        self.0 == 0
    }

    pub(crate) fn and(self, other: Parts) -> Parts {
        Parts(self.0 & other.0)
    }

    pub(crate) fn without(self, other: Parts) -> Parts {
        Parts(self.0 & !other.0)
    }

    pub(crate) fn add(&mut self, other: Parts) {
        self.0 |= other.0;
    }
}

/// Privileges as the catalogs have them: `None` is NULL, which means the defaults.
#[derive(Debug, Clone, Default)]
pub(crate) struct Privileges {
    pub(crate) current: Option<String>,
    pub(crate) default: String,
    /// What `initdb` or an extension's script set, from `pg_init_privs`.
    pub(crate) initial: Option<String>,
    /// It was an extension's script.
    pub(crate) initial_of_extension: bool,
}

/// One object.
#[derive(Debug)]
pub(crate) struct Object {
    pub(crate) id: Id,
    pub(crate) catalog: CatalogId,
    pub(crate) name: String,
    /// The schema it lies in.
    pub(crate) schema: Option<Id>,
    /// What was asked for; cut down to what is there when the object's turn comes.
    pub(crate) wanted: Parts,
    /// Of schemas and extensions: what was asked for of their members.
    pub(crate) wanted_inside: Parts,
    /// What there is.
    pub(crate) present: Parts,
    pub(crate) extension_member: bool,
    /// `ALTER … DEPENDS ON EXTENSION` was said.
    pub(crate) depends_on_extension: bool,
    pub(crate) owner: String,
    pub(crate) privileges: Privileges,
    /// What must come before; may name an object more than once.
    pub(crate) dependencies: Vec<Id>,
    pub(crate) kind: Kind,
}

/// What an object is, with what its class needs.
#[derive(Debug)]
pub(crate) enum Kind {
    Schema {
        create: bool,
    },
    Extension(Extension),
    Type(Type),
    ShellType {
        base: Id,
    },
    Function(Function),
    Aggregate(Function),
    Operator {
        kind: u8,
        left: u32,
        right: u32,
    },
    AccessMethod,
    OperatorClass {
        method: u32,
    },
    OperatorFamily {
        method: u32,
    },
    Collation {
        encoding: i32,
    },
    Conversion,
    Table(Box<Table>),
    TableAttach {
        parent: Id,
        partition: Id,
    },
    Default(ColumnDefault),
    Index(Box<Index>),
    IndexAttach {
        parent: Id,
        partition: Id,
    },
    ExtendedStatistics {
        target: i32,
    },
    Rule(Rule),
    Trigger(Trigger),
    Constraint(Box<Constraint>),
    ForeignKey(Box<Constraint>),
    Language,
    Cast,
    TableData(TableData),
    SequenceSet(TableData),
    /// A row type, an array type or the like, which comes into being with something else.
    DummyType(Type),
    TextSearchParser,
    TextSearchDictionary,
    TextSearchTemplate,
    TextSearchConfiguration,
    ForeignDataWrapper,
    ForeignServer,
    DefaultPrivileges {
        role: String,
    },
    Transform,
    LargeObjects {
        oids: Vec<u32>,
    },
    LargeObjectData {
        metadata: Id,
    },
    PreDataBoundary,
    PostDataBoundary,
    EventTrigger,
    MatviewRefresh(TableData),
    /// What the planner knows of a relation.
    Statistics(Box<Statistics>),
    /// A policy, or (`name` is `None`) row security being on.
    Policy {
        table: Id,
        name: Option<String>,
    },
    Publication,
    PublicationTable {
        publication: Id,
        table: Id,
    },
    PublicationSchema {
        publication: Id,
    },
    Subscription,
    /// How far a table is in a subscription; only in a binary upgrade.
    SubscriptionTable(SubscriptionTable),
}

#[derive(Debug)]
pub(crate) struct SubscriptionTable {
    pub(crate) subscription: Id,
    pub(crate) table: Id,
    pub(crate) state: u8,
    pub(crate) position: Option<String>,
}

#[derive(Debug)]
pub(crate) struct Extension {
    /// The schema of its members.
    pub(crate) schema_name: String,
    /// OIDs of its configuration tables, with the condition of the rows that are the user's.
    pub(crate) configuration: Vec<(u32, String)>,
}

#[derive(Debug)]
pub(crate) struct Type {
    pub(crate) element: u32,
    /// `pg_class` of a row type, 0 for others.
    pub(crate) relation: u32,
    pub(crate) relation_kind: u8,
    /// `b`, `c`, `d`, `e`, `p`, `r`, `m`.
    pub(crate) kind: u8,
    pub(crate) defined: bool,
    pub(crate) shell: Option<Id>,
    /// Of a domain.
    pub(crate) checks: Vec<Id>,
    /// Of a domain, servers from 17.
    pub(crate) not_null: Option<Id>,
}

#[derive(Debug)]
pub(crate) struct Function {
    pub(crate) arguments: Vec<u32>,
    pub(crate) result: u32,
    /// Moved behind the data by the repair of a loop.
    pub(crate) postponed: bool,
}

#[derive(Debug, Default)]
#[allow(clippy::struct_excessive_bools, reason = "they are columns of pg_class")]
pub(crate) struct Table {
    pub(crate) kind: u8,
    pub(crate) row_type: u32,
    pub(crate) check_count: i32,
    pub(crate) has_index: bool,
    pub(crate) has_triggers: bool,
    /// Of the table and its TOAST table, by the last VACUUM.
    pub(crate) pages: u64,
    pub(crate) persistence: u8,
    pub(crate) populated: bool,
    pub(crate) replica_identity: u8,
    pub(crate) row_security: bool,
    pub(crate) force_row_security: bool,
    pub(crate) options: Option<String>,
    pub(crate) check_option: Option<String>,
    pub(crate) toast_options: Option<String>,
    pub(crate) of_type: u32,
    pub(crate) foreign_server: u32,
    pub(crate) access_method: Option<String>,
    pub(crate) tablespace: String,
    /// Of a sequence: the table and column it belongs to.
    pub(crate) owned_by: Option<(u32, i32)>,
    pub(crate) identity_sequence: bool,
    pub(crate) partition: bool,
    /// Something else needs its columns.
    pub(crate) interesting: bool,
    pub(crate) parents: Vec<Id>,
    pub(crate) columns: Vec<Column>,
    /// An identity column that is generated always: INSERTs must override it.
    pub(crate) needs_override: bool,
    pub(crate) checks: Vec<Id>,
    pub(crate) indexes: Vec<Id>,
    pub(crate) has_column_privileges: bool,
    pub(crate) data: Option<Id>,
    /// Of a materialised view.
    pub(crate) statistics: Option<Id>,
    /// Partitioned by the hash of an enum: rows may belong elsewhere after a restore.
    pub(crate) unsafe_partitions: bool,
    /// A view whose definition comes later, as a rule.
    pub(crate) dummy_view: bool,
    /// A materialised view that was moved behind the data.
    pub(crate) postponed: bool,
    /// In a binary upgrade all columns are written, dropped and inherited ones too.
    pub(crate) whole: bool,
}

impl Table {
    /// Whether a column is written in CREATE TABLE: inherited ones are not, but those of partitions are.
    pub(crate) fn is_printed(&self, position: usize) -> bool {
        let column = &self.columns[position];
        self.whole || !column.dropped && (column.local || self.partition)
    }
}

#[derive(Debug, Clone, Default)]
#[allow(clippy::struct_excessive_bools, reason = "they are columns of pg_attribute")]
pub(crate) struct Column {
    pub(crate) name: String,
    pub(crate) type_name: String,
    pub(crate) statistics_target: i32,
    pub(crate) storage: u8,
    pub(crate) type_storage: u8,
    pub(crate) identity: u8,
    pub(crate) generated: u8,
    pub(crate) dropped: bool,
    pub(crate) local: bool,
    /// Name of its NOT NULL constraint; empty when the server gives that name by itself.
    pub(crate) not_null: Option<String>,
    pub(crate) not_null_comment: Option<String>,
    pub(crate) not_null_no_inherit: bool,
    pub(crate) not_null_local: bool,
    pub(crate) not_null_invalid: bool,
    pub(crate) options: String,
    pub(crate) collation: u32,
    pub(crate) compression: u8,
    pub(crate) foreign_options: String,
    pub(crate) default: Option<Id>,
}

#[derive(Debug)]
pub(crate) struct ColumnDefault {
    pub(crate) table: Id,
    pub(crate) column: i32,
    pub(crate) expression: String,
    /// Not part of CREATE TABLE.
    pub(crate) separate: bool,
}

#[derive(Debug)]
pub(crate) struct Index {
    pub(crate) table: Id,
    pub(crate) definition: String,
    pub(crate) tablespace: String,
    pub(crate) options: Option<String>,
    /// Columns with a statistics target of their own.
    pub(crate) statistics: Vec<(String, String)>,
    pub(crate) key_columns: usize,
    pub(crate) columns: Vec<i32>,
    pub(crate) clustered: bool,
    pub(crate) replica_identity: bool,
    pub(crate) nulls_not_distinct: bool,
    /// OID of the partitioned index it belongs to; 0 for none.
    pub(crate) parent: u32,
    /// Attachments of partitions' indexes to this one.
    pub(crate) attachments: Vec<Id>,
    pub(crate) constraint: Option<Id>,
}

#[derive(Debug)]
pub(crate) struct Rule {
    pub(crate) table: Id,
    pub(crate) event: u8,
    pub(crate) instead: bool,
    pub(crate) enabled: u8,
    pub(crate) separate: bool,
}

impl Rule {
    /// Whether this is the rule behind a view.
    pub(crate) fn is_view(&self) -> bool {
        self.event == b'1' && self.instead
    }
}

#[derive(Debug)]
pub(crate) struct Trigger {
    pub(crate) table: Id,
    pub(crate) enabled: u8,
    /// A partition's copy of a trigger, in another state than that.
    pub(crate) of_partition: bool,
    pub(crate) definition: String,
}

#[derive(Debug)]
#[allow(clippy::struct_excessive_bools, reason = "they are columns of pg_constraint")]
pub(crate) struct Constraint {
    pub(crate) table: Option<Id>,
    pub(crate) domain: Option<Id>,
    /// `c`, `f`, `n`, `p`, `u`, `x`.
    pub(crate) kind: u8,
    pub(crate) definition: Option<String>,
    pub(crate) foreign_table: u32,
    pub(crate) index: Option<Id>,
    pub(crate) deferrable: bool,
    pub(crate) deferred: bool,
    pub(crate) period: bool,
    pub(crate) local: bool,
    /// Not part of CREATE TABLE or CREATE DOMAIN.
    pub(crate) separate: bool,
}

#[derive(Debug)]
pub(crate) struct TableData {
    pub(crate) table: Id,
    /// Of an extension's configuration table: which rows.
    pub(crate) condition: Option<String>,
}

/// Statistics of a relation: those of its own; those of its columns are fetched when they are written.
#[derive(Debug, Clone)]
pub(crate) struct Statistics {
    /// `r`, `p`, `m`, `f`, or `i` for indexes of all kinds.
    pub(crate) kind: u8,
    /// They come when the relation is whole: of indexes, and of materialised views that are refreshed.
    pub(crate) post_data: bool,
    pub(crate) pages: i32,
    /// As the server writes it.
    pub(crate) tuples: String,
    pub(crate) all_visible: i32,
    pub(crate) all_frozen: i32,
    /// Columns of an index on expressions: their names are not the same everywhere, so they go by number.
    pub(crate) index_columns: Vec<String>,
}

impl Kind {
    /// The place in the initial order. Functions by their names sort among functions, never among tables.
    pub(crate) fn priority(&self) -> u8 {
        match self {
            Kind::Schema { .. } => 1,
            Kind::Language => 2,
            Kind::Collation { .. } => 3,
            Kind::Transform => 4,
            Kind::Extension(_) => 5,
            Kind::Type(_) | Kind::ShellType { .. } => 6,
            Kind::Cast => 7,
            Kind::Function(_) => 8,
            Kind::Aggregate(_) => 9,
            Kind::AccessMethod => 10,
            Kind::Operator { .. } => 11,
            Kind::OperatorClass { .. } | Kind::OperatorFamily { .. } => 12,
            Kind::Conversion => 13,
            Kind::TextSearchParser => 14,
            Kind::TextSearchTemplate => 15,
            Kind::TextSearchDictionary => 16,
            Kind::TextSearchConfiguration => 17,
            Kind::ForeignDataWrapper => 18,
            Kind::ForeignServer => 19,
            Kind::Table(_) => 20,
            Kind::TableAttach { .. } => 21,
            Kind::DummyType(_) => 22,
            Kind::Default(_) => 23,
            Kind::PreDataBoundary => 24,
            Kind::TableData(_) => 25,
            Kind::SequenceSet(_) => 26,
            Kind::LargeObjects { .. } => 27,
            Kind::LargeObjectData { .. } => 28,
            Kind::Statistics(_) => 29,
            Kind::PostDataBoundary => 30,
            Kind::Constraint(_) => 31,
            Kind::Index(_) => 32,
            Kind::IndexAttach { .. } => 33,
            Kind::ExtendedStatistics { .. } => 34,
            Kind::Rule(_) => 35,
            Kind::Trigger(_) => 36,
            Kind::ForeignKey(_) => 37,
            Kind::Policy { .. } => 38,
            Kind::Publication => 39,
            Kind::PublicationTable { .. } => 40,
            Kind::PublicationSchema { .. } => 41,
            Kind::Subscription => 42,
            Kind::SubscriptionTable(_) => 43,
            Kind::DefaultPrivileges { .. } => 44,
            Kind::EventTrigger => 45,
            Kind::MatviewRefresh(_) => 46,
        }
    }

    /// The part of the dump that its entry belongs to; `None` for what is part of another entry, and for boundaries.
    pub(crate) fn section(&self) -> Option<Section> {
        match self {
            Kind::PreDataBoundary | Kind::PostDataBoundary => None,
            Kind::Rule(rule) => rule.separate.then_some(Section::PostData),
            Kind::Constraint(constraint) | Kind::ForeignKey(constraint) => {
                constraint.separate.then_some(Section::PostData)
            }
            Kind::Statistics(statistics) if statistics.post_data => Some(Section::PostData),
            other if other.priority() < 24 => Some(Section::PreData),
            other if other.priority() < 30 => Some(Section::Data),
            _ => Some(Section::PostData),
        }
    }

    /// Its class, for messages.
    pub(crate) fn class(&self) -> &'static str {
        match self {
            Kind::Schema { .. } => "SCHEMA",
            Kind::Extension(_) => "EXTENSION",
            Kind::Type(_) => "TYPE",
            Kind::ShellType { .. } => "SHELL TYPE",
            Kind::Function(_) => "FUNCTION",
            Kind::Aggregate(_) => "AGGREGATE",
            Kind::Operator { .. } => "OPERATOR",
            Kind::AccessMethod => "ACCESS METHOD",
            Kind::OperatorClass { .. } => "OPERATOR CLASS",
            Kind::OperatorFamily { .. } => "OPERATOR FAMILY",
            Kind::Collation { .. } => "COLLATION",
            Kind::Conversion => "CONVERSION",
            Kind::Table(_) => "TABLE",
            Kind::TableAttach { .. } => "TABLE ATTACH",
            Kind::Default(_) => "ATTRDEF",
            Kind::Index(_) => "INDEX",
            Kind::IndexAttach { .. } => "INDEX ATTACH",
            Kind::ExtendedStatistics { .. } => "STATISTICS",
            Kind::Rule(_) => "RULE",
            Kind::Trigger(_) => "TRIGGER",
            Kind::Constraint(_) => "CONSTRAINT",
            Kind::ForeignKey(_) => "FK CONSTRAINT",
            Kind::Language => "PROCEDURAL LANGUAGE",
            Kind::Cast => "CAST",
            Kind::TableData(_) => "TABLE DATA",
            Kind::SequenceSet(_) => "SEQUENCE SET",
            Kind::DummyType(_) => "DUMMY TYPE",
            Kind::TextSearchParser => "TEXT SEARCH PARSER",
            Kind::TextSearchDictionary => "TEXT SEARCH DICTIONARY",
            Kind::TextSearchTemplate => "TEXT SEARCH TEMPLATE",
            Kind::TextSearchConfiguration => "TEXT SEARCH CONFIGURATION",
            Kind::ForeignDataWrapper => "FOREIGN DATA WRAPPER",
            Kind::ForeignServer => "FOREIGN SERVER",
            Kind::DefaultPrivileges { .. } => "DEFAULT ACL",
            Kind::Transform => "TRANSFORM",
            Kind::LargeObjects { .. } => "LARGE OBJECT",
            Kind::LargeObjectData { .. } => "LARGE OBJECT DATA",
            Kind::PreDataBoundary => "PRE-DATA BOUNDARY",
            Kind::PostDataBoundary => "POST-DATA BOUNDARY",
            Kind::EventTrigger => "EVENT TRIGGER",
            Kind::MatviewRefresh(_) => "REFRESH MATERIALIZED VIEW",
            Kind::Statistics(_) => "STATISTICS DATA",
            Kind::Policy { .. } => "POLICY",
            Kind::Publication => "PUBLICATION",
            Kind::PublicationTable { .. } => "PUBLICATION TABLE",
            Kind::PublicationSchema { .. } => "PUBLICATION TABLES IN SCHEMA",
            Kind::Subscription => "SUBSCRIPTION",
            Kind::SubscriptionTable(_) => "SUBSCRIPTION TABLE",
        }
    }
}

/// A comment, on the object (`sub` 0) or on one of its columns.
#[derive(Debug, Clone)]
pub(crate) struct Comment {
    pub(crate) sub: i32,
    pub(crate) text: String,
}

/// A security label, on the object (`sub` 0) or on one of its columns.
#[derive(Debug, Clone)]
pub(crate) struct Label {
    pub(crate) sub: i32,
    pub(crate) provider: String,
    pub(crate) text: String,
}

/// All objects of a database.
#[derive(Debug, Default)]
pub(crate) struct Model {
    objects: Vec<Object>,
    by_catalog: HashMap<CatalogId, Id>,
    /// Objects that belong to extensions.
    pub(crate) members: HashMap<CatalogId, Id>,
    /// Names of roles.
    pub(crate) roles: HashMap<u32, String>,
    pub(crate) comments: HashMap<CatalogId, Vec<Comment>>,
    pub(crate) labels: HashMap<CatalogId, Vec<Label>>,
    /// Tables, views, sequences and composite types, by OID.
    pub(crate) tables: Vec<Id>,
    last: u32,
}

impl Model {
    /// Adds an object: everything of it wanted, its definition present.
    pub(crate) fn add(
        &mut self,
        catalog: CatalogId,
        name: impl Into<String>,
        schema: Option<Id>,
        kind: Kind,
    ) -> Id {
        let id = self.next_id();
        self.objects.push(Object {
            id,
            catalog,
            name: name.into(),
            schema,
            wanted: Parts::ALL,
            wanted_inside: Parts::ALL,
            present: Parts::DEFINITION,
            extension_member: false,
            depends_on_extension: false,
            owner: String::new(),
            privileges: Privileges::default(),
            dependencies: Vec::new(),
            kind,
        });
        if catalog.table_oid != 0 {
            self.by_catalog.insert(catalog, id);
        }
        id
    }

    /// A number for an entry that is not an object's. No object can be added after that.
    pub(crate) fn next_id(&mut self) -> Id {
        self.last += 1;
        Id(self.last)
    }

    pub(crate) fn get(&self, id: Id) -> &Object {
        &self.objects[id.0 as usize - 1]
    }

    pub(crate) fn get_mut(&mut self, id: Id) -> &mut Object {
        &mut self.objects[id.0 as usize - 1]
    }

    /// The object with this number, if it is one's.
    pub(crate) fn find_id(&self, id: Id) -> Option<&Object> {
        self.objects.get((id.0 as usize).checked_sub(1)?)
    }

    /// How many objects there are.
    pub(crate) fn len(&self) -> usize {
        self.objects.len()
    }

    pub(crate) fn ids(&self) -> impl Iterator<Item = Id> + use<> {
        (1..=u32::try_from(self.objects.len()).unwrap_or(u32::MAX)).map(Id)
    }

    pub(crate) fn find(&self, table_oid: u32, oid: u32) -> Option<Id> {
        self.by_catalog.get(&CatalogId { table_oid, oid }).copied()
    }

    /// Says that another catalog row is part of this object.
    pub(crate) fn also(&mut self, catalog: CatalogId, id: Id) {
        self.by_catalog.insert(catalog, id);
    }

    pub(crate) fn depend(&mut self, id: Id, on: Id) {
        self.get_mut(id).dependencies.push(on);
    }

    pub(crate) fn undepend(&mut self, id: Id, on: Id) {
        self.get_mut(id).dependencies.retain(|known| *known != on);
    }

    /// The table with this OID.
    pub(crate) fn find_table(&self, oid: u32) -> Option<Id> {
        let id = self.find(catalog::CLASS, oid)?;
        matches!(self.get(id).kind, Kind::Table(_)).then_some(id)
    }

    /// What is known of a table. An empty one for what is none, which no caller asks for.
    pub(crate) fn table(&self, id: Id) -> &Table {
        static NO_TABLE: std::sync::LazyLock<Table> = std::sync::LazyLock::new(Table::default);
        match &self.get(id).kind {
            Kind::Table(table) => table,
            _ => &NO_TABLE,
        }
    }

    /// Changes what is known of a table; nothing happens to what is none.
    pub(crate) fn with_table(&mut self, id: Id, change: impl FnOnce(&mut Table)) {
        if let Kind::Table(table) = &mut self.get_mut(id).kind {
            change(table);
        }
    }

    /// The name of an object's schema, empty when it lies in none.
    pub(crate) fn schema_name(&self, id: Id) -> &str {
        self.get(id).schema.map_or("", |schema| &self.get(schema).name)
    }

    /// The name of a role.
    pub(crate) fn role(&self, oid: u32) -> Result<String> {
        let known = self.roles.get(&oid).cloned();
        known.ok_or_else(|| ToolError::catalog(format!("role with OID {oid} does not exist")))
    }
}
