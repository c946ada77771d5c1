//! The command line of `pg_combinebackup`.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use pgkeep_format::pg_manifest::ChecksumAlgorithm;
use pgkeep_physical::base_backup::{SyncMethod, TablespaceMappings};
use pgkeep_physical::combine::{CombineRequest, CopyMethod};

use crate::front::getopt::{OptionSpec, flag, value};
use crate::front::program::{Mistake, read_options};
use crate::front::values::sync_method;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Key {
    Debug,
    DryRun,
    NoSync,
    Output,
    TablespaceMapping,
    ManifestChecksums,
    NoManifest,
    NoVerifyInputs,
    SyncMethod,
    Method(CopyMethod),
}

const SPECS: &[OptionSpec<Key>] = &[
    flag("debug", b'd', Key::Debug),
    flag("dry-run", b'n', Key::DryRun),
    flag("no-sync", b'N', Key::NoSync),
    value("output", b'o', Key::Output),
    value("tablespace-mapping", b'T', Key::TablespaceMapping),
    flag("link", b'k', Key::Method(CopyMethod::Link)),
    value("manifest-checksums", 0, Key::ManifestChecksums),
    flag("no-manifest", 0, Key::NoManifest),
    flag("no-verify-inputs", 0, Key::NoVerifyInputs),
    value("sync-method", 0, Key::SyncMethod),
    flag("clone", 0, Key::Method(CopyMethod::Clone)),
    flag("copy", 0, Key::Method(CopyMethod::Copy)),
    flag("copy-file-range", 0, Key::Method(CopyMethod::CopyFileRange)),
];

/// What the words ask for.
#[derive(Debug)]
pub(super) struct Arguments {
    pub(super) request: CombineRequest,
}

impl Arguments {
    pub(super) fn parse(words: &[OsString]) -> Result<Arguments, Mistake> {
        let mut request = CombineRequest {
            inputs: Vec::new(),
            output: PathBuf::new(),
            dry_run: false,
            debug: false,
            sync: None,
            tablespace_mappings: TablespaceMappings::default(),
            manifest: true,
            manifest_checksums: Some(ChecksumAlgorithm::Crc32c),
            copy_method: CopyMethod::Copy,
            verify_inputs: true,
        };
        let (mut output, mut is_synced, mut method) = (None, true, SyncMethod::Fsync);
        let operands = read_options(SPECS, words, |key, value| {
            match key {
                Key::Debug => request.debug = true,
                Key::DryRun => request.dry_run = true,
                Key::NoSync => is_synced = false,
                Key::Output => output = Some(value.into()),
                Key::TablespaceMapping => {
                    request.tablespace_mappings.add(&value).map_err(Mistake::Plain)?;
                }
                Key::ManifestChecksums => request.manifest_checksums = algorithm(&value)?,
                Key::NoManifest => request.manifest = false,
                Key::NoVerifyInputs => request.verify_inputs = false,
                Key::SyncMethod => method = sync_method(&value)?,
                Key::Method(method) => request.copy_method = method,
            }
            Ok(())
        })?;
        request.inputs = operands.into_iter().map(PathBuf::from).collect();
        if request.inputs.is_empty() {
            return Err(Mistake::TryHelp("no input directories specified".to_owned()));
        }
        request.output = output.ok_or_else(|| Mistake::Plain("no output directory specified".to_owned()))?;
        request.sync = is_synced.then_some(method);
        Ok(Arguments { request })
    }
}

fn algorithm(value: &OsStr) -> Result<Option<ChecksumAlgorithm>, Mistake> {
    if value.eq_ignore_ascii_case("NONE") {
        return Ok(None);
    }
    ChecksumAlgorithm::from_name(value.as_bytes()).map(Some).ok_or_else(|| {
        Mistake::Plain(format!("unrecognized checksum algorithm: \"{}\"", value.to_string_lossy()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(words: &[&str]) -> String {
        let words: Vec<OsString> = words.iter().map(OsString::from).collect();
        match Arguments::parse(&words) {
            Ok(arguments) => format!("{:?}", arguments.request),
            Err(mistake) => format!("{mistake:?}"),
        }
    }

    #[test]
    fn options_are_read() {
        let shown = shown(&[
            "-dn",
            "full",
            "-o/out",
            "incremental",
            "-T/a=/b",
            "--clone",
            "-k",
            "--manifest-checksums=sha256",
            "--sync-method",
            "syncfs",
            "--no-verify-inputs",
        ]);
        for part in [
            "inputs: [\"full\", \"incremental\"]",
            "output: \"/out\"",
            "dry_run: true, debug: true",
            "sync: Some(Syncfs)",
            "TablespaceMappings([(\"/a\", \"/b\")])",
            "manifest: true, manifest_checksums: Some(Sha256), copy_method: Link, verify_inputs: false",
        ] {
            assert!(shown.contains(part), "{part} in {shown}");
        }
        assert!(super::tests::shown(&["x", "-oy", "-N", "--manifest-checksums=NONE"]).contains("sync: None"));
    }

    #[test]
    fn mistakes_are_told_in_stocks_words() {
        for (words, expected) in [
            (&[][..], r#"TryHelp("no input directories specified")"#),
            (&["a"], r#"Plain("no output directory specified")"#),
            (&["a", "--manifest-checksums=x"], r#"Plain("unrecognized checksum algorithm: \"x\"")"#),
            (&["a", "--sync-method=x"], r#"Plain("unrecognized sync method: x")"#),
        ] {
            assert_eq!(shown(words), expected, "{words:?}");
        }
        assert!(shown(&["a", "-Tx"]).contains("invalid tablespace mapping format"));
    }
}
