//! Header and table there and back; hostile bytes; the bytes of real archives.

use std::io::Read;

use proptest::prelude::*;

use super::*;

fn header(minor: u8, format: ArchiveFormat, compression: Compression) -> ArchiveHeader {
    ArchiveHeader {
        version: ArchiveVersion { major: 1, minor, revision: 0 },
        int_size: 4,
        offset_size: 8,
        format,
        compression,
        compression_level: (minor < 15).then_some(match compression {
            Compression::None => 0,
            _ => -1,
        }),
        created: LocalTime {
            second: 49,
            minute: 1,
            hour: 2,
            day: 3,
            month0: 10,
            year_since_1900: 126,
            is_dst: 0,
        },
        database: Some("db".into()),
        server_version: Some("18.6".into()),
        dump_version: None,
    }
}

fn encode(header: &ArchiveHeader, entries: &[TocEntry]) -> Vec<u8> {
    let mut out = Vec::new();
    write_header(&mut out, header).unwrap();
    write_entry_count(&mut out, u32::try_from(entries.len()).unwrap());
    for entry in entries {
        write_entry(&mut out, header, entry).unwrap();
    }
    out
}

fn decode(bytes: &[u8], format: ArchiveFormat) -> Result<(ArchiveHeader, Vec<TocEntry>, u64), ArchiveError> {
    let mut decoder = ArchiveDecoder::new(bytes);
    let header = decoder.header(format)?;
    let entries = decoder.table(&header)?;
    Ok((header, entries, decoder.position()))
}

#[test]
fn the_first_bytes_are_those_of_a_real_archive() {
    // As pg_dump 18.6 -Fc wrote them, and 15.20 with its level in place of the codec.
    let bytes = encode(&header(16, ArchiveFormat::Custom, Compression::Gzip), &[]);
    assert_eq!(&bytes[..17], b"PGDMP\x01\x10\x00\x04\x08\x01\x01\x00\x31\x00\x00\x00");
    let bytes = encode(&header(14, ArchiveFormat::Custom, Compression::Gzip), &[]);
    assert_eq!(&bytes[..16], b"PGDMP\x01\x0e\x00\x04\x08\x01\x01\x01\x00\x00\x00");
    // A directory calls itself a tar archive.
    let bytes = encode(&header(16, ArchiveFormat::Directory, Compression::Zstd), &[]);
    assert_eq!(&bytes[10..12], [3, 3]);
}

#[test]
fn a_version_says_only_what_it_can() {
    let mut out = Vec::new();
    let error = write_header(&mut out, &header(14, ArchiveFormat::Custom, Compression::Zstd)).unwrap_err();
    assert!(matches!(error, EncodeError::Compression { .. }));
    let error = write_header(&mut out, &header(13, ArchiveFormat::Custom, Compression::None)).unwrap_err();
    assert!(matches!(error, EncodeError::Version(_)));
}

#[test]
fn what_is_no_archive_is_told_apart() {
    let good = encode(&header(16, ArchiveFormat::Custom, Compression::None), &[]);
    let change = |at: usize, byte: u8| {
        let mut bytes = good.clone();
        bytes[at] = byte;
        decode(&bytes, ArchiveFormat::Custom).unwrap_err().to_string()
    };
    assert_eq!(change(0, b'X'), "did not find magic string in file header");
    assert_eq!(change(6, 17), "unsupported version (1.17) in file header");
    assert_eq!(change(6, 11), "unsupported version (1.11) in file header");
    assert_eq!(change(8, 33), "sanity check on integer size (33) failed");
    assert_eq!(change(10, 3), "expected format (1) differs from format found in file (3)");
    assert_eq!(change(11, 9), "unknown compression algorithm (9) in file header");
    let error = decode(&good[..good.len() - 1], ArchiveFormat::Custom).unwrap_err();
    let end = good.len() - 1;
    assert_eq!(error.to_string(), format!("could not read from input file: end of file at byte {end}"));
}

#[test]
fn a_length_that_lies_costs_no_memory() {
    let mut bytes = encode(&header(16, ArchiveFormat::Custom, Compression::None), &[]);
    bytes.truncate(bytes.len() - 5);
    write_int(&mut bytes, i32::MAX);
    write_int(&mut bytes, 1);
    write_int(&mut bytes, 0);
    write_int(&mut bytes, 1 << 30);
    let error = decode(&bytes, ArchiveFormat::Custom).unwrap_err();
    assert!(matches!(error, ArchiveError::Truncated { .. }), "{error}");
    bytes.truncate(bytes.len() - 5);
    write_int(&mut bytes, (1 << 30) + 1);
    let error = decode(&bytes, ArchiveFormat::Custom).unwrap_err();
    assert!(matches!(error, ArchiveError::Invalid { what: "length of a text", .. }), "{error}");
}

#[test]
fn blocks_are_framed_as_readers_expect() {
    let mut out = Vec::new();
    write_block(&mut out, BlockHeader { kind: BlockKind::LargeObjects, dump_id: DumpId(7) });
    write_large_object(&mut out, 3_000_000_000);
    write_chunks(&mut out, b"ab");
    write_chunks(&mut out, b"");
    write_chunks(&mut out, b"c");
    write_chunk_end(&mut out);
    write_large_object(&mut out, 0);
    let mut decoder = ArchiveDecoder::new(&out[..]);
    let block = decoder.block().unwrap().unwrap();
    assert_eq!(block, BlockHeader { kind: BlockKind::LargeObjects, dump_id: DumpId(7) });
    assert_eq!(decoder.large_object().unwrap(), Some(3_000_000_000));
    let mut bytes = Vec::new();
    decoder.chunks().read_to_end(&mut bytes).unwrap();
    assert_eq!(bytes, b"abc");
    assert_eq!(decoder.large_object().unwrap(), None);
    assert_eq!(decoder.block().unwrap(), None);
    let error = ArchiveDecoder::new(&[9_u8][..]).block().unwrap_err();
    assert!(matches!(error, ArchiveError::BlockType { block_type: 9, position: 0 }));
}

