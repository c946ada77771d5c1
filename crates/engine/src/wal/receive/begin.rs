//! Where to begin: behind the WAL that is in the archive or the spool, on the way to the server's timeline.

use pgkeep_format::timeline_history::TimelineHistory;
use pgkeep_format::{Lsn, SegmentNumber, TimelineId, WalSegmentSize};
use pgkeep_repo::WalArchive;
use pgkeep_wire::{Connection, SystemIdentity};

use super::spool::ReceiveSpool;
use crate::history::TimelinePath;
use crate::{Error, ErrorKind, Result};

/// The beginning of a segment, and the timeline that it is to be asked for under.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Beginning {
    pub(super) position: Lsn,
    pub(super) timeline: TimelineId,
}

/// Finds it; where there is nothing yet, at the slot, or where the server is now.
pub(super) fn find(
    connection: &mut Connection,
    identity: &SystemIdentity,
    archive: &WalArchive,
    spool: &ReceiveSpool,
    slot: Option<&str>,
) -> Result<Beginning> {
    let size = archive.segment_size();
    let path = path_of(connection, identity.timeline)?;
    let spooled = spool.contents()?;
    let mut next: Option<SegmentNumber> = None;
    for step in path.steps() {
        // The segment in which the timeline was left is wanted under the next one's name.
        let left = step.to.map(|to| size.segment_at(to));
        let is_on_path = |number: SegmentNumber| left.is_none_or(|left| number < left);
        let archived = archive.list_segments(step.timeline)?;
        let whole = archived.iter().chain(&spooled.whole).filter(|name| name.timeline == step.timeline);
        let behind = whole.map(|name| name.number).filter(|number| is_on_path(*number)).max();
        let open = spooled.partial.iter().map(|(name, _)| name).filter(|name| name.timeline == step.timeline);
        let open =
            open.map(|name| name.number).filter(|number| left.is_none_or(|left| *number <= left)).max();
        next = next.max(behind.map(SegmentNumber::next)).max(open);
    }
    match next {
        Some(number) => {
            let position = size.start_of(number);
            Ok(Beginning { position, timeline: path.timeline_at(position) })
        }
        None => oldest(connection, identity, size, slot),
    }
}

/// The oldest WAL that the server surely has: that which the slot keeps, or that which is written now.
pub(super) fn oldest(
    connection: &mut Connection,
    identity: &SystemIdentity,
    size: WalSegmentSize,
    slot: Option<&str>,
) -> Result<Beginning> {
    let kept = match slot {
        Some(slot) if connection.server_major() >= 15 => connection.read_slot(slot)?,
        _ => None,
    };
    let (position, timeline) = match kept {
        Some(kept) => {
            (kept.restart_lsn.unwrap_or(identity.flush), kept.restart_timeline.unwrap_or(identity.timeline))
        }
        None => (identity.flush, identity.timeline),
    };
    Ok(Beginning { position: size.start_of(size.segment_at(position)), timeline })
}

fn path_of(connection: &mut Connection, timeline: TimelineId) -> Result<TimelinePath> {
    match connection.timeline_history(timeline)? {
        None => Ok(TimelinePath::of_root(timeline)),
        Some((_, content)) => {
            let history = TimelineHistory::parse(timeline, &content).map_err(|error| {
                Error::new(
                    ErrorKind::Corrupt,
                    format!("the server's history of timeline {timeline} is damaged"),
                )
                .caused_by(&error)
                .hint("look at the `.history` files in its `pg_wal`")
            })?;
            Ok(TimelinePath::of_history(&history))
        }
    }
}
