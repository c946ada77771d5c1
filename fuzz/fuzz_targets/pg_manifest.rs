//! A manifest whose checksum is taken for right; one that is read survives printing.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pgkeep_format::pg_manifest::PgManifest;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(manifest) = PgManifest::parse(bytes, |_| [0; 32]) {
        let printed = manifest.write(|_| [0; 32]);
        assert_eq!(PgManifest::parse(&printed, |_| [0; 32]).expect("a printed manifest"), manifest);
    }
});
