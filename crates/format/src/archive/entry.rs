//! An entry of the table of contents: one object, or the data of one.

use std::fmt;

use super::Text;

/// The number of an entry in its archive, above 0. Dependencies and lists (`pg_restore -L`) name entries by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DumpId(pub u32);

impl DumpId {
    /// The largest that an archive can hold.
    pub const MAX: DumpId = DumpId(i32::MAX as u32);
}

impl fmt::Display for DumpId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// Which row of which catalog an entry was made from; zeros where there is none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CatalogId {
    /// The OID of the system catalog: 1259 for `pg_class`.
    pub table_oid: u32,
    /// The OID in it.
    pub oid: u32,
}

/// The part of a dump that an entry belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Section {
    /// Comments, privileges, labels: goes with what it is about.
    None,
    /// What must be there before data.
    PreData,
    /// Rows, large objects, positions of sequences.
    Data,
    /// What is better made when the data is there: indexes, constraints, triggers.
    PostData,
}

/// Where the data of an entry lies.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum DataLocation {
    /// The entry has no data.
    #[default]
    None,
    /// Custom format, not seekable when it was written: a block somewhere behind the table.
    Unknown,
    /// Custom format: where the block begins, in bytes from the start of the archive.
    Offset(u64),
    /// Directory and tar: the name of the file without compression suffix.
    File(Text),
}

/// One object of a dump, or the data of one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TocEntry {
    /// Unique in the archive.
    pub dump_id: DumpId,
    /// Whether the entry has data of its own (a block or file), as `TABLE DATA` and `BLOBS` have.
    pub had_dumper: bool,
    /// Where it comes from.
    pub catalog_id: CatalogId,
    /// The object's name in the form that fits [`desc`](Self::desc): `t`, `f(integer)`, `TABLE t`. Not quoted.
    pub tag: Text,
    /// The kind of object: `TABLE`, `TABLE DATA`, `FK CONSTRAINT`.
    pub desc: Text,
    /// When it is restored.
    pub section: Section,
    /// The SQL that makes it; ends with `;` and a line end. NULL for data.
    pub definition: Option<Text>,
    /// The SQL that removes it.
    pub drop_statement: Option<Text>,
    /// The `COPY … FROM stdin;` that takes the data. NULL where the data is SQL itself (`--inserts`).
    pub copy_statement: Option<Text>,
    /// The schema it lies in, not quoted; NULL for what lies in none.
    pub namespace: Option<Text>,
    /// NULL where tablespaces do not apply, empty for the database's default one.
    pub tablespace: Option<Text>,
    /// From version 1.14 on: `heap` and the like; NULL where access methods do not apply.
    pub table_access_method: Option<Text>,
    /// From version 1.16 on: `r`, `p`, `v`, `m`, `f` of `pg_class` for tables and the like; 0 for everything else.
    pub relkind: u8,
    /// The role that owns it, not quoted.
    pub owner: Option<Text>,
    /// A table `WITH OIDS` of PostgreSQL 11 or older. Never written.
    pub with_oids: bool,
    /// What must be restored before; may name entries that are not in the archive.
    pub dependencies: Vec<DumpId>,
    /// Where its data lies.
    pub data: DataLocation,
}

impl TocEntry {
    /// An entry with a name and nothing else.
    #[must_use]
    pub fn new(dump_id: DumpId, desc: impl Into<Text>, tag: impl Into<Text>, section: Section) -> TocEntry {
        TocEntry {
            dump_id,
            had_dumper: false,
            catalog_id: CatalogId::default(),
            tag: tag.into(),
            desc: desc.into(),
            section,
            definition: None,
            drop_statement: None,
            copy_statement: None,
            namespace: None,
            tablespace: None,
            table_access_method: None,
            relkind: 0,
            owner: None,
            with_oids: false,
            dependencies: Vec::new(),
            data: DataLocation::None,
        }
    }
}
