//! A history that is read holds every position on a timeline of its own, and survives printing.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pgkeep_format::{Lsn, TimelineHistory, TimelineId};

fuzz_target!(|input: (u64, &[u8])| {
    let (lsn, bytes) = input;
    let timeline = TimelineId::new(u32::MAX).expect("not zero");
    if let Ok(history) = TimelineHistory::parse(timeline, bytes) {
        assert!(history.contains(history.timeline_at(Lsn(lsn)), Lsn(lsn)));
        let printed = history.to_string();
        // A reason that was not UTF-8 may have grown beyond the limit.
        if bytes.len() < 1 << 16 {
            assert_eq!(TimelineHistory::parse(timeline, printed.as_bytes()), Ok(history));
        }
    }
});
