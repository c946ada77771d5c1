//! Finds and reads the configuration files. A file that is not there is skipped; one that cannot be read is an error.

use std::io;
use std::path::{Path, PathBuf};

use pgkeep_engine::{Error, ErrorKind, Result};

use super::raw::{RawFile, parse};

const SYSTEM: &str = "/etc/pgkeep";

/// Where files are looked for.
#[derive(Clone, Debug, Default)]
pub(crate) struct Places {
    /// The file of `--config`, instead of all others.
    pub(crate) only: Option<PathBuf>,
    /// `$XDG_CONFIG_HOME`.
    pub(crate) xdg_config_home: Option<PathBuf>,
    /// The caller's home directory.
    pub(crate) home: Option<PathBuf>,
}

/// Reads every file there is, lowest layer first.
pub(crate) fn read_files(places: &Places) -> Result<Vec<RawFile>> {
    if let Some(only) = &places.only {
        return match read(only)? {
            Some(raw) => Ok(vec![raw]),
            None => Err(Error::new(ErrorKind::Config, format!("cannot read `{}`", only.display()))
                .cause("there is no such file")
                .hint("correct the path given by `--config`")),
        };
    }
    let mut files = vec![Path::new(SYSTEM).join("config.toml")];
    files.extend(fragments(&Path::new(SYSTEM).join("conf.d"))?);
    // A relative XDG_CONFIG_HOME is invalid by its own specification and counts as unset.
    let user = places.xdg_config_home.clone().filter(|path| path.is_absolute());
    let user = user.or_else(|| places.home.as_ref().map(|home| home.join(".config")));
    files.extend(user.map(|directory| directory.join("pgkeep/config.toml")));
    files.iter().filter_map(|file| read(file).transpose()).collect()
}

/// `conf.d/*.toml` in the order of their names.
fn fragments(directory: &Path) -> Result<Vec<PathBuf>> {
    let failed = |error: io::Error| {
        Error::new(ErrorKind::Config, format!("cannot read `{}`", directory.display()))
            .cause(error)
            .hint("make the directory readable, or name one file with `--config FILE`")
    };
    let entries = match std::fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if is_absent(&error) => return Ok(Vec::new()),
        Err(error) => return Err(failed(error)),
    };
    let mut files = Vec::new();
    for entry in entries {
        let path = entry.map_err(failed)?.path();
        if path.extension().is_some_and(|extension| extension == "toml") {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

fn read(file: &Path) -> Result<Option<RawFile>> {
    match std::fs::read_to_string(file) {
        Ok(text) => parse(file, &text).map(Some),
        Err(error) if is_absent(&error) => Ok(None),
        Err(error) => Err(Error::new(ErrorKind::Config, format!("cannot read `{}`", file.display()))
            .cause(error)
            .hint("make the file readable, or name another with `--config FILE`")),
    }
}

fn is_absent(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_user_file_is_found_and_the_named_file_replaces_it() {
        let home = tempfile::tempdir().unwrap();
        let directory = home.path().join(".config/pgkeep");
        std::fs::create_dir_all(&directory).unwrap();
        std::fs::write(directory.join("config.toml"), "repo = '/user'").unwrap();
        let named = home.path().join("named.toml");
        std::fs::write(&named, "repo = '/named'").unwrap();

        let places = Places { home: Some(home.path().to_owned()), ..Places::default() };
        let last = read_files(&places).unwrap().pop().unwrap();
        assert_eq!(last.values[0].text, "/user");

        let only = read_files(&Places { only: Some(named), ..places }).unwrap();
        assert_eq!(only.len(), 1);
        assert_eq!(only[0].values[0].text, "/named");
    }

    #[test]
    fn a_named_file_must_exist() {
        let error = read_files(&Places { only: Some("/nonexistent/x.toml".into()), ..Places::default() })
            .unwrap_err();
        assert_eq!(error.kind, ErrorKind::Config);
    }
}
