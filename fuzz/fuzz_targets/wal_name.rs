//! A name that is read is printed exactly as it was; positions are never misread.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pgkeep_format::{Lsn, WalFileName, WalSegmentName, WalSegmentSize};

fuzz_target!(|input: (u8, &str)| {
    let (shift, name) = input;
    let size = WalSegmentSize::try_from(1 << (20 + shift % 11)).expect("a power of two from 1 MiB to 1 GiB");
    if let Some(parsed) = WalFileName::parse(name, size) {
        assert_eq!(parsed.file_name(size), name);
    }
    if let Some(segment) = WalSegmentName::parse(name, size) {
        assert_eq!(segment.file_name(size), name);
        assert_eq!(size.segment_at(size.start_of(segment.number)), segment.number);
    }
    if let Ok(lsn) = name.parse::<Lsn>() {
        assert_eq!(lsn.to_string().parse(), Ok(lsn));
    }
});
