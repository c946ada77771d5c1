//! The verbs: settings and options become a request, the engine's report becomes text or JSON.
//!
//! Nothing is decided here that the engine could decide. What the engine may not read itself is put into the request:
//! the environment, the working directory, the time zone.

mod backup;
mod config;
mod dump;
mod exchange;
mod expire;
mod load;
mod restore;
mod standby;
mod tell;
mod verify;
mod wal;
mod wal_receive;

use pgkeep_engine::{Location, Result};

use crate::args::standby::StandbyVerb;
use crate::args::wal::WalVerb;
use crate::args::{Cli, Global, Verb};
use crate::caller::{Caller, ServerCommand};
use crate::config::layer::{Places, read_files};
use crate::config::{Flag, Resolved, Settings, resolve};
use crate::render::progress::Telling;
use crate::{exit, render};

/// What every verb works with.
#[derive(Debug)]
pub(crate) struct Context {
    caller: Caller,
    global: Global,
    resolved: Resolved,
}

impl Context {
    fn new(global: Global, flags: Vec<Flag>) -> Result<Context> {
        let caller = Caller::read();
        let places = Places {
            only: global.config.clone(),
            xdg_config_home: caller.xdg_config_home.clone(),
            home: caller.home.clone(),
        };
        let general = Flag::given([("repo", "--repo", &global.repo), ("stanza", "--stanza", &global.stanza)]);
        let flags: Vec<Flag> = general.into_iter().chain(flags).collect();
        let resolved = resolve(read_files(&places)?, &caller.surroundings(), &flags)?;
        Ok(Context { caller, global, resolved })
    }

    fn settings(&self) -> &Settings {
        &self.resolved.settings
    }

    fn location(&self) -> Result<Location> {
        Ok(Location {
            repository: self.settings().repository()?.to_owned(),
            stanza: self.settings().stanza.clone(),
        })
    }

    fn server_command(&self) -> Result<ServerCommand<'_>> {
        Ok(ServerCommand {
            repository: self.settings().repository()?,
            stanza: &self.settings().stanza,
            config: self.global.config.as_deref(),
        })
    }

    fn telling(&self, dry_run: bool) -> Telling {
        let Global { quiet, json, verbose, .. } = self.global;
        Telling { quiet, json, verbose, dry_run }
    }

    /// Prints the report, as JSON where that was asked.
    fn answer<R: serde::Serialize>(&self, report: &R, text: impl FnOnce(&R) -> String) -> Result<()> {
        render::print(&if self.global.json { render::json::object(report)? } else { text(report) })
    }
}

/// Does what was asked; the exit code of a run that did not fail.
pub(crate) fn run(cli: Cli) -> Result<u8> {
    let Cli { global, verb } = cli;
    match verb {
        Verb::Init(args) => tell::init(&Context::new(global, Vec::new())?, &args),
        Verb::Backup(args) => backup::backup(&Context::new(global, args.flags())?, &args),
        Verb::Dump(args) => dump::dump(&Context::new(global, args.flags())?, &args),
        Verb::Restore(args) => restore::restore(&Context::new(global, args.flags())?, args),
        Verb::Standby(args) => match args.verb {
            StandbyVerb::Create(args) => standby::create(&Context::new(global, args.flags())?, *args),
        },
        Verb::Export(args) => exchange::export(&Context::new(global, args.flags())?, args),
        Verb::Import(args) => exchange::import(&Context::new(global, args.flags())?, args),
        Verb::Load(args) => load::load(&Context::new(global, Vec::new())?, &args),
        Verb::Wal(args) => match args.verb {
            WalVerb::Push(args) => wal::push(&Context::new(global, args.flags())?, args),
            WalVerb::Get(args) => wal::get(&Context::new(global, args.flags())?, args),
            WalVerb::Receive(args) => wal_receive::receive(&Context::new(global, args.flags())?, &args),
            WalVerb::Import(args) => exchange::import_wal(&Context::new(global, args.flags())?, &args),
        },
        Verb::List(_) => tell::list(&Context::new(global, Vec::new())?),
        Verb::Show(args) => tell::show(&Context::new(global, Vec::new())?, &args),
        Verb::Check(args) => tell::check(&Context::new(global, args.flags())?, &args),
        Verb::Expire(args) => expire::expire(&Context::new(global, args.flags())?, &args),
        Verb::Hold(args) => expire::hold(&Context::new(global, Vec::new())?, &args),
        Verb::Release(args) => expire::release(&Context::new(global, Vec::new())?, &args),
        Verb::Verify(args) => verify::verify(&Context::new(global, args.flags())?, *args),
        Verb::Config(args) => config::config(&Context::new(global, Vec::new())?, &args),
        Verb::Version => version(&global),
    }
}

/// What `version` and `--version` print.
pub(crate) const VERSION: &str = concat!("pgkeep ", env!("CARGO_PKG_VERSION"), "\n");

/// The version needs no configuration, so that it can be told with a broken one.
fn version(global: &Global) -> Result<u8> {
    render::print(&if global.json {
        render::json::object(&serde_json::json!({
            "program": "pgkeep",
            "version": env!("CARGO_PKG_VERSION"),
        }))?
    } else {
        VERSION.to_owned()
    })?;
    Ok(exit::OK)
}
