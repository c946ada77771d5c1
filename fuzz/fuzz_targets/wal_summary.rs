//! A stored summary is refused or survives being written and read again; merging any two is possible.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pgkeep_format::wal::{BlockSummary, RangeSummary, SegmentSummary};

fuzz_target!(|bytes: &[u8]| {
    if let Ok(summary) = SegmentSummary::decode(bytes) {
        assert_eq!(SegmentSummary::decode(&summary.encode()).as_ref(), Ok(&summary));
        let mut range = RangeSummary::new(&summary);
        let mut next = summary.clone();
        next.start = range.end;
        let _ = range.push(&next);
    }
    let (first, second) = bytes.split_at(bytes.len() / 2);
    if let Ok(mut summary) = BlockSummary::decode(first)
        && let Ok(later) = BlockSummary::decode(second)
    {
        summary.merge(&later);
        if summary.block_count() > 1 << 27 {
            return;
        }
        assert_eq!(BlockSummary::decode(&summary.encode()).as_ref(), Ok(&summary));
    }
});
