//! `pgkeep load`: of a file, of a database of a dump in the repository, or of everything that such a dump has.

use std::path::{Path, PathBuf};

use pgkeep_engine::load::{DumpLoadRequest, SetLoadRequest, failure, load_dump, load_set};
use pgkeep_engine::{Cancel, Error, ErrorKind, Result};
use pgkeep_logical::load::{self, LoadReport, LoadRequest, LoadSource};

use super::Context;
use crate::args::load::LoadArgs;
use crate::render::load::{LoadProgress, text};
use crate::render::load_set;
use crate::{exit, signal};

/// Loads.
pub(super) fn load(context: &Context, args: &LoadArgs) -> Result<u8> {
    let origin = origin(context, args)?;
    let request = request(context, args)?;
    let cancel = if args.dry_run { Cancel::default() } else { signal::cancel_on_signals()? };
    let progress = LoadProgress::new(context.telling(args.dry_run), cancel);
    let complete = match origin {
        Origin::Dump(id) if args.all || args.globals => {
            let location = context.location()?;
            let set = SetLoadRequest { location, id, globals_only: args.globals, load: request };
            let report = load_set(&set, &progress)?;
            drop(progress);
            context.answer(&report, load_set::text)?;
            report.complete || report.dry_run
        }
        Origin::Dump(id) => {
            let (location, database) = (context.location()?, args.database.clone());
            let report = load_dump(&DumpLoadRequest { location, id, database, load: request }, &progress)?;
            drop(progress);
            answer(context, &report)?
        }
        Origin::File(path) => {
            let source = if path == Path::new("-") {
                LoadSource::stream(std::io::stdin().lock()).map_err(failure)?
            } else {
                LoadSource::path(context.caller.working_directory.join(path))
            };
            let report = load::load(&source, &request, &progress).map_err(failure)?;
            drop(progress);
            answer(context, &report)?
        }
    };
    Ok(if complete { exit::OK } else { exit::INCOMPLETE })
}

/// Prints the report; whether everything is there.
fn answer(context: &Context, report: &LoadReport) -> Result<bool> {
    context.answer(report, text)?;
    Ok(report.result.as_ref().is_none_or(|result| result.complete))
}

fn request(context: &Context, args: &LoadArgs) -> Result<LoadRequest> {
    let mut target =
        context.caller.connection(&args.connection, context.settings().conninfo.as_deref()).resolve()?;
    if let Some(database) = &args.target {
        target = target.with("dbname", database).map_err(|error| {
            Error::new(ErrorKind::Usage, format!("`{database}` cannot be the name of a database"))
                .cause(error)
                .hint("choose another name with `--target`")
        })?;
    }
    Ok(LoadRequest {
        target,
        selection: args.selection(),
        schema_names: args.rename_schema.clone(),
        roles: args.owner_map.clone(),
        no_owner: args.no_owner,
        no_privileges: args.no_privileges,
        no_tablespaces: args.no_tablespaces,
        jobs: args.jobs.unwrap_or_else(processors),
        maintenance_memory: args.maintenance_memory,
        into_existing: args.into_existing,
        resume: args.resume,
        continue_on_error: args.continue_on_error,
        disable_triggers: args.disable_triggers,
        no_analyze: args.no_analyze,
        dry_run: args.dry_run,
    })
}

fn processors() -> u32 {
    std::thread::available_parallelism().map_or(1, |count| u32::try_from(count.get()).unwrap_or(1))
}

/// What is loaded.
#[derive(Debug, PartialEq, Eq)]
enum Origin {
    /// A file, or standard input.
    File(PathBuf),
    /// A dump in the repository, by its id or the beginning of one.
    Dump(String),
}

/// What is known about the word on the command line.
#[derive(Clone, Copy, Debug, Default)]
struct Facts {
    /// An option was given that only dumps in the repository have.
    needs_dump: bool,
    /// The repository was named on this command line.
    names_repository: bool,
    /// There is a repository in the settings.
    has_repository: bool,
    /// There is a file of that name.
    is_file: bool,
}

