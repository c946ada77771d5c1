//! What a server may change on a page without a record in WAL, taken away, so that two copies of a page can be compared.
//!
//! Hints are shortcuts: a server that does not find one computes it again. It may set them on a page in memory and write
//! the page out, leaving the page's LSN as it is (`storage/buffer/bufmgr.c`, `MarkBufferDirtyHint`; with page checksums or
//! `wal_log_hints` the first hint after a checkpoint is logged as a full-page image). Which places these are is read off
//! the functions by which PostgreSQL itself compares pages under `wal_consistency_checking`: `access/common/bufmask.c`
//! and the `*_mask` functions of the access methods, the same from 13 to 18:
//!
//! | what | where |
//! |---|---|
//! | checksum | `pd_checksum`: it covers the hints |
//! | oldest transaction worth pruning for | `pd_prune_xid` |
//! | "page is full", "page has free line pointers" | `pd_flags` |
//! | dead index tuples | line pointers of state dead that still have a tuple (a pruned heap tuple has none) |
//! | outcome of transactions | `t_infomask`: xmin and xmax committed or aborted; a frozen xmin is not a hint |
//! | command ids | `t_cid` and "it is a combined one": a standby does not know them |
//! | padding | after a heap tuple, up to the next multiple of 8: replay leaves it as zeros |
//! | B-tree | "has garbage" and "split end" in `btpo_flags`, and `btpo_cycleid` of a vacuum |
//! | hash | "has dead tuples" in `hasho_flag` |
//! | GiST | "has garbage" in `flags` |
//! | BRIN | "evacuate page" in `flags` |
//! | unused space | between `pd_lower` and `pd_upper`: replay fills it with zeros |
//!
//! Less is taken away than PostgreSQL takes: the LSN stays, for a hint does not change it. One exception: pages of a GiST
//! index that was built sorted have the LSN 0/1 on the server that built it, and a real one where the build was replayed
//! (`access/gist.h`, `GistBuildLSN`, from 14 on). Which access method a page belongs
//! to is told by the size of its special space and the identifier at its end. Where a place is taken for a hint and is none,
//! a difference there goes unnoticed; no comparison finds a difference because of it.

use crate::Lsn;
use crate::le::{bytes_at, u16_at, u32_at};
use crate::page::{PAGE_HEADER_SIZE, page_lsn};

const CHECKSUM_AT: usize = 8;
const FLAGS_AT: usize = 10;
const LOWER_AT: usize = 12;
const UPPER_AT: usize = 14;
const SPECIAL_AT: usize = 16;
const PRUNE_XID_AT: usize = 20;

/// `PD_HAS_FREE_LINES` and `PD_PAGE_FULL`.
const HINT_FLAGS: u16 = 0x0003;

const LINE_POINTER: usize = 4;
const LP_NORMAL: u32 = 1;
const LP_DEAD: u32 = 3;

/// The header of a heap tuple, without its null bitmap.
const TUPLE_HEADER: usize = 23;
const TUPLE_COMMAND_AT: usize = 8;
const TUPLE_INFOMASK_AT: usize = 20;
const COMBINED_COMMAND: u16 = 0x0020;
const XMIN_HINTS: u16 = 0x0300;
const XMAX_HINTS: u16 = 0x0C00;

/// Identifiers at the end of the special space; `btpo_cycleid` of a B-tree is always smaller.
const HASH_PAGE: u16 = 0xFF80;
const GIST_PAGE: u16 = 0xFF81;
const GIST_BUILD_LSN: Lsn = Lsn(1);
const BRIN_PAGES: std::ops::RangeInclusive<u16> = 0xF091..=0xF093;
/// Special space of B-tree, hash and GiST pages.
const LARGE_SPECIAL: usize = 16;
/// Special space of BRIN pages.
const SMALL_SPECIAL: usize = 8;

const BTREE_HINTS: u16 = 0x0060;
const HASH_HINTS: u16 = 0x0080;
const GIST_HINTS: u16 = 0x0010;
const BRIN_HINTS: u16 = 0x0001;

