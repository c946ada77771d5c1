//! The command line of `pg_verifybackup`.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

use pgkeep_physical::canonical_path;
use pgkeep_physical::verify::{BackupFormat, VerifyRequest};

use crate::front::getopt::{OptionSpec, flag, value};
use crate::front::program::{Mistake, no_more, read_options};
use crate::front::values::number;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Key {
    ExitOnError,
    Format,
    Ignore,
    Jobs,
    ManifestPath,
    NoParseWal,
    Progress,
    Quiet,
    SkipChecksums,
    WalDirectory,
}

const SPECS: &[OptionSpec<Key>] = &[
    flag("exit-on-error", b'e', Key::ExitOnError),
    value("format", b'F', Key::Format),
    value("ignore", b'i', Key::Ignore),
    value("jobs", b'j', Key::Jobs),
    value("manifest-path", b'm', Key::ManifestPath),
    flag("no-parse-wal", b'n', Key::NoParseWal),
    flag("progress", b'P', Key::Progress),
    flag("quiet", b'q', Key::Quiet),
    flag("skip-checksums", b's', Key::SkipChecksums),
    value("wal-directory", b'w', Key::WalDirectory),
];

/// What the words ask for.
#[derive(Debug)]
pub(super) struct Arguments {
    pub(super) request: VerifyRequest,
    pub(super) progress: bool,
    pub(super) quiet: bool,
}

impl Arguments {
    pub(super) fn parse(words: &[OsString]) -> Result<Arguments, Mistake> {
        let mut request = VerifyRequest {
            directory: PathBuf::new(),
            manifest_path: None,
            format: None,
            ignore: Vec::new(),
            exit_on_error: false,
            skip_checksums: false,
            parse_wal: true,
            wal_directory: None,
            jobs: std::thread::available_parallelism().map_or(1, usize::from),
        };
        let (mut progress, mut quiet) = (false, false);
        let operands = read_options(SPECS, words, |key, value| {
            match key {
                Key::ExitOnError => request.exit_on_error = true,
                Key::Format => request.format = Some(format(&value)?),
                Key::Ignore => request.ignore.push(canonical_path(value.as_bytes())),
                Key::Jobs => {
                    let jobs = number(&value, "-j/--jobs", 1..=1024)?;
                    request.jobs = usize::try_from(jobs).unwrap_or(1);
                }
                Key::ManifestPath => request.manifest_path = Some(plain(&value)),
                Key::NoParseWal => request.parse_wal = false,
                Key::Progress => progress = true,
                Key::Quiet => quiet = true,
                Key::SkipChecksums => request.skip_checksums = true,
                Key::WalDirectory => request.wal_directory = Some(plain(&value)),
            }
            Ok(())
        })?;
        let mut operands = operands.into_iter();
        let directory =
            operands.next().ok_or_else(|| Mistake::TryHelp("no backup directory specified".to_owned()))?;
        request.directory = plain(&directory);
        no_more(operands)?;
        if progress && quiet {
            return Err(Mistake::Plain("cannot specify both -P/--progress and -q/--quiet".to_owned()));
        }
        Ok(Arguments { request, progress, quiet })
    }
}

fn format(value: &OsStr) -> Result<BackupFormat, Mistake> {
    match value.as_bytes() {
        b"p" | b"plain" => Ok(BackupFormat::Plain),
        b"t" | b"tar" => Ok(BackupFormat::Tar),
        _ => {
            let value = value.to_string_lossy();
            Err(Mistake::Plain(format!("invalid backup format \"{value}\", must be \"plain\" or \"tar\"")))
        }
    }
}

fn plain(value: &OsStr) -> PathBuf {
    OsString::from_vec(canonical_path(value.as_bytes())).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(words: &[&str]) -> String {
        let words: Vec<OsString> = words.iter().map(OsString::from).collect();
        match Arguments::parse(&words) {
            Ok(Arguments { mut request, progress, quiet }) => {
                request.jobs = request.jobs.min(9);
                format!("{request:?} {progress} {quiet}")
            }
            Err(mistake) => format!("{mistake:?}"),
        }
    }

    #[test]
    fn options_are_read() {
        let shown = shown(&["-enPs", "x//y/", "-Ft", "-ibase/./1/", "-j3", "-m", "m", "-w/w/"]);
        for part in [
            "directory: \"x/y\"",
            "manifest_path: Some(\"m\")",
            "format: Some(Tar)",
            "exit_on_error: true",
            "skip_checksums: true",
            "parse_wal: false",
            "wal_directory: Some(\"/w\")",
            "jobs: 3",
            "} true false",
        ] {
            assert!(shown.contains(part), "{part} in {shown}");
        }
    }

    #[test]
    fn mistakes_are_told_in_stocks_words() {
        for (words, expected) in [
            (&[][..], "TryHelp(\"no backup directory specified\")"),
            (&["a", "b"], r#"TryHelp("too many command-line arguments (first is \"b\")")"#),
            (&["a", "-Pq"], r#"Plain("cannot specify both -P/--progress and -q/--quiet")"#),
            (&["a", "-Fx"], r#"Plain("invalid backup format \"x\", must be \"plain\" or \"tar\"")"#),
            (&["a", "-j0"], r#"Plain("-j/--jobs must be in range 1..1024")"#),
        ] {
            assert_eq!(shown(words), expected, "{words:?}");
        }
    }
}
