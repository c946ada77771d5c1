//! One wrong byte anywhere in a repository: somebody notices, or it does not matter. Never a panic, never other data.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail loudly too")]

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use common::{Dice, Site, run_restore, tree};
use pgkeep_engine::list::{list, show};
use pgkeep_engine::restore::RecoveryTarget;
use pgkeep_engine::wal::{GetOutcome, GetRequest, get};
use pgkeep_engine::{Error, ErrorKind};
use pgkeep_format::WalFileName;
use pgkeep_repo::PackCheck;
use pgkeep_testkit::Cluster;

const FLIPS: usize = 120;

/// All that a user can get out of the repository.
#[derive(PartialEq)]
struct Answers {
    listed: String,
    shown: String,
    wal: BTreeMap<String, Vec<u8>>,
    /// What later verbs read instead of WAL.
    summaries: BTreeMap<String, Vec<u8>>,
    restored: BTreeMap<PathBuf, (u32, Vec<u8>)>,
}

struct Damage {
    site: Site,
    backup: String,
    wal: Vec<String>,
}

impl Damage {
    /// Asks for everything, the cheapest first.
    fn ask(&self) -> Result<Answers, Error> {
        let json = |error: serde_json::Error| panic!("{error}");
        let listed = serde_json::to_string(&list(&self.site.location())?).unwrap_or_else(json);
        let shown = serde_json::to_string(&show(&self.site.location(), &self.backup)?).unwrap_or_else(json);
        let mut wal = BTreeMap::new();
        for name in &self.wal {
            wal.insert(name.clone(), self.get(name)?);
        }
        let mut summaries = BTreeMap::new();
        let stanza = self.site.location().open_stanza()?;
        let archive = stanza.wal(stanza.records().last().unwrap());
        for name in &self.wal {
            let parsed = WalFileName::parse(name, archive.segment_size()).unwrap();
            let (_, bytes) = archive.summary(parsed)?.unwrap();
            summaries.insert(name.clone(), bytes);
        }
        let request = self.site.request(RecoveryTarget::Latest);
        let outcome = run_restore(&request);
        let restored = tree(&request.destination);
        let starts = request.destination.join("global/pg_control").exists();
        fs::remove_dir_all(&request.destination).unwrap();
        if let Err(error) = outcome {
            assert!(!starts, "a restore that failed left a directory that starts: {error}");
            return Err(error);
        }
        Ok(Answers { listed, shown, wal, summaries, restored })
    }

    fn get(&self, name: &str) -> Result<Vec<u8>, Error> {
        let path = self.site.scratch.path().join("fetched");
        let request = GetRequest {
            location: self.site.location(),
            name: name.to_owned(),
            path: path.clone(),
            spool: None,
            prefetch: 0,
        };
        assert_eq!(get(&request)?, GetOutcome::Delivered, "{name} is there, though damaged");
        Ok(fs::read(path).unwrap())
    }

    /// Whether a check of the whole backup finds something.
    fn is_pack_bad(&self) -> bool {
        let check = || -> Result<(), pgkeep_repo::RepoError> {
            let stanza = self.site.location().open_stanza().unwrap();
            let reader = stanza.backup(self.backup.parse().unwrap())?;
            for pack in &reader.header().packs {
                reader.check_pack(pack, PackCheck::Digests)?;
            }
            Ok(())
        };
        check().is_err()
    }
}

fn objects(root: &Path) -> Vec<PathBuf> {
    tree(root).into_keys().map(|name| root.join(name)).filter(|path| path.is_file()).collect()
}

#[test]
fn a_flipped_byte_is_noticed_or_does_not_matter() {
    let mut dice = Dice::new("damage");
    let site = Site::new();
    let primary = site.archiving(Cluster::builder(17).wal_segment_mib(1));
    primary.sql("CREATE TABLE t AS SELECT i, md5(i::text) FROM generate_series(1, 5000) i");
    let backup = site.backup(&primary, &[])["id"].as_str().unwrap().to_owned();
    for _ in 0..3 {
        primary.sql("INSERT INTO t SELECT i, md5(i::text) FROM generate_series(1, 500) i");
        site.archive_all(&primary);
    }
    drop(primary);
    let repository = site.repository();
    let mut wal: Vec<String> = objects(&repository.join("main/wal"))
        .iter()
        .map(|path| path.file_name().unwrap().to_str().unwrap().to_owned())
        .collect();
    wal.sort();
    assert!(wal.len() >= 4, "{wal:?}");
    let damage = Damage { site, backup, wal };
    let expected = damage.ask().unwrap();

    let objects = objects(&repository);
    let is_pack = |path: &Path| path.file_name().unwrap().to_str().unwrap().starts_with("pack-");
    let packs: Vec<PathBuf> = objects.iter().filter(|path| is_pack(path)).cloned().collect();
    let (mut noticed, mut harmless) = (0, Vec::new());
    for flip in 0..FLIPS {
        // Packs are the bulk of a repository but few of its objects.
        let from = if flip % 3 == 0 { &packs } else { &objects };
        let object = &from[dice.below(from.len() as u64) as usize];
        let good = fs::read(object).unwrap();
        // The ends of an object hold what describes it: half of the flips go there.
        let length = good.len() as u64;
        let position = match dice.below(4) {
            0 => dice.below(length.min(256)),
            1 => length - 1 - dice.below(length.min(256)),
            _ => dice.below(length),
        };
        let mask = 1 + dice.below(255) as u8;
        let mut bad = good.clone();
        bad[position as usize] ^= mask;
        fs::write(object, &bad).unwrap();

        let what = format!("byte {position} of {} ^ {mask:#04x}", object.display());
        match catch_unwind(AssertUnwindSafe(|| damage.ask())) {
            Err(_) => panic!("panicked: {what}"),
            Ok(Err(error)) => {
                assert_ne!(error.kind, ErrorKind::Internal, "{what}: {error:#?}");
                assert!(!error.hints.is_empty(), "{what}: {error:#?}");
                noticed += 1;
            }
            Ok(Ok(answers)) => {
                assert!(answers.wal == expected.wal, "other WAL: {what}");
                assert!(answers.summaries == expected.summaries, "another summary: {what}");
                assert!(answers.restored == expected.restored, "other files: {what}");
                assert!(answers == expected, "other answers: {what}");
                harmless.push(what.clone());
            }
        }
        if is_pack(object) {
            assert!(damage.is_pack_bad(), "a check of every byte finds nothing: {what}");
        }
        fs::write(object, &good).unwrap();
    }
    println!("{noticed} noticed, {} without effect:\n{}", harmless.len(), harmless.join("\n"));
    assert!(noticed * 2 > FLIPS, "only {noticed} of {FLIPS} were noticed");
    assert!(damage.ask().unwrap() == expected, "the repository is as it was");
}
