//! Which entries of a data directory a backup leaves out, and of which it keeps the empty directory only.
//!
//! The rules are those of the server's own base backup (`backup/basebackup.c`, before 15 `replication/basebackup.c`:
//! `excludeDirContents`, `excludeFiles`), 13 to 18: what they leave out is rebuilt at startup, belongs to the running
//! server only, or is worthless after a restore. Leaving out one name too many is a data loss, so the lists hold
//! nothing else.

use crate::relation::{Fork, RelationFileName};

/// What a backup does with an entry of the data directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Disposition {
    /// Takes it; walks into it when it is a directory.
    Take,
    /// Keeps the directory but nothing in it.
    TakeDirectoryOnly,
    /// Leaves it out, with everything in it.
    Skip,
}

/// Directories whose contents mean nothing to another server; matched by name at any depth.
const EMPTIED_DIRECTORIES: [&str; 7] =
    ["pg_stat_tmp", "pg_replslot", "pg_dynshmem", "pg_notify", "pg_serial", "pg_snapshots", "pg_subtrans"];

/// Names left out at any depth: half-written files, notes about the running server, and what other backups left.
const SKIPPED_NAMES: [&str; 8] = [
    "postgresql.auto.conf.tmp",
    "current_logfiles.tmp",
    "backup_label",
    "tablespace_map",
    "backup_manifest",
    "postmaster.pid",
    "postmaster.opts",
    ".DS_Store",
];

/// Names left out at any depth by what they begin with: the relation cache, and sort and hash spill files.
const SKIPPED_PREFIXES: [&str; 2] = ["pg_internal.init", "pgsql_tmp"];

/// Decides about one entry, by its path relative to the data directory (`/` between names, tablespaces under
/// `pg_tblspc/<oid>`). `is_dir` says whether it is a directory once links are followed. Entries of a directory that is
/// left out are left out as well, so that paths can come in any order, from a walk or from an archive.
///
/// `pg_wal` itself is taken, and of its contents only the empty directories that the server expects there.
///
/// Forks of unlogged relations need the neighbours' names: see [`init_fork_of`].
#[must_use]
pub fn classify_entry(relative_path: &str, is_dir: bool, major: u32) -> Disposition {
    let mut parent = "";
    let mut names = relative_path.split('/').peekable();
    let mut end = 0;
    while let Some(name) = names.next() {
        end += name.len();
        let path = relative_path.get(..end).unwrap_or(relative_path);
        let is_last = names.peek().is_none();
        match classify_name(parent, path, name, is_dir || !is_last, major) {
            Disposition::Take => {}
            Disposition::TakeDirectoryOnly if !is_last => return Disposition::Skip,
            decided => return decided,
        }
        parent = path;
        end += 1;
    }
    Disposition::Take
}

fn classify_name(parent: &str, path: &str, name: &str, is_dir: bool, major: u32) -> Disposition {
    if SKIPPED_NAMES.contains(&name) || SKIPPED_PREFIXES.iter().any(|prefix| name.starts_with(prefix)) {
        return Disposition::Skip;
    }
    if is_dir && EMPTIED_DIRECTORIES.contains(&name) {
        return Disposition::TakeDirectoryOnly;
    }
    if parent == "pg_wal" {
        return match name {
            "archive_status" if is_dir => Disposition::TakeDirectoryOnly,
            "summaries" if is_dir && major >= 17 => Disposition::TakeDirectoryOnly,
            _ => Disposition::Skip,
        };
    }
    if is_tablespace_root(parent) && !is_version_directory(name, major) {
        return Disposition::Skip;
    }
    if !is_dir && is_relation_directory(parent) && is_temporary_relation(name) {
        return Disposition::Skip;
    }
    debug_assert!(path.ends_with(name));
    Disposition::Take
}

/// `pg_tblspc/<oid>`: clusters of several versions may share the directory behind it.
fn is_tablespace_root(path: &str) -> bool {
    path.strip_prefix("pg_tblspc/").is_some_and(is_digits)
}

