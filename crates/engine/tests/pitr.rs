//! Point-in-time recovery: every kind of target, inclusive and exclusive, across a promotion; and every target that cannot be
//! reached is refused before a byte is written.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail loudly too")]

mod common;

use std::fs;
use std::path::Path;
use std::time::Duration;

use common::{LIMIT, Site, run_restore, start_restored, tree};
use pgkeep_engine::restore::{RecoveryTarget, RestoreRequest, TargetAction, TargetTimeline};
use pgkeep_engine::{Error, ErrorKind, TimelineId};
use pgkeep_testkit::{Cluster, wait_until};

/// What is known of one transaction that inserted one row.
struct Commit {
    xid: u64,
    /// As the commit record has it.
    time: String,
    /// Between the insertion and the commit record.
    before: String,
    /// After the commit record.
    after: String,
}

fn cluster(site: &Site, major: u32) -> Cluster {
    let cluster = site.archiving(
        Cluster::builder(major)
            .wal_segment_mib(1)
            .conf("track_commit_timestamp", "on")
            // No records of its own between those that the test knows.
            .conf("autovacuum", "off"),
    );
    cluster.sql("CREATE TABLE t (i int)");
    cluster
}

fn commit(cluster: &Cluster, row: u32) -> Commit {
    let answer = cluster.sql(&format!(
        "BEGIN; INSERT INTO t VALUES ({row}); SELECT pg_current_xact_id(), pg_current_wal_insert_lsn(); COMMIT; \
         SELECT pg_current_wal_insert_lsn(), pg_sleep(0.01)"
    ));
    let lines: Vec<&str> = answer.lines().collect();
    let (xid, before) = lines[0].split_once('|').unwrap();
    let after = lines[1].split('|').next().unwrap();
    let time = cluster.sql(&format!("SELECT pg_xact_commit_timestamp('{xid}'::xid)"));
    Commit { xid: xid.parse().unwrap(), time, before: before.to_owned(), after: after.to_owned() }
}

fn rows(cluster: &Cluster) -> String {
    cluster.sql("SELECT coalesce(string_agg(i::text, ',' ORDER BY i), '') FROM t")
}

fn lsn(text: &str) -> RecoveryTarget {
    RecoveryTarget::Lsn(text.parse().unwrap())
}

#[test]
fn every_kind_of_target_gives_the_rows_of_its_moment() {
    let site = Site::new();
    let primary = cluster(&site, 17);
    commit(&primary, 1);
    site.backup(&primary, &["--source", "local"]);
    let commits: Vec<Commit> = (2..=4).map(|row| commit(&primary, row)).collect();
    primary.sql("SELECT pg_create_restore_point('between')");
    primary.switch_wal();
    let aborted = primary.sql("BEGIN; INSERT INTO t VALUES (99); SELECT pg_current_xact_id(); ROLLBACK");
    commit(&primary, 5);
    site.archive_all(&primary);
    drop(primary);

    let middle = &commits[1];
    let cases = [
        (RecoveryTarget::Time(middle.time.clone()), false, "1,2,3"),
        (RecoveryTarget::Time(middle.time.clone()), true, "1,2"),
        (lsn(&middle.before), false, "1,2,3"),
        (lsn(&middle.before), true, "1,2"),
        (lsn(&middle.after), true, "1,2,3"),
        (RecoveryTarget::Xid(middle.xid), false, "1,2,3"),
        (RecoveryTarget::Xid(middle.xid), true, "1,2"),
        (RecoveryTarget::Xid(aborted.parse().unwrap()), false, "1,2,3,4"),
        (RecoveryTarget::Name("between".to_owned()), false, "1,2,3,4"),
        (RecoveryTarget::Immediate, false, "1"),
        (RecoveryTarget::Latest, false, "1,2,3,4,5"),
    ];
    for (target, exclusive, expected) in cases {
        let mut request = site.request(target.clone());
        request.exclusive = exclusive;
        request.dry_run = true;
        let plan = run_restore(&request).unwrap();
        assert!(fs::read_dir(&request.destination).unwrap().next().is_none(), "a dry run writes nothing");
        request.dry_run = false;
        let restored = site.bring_back(17, &request);
        assert_eq!(rows(&restored), expected, "{target:?} exclusive {exclusive}: {plan:#?}");
        restored.sql("INSERT INTO t VALUES (1000)");
        drop(restored);
        fs::remove_dir_all(&request.destination).unwrap();
    }
}

