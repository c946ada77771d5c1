//! The options of `pg_basebackup` 18: reading them, and which do not go together.

use std::ffi::{OsStr, OsString};
use std::io::stdout;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::time::Duration;

use pgkeep_format::archive::Compression;
use pgkeep_physical::base_backup::{
    Destination, Manifest, Recovery, Request, Slot, SyncMethod, TablespaceMappings, WalMethod,
};
use pgkeep_tool::compress::Codec;
use pgkeep_wire::{ConnInfo, parse_connection_string};

use crate::front::compression;
use crate::front::getopt::{OptionSpec, flag, value};
use crate::front::password::Prompt;
use crate::front::program::{Mistake, no_more, read_options};
use crate::front::values::{STATUS_INTERVAL, server_connection, status_interval, sync_method, text};

/// A command line, checked.
pub(super) struct Arguments {
    pub(super) request: Request,
    pub(super) connection: ConnInfo,
    pub(super) prompt: Prompt,
    pub(super) verbose: bool,
    pub(super) progress: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Key {
    Checkpoint,
    CreateSlot,
    ConnectionString,
    Directory,
    Format,
    Host,
    Incremental,
    Label,
    NoClean,
    NoSync,
    Port,
    Progress,
    MaxRate,
    Recovery,
    StatusInterval,
    Slot,
    Target,
    TablespaceMapping,
    User,
    Verbose,
    NoPassword,
    Password,
    WalMethod,
    Gzip,
    Compress,
    WalDirectory,
    NoSlot,
    NoVerifyChecksums,
    NoEstimateSize,
    NoManifest,
    ManifestForceEncode,
    ManifestChecksums,
    SyncMethod,
}

const SPECS: &[OptionSpec<Key>] = &[
    value("checkpoint", b'c', Key::Checkpoint),
    flag("create-slot", b'C', Key::CreateSlot),
    value("dbname", b'd', Key::ConnectionString),
    value("pgdata", b'D', Key::Directory),
    value("format", b'F', Key::Format),
    value("host", b'h', Key::Host),
    value("incremental", b'i', Key::Incremental),
    value("label", b'l', Key::Label),
    flag("no-clean", b'n', Key::NoClean),
    flag("no-sync", b'N', Key::NoSync),
    value("port", b'p', Key::Port),
    flag("progress", b'P', Key::Progress),
    value("max-rate", b'r', Key::MaxRate),
    flag("write-recovery-conf", b'R', Key::Recovery),
    value("status-interval", b's', Key::StatusInterval),
    value("slot", b'S', Key::Slot),
    value("target", b't', Key::Target),
    value("tablespace-mapping", b'T', Key::TablespaceMapping),
    value("username", b'U', Key::User),
    flag("verbose", b'v', Key::Verbose),
    flag("no-password", b'w', Key::NoPassword),
    flag("password", b'W', Key::Password),
    value("wal-method", b'X', Key::WalMethod),
    flag("gzip", b'z', Key::Gzip),
    value("compress", b'Z', Key::Compress),
    value("waldir", 0, Key::WalDirectory),
    flag("no-slot", 0, Key::NoSlot),
    flag("no-verify-checksums", 0, Key::NoVerifyChecksums),
    flag("no-estimate-size", 0, Key::NoEstimateSize),
    flag("no-manifest", 0, Key::NoManifest),
    flag("manifest-force-encode", 0, Key::ManifestForceEncode),
    value("manifest-checksums", 0, Key::ManifestChecksums),
    value("sync-method", 0, Key::SyncMethod),
];

/// Limits of the rate, in kB a second.
const RATES: std::ops::RangeInclusive<i64> = 32..=1_048_576;

/// `p` or `t`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Format {
    Plain,
    Tar,
}

/// Options as they are read.
#[allow(clippy::struct_excessive_bools, reason = "each is an option")]
struct Reading {
    fast_checkpoint: bool,
    create_slot: bool,
    connection_string: Option<String>,
    connection: Vec<(String, String)>,
    directory: Option<PathBuf>,
    format: Option<Format>,
    incremental: Option<PathBuf>,
    label: String,
    no_clean: bool,
    no_sync: bool,
    progress: bool,
    max_rate: Option<u32>,
    recovery: bool,
    status_every: Option<Duration>,
    slot: Option<String>,
    target: Option<String>,
    mappings: TablespaceMappings,
    prompt: Prompt,
    verbose: bool,
    wal: WalMethod,
    compress: Option<String>,
    wal_directory: Option<PathBuf>,
    no_slot: bool,
    no_verify_checksums: bool,
    no_estimate_size: bool,
    no_manifest: bool,
    manifest_force_encode: bool,
    manifest_checksums: Option<String>,
    sync_method: SyncMethod,
}

