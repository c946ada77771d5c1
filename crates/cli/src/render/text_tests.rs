//! How reports look, from made-up ones.

use pgkeep_engine::backup::{BackupType, ChangesFrom};
use pgkeep_engine::check::Finding;
use pgkeep_engine::{Lsn, TimelineId};

use super::*;

fn summary() -> BackupSummary {
    BackupSummary {
        id: "000001-20261122T091200Z".into(),
        kind: "full".into(),
        started: "2026-11-22T09:12:00Z".into(),
        finished: "2026-11-22T09:12:33Z".into(),
        start_lsn: Lsn(0x200_0028),
        stop_lsn: Lsn(0x200_0120),
        timeline: TimelineId::FIRST,
        size_bytes: 1_771_674_009,
        stored_bytes: 335_544_320,
        unique_bytes: 268_435_456,
        held: false,
        restorable: true,
        verified: None,
        problem: None,
    }
}

fn window(to_lsn: u64, to_time: Option<&str>) -> Window {
    Window {
        backup: "000001-20261122T091200Z".into(),
        timeline: TimelineId::FIRST,
        from_lsn: Lsn(0x200_0120),
        to_lsn: Lsn(to_lsn),
        from_time: "2026-11-22T09:12:33Z".into(),
        to_time: to_time.map(str::to_owned),
    }
}

#[test]
fn a_list_shows_backups_windows_and_gaps_in_words() {
    let broken = BackupSummary {
        id: "000012-20261123T091200Z".into(),
        size_bytes: 1000,
        held: true,
        restorable: false,
        problem: Some("WAL segment 00000001000000000000000B is missing".into()),
        ..summary()
    };
    let gap = |first: &str, last: &str, segments, harmful| Gap {
        timeline: TimelineId::FIRST,
        first_missing: first.into(),
        last_missing: last.into(),
        segments,
        from_lsn: Lsn(0x900_0000),
        to_lsn: Lsn(0xC00_0000),
        harmful,
        expired: false,
    };
    let report = ListReport {
        damage: Vec::new(),
        warnings: Vec::new(),
        stanza: "main".into(),
        system_identifier: 7_412_345_678_901_234_567,
        backups: vec![summary(), broken],
        dumps: vec![],
        windows: vec![
            window(0x800_0000, Some("2026-11-22T10:00:00.5Z")),
            window(0x300_0000, None),
            window(0x200_0120, None),
        ],
        gaps: vec![
            gap("000000010000000000000009", "00000001000000000000000B", 3, true),
            gap("000000010000000000000001", "000000010000000000000001", 1, false),
        ],
    };
    insta::assert_snapshot!(list(&report));
}

#[test]
fn an_empty_list_says_what_to_do() {
    let report = ListReport {
        damage: Vec::new(),
        warnings: Vec::new(),
        stanza: "main".into(),
        system_identifier: 7,
        backups: vec![],
        dumps: vec![],
        windows: vec![],
        gaps: vec![],
    };
    insta::assert_snapshot!(list(&report));
}

#[test]
fn a_backup_with_bad_pages_names_files_and_blocks() {
    let report = BackupReport {
        id: Some("000001-20261122T091200Z".into()),
        kind: BackupType::Incremental,
        parent: Some("000001-20261122T091200Z".into()),
        type_reason: "the newest backup".into(),
        changes: Some(ChangesFrom::Compare),
        changes_reason: "every block was compared".into(),
        read_bytes: 1_771_674_009,
        new_bytes: 23_756_800,
        reused_bytes: 12_582_912,
        unchanged_files: 941,
        source: SourceKind::Local,
        source_reason: "the data directory is readable here".into(),
        wal: WalMode::Include,
        wal_reason: "no archiver feeds this repository".into(),
        started: "2026-11-22T09:12:00Z".into(),
        finished: Some("2026-11-22T09:12:33Z".into()),
        start_lsn: Some(Lsn(0x200_0028)),
        stop_lsn: Some(Lsn(0x200_0120)),
        timeline: Some(TimelineId::FIRST),
        files: 1234,
        size_bytes: 1_771_674_009,
        stored_bytes: 335_544_320,
        vanished_files: 1,
        checksums_verified: true,
        bad_pages: vec![
            BadPages { path: "base/5/16384".into(), blocks: vec![7], total: 1 },
            BadPages { path: "base/5/16390.1".into(), blocks: (0..30).collect(), total: 5000 },
        ],
    };
    insta::assert_snapshot!(backup(&report));
    let dry = BackupReport {
        id: None,
        finished: None,
        stop_lsn: None,
        bad_pages: vec![],
        vanished_files: 0,
        ..report
    };
    insta::assert_snapshot!(backup(&dry));
}

#[test]
fn a_check_gives_each_finding_its_hint() {
    let finding = |check: &str, outcome, text: &str, hint: Option<&str>| Finding {
        check: check.into(),
        outcome,
        text: text.into(),
        hint: hint.map(str::to_owned),
    };
    let report = CheckReport {
        findings: vec![
            finding("connection", Outcome::Ok, "PostgreSQL 18.1, primary", None),
            finding(
                "settings",
                Outcome::Failed,
                "archive_mode is off",
                Some("`pgkeep init --apply` sets it"),
            ),
            finding("archive", Outcome::NotTried, "archiving is off", Some("correct what failed above")),
            finding("space", Outcome::Warning, "12 % of the disk is free", Some("make room")),
        ],
        ok: false,
    };
    insta::assert_snapshot!(check(&report, Palette::plain()));
}

#[test]
fn init_prints_the_lines_to_add() {
    use pgkeep_engine::init::SettingFinding;
    let setting = |name: &str, current: &str, wanted: &str, needs_restart, applied| SettingFinding {
        name: name.into(),
        current: current.into(),
        wanted: wanted.into(),
        line: format!("{name} = '{}'", wanted.replace('\'', "\'\'")),
        needs_restart,
        can_be_set: name != "archive_library",
        note: (name == "archive_library").then(|| "another archiver is in use".into()),
        applied,
    };
    let report = |restart_needed, settings| InitReport {
        repository_id: "00112233445566778899aabbccddeeff".into(),
        created_repository: true,
        created_stanza: true,
        system_identifier: 7_412_345_678_901_234_567,
        server_version: 180_001,
        restart_needed,
        settings,
    };
    let command = "pgkeep wal push --repo '/my backup' --stanza main %p";
    let open = report(
        false,
        vec![
            setting("archive_mode", "off", "on", true, false),
            setting("archive_command", "", command, false, false),
        ],
    );
    insta::assert_snapshot!(init(&open, "/my backup", "main"));
    let applied = report(
        true,
        vec![
            setting("archive_mode", "off", "on", true, true),
            setting("archive_command", "", command, false, true),
        ],
    );
    let foreign = report(false, vec![setting("archive_library", "basic_archive", "", false, false)]);
    insta::assert_snapshot!(init(&foreign, "/my backup", "main"));
    insta::assert_snapshot!(init(&applied, "/my backup", "main"));
    insta::assert_snapshot!(init(&report(false, vec![]), "/my backup", "main"));
}
