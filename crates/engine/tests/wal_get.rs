//! `wal get`: what is delivered, what is certainly not there, and what must never be answered with "not there".
//! The last tests let real servers recover with it.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail loudly too")]

mod stanza_support;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use pgkeep_engine::ErrorKind;
use pgkeep_engine::wal::GetOutcome;
use pgkeep_format::{WalFileName, WalSegmentSize};
use pgkeep_testkit::{Cluster, Scratch, client, pgkeep_binary, run_as_server_user, wait_until};
use stanza_support::{Place, cluster, file_name, finished_segment};

fn name_of(path: &Path) -> WalFileName {
    WalFileName::parse(&file_name(path), WalSegmentSize::try_from(1 << 20).unwrap()).unwrap()
}

/// A place with segments of a cluster pushed into it: those whose position in the list is in `pushed`.
fn filled(cluster: &Cluster, count: usize, pushed: &[usize]) -> (Place, Vec<PathBuf>) {
    let place = Place::new();
    place.init(cluster).unwrap();
    let paths: Vec<PathBuf> = (0..count).map(|_| finished_segment(cluster)).collect();
    for position in pushed {
        place.push(&paths[*position]).unwrap();
    }
    fs::create_dir_all(place.directory.path().join("pgdata/pg_wal")).unwrap();
    (place, paths)
}

fn recovery_path(place: &Place) -> PathBuf {
    place.directory.path().join("pgdata/pg_wal/RECOVERYXLOG")
}

#[test]
fn what_is_there_is_delivered_and_what_is_after_it_is_not_there() {
    let cluster = cluster(17);
    let (place, paths) = filled(&cluster, 3, &[0, 1]);
    let target = recovery_path(&place);
    for path in &paths[..2] {
        assert_eq!(place.get(&file_name(path), &target).unwrap(), GetOutcome::Delivered);
        assert_eq!(fs::read(&target).unwrap(), fs::read(path).unwrap());
    }
    fs::remove_file(&target).unwrap();
    assert_eq!(place.get(&file_name(&paths[2]), &target).unwrap(), GetOutcome::NotThere);
    assert_eq!(place.get("00000002.history", &target).unwrap(), GetOutcome::NotThere);
    assert_eq!(
        place.get(&file_name(&paths[1]).replacen('1', "2", 1), &target).unwrap(),
        GetOutcome::NotThere
    );
    assert!(!target.exists());
    assert_eq!(fs::read_dir(target.parent().unwrap()).unwrap().count(), 0);
}

#[test]
fn a_hole_is_an_error_except_where_the_server_can_help_itself() {
    let cluster = cluster(17);
    let (place, paths) = filled(&cluster, 4, &[0, 3]);
    let target = recovery_path(&place);
    let missing = file_name(&paths[1]);
    let error = place.get(&missing, &target).unwrap_err();
    assert_eq!(error.kind, ErrorKind::WalGap);
    let text = error.to_string();
    assert!(text.contains(&missing) && text.contains(&file_name(&paths[2])), "{text}");

    // pg_wal has it: PostgreSQL looks there next.
    fs::copy(&paths[1], target.parent().unwrap().join(&missing)).unwrap();
    assert_eq!(place.get(&missing, &target).unwrap(), GetOutcome::NotThere);
    // A standby asks its primary.
    fs::remove_file(target.parent().unwrap().join(&missing)).unwrap();
    fs::write(place.directory.path().join("pgdata/standby.signal"), "").unwrap();
    assert_eq!(place.get(&missing, &target).unwrap(), GetOutcome::NotThere);
    fs::remove_file(place.directory.path().join("pgdata/standby.signal")).unwrap();
    // Filled by hand, recovery goes on.
    place.push(&paths[1]).unwrap();
    assert_eq!(place.get(&missing, &target).unwrap(), GetOutcome::Delivered);
}

