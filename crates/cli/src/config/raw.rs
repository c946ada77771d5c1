//! One configuration file: TOML text into values with line numbers. Pure.
//!
//! What is not known is an error with the nearest name, never a warning: a misspelt setting that is passed over
//! leaves its writer believing in something that is not so.

use std::path::Path;

use pgkeep_engine::{Error, ErrorKind, Result};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::{Given, Origin, SETTINGS, Setting, nearest};

/// What one file says.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct RawFile {
    /// Values for every stanza.
    pub(crate) values: Vec<Given>,
    /// Values of `[stanza.NAME]` sections, with the name.
    pub(crate) stanza_values: Vec<(String, Given)>,
}

/// Reads the text of `file`.
pub(crate) fn parse(file: &Path, text: &str) -> Result<RawFile> {
    let table = DeTable::parse(text).map_err(|error| {
        let line = error.span().map_or(1, |span| line_of(text, span.start));
        Error::new(ErrorKind::Config, format!("{}:{line} is not valid TOML", file.display()))
            .cause(error.message().trim_end())
            .hint("`docs/reference/config.md` shows a whole configuration file")
    })?;
    let reader = Reader { file, text };
    let mut raw = RawFile::default();
    for (key, value) in table.get_ref() {
        let name: &str = key.get_ref();
        match value.get_ref() {
            // `stanza = "NAME"` chooses one; `[stanza.NAME]` describes one.
            DeValue::Table(stanzas) if name == "stanza" => {
                for (stanza, section) in stanzas {
                    let DeValue::Table(settings) = section.get_ref() else {
                        return Err(reader
                            .error(stanza, format!("`stanza.{}` must be a section", stanza.get_ref()))
                            .hint(format!("write `[stanza.{}]` above its settings", stanza.get_ref())));
                    };
                    let mut values = Vec::new();
                    reader.table("", settings, &mut values)?;
                    if let Some(own) = values.iter().find(|given| given.path == "stanza") {
                        return Err(Error::new(
                            ErrorKind::Config,
                            format!("a stanza section cannot set `stanza`: {}", own.origin),
                        )
                        .hint("remove the line: the section's own name is the stanza"));
                    }
                    raw.stanza_values
                        .extend(values.into_iter().map(|given| (stanza.get_ref().to_string(), given)));
                }
            }
            _ => reader.entry("", key, value, &mut raw.values)?,
        }
    }
    Ok(raw)
}

struct Reader<'a> {
    file: &'a Path,
    text: &'a str,
}

type Key<'a> = Spanned<std::borrow::Cow<'a, str>>;

impl Reader<'_> {
    fn origin<T>(&self, place: &Spanned<T>) -> Origin {
        Origin::File { file: self.file.to_owned(), line: line_of(self.text, place.span().start) }
    }

    fn error<T>(&self, place: &Spanned<T>, message: String) -> Error {
        Error::new(ErrorKind::Config, format!("{}: {message}", self.origin(place)))
    }

    fn table(&self, prefix: &str, table: &DeTable<'_>, into: &mut Vec<Given>) -> Result<()> {
        table.iter().try_for_each(|(key, value)| self.entry(prefix, key, value, into))
    }

    fn entry(
        &self,
        prefix: &str,
        key: &Key<'_>,
        value: &Spanned<DeValue<'_>>,
        into: &mut Vec<Given>,
    ) -> Result<()> {
        let path =
            if prefix.is_empty() { key.get_ref().to_string() } else { format!("{prefix}.{}", key.get_ref()) };
        let is_section = SETTINGS
            .iter()
            .any(|setting| setting.path.strip_prefix(&path).is_some_and(|rest| rest.starts_with('.')));
        if let (true, DeValue::Table(table)) = (is_section, value.get_ref()) {
            return self.table(&path, table, into);
        }
        if is_section {
            return Err(self
                .error(key, format!("`{path}` is a section, not a setting"))
                .hint(format!("write `[{path}]` and its settings below")));
        }
        let Some(setting) = Setting::find(&path) else { return Err(self.unknown(key, &path, value)) };
        let text = match value.get_ref() {
            DeValue::String(text) => text.to_string(),
            DeValue::Integer(integer) if setting.number && integer.radix() == 10 => {
                integer.as_str().to_owned()
            }
            other => {
                let wanted = if setting.number { "a whole number" } else { "a text in quotes" };
                return Err(self
                    .error(value, format!("`{path}` must be {wanted}, not {}", kind_of(other)))
                    .hint(format!("`docs/reference/config.md` explains `{path}`")));
            }
        };
        into.push(Given { path: setting.path, text, origin: self.origin(value) });
        Ok(())
    }

    fn unknown(&self, key: &Key<'_>, path: &str, value: &Spanned<DeValue<'_>>) -> Error {
        let what = if matches!(value.get_ref(), DeValue::Table(_)) { "section" } else { "setting" };
        let error = self.error(key, format!("unknown {what} `{path}`"));
        let sections = ["connection", "backup", "archive", "restore", "retention", "stanza"];
        let near = if what == "section" {
            nearest(path, sections)
        } else {
            // The right key in the wrong section is as likely as a misspelt one.
            nearest(path, SETTINGS.iter().map(|setting| setting.path)).or_else(|| {
                let last = path.rsplit('.').next().unwrap_or(path);
                SETTINGS.iter().map(|s| s.path).find(|known| known.rsplit('.').next() == Some(last))
            })
        };
        match near {
            Some(near) => error.hint(format!("did you mean `{near}`?")),
            None => error.hint("`pgkeep config show` lists every setting"),
        }
    }
}

