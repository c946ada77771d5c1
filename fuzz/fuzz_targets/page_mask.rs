//! Masking any bytes twice is masking them once, and a page differs from its masked self in hints only.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pgkeep_format::mask_hints;

fuzz_target!(|bytes: &[u8]| {
    let mut page = bytes.to_vec();
    mask_hints(&mut page);
    let once = page.clone();
    mask_hints(&mut page);
    assert_eq!(page, once);
});
