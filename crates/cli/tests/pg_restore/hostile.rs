//! Archives that are cut, damaged or made to do harm: an error that says where, in little memory, and no file elsewhere.

use pgkeep_testkit::{Cluster, Scratch};

use crate::encoder::{Entry, chunks, custom, int, small_database, table};
use crate::support::{Lab, Ran, bytes_of, ours, ours_with, ours_within, write};

/// Address space enough for the program itself, threads and buffers included; a length that is believed needs more.
const LITTLE_MEMORY: u64 = 600_000;

#[track_caller]
fn is_told(ran: &Ran, what: &str) {
    assert_eq!(ran.code, Some(1), "{what}: {}", ran.stderr);
    assert!(ran.stderr.starts_with("pg_restore: error: "), "{what}: {}", ran.stderr);
    assert!(!ran.stderr.contains("panicked"), "{what}: {}", ran.stderr);
}

#[test]
fn a_cut_archive_is_an_error_wherever_it_is_cut() {
    let lab = Lab::new(17);
    let scratch = Scratch::new();
    for compression in ["none", "gzip", "lz4", "zstd"] {
        let whole = bytes_of(&lab.dump_by(17, compression, &["-Fc", "-Z", compression]));
        // The last five bytes end the last block.
        for part in 0..60 {
            let length = (whole.len() - 1) * part / 59;
            let cut = write(&scratch, "cut", &whole[..length]);
            for ran in [ours(&["-f", "-", &cut]), ours_with(&["-f", "-"], Some(&whole[..length]))] {
                is_told(&ran, &format!("{compression} cut at {length} of {}", whole.len()));
            }
        }
    }
    for compression in ["gzip", "lz4", "zstd"] {
        let directory = lab.dump_by(17, &format!("{compression}.d"), &["-Fd", "-Z", compression]);
        for entry in std::fs::read_dir(&directory).unwrap() {
            let path = entry.unwrap().path().display().to_string();
            let whole = bytes_of(&path);
            // Lists of large objects are text that may end after any line.
            if whole.is_empty() || path.contains("blobs_") {
                continue;
            }
            std::fs::write(&path, &whole[..whole.len() - 1]).unwrap();
            is_told(&ours(&["-f", "-", &directory]), &format!("{path} without its last byte"));
            std::fs::write(&path, whole).unwrap();
        }
    }
    // Rows that are not compressed have a marker at their end.
    let directory = lab.dump_by(17, "none.d", &["-Fd", "-Z", "none"]);
    for entry in std::fs::read_dir(&directory).unwrap() {
        let path = entry.unwrap().path().display().to_string();
        let whole = bytes_of(&path);
        if path.contains("blob") {
            continue;
        }
        std::fs::write(&path, &whole[..whole.len() - 5]).unwrap();
        is_told(&ours(&["-f", "-", &directory]), &format!("{path} without its last bytes"));
        std::fs::write(&path, whole).unwrap();
    }
    let whole = bytes_of(&lab.dump_by(17, "tar", &["-Ft"]));
    // Up to the script for people at its end, which is not read.
    let used = whole.windows(11).position(|window| window == b"restore.sql").unwrap();
    for part in 0..40 {
        let length = (used - 512) * part / 39;
        let cut = write(&scratch, "cut", &whole[..length]);
        is_told(&ours(&["-f", "-", &cut]), &format!("tar cut at {length}"));
    }
}

#[test]
fn flipped_bits_never_end_in_a_panic_or_in_much_memory() {
    let scratch = Scratch::new();
    for compressed in [false, true] {
        let whole = custom(16, compressed, &small_database(16, compressed));
        for at in (0..whole.len()).step_by(7) {
            for bit in [0, 5, 7] {
                let mut bytes = whole.clone();
                bytes[at] ^= 1 << bit;
                let path = write(&scratch, "flipped", &bytes);
                let ran = ours_within(LITTLE_MEMORY, &["-f", "-", &path]);
                assert!(
                    matches!(ran.code, Some(0 | 1)),
                    "bit {bit} of byte {at}: {:?} {}",
                    ran.code,
                    ran.stderr
                );
                assert!(!ran.stderr.contains("panicked"), "bit {bit} of byte {at}: {}", ran.stderr);
            }
        }
    }
}

