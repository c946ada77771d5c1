//! Results for programs: exactly one object on stdout, at the end. `docs/reference/json.md` describes each.

use pgkeep_engine::{Error, ErrorKind, Result};

/// The object, ending in a newline.
pub(crate) fn object(report: &impl serde::Serialize) -> Result<String> {
    let mut text = serde_json::to_string_pretty(report).map_err(|error| {
        Error::new(ErrorKind::Internal, "cannot write the result as JSON")
            .cause(error)
            .hint("this is a defect of pgkeep: please report it")
    })?;
    text.push('\n');
    Ok(text)
}
