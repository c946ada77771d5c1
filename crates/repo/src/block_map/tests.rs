//! The map against a model: for every block, where its bytes are.

use proptest::prelude::*;

use super::*;

const BLOCK: u32 = 8192;

fn key() -> DigestKey {
    DigestKey::new(&[3; 32])
}

/// Where one block is: nowhere, or frame number and position.
type Place = Option<(u32, u32)>;

fn frame(number: u32) -> FrameRef {
    // Several packs and epochs, frames that follow each other and frames that do not.
    let offset = 64 + u64::from(number % 50) * 5_000 + if number.is_multiple_of(7) { 3 } else { 0 };
    FrameRef {
        epoch: 1 + number / 200,
        pack: 1 + number / 50,
        offset,
        stored_len: 5_000,
        raw_len: 16 * BLOCK,
    }
}

fn digest(block: u32) -> BlockDigest {
    BlockDigest((u64::from(block) * 0x9E37_79B9).to_le_bytes())
}

/// Neighbouring blocks that go to neighbouring places, as a caller would put them.
fn runs_of(model: &[Place]) -> Vec<(u32, u32, Place)> {
    let mut runs: Vec<(u32, u32, Place)> = Vec::new();
    for (block, place) in (0..).zip(model) {
        let joins = runs.last().is_some_and(|(_, count, first)| match (first, place) {
            (None, None) => true,
            (Some((frame, position)), Some((f, p))) => frame == f && position + count == *p,
            _ => false,
        });
        match runs.last_mut() {
            Some((_, count, _)) if joins => *count += 1,
            _ => runs.push((block, 1, *place)),
        }
    }
    runs
}

fn build(model: &[Place]) -> BlockMapBuilder {
    let mut map = BlockMapBuilder::new(0);
    let mut runs = runs_of(model);
    // Any order will do.
    runs.reverse();
    for (first, count, place) in runs {
        let digests: Vec<_> = (first..first + count).map(digest).collect();
        match place {
            None => digests.iter().zip(first..).for_each(|(d, block)| map.put_zero(block, 1, *d)),
            Some((number, position)) => map.put_run(first, &digests, frame(number), position),
        }
    }
    map
}

fn model_of(runs: &[BlockRun]) -> Vec<Option<(FrameRef, u32)>> {
    runs.iter()
        .flat_map(|run| {
            (0..run.count).map(move |i| match run.target {
                RunTarget::Zero => None,
                RunTarget::Frame { frame, position } => Some((frame, position + i)),
            })
        })
        .collect()
}

fn model() -> impl Strategy<Value = Vec<Place>> {
    let run = prop_oneof![
        1 => (1..400_usize).prop_map(|count| vec![None; count]),
        3 => (0..400_u32, 0..16_u32, 1..17_u32).prop_map(|(number, position, count)| {
            (position..(position + count).min(16)).map(|p| Some((number, p))).collect()
        }),
        // A whole stretch of full frames, as a full backup has them.
        2 => (0..300_u32, 1..40_u32).prop_map(|(first, frames)| {
            (first..first + frames).flat_map(|number| (0..16).map(move |p| Some((number, p)))).collect()
        }),
    ];
    prop::collection::vec(run, 1..12)
        .prop_map(|runs| runs.concat())
        .prop_filter("no blocks", |m| !m.is_empty())
}