fn origin(context: &Context, args: &LoadArgs) -> Result<Origin> {
    let facts = Facts {
        needs_dump: args.database.is_some() || args.all || args.globals,
        names_repository: context.global.repo.is_some() || context.global.stanza.is_some(),
        has_repository: context.settings().repository().is_ok(),
        is_file: context.caller.working_directory.join(&args.archive).exists(),
    };
    tell(&args.archive, facts)
}

/// Tells files and dumps apart. What could be both is an error, since loading the wrong one is no small thing.
fn tell(word: &Path, facts: Facts) -> Result<Origin> {
    let id = word.to_str().filter(|word| can_be_id(word));
    if facts.needs_dump {
        return match id {
            Some(id) => Ok(Origin::Dump(id.to_owned())),
            None => {
                Err(Error::new(ErrorKind::Usage, format!("`{}` is not the id of a dump", word.display()))
                    .cause("`--database`, `--all` and `--globals` are for dumps in the repository")
                    .hint("`pgkeep list` shows them; or give `latest`")
                    .hint("leave the option out to load a file"))
            }
        };
    }
    match id {
        Some(id) if facts.names_repository => Ok(Origin::Dump(id.to_owned())),
        Some(id) if facts.has_repository && facts.is_file => Err(Error::new(
            ErrorKind::Usage,
            format!("`{id}` is a file, and may be a dump in the repository as well"),
        )
        .hint(format!("`./{id}` names the file"))
        .hint("`--repo`, `--stanza`, `--database` or `--all` names the dump")),
        Some(id) if facts.has_repository => Ok(Origin::Dump(id.to_owned())),
        Some(id) if !facts.is_file => Err(Error::new(
            ErrorKind::NotFound,
            format!("there is no file `{id}`, and no repository is named in which it could be a dump"),
        )
        .hint("name the repository with `--repo`, or correct the name of the file")),
        _ => Ok(Origin::File(word.to_owned())),
    }
}

/// `latest`, or what ids of dumps begin with: `000012-20261125T131308Z`.
fn can_be_id(word: &str) -> bool {
    word == "latest"
        || word.starts_with(|first: char| first.is_ascii_digit())
            && word.chars().all(|character| character.is_ascii_digit() || "-TZ".contains(character))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(word: &str, facts: Facts) -> String {
        match tell(Path::new(word), facts) {
            Ok(Origin::File(path)) => format!("file {}", path.display()),
            Ok(Origin::Dump(id)) => format!("dump {id}"),
            Err(error) => format!("{:?}", error.kind),
        }
    }

    #[test]
    fn files_and_dumps_are_told_apart() {
        let nothing = Facts::default();
        let repository = Facts { has_repository: true, ..nothing };
        let named = Facts { names_repository: true, ..repository };
        let is_file = |facts: Facts| Facts { is_file: true, ..facts };
        let needed = |facts: Facts| Facts { needs_dump: true, ..facts };
        for (word, facts, expected) in [
            ("shop.dump", nothing, "file shop.dump"),
            ("shop.dump", named, "file shop.dump"),
            ("-", named, "file -"),
            ("./latest", named, "file ./latest"),
            ("/000012", repository, "file /000012"),
            ("latest", nothing, "NotFound"),
            ("latest", is_file(nothing), "file latest"),
            ("latest", repository, "dump latest"),
            ("latest", is_file(repository), "Usage"),
            ("latest", is_file(named), "dump latest"),
            ("000012-20261125T131308Z", repository, "dump 000012-20261125T131308Z"),
            ("12.dump", repository, "file 12.dump"),
            ("12", is_file(repository), "Usage"),
            ("latest", needed(is_file(repository)), "dump latest"),
            ("shop.dump", needed(is_file(repository)), "Usage"),
        ] {
            assert_eq!(told(word, facts), expected, "{word} {facts:?}");
        }
    }
}
