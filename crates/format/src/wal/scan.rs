//! Finding recovery targets: where transactions end and restore points lie.
//!
//! Reads one segment, with the piece of a record that the segment before left over. What recovery would compare with
//! its target is handed out in the order of the log: commit and abort records with their times (`access/xact.h`), and
//! restore points by name.

use super::changes::parse_restore_point;
use super::decoder::SegmentDecoder;
use super::error::{EndOfWal, WalError};
use super::fragment::{Fragment, WholeRecord};
use super::record::WalRecord;
use super::segment_summary::RestorePoint;
use super::transaction::{TransactionEnd, TransactionRecord, parse_transaction_record};
use crate::{Lsn, WalSegmentName, WalSegmentSize};

/// Something at which recovery can be told to stop.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SegmentEvent {
    /// A transaction ended.
    TransactionEnd(TransactionEnd),
    /// A restore point was set.
    RestorePoint(RestorePoint),
}

/// The events of one segment, in the order of the log. Ends when the segment does.
#[derive(Debug)]
pub struct SegmentEvents<'a> {
    decoder: SegmentDecoder<'a>,
    /// The event of the record that crossed into the segment.
    crossing: Option<SegmentEvent>,
    carry: Option<Fragment>,
    lost_crossing: bool,
}

/// Looks for the ends of transactions and for restore points in a segment. `carry` is what [`SegmentEvents::carry`]
/// returned for the segment before, or that segment's tail.
///
/// # Errors
///
/// When the bytes are not the segment of that name.
pub fn scan_transactions<'a>(
    bytes: &'a [u8],
    expected: WalSegmentName,
    size: WalSegmentSize,
    carry: Option<&Fragment>,
) -> Result<SegmentEvents<'a>, WalError> {
    let mut decoder = SegmentDecoder::new(bytes, expected, size)?;
    let mut events = SegmentEventsStart::default();
    if let Some(head) = decoder.take_head() {
        events.cross(carry, &head, decoder.version());
    }
    let SegmentEventsStart { crossing, carry, lost_crossing } = events;
    Ok(SegmentEvents { decoder, crossing, carry, lost_crossing })
}

#[derive(Default)]
struct SegmentEventsStart {
    crossing: Option<SegmentEvent>,
    carry: Option<Fragment>,
    lost_crossing: bool,
}

impl SegmentEventsStart {
    fn cross(&mut self, carry: Option<&Fragment>, head: &Fragment, version: super::page::WalVersion) {
        let Some(joined) = carry.and_then(|carry| carry.join(head).ok()) else {
            self.lost_crossing = true;
            return;
        };
        if !joined.is_complete() {
            self.carry = Some(joined);
            return;
        }
        match WholeRecord::from_fragment(joined, version) {
            Ok(whole) => self.crossing = event_of(&whole.record()),
            Err(_) => self.lost_crossing = true,
        }
    }
}

impl SegmentEvents<'_> {
    /// The beginning of the record that goes on in the next segment; known when the events have been read to the end.
    #[must_use]
    pub fn carry(&mut self) -> Option<Fragment> {
        self.decoder.take_tail().or_else(|| self.carry.take())
    }

    /// Whether a record crossed into this segment and could not be read: no carry was given, or it did not fit, or the
    /// record was too large.
    #[must_use]
    pub const fn lost_crossing(&self) -> bool {
        self.lost_crossing
    }

    /// The end of valid WAL, once the events have been read to the end.
    #[must_use]
    pub const fn end(&self) -> Lsn {
        self.decoder.end()
    }

    /// Why the segment ended early, if it did.
    #[must_use]
    pub const fn end_of_wal(&self) -> Option<EndOfWal> {
        self.decoder.end_of_wal()
    }
}

impl Iterator for SegmentEvents<'_> {
    type Item = SegmentEvent;

    fn next(&mut self) -> Option<SegmentEvent> {
        if let Some(event) = self.crossing.take() {
            return Some(event);
        }
        while let Some(record) = self.decoder.next_record() {
            if let Some(event) = event_of(&record) {
                return Some(event);
            }
        }
        None
    }
}

fn event_of(record: &WalRecord<'_>) -> Option<SegmentEvent> {
    if let TransactionRecord::End(end) = parse_transaction_record(record) {
        return Some(SegmentEvent::TransactionEnd(end.end));
    }
    parse_restore_point(record).map(SegmentEvent::RestorePoint)
}

/// The first record of the segment that starts at `lsn` or after: where it starts, and where it ends if it ends in this
/// segment. None if there is none.
///
/// This is the record at which the server stops for `recovery_target_lsn`: after it when the target is inclusive, before
/// it when exclusive. As long as there is no such record, recovery to that position fails.
///
/// # Errors
///
/// When the bytes are not the segment of that name.
pub fn first_record_from(
    bytes: &[u8],
    expected: WalSegmentName,
    size: WalSegmentSize,
    lsn: Lsn,
) -> Result<Option<(Lsn, Option<Lsn>)>, WalError> {
    let mut decoder = SegmentDecoder::new(bytes, expected, size)?;
    while let Some(record) = decoder.next_record() {
        if record.lsn >= lsn {
            return Ok(Some((record.lsn, Some(record.end))));
        }
    }
    Ok(decoder.take_tail().filter(|tail| tail.start >= lsn).map(|tail| (tail.start, None)))
}
