//! Everything before the first change: the archive is opened, objects are chosen and renamed, and what would fail is found.

use std::collections::BTreeSet;

use pgkeep_format::archive::{Text, TocEntry};

use super::error::{LoadError, LoadErrorKind, LoadResult};
use super::journal::Key;
use super::lexer::QualifiedName;
use super::observe::{LoadEvent, LoadObserver};
use super::plan::{Basis, LoadPlan, build};
use super::rename::{Renaming, UNSAFE_ENCODINGS};
use super::request::LoadRequest;
use super::roles::{self, RoleMap};
use super::select::{Belongings, Chosen, choose, is_data, is_relation, label};
use super::source::LoadSource;
use super::statements::{create_database, session_settings, tablespace_of_database};
use super::target::{TargetFacts, refuse_unless_empty};
use crate::quote;
use crate::restore::{Archive, Contents, Pieces, Source, clock};

/// How many names a message lists.
const SHOWN: usize = 10;

/// What a run needs.
pub(super) struct Prepared {
    pub(super) contents: Contents,
    pub(super) source: Source,
    pub(super) pieces: Pieces,
    pub(super) plan: LoadPlan,
    /// What sessions set, since the database will have it.
    pub(super) settings: Vec<Vec<u8>>,
    pub(super) key: Key,
    /// How the database is made, and under which name at first.
    pub(super) create: Option<(String, String)>,
    pub(super) warnings: Vec<String>,
}

/// Warnings, told at once and kept for the report.
struct Warnings<'a> {
    observer: &'a dyn LoadObserver,
    texts: Vec<String>,
}

impl Warnings<'_> {
    fn push(&mut self, text: String, hint: Option<&str>) {
        self.observer.event(&LoadEvent::Warning { text: text.clone(), hint: hint.map(str::to_owned) });
        self.texts.push(text);
    }
}

fn listed<T: AsRef<str>>(names: &[T]) -> String {
    let mut text = names.iter().take(SHOWN).map(AsRef::as_ref).collect::<Vec<_>>().join(", ");
    if names.len() > SHOWN {
        text.push_str(&format!(" and {} more", names.len() - SHOWN));
    }
    text
}

/// Reads, chooses, checks and plans.
pub(super) fn prepare(
    source: &LoadSource,
    request: &LoadRequest,
    facts: &TargetFacts,
    observer: &dyn LoadObserver,
) -> LoadResult<Prepared> {
    let Archive { mut contents, source: mut data, .. } = source.open()?;
    let mut warnings = Warnings { observer, texts: Vec::new() };
    let archive = digest(&contents);
    let standard_strings = contents.standard_strings;
    let renaming = Renaming::new(&request.schema_names, standard_strings);
    let belongings = Belongings::of(&contents);
    let is_there = |name: &QualifiedName| {
        let schema = renaming.of(name.schema.as_deref().unwrap_or_default()).to_vec();
        facts.relations.contains(&(schema, name.name.clone()))
    };
    let chosen = choose(&contents, &belongings, &request.selection, &is_there)?;
    if !chosen.entries.iter().any(|chosen| *chosen) {
        return Err(LoadError::new(LoadErrorKind::NotFound, "nothing of the archive is chosen")
            .hint("`pgkeep pg_restore --list FILE` shows what the archive holds"));
    }
    let mut options = request.signature();
    if facts.in_set {
        // A load of this database alone would end the journal that the set looks at.
        options = format!("--all {options}").trim_end().to_owned();
    }
    let key = Key { archive, options, created_database: !facts.exists };
    check_destination(request, facts, &key)?;
    let created_before = facts.journal.as_ref().is_some_and(|journal| journal.key.created_database);
    let create =
        if facts.exists { None } else { Some(creation(&contents, request, facts, &key, &mut warnings)?) };
    rename(&mut contents, &chosen, request, &renaming, &mut warnings)?;
    let roles = RoleMap::new(&request.roles);
    for entry in &mut contents.entries {
        roles::map(entry, &roles, standard_strings);
    }
    let sizes = data.sizes(&contents);
    let pieces = data.pieces(&contents).unwrap_or_else(|error| {
        warnings.push(format!("the archive's index of pieces is not used: {}", error.message), None);
        Pieces::default()
    });
    let basis = Basis {
        contents: &contents,
        belongings: &belongings,
        request,
        facts,
        sizes: &sizes,
        owns_database: !facts.exists || created_before || facts.in_set,
        pieces: &pieces,
        created: clock::stamp(&contents.header.created),
    };
    let plan = build(&basis, &chosen);
    let properties = contents.entries.iter().filter(|entry| entry.desc == "DATABASE PROPERTIES");
    let settings = properties
        .filter(|_| basis.owns_database && !request.selection.is_partial())
        .flat_map(|entry| session_settings(entry.definition.as_deref().unwrap_or_default(), standard_strings))
        .collect();
    check_roles(&plan, &contents, request, facts)?;
    check_tablespaces(&plan, &contents, request, facts)?;
    check_objects(&plan, &contents, &chosen, request, facts)?;
    if !plan.needs.is_empty() {
        warnings.push(
            format!("chosen objects need what is not chosen: {}", listed(&plan.needs)),
            Some("it must be in the database; `--with-dependencies` loads it as well"),
        );
    }
    for left_out in &plan.left_out {
        warnings.push(format!("left out: {left_out}"), None);
    }
    let unlogged = plan.work.iter().any(|step| step.rows.is_some_and(|rows| rows.unlogged));
    if unlogged && !facts.is_superuser && request.resume {
        warnings.push(
            "unlogged tables are emptied when a server crashes; only a superuser can load them again past their triggers"
                .to_owned(),
            None,
        );
    }
    Ok(Prepared { contents, source: data, pieces, plan, settings, key, create, warnings: warnings.texts })
}

