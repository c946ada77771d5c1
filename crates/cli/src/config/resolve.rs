//! Turns the layers into settings: defaults, types, ranges. Pure.
//!
//! Each value remembers where it was written, and errors say so. Settings are described in
//! `docs/reference/config.md`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use pgkeep_engine::backup::{ChangesChoice, Checkpoint, SourceChoice, TypeChoice, WalChoice};
use pgkeep_engine::{Compression, Error, ErrorKind, Result};

use super::raw::RawFile;
use super::retention::RetentionSettings;
use super::{Flag, Given, Origin, SETTINGS, Setting, nearest};

/// More threads than this is a mistake, not a wish.
const MAX_JOBS: u64 = 256;
/// 1,024 segments of 16 MiB fill 16 GiB of spool.
const MAX_PREFETCH: u64 = 1024;

/// What the machine and the caller bring along.
#[derive(Debug)]
pub(crate) struct Surroundings<'a> {
    /// `PGKEEP_*` variables.
    pub(crate) variables: &'a [(String, String)],
    /// Against which relative paths of options and variables are read.
    pub(crate) working_directory: &'a Path,
    /// The built-in number of jobs.
    pub(crate) processors: usize,
}

/// All layers, merged: each setting's winner.
#[derive(Debug)]
pub(crate) struct Resolved {
    winners: BTreeMap<&'static str, Given>,
    /// The same, with types.
    pub(crate) settings: Settings,
}

impl Resolved {
    /// Every setting in the order of the documentation, with the value that counts, where there is one.
    pub(crate) fn winners(&self) -> impl Iterator<Item = (&'static Setting, Option<&Given>)> {
        SETTINGS.iter().map(|setting| (setting, self.winners.get(setting.path)))
    }
}

/// What the verbs work with.
#[derive(Debug)]
pub(crate) struct Settings {
    repository: Option<String>,
    /// The stanza.
    pub(crate) stanza: String,
    /// The connection string.
    pub(crate) conninfo: Option<String>,
    /// `[backup]`.
    pub(crate) backup: BackupSettings,
    /// `[archive] compress`.
    pub(crate) archive_compression: Compression,
    /// `[restore]`.
    pub(crate) restore: RestoreSettings,
    /// `[retention]`.
    pub(crate) retention: RetentionSettings,
}

/// `[backup]`.
#[derive(Debug)]
pub(crate) struct BackupSettings {
    pub(crate) kind: TypeChoice,
    pub(crate) changes: ChangesChoice,
    pub(crate) source: SourceChoice,
    pub(crate) jobs: usize,
    pub(crate) compression: Compression,
    pub(crate) wal: WalChoice,
    pub(crate) checkpoint: Checkpoint,
    pub(crate) archive_timeout_seconds: u64,
}

/// `[restore]`.
#[derive(Debug)]
pub(crate) struct RestoreSettings {
    pub(crate) jobs: usize,
    pub(crate) prefetch: usize,
    pub(crate) spool: Option<PathBuf>,
}

impl Settings {
    /// The repository, which most verbs cannot do without.
    pub(crate) fn repository(&self) -> Result<&str> {
        self.repository.as_deref().ok_or_else(|| {
            Error::new(ErrorKind::Usage, "no repository is named")
                .hint("add `--repo DIR`, or set PGKEEP_REPO")
                .hint("or write `repo = \"/path\"` into /etc/pgkeep/config.toml, once for all commands")
        })
    }
}