/// Who compresses.
enum Compressing {
    /// We do, with so many threads.
    Here(Codec, usize),
    /// The server, which reads what is wanted.
    Server(String, Option<String>),
}

impl Arguments {
    pub(super) fn parse(words: &[OsString]) -> Result<Arguments, Mistake> {
        let mut reading = Reading {
            fast_checkpoint: false,
            create_slot: false,
            connection_string: None,
            connection: Vec::new(),
            directory: None,
            format: None,
            incremental: None,
            label: "pg_basebackup base backup".to_owned(),
            no_clean: false,
            no_sync: false,
            progress: false,
            max_rate: None,
            recovery: false,
            status_every: STATUS_INTERVAL,
            slot: None,
            target: None,
            mappings: TablespaceMappings::default(),
            prompt: Prompt::default(),
            verbose: false,
            wal: WalMethod::Stream,
            compress: None,
            wal_directory: None,
            no_slot: false,
            no_verify_checksums: false,
            no_estimate_size: false,
            no_manifest: false,
            manifest_force_encode: false,
            manifest_checksums: None,
            sync_method: SyncMethod::Fsync,
        };
        let operands = read_options(SPECS, words, |key, value| reading.take(key, &value))?;
        no_more(operands.into_iter())?;
        let compressing = reading.check()?;
        reading.finish(compressing)
    }
}

impl Reading {
    fn take(&mut self, key: Key, value: &OsStr) -> Result<(), Mistake> {
        let shown = value.to_string_lossy();
        match key {
            Key::Checkpoint => {
                self.fast_checkpoint = match shown.to_ascii_lowercase().as_str() {
                    "fast" => true,
                    "spread" => false,
                    _ => {
                        return Err(Mistake::Plain(format!(
                            "invalid checkpoint argument \"{shown}\", must be \"fast\" or \"spread\""
                        )));
                    }
                }
            }
            Key::CreateSlot => self.create_slot = true,
            Key::ConnectionString => self.connection_string = Some(text(value)),
            Key::Directory => self.directory = Some(canonical(value)),
            Key::Format => {
                self.format = Some(match value.as_bytes() {
                    b"p" | b"plain" => Format::Plain,
                    b"t" | b"tar" => Format::Tar,
                    _ => {
                        return Err(Mistake::Plain(format!(
                            "invalid output format \"{shown}\", must be \"plain\" or \"tar\""
                        )));
                    }
                });
            }
            Key::Host => self.connection.push(("host".to_owned(), text(value))),
            Key::Incremental => self.incremental = Some(value.into()),
            Key::Label => self.label = text(value),
            Key::NoClean => self.no_clean = true,
            Key::NoSync => self.no_sync = true,
            Key::Port => self.connection.push(("port".to_owned(), text(value))),
            Key::Progress => self.progress = true,
            Key::MaxRate => self.max_rate = Some(rate(&shown)?),
            Key::Recovery => self.recovery = true,
            Key::StatusInterval => self.status_every = status_interval(value)?,
            Key::Slot => self.slot = Some(text(value)),
            Key::Target => self.target = Some(text(value)),
            Key::TablespaceMapping => self.mappings.add(value).map_err(Mistake::Plain)?,
            Key::User => self.connection.push(("user".to_owned(), text(value))),
            Key::Verbose => self.verbose = true,
            Key::NoPassword => self.prompt = Prompt::Never,
            Key::Password => self.prompt = Prompt::First,
            Key::WalMethod => {
                self.wal = match value.as_bytes() {
                    b"n" | b"none" => WalMethod::None,
                    b"f" | b"fetch" => WalMethod::Fetch,
                    b"s" | b"stream" => WalMethod::Stream,
                    _ => {
                        return Err(Mistake::Plain(format!(
                            "invalid wal-method option \"{shown}\", must be \"fetch\", \"stream\", or \"none\""
                        )));
                    }
                }
            }
            Key::Gzip => self.compress = Some("gzip".to_owned()),
            Key::Compress => self.compress = Some(text(value)),
            Key::WalDirectory => self.wal_directory = Some(canonical(value)),
            Key::NoSlot => self.no_slot = true,
            Key::NoVerifyChecksums => self.no_verify_checksums = true,
            Key::NoEstimateSize => self.no_estimate_size = true,
            Key::NoManifest => self.no_manifest = true,
            Key::ManifestForceEncode => self.manifest_force_encode = true,
            Key::ManifestChecksums => self.manifest_checksums = Some(text(value)),
            Key::SyncMethod => self.sync_method = sync_method(value)?,
        }
        Ok(())
    }

