//! The index of pieces in an archive, with its checksum computed: what is read is written again as the same, and nothing
//! panics or allocates what a count claims.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pgkeep_format::archive::{INDEX_TRAILER_LENGTH, IndexTrailer, PieceIndex};

fuzz_target!(|bytes: &[u8]| {
    let mut index = [b"PGKPIDX\x01", bytes].concat();
    index.extend_from_slice(&crc_fast::crc32_iscsi(&index).to_le_bytes());
    if let Ok(index) = PieceIndex::decode(&index) {
        for entry in &index.entries {
            let _ = (entry.rows(), entry.plain_length(), entry.end());
        }
        assert_eq!(PieceIndex::decode(&index.encode()), Ok(index));
    }
    let trailer = bytes.first_chunk::<INDEX_TRAILER_LENGTH>().and_then(IndexTrailer::decode);
    if let Some(trailer) = trailer {
        assert_eq!(Some(&trailer.encode()), bytes.first_chunk());
    }
});
