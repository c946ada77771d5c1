//! Stored bytes of the repository (journal) are decoded without panic or unbounded memory, whatever they are.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| pgkeep_repo::fuzzing::journal(bytes));