fn is_version_directory(name: &str, major: u32) -> bool {
    name.strip_prefix("PG_")
        .and_then(|rest| rest.split_once('_'))
        .is_some_and(|(version, catalog)| version == major.to_string() && is_digits(catalog))
}

/// Whether relation files lie right in `path`: `global`, `base/<oid>` or `pg_tblspc/<oid>/PG_…/<oid>`.
fn is_relation_directory(path: &str) -> bool {
    let mut names = path.split('/');
    match (names.next(), names.next(), names.next(), names.next(), names.next()) {
        (Some("global"), None, ..) => true,
        (Some("base"), Some(database), None, ..) => is_digits(database),
        (Some("pg_tblspc"), Some(_), Some(version), Some(database), None) => {
            version.starts_with("PG_") && is_digits(database)
        }
        _ => false,
    }
}

/// Whether a file of a database's directory belongs to a temporary relation: `t3_16384`, `t3_16384_fsm.1`.
#[must_use]
pub fn is_temporary_relation(file_name: &str) -> bool {
    let Some((backend, rest)) = file_name.strip_prefix('t').and_then(|rest| rest.split_once('_')) else {
        return false;
    };
    let (stem, segment) = match rest.split_once('.') {
        Some((stem, segment)) => (stem, Some(segment)),
        None => (rest, None),
    };
    let (number, fork) = match stem.split_once('_') {
        Some((number, fork)) => (number, Some(fork)),
        None => (stem, None),
    };
    is_digits(backend)
        && is_digits(number)
        && fork.is_none_or(|fork| matches!(fork, "fsm" | "vm" | "init"))
        && segment.is_none_or(is_digits)
}

/// The name of the init fork that would make the relation of `file_name` an unlogged one, as `16384_init` for
/// `16384_vm.1`. When a file of that name lies in the same directory, `file_name` is left out: the server rebuilds it
/// from the init fork. None for init forks, which are always taken, and for what is no relation's file.
#[must_use]
pub fn init_fork_of(file_name: &str) -> Option<String> {
    let name = RelationFileName::parse(file_name)?;
    if name.fork == Fork::Init {
        return None;
    }
    Some(RelationFileName { fork: Fork::Init, segment: 0, ..name }.to_string())
}