fn kind_of(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a text",
        DeValue::Integer(_) => "a number",
        DeValue::Float(_) => "a fraction",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a section",
    }
}

fn line_of(text: &str, offset: usize) -> usize {
    text.bytes().take(offset).filter(|byte| *byte == b'\n').count() + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<RawFile> {
        parse(Path::new("/etc/pgkeep/config.toml"), text)
    }

    fn line(line: usize) -> Origin {
        Origin::File { file: "/etc/pgkeep/config.toml".into(), line }
    }

    fn message(text: &str) -> String {
        let error = read(text).unwrap_err();
        format!("{} | {}", error.message, error.hints.join(" | "))
    }

    #[test]
    fn values_remember_their_lines() {
        let raw = read("# ours\nrepo = '/srv/b'\n\n[backup]\njobs = 4\ncompress = \"lz4\"\n").unwrap();
        assert_eq!(
            raw.values,
            [
                Given { path: "backup.compress", text: "lz4".into(), origin: line(6) },
                Given { path: "backup.jobs", text: "4".into(), origin: line(5) },
                Given { path: "repo", text: "/srv/b".into(), origin: line(2) },
            ]
        );
    }

    #[test]
    fn a_stanza_section_holds_any_setting_of_its_own() {
        let raw = read(
            "[stanza.orders]\nrepo = '/o'\nbackup.jobs = 2\n[stanza.orders.connection]\nconninfo = 'x'\n",
        )
        .unwrap();
        assert!(raw.values.is_empty());
        let paths: Vec<_> =
            raw.stanza_values.iter().map(|(name, given)| (name.as_str(), given.path)).collect();
        assert_eq!(paths, [("orders", "backup.jobs"), ("orders", "connection.conninfo"), ("orders", "repo")]);
    }

    #[test]
    fn what_is_unknown_is_an_error_that_names_the_nearest() {
        assert_eq!(
            message("\n[backup]\ncompres = 'lz4'"),
            "/etc/pgkeep/config.toml:3: unknown setting `backup.compres` | did you mean `backup.compress`?"
        );
        assert_eq!(
            message("[bakcup]\njobs = 1"),
            "/etc/pgkeep/config.toml:1: unknown section `bakcup` | did you mean `backup`?"
        );
        assert_eq!(
            message("jobs = 1"),
            "/etc/pgkeep/config.toml:1: unknown setting `jobs` | did you mean `backup.jobs`?"
        );
        assert_eq!(
            message("[stanza.a]\nrpeo = 'x'"),
            "/etc/pgkeep/config.toml:2: unknown setting `rpeo` | did you mean `repo`?"
        );
        assert_eq!(
            message("frobnicate = 1"),
            "/etc/pgkeep/config.toml:1: unknown setting `frobnicate` | `pgkeep config show` lists every setting"
        );
    }

    #[test]
    fn a_value_of_the_wrong_kind_is_named() {
        for (text, wanted) in [
            ("repo = 1", "`repo` must be a text in quotes, not a number"),
            ("backup.jobs = true", "`backup.jobs` must be a whole number, not true or false"),
            ("backup = 1", "`backup` is a section, not a setting"),
            ("[stanza]\nmain = 1", "`stanza.main` must be a section"),
            ("[stanza.a]\nstanza = 'b'", "a stanza section cannot set `stanza`"),
            ("repo = ", "/etc/pgkeep/config.toml:1 is not valid TOML"),
        ] {
            assert!(message(text).contains(wanted), "{text}: {}", message(text));
        }
    }
}