#[test]
fn the_server_does_at_the_target_what_was_asked() {
    let site = Site::new();
    let primary = cluster(&site, 18);
    site.backup(&primary, &[]);
    let first = commit(&primary, 1);
    commit(&primary, 2);
    site.archive_all(&primary);
    drop(primary);

    let mut request = site.request(RecoveryTarget::Xid(first.xid));
    request.action = None;
    run_restore(&request).unwrap();
    let paused = Cluster::from_data_dir(18, &request.destination, &[("lock_timeout", "30s")]);
    wait_until("the pause at the target", LIMIT, || {
        paused.sql("SELECT pg_get_wal_replay_pause_state()") == "paused"
    });
    assert_eq!(rows(&paused), "1");
    paused.sql("SELECT pg_wal_replay_resume()");
    paused.wait_for_writes();
    assert_eq!(rows(&paused), "1");
    drop(paused);

    let mut request = site.request(RecoveryTarget::Xid(first.xid));
    request.action = Some(TargetAction::Shutdown);
    run_restore(&request).unwrap();
    // It may have ended before the test sees it open.
    match Cluster::try_from_data_dir(18, &request.destination, &[]) {
        Ok(cluster) => cluster.wait_for_end(),
        Err(error) => assert!(error.log.contains("shutdown at recovery target"), "{error}"),
    }
    assert!(request.destination.join("recovery.signal").exists());
}

#[test]
fn a_promotion_makes_a_fork_and_each_branch_can_be_had() {
    for major in [14, 16] {
        let site = Site::new();
        let primary = cluster(&site, major);
        commit(&primary, 1);
        site.backup(&primary, &[]);
        commit(&primary, 2);
        site.archive_all(&primary);

        // A second cluster goes its own way; the first one lives on.
        let request = site.request(RecoveryTarget::Latest);
        run_restore(&request).unwrap();
        let second = Cluster::from_data_dir(major, &request.destination, &[("archive_mode", "on")]);
        second.wait_for_writes();
        let on_second = commit(&second, 20);
        commit(&second, 21);
        site.archive_all(&second);
        let on_first = commit(&primary, 3);
        commit(&primary, 4);
        let last = site.archive_all(&primary);
        assert!(last.starts_with("00000001"), "{last}");
        drop(primary);

        let two = TimelineId::new(2).unwrap();
        let one = TimelineId::new(1).unwrap();
        let on = |timeline, target: RecoveryTarget| RestoreRequest { timeline, ..site.request(target) };
        let time = |commit: &Commit| RecoveryTarget::Time(commit.time.clone());
        let cases = [
            (on(TargetTimeline::Latest, RecoveryTarget::Latest), "1,2,20,21"),
            (on(TargetTimeline::Current, RecoveryTarget::Latest), "1,2,3,4"),
            (on(TargetTimeline::Number(one), RecoveryTarget::Latest), "1,2,3,4"),
            (on(TargetTimeline::Number(two), RecoveryTarget::Latest), "1,2,20,21"),
            (on(TargetTimeline::Latest, time(&on_second)), "1,2,20"),
            (on(TargetTimeline::Current, time(&on_first)), "1,2,3"),
            (on(TargetTimeline::Latest, lsn(&on_second.before)), "1,2,20"),
            (on(TargetTimeline::Number(one), RecoveryTarget::Xid(on_first.xid)), "1,2,3"),
        ];
        for (request, expected) in cases {
            let restored = site.bring_back(major, &request);
            assert_eq!(rows(&restored), expected, "PostgreSQL {major}: {request:?}");
        }

        // A backup of the second branch cannot lead to the first one: the older backup is taken for that.
        let newer = site.backup(&second, &[]);
        commit(&second, 22);
        site.archive_all(&second);
        drop(second);
        let latest = run_restore(&on(TargetTimeline::Latest, RecoveryTarget::Latest)).unwrap();
        assert_eq!(latest.backup, newer["id"].as_str().unwrap());
        let restored = start_restored(major, &latest.destination);
        assert_eq!(rows(&restored), "1,2,20,21,22", "PostgreSQL {major}");
        drop(restored);
        let other = run_restore(&on(TargetTimeline::Number(one), RecoveryTarget::Latest)).unwrap();
        assert_ne!(other.backup, newer["id"].as_str().unwrap());
        assert_eq!(rows(&start_restored(major, &other.destination)), "1,2,3,4", "PostgreSQL {major}");
        let named = RestoreRequest {
            backup: newer["id"].as_str().map(str::to_owned),
            ..on(TargetTimeline::Number(one), RecoveryTarget::Latest)
        };
        assert_eq!(refused(&named).kind, ErrorKind::TargetUnreachable);
    }
}