/// Tells archives apart, and their dumps: by their table of contents.
fn digest(contents: &Contents) -> String {
    let mut hasher = blake3::Hasher::new();
    let mut text = |text: Option<&[u8]>| {
        let bytes = text.unwrap_or_default();
        hasher.update(&u64::try_from(bytes.len()).unwrap_or(u64::MAX).to_le_bytes());
        hasher.update(bytes);
    };
    let header = &contents.header;
    text(Some(format!("{:?}", header.created).as_bytes()));
    text(header.database.as_deref());
    text(header.server_version.as_deref());
    for entry in &contents.entries {
        text(Some(entry.dump_id.to_string().as_bytes()));
        for part in [
            Some(&entry.tag),
            Some(&entry.desc),
            entry.definition.as_ref(),
            entry.copy_statement.as_ref(),
            entry.namespace.as_ref(),
            entry.owner.as_ref(),
        ] {
            text(part.map(Text::as_bytes));
        }
    }
    hasher.finalize().to_hex().to_string()
}

/// A database that is there must be the right one.
fn check_destination(request: &LoadRequest, facts: &TargetFacts, key: &Key) -> LoadResult<()> {
    let database = request.target.database();
    let Some(journal) = &facts.journal else {
        if request.resume {
            return Err(LoadError::new(
                LoadErrorKind::NotFound,
                format!("there is no interrupted load in the database `{database}`"),
            )
            .hint("leave `--resume` out: the load was complete, or never began"));
        }
        if request.selection.data_only || request.into_existing {
            return if facts.exists {
                Ok(())
            } else {
                Err(LoadError::new(
                    LoadErrorKind::NotFound,
                    format!("the database `{database}` does not exist"),
                )
                .hint("leave `--into-existing` and `--data-only` out, and it will be made"))
            };
        }
        return refuse_unless_empty(facts, database);
    };
    if !request.resume {
        return Err(LoadError::new(
            LoadErrorKind::Destination,
            format!("an interrupted load of {} is in the database `{database}`", journal.began),
        )
        .hint("`--resume` goes on with it")
        .hint(format!(
            "to begin anew, drop the database; `DROP SCHEMA {} CASCADE` only forgets the load",
            super::journal::SCHEMA
        )));
    }
    let differs = |what: &str, hint: String| {
        Err(LoadError::new(
            LoadErrorKind::Mismatch,
            format!("the interrupted load in the database `{database}` is of {what}"),
        )
        .hint(hint))
    };
    if journal.key.archive != key.archive {
        return differs("another archive", "name the archive that the load began with".to_owned());
    }
    if journal.key.options != key.options {
        let options = if journal.key.options.is_empty() { "(none)" } else { &journal.key.options };
        return differs("other options", format!("go on with the options that it began with: {options}"));
    }
    Ok(())
}

