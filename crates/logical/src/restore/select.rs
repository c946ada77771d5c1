//! Which parts of which entries are restored.

use pgkeep_format::archive::{Section, TocEntry};
use pgkeep_tool::{Result, ToolError};

use super::contents::Contents;
use super::options::{RestoreOptions, Selection};

/// What is wanted of an entry.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Wanted {
    /// Its definition.
    pub(crate) schema: bool,
    /// Its data.
    pub(crate) data: bool,
    /// It is statistics, and wanted.
    pub(crate) statistics: bool,
    /// It sets up the session, and is acted on whatever is selected.
    pub(crate) special: bool,
}

impl Wanted {
    const NOTHING: Wanted = Wanted { schema: false, data: false, statistics: false, special: false };

    /// Whether something of it goes into the script.
    pub(crate) fn is_restored(self) -> bool {
        self.schema || self.data || self.statistics
    }

    /// Whether something of it is wanted at all.
    pub(crate) fn is_anything(self) -> bool {
        self.is_restored() || self.special
    }
}

/// When an entry is restored, relative to the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Pass {
    /// Nearly everything.
    Main,
    /// Privileges, when all objects are there.
    Privileges,
    /// What may run user code with these privileges, or fires on all the others.
    Last,
}

impl Pass {
    /// The pass of an entry.
    pub(crate) fn of(entry: &TocEntry) -> Pass {
        match &entry.desc[..] {
            b"ACL" | b"ACL LANGUAGE" | b"DEFAULT ACL" => Pass::Privileges,
            b"EVENT TRIGGER" | b"MATERIALIZED VIEW DATA" => Pass::Last,
            b"COMMENT" | b"SECURITY LABEL" if entry.tag.starts_with(b"EVENT TRIGGER ") => Pass::Last,
            // Statistics of what is built late: indexes, materialized views.
            b"STATISTICS DATA" if entry.section == Section::PostData => Pass::Last,
            _ => Pass::Main,
        }
    }
}

/// Whether the entry grants or revokes.
pub(crate) fn is_acl(entry: &TocEntry) -> bool {
    matches!(&entry.desc[..], b"ACL" | b"ACL LANGUAGE" | b"DEFAULT ACL")
}

/// Decides for every entry, in the order of [`Contents::order`].
pub(crate) fn select(contents: &Contents, options: &mut RestoreOptions) -> Result<Vec<Wanted>> {
    let mut wanted = vec![Wanted::NOTHING; contents.entries.len()];
    let mut section = Section::PreData;
    for index in contents.order.iter().copied() {
        let entry = &contents.entries[index];
        if entry.section != Section::None {
            section = entry.section;
        }
        wanted[index] = required(contents, entry, section, &wanted, &mut options.selection);
    }
    if options.selection.strict_names {
        check_names(&options.selection)?;
    }
    Ok(wanted)
}

fn check_names(selection: &Selection) -> Result<()> {
    for (what, names) in [
        ("schema", &selection.schemas),
        ("table", &selection.tables),
        ("index", &selection.indexes),
        ("function", &selection.functions),
        ("trigger", &selection.triggers),
    ] {
        if let Some(name) = names.first_not_met() {
            return Err(ToolError::new(format!("{what} \"{name}\" not found")));
        }
    }
    Ok(())
}

fn required(
    contents: &Contents,
    entry: &TocEntry,
    section: Section,
    decided: &[Wanted],
    selection: &mut Selection,
) -> Wanted {
    let desc = &entry.desc[..];
    let mut wanted = Wanted { schema: true, data: true, statistics: false, special: false };
    if matches!(desc, b"ENCODING" | b"STDSTRINGS" | b"SEARCHPATH") {
        return Wanted { special: true, ..Wanted::NOTHING };
    }
    if desc == b"STATISTICS DATA" {
        if !selection.statistics {
            return Wanted::NOTHING;
        }
        wanted = Wanted { statistics: true, ..Wanted::NOTHING };
    }
    if matches!(desc, b"DATABASE" | b"DATABASE PROPERTIES") {
        return Wanted { schema: selection.create, ..Wanted::NOTHING };
    }
    if is_switched_off(entry, selection) {
        return Wanted::NOTHING;
    }
    let in_section = match section {
        Section::PreData => selection.pre_data,
        Section::Data => selection.data_section,
        Section::PostData => selection.post_data,
        Section::None => false,
    };
    if !in_section || selection.wanted.as_ref().is_some_and(|wanted| !wanted.contains(&entry.dump_id)) {
        return Wanted::NOTHING;
    }
    let is_selected = if matches!(desc, b"ACL" | b"COMMENT" | b"SECURITY LABEL") {
        follows_parent(contents, entry, decided, selection)
    } else {
        is_selected_by_name(contents, entry, selection)
    };
    if !is_selected {
        return Wanted::NOTHING;
    }
    if !entry.had_dumper {
        if is_data_without_block(entry) {
            wanted.schema = false;
            wanted.statistics = false;
        } else {
            wanted.data = false;
        }
    }
    let definition = entry.definition.as_deref().unwrap_or_default();
    if definition.is_empty() || definition.starts_with(b"-- load via partition root ") {
        wanted.schema = false;
    }
    if desc == b"<Init>" && entry.tag == "Max OID" {
        return Wanted::NOTHING;
    }
    wanted.data &= selection.data
        || (selection.sequence_data && desc == b"SEQUENCE SET")
        || (selection.binary_upgrade && desc != b"SEQUENCE SET" && is_data_without_block(entry));
    wanted.schema &= selection.schema;
    wanted
}