    fn format(&self) -> Format {
        self.format.unwrap_or(if self.target.is_some() { Format::Tar } else { Format::Plain })
    }

    fn goes_to_stdout(&self) -> bool {
        self.directory.as_ref().is_some_and(|directory| directory.as_os_str() == "-")
    }

    /// Refuses what does not go together, in stock's order.
    fn check(&self) -> Result<Compressing, Mistake> {
        let refuse = |text: &str| Err(Mistake::TryHelp(text.to_owned()));
        let has_target = self.target.is_some();
        let is_streaming = self.wal == WalMethod::Stream;
        if self.directory.is_none() && !has_target {
            return refuse("must specify output directory or backup target");
        }
        if self.directory.is_some() && has_target {
            return refuse("cannot specify both output directory and backup target");
        }
        if self.format.is_some() && has_target {
            return refuse("cannot specify both format and backup target");
        }
        let compressing = self.compressing()?;
        let compresses_here =
            matches!(&compressing, Compressing::Here(codec, _) if codec.compression != Compression::None);
        if has_target && compresses_here {
            return refuse("client-side compression is not possible when a backup target is specified");
        }
        if self.format() == Format::Plain && compresses_here {
            return refuse("only tar mode backups can be compressed");
        }
        if has_target && is_streaming {
            return refuse("WAL cannot be streamed when a backup target is specified");
        }
        if self.format() == Format::Tar && is_streaming && self.goes_to_stdout() {
            return refuse("cannot stream write-ahead logs in tar mode to stdout");
        }
        if self.slot.is_some() && !is_streaming {
            return refuse("replication slots can only be used with WAL streaming");
        }
        if self.no_slot && self.slot.is_some() {
            return refuse("--no-slot cannot be used with slot name");
        }
        if self.create_slot && self.slot.is_none() {
            return refuse("--create-slot needs a slot to be specified using --slot");
        }
        if let Some(directory) = &self.wal_directory {
            if has_target {
                return refuse("WAL directory location cannot be specified along with a backup target");
            }
            if self.format() != Format::Plain {
                return refuse("WAL directory location can only be specified in plain mode");
            }
            if !directory.is_absolute() {
                return refuse("WAL directory location must be an absolute path");
            }
        }
        if self.recovery && has_target {
            return refuse("recovery configuration cannot be written when a backup target is used");
        }
        let manifest = "--no-manifest";
        for (first, first_name, second, second_name) in [
            (self.progress, "--progress", self.no_estimate_size, "--no-estimate-size"),
            (self.no_manifest, manifest, self.manifest_checksums.is_some(), "--manifest-checksums"),
            (self.no_manifest, manifest, self.manifest_force_encode, "--manifest-force-encode"),
        ] {
            if first && second {
                return refuse(&format!("{first_name} and {second_name} are incompatible options"));
            }
        }
        Ok(compressing)
    }

    /// Reads `[client-|server-]METHOD[:DETAIL]`. What the server does is its to read.
    fn compressing(&self) -> Result<Compressing, Mistake> {
        let text = self.compress.as_deref().unwrap_or("none");
        let (is_here, text) = match (text.strip_prefix("server-"), text.strip_prefix("client-")) {
            (Some(rest), _) => (false, rest),
            (None, Some(rest)) => (true, rest),
            (None, None) => (self.target.is_none(), text),
        };
        if !is_here {
            let is_level = text.bytes().all(|byte| byte.is_ascii_digit()) && !text.is_empty();
            let (method, detail) = match text.split_once(':') {
                Some((method, detail)) => (method, Some(detail.to_owned())),
                None if text == "0" => ("none", None),
                None if is_level => ("gzip", Some(text.to_owned())),
                None => (text, None),
            };
            return Ok(Compressing::Server(method.to_owned(), detail));
        }
        let (choice, _) = compression::parse(Some(text), Compression::None).map_err(Mistake::Plain)?;
        let codec =
            Codec { compression: choice.algorithm, level: choice.level, long_distance: choice.long_distance };
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        let wanted = choice.workers.map(|workers| usize::try_from(workers).unwrap_or(0));
        // Zstandard's workers are beside the thread that feeds them: one is of use as well.
        Ok(Compressing::Here(codec, wanted.unwrap_or(processors)))
    }

