//! How reports become JSON where the plain way would mislead.

use serde::Serializer;

/// A number as text: system identifiers lie above 2^53, where many readers of JSON round.
pub(crate) fn as_text<S: Serializer>(number: &u64, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(number)
}