/// Merges files (lowest first), variables and options.
pub(crate) fn resolve(files: Vec<RawFile>, around: &Surroundings<'_>, flags: &[Flag]) -> Result<Resolved> {
    let variables = variable_layer(around.variables)?;
    let flags = flags.iter().map(|flag| Given {
        path: flag.path,
        text: flag.text.clone(),
        origin: Origin::Option(flag.option),
    });
    let over_files: Vec<Given> = variables.into_iter().chain(flags).collect();

    let mut winners = BTreeMap::new();
    for setting in &SETTINGS {
        let built_in = match setting.path {
            "backup.jobs" | "restore.jobs" => Some(around.processors.to_string()),
            _ => setting.built_in.map(str::to_owned),
        };
        if let Some(text) = built_in {
            winners.insert(setting.path, Given { path: setting.path, text, origin: Origin::BuiltIn });
        }
    }
    let mut stanza_values = Vec::new();
    for file in files {
        winners.extend(file.values.into_iter().map(|given| (given.path, given)));
        stanza_values.extend(file.stanza_values);
    }
    // Which stanza it is must be known before its sections can count.
    let chosen = over_files.iter().rfind(|given| given.path == "stanza").or(winners.get("stanza"));
    let stanza = chosen.map_or("main", |given| given.text.as_str()).to_owned();
    let own = stanza_values.into_iter().filter(|(name, _)| *name == stanza).map(|(_, given)| given);
    winners.extend(own.chain(over_files).map(|given| (given.path, given)));

    if let Some(given) = winners.get_mut("repo") {
        given.text = absolute(given, around.working_directory)?;
    }
    let settings = typed(&winners, around.working_directory)?;
    Ok(Resolved { winners, settings })
}

/// `PGKEEP_*`. A name that is nearly one of ours is a mistake; another may belong to something else.
fn variable_layer(variables: &[(String, String)]) -> Result<Vec<Given>> {
    let mut layer = Vec::new();
    for (name, text) in variables {
        if let Some(setting) = SETTINGS.iter().find(|setting| setting.variable() == *name) {
            layer.push(Given {
                path: setting.path,
                text: text.clone(),
                origin: Origin::Variable(name.clone()),
            });
            continue;
        }
        let known: Vec<String> = SETTINGS.iter().map(Setting::variable).collect();
        let ours = SETTINGS
            .iter()
            .filter_map(|setting| setting.path.split_once('.'))
            .any(|(section, _)| name.starts_with(&format!("PGKEEP_{}_", section.to_ascii_uppercase())));
        let near = nearest(name, known.iter().map(String::as_str));
        let very_near = near.is_some_and(|near| strsim::damerau_levenshtein(name, near) <= 2);
        if ours || very_near {
            let error =
                Error::new(ErrorKind::Config, format!("unknown setting in environment variable {name}"));
            return Err(match near {
                Some(near) => error.hint(format!("did you mean {near}?")),
                None => error.hint("`pgkeep config show` lists every setting"),
            });
        }
    }
    Ok(layer)
}

/// The repository's place, independent of the working directory: `wal push` runs in another one than `init`.
fn absolute(given: &Given, working_directory: &Path) -> Result<String> {
    let text = &given.text;
    if text.is_empty() {
        return Err(invalid(given, "an empty path"));
    }
    if text.contains("://") || text.starts_with('/') {
        return Ok(text.clone());
    }
    if let Origin::File { .. } = given.origin {
        return Err(invalid(given, "a path in a configuration file must be absolute"));
    }
    std::path::absolute(working_directory.join(text))
        .ok()
        .and_then(|path| path.into_os_string().into_string().ok())
        .ok_or_else(|| invalid(given, "the path cannot be made absolute"))
}

fn typed(winners: &BTreeMap<&'static str, Given>, working_directory: &Path) -> Result<Settings> {
    let optional = |path: &str| winners.get(path).map(|given| given.text.clone());
    let required = |path: &'static str| {
        winners.get(path).ok_or_else(|| Error::new(ErrorKind::Internal, format!("`{path}` has no value")))
    };
    let stanza = required("stanza")?;
    check_stanza(stanza)?;
    Ok(Settings {
        repository: optional("repo"),
        stanza: stanza.text.clone(),
        conninfo: optional("connection.conninfo"),
        backup: BackupSettings {
            kind: choice(
                required("backup.type")?,
                [
                    ("auto", TypeChoice::Auto),
                    ("full", TypeChoice::Full),
                    ("diff", TypeChoice::Differential),
                    ("incr", TypeChoice::Incremental),
                ],
            )?,
            changes: choice(
                required("backup.changes")?,
                [
                    ("auto", ChangesChoice::Auto),
                    ("compare", ChangesChoice::Compare),
                    ("wal", ChangesChoice::Wal),
                    ("server", ChangesChoice::Server),
                ],
            )?,
            source: choice(
                required("backup.source")?,
                [
                    ("auto", SourceChoice::Auto),
                    ("local", SourceChoice::Local),
                    ("stream", SourceChoice::Stream),
                ],
            )?,
            jobs: whole_number(required("backup.jobs")?, 1, MAX_JOBS)?,
            compression: compression(required("backup.compress")?)?,
            wal: choice(
                required("backup.wal")?,
                [("auto", WalChoice::Auto), ("archive", WalChoice::Archive), ("include", WalChoice::Include)],
            )?,
            checkpoint: choice(
                required("backup.checkpoint")?,
                [("fast", Checkpoint::Fast), ("spread", Checkpoint::Spread)],
            )?,
            archive_timeout_seconds: duration(required("backup.archive_timeout")?)?,
        },
        archive_compression: compression(required("archive.compress")?)?,
        restore: RestoreSettings {
            jobs: whole_number(required("restore.jobs")?, 1, MAX_JOBS)?,
            prefetch: whole_number(required("restore.prefetch")?, 0, MAX_PREFETCH)?,
            spool: optional("restore.spool").map(|spool| working_directory.join(spool)),
        },
        retention: super::retention::typed(winners)?,
    })
}

