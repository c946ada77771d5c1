//! Point-in-time recovery against an oracle: one writer notes, for every transaction, when it committed by the server's own clock
//! and where WAL was before and after. Then targets are drawn at random, and each must give exactly the rows that the notes say.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail loudly too")]

mod common;

use std::fmt::Write as _;
use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};

use common::{Dice, Site};
use pgkeep_engine::restore::{RecoveryTarget, RestoreRequest};
use pgkeep_testkit::Cluster;

/// Targets of one run; `PGKEEP_TEST_TARGETS` for more.
const TARGETS: u64 = 8;
const LEAST_TRANSACTIONS: u64 = 100;

/// What the writer knows of a transaction that committed.
#[derive(Debug)]
struct Note {
    /// The number that it added.
    number: u64,
    xid: u64,
    /// Its commit record's time, in microseconds since 1970.
    time: i64,
    /// WAL before its commit record, and after it.
    before: String,
    after: String,
    /// The restore point made right after it.
    point: Option<String>,
}

/// One transaction of one of several kinds; a note when it committed.
fn step(cluster: &Cluster, dice: &mut Dice, number: u64) -> Option<Note> {
    let insert = format!("INSERT INTO counter VALUES ({number}); ");
    let known = "SELECT pg_current_xact_id(), pg_current_wal_insert_lsn(); ";
    let mut sql = String::from("BEGIN; ");
    match dice.below(12) {
        0 => {
            cluster.sql(&format!("BEGIN; {insert} ROLLBACK"));
            return None;
        }
        // Ends in another session's name, so to say.
        1 => {
            let name = format!("prepared {number}");
            write!(sql, "{insert}{known}PREPARE TRANSACTION '{name}'; COMMIT PREPARED '{name}'; ").unwrap();
        }
        2 => write!(sql, "SAVEPOINT s; INSERT INTO counter VALUES (-1); ROLLBACK TO s; {insert}{known}COMMIT; ")
            .unwrap(),
        // More than one segment in one transaction.
        3 => write!(
            sql,
            "INSERT INTO bulk SELECT i, repeat(md5(i::text), 20) FROM generate_series(1, 2000) i; {insert}{known}COMMIT; "
        )
        .unwrap(),
        4 => write!(sql, "TRUNCATE bulk; CREATE TABLE made_{number} (i int); {insert}{known}COMMIT; ").unwrap(),
        _ => write!(sql, "{insert}{known}COMMIT; ").unwrap(),
    }
    let point = (dice.below(8) == 0).then(|| format!("after {number}"));
    sql.push_str("SELECT pg_current_wal_insert_lsn(); ");
    if let Some(point) = &point {
        write!(sql, "SELECT pg_create_restore_point('{point}'); ").unwrap();
    }
    let answer = cluster.sql(&sql);
    let lines: Vec<&str> = answer.lines().collect();
    let (xid, before) = lines[0].split_once('|').unwrap();
    let time = cluster.sql(&format!(
        "SELECT (extract(epoch FROM pg_xact_commit_timestamp('{xid}'::xid)) * 1000000)::bigint"
    ));
    if dice.below(10) == 0 {
        cluster.switch_wal();
    }
    Some(Note {
        number,
        xid: xid.parse().unwrap(),
        time: time.parse().unwrap(),
        before: before.to_owned(),
        after: lines[1].to_owned(),
        point,
    })
}

/// A moment as a user may write it.
fn spell(dice: &mut Dice, micros: i64) -> String {
    let moment = jiff::Timestamp::from_microsecond(micros).unwrap();
    let in_zone = |name: &str| moment.to_zoned(jiff::tz::TimeZone::get(name).unwrap());
    match dice.below(4) {
        0 => moment.to_string(),
        1 => in_zone("Asia/Kolkata").strftime("%Y-%m-%d %H:%M:%S%.f+05:30").to_string(),
        2 => in_zone("America/St_Johns").strftime("%Y-%m-%d %H:%M:%S%.f America/St_Johns").to_string(),
        _ => in_zone("UTC").strftime("%Y-%m-%d %H:%M:%S%.f").to_string(),
    }
}

