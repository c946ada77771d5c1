//! A segment of any bytes is read to an end without panic: as it is, and behind a header that fits.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pgkeep_format::wal::{
    SegmentSummary, first_record_from, header_of, scan_transactions, summarize_partial_segment,
};
use pgkeep_format::{Lsn, SegmentNumber, TimelineId, WalSegmentName, WalSegmentSize};

const MAGICS: [u16; 6] = [0xD106, 0xD10D, 0xD110, 0xD113, 0xD116, 0xD118];

fn read(bytes: &[u8], name: WalSegmentName, size: WalSegmentSize) {
    let Ok(summary) = summarize_partial_segment(bytes, name, size) else { return };
    assert_eq!(SegmentSummary::decode(&summary.encode()).as_ref(), Ok(&summary));
    assert!(summary.end >= summary.start);
    let mut events = scan_transactions(bytes, name, size, summary.tail.as_ref()).expect("it was read before");
    let found = events.by_ref().count() as u64;
    assert!(found <= summary.records);
    let _ = first_record_from(bytes, name, size, Lsn(summary.start.0 + 1000));
}

fuzz_target!(|bytes: &[u8]| {
    let size = WalSegmentSize::try_from(1 << 20).expect("a power of two");
    let name = WalSegmentName { timeline: TimelineId::FIRST, number: SegmentNumber(2) };
    if let Ok(header) = header_of(bytes) {
        let number = header.segment_size.segment_at(header.page.address);
        if let Some(timeline) = TimelineId::new(header.page.timeline) {
            read(bytes, WalSegmentName { timeline, number }, header.segment_size);
        }
    }
    // Flags, version and length of the continued record are the fuzzer's; the page size is the smallest.
    let [choice, flags, a, b, rest @ ..] = bytes else { return };
    let magic = MAGICS[usize::from(*choice) % MAGICS.len()];
    let mut segment = Vec::new();
    segment.extend_from_slice(&magic.to_le_bytes());
    segment.extend_from_slice(&u16::from(flags & 9 | 2).to_le_bytes());
    segment.extend_from_slice(&1_u32.to_le_bytes());
    segment.extend_from_slice(&size.start_of(name.number).0.to_le_bytes());
    segment.extend_from_slice(&u32::from(u16::from_le_bytes([*a, *b])).to_le_bytes());
    segment.extend_from_slice(&[0; 12]);
    segment.extend_from_slice(&u32::from(size).to_le_bytes());
    segment.extend_from_slice(&1024_u32.to_le_bytes());
    segment.extend_from_slice(rest);
    segment.truncate(1 << 20);
    read(&segment, name, size);
});