#[test]
fn lengths_that_lie_cost_no_memory() {
    let scratch = Scratch::new();
    let mut entries = small_database(16, false);
    // A chunk of 2 GiB that is not there.
    let liar = [int(i32::MAX), b"abc".to_vec()].concat();
    entries
        .iter_mut()
        .filter(|entry| entry.desc == "TABLE DATA")
        .for_each(|entry| entry.block = Some(liar.clone()));
    let archive = write(&scratch, "chunk", custom(16, false, &entries));
    is_told(&ours_within(LITTLE_MEMORY, &["-f", "-", &archive]), "a chunk that lies");
    // Entries without number.
    let mut bytes = table(16, 1, false, &[]);
    bytes.truncate(bytes.len() - 5);
    bytes.extend(int(i32::MAX));
    is_told(&ours_within(LITTLE_MEMORY, &["-l", &write(&scratch, "count", &bytes)]), "a count that lies");
    // Rows that grow without end are passed on, not collected: 64 MiB of zeros in a few bytes.
    let mut zeros = vec![0_u8; 64 << 20];
    zeros.extend(b"\n\\.\n\n\n");
    let raw = write(&scratch, "zeros", &zeros);
    let status = std::process::Command::new("gzip").arg(&raw).status().unwrap();
    assert!(status.success());
    let directory = scratch.path().join("bomb");
    std::fs::create_dir(&directory).unwrap();
    std::fs::rename(scratch.path().join("zeros.gz"), directory.join("3.dat.gz")).unwrap();
    let entry = Entry {
        id: 3,
        desc: "TABLE DATA",
        tag: "t",
        section: 3,
        copy: Some("COPY t FROM stdin;\n"),
        file: Some("3.dat"),
        ..Entry::default()
    };
    std::fs::write(directory.join("toc.dat"), table(16, 3, true, &[entry])).unwrap();
    let target = scratch.path().join("out").display().to_string();
    let ran = ours_within(300_000, &["-f", &target, &directory.display().to_string()]);
    ran.is_fine("a bomb");
    assert!(std::fs::metadata(&target).unwrap().len() > 64 << 20);
}

#[test]
fn names_in_an_archive_lead_to_no_other_file() {
    let scratch = Scratch::new();
    write(&scratch, "secret.dat", "1\tsecret\n");
    write(&scratch, "blob_1.dat", "secret");
    let directory = scratch.path().join("archive");
    std::fs::create_dir(&directory).unwrap();
    let rows = |file| Entry {
        id: 3,
        desc: "TABLE DATA",
        tag: "t",
        section: 3,
        copy: Some("COPY t FROM stdin;\n"),
        file: Some(file),
        ..Entry::default()
    };
    for file in ["../secret.dat", "/etc/passwd", "..", ".", "a/../../secret.dat"] {
        std::fs::write(directory.join("toc.dat"), table(16, 3, false, &[rows(file)])).unwrap();
        let ran = ours(&["-f", "-", &directory.display().to_string()]);
        is_told(&ran, file);
        assert!(!ran.text().contains("secret"), "{file}");
        assert!(ran.stderr.contains("invalid file name"), "{}", ran.stderr);
    }
    let blobs = Entry {
        id: 6,
        desc: "BLOBS",
        tag: "BLOBS",
        section: 3,
        file: Some("blobs_6.toc"),
        ..Entry::default()
    };
    std::fs::write(directory.join("toc.dat"), table(16, 3, false, &[blobs])).unwrap();
    for line in ["1 ../blob_1.dat", "1 /etc/passwd", "1", "x blob_1.dat"] {
        std::fs::write(directory.join("blobs_6.toc"), format!("{line}\n")).unwrap();
        let ran = ours(&["-f", "-", &directory.display().to_string()]);
        is_told(&ran, line);
        assert!(ran.stderr.contains("invalid line 1 in large object TOC file"), "{}", ran.stderr);
    }
}

#[test]
fn names_in_comments_begin_no_line() {
    let scratch = Scratch::new();
    let entry = Entry {
        id: 1,
        desc: "SCHEMA",
        tag: "x\n\\! touch /tmp/owned\r",
        section: 2,
        definition: Some("SELECT 1;\n"),
        namespace: Some("y\n\\! touch /tmp/owned"),
        owner: Some("z\n\\! touch /tmp/owned"),
        ..Entry::default()
    };
    let search_path = small_database(16, false).swap_remove(2);
    let archive = write(&scratch, "names", custom(16, false, &[search_path, entry]));
    for arguments in [&["-f", "-", &archive][..], &["-v", "-f", "-", &archive], &["-l", &archive]] {
        let text = ours(arguments).text();
        assert!(!text.lines().any(|line| line.starts_with('\\') && line.contains('!')), "{text}");
    }
}

#[test]
fn a_data_block_of_the_wrong_kind_is_refused_and_leaves_the_server_well() {
    let cluster = Cluster::builder(18).start();
    let scratch = Scratch::new();
    let mut entries = small_database(16, false);
    // Large objects where rows should be: an OID, its chunks, and the end.
    let mut bytes = custom(16, false, &entries);
    entries.retain(|entry| entry.desc != "BLOBS" && entry.desc != "BLOB");
    let good = custom(16, false, &entries);
    let at = table(16, 1, false, &entries).len();
    bytes.truncate(0);
    bytes.extend_from_slice(&good[..at]);
    bytes.push(3);
    bytes.extend(int(3));
    bytes.extend([int(5), chunks(b"x", 1), int(0)].concat());
    let archive = write(&scratch, "kinds", &bytes);
    is_told(&ours(&["-d", &cluster.conninfo(), &archive]), "large objects for rows");
    assert_eq!(cluster.sql("SELECT count(*) FROM s.t"), "0");
    is_told(&ours(&["-f", "-", &archive]), "large objects for rows");
}