/// The value does not fit; who wrote it decides whether the command or the configuration is to be changed.
pub(super) fn invalid(given: &Given, wanted: impl std::fmt::Display) -> Error {
    let (kind, name) = match given.origin {
        Origin::Option(option) => (ErrorKind::Usage, option),
        _ => (ErrorKind::Config, given.path),
    };
    let error = Error::new(kind, format!("`{}` is not a value for `{name}`", given.text)).cause(wanted);
    match &given.origin {
        Origin::Option(option) => error.hint(format!("correct `{option}` on the command line")),
        origin => error.hint(format!("correct it: {origin}")),
    }
}

fn choice<T: Copy, const N: usize>(given: &Given, values: [(&'static str, T); N]) -> Result<T> {
    values.iter().find(|(name, _)| *name == given.text).map(|(_, value)| *value).ok_or_else(|| {
        let names: Vec<String> = values.iter().map(|(name, _)| format!("`{name}`")).collect();
        invalid(given, format!("expected one of {}", names.join(", ")))
    })
}

fn whole_number(given: &Given, least: u64, most: u64) -> Result<usize> {
    given
        .text
        .parse::<u64>()
        .ok()
        .filter(|number| (least..=most).contains(number))
        .and_then(|number| usize::try_from(number).ok())
        .ok_or_else(|| invalid(given, format!("expected a whole number from {least} to {most}")))
}

fn compression(given: &Given) -> Result<Compression> {
    given.text.parse().map_err(|_| {
        invalid(given, "expected `zstd`, `zstd:LEVEL` with a level from -7 to 22, `lz4` or `none`")
    })
}

/// Seconds, from `90`, `90s`, `15min`, `2h` or `1d`, the units of PostgreSQL's own settings.
fn duration(given: &Given) -> Result<u64> {
    let text = given.text.trim();
    let (number, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()));
    let scale = match unit.trim() {
        "" | "s" => Some(1),
        "min" => Some(60),
        "h" => Some(3600),
        "d" => Some(86400),
        _ => None,
    };
    scale
        .zip(number.parse::<u64>().ok())
        .and_then(|(scale, number)| number.checked_mul(scale))
        .filter(|seconds| (1..=30 * 86400).contains(seconds))
        .ok_or_else(|| invalid(given, "expected a duration such as `90s`, `15min` or `2h`, at most 30 days"))
}

/// A stanza's name is part of object keys and of shell commands.
fn check_stanza(given: &Given) -> Result<()> {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    let text = &given.text;
    let good = !text.is_empty()
        && text.len() <= 63
        && text.bytes().all(fits)
        && text.as_bytes()[0].is_ascii_alphanumeric()
        && text != "pgkeep";
    if good {
        return Ok(());
    }
    Err(invalid(
        given,
        "expected letters, digits, `-`, `_` and `.`, at most 63, beginning with a letter or digit (`pgkeep` is reserved)",
    ))
}

#[cfg(test)]
#[path = "resolve_tests.rs"]
mod tests;
