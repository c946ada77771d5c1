//! Archives of versions that no stock program here writes: scripts, lists and restores beside stock's.

use pgkeep_testkit::Scratch;

use crate::encoder::{Entry, chunks, custom, int, small_database, zlib};
use crate::support::{Lab, ours, ours_with, same, stock, write};

#[test]
fn archives_from_1_12_on_give_stocks_scripts_and_databases() {
    let lab = Lab::empty(18);
    let scratch = Scratch::new();
    for minor in 12..=16 {
        for compressed in [false, true] {
            let name = format!("v{minor}_{compressed}");
            let archive =
                write(&scratch, &name, custom(minor, compressed, &small_database(minor, compressed)));
            for options in [
                &[][..],
                &["-v"],
                &["-c", "--if-exists"],
                &["-c"],
                &["-O"],
                &["-a"],
                &["-s"],
                &["-n", "s"],
                &["-1"],
            ] {
                same(&[options, &["--restrict-key=k", "-f", "-", &archive][..]].concat());
                if options != ["-v"] {
                    same(&[options, &["-l", &archive][..]].concat());
                }
            }
            for (number, options) in [&[][..], &["-j2"]].into_iter().enumerate() {
                let database = format!("{name}_{number}");
                lab.create(&database);
                let conninfo = lab.cluster.conninfo_db(&database);
                ours(&[options, &["-d", &conninfo, &archive][..]].concat()).is_fine(&name);
                let rows = "SELECT string_agg(a || coalesce(b, '-'), ',' ORDER BY a) FROM s.t";
                assert_eq!(lab.cluster.sql_db(&database, rows), "1one,2-,3it's; \"x\"");
                let objects = "SELECT convert_from(lo_get(70001), 'UTF8') || length(lo_get(70002))";
                assert_eq!(lab.cluster.sql_db(&database, objects), "hello0");
            }
        }
    }
}

#[test]
fn a_table_with_oids_is_restored_without_them_and_told() {
    let scratch = Scratch::new();
    let mut entries = small_database(13, false);
    entries.iter_mut().filter(|entry| entry.desc == "TABLE").for_each(|entry| entry.with_oids = true);
    let archive = write(&scratch, "oids", custom(13, false, &entries));
    let (mine, theirs) =
        (ours(&["-f", "-", "--restrict-key=k", &archive]), stock(&["-f", "-", "--restrict-key=k", &archive]));
    assert_eq!((mine.code, mine.text()), (Some(0), theirs.text()));
    assert!(mine.stderr.contains("WITH OIDS is not supported anymore"), "{}", mine.stderr);
}

#[test]
fn blocks_are_found_wherever_they_are_and_others_left_alone() {
    let scratch = Scratch::new();
    let entries = small_database(16, false);
    let script =
        ours(&["-f", "-", "--restrict-key=k", &write(&scratch, "good", custom(16, false, &entries))]).text();
    // A block of an entry that is not in the table, in front and behind, as an index of our own could be.
    let strange = Entry { id: 999, block: Some(chunks(b"of no concern", 4)), ..Entry::default() };
    for place in [0, entries.len()] {
        let mut blocks = entries.clone();
        blocks.insert(place, strange.clone());
        let table = crate::encoder::table(16, 1, false, &entries);
        let whole = custom(16, false, &blocks);
        let behind = crate::encoder::table(16, 1, false, &blocks).len();
        let bytes = [&table[..], &whole[behind..]].concat();
        let archive = write(&scratch, "strange", &bytes);
        assert_eq!(same(&["-f", "-", "--restrict-key=k", &archive]).text(), script);
        assert_eq!(ours_with(&["-f", "-", "--restrict-key=k"], Some(&bytes)).text(), script);
    }
    // Blocks in another order can be found in a file, but not on a pipe.
    let mut reversed = entries.clone();
    reversed.reverse();
    let table = crate::encoder::table(16, 1, false, &entries);
    let whole = custom(16, false, &reversed);
    let bytes = [&table[..], &whole[crate::encoder::table(16, 1, false, &reversed).len()..]].concat();
    let archive = write(&scratch, "reversed", &bytes);
    assert_eq!(same(&["-f", "-", "--restrict-key=k", &archive]).text(), script);
    let ran = ours_with(&["-f", "-", "--restrict-key=k"], Some(&bytes));
    assert_eq!(ran.code, Some(1));
    assert!(
        ran.stderr
            .contains("could not find block ID 6 in archive -- possibly due to out-of-order restore request"),
        "{}",
        ran.stderr
    );
}

#[test]
fn streams_that_were_compressed_apart_are_read_as_one() {
    let scratch = Scratch::new();
    let mut entries = small_database(16, true);
    let rows = b"1\tone\n2\t\\N\n3\tit's; \"x\"\n\\.\n\n\n";
    let script =
        ours(&["-f", "-", "--restrict-key=k", &write(&scratch, "one", custom(16, true, &entries))]).text();
    // Stock's reader never comes back from this.
    let joined = [zlib(&rows[..10]), zlib(&rows[10..])].concat();
    for size in [1, 7, 1000] {
        entries.iter_mut().filter(|entry| entry.desc == "TABLE DATA").for_each(|entry| {
            entry.block = Some(chunks(&joined, size));
        });
        let archive = write(&scratch, "two", custom(16, true, &entries));
        assert_eq!(ours(&["-f", "-", "--restrict-key=k", &archive]).text(), script);
    }
    // No chunk at all is an empty table.
    entries
        .iter_mut()
        .filter(|entry| entry.desc == "TABLE DATA")
        .for_each(|entry| entry.block = Some(int(0)));
    let archive = write(&scratch, "none", custom(16, true, &entries));
    ours(&["-f", "-", &archive]).is_fine("an empty block");
}

#[test]
fn entries_that_need_each_other_are_restored_in_the_end() {
    let lab = Lab::empty(18);
    let scratch = Scratch::new();
    let mut entries = small_database(16, false);
    let index = |id, name: &'static str, need, sql| Entry {
        id,
        desc: "INDEX",
        tag: name,
        section: 4,
        definition: Some(sql),
        namespace: Some("s"),
        owner: Some("postgres"),
        needs: vec![2, need],
        ..Entry::default()
    };
    entries.push(index(20, "one", 21, "CREATE INDEX one ON s.t (a);\n"));
    entries.push(index(21, "two", 20, "CREATE INDEX two ON s.t (b);\n"));
    let archive = write(&scratch, "circle", custom(16, false, &entries));
    for (number, options) in [&["-j2"][..], &["-j3", "--transaction-size=10"]].into_iter().enumerate() {
        let database = format!("r{number}");
        lab.create(&database);
        ours(&[options, &["-d", &lab.cluster.conninfo_db(&database), &archive][..]].concat())
            .is_fine("a circle");
        let indexes = "SELECT string_agg(indexname, ',' ORDER BY 1) FROM pg_indexes WHERE schemaname = 's'";
        assert_eq!(lab.cluster.sql_db(&database, indexes), "one,t_pkey,two");
    }
}