/// The restore must fail, and must have written nothing.
#[track_caller]
fn refused(request: &RestoreRequest) -> Error {
    let before = request.destination.is_dir().then(|| tree(&request.destination));
    let error = match run_restore(request) {
        Ok(report) => panic!("{request:?} was not refused: {report:#?}"),
        Err(error) => error,
    };
    let after = request.destination.is_dir().then(|| tree(&request.destination));
    assert!(
        before == after,
        "{} was touched by a restore that failed: {error}",
        request.destination.display()
    );
    assert!(!error.hints.is_empty(), "{error:?}");
    error
}

#[track_caller]
fn is_refused(request: &RestoreRequest, kind: ErrorKind, words: &[&str]) {
    let error = refused(request);
    assert_eq!(error.kind, kind, "{error:#?}");
    let said = format!("{error} {}", error.hints.join(" "));
    for word in words {
        assert!(said.contains(word), "`{word}` is not in {error:#?}");
    }
}

#[test]
fn what_cannot_be_reached_is_refused_before_anything_is_written() {
    let site = Site::new();
    let primary = site.archiving(
        Cluster::builder(18)
            .wal_segment_mib(1)
            .conf("track_commit_timestamp", "on")
            .conf("timezone", "America/New_York"),
    );
    primary.sql("CREATE TABLE t (i int)");
    is_refused(&site.request(RecoveryTarget::Latest), ErrorKind::NotFound, &["pgkeep backup"]);

    let early = commit(&primary, 1);
    std::thread::sleep(Duration::from_millis(20));
    let backup = site.backup(&primary, &[]);
    commit(&primary, 2);
    let safe = site.archive_all(&primary);
    let lost = {
        commit(&primary, 3);
        site.archive_all(&primary)
    };
    let late = commit(&primary, 4);
    primary.sql("SELECT pg_create_restore_point('late')");
    site.archive_all(&primary);
    let objects = tree(&site.repository());

    use RecoveryTarget::{Immediate, Latest, Name, Time, Xid};
    let unreachable = ErrorKind::TargetUnreachable;
    is_refused(&site.request(Time("2099-01-01 00:00:00+00".into())), unreachable, &["last commit", "latest"]);
    is_refused(&site.request(lsn("FF/0")), unreachable, &["FF/0"]);
    is_refused(&site.request(Time(early.time.clone())), unreachable, &["consistent only from"]);
    is_refused(&site.request(Time("2001-01-01 00:00:00 UTC".into())), unreachable, &["consistent only from"]);
    is_refused(&site.request(lsn(&early.after)), unreachable, &["consistent only from"]);
    is_refused(&site.request(Xid(early.xid)), unreachable, &[]);
    is_refused(&site.request(Xid(4_000_000_000)), unreachable, &["4000000000"]);
    is_refused(&site.request(Name("no such point".into())), unreachable, &["no such point", "`late`"]);
    let nine = TargetTimeline::Number(TimelineId::new(9).unwrap());
    is_refused(
        &RestoreRequest { timeline: nine, ..site.request(Latest) },
        unreachable,
        &["timeline 9", "knows the timelines 1"],
    );
    is_refused(&RestoreRequest { exclusive: true, ..site.request(Immediate) }, ErrorKind::Usage, &[]);
    is_refused(&RestoreRequest { standby: true, ..site.request(Immediate) }, ErrorKind::Usage, &[]);
    is_refused(
        &RestoreRequest { backup: Some("000099-20260101T000000Z".into()), ..site.request(Latest) },
        ErrorKind::NotFound,
        &[backup["id"].as_str().unwrap()],
    );

    times_without_a_zone(&site, &primary, &late);
    places_that_must_not_be_written(&site, &primary);
    assert!(tree(&site.repository()) == objects, "a restore that fails must not write to the repository");

    // The same targets once a segment is lost.
    let object = site.wal_object(&lost);
    let kept = fs::read(&object).unwrap();
    fs::remove_file(&object).unwrap();
    for target in [Latest, Time(late.time.clone()), lsn(&late.before), Xid(late.xid), Name("late".into())] {
        is_refused(&site.request(target), ErrorKind::WalGap, &[&lost]);
    }
    // What lies before the gap can still be had.
    let listed = pgkeep_engine::list::list(&site.location()).unwrap();
    assert_eq!(listed.gaps.len(), 1, "{:?}", listed.gaps);
    assert_eq!(listed.gaps[0].first_missing, lost);
    let restored = site.bring_back(18, &site.request(Immediate));
    assert_eq!(rows(&restored), "1");
    drop(restored);
    // And a backup whose own WAL is lost cannot be had at all.
    fs::write(&object, kept).unwrap();
    let first = pgkeep_engine::list::show(&site.location(), backup["id"].as_str().unwrap()).unwrap();
    let own = segment_of(&primary, &first.summary.start_lsn.to_string());
    assert!(own <= safe);
    fs::remove_file(site.wal_object(&own)).unwrap();
    for target in [Immediate, Latest] {
        is_refused(&site.request(target), ErrorKind::WalGap, &[&own]);
    }
}

