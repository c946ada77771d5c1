//! The options of `pg_receivewal` 18: reading them, and which do not go together.

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;
use std::time::Duration;

use pgkeep_format::Lsn;
use pgkeep_format::archive::Compression;
use pgkeep_physical::wal_receive::ReceiveRequest;
use pgkeep_tool::compress::Codec;
use pgkeep_wire::ConnInfo;

use crate::front::compression;
use crate::front::getopt::{OptionSpec, flag, value};
use crate::front::password::Prompt;
use crate::front::program::{Mistake, no_more, read_options};
use crate::front::values::{STATUS_INTERVAL, server_connection, status_interval, text};

/// A command line, checked.
pub(super) struct Arguments {
    pub(super) action: Action,
    pub(super) connection: ConnInfo,
    pub(super) prompt: Prompt,
    pub(super) is_verbose: bool,
}

/// What is to be done.
pub(super) enum Action {
    CreateSlot { slot: String, may_exist: bool },
    DropSlot { slot: String },
    Receive(ReceiveRequest),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Key {
    Directory,
    ConnectionString,
    End,
    Host,
    NoLoop,
    Port,
    StatusInterval,
    Slot,
    User,
    Verbose,
    NoPassword,
    Password,
    Compress,
    CreateSlot,
    DropSlot,
    IfNotExists,
    Synchronous,
    NoSync,
}

const SPECS: &[OptionSpec<Key>] = &[
    value("directory", b'D', Key::Directory),
    value("dbname", b'd', Key::ConnectionString),
    value("endpos", b'E', Key::End),
    value("host", b'h', Key::Host),
    flag("no-loop", b'n', Key::NoLoop),
    value("port", b'p', Key::Port),
    value("status-interval", b's', Key::StatusInterval),
    value("slot", b'S', Key::Slot),
    value("username", b'U', Key::User),
    flag("verbose", b'v', Key::Verbose),
    flag("no-password", b'w', Key::NoPassword),
    flag("password", b'W', Key::Password),
    value("compress", b'Z', Key::Compress),
    flag("create-slot", 0, Key::CreateSlot),
    flag("drop-slot", 0, Key::DropSlot),
    flag("if-not-exists", 0, Key::IfNotExists),
    flag("synchronous", 0, Key::Synchronous),
    flag("no-sync", 0, Key::NoSync),
];

/// Options as they are read.
#[allow(clippy::struct_excessive_bools, reason = "each is an option")]
struct Reading {
    directory: Option<PathBuf>,
    connection_string: Option<String>,
    connection: Vec<(String, String)>,
    end: Option<Lsn>,
    no_loop: bool,
    status_every: Option<Duration>,
    slot: Option<String>,
    is_verbose: bool,
    prompt: Prompt,
    compress: Option<String>,
    create_slot: bool,
    drop_slot: bool,
    if_not_exists: bool,
    synchronous: bool,
    no_sync: bool,
}

impl Arguments {
    pub(super) fn parse(words: &[OsString]) -> Result<Arguments, Mistake> {
        let mut reading = Reading {
            directory: None,
            connection_string: None,
            connection: Vec::new(),
            end: None,
            no_loop: false,
            status_every: STATUS_INTERVAL,
            slot: None,
            is_verbose: false,
            prompt: Prompt::default(),
            compress: None,
            create_slot: false,
            drop_slot: false,
            if_not_exists: false,
            synchronous: false,
            no_sync: false,
        };
        let operands = read_options(SPECS, words, |key, value| reading.take(key, &value))?;
        no_more(operands.into_iter())?;
        reading.check()?;
        reading.finish()
    }
}

impl Reading {
    fn take(&mut self, key: Key, value: &OsStr) -> Result<(), Mistake> {
        match key {
            Key::Directory => self.directory = Some(value.into()),
            Key::ConnectionString => self.connection_string = Some(text(value)),
            Key::End => self.end = Some(position(value)?),
            Key::Host => self.connection.push(("host".to_owned(), text(value))),
            Key::NoLoop => self.no_loop = true,
            Key::Port => self.connection.push(("port".to_owned(), text(value))),
            Key::StatusInterval => self.status_every = status_interval(value)?,
            Key::Slot => self.slot = Some(text(value)),
            Key::User => self.connection.push(("user".to_owned(), text(value))),
            Key::Verbose => self.is_verbose = true,
            Key::NoPassword => self.prompt = Prompt::Never,
            Key::Password => self.prompt = Prompt::First,
            Key::Compress => self.compress = Some(text(value)),
            Key::CreateSlot => self.create_slot = true,
            Key::DropSlot => self.drop_slot = true,
            Key::IfNotExists => self.if_not_exists = true,
            Key::Synchronous => self.synchronous = true,
            Key::NoSync => self.no_sync = true,
        }
        Ok(())
    }