#[test]
fn what_cannot_be_told_is_an_error() {
    let cluster = cluster(16);
    let (place, paths) = filled(&cluster, 1, &[0]);
    let target = recovery_path(&place);
    let name = file_name(&paths[0]);

    let object = Path::new(&place.location.repository).join(place.archive().key(name_of(&paths[0])));
    let good = fs::read(&object).unwrap();
    for position in [20, 100, good.len() / 2, good.len() - 1] {
        let mut bad = good.clone();
        bad[position] ^= 1;
        fs::write(&object, &bad).unwrap();
        let error = place.get(&name, &target).unwrap_err();
        assert!(matches!(error.kind, ErrorKind::Corrupt | ErrorKind::Unsupported), "{position}: {error}");
        assert!(error.to_string().contains(&name), "{error}");
    }
    fs::write(&object, &good[..good.len() / 2]).unwrap();
    assert_eq!(place.get(&name, &target).unwrap_err().kind, ErrorKind::Corrupt);
    fs::write(&object, &good).unwrap();
    assert!(!target.exists());

    let mut elsewhere = Place::new();
    assert_eq!(elsewhere.get(&name, &target).unwrap_err().kind, ErrorKind::NotFound);
    elsewhere.location.repository = place.location.repository.clone();
    elsewhere.location.stanza = "other".to_owned();
    assert_eq!(elsewhere.get(&name, &target).unwrap_err().kind, ErrorKind::NotFound);
    assert_eq!(place.get("nonsense", &target).unwrap_err().kind, ErrorKind::Usage);
    let nowhere = place.directory.path().join("no/such/RECOVERYXLOG");
    assert_eq!(place.get(&name, &nowhere).unwrap_err().kind, ErrorKind::Destination);
}

#[test]
fn following_segments_are_fetched_ahead_and_served_once() {
    let cluster = cluster(18);
    let (place, paths) = filled(&cluster, 6, &[0, 1, 2, 3, 4, 5]);
    let target = recovery_path(&place);
    let spool = place.directory.path().join("spool");
    let waiting = || -> usize {
        let folders = fs::read_dir(&spool).unwrap().map(|entry| entry.unwrap().path());
        folders.map(|folder| fs::read_dir(folder).unwrap().count()).sum()
    };
    let get = |path: &Path| place.get_with(&file_name(path), &target, Some(spool.clone()), 3).unwrap();
    assert_eq!(get(&paths[0]), GetOutcome::Delivered);
    assert_eq!(waiting(), 3);
    // Even when the archive loses them now, the fetched ones are good.
    for path in &paths[1..4] {
        fs::remove_file(Path::new(&place.location.repository).join(place.archive().key(name_of(path))))
            .unwrap();
    }
    for (position, path) in paths.iter().enumerate().take(4).skip(1) {
        assert_eq!(get(path), GetOutcome::Delivered);
        assert_eq!(fs::read(&target).unwrap(), fs::read(path).unwrap());
        assert_eq!(waiting(), 3 - position);
    }
    // The end of the archive does not disturb.
    assert_eq!(get(&paths[4]), GetOutcome::Delivered);
    assert_eq!(waiting(), 1);
    // The archive ends: nothing is left behind.
    assert_eq!(get(&paths[5]), GetOutcome::Delivered);
    let after = place.get_with("0000000100000000000000EE", &target, Some(spool.clone()), 3).unwrap();
    assert_eq!(after, GetOutcome::NotThere);
    assert!(!spool.exists());
    // A copy for a human fetches nothing ahead.
    let copy = place.directory.path().join(file_name(&paths[4]));
    place.get_with(&file_name(&paths[4]), &copy, Some(place.directory.path().join("other")), 3).unwrap();
    assert!(!place.directory.path().join("other").exists());
}

/// A primary that archives with the program itself, and a base backup of it without WAL.
struct Archived {
    scratch: Scratch,
    repository: String,
}

impl Archived {
    fn new() -> Archived {
        let scratch = Scratch::new();
        let repository = scratch.path().join("repo").display().to_string();
        Archived { scratch, repository }
    }

    fn command(&self, verb: &str) -> String {
        format!("{} --repo {} --stanza main wal {verb}", pgkeep_binary().display(), self.repository)
    }