#[test]
fn chunks_that_are_cut_short_say_where() {
    let mut out = Vec::new();
    write_chunks(&mut out, b"abcdef");
    let cut = &out[..out.len() - 2];
    let mut bytes = Vec::new();
    let error = ArchiveDecoder::new(cut).chunks().read_to_end(&mut bytes).unwrap_err();
    assert_eq!(error.to_string(), "could not read from input file: end of file at byte 9");
}

#[test]
fn names_in_lists_of_large_objects_lead_nowhere_else() {
    use super::directory::{large_object_line, parse_large_object_line};
    let line = large_object_line(70001);
    assert_eq!(line, "70001 blob_70001.dat\n");
    assert_eq!(
        parse_large_object_line(line.trim_end().as_bytes(), 1).unwrap(),
        (70001, &b"blob_70001.dat"[..])
    );
    for hostile in
        ["1 ../x", "1 /etc/passwd", "1 ..", "1 a/b", "1 ", "0 a", "x a", "1", "", "1 a\0b", "99999999999 a"]
    {
        assert!(parse_large_object_line(hostile.as_bytes(), 1).is_err(), "{hostile:?}");
    }
}

fn text() -> impl Strategy<Value = Text> {
    prop::collection::vec(1_u8..=255, 0..20).prop_map(Text::from)
}

fn entry(format: ArchiveFormat) -> impl Strategy<Value = TocEntry> {
    let data = match format {
        ArchiveFormat::Custom => prop_oneof![
            Just(DataLocation::None),
            Just(DataLocation::Unknown),
            any::<u64>().prop_map(DataLocation::Offset)
        ]
        .boxed(),
        _ => prop_oneof![
            Just(DataLocation::None),
            text().prop_filter_map("a name", |name| (!name.is_empty()).then_some(DataLocation::File(name)))
        ]
        .boxed(),
    };
    let texts = prop::collection::vec(prop::option::of(text()), 7);
    let section = prop_oneof![
        Just(Section::None),
        Just(Section::PreData),
        Just(Section::Data),
        Just(Section::PostData)
    ];
    let numbers = (1..=DumpId::MAX.0, any::<u32>(), any::<u32>(), any::<u8>(), any::<bool>());
    let dependencies = prop::collection::vec((1..=DumpId::MAX.0).prop_map(DumpId), 0..4);
    (numbers, text(), text(), section, texts, dependencies, data).prop_map(
        |((id, table_oid, oid, relkind, had_dumper), tag, desc, section, texts, dependencies, data)| {
            let mut texts = texts.into_iter();
            let mut next = || texts.next().flatten();
            let mut entry = TocEntry::new(DumpId(id), desc, tag, section);
            entry.had_dumper = had_dumper;
            entry.catalog_id = CatalogId { table_oid, oid };
            entry.definition = next();
            entry.drop_statement = next();
            entry.copy_statement = next();
            entry.namespace = next();
            entry.tablespace = next();
            entry.table_access_method = next();
            entry.owner = next();
            entry.relkind = relkind;
            entry.dependencies = dependencies;
            entry.data = data;
            entry
        },
    )
}

fn archive() -> impl Strategy<Value = (ArchiveHeader, Vec<TocEntry>)> {
    let format =
        prop_oneof![Just(ArchiveFormat::Custom), Just(ArchiveFormat::Directory), Just(ArchiveFormat::Tar)];
    (format, 14_u8..=16, any::<bool>()).prop_flat_map(|(format, minor, compressed)| {
        let compression = if compressed { Compression::Gzip } else { Compression::None };
        let header = header(minor, format, compression);
        prop::collection::vec(entry(format), 0..6).prop_map(move |mut entries| {
            if minor < 16 {
                entries.iter_mut().for_each(|entry| entry.relkind = 0);
            }
            (header.clone(), entries)
        })
    })
}

proptest! {
    #[test]
    fn what_is_written_is_read_and_written_again_the_same((header, entries) in archive()) {
        let bytes = encode(&header, &entries);
        // A directory cannot be told from a tar archive by its header.
        let (read_header, read_entries, length) = decode(&bytes, header.format).unwrap();
        prop_assert_eq!(&read_header, &header);
        prop_assert_eq!(&read_entries, &entries);
        prop_assert_eq!(length, bytes.len() as u64);
        prop_assert_eq!(encode(&read_header, &read_entries), bytes);
    }

    #[test]
    fn a_cut_archive_is_never_taken_for_a_whole_one((header, entries) in archive(), cut in 0.0..1.0_f64) {
        let bytes = encode(&header, &entries);
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss)]
        let cut = (bytes.len() as f64 * cut) as usize;
        prop_assert!(decode(&bytes[..cut], header.format).is_err());
    }

    #[test]
    fn arbitrary_bytes_behind_a_header_do_no_harm(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        let mut archive = encode(&header(16, ArchiveFormat::Custom, Compression::None), &[]);
        archive.truncate(archive.len() - 5);
        archive.extend_from_slice(&bytes);
        drop(decode(&archive, ArchiveFormat::Custom));
    }
}