/// Takes away from a page of a main fork what a server may change without logging it. Pages that are new, or that have no
/// sane header, stay as they are.
pub fn mask_hints(page: &mut [u8]) {
    let field = |at| usize::from(u16_at(page, at).unwrap_or_default());
    let (lower, upper, special) = (field(LOWER_AT), field(UPPER_AT), field(SPECIAL_AT));
    let is_sane = PAGE_HEADER_SIZE <= lower && lower <= upper && upper <= special && special <= page.len();
    if !is_sane || upper == 0 {
        return;
    }
    put(page, CHECKSUM_AT, [0; 2]);
    put(page, PRUNE_XID_AT, [0; 4]);
    clear(page, FLAGS_AT, HINT_FLAGS);
    // Old pages of some kinds say that they are empty although they are not.
    if lower > PAGE_HEADER_SIZE
        && let Some(unused) = page.get_mut(lower..upper)
    {
        unused.fill(0);
    }
    mask_special(page, special);
    let is_heap = special == page.len();
    for at in (PAGE_HEADER_SIZE..lower).step_by(LINE_POINTER) {
        mask_item(page, at, upper..special, is_heap);
    }
}

/// Whether two copies of a page of a main fork differ at most in hints, and in what a primary and its standby may differ.
#[must_use]
pub fn differs_only_in_hints(one: &[u8], other: &[u8]) -> bool {
    if one == other {
        return true;
    }
    let is_of_build = |page: &[u8]| page_lsn(page) == GIST_BUILD_LSN && is_gist(page);
    let ignores_lsn = is_of_build(one) || is_of_build(other);
    let masked = |page: &[u8]| {
        let mut page = page.to_vec();
        mask_hints(&mut page);
        if ignores_lsn {
            put(&mut page, 0, [0; 8]);
        }
        page
    };
    masked(one) == masked(other)
}

fn is_gist(page: &[u8]) -> bool {
    let special = u16_at(page, SPECIAL_AT).map(usize::from);
    special == page.len().checked_sub(LARGE_SPECIAL)
        && u16_at(page, page.len().saturating_sub(2)) == Some(GIST_PAGE)
}

/// A line pointer, and the heap tuple that it leads to: 15 bits of offset, 2 of state, 15 of length.
fn mask_item(page: &mut [u8], at: usize, tuples: std::ops::Range<usize>, is_heap: bool) {
    let Some(pointer) = u32_at(page, at) else { return };
    let (offset, state, length) = (pointer & 0x7FFF, pointer >> 15 & 3, pointer >> 17);
    if state == LP_DEAD && length > 0 {
        put(page, at, (pointer & !(3 << 15) | LP_NORMAL << 15).to_le_bytes());
    }
    let offset = offset as usize;
    let is_tuple = is_heap && state == LP_NORMAL && length as usize >= TUPLE_HEADER;
    if !is_tuple || offset < tuples.start || offset.saturating_add(TUPLE_HEADER) > tuples.end {
        return;
    }
    let infomask_at = offset.saturating_add(TUPLE_INFOMASK_AT);
    let infomask = u16_at(page, infomask_at).unwrap_or_default();
    let mut hints = XMAX_HINTS | COMBINED_COMMAND;
    // Both at once mean frozen, and freezing is logged.
    if infomask & XMIN_HINTS != XMIN_HINTS {
        hints |= XMIN_HINTS;
    }
    clear(page, infomask_at, hints);
    put(page, offset.saturating_add(TUPLE_COMMAND_AT), [0; 4]);
    let end = offset.saturating_add(length as usize);
    if let Some(padding) = page.get_mut(end..end.next_multiple_of(8).min(tuples.end)) {
        padding.fill(0);
    }
}

fn mask_special(page: &mut [u8], special: usize) {
    let end = page.len();
    let identifier = u16_at(page, end.saturating_sub(2)).unwrap_or_default();
    let before_end = end.saturating_sub(4);
    match end.saturating_sub(special) {
        LARGE_SPECIAL if identifier == HASH_PAGE => clear(page, before_end, HASH_HINTS),
        LARGE_SPECIAL if identifier == GIST_PAGE => clear(page, before_end, GIST_HINTS),
        LARGE_SPECIAL if identifier < HASH_PAGE => {
            clear(page, before_end, BTREE_HINTS);
            put(page, end.saturating_sub(2), [0; 2]);
        }
        SMALL_SPECIAL if BRIN_PAGES.contains(&identifier) => clear(page, before_end, BRIN_HINTS),
        _ => {}
    }
}

fn put<const N: usize>(page: &mut [u8], at: usize, bytes: [u8; N]) {
    if let Some(place) = page.get_mut(at..).and_then(|rest| rest.first_chunk_mut::<N>()) {
        *place = bytes;
    }
}