fn segment_of(cluster: &Cluster, lsn: &str) -> String {
    cluster.sql(&format!("SELECT pg_walfile_name('{lsn}'::pg_lsn)"))
}

/// The cluster lives in New York.
fn times_without_a_zone(site: &Site, primary: &Cluster, late: &Commit) {
    let civil = |zone: &str| {
        primary.sql(&format!(
            "SET timezone = 'UTC'; SELECT to_char('{}'::timestamptz AT TIME ZONE '{zone}', 'YYYY-MM-DD HH24:MI:SS.US')",
            late.time
        ))
    };
    let text = civil("Europe/Berlin");
    let ambiguous = RestoreRequest {
        caller_time_zone: "Europe/Berlin".into(),
        ..site.request(RecoveryTarget::Time(text.clone()))
    };
    is_refused(&ambiguous, ErrorKind::Usage, &["Europe/Berlin", "America/New_York", "+00"]);
    // Where both agree, or the zone is said, it is one moment.
    let utc = format!("{}+00", civil("UTC").trim_end_matches('0'));
    for (text, caller) in [
        (civil("America/New_York"), "America/New_York"),
        (format!("{text} Europe/Berlin"), "Asia/Tokyo"),
        (late.time.clone(), "Europe/Berlin"),
    ] {
        let request = RestoreRequest {
            caller_time_zone: caller.into(),
            dry_run: true,
            exclusive: true,
            ..site.request(RecoveryTarget::Time(text))
        };
        let plan = run_restore(&request).unwrap();
        let said = plan.recovery_settings.iter().find(|(name, _)| name == "recovery_target_time").unwrap();
        assert_eq!(said.1, utc, "{request:?}");
        assert!(plan.proof.description.contains(&utc), "{}", plan.proof.description);
    }
}

fn places_that_must_not_be_written(site: &Site, primary: &Cluster) {
    let to = |destination: &Path| RestoreRequest {
        destination: destination.to_owned(),
        ..site.request(RecoveryTarget::Latest)
    };
    let occupied = site.destination();
    fs::write(occupied.join("precious"), "data").unwrap();
    is_refused(&to(&occupied), ErrorKind::Destination, &["not empty", "precious"]);
    is_refused(&to(&occupied.join("precious")), ErrorKind::Destination, &["not a directory"]);

    let error = run_restore(&to(primary.data_dir())).unwrap_err();
    assert_eq!(error.kind, ErrorKind::Locked, "{error:#?}");
    assert!(error.to_string().contains(&primary.pid().unwrap().to_string()), "{error}");
    assert_eq!(primary.sql("SELECT 1"), "1");

    // Root owns what it makes, and PostgreSQL would not start on it.
    let absent = site.scratch.path().join("made-by-restore");
    let request = RestoreRequest { dry_run: true, ..to(&absent) };
    if rustix::process::geteuid().is_root() {
        is_refused(&request, ErrorKind::Destination, &["as root", "sudo -u"]);
        let roots = site.scratch.path().join("roots");
        fs::create_dir(&roots).unwrap();
        is_refused(&to(&roots), ErrorKind::Destination, &["as root"]);
    } else {
        run_restore(&request).unwrap();
    }
    assert!(!absent.exists());
}