/// The command that makes the database, under the name that it has at first.
fn creation(
    contents: &Contents,
    request: &LoadRequest,
    facts: &TargetFacts,
    key: &Key,
    warnings: &mut Warnings<'_>,
) -> LoadResult<(String, String)> {
    let made_as = format!(
        "pgkeep_load_{}",
        &blake3::hash(format!("{} {}", request.target.database(), key.archive).as_bytes(),).to_hex()[..16]
    );
    let entry = contents.entries.iter().find(|entry| entry.desc == "DATABASE");
    let definition = entry.and_then(|entry| {
        create_database(entry.definition.as_deref()?, made_as.as_bytes(), contents.standard_strings)
    });
    let definition = match definition {
        Some(sql) => match tablespace_of_database(&sql, contents.standard_strings) {
            Some((_, without)) if request.no_tablespaces => Some(without),
            Some((name, _)) if !facts.tablespaces.contains(&name) => {
                return Err(lacks_tablespaces(&[format!("`{}`", String::from_utf8_lossy(&name))]));
            }
            _ => Some(sql),
        },
        None => None,
    };
    let sql = match definition {
        Some(sql) => String::from_utf8(sql).ok(),
        None => {
            warnings.push(
                "the archive does not say how its database was made: encoding and locale are the server's own".to_owned(),
                None,
            );
            Some(format!("CREATE DATABASE {made_as} WITH TEMPLATE = template0"))
        }
    };
    let mut sql = sql.ok_or_else(|| {
        LoadError::new(LoadErrorKind::Corrupt, "the command that makes the database is not UTF-8")
            .hint("create the database by hand, then load into it")
    })?;
    if facts.major < 15 {
        // Servers of before 15 have this provider only, and no word for it.
        sql = sql.replace(" LOCALE_PROVIDER = libc", "");
    }
    Ok((sql.trim_end().trim_end_matches(';').to_owned(), made_as))
}

fn rename(
    contents: &mut Contents,
    chosen: &Chosen,
    request: &LoadRequest,
    renaming: &Renaming,
    warnings: &mut Warnings<'_>,
) -> LoadResult<()> {
    if renaming.is_empty() {
        return Ok(());
    }
    if UNSAFE_ENCODINGS.iter().any(|encoding| contents.encoding == *encoding) {
        return Err(LoadError::new(
            LoadErrorKind::Usage,
            format!("names cannot be replaced safely in an archive in {}", contents.encoding),
        )
        .hint("dump with `--encoding=UTF8`, or load without `--rename-schema`"));
    }
    let used: BTreeSet<Vec<u8>> = contents
        .entries
        .iter()
        .zip(&chosen.entries)
        .filter(|(_, chosen)| **chosen)
        .filter_map(
            |(entry, _)| if entry.desc == "SCHEMA" { Some(&entry.tag) } else { entry.namespace.as_ref() },
        )
        .map(|name| name.as_bytes().to_vec())
        .collect();
    for (old, new) in &request.schema_names {
        if !used.contains(old.as_bytes()) {
            return Err(LoadError::new(
                LoadErrorKind::NotFound,
                format!("`--rename-schema {old}={new}`: nothing that is loaded is in a schema `{old}`"),
            )
            .hint("names are written as they are, without quotes"));
        }
        let moves_away = request.schema_names.iter().any(|(other, _)| other == new);
        if used.contains(new.as_bytes()) && !moves_away {
            return Err(LoadError::new(
                LoadErrorKind::Usage,
                format!("`--rename-schema {old}={new}`: the archive has a schema `{new}` as well"),
            )
            .hint("choose another name, or leave that schema out with `--exclude-schema`"));
        }
    }
    let mut mentioned = Vec::new();
    let mut doubtful = Vec::new();
    for (entry, chosen) in contents.entries.iter_mut().zip(&chosen.entries) {
        let was_comment =
            entry.desc == "SCHEMA" && entry.definition.as_deref().is_some_and(|text| text.starts_with(b"--"));
        let name = label(entry);
        let (old_tag, old_namespace) = (entry.tag.clone(), entry.namespace.clone());
        let findings = renaming.apply(entry);
        if was_comment && entry.tag != old_tag {
            // `public` is in every database, what it is called now is not.
            entry.definition =
                Some([b"CREATE SCHEMA ", &quote::identifier(&entry.tag)[..], b";\n"].concat().into());
        }
        if *chosen {
            doubtful.extend(findings.ambiguous.is_some().then(|| name.clone()));
            // Rows as commands name the table in the data.
            let is_moved = entry.desc == "TABLE DATA" && entry.namespace != old_namespace;
            if is_moved && entry.copy_statement.as_deref().is_none_or(<[u8]>::is_empty) {
                return Err(LoadError::new(
                    LoadErrorKind::Usage,
                    format!("{name}: its rows are INSERT commands, in which no name is replaced"),
                )
                .hint("dump without `--inserts`, or load without `--rename-schema`"));
            }
            if findings.mentioned {
                mentioned.push(name);
            }
        }
    }
    if !doubtful.is_empty() {
        return Err(LoadError::new(
            LoadErrorKind::Usage,
            "schemas cannot be renamed safely: queries use the name of one for something else as well",
        )
        .cause(format!("in {}", listed(&doubtful)))
        .hint("load without `--rename-schema` into another database and rename there: `ALTER SCHEMA … RENAME TO …`"));
    }
    if !mentioned.is_empty() {
        warnings.push(
            format!(
                "texts or bodies that may name a renamed schema are left as they are: {}",
                listed(&mentioned)
            ),
            Some("look through them after the load; bodies of functions are text to the server, too"),
        );
    }
    Ok(())
}