fn clear(page: &mut [u8], at: usize, bits: u16) {
    if let Some(bytes) = bytes_at::<2>(page, at) {
        put(page, at, (u16::from_le_bytes(bytes) & !bits).to_le_bytes());
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SIZE: usize = 8192;

    /// A page with one item of 40 bytes of ones, and that special space.
    fn page(special: &[u8]) -> Vec<u8> {
        let mut page = vec![0; SIZE];
        let special_at = SIZE - special.len();
        let tuple = special_at - 40;
        page[0..8].copy_from_slice(&[1, 0, 0, 0, 2, 0, 0, 0]);
        page[12..14].copy_from_slice(&28_u16.to_le_bytes());
        page[14..16].copy_from_slice(&(tuple as u16).to_le_bytes());
        page[16..18].copy_from_slice(&(special_at as u16).to_le_bytes());
        page[18..20].copy_from_slice(&0x2004_u16.to_le_bytes());
        page[24..28].copy_from_slice(&(tuple as u32 | 1 << 15 | 40 << 17).to_le_bytes());
        page[tuple..special_at].fill(0);
        page[special_at..].copy_from_slice(special);
        page
    }

    /// Whether xoring `bits` into the two bytes at `at` counts as a hint.
    fn is_hint(page: &[u8], at: usize, bits: u16) -> bool {
        let mut other = page.to_vec();
        for (place, byte) in other[at..].iter_mut().zip(bits.to_le_bytes()) {
            *place ^= byte;
        }
        differs_only_in_hints(page, &other)
    }

    #[test]
    fn hints_of_a_heap_page() {
        let heap = page(&[]);
        let tuple = SIZE - 40;
        for (at, bits) in [
            (8, 0xFFFF),  // pd_checksum
            (10, 0x0003), // pd_flags
            (20, 0xFFFF), // pd_prune_xid
            (22, 0xFFFF),
            (4000, 0xFFFF),       // unused space
            (tuple + 8, 0xFFFF),  // t_cid
            (tuple + 20, 0x0100), // xmin committed
            (tuple + 20, 0x0200), // xmin aborted
            (tuple + 20, 0x0400), // xmax committed
            (tuple + 20, 0x0800), // xmax invalid
            (tuple + 20, 0x0020), // combined command id
        ] {
            assert!(is_hint(&heap, at, bits), "{at} {bits:x}");
        }
        for (at, bits) in [
            (0, 1), // pd_lsn
            (4, 1),
            (10, 0x0004),         // all visible
            (12, 4),              // pd_lower
            (24, 1),              // the line pointer's offset
            (tuple, 1),           // t_xmin
            (tuple + 4, 1),       // t_xmax
            (tuple + 12, 1),      // t_ctid
            (tuple + 18, 1),      // t_infomask2
            (tuple + 20, 0x0001), // has nulls
            (tuple + 20, 0x0040), // exclusive lock
            (tuple + 20, 0x1000), // xmax is a multixact
            (tuple + 20, 0x2000), // updated
            (tuple + 24, 1),      // the data
            (SIZE - 1, 1),
        ] {
            assert!(!is_hint(&heap, at, bits), "{at} {bits:x}");
        }
        // Frozen: freezing and thawing are no hints.
        assert!(!is_hint(&heap, tuple + 20, 0x0300));
        let mut frozen = heap;
        frozen[tuple + 21] = 0x03;
        assert!(!is_hint(&frozen, tuple + 20, 0x0100));
        assert!(is_hint(&frozen, tuple + 20, 0x0800));
    }

    #[test]
    fn a_dead_line_pointer_is_a_hint_only_while_it_has_a_tuple() {
        let index = page(&[0; 16]);
        assert!(is_hint(&index, 25, 0x0100) && is_hint(&page(&[]), 25, 0x0100), "normal to dead");
        // Without a tuple: redirected, unused or pruned, all of them logged.
        let mut pruned = page(&[]);
        pruned[24..28].copy_from_slice(&(3_u32 << 15).to_le_bytes());
        assert!(!is_hint(&pruned, 25, 0x0100));
    }

    #[test]
    fn hints_of_indexes() {
        let with_id = |id: u16| {
            let mut special = [0_u8; 16];
            special[14..].copy_from_slice(&id.to_le_bytes());
            page(&special)
        };
        let flags = SIZE - 4;
        let btree = with_id(0);
        assert!(is_hint(&btree, flags, 0x0040) && is_hint(&btree, flags, 0x0020));
        assert!(is_hint(&btree, SIZE - 2, 0x7F7F), "cycle id");
        assert!(!is_hint(&btree, flags, 0x0001) && !is_hint(&btree, flags - 4, 1));
        assert!(!is_hint(&btree, SIZE - 16 - 40 + 20, 0x0100), "index tuples have no transaction hints");
        let hash = with_id(0xFF80);
        assert!(
            is_hint(&hash, flags, 0x0080) && !is_hint(&hash, flags, 0x0040) && !is_hint(&hash, SIZE - 2, 1)
        );
        let gist = with_id(0xFF81);
        assert!(is_hint(&gist, flags, 0x0010) && !is_hint(&gist, flags, 0x0008));
        let mut special = [0_u8; 8];
        special[6..].copy_from_slice(&0xF093_u16.to_le_bytes());
        let brin = page(&special);
        assert!(is_hint(&brin, flags, 0x0001) && !is_hint(&brin, flags, 0x0002));
        let gin = page(&[0; 8]);
        assert!(!is_hint(&gin, flags, 0x0001) && !is_hint(&gin, SIZE - 2, 0x0001));
    }

    #[test]
    fn padding_after_a_heap_tuple_does_not_count() {
        let mut heap = page(&[]);
        let tuple = SIZE - 40;
        heap[24..28].copy_from_slice(&(tuple as u32 | 1 << 15 | 37 << 17).to_le_bytes());
        for at in [SIZE - 3, SIZE - 2] {
            assert!(is_hint(&heap, at, 0x0001), "{at}");
        }
        assert!(!is_hint(&heap, SIZE - 4, 0x0001));
        let mut index = page(&[0; 16]);
        index[24..28].copy_from_slice(&((SIZE - 56) as u32 | 1 << 15 | 37 << 17).to_le_bytes());
        assert!(!is_hint(&index, SIZE - 18, 0x0001));
    }

    #[test]
    fn the_position_of_a_sorted_gist_build_does_not_count() {
        let with_lsn = |special: &[u8], lsn: u32| {
            let mut page = page(special);
            page[0..8].fill(0);
            page[4..8].copy_from_slice(&lsn.to_le_bytes());
            page
        };
        let mut gist = [0; 16];
        gist[14..].copy_from_slice(&0xFF81_u16.to_le_bytes());
        assert!(differs_only_in_hints(&with_lsn(&gist, 1), &with_lsn(&gist, 500)));
        assert!(differs_only_in_hints(&with_lsn(&gist, 500), &with_lsn(&gist, 1)));
        assert!(!differs_only_in_hints(&with_lsn(&gist, 2), &with_lsn(&gist, 500)));
        assert!(!differs_only_in_hints(&with_lsn(&[0; 16], 1), &with_lsn(&[0; 16], 500)));
        assert!(!differs_only_in_hints(&with_lsn(&[], 1), &with_lsn(&[], 500)));
    }

    #[test]
    fn pages_without_a_sane_header_are_compared_byte_by_byte() {
        let zero = vec![0; SIZE];
        assert!(differs_only_in_hints(&zero, &zero));
        for at in [8, 20, 4000] {
            assert!(!is_hint(&zero, at, 1), "{at}");
        }
        assert!(!differs_only_in_hints(&zero, &page(&[])));
        assert!(!differs_only_in_hints(&zero, &zero[..4096]));
        let mut odd = page(&[]);
        odd[14..16].copy_from_slice(&20_u16.to_le_bytes());
        assert!(!is_hint(&odd, 8, 1));
    }

    proptest! {
        #[test]
        fn any_bytes_are_masked_once_for_all(bytes in proptest::collection::vec(any::<u8>(), 0..600), lower in 0_u16..600, upper in 0_u16..600, special in 0_u16..600) {
            let mut page = bytes;
            for (at, value) in [(12, lower), (14, upper), (16, special)] {
                put(&mut page, at, value.to_le_bytes());
            }
            let original = page.clone();
            mask_hints(&mut page);
            prop_assert!(differs_only_in_hints(&original, &original));
            let once = page.clone();
            mask_hints(&mut page);
            prop_assert_eq!(page, once);
        }
    }
}
