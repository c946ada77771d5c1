//! Decoders of stored bytes, fed with broken versions of the frozen sample: an answer, never a panic.
//!
//! A small steady share of what the fuzz targets do at length.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail loudly too")]

use std::path::Path;

use pgkeep_repo::fuzzing;
use proptest::prelude::*;

fn files_below(directory: &Path, found: &mut Vec<Vec<u8>>) {
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files_below(&path, found);
        } else {
            let mut bytes = std::fs::read(path).unwrap();
            bytes.truncate(2048);
            found.push(bytes);
        }
    }
}

fn samples() -> Vec<Vec<u8>> {
    let mut found = Vec::new();
    files_below(Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/testdata/format/v1")), &mut found);
    // A line of a manifest, and a frame without the header of its pack.
    found.push(br#"{"p":"base/5/1259","s":8192,"m":"600","t":1,"r":[0,64,100,8192,0,60]}"#.to_vec());
    found.push(br#"{"x":"ff","k":"l","m":"777","t":-1,"lx":"fe"}"#.to_vec());
    let frames: Vec<Vec<u8>> =
        found.iter().filter(|f| f.starts_with(b"PGKPACK1")).map(|pack| pack[64..].to_vec()).collect();
    found.extend(frames);
    found
}

#[derive(Clone, Debug)]
enum Damage {
    Set(prop::sample::Index, u8),
    Flip(prop::sample::Index, u8),
    Cut(prop::sample::Index),
    Insert(prop::sample::Index, Vec<u8>),
}

fn damage() -> impl Strategy<Value = Damage> {
    prop_oneof![
        any::<(prop::sample::Index, u8)>().prop_map(|(at, byte)| Damage::Set(at, byte)),
        any::<(prop::sample::Index, u8)>().prop_map(|(at, bit)| Damage::Flip(at, bit % 8)),
        any::<prop::sample::Index>().prop_map(Damage::Cut),
        (any::<prop::sample::Index>(), prop::collection::vec(any::<u8>(), 1..9))
            .prop_map(|(at, bytes)| Damage::Insert(at, bytes)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(5_000))]

    #[test]
    fn broken_bytes_get_an_answer(
        which: prop::sample::Index, all in prop::collection::vec(damage(), 0..6), decoder in 0..5_u8,
    ) {
        thread_local!(static SAMPLES: Vec<Vec<u8>> = samples());
        let mut bytes = SAMPLES.with(|samples| which.get(samples).clone());
        for damage in all {
            if bytes.is_empty() {
                break;
            }
            let length = bytes.len();
            match damage {
                Damage::Set(at, byte) => bytes[at.index(length)] = byte,
                Damage::Flip(at, bit) => bytes[at.index(length)] ^= 1 << bit,
                Damage::Cut(at) => bytes.truncate(at.index(length)),
                Damage::Insert(at, more) => {
                    let at = at.index(length);
                    bytes.splice(at..at, more);
                }
            }
        }
        match decoder {
            0 => fuzzing::block_map(&bytes),
            1 => fuzzing::manifest(&bytes),
            2 => fuzzing::pack(&bytes),
            3 => fuzzing::journal(&bytes),
            _ => fuzzing::wal(&bytes),
        }
    }
}