/// A random target, and how many of the notes it leaves.
fn draw(dice: &mut Dice, notes: &[Note], first: usize) -> (RecoveryTarget, bool, usize) {
    // One after it must be there: that is how recovery sees that a moment is over.
    let at = first + dice.below((notes.len() - 1 - first) as u64) as usize;
    let note = &notes[at];
    let exclusive = dice.below(2) == 0;
    let through = at + 1;
    match dice.below(6) {
        0 => {
            let target = RecoveryTarget::Time(spell(dice, note.time));
            (target, exclusive, if exclusive { at } else { through })
        }
        1 => {
            let gap = notes[at + 1].time - note.time;
            assert!(gap > 1, "transactions of one writer are further apart");
            let time = note.time + 1 + dice.below((gap - 1) as u64) as i64;
            (RecoveryTarget::Time(spell(dice, time)), exclusive, through)
        }
        // Whatever record follows the commit, it commits nothing.
        2 => (RecoveryTarget::Lsn(note.after.parse().unwrap()), exclusive, through),
        3 => (RecoveryTarget::Lsn(note.before.parse().unwrap()), true, at),
        4 => (RecoveryTarget::Xid(note.xid), exclusive, if exclusive { at } else { through }),
        _ => match notes[first..].iter().rposition(|note| note.point.is_some()) {
            Some(index) => {
                let name = notes[first + index].point.clone().unwrap();
                (RecoveryTarget::Name(name), false, first + index + 1)
            }
            None => (RecoveryTarget::Latest, false, notes.len()),
        },
    }
}

#[test]
fn random_targets_give_what_the_writer_noted() {
    let mut dice = Dice::new("PITR oracle");
    let major = [14, 15, 16, 17, 18][dice.below(5) as usize];
    println!("PostgreSQL {major}");
    let site = Site::new();
    let primary = site.archiving(
        pgkeep_testkit::Cluster::builder(major)
            .wal_segment_mib(1)
            .conf("track_commit_timestamp", "on")
            .conf("max_prepared_transactions", "5"),
    );
    primary.sql("CREATE TABLE counter (n bigint); CREATE TABLE bulk (i int, t text)");

    // Backups are taken while the writer writes: which one a target needs is for the program to find out.
    let done = AtomicBool::new(false);
    let mut writer_dice = Dice::seeded(dice.next());
    let (notes, first) = std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let mut notes = Vec::new();
            let mut number = 0;
            while number < LEAST_TRANSACTIONS || !done.load(Ordering::SeqCst) {
                number += 1;
                notes.extend(step(&primary, &mut writer_dice, number));
            }
            notes
        });
        let mut end_of_first = String::new();
        for source in ["local", "stream", "local"] {
            let report = site.backup(&primary, &["--source", source]);
            if end_of_first.is_empty() {
                end_of_first =
                    primary.sql("SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint");
            }
            assert!(report["stop_lsn"].is_string());
        }
        done.store(true, Ordering::SeqCst);
        let notes: Vec<Note> = writer.join().unwrap();
        let end: i64 = end_of_first.parse().unwrap();
        let first = notes.partition_point(|note| note.time <= end);
        (notes, first)
    });
    site.archive_all(&primary);
    assert!(notes.windows(2).all(|pair| pair[0].time < pair[1].time));
    assert!(first + 10 < notes.len(), "the first backup took too long: {first} of {}", notes.len());
    drop(primary);

    let targets = std::env::var("PGKEEP_TEST_TARGETS").map_or(TARGETS, |text| text.parse().unwrap());
    for _ in 0..targets {
        let (target, exclusive, count) = draw(&mut dice, &notes, first);
        let request = RestoreRequest { exclusive, ..site.request(target) };
        let restored = site.bring_back(major, &request);
        let expected: Vec<String> = notes[..count].iter().map(|note| note.number.to_string()).collect();
        let found = restored.sql("SELECT n FROM counter ORDER BY n");
        assert_eq!(
            found.lines().collect::<Vec<_>>(),
            expected,
            "{:?} exclusive {exclusive}, around {:?}",
            request.target,
            &notes[count.saturating_sub(2)..(count + 2).min(notes.len())],
        );
        println!("{:?} exclusive {exclusive}: {count} rows, right", request.target);
        drop(restored);
        fs::remove_dir_all(&request.destination).unwrap();
    }
}
