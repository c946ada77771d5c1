//! A map that is read is read again from what is printed of it.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pgkeep_format::tablespace_map;

fuzz_target!(|text: &str| {
    if let Ok(tablespaces) = tablespace_map::parse(text) {
        assert_eq!(tablespace_map::parse(&tablespace_map::write(&tablespaces)), Ok(tablespaces));
    }
});
