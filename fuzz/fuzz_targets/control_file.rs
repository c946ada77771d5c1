//! A control file with the CRC that its bytes deserve, so that the fuzzer gets past it.
#![no_main]

use std::hint::black_box;

use libfuzzer_sys::fuzz_target;
use pgkeep_format::ControlFile;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(control) = ControlFile::parse(bytes) {
        black_box(control.major());
    }
    for place in [288, 292, 304] {
        let mut bytes = bytes.to_vec();
        bytes.resize(bytes.len().max(place + 4), 0);
        let crc = crc_fast::crc32_iscsi(&bytes[..place]);
        bytes[place..place + 4].copy_from_slice(&crc.to_le_bytes());
        if let Ok(control) = ControlFile::parse(&bytes) {
            assert!(control.block_size.is_power_of_two() && control.relation_segment_blocks > 0);
        }
    }
});
