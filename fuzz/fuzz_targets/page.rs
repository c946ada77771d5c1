//! A page is judged without panic, and after sealing it with its checksum never called damaged by it.
#![no_main]

use std::hint::black_box;

use libfuzzer_sys::fuzz_target;
use pgkeep_format::{PageVerdict, page_checksum, page_lsn, verify_page};

fuzz_target!(|input: (u32, &[u8])| {
    let (block, bytes) = input;
    black_box(page_lsn(bytes));
    black_box(verify_page(bytes, block));
    let mut page = bytes.to_vec();
    page.resize(8192, 0);
    let checksum = page_checksum(&page, block);
    page[8..10].copy_from_slice(&checksum.to_le_bytes());
    assert!(!matches!(verify_page(&page, block), PageVerdict::BadChecksum { .. }));
});