    fn primary(&self, major: u32) -> Cluster {
        let primary = Cluster::builder(major)
            .wal_segment_mib(1)
            .conf("archive_mode", "on")
            .conf("archive_command", self.command("push %p"))
            .start();
        let mut init = Command::new(pgkeep_binary());
        init.args(["init", "--repo", &self.repository, "-d", &primary.conninfo()]);
        run_as_server_user(&mut init);
        let output = init.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        primary
    }

    fn base_backup(&self, primary: &Cluster, name: &str) -> PathBuf {
        let data = self.scratch.path().join(name);
        let mut copy = Command::new(client("pg_basebackup"));
        copy.args(["-d", &primary.conninfo(), "-c", "fast", "-X", "none", "--no-sync", "-D"]).arg(&data);
        run_as_server_user(&mut copy);
        let output = copy.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        fs::write(data.join("recovery.signal"), "").unwrap();
        data
    }

    fn copy_of(&self, data: &Path, name: &str) -> PathBuf {
        let to = self.scratch.path().join(name);
        assert!(Command::new("cp").arg("-a").arg(data).arg(&to).status().unwrap().success());
        to
    }

    /// Starts a copy of a base backup that recovers from the archive.
    fn recover(
        &self,
        major: u32,
        data: &Path,
        more: &[(&str, &str)],
    ) -> Result<Cluster, pgkeep_testkit::StartError> {
        let restore_command = self.command("get %f %p");
        let mut settings = vec![("restore_command", restore_command.as_str())];
        settings.extend(more);
        Cluster::try_from_data_dir(major, data, &settings)
    }

    fn wait_for(&self, cluster: &Cluster, segment: &str) {
        wait_until(&format!("{segment} in the archive"), Duration::from_secs(30), || {
            cluster.sql(&format!(
                "SELECT coalesce(last_archived_wal >= '{segment}', false) FROM pg_stat_archiver"
            )) == "t"
        });
    }

    fn stored(&self, name: &str) -> PathBuf {
        let timeline = &name[..8];
        Path::new(&self.repository).join(format!("main/wal/000001/{timeline}/{}/{name}", &name[8..16]))
    }
}

#[test]
fn servers_recover_across_a_promotion_and_never_past_a_hole() {
    for major in [14, 16, 18] {
        let archived = Archived::new();
        let primary = archived.primary(major);
        primary.sql("CREATE TABLE t (i int)");
        let base = archived.base_backup(&primary, "base");
        for i in 0..3 {
            primary.sql(&format!("INSERT INTO t VALUES ({i})"));
            primary.switch_wal();
        }
        primary.sql("INSERT INTO t VALUES (3)");
        let last = primary.switch_wal();
        archived.wait_for(&primary, &last);
        drop(primary);

        // To the end of the archive, on a new timeline that is archived too.
        let data = archived.copy_of(&base, "second");
        let push = archived.command("push %p");
        let second = archived
            .recover(
                major,
                &data,
                &[("archive_mode", "on"), ("archive_command", &push), ("recovery_target_timeline", "latest")],
            )
            .unwrap();
        second.wait_for_writes();
        assert_eq!(second.sql("SELECT count(*) FROM t"), "4", "PostgreSQL {major}: {}", second.log());
        second.sql("INSERT INTO t VALUES (4)");
        let on_two = second.switch_wal();
        assert!(on_two.starts_with("00000002"), "{on_two}");
        second.sql("INSERT INTO t VALUES (5)");
        let end = second.switch_wal();
        archived.wait_for(&second, &end);
        drop(second);

        // The old base follows the promotion, or stays on its own timeline.
        let third = archived
            .recover(major, &archived.copy_of(&base, "third"), &[("recovery_target_timeline", "latest")])
            .unwrap();
        third.wait_for_writes();
        assert_eq!(third.sql("SELECT count(*) FROM t"), "6", "PostgreSQL {major}");
        drop(third);
        let current = archived
            .recover(major, &archived.copy_of(&base, "current"), &[("recovery_target_timeline", "current")])
            .unwrap();
        current.wait_for_writes();
        assert_eq!(current.sql("SELECT count(*) FROM t"), "4", "PostgreSQL {major}");
        drop(current);

        // A hole in the middle, on either timeline: the server must not come up with what it has.
        for lost in [&last, &on_two] {
            let kept = fs::read(archived.stored(lost)).unwrap();
            fs::remove_file(archived.stored(lost)).unwrap();
            let name = format!("lost-{lost}");
            match archived.recover(
                major,
                &archived.copy_of(&base, &name),
                &[("recovery_target_timeline", "latest")],
            ) {
                Err(_) => {}
                Ok(cluster) => {
                    wait_until("the end of recovery at the hole", Duration::from_secs(30), || {
                        !cluster.is_running()
                            || cluster.log().contains("restore_command")
                            || cluster.log().contains("restore command")
                    });
                    cluster.wait_for_end();
                    assert!(cluster.log().contains("missing from the archive"), "{}", cluster.log());
                }
            }
            assert!(
                archived.scratch.path().join(&name).join("recovery.signal").exists(),
                "PostgreSQL {major} ended recovery at a hole"
            );
            fs::write(archived.stored(lost), kept).unwrap();
        }
    }
}