fn is_digits(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::Disposition::{Skip, Take, TakeDirectoryOnly};
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_belongs_to_the_running_server_is_left_out() {
        for path in [
            "postmaster.pid",
            "postmaster.opts",
            "backup_label",
            "tablespace_map",
            "backup_manifest",
            "postgresql.auto.conf.tmp",
            "current_logfiles.tmp",
            "global/pg_internal.init",
            "base/5/pg_internal.init.4711",
            "base/5/.DS_Store",
            "base/pgsql_tmp/pgsql_tmp4711.0",
            "base/5/t3_16384",
            "global/t3_16384_fsm.1",
            "pg_tblspc/16400/PG_15_202209061/5/t0_1_vm",
            "pg_tblspc/16400/PG_15_202209061/pgsql_tmp",
            "pg_wal/000000010000000000000001",
            "pg_wal/archive_status/000000010000000000000001.done",
            "pg_replslot/a/state",
            "pg_subtrans/0000",
        ] {
            assert_eq!(classify_entry(path, false, 15), Skip, "{path}");
        }
        assert_eq!(classify_entry("base/pgsql_tmp", true, 15), Skip);
    }

    #[test]
    fn some_directories_are_kept_empty() {
        for name in EMPTIED_DIRECTORIES {
            assert_eq!(classify_entry(name, true, 14), TakeDirectoryOnly);
            assert_eq!(classify_entry(&format!("base/{name}"), true, 14), TakeDirectoryOnly);
            assert_eq!(classify_entry(&format!("{name}/x"), true, 14), Skip);
        }
        assert_eq!(classify_entry("pg_wal/archive_status", true, 14), TakeDirectoryOnly);
    }

    #[test]
    fn summaries_came_with_17() {
        assert_eq!(classify_entry("pg_wal", true, 17), Take);
        assert_eq!(classify_entry("pg_wal/summaries", true, 17), TakeDirectoryOnly);
        assert_eq!(classify_entry("pg_wal/summaries", true, 16), Skip);
        assert_eq!(classify_entry("pg_wal/summaries/x.summary", false, 17), Skip);
        assert_eq!(classify_entry("pg_wal/elsewhere", true, 17), Skip);
    }

    #[test]
    fn a_tablespace_is_followed_into_its_own_version_only() {
        assert_eq!(classify_entry("pg_tblspc/16400", true, 15), Take);
        assert_eq!(classify_entry("pg_tblspc/16400/PG_15_202209061", true, 15), Take);
        assert_eq!(classify_entry("pg_tblspc/16400/PG_15_202209061/5/16384", false, 15), Take);
        for name in ["PG_14_202107181", "PG_15", "PG_15_", "PG_15_x", "PG_150_1", "lost+found"] {
            assert_eq!(classify_entry(&format!("pg_tblspc/16400/{name}"), true, 15), Skip, "{name}");
            assert_eq!(classify_entry(&format!("pg_tblspc/16400/{name}/5/16384"), false, 15), Skip, "{name}");
        }
    }

    #[test]
    fn everything_else_is_taken() {
        for path in [
            "PG_VERSION",
            "postgresql.conf",
            "postgresql.auto.conf",
            "current_logfiles",
            "backup_label.old",
            "global/pg_control",
            "base/5/16384",
            "base/5/16384_init",
            "base/5/t3",
            "pg_xact/0000",
            "pg_logical/mappings/x",
            "pg_stat/pgstat.stat",
            "pg_twophase/00000001",
            "my_pgsql_tmp",
            // Only directories of relations hold temporary ones.
            "pg_xact/t3_16384",
            // A file that happens to be called like a directory.
            "pg_notify",
        ] {
            assert_eq!(classify_entry(path, false, 18), Take, "{path}");
        }
    }

    #[test]
    fn temporary_relations_are_known_by_their_names() {
        for name in ["t3_16384", "t0_1", "t12_16384_fsm", "t12_16384_vm.2", "t12_16384_init", "t3_16384.10"] {
            assert!(is_temporary_relation(name), "{name}");
        }
        for name in [
            "t",
            "t3",
            "t_1",
            "t3_",
            "t3_x",
            "x3_1",
            "t3_1_main",
            "t3_1_",
            "t3_1.",
            "t3_1.x",
            "T3_1",
            "16384",
        ] {
            assert!(!is_temporary_relation(name), "{name}");
        }
    }

    #[test]
    fn an_unlogged_relation_is_known_by_its_init_fork() {
        for name in ["16384", "16384.1", "16384_vm.1", "16384_fsm"] {
            assert_eq!(init_fork_of(name).as_deref(), Some("16384_init"), "{name}");
        }
        for name in ["16384_init", "16384_init.1", "t3_16384", "PG_VERSION", "016384"] {
            assert_eq!(init_fork_of(name), None, "{name}");
        }
    }

    proptest! {
        #[test]
        fn nothing_is_taken_from_a_directory_that_is_left_out(
            path in "(base|global|pg_wal|pg_tblspc|pg_notify|5|PG_15_1|x|t1_1)(/(5|PG_15_1|archive_status|pgsql_tmp|pg_notify|x)){0,4}",
            is_dir in any::<bool>(),
        ) {
            for (at, _) in path.match_indices('/') {
                if classify_entry(&path[..at], true, 15) != Take {
                    prop_assert_eq!(classify_entry(&path, is_dir, 15), Skip);
                }
            }
        }

        #[test]
        fn arbitrary_paths_do_no_harm(path in "[^\0]{0,40}", is_dir in any::<bool>()) {
            std::hint::black_box(classify_entry(&path, is_dir, 18));
            std::hint::black_box(is_temporary_relation(&path));
            std::hint::black_box(init_fork_of(&path));
        }
    }
}