proptest! {
    #[test]
    fn runs_of_all_leaves_say_what_the_model_says(model in model()) {
        let count = model.len() as u32;
        let map = build(&model).finish(count).unwrap();
        let layout = LeafLayout::new(count);
        let expected: Vec<_> = model.iter().map(|p| p.map(|(number, position)| (frame(number), position))).collect();
        let mut decoded = Vec::new();
        let mut digests = Vec::new();
        for index in 0..layout.leaf_count() {
            let (first, blocks) = layout.leaf(index);
            let leaf = map.leaf(first, blocks, None).unwrap();
            let again = decode_runs(&encode_runs(&leaf.runs), first, blocks, BLOCK).unwrap();
            prop_assert_eq!(&again, &leaf.runs);
            decoded.extend(model_of(&again));
            digests.extend(leaf.digests);
        }
        prop_assert_eq!(decoded, expected);
        prop_assert_eq!(digests, (0..count).map(digest).collect::<Vec<_>>());
    }

    #[test]
    fn an_inline_root_survives_a_round_trip_and_no_damage_goes_unnoticed(
        mut model in model(), at: prop::sample::Index, bit in 0..8_u32,
    ) {
        model.truncate(256);
        let count = model.len() as u32;
        let leaf = build(&model).finish(count).unwrap().leaf(0, count, None).unwrap();
        let root = Root::inline(leaf, &key());
        let bytes = root.encode();
        prop_assert_eq!(Root::decode(&bytes, BLOCK, &key()).unwrap(), root.clone());
        let at = at.index(bytes.len());
        prop_assert!(Root::decode(&bytes[..at], BLOCK, &key()).is_err());
        let mut broken = bytes;
        broken[at] ^= 1 << bit;
        // The digests of the blocks are covered by that of the file; runs by the digest of the frame they lie in.
        if let Ok(decoded) = Root::decode(&broken, BLOCK, &key()) {
            prop_assert_eq!(decoded.digest, root.digest);
            let (Leaves::Inline { digests, runs }, Leaves::Inline { digests: expected, .. }) = (&decoded.leaves, &root.leaves)
            else { panic!("inline") };
            prop_assert_eq!(digests, expected);
            prop_assert_eq!(model_of(runs).len(), model.len());
        }
    }

    #[test]
    fn a_root_with_leaves_survives_a_round_trip(
        places in prop::collection::vec(prop::option::of((0..60_u32, 0..60_u32, 1..300_u32, 0..900_u32)), 2..60),
        at: prop::sample::Index, bit in 0..8_u32,
    ) {
        let leaf = |place: &Option<(u32, u32, u32, u32)>, index: u32, last: bool| {
            let blocks: u32 = if last { 100 } else { 256 };
            let pieces = place.map(|(runs, digests, len, offset)| {
                (PieceRef { frame: frame(runs), offset, len }, PieceRef { frame: frame(100 + digests), offset, len: blocks * 8 })
            });
            Leaf { pieces, digest: u64::from(index).to_le_bytes() }
        };
        let last = places.len() - 1;
        let leaves: Vec<Leaf> = places.iter().enumerate().map(|(i, p)| leaf(p, i as u32, i == last)).collect();
        let block_count = last as u32 * 256 + 100;
        let digest = key().file(block_count, 8, leaves.iter().map(|leaf| leaf.digest));
        let shares = vec![PackShare { epoch: 1, pack: 2, bytes: 3 }];
        let root = Root { block_count, leaf_shift: 8, digest, leaves: Leaves::Pieces { leaves, shares } };
        let bytes = root.encode();
        prop_assert_eq!(Root::decode(&bytes, BLOCK, &key()).unwrap(), root.clone());
        let at = at.index(bytes.len());
        prop_assert!(Root::decode(&bytes[..at], BLOCK, &key()).is_err());
        let mut broken = bytes;
        broken[at] ^= 1 << bit;
        if let Ok(decoded) = Root::decode(&broken, BLOCK, &key()) {
            prop_assert_eq!((decoded.digest, decoded.block_count), (root.digest, root.block_count));
        }
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes: Vec<u8>, blocks in 1..300_u32, flags in 0..2_u8) {
        let mut root = vec![1, flags, 8];
        root.extend_from_slice(&bytes);
        assert!(Root::decode(&root, BLOCK, &key()).is_err());
        if let Ok(runs) = decode_runs(&bytes, 0, blocks, BLOCK) {
            assert_eq!(model_of(&runs).len(), blocks as usize);
        }
    }
}

#[test]
fn a_count_that_lies_allocates_nothing() {
    // A table of 2^32-1 frames, of leaves, of packs.
    let many = [0xFF, 0xFF, 0xFF, 0xFF, 0x0F];
    assert!(decode_runs(&many, 0, 256, BLOCK).is_err());
    for flags in [0, 1] {
        let mut root = vec![1, flags, 16];
        root.extend_from_slice(&many);
        root.extend_from_slice(&[0; 16]);
        root.extend_from_slice(&many);
        assert!(Root::decode(&root, BLOCK, &key()).is_err());
    }
}

#[test]
fn runs_stay_inside_their_frame_and_leaf() {
    let run = |first_block, count, position| BlockRun {
        first_block,
        count,
        target: RunTarget::Frame { frame: frame(0), position },
    };
    assert!(decode_runs(&encode_runs(&[run(0, 16, 0)]), 0, 16, BLOCK).is_ok());
    for (runs, blocks) in [
        (vec![run(0, 17, 0)], 17),
        (vec![run(0, 1, 16)], 1),
        (vec![run(0, 2, u32::MAX)], 2),
        (vec![run(0, 16, 0)], 15),
        (vec![run(0, 16, 0)], 17),
    ] {
        assert!(decode_runs(&encode_runs(&runs), 0, blocks, BLOCK).is_err(), "{runs:?}");
    }
}

#[test]
fn huge_files_get_larger_leaves() {
    assert_eq!(LeafLayout::new(131_072).shift, 8);
    let largest = LeafLayout::new(u32::MAX);
    assert_eq!(largest.shift, 16);
    assert_eq!(largest.leaf_count(), 1 << 16);
    assert_eq!(largest.leaf((1 << 16) - 1), (0xFFFF_0000, 0xFFFF));
}
