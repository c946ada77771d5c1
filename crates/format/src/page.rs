//! Data pages: their header and checksum (`storage/bufpage.h`, `storage/checksum_impl.h`; the same from 13 to 18).
//!
//! The checksum is 16 bits wide and includes the block's number in its relation: a page at a wrong place is a bad
//! one. It catches all but one in 65,535 damages, and says nothing about which. A page that a server was writing
//! while it was read looks damaged too; judging that takes a second look and the backup's start, and is not done
//! here.

use crate::Lsn;
use crate::le::{u16_at, u32_at};

/// Bytes of the page header that every page has.
pub const PAGE_HEADER_SIZE: usize = 24;

const CHECKSUM_AT: usize = 8;
const FLAGS_AT: usize = 10;
const LOWER_AT: usize = 12;
const UPPER_AT: usize = 14;
const SPECIAL_AT: usize = 16;

/// Bits of `pd_flags` that have a meaning.
const VALID_FLAGS: u16 = 0x0007;

/// What a page turned out to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PageVerdict {
    /// The checksum fits and the header is sane.
    Valid,
    /// All zero: allocated and never written.
    New,
    /// The checksum does not fit the contents and the place.
    BadChecksum {
        /// What the page says.
        stored: u16,
        /// What its contents at that block number give.
        computed: u16,
    },
    /// The header is one that no server would accept; or the page claims to be new and is not all zero.
    BadHeader,
}

/// The position after the last WAL record that changed the page; [`Lsn::INVALID`] on a new page.
#[must_use]
pub fn page_lsn(page: &[u8]) -> Lsn {
    match (u32_at(page, 0), u32_at(page, 4)) {
        // Two halves, the high one first, each in machine order.
        (Some(high), Some(low)) => Lsn(u64::from(high) << 32 | u64::from(low)),
        _ => Lsn::INVALID,
    }
}

/// Judges a page of a cluster with checksums. `block` is its number within the relation's fork: the segment's number
/// times the blocks in a segment, plus the place in the file.
#[must_use]
pub fn verify_page(page: &[u8], block: u32) -> PageVerdict {
    PageFacts::of(page).verdict(block)
}

/// All that [`verify_page`] needs of a page, in eight bytes: a page can be read now and judged later, when it is known
/// which block it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PageFacts {
    /// The checksum's lanes before the block number goes in.
    fold: u32,
    stored: u16,
    shape: Shape,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shape {
    New,
    Impossible,
    SaneHeader,
    BadHeader,
}

impl PageFacts {
    /// Reads a page.
    #[must_use]
    pub fn of(page: &[u8]) -> PageFacts {
        let without_sum = |shape| PageFacts { fold: 0, stored: 0, shape };
        if page.len() < PAGE_HEADER_SIZE || !page.len().is_multiple_of(ROW) {
            return without_sum(Shape::Impossible);
        }
        let field = |at| u16_at(page, at).unwrap_or_default();
        let (lower, upper, special) = (field(LOWER_AT), field(UPPER_AT), field(SPECIAL_AT));
        if upper == 0 {
            return without_sum(if is_zero(page) { Shape::New } else { Shape::Impossible });
        }
        let is_sane = field(FLAGS_AT) & !VALID_FLAGS == 0
            && lower <= upper
            && upper <= special
            && usize::from(special) <= page.len()
            && special.is_multiple_of(8);
        PageFacts {
            fold: fold(page),
            stored: field(CHECKSUM_AT),
            shape: if is_sane { Shape::SaneHeader } else { Shape::BadHeader },
        }
    }

    /// What [`verify_page`] says of the page as that block.
    #[must_use]
    pub fn verdict(self, block: u32) -> PageVerdict {
        match self.shape {
            Shape::New => PageVerdict::New,
            Shape::Impossible => PageVerdict::BadHeader,
            Shape::SaneHeader | Shape::BadHeader => {
                let computed = reduce(self.fold ^ block);
                if self.stored != computed {
                    PageVerdict::BadChecksum { stored: self.stored, computed }
                } else if self.shape == Shape::SaneHeader {
                    PageVerdict::Valid
                } else {
                    PageVerdict::BadHeader
                }
            }
        }
    }
}

/// Whether all bytes are zero.
#[must_use]
pub fn is_zero(page: &[u8]) -> bool {
    let (chunks, rest) = page.as_chunks::<64>();
    chunks.iter().all(|chunk| chunk.iter().fold(0, |all, byte| all | byte) == 0)
        && rest.iter().all(|b| *b == 0)
}

