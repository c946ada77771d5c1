//! A path that names a relation's file is printed exactly as it was read.
#![no_main]

use std::hint::black_box;

use libfuzzer_sys::fuzz_target;
use pgkeep_format::{RelationFile, classify_entry, init_fork_of, is_temporary_relation};

fuzz_target!(|path: &str| {
    const VERSION: &str = "PG_15_202209061";
    black_box(classify_entry(path, true, 15));
    black_box(classify_entry(path, false, 18));
    black_box(is_temporary_relation(path));
    black_box(init_fork_of(path));
    if let Some(file) = RelationFile::parse_path(path, VERSION) {
        assert_eq!(RelationFile::parse_path(&file.path(VERSION), VERSION), Some(file));
        black_box(file.first_block(131_072));
    }
});