/// Roles that would be missing are found before anything is made.
fn check_roles(
    plan: &LoadPlan,
    contents: &Contents,
    request: &LoadRequest,
    facts: &TargetFacts,
) -> LoadResult<()> {
    let mut named = BTreeSet::new();
    for step in plan.work.iter().filter(|step| !step.done) {
        roles::collect(step.entry(contents), !request.no_owner, contents.standard_strings, &mut named);
        // What is done to the database in place of its entry.
        if step.entry(contents).desc == "SETTINGS OF DATABASE" && !request.no_owner {
            let entry = &contents.entries[step.index];
            named.extend(entry.owner.as_deref().filter(|owner| !owner.is_empty()).map(<[u8]>::to_vec));
        }
    }
    let missing: Vec<String> =
        named.difference(&facts.roles).map(|role| format!("`{}`", String::from_utf8_lossy(role))).collect();
    if missing.is_empty() {
        return Ok(());
    }
    Err(LoadError::new(
        LoadErrorKind::NotFound,
        format!("the server lacks roles that own or may do something in the archive: {}", listed(&missing)),
    )
    .hint("create them, or give them other names: `--owner-map OLD=NEW`, for all that are left `--owner-map '*=NEW'`")
    .hint("`--no-owner --no-privileges` leaves all of it to the role that connects"))
}

fn check_tablespaces(
    plan: &LoadPlan,
    contents: &Contents,
    request: &LoadRequest,
    facts: &TargetFacts,
) -> LoadResult<()> {
    if request.no_tablespaces {
        return Ok(());
    }
    let entries = plan.work.iter().filter(|step| !step.done).map(|step| step.entry(contents));
    let missing: BTreeSet<String> = entries
        .filter_map(|entry| entry.tablespace.as_deref())
        .filter(|name| !name.is_empty() && !facts.tablespaces.contains(*name))
        .map(|name| format!("`{}`", String::from_utf8_lossy(name)))
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    let missing: Vec<String> = missing.into_iter().collect();
    Err(lacks_tablespaces(&missing))
}

fn lacks_tablespaces(names: &[String]) -> LoadError {
    LoadError::new(LoadErrorKind::NotFound, format!("the server lacks tablespaces: {}", listed(names)))
        .hint("create them, or use `--no-tablespaces`")
}

/// Nothing that is there is replaced, and rows go only into tables that are there.
fn check_objects(
    plan: &LoadPlan,
    contents: &Contents,
    chosen: &Chosen,
    request: &LoadRequest,
    facts: &TargetFacts,
) -> LoadResult<()> {
    let is_there = |entry: &TocEntry| {
        let schema = entry.namespace.as_deref().unwrap_or_default().to_vec();
        facts.relations.contains(&(schema, entry.tag.as_bytes().to_vec()))
    };
    let open = || plan.work.iter().filter(|step| !step.done).map(|step| step.entry(contents));
    if request.selection.data_only {
        let missing: Vec<String> = contents
            .entries
            .iter()
            .zip(&chosen.entries)
            .filter(|(entry, chosen)| **chosen && entry.desc == "TABLE DATA" && !is_there(entry))
            .map(|(entry, _)| label(entry))
            .collect();
        if !missing.is_empty() {
            return Err(LoadError::new(
                LoadErrorKind::NotFound,
                format!("the tables for these rows are not there: {}", listed(&missing)),
            )
            .hint("leave `--data-only` out to make the tables as well"));
        }
        return Ok(());
    }
    let clashing: BTreeSet<String> =
        open().filter(|entry| is_relation(entry) && !is_data(entry) && is_there(entry)).map(label).collect();
    if clashing.is_empty() {
        return Ok(());
    }
    let clashing: Vec<String> = clashing.into_iter().collect();
    Err(LoadError::new(
        LoadErrorKind::Destination,
        format!("these are in the database already: {}", listed(&clashing)),
    )
    .hint("`--rename-schema OLD=NEW` loads beside them, `--data-only` adds rows to them; or drop them first"))
}
