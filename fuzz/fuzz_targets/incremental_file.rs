//! An incremental file is refused, or its header survives being written again and its blocks have the announced length.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pgkeep_format::incremental_file::{IncrementalEvent, IncrementalReader};

const BLOCK: u32 = 512;

fuzz_target!(|bytes: &[u8]| {
    let mut reader = IncrementalReader::new(bytes.len() as u64, BLOCK, 131_072);
    let (mut header, mut data) = (None, 0);
    for mut piece in bytes.chunks(97) {
        loop {
            match reader.next(&mut piece) {
                Ok(Some(IncrementalEvent::Header(found))) => header = Some(found),
                Ok(Some(IncrementalEvent::Data(bytes))) => data += bytes.len(),
                Ok(None) => break,
                Err(_) => return,
            }
        }
    }
    if reader.finish().is_ok() {
        let header = header.expect("a whole file has a header");
        assert_eq!(data, header.blocks.len() * BLOCK as usize);
        // Only the truncation length may have been cut down.
        let encoded = header.encode(BLOCK);
        assert_eq!(encoded[..8], bytes[..8]);
        assert_eq!(encoded[12..], bytes[12..encoded.len()]);
    }
});
