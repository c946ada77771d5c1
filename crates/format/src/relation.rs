//! Names of relation files: which file of a data directory holds which blocks of which relation.
//!
//! A relation is known to storage by tablespace, database and file number (`storage/relfilelocator.h`, before 16
//! `relfilenode.h`). Its forks lie beside each other, cut into segments of `relation_segment_blocks` blocks: `16384`,
//! `16384.1`, `16384_vm` (`common/relpath.h`, 13 to 18). A name that is not exactly of this form belongs to no
//! relation: such a file is copied whole, and its pages are not checked.

use std::fmt;

use serde::{Deserialize, Serialize};

/// `pg_default`, whose files lie in `base/`.
pub const DEFAULT_TABLESPACE: u32 = 1663;
/// `pg_global`, whose files lie in `global/` and belong to no database.
pub const GLOBAL_TABLESPACE: u32 = 1664;

/// A part of a relation, in files of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fork {
    /// The data.
    Main,
    /// The free space map.
    Fsm,
    /// The visibility map.
    Vm,
    /// What an unlogged relation is reset to after a crash.
    Init,
}

/// What storage knows a relation by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct RelFileLocator {
    /// OID of the tablespace.
    pub tablespace: u32,
    /// OID of the database; 0 for relations that all databases share.
    pub database: u32,
    /// The file number, which changes whenever the relation is rewritten: not its OID.
    pub number: u32,
}

/// One file of a relation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct RelationFile {
    /// Which relation.
    pub locator: RelFileLocator,
    /// Which part of it.
    pub fork: Fork,
    /// Which segment of that part, counted from 0.
    pub segment: u32,
}

/// A file name inside a database's directory, taken apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RelationFileName {
    /// The file number.
    pub number: u32,
    /// The fork.
    pub fork: Fork,
    /// The segment, counted from 0.
    pub segment: u32,
}

impl Fork {
    /// The fork that WAL and summaries call `number`.
    #[must_use]
    pub const fn from_number(number: u32) -> Option<Fork> {
        match number {
            0 => Some(Fork::Main),
            1 => Some(Fork::Fsm),
            2 => Some(Fork::Vm),
            3 => Some(Fork::Init),
            _ => None,
        }
    }

    /// The number by which WAL and summaries call it.
    #[must_use]
    pub const fn number(self) -> u32 {
        match self {
            Fork::Main => 0,
            Fork::Fsm => 1,
            Fork::Vm => 2,
            Fork::Init => 3,
        }
    }

    /// What follows the file number in the name of the fork's files.
    #[must_use]
    pub const fn suffix(self) -> &'static str {
        match self {
            Fork::Main => "",
            Fork::Fsm => "_fsm",
            Fork::Vm => "_vm",
            Fork::Init => "_init",
        }
    }
}

impl RelationFileName {
    /// Reads a file name such as `16384_vm.1`; none where it is no (permanent) relation's, `t3_16384` included.
    #[must_use]
    pub fn parse(name: &str) -> Option<RelationFileName> {
        let (stem, segment) = match name.split_once('.') {
            Some((stem, digits)) => (stem, positive(digits)?),
            None => (name, 0),
        };
        let (digits, fork) = match stem.split_once('_') {
            None => (stem, Fork::Main),
            Some((digits, "fsm")) => (digits, Fork::Fsm),
            Some((digits, "vm")) => (digits, Fork::Vm),
            Some((digits, "init")) => (digits, Fork::Init),
            Some(_) => return None,
        };
        Some(RelationFileName { number: positive(digits)?, fork, segment })
    }
}

impl fmt::Display for RelationFileName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.number, self.fork.suffix())?;
        if self.segment == 0 { Ok(()) } else { write!(f, ".{}", self.segment) }
    }
}

impl RelationFile {
    /// Reads a path relative to the data directory; none where the file is no relation's. Inside a tablespace only
    /// `tablespace_version_dir` (as `PG_15_202209061`) belongs to the cluster.
    #[must_use]
    pub fn parse_path(relative: &str, tablespace_version_dir: &str) -> Option<RelationFile> {
        let mut parts = relative.split('/');
        let (tablespace, database) = match parts.next()? {
            "global" => (GLOBAL_TABLESPACE, 0),
            "base" => (DEFAULT_TABLESPACE, positive(parts.next()?)?),
            "pg_tblspc" => {
                let tablespace = positive(parts.next()?)?;
                if parts.next()? != tablespace_version_dir {
                    return None;
                }
                (tablespace, positive(parts.next()?)?)
            }
            _ => return None,
        };
        let name = RelationFileName::parse(parts.next()?)?;
        if parts.next().is_some() {
            return None;
        }
        let locator = RelFileLocator { tablespace, database, number: name.number };
        Some(RelationFile { locator, fork: name.fork, segment: name.segment })
    }

