//! Puts a full backup together from a full one and the incrementals that follow it (servers from 17 on).
//!
//! The result has the files of the newest backup, and for each `INCREMENTAL.<name>` the file that it stands for, block by
//! block from the newest backup that has the block. Otherwise than stock's `pg_combinebackup`:
//!
//! - **Truncations count** (`source_plan`): a block that a file lost between two backups does not come back from an
//!   older one.
//! - **Inputs are proved.** What is read of a backup is compared with that backup's manifest while it is combined, so that
//!   damage never gets a fresh, right checksum. What cannot be compared is told.
//! - **Archives are inputs, too** (`staging`): a directory with `base.tar` is unpacked beneath the output first.
//!
//! What was made is removed when something fails. Everything is flushed before success is told.

mod copy;
mod file_hashes;
pub mod incremental_header;
mod inputs;
mod label;
mod new_manifest;
mod output;
mod reconstruct;
pub mod source_plan;
mod staging;
mod sync;
mod tablespaces;
mod tree;

use std::path::PathBuf;

use pgkeep_format::pg_manifest::ChecksumAlgorithm;
use pgkeep_tool::{Reporter, Result, ToolError};

use inputs::Inputs;
use new_manifest::NewManifest;
use output::{OutputDirectories, modes_of};
use tree::Combination;

use crate::base_backup::{SyncMethod, TablespaceMappings};

pub use copy::CopyMethod;

/// What to combine, and how.
#[derive(Debug, Clone)]
pub struct CombineRequest {
    /// The full backup, then the incrementals, oldest first.
    pub inputs: Vec<PathBuf>,
    /// Where the result goes: nothing, or an empty directory.
    pub output: PathBuf,
    /// Tell only what would be done.
    pub dry_run: bool,
    /// Tell everything that is done.
    pub debug: bool,
    /// How files become durable; none when the caller does not care.
    pub sync: Option<SyncMethod>,
    /// Where tablespaces go.
    pub tablespace_mappings: TablespaceMappings,
    /// Whether the result gets a manifest.
    pub manifest: bool,
    /// The checksums in it.
    pub manifest_checksums: Option<ChecksumAlgorithm>,
    /// How whole files are copied.
    pub copy_method: CopyMethod,
    /// Compare what is read with the manifests of the inputs.
    pub verify_inputs: bool,
}

/// What was made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CombineReport {
    /// Files taken as they are.
    pub copied: u64,
    /// Files put together.
    pub reconstructed: u64,
}

/// Tells what happens.
#[derive(Clone, Copy)]
struct Talk<'a> {
    reporter: &'a dyn Reporter,
    debug: bool,
}

impl Talk<'_> {
    /// Of use to those who look into the work.
    fn debug(self, text: impl FnOnce() -> String) {
        if self.debug {
            self.reporter.info(&format!("debug: {}", text()));
        }
    }
}

/// Combines backups. With `dry_run`, nothing is written.
///
/// # Errors
/// When the inputs do not make a chain, one is damaged, or the result cannot be written. It is told, and what was made is
/// gone, then.
pub fn combine(request: &CombineRequest, reporter: &dyn Reporter) -> Result<CombineReport> {
    let talk = Talk { reporter, debug: request.debug };
    let mut output = OutputDirectories::new(request.dry_run, talk);
    run(request, talk, &mut output).map_err(|error| {
        // Why, before what follows from it.
        reporter.error(&error.message);
        error.detail.iter().for_each(|detail| reporter.detail(detail));
        error.hint.iter().for_each(|hint| reporter.hint(hint));
        output.remove();
        ToolError::reported(error.message)
    })
}

fn run(
    request: &CombineRequest,
    talk: Talk<'_>,
    output: &mut OutputDirectories<'_>,
) -> Result<CombineReport> {
    let staging = staging::unpack_archives(request, talk, output)?;
    let inputs = Inputs::open(request, &staging, talk)?;
    let modes = modes_of(inputs.last(), &staging)?;
    let tablespaces = tablespaces::scan(inputs.last(), request, talk)?;
    output.create(&request.output, modes)?;
    for tablespace in tablespaces.iter().filter(|tablespace| !tablespace.is_in_place) {
        output.create(&tablespace.target, modes)?;
    }
    output.refuse_nesting(&inputs)?;
    let manifest = match (request.manifest && !request.dry_run, &inputs.last().manifest) {
        (false, _) => None,
        (true, Some(_)) => Some(NewManifest::begin(&request.output, inputs.system_identifier, modes)),
        (true, None) => {
            return Err(ToolError::new(
                "cannot generate a manifest because no manifest is available for the final input backup",
            ));
        }
    };
    let mut combination = Combination::new(request, &inputs, modes, talk, manifest);
    combination.write_label()?;
    combination.combine_data_directory()?;
    for tablespace in &tablespaces {
        combination.combine_tablespace(tablespace)?;
    }
    let report = combination.finish()?;
    staging.remove()?;
    if let Some(method) = request.sync {
        sync::make_durable(&request.output, method, request.dry_run, talk)?;
    }
    if request.copy_method == CopyMethod::Link {
        talk.reporter.warning(
            "--link mode was used; any modifications to the output directory might destructively modify input \
             directories",
        );
    }
    Ok(report)
}
