//! Records of any contents, with the checksum and links that they deserve, so that the fuzzer gets past these.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pgkeep_format::wal::{SegmentSummary, scan_transactions, summarize_partial_segment};
use pgkeep_format::{SegmentNumber, TimelineId, WalSegmentName, WalSegmentSize};

const MAGICS: [u16; 6] = [0xD106, 0xD10D, 0xD110, 0xD113, 0xD116, 0xD118];
const PAGE: usize = 65_536;

fuzz_target!(|bytes: &[u8]| {
    let Some((choice, mut rest)) = bytes.split_first() else { return };
    let size = WalSegmentSize::try_from(1 << 20).expect("a power of two");
    let name = WalSegmentName { timeline: TimelineId::FIRST, number: SegmentNumber(2) };
    let base = size.start_of(name.number).0;
    let mut segment = Vec::new();
    segment.extend_from_slice(&MAGICS[usize::from(*choice) % MAGICS.len()].to_le_bytes());
    segment.extend_from_slice(&2_u16.to_le_bytes());
    segment.extend_from_slice(&1_u32.to_le_bytes());
    segment.extend_from_slice(&base.to_le_bytes());
    segment.extend_from_slice(&[0; 16]);
    segment.extend_from_slice(&u32::from(size).to_le_bytes());
    segment.extend_from_slice(&(PAGE as u32).to_le_bytes());
    let mut prev = base - 8;
    let mut records = 0;
    // Each record: resource manager, info, length of the body, body.
    while let [manager, info, length, tail @ ..] = rest {
        let (body, next) = tail.split_at(usize::from(*length).min(tail.len()));
        rest = next;
        let manager = if *manager > 21 && *manager < 128 { manager % 22 } else { *manager };
        if segment.len() + body.len() + 32 > PAGE || (manager > 21 && *choice % 6 < 2) {
            break;
        }
        let at = base + segment.len() as u64;
        let mut header = Vec::new();
        header.extend_from_slice(&(24 + body.len() as u32).to_le_bytes());
        header.extend_from_slice(&7_u32.to_le_bytes());
        header.extend_from_slice(&prev.to_le_bytes());
        header.extend_from_slice(&[*info, manager, 0, 0]);
        let crc = crc_fast::crc32_iscsi(&[body, header.as_slice()].concat());
        segment.extend_from_slice(&header);
        segment.extend_from_slice(&crc.to_le_bytes());
        segment.extend_from_slice(body);
        segment.resize(segment.len().next_multiple_of(8), 0);
        prev = at;
        records += 1;
        if manager == 0 && info & 0xF0 == 0x40 {
            break;
        }
    }
    let summary = summarize_partial_segment(&segment, name, size).expect("the header is right");
    assert_eq!(summary.records, records);
    assert_eq!(SegmentSummary::decode(&summary.encode()).as_ref(), Ok(&summary));
    let events = scan_transactions(&segment, name, size, None).expect("the header is right");
    assert!(events.count() as u64 >= summary.commits + summary.aborts);
});