#[test]
fn a_standby_waits_at_a_hole_and_goes_on_when_it_is_filled() {
    let archived = Archived::new();
    let primary = archived.primary(17);
    primary.sql("CREATE TABLE t (i int)");
    let base = archived.base_backup(&primary, "base");
    let mut names = Vec::new();
    for i in 0..4 {
        primary.sql(&format!("INSERT INTO t VALUES ({i})"));
        names.push(primary.switch_wal());
    }
    archived.wait_for(&primary, &names[3]);
    let kept = fs::read(archived.stored(&names[1])).unwrap();
    fs::remove_file(archived.stored(&names[1])).unwrap();

    fs::remove_file(base.join("recovery.signal")).unwrap();
    fs::write(base.join("standby.signal"), "").unwrap();
    let standby = archived.recover(17, &base, &[("wal_retrieve_retry_interval", "200ms")]).unwrap();
    wait_until("the standby to reach the hole", Duration::from_secs(30), || {
        standby.sql("SELECT count(*) FROM t") == "1"
    });
    std::thread::sleep(Duration::from_millis(600));
    assert!(standby.is_running() && standby.sql("SELECT count(*) FROM t") == "1", "{}", standby.log());
    fs::write(archived.stored(&names[1]), kept).unwrap();
    wait_until("the standby to go on", Duration::from_secs(30), || {
        standby.sql("SELECT count(*) FROM t") == "4"
    });
}

#[test]
fn the_end_of_a_timeline_is_recovered_from_its_partial_segment() {
    let archived = Archived::new();
    let primary = archived.primary(17);
    primary.sql("CREATE TABLE t (i int)");
    let base = archived.base_backup(&primary, "base");
    let push = archived.command("push %p");
    let standby =
        Cluster::standby_with(&primary, &[("archive_mode", "on"), ("archive_command", push.as_str())]);
    primary.sql("INSERT INTO t VALUES (1)");
    let whole = primary.switch_wal();
    archived.wait_for(&primary, &whole);
    primary.sql("INSERT INTO t VALUES (2)");
    let last = primary.sql("SELECT pg_walfile_name(pg_current_wal_lsn())");
    standby.wait_for_replay_of(&primary);
    drop(primary);
    standby.promote();
    let partial = archived.stored(&format!("{last}.partial"));
    wait_until(&format!("{}", partial.display()), Duration::from_secs(30), || partial.exists());
    // Lost before the new timeline archived its first segment.
    drop(standby);
    assert!(!archived.stored(&last.replacen('1', "2", 1)).exists());

    let restored = archived.recover(17, &base, &[]).unwrap();
    restored.wait_for_writes();
    assert_eq!(restored.sql("SELECT count(*) FROM t"), "2", "{}", restored.log());
}