const LANES: usize = 32;
/// Bytes that one step takes: a 32-bit word for each lane.
const ROW: usize = LANES * 4;
const PRIME: u32 = 16_777_619;
#[rustfmt::skip]
const START: [u32; LANES] = [
    0x5B1F_36E9, 0xB852_5960, 0x02AB_50AA, 0x1DE6_6D2A, 0x79FF_467A, 0x9BB9_F8A3, 0x217E_7CD2, 0x83E1_3D2C,
    0xF8D4_474F, 0xE39E_B970, 0x42C6_AE16, 0x9932_16FA, 0x7B09_3B5D, 0x98DA_FF3C, 0xF718_902A, 0x0B1C_9CDB,
    0xE58F_764B, 0x1876_36BC, 0x5D7B_3BB1, 0xE73D_E7DE, 0x92BE_C979, 0xCCA6_C0B2, 0x304A_0979, 0x85AA_43D4,
    0x7831_25BB, 0x6CA8_EAA2, 0xE407_EAC6, 0x4B5C_FC3E, 0x9FBF_8C76, 0x15CA_20BE, 0xF2CA_9FD3, 0x959B_D756,
];

/// The checksum of a page as if it lay at `block` of its relation's fork; the stored checksum does not count. Bytes
/// after the last whole row of 128 do not count either: real pages have none.
#[must_use]
pub fn page_checksum(page: &[u8], block: u32) -> u16 {
    reduce(fold(page) ^ block)
}

/// At most 65,534 before the addition.
fn reduce(folded: u32) -> u16 {
    u16::try_from(folded % 65_535).unwrap_or_default() + 1
}

fn fold(page: &[u8]) -> u32 {
    let mut lanes = START;
    let mut rows = page.chunks_exact(ROW);
    if let Some(first) = rows.next().and_then(|row| row.first_chunk::<ROW>()) {
        let mut row = *first;
        if let Some(stored) = row.get_mut(CHECKSUM_AT..CHECKSUM_AT + 2) {
            stored.fill(0);
        }
        mix(&mut lanes, &row);
    }
    for row in rows {
        if let Some(row) = row.first_chunk::<ROW>() {
            mix(&mut lanes, row);
        }
    }
    mix(&mut lanes, &[0; ROW]);
    mix(&mut lanes, &[0; ROW]);
    lanes.iter().fold(0, |all, lane| all ^ lane)
}

