//! Stored bytes of the repository (lines of a dump's manifest) are decoded without panic or unbounded memory, whatever they
//! are.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| pgkeep_repo::fuzzing::dump_manifest(bytes));