/// Positions of sequences, and everything about large objects: data by nature, without a block of their own.
fn is_data_without_block(entry: &TocEntry) -> bool {
    match &entry.desc[..] {
        b"SEQUENCE SET" | b"BLOB" | b"BLOB METADATA" => true,
        b"ACL" | b"COMMENT" | b"SECURITY LABEL" => entry.tag.starts_with(b"LARGE OBJECT"),
        _ => false,
    }
}

fn is_switched_off(entry: &TocEntry, selection: &Selection) -> bool {
    let desc = &entry.desc[..];
    if selection.no_privileges && is_acl(entry) {
        return true;
    }
    if desc == b"COMMENT" || desc == b"SECURITY LABEL" {
        let about = |kind: &[u8]| entry.tag.starts_with(kind);
        return (desc == b"COMMENT" && selection.no_comments)
            || (desc == b"SECURITY LABEL" && selection.no_security_labels)
            || (desc == b"COMMENT" && selection.no_policies && about(b"POLICY"))
            || (selection.no_publications && about(b"PUBLICATION"))
            || (selection.no_subscriptions && about(b"SUBSCRIPTION"));
    }
    match desc {
        b"POLICY" | b"ROW SECURITY" => selection.no_policies,
        b"PUBLICATION" | b"PUBLICATION TABLE" | b"PUBLICATION TABLES IN SCHEMA" => selection.no_publications,
        b"SUBSCRIPTION" | b"SUBSCRIPTION TABLE" => selection.no_subscriptions,
        _ => false,
    }
}

/// Privileges, comments and labels go with what they are about. Those of nothing in the archive, such as privileges of
/// built-in functions, go only into unselective restores.
fn follows_parent(contents: &Contents, entry: &TocEntry, decided: &[Wanted], selection: &Selection) -> bool {
    if entry.tag.starts_with(b"DATABASE ") {
        return selection.create;
    }
    if selection.schemas.is_empty() && selection.excluded_schemas.is_empty() && !selection.selects_kinds() {
        return true;
    }
    entry.dependencies.iter().any(|dependency| {
        contents.index_of(*dependency).is_some_and(|parent| {
            &contents.entries[parent].desc[..] != b"ACL" && decided[parent].is_anything()
        })
    })
}

fn is_selected_by_name(contents: &Contents, entry: &TocEntry, selection: &mut Selection) -> bool {
    let namespace = entry.namespace.as_deref();
    if !selection.schemas.is_empty() && !namespace.is_some_and(|namespace| selection.schemas.meets(namespace))
    {
        return false;
    }
    if namespace.is_some_and(|namespace| selection.excluded_schemas.meets(namespace)) {
        return false;
    }
    if !selection.selects_kinds() {
        return true;
    }
    let desc = match &entry.desc[..] {
        // Statistics are selected as what they are of: the name alone may be that of a table or of an index.
        b"STATISTICS DATA" => {
            let parents = entry.dependencies.iter().filter_map(|id| contents.index_of(*id));
            let mut kinds = parents.map(|parent| &contents.entries[parent].desc[..]);
            kinds.find(|kind| matches!(*kind, b"TABLE" | b"FOREIGN TABLE" | b"MATERIALIZED VIEW" | b"INDEX"))
        }
        desc => Some(desc),
    };
    let names = match desc.unwrap_or_default() {
        b"TABLE"
        | b"TABLE DATA"
        | b"VIEW"
        | b"FOREIGN TABLE"
        | b"MATERIALIZED VIEW"
        | b"MATERIALIZED VIEW DATA"
        | b"SEQUENCE"
        | b"SEQUENCE SET" => &mut selection.tables,
        b"INDEX" => &mut selection.indexes,
        b"FUNCTION" | b"AGGREGATE" | b"PROCEDURE" => &mut selection.functions,
        b"TRIGGER" => &mut selection.triggers,
        _ => return false,
    };
    names.meets(&entry.tag)
}
