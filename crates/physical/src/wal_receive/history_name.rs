//! The name of a timeline's history file, which a server sends with it.

use pgkeep_format::{TimelineId, WalFileName, WalSegmentSize};
use pgkeep_tool::{Result, ToolError};

/// The name that the file must have.
pub(super) fn history_name(timeline: TimelineId, size: WalSegmentSize) -> String {
    WalFileName::TimelineHistory(timeline).file_name(size)
}

/// The name, which is that under which the server sent it: it becomes a file's.
pub(super) fn checked_history_name(timeline: TimelineId, size: WalSegmentSize, sent: &str) -> Result<String> {
    let name = history_name(timeline, size);
    if sent == name {
        return Ok(name);
    }
    Err(ToolError::new(format!(
        "server reported unexpected history file name for timeline {timeline}: {sent}"
    )))
}
