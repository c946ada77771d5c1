//! An archive that is read in pieces says the same as when it is read at once; every path in it is harmless.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pgkeep_format::tar::{BLOCK, TarEvent, TarReader};

/// Gives each block that could be a header the checksum that it deserves, so that the fuzzer gets past it.
fn repair(bytes: &mut [u8]) {
    for block in bytes.chunks_exact_mut(BLOCK) {
        if block[257..262] == *b"ustar" {
            block[148..156].fill(b' ');
            let sum: u32 = block.iter().copied().map(u32::from).sum();
            block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        }
    }
}

/// What is in the archive, and whether it ended well.
fn read(bytes: &[u8], step: usize) -> (Vec<String>, bool) {
    let mut reader = TarReader::new();
    let mut entries: Vec<String> = Vec::new();
    let mut contents = 0;
    for mut piece in bytes.chunks(step) {
        loop {
            match reader.next(&mut piece) {
                Ok(None) => break,
                Ok(Some(TarEvent::Entry(entry))) => {
                    let mut names = entry.path.split(|byte| *byte == b'/');
                    assert!(names.all(|name| !name.is_empty() && name != b".." && !name.contains(&0)));
                    entries.push(format!("{entry:?}"));
                    contents = 0;
                }
                Ok(Some(TarEvent::Data(data))) => contents += data.len(),
                Ok(Some(TarEvent::EndOfEntry)) => entries.push(contents.to_string()),
                Err(_) => return (entries, false),
            }
        }
    }
    (entries, reader.finish().is_ok())
}

fuzz_target!(|bytes: &[u8]| {
    let mut bytes = bytes.to_vec();
    repair(&mut bytes);
    let at_once = read(&bytes, usize::MAX);
    let (in_pieces, is_well) = read(&bytes, 100);
    assert_eq!(at_once.1, is_well);
    assert_eq!(at_once.0, in_pieces);
});
