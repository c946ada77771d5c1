//! The control file: it must be whole and of the cluster that the manifest names.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use pgkeep_format::control_file::{CONTROL_FILE_PATH, CONTROL_FILE_SIZE, ControlFile, ControlFileError};
use pgkeep_tool::{Result, ToolError, system_text};

use super::Check;

impl Check<'_> {
    /// Checks the control file, where `path` is its.
    pub(super) fn check_control_file(&self, path: &[u8], full_path: &Path) -> Result<()> {
        if path != CONTROL_FILE_PATH.as_bytes() || self.table.version == 1 {
            return Ok(());
        }
        let shown = full_path.display();
        let file = File::open(full_path).map_err(|error| {
            ToolError::new(format!("could not open file \"{shown}\" for reading: {}", system_text(&error)))
        })?;
        let mut bytes = Vec::new();
        file.take(CONTROL_FILE_SIZE as u64)
            .read_to_end(&mut bytes)
            .map_err(|error| ToolError::could_not("read file", &shown, &error))?;
        self.check_control_bytes(&bytes, &shown.to_string())
    }

    /// Checks the bytes of the control file that was found at `place`.
    pub(super) fn check_control_bytes(&self, bytes: &[u8], place: &str) -> Result<()> {
        let control = ControlFile::parse(bytes).map_err(|error| control_error(place, &error))?;
        let expected = self.table.system_identifier.unwrap_or_default();
        let found = control.system_identifier;
        if expected != found {
            return Err(ToolError::new(format!(
                "{place}: manifest system identifier is {expected}, but control file has {found}"
            )));
        }
        Ok(())
    }
}

/// Why a control file does not do, in stock's words.
pub(crate) fn control_error(place: &str, error: &ControlFileError) -> ToolError {
    match error {
        ControlFileError::BadCrc { .. } => ToolError::new(format!("{place}: CRC is incorrect")),
        ControlFileError::TooShort { length } => {
            ToolError::new(format!("could not read file \"{place}\": read {length} of {CONTROL_FILE_SIZE}"))
        }
        other => {
            ToolError::new(format!("{place}: unexpected control file version")).detail(other.to_string())
        }
    }
}
