//! Archives that the codec writes: stock's program reads them as those of `pg_dump`.

use std::io::{Read as _, Write as _};
use std::process::Command;

use pgkeep_format::archive::{
    ArchiveDecoder, ArchiveFormat, ArchiveHeader, BlockHeader, BlockKind, Compression, DataLocation, DumpId,
    TocEntry, write_block, write_chunk_end, write_chunks, write_entry, write_entry_count, write_header,
    write_large_object,
};
use pgkeep_testkit::{Scratch, installation};
use pgkeep_tool::compress::{Codec, Compressor, Framing, buffered_reader};

use crate::support::{Lab, bytes_of, ours, same, write};

/// The data of an entry, not compressed: large objects with their OIDs, or rows.
enum Data {
    Rows(Vec<u8>),
    Objects(Vec<(u32, Vec<u8>)>),
}

struct Parts {
    header: ArchiveHeader,
    entries: Vec<TocEntry>,
    data: Vec<(DumpId, Data)>,
}

fn take_apart(bytes: &[u8]) -> Parts {
    let mut decoder = ArchiveDecoder::new(bytes);
    let header = decoder.header(ArchiveFormat::Custom).unwrap();
    let entries = decoder.table(&header).unwrap();
    let mut data = Vec::new();
    let stream = |decoder: &mut ArchiveDecoder<&[u8]>| {
        let mut raw = Vec::new();
        let chunks = decoder.chunks();
        buffered_reader(chunks, header.compression, Framing::Chunks).unwrap().read_to_end(&mut raw).unwrap();
        raw
    };
    while let Some(block) = decoder.block().unwrap() {
        let of_block = match block.kind {
            BlockKind::Data => Data::Rows(stream(&mut decoder)),
            BlockKind::LargeObjects => {
                let mut objects = Vec::new();
                while let Some(oid) = decoder.large_object().unwrap() {
                    objects.push((oid, stream(&mut decoder)));
                }
                Data::Objects(objects)
            }
        };
        data.push((block.dump_id, of_block));
    }
    Parts { header, entries, data }
}

fn put_together(parts: &Parts, minor: u8, compression: Compression) -> Vec<u8> {
    let mut header = parts.header.clone();
    header.version.minor = minor;
    header.compression = compression;
    let mut entries = parts.entries.clone();
    let table = |entries: &[TocEntry]| {
        let mut out = Vec::new();
        write_header(&mut out, &header).unwrap();
        write_entry_count(&mut out, u32::try_from(entries.len()).unwrap());
        entries.iter().for_each(|entry| write_entry(&mut out, &header, entry).unwrap());
        out
    };
    let length = table(&entries).len();
    let stream = |out: &mut Vec<u8>, raw: &[u8]| {
        let mut compressor = Compressor::new(Vec::new(), Codec::of(compression), Framing::Chunks).unwrap();
        compressor.write_all(raw).unwrap();
        write_chunks(out, &compressor.finish().unwrap());
        write_chunk_end(out);
    };
    let mut blocks = Vec::new();
    for (dump_id, data) in &parts.data {
        let offset = u64::try_from(length + blocks.len()).unwrap();
        let entry = entries.iter_mut().find(|entry| entry.dump_id == *dump_id).unwrap();
        entry.data = DataLocation::Offset(offset);
        match data {
            Data::Rows(raw) => {
                write_block(&mut blocks, BlockHeader { kind: BlockKind::Data, dump_id: *dump_id });
                stream(&mut blocks, raw);
            }
            Data::Objects(objects) => {
                write_block(&mut blocks, BlockHeader { kind: BlockKind::LargeObjects, dump_id: *dump_id });
                for (oid, raw) in objects {
                    write_large_object(&mut blocks, *oid);
                    stream(&mut blocks, raw);
                }
                write_large_object(&mut blocks, 0);
            }
        }
    }
    // The table has its length whatever the offsets are.
    let out = [table(&entries), blocks].concat();
    assert_eq!(table(&entries).len(), length);
    out
}

#[test]
fn stock_reads_what_the_codec_writes() {
    let lab = Lab::new(17);
    let scratch = Scratch::new();
    let original = lab.dump_by(17, "original", &["-Fc"]);
    let parts = take_apart(&bytes_of(&original));
    let script = |program: &std::path::Path, archive: &str| {
        let output = Command::new(program).args(["--restrict-key=k", "-f", "-", archive]).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        output.stdout
    };
    let stock17 = installation(17).program("pg_restore");
    let expected = script(&stock17, &original);
    for compression in [Compression::None, Compression::Gzip, Compression::Lz4, Compression::Zstd] {
        let archive = write(&scratch, compression.name(), put_together(&parts, 16, compression));
        assert!(script(&stock17, &archive) == expected, "{compression:?}: another script");
        ours(&["-f", "-", &archive]).is_fine(compression.name());
    }
    for minor in 14..=16 {
        for compression in [Compression::None, Compression::Gzip] {
            let archive = write(
                &scratch,
                &format!("{minor}{}", compression.name()),
                put_together(&parts, minor, compression),
            );
            same(&["--restrict-key=k", "-f", "-", &archive]);
            same(&["-l", &archive]);
        }
    }
}