    /// The path relative to the data directory.
    #[must_use]
    pub fn path(&self, tablespace_version_dir: &str) -> String {
        let RelFileLocator { tablespace, database, number } = self.locator;
        let name = RelationFileName { number, fork: self.fork, segment: self.segment };
        match tablespace {
            GLOBAL_TABLESPACE => format!("global/{name}"),
            DEFAULT_TABLESPACE => format!("base/{database}/{name}"),
            _ => format!("pg_tblspc/{tablespace}/{tablespace_version_dir}/{database}/{name}"),
        }
    }

    /// The number, within the relation's fork, of the file's first block; none where no such block can exist.
    #[must_use]
    pub const fn first_block(&self, relation_segment_blocks: u32) -> Option<u32> {
        self.segment.checked_mul(relation_segment_blocks)
    }
}

/// Decimal digits of a number from 1 to 2^32 - 1, without leading zeros or a sign.
fn positive(digits: &str) -> Option<u32> {
    if digits.starts_with('0') || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    digits.parse().ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const VERSION: &str = "PG_15_202209061";

    fn file(tablespace: u32, database: u32, number: u32, fork: Fork, segment: u32) -> Option<RelationFile> {
        Some(RelationFile { locator: RelFileLocator { tablespace, database, number }, fork, segment })
    }

    #[test]
    fn a_path_says_which_blocks_a_file_holds() {
        for (path, expected) in [
            ("base/5/16384", file(1663, 5, 16384, Fork::Main, 0)),
            ("base/5/16384_vm.1", file(1663, 5, 16384, Fork::Vm, 1)),
            ("base/5/16384_init", file(1663, 5, 16384, Fork::Init, 0)),
            (
                "base/4294967295/4294967295_fsm.4294967295",
                file(1663, u32::MAX, u32::MAX, Fork::Fsm, u32::MAX),
            ),
            ("global/1262", file(1664, 0, 1262, Fork::Main, 0)),
            ("pg_tblspc/16400/PG_15_202209061/5/1", file(16400, 5, 1, Fork::Main, 0)),
        ] {
            assert_eq!(RelationFile::parse_path(path, VERSION), expected, "{path}");
        }
    }

    #[test]
    fn other_files_belong_to_no_relation() {
        for path in [
            "",
            "base",
            "base/5",
            "base/5/",
            "base/5/PG_VERSION",
            "base/5/pg_filenode.map",
            "base/5/pg_internal.init",
            "base/5/0",
            "base/5/016384",
            "base/5/+16384",
            "base/5/16384.0",
            "base/5/16384.01",
            "base/5/16384.",
            "base/5/16384.1.1",
            "base/5/16384_vm_vm",
            "base/5/16384_VM",
            "base/5/16384_main",
            "base/5/4294967296",
            "base/5/t3_16384",
            "base/5/16384/1",
            "base/x/16384",
            "base/05/16384",
            "/base/5/16384",
            "global/5/1262",
            "global/pg_control",
            "pg_xact/0000",
            "pg_tblspc/16400/PG_14_202107181/5/1",
            "pg_tblspc/16400/5/1",
            "pg_tblspc/0/PG_15_202209061/5/1",
        ] {
            assert_eq!(RelationFile::parse_path(path, VERSION), None, "{path}");
        }
    }

    #[test]
    fn the_first_block_of_a_segment_must_exist() {
        let file = |segment| file(1663, 5, 16384, Fork::Main, segment).unwrap();
        assert_eq!(file(0).first_block(131_072), Some(0));
        assert_eq!(file(32_767).first_block(131_072), Some(32_767 * 131_072));
        assert_eq!(file(32_768).first_block(131_072), None);
    }

    proptest! {
        #[test]
        fn a_printed_path_is_read_back(
            (tablespace, database, number) in (1u32.., 1u32.., 1u32..),
            place in 0..3,
            fork in (0u32..4).prop_map(|number| Fork::from_number(number).unwrap()),
            segment in any::<u32>(),
        ) {
            let (tablespace, database) = match place {
                0 => (GLOBAL_TABLESPACE, 0),
                1 => (DEFAULT_TABLESPACE, database),
                _ if tablespace == GLOBAL_TABLESPACE => (tablespace, 0),
                _ => (tablespace, database),
            };
            let file = file(tablespace, database, number, fork, segment);
            prop_assert_eq!(RelationFile::parse_path(&file.unwrap().path(VERSION), VERSION), file);
            prop_assert_eq!(Fork::from_number(fork.number()), Some(fork));
        }

        #[test]
        fn what_is_read_is_printed_alike(path in "(global|base/5|pg_tblspc/7/PG_15_202209061/5)/[0-9]{1,11}(_(fsm|vm|init|x))?([.][0-9]{1,11})?") {
            if let Some(file) = RelationFile::parse_path(&path, VERSION) {
                prop_assert_eq!(file.path(VERSION), path);
            }
        }
    }
}
