//! The configuration: layers of values that each remember where they were written.
//!
//! Lowest first: built in, `/etc/pgkeep/config.toml`, `/etc/pgkeep/conf.d/*.toml`, the user's file (or, instead of all
//! these, the file of `--config`), the `[stanza.NAME]` sections of those files, `PGKEEP_*` variables, options.
//! [`raw`] reads one file's text, [`layer`] finds the files, [`mod@resolve`] turns all of it into [`Settings`]; only
//! [`layer`] touches a file.

pub(crate) mod layer;
pub(crate) mod raw;
pub(crate) mod resolve;
pub(crate) mod retention;
pub(crate) mod secret;

use std::fmt;
use std::path::PathBuf;

pub(crate) use resolve::{Resolved, Settings, resolve};

/// One setting: what the file, the environment and the documentation know of it.
#[derive(Debug)]
pub(crate) struct Setting {
    /// `section.key`, or a bare key.
    pub(crate) path: &'static str,
    /// The built-in value; none where there cannot be one.
    pub(crate) built_in: Option<&'static str>,
    /// Whether TOML writes it as a whole number.
    pub(crate) number: bool,
}

const fn text(path: &'static str, built_in: Option<&'static str>) -> Setting {
    Setting { path, built_in, number: false }
}

const fn number(path: &'static str, built_in: Option<&'static str>) -> Setting {
    Setting { path, built_in, number: true }
}

/// Every setting there is, in the order in which they are shown.
pub(crate) const SETTINGS: [Setting; 28] = [
    text("repo", None),
    text("stanza", Some("main")),
    text("connection.conninfo", None),
    text("backup.type", Some("auto")),
    text("backup.changes", Some("auto")),
    text("backup.source", Some("auto")),
    // The built-in number of jobs is the number of processors, which only the machine knows.
    number("backup.jobs", None),
    text("backup.compress", Some("zstd:3")),
    text("backup.wal", Some("auto")),
    text("backup.checkpoint", Some("fast")),
    text("backup.archive_timeout", Some("60s")),
    text("archive.compress", Some("zstd:3")),
    number("restore.jobs", None),
    number("restore.prefetch", Some("8")),
    text("restore.spool", None),
    number("retention.count", None),
    text("retention.window", None),
    number("retention.hourly", None),
    number("retention.daily", None),
    number("retention.weekly", None),
    number("retention.monthly", None),
    number("retention.yearly", None),
    number("retention.min", None),
    text("retention.wal", Some("all")),
    number("retention.dump_count", None),
    text("retention.dump_window", None),
    text("retention.grace", Some("2min")),
    text("retention.abandoned_after", Some("7d")),
];

impl Setting {
    /// The setting of that path.
    pub(crate) fn find(path: &str) -> Option<&'static Setting> {
        SETTINGS.iter().find(|setting| setting.path == path)
    }

    /// Its environment variable.
    pub(crate) fn variable(&self) -> String {
        format!("PGKEEP_{}", self.path.replace('.', "_").to_ascii_uppercase())
    }
}

/// Where a value was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// Nowhere: the program's own.
    BuiltIn,
    /// A file.
    File {
        /// Which.
        file: PathBuf,
        /// Its line, from 1.
        line: usize,
    },
    /// An environment variable.
    Variable(String),
    /// An option on the command line.
    Option(&'static str),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::BuiltIn => f.write_str("built in"),
            Origin::File { file, line } => write!(f, "{}:{line}", file.display()),
            Origin::Variable(name) => write!(f, "environment variable {name}"),
            Origin::Option(name) => write!(f, "option {name}"),
        }
    }
}

/// A value as it was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Given {
    /// Which setting.
    pub(crate) path: &'static str,
    /// Its text.
    pub(crate) text: String,
    /// Where.
    pub(crate) origin: Origin,
}

/// A setting overridden on the command line.
#[derive(Clone, Debug)]
pub(crate) struct Flag {
    /// Which setting.
    pub(crate) path: &'static str,
    /// By which option.
    pub(crate) option: &'static str,
    /// To what.
    pub(crate) text: String,
}

impl Flag {
    /// Those of the options that were given.
    pub(crate) fn given<const N: usize>(
        options: [(&'static str, &'static str, &Option<String>); N],
    ) -> Vec<Flag> {
        options
            .into_iter()
            .filter_map(|(path, option, text)| Some(Flag { path, option, text: text.clone()? }))
            .collect()
    }
}

/// The candidate nearest to what was written, where one is near enough to be meant.
pub(crate) fn nearest<'a>(written: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    candidates
        .into_iter()
        .map(|candidate| (strsim::damerau_levenshtein(written, candidate), candidate))
        .filter(|(distance, candidate)| *distance <= candidate.len().max(written.len()).div_ceil(3).min(4))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}