    fn check(&self) -> Result<(), Mistake> {
        let refuse = |text: String| Err(Mistake::TryHelp(text));
        if self.drop_slot && self.create_slot {
            return refuse("cannot use --create-slot together with --drop-slot".to_owned());
        }
        if self.slot.is_none() && (self.drop_slot || self.create_slot) {
            let option = if self.drop_slot { "--drop-slot" } else { "--create-slot" };
            return refuse(format!("{option} needs a slot to be specified using --slot"));
        }
        if self.synchronous && self.no_sync {
            return refuse("cannot use --synchronous together with --no-sync".to_owned());
        }
        if self.directory.is_none() && !self.drop_slot && !self.create_slot {
            return refuse("no target directory specified".to_owned());
        }
        Ok(())
    }

    fn finish(self) -> Result<Arguments, Mistake> {
        let (choice, _) =
            compression::parse(self.compress.as_deref(), Compression::None).map_err(Mistake::Plain)?;
        if choice.algorithm == Compression::Zstd {
            return Err(Mistake::Plain("compression with ZSTD is not yet supported".to_owned()));
        }
        let codec =
            Codec { compression: choice.algorithm, level: choice.level, long_distance: choice.long_distance };
        let connection = server_connection(super::NAME, self.connection_string.as_deref(), &self.connection)?;
        let action = match (self.slot, self.directory) {
            (Some(slot), _) if self.create_slot => Action::CreateSlot { slot, may_exist: self.if_not_exists },
            (Some(slot), _) if self.drop_slot => Action::DropSlot { slot },
            (slot, directory) => Action::Receive(ReceiveRequest {
                directory: directory.unwrap_or_default(),
                slot,
                end: self.end,
                codec,
                is_durable: !self.no_sync,
                is_synchronous: self.synchronous,
                status_every: self.status_every,
                reconnects: !self.no_loop,
                is_verbose: self.is_verbose,
            }),
        };
        Ok(Arguments { action, connection, prompt: self.prompt, is_verbose: self.is_verbose })
    }
}

fn position(value: &OsStr) -> Result<Lsn, Mistake> {
    let text = value.to_string_lossy();
    text.parse().map_err(|_| Mistake::Plain(format!("could not parse end position \"{text}\"")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(words: &[&str]) -> String {
        let words: Vec<OsString> = words.iter().map(OsString::from).collect();
        match Arguments::parse(&words) {
            Ok(_) => "accepted".to_owned(),
            Err(Mistake::Plain(text) | Mistake::TryHelp(text) | Mistake::Getopt(text)) => text,
            Err(Mistake::Failure(error)) => error.message,
        }
    }

    #[test]
    fn what_does_not_go_together_is_refused_in_stocks_words() {
        for (words, text) in [
            (&["-D", "x"][..], "accepted"),
            (&["-S", "s", "--create-slot", "--if-not-exists"], "accepted"),
            (
                &["-D", "x", "-n", "-v", "-s0", "-Z", "gzip:9", "-E", "0/16B3748", "-Ss", "--no-sync"],
                "accepted",
            ),
            (&[], "no target directory specified"),
            (&["--create-slot"], "--create-slot needs a slot to be specified using --slot"),
            (&["--drop-slot", "-Dx"], "--drop-slot needs a slot to be specified using --slot"),
            (&["-Ss", "--drop-slot", "--create-slot"], "cannot use --create-slot together with --drop-slot"),
            (&["-Dx", "--synchronous", "--no-sync"], "cannot use --synchronous together with --no-sync"),
            (&["-Dx", "y"], "too many command-line arguments (first is \"y\")"),
            (&["-Dx", "-E", "16B3748"], "could not parse end position \"16B3748\""),
            (&["-Dx", "-s", "-1"], "-s/--status-interval must be in range 0..2147483"),
            (&["-Dx", "-s", "2147484"], "-s/--status-interval must be in range 0..2147483"),
            (&["-Dx", "-Z", "zstd"], "compression with ZSTD is not yet supported"),
            (
                &["-Dx", "-Z", "none:1"],
                "invalid compression specification: compression algorithm \"none\" does not accept a compression level",
            ),
        ] {
            assert_eq!(refusal(words), text, "{words:?}");
        }
    }

    #[test]
    fn the_interval_is_ten_seconds_or_none() {
        let request = |words: &[&str]| {
            let words: Vec<OsString> = words.iter().map(OsString::from).collect();
            match Arguments::parse(&words).ok().map(|arguments| arguments.action) {
                Some(Action::Receive(request)) => request,
                _ => panic!("{words:?}"),
            }
        };
        assert_eq!(request(&["-Dx"]).status_every, Some(Duration::from_secs(10)));
        assert_eq!(request(&["-Dx", "--status-interval=0"]).status_every, None);
        assert_eq!(request(&["-Dx", "-s", "3"]).status_every, Some(Duration::from_secs(3)));
        assert!(request(&["-Dx"]).is_durable && !request(&["-Dx", "--no-sync"]).is_durable);
        assert_eq!(request(&["-Dx", "-E", "1/2"]).end, Some(Lsn((1 << 32) + 2)));
    }
}