    fn finish(self, compressing: Compressing) -> Result<Arguments, Mistake> {
        let connection = server_connection(super::NAME, self.connection_string.as_deref(), &self.connection)?;
        let (codec, threads, server_compression) = match compressing {
            Compressing::Here(codec, threads) => (codec, threads, None),
            Compressing::Server(method, _) if method == "none" && self.target.is_some() => {
                (Codec::default(), 1, None)
            }
            Compressing::Server(method, detail) => (Codec::default(), 1, Some((method, detail))),
        };
        let to_stdout = self.goes_to_stdout();
        let destination = match (self.target, self.directory, self.format) {
            (Some(target), ..) => {
                let (kind, detail) = match target.split_once(':') {
                    Some((kind, detail)) => (kind.to_owned(), Some(detail.to_owned())),
                    None => (target, None),
                };
                Destination::Server { kind, detail }
            }
            (None, _, Some(Format::Tar)) if to_stdout => {
                Destination::Stream { output: Box::new(stdout()), codec, threads }
            }
            (None, directory, Some(Format::Tar)) => {
                Destination::Tar { directory: directory.unwrap_or_default(), codec, threads }
            }
            (None, directory, _) => Destination::Plain {
                directory: directory.unwrap_or_default(),
                wal_directory: self.wal_directory,
                mappings: self.mappings,
            },
        };
        let slot = match self.slot {
            Some(name) if self.create_slot => Slot::Created(name),
            Some(name) => Slot::Existing(name),
            None if self.no_slot => Slot::None,
            None => Slot::Temporary,
        };
        let recovery = self
            .recovery
            .then(|| Recovery { database: self.connection_string.as_deref().and_then(database_of) });
        let manifest =
            Manifest { force_encode: self.manifest_force_encode, checksums: self.manifest_checksums };
        let request = Request {
            label: self.label,
            fast_checkpoint: self.fast_checkpoint,
            estimate_size: !self.no_estimate_size,
            max_rate_kib: self.max_rate,
            verify_checksums: !self.no_verify_checksums,
            manifest: (!self.no_manifest).then_some(manifest),
            incremental_from: self.incremental,
            destination,
            server_compression,
            wal: self.wal,
            slot,
            status_every: self.status_every,
            recovery,
            sync: (!self.no_sync).then_some(self.sync_method),
            clean: !self.no_clean,
        };
        Ok(Arguments {
            request,
            connection,
            prompt: self.prompt,
            verbose: self.verbose,
            progress: self.progress,
        })
    }
}

/// Without slashes at the end, and dots that change nothing.
fn canonical(path: &OsStr) -> PathBuf {
    PathBuf::from(path).components().collect()
}

/// The database that a connection string names.
fn database_of(text: &str) -> Option<String> {
    let pairs = parse_connection_string(text).ok()?;
    pairs
        .into_iter()
        .find(|(keyword, value)| keyword == "dbname" && !value.is_empty())
        .map(|(_, value)| value)
}

/// A rate in kB a second.
fn rate(text: &str) -> Result<u32, Mistake> {
    let plain = |text: String| Err(Mistake::Plain(text));
    let trimmed = text.trim_start();
    let end = trimmed.find(|letter: char| !letter.is_ascii_digit() && !matches!(letter, '.' | '-' | '+'));
    let (digits, unit) = trimmed.split_at(end.unwrap_or(trimmed.len()));
    let Ok(value) = digits.parse::<f64>() else {
        return plain(format!("transfer rate \"{text}\" is not a valid value"));
    };
    if value <= 0.0 {
        return plain("transfer rate must be greater than zero".to_owned());
    }
    let factor = match unit.trim() {
        "" | "k" => 1.0,
        "M" => 1024.0,
        _ => return plain(format!("invalid --max-rate unit: \"{}\"", unit.trim())),
    };
    let rate = value * factor;
    if rate > f64::from(i32::MAX) {
        return plain(format!("transfer rate \"{text}\" exceeds integer range"));
    }
    #[allow(clippy::cast_possible_truncation, reason = "it fits: see above")]
    let whole = rate as i64;
    match u32::try_from(whole) {
        Ok(kilobytes) if RATES.contains(&whole) => Ok(kilobytes),
        _ => plain(format!("transfer rate \"{text}\" is out of range")),
    }
}

#[cfg(test)]
mod tests;