/// One step of each lane. Fixed counts and no bounds, so that the compiler keeps all lanes in vector registers.
#[inline(always)]
fn mix(lanes: &mut [u32; LANES], row: &[u8; ROW]) {
    let (words, _) = row.as_chunks::<4>();
    for (lane, word) in lanes.iter_mut().zip(words) {
        let mixed = *lane ^ u32::from_le_bytes(*word);
        *lane = mixed.wrapping_mul(PRIME) ^ (mixed >> 17);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A page with a sane header, these contents and the right checksum.
    fn page(size: usize, block: u32, contents: &[u8]) -> Vec<u8> {
        let mut page = vec![0; size];
        for (place, byte) in page[PAGE_HEADER_SIZE..].iter_mut().zip(contents.iter().cycle()) {
            *place = *byte;
        }
        page[..8].copy_from_slice(&[7, 0, 0, 0, 0x28, 0, 0, 0x4A]);
        put(&mut page, LOWER_AT, 28);
        put(&mut page, UPPER_AT, 8000);
        let special = u16::try_from(size).unwrap();
        put(&mut page, UPPER_AT, special - 192);
        put(&mut page, SPECIAL_AT, special);
        put(&mut page, 18, special | 4);
        seal(&mut page, block);
        page
    }

    fn put(page: &mut [u8], at: usize, value: u16) {
        page[at..at + 2].copy_from_slice(&value.to_le_bytes());
    }

    fn seal(page: &mut [u8], block: u32) {
        let sum = page_checksum(page, block);
        put(page, CHECKSUM_AT, sum);
    }

    /// The same by the letter of the definition, one word at a time.
    fn slow_checksum(page: &[u8], block: u32) -> u16 {
        let mut page = page.to_vec();
        put(&mut page, CHECKSUM_AT, 0);
        page.extend_from_slice(&[0; 2 * ROW]);
        let mut lanes = START;
        for (index, word) in page.chunks(4).enumerate() {
            let mixed = lanes[index % LANES] ^ u32::from_le_bytes(word.try_into().unwrap());
            lanes[index % LANES] = mixed.wrapping_mul(PRIME) ^ (mixed >> 17);
        }
        let folded = lanes.iter().fold(block, |all, lane| all ^ lane);
        (folded % 65_535 + 1) as u16
    }

    #[test]
    fn a_page_is_valid_at_its_own_block_only() {
        let page = page(8192, 131_072 + 5, b"contents");
        assert_eq!(verify_page(&page, 131_072 + 5), PageVerdict::Valid);
        assert!(matches!(verify_page(&page, 5), PageVerdict::BadChecksum { .. }));
        assert_eq!(page_lsn(&page), Lsn(0x7_4A00_0028));
    }

    #[test]
    fn only_zeros_are_a_new_page() {
        let mut page = vec![0; 8192];
        assert_eq!(verify_page(&page, 0), PageVerdict::New);
        assert_eq!(page_lsn(&page), Lsn::INVALID);
        page[8191] = 1;
        assert_eq!(verify_page(&page, 0), PageVerdict::BadHeader);
    }

    #[test]
    fn a_right_checksum_does_not_excuse_a_header_that_no_server_accepts() {
        for (at, value) in
            [(FLAGS_AT, 8), (LOWER_AT, 8001), (UPPER_AT, 8193), (SPECIAL_AT, 8196), (SPECIAL_AT, 8200)]
        {
            let mut page = page(8192, 3, b"contents");
            put(&mut page, at, value);
            seal(&mut page, 3);
            assert_eq!(verify_page(&page, 3), PageVerdict::BadHeader, "{at} {value}");
        }
    }

    #[test]
    fn what_is_no_page_is_no_valid_page() {
        for length in [0, 1, 23, 24, 127, 8191] {
            assert_eq!(verify_page(&vec![0; length], 0), PageVerdict::BadHeader, "{length}");
            std::hint::black_box(page_checksum(&vec![0; length], 0));
            std::hint::black_box(page_lsn(&vec![0; length]));
        }
    }

    /// Every single flipped bit, except those that the 16-bit checksum cannot see: one in 65,535 on average, so about
    /// one of a page's 65,536. A flip in the checksum itself, or one that leaves `pd_upper` zero, is always seen.
    #[test]
    fn flipped_bits_are_noticed() {
        let good = page(8192, 9, b"some contents that repeat");
        let mut missed = 0;
        for bit in 0..good.len() * 8 {
            let mut page = good.clone();
            page[bit / 8] ^= 1 << (bit % 8);
            match verify_page(&page, 9) {
                PageVerdict::BadChecksum { .. } | PageVerdict::BadHeader => {}
                PageVerdict::Valid if !(CHECKSUM_AT..CHECKSUM_AT + 2).contains(&(bit / 8)) => missed += 1,
                verdict => panic!("{verdict:?} with bit {bit} flipped"),
            }
        }
        assert!(missed <= 4, "{missed} flipped bits went unnoticed");
    }

    proptest! {
        #[test]
        fn the_fast_checksum_is_the_defined_one(
            size in prop::sample::select(vec![1024usize, 2048, 4096, 8192, 16_384, 32_768]),
            block in any::<u32>(),
            contents in prop::collection::vec(any::<u8>(), 1..300),
        ) {
            let page = page(size, block, &contents);
            prop_assert_eq!(page_checksum(&page, block), slow_checksum(&page, block));
            prop_assert_eq!(verify_page(&page, block), PageVerdict::Valid);
        }

        #[test]
        fn another_stored_checksum_is_never_valid(block in any::<u32>(), other in any::<u16>()) {
            let mut page = page(8192, block, b"contents");
            let computed = page_checksum(&page, block);
            put(&mut page, CHECKSUM_AT, other);
            let verdict = verify_page(&page, block);
            if other == computed {
                prop_assert_eq!(verdict, PageVerdict::Valid);
            } else {
                prop_assert_eq!(verdict, PageVerdict::BadChecksum { stored: other, computed });
            }
        }

        #[test]
        fn arbitrary_bytes_do_no_harm(bytes in prop::collection::vec(any::<u8>(), 0..600), block in any::<u32>()) {
            std::hint::black_box(verify_page(&bytes, block));
            std::hint::black_box(page_lsn(&bytes));
        }
    }
}
