//! Header and table of an archive: what is read is written again as what it was read from says, and nothing panics.
//! Behind the table blocks are read to their end.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pgkeep_format::archive::{
    ArchiveDecoder, ArchiveFormat, ArchiveVersion, BlockKind, directory, write_entry, write_entry_count, write_header,
};

fuzz_target!(|bytes: &[u8]| {
    let Some((choice, bytes)) = bytes.split_first() else { return };
    let format = match choice % 3 {
        0 => ArchiveFormat::Custom,
        1 => ArchiveFormat::Directory,
        _ => ArchiveFormat::Tar,
    };
    for (number, line) in bytes.split(|byte| *byte == b'\n').enumerate() {
        if let Ok((_, name)) = directory::parse_large_object_line(line, number as u64) {
            assert!(directory::is_plain_file_name(name));
        }
    }
    let mut decoder = ArchiveDecoder::new(bytes);
    let Ok(mut header) = decoder.header(format) else { return };
    let Ok(entries) = decoder.table(&header) else { return };
    if header.version.is_at_least(ArchiveVersion::V1_14) {
        let mut out = Vec::new();
        header.int_size = 4;
        header.offset_size = 8;
        write_header(&mut out, &header).expect("a header that was read");
        write_entry_count(&mut out, entries.len() as u32);
        for entry in &entries {
            write_entry(&mut out, &header, entry).expect("an entry that was read");
        }
        let mut again = ArchiveDecoder::new(&out[..]);
        let header_again = again.header(format).expect("a header that was written");
        let mut expected = entries.clone();
        // WITH OIDS is not written.
        expected.iter_mut().for_each(|entry| entry.with_oids = false);
        assert_eq!(again.table(&header_again).expect("a table that was written"), expected);
    }
    while let Ok(Some(block)) = decoder.block() {
        if block.kind == BlockKind::Data {
            if decoder.chunks().skip().is_err() {
                return;
            }
            continue;
        }
        loop {
            match decoder.large_object() {
                Ok(Some(_)) if decoder.chunks().skip().is_ok() => {}
                Ok(None) => break,
                _ => return,
            }
        }
    }
});
