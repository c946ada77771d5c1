//! Former cluster directories: restored ones that time, accidents and enemies have changed.
#![allow(dead_code, clippy::unwrap_used, reason = "each test binary uses its own part; helpers fail loudly")]

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use crate::common::{Dice, tree};

/// Every entry below a directory, as `common::tree` gives it, without what names other places on purpose.
pub fn comparable(root: &Path) -> BTreeMap<PathBuf, (u32, Vec<u8>)> {
    let mut entries = tree(root);
    entries.retain(|path, _| {
        path != Path::new("tablespace_map") && path.parent() != Some(Path::new("pg_tblspc"))
    });
    entries
}

/// Fails with the paths that differ, not with their contents.
#[track_caller]
pub fn assert_same(found: &Path, expected: &Path) {
    let (found, expected) = (comparable(found), comparable(expected));
    let differing: Vec<String> = expected
        .keys()
        .chain(found.keys())
        .filter(|path| found.get(*path) != expected.get(*path))
        .map(|path| {
            let show = |entry: Option<&(u32, Vec<u8>)>| {
                entry.map(|(mode, bytes)| format!("mode {mode:o}, {} bytes", bytes.len()))
            };
            format!(
                "{}: {:?}, expected {:?}",
                path.display(),
                show(found.get(path)),
                show(expected.get(path))
            )
        })
        .collect();
    assert!(differing.is_empty(), "{differing:#?}");
}

/// A file and a folder below a directory.
fn any(dice: &mut Dice, root: &Path) -> (PathBuf, PathBuf) {
    // What makes it a cluster, or an unfinished restore, stays.
    let keeps = ["global", "PG_VERSION", "pgkeep_restore.unfinished"].map(|name| root.join(name));
    let (mut files, mut folders, mut next) = (Vec::new(), vec![root.to_owned()], vec![root.to_owned()]);
    while let Some(folder) = next.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let entry = entry.unwrap();
            let (path, metadata) = (entry.path(), entry.metadata().unwrap());
            if keeps.contains(&path) {
                continue;
            }
            if metadata.is_dir() {
                folders.push(path.clone());
                next.push(path);
            } else if metadata.is_file() && metadata.nlink() == 1 {
                // Through a second name the test itself would change what is outside.
                files.push(path);
            }
        }
    }
    // Directories list their entries in any order; a seed must give the same again.
    files.sort();
    folders.sort();
    let file = files[dice.below(files.len() as u64) as usize].clone();
    (file, folders[dice.below(folders.len() as u64) as usize].clone())
}

/// Changes something in a directory; `outside` is a directory that nobody may touch, with a file `precious`.
pub fn mutate(dice: &mut Dice, root: &Path, outside: &Path) -> String {
    let (file, folder) = any(dice, root);
    let name = format!("extra{}", dice.next());
    let length = fs::metadata(&file).unwrap().len();
    let write = |path: &Path| fs::OpenOptions::new().write(true).open(path).unwrap();
    let shown = file.display();
    match dice.below(14) {
        0 | 1 if length > 0 => {
            let at = dice.below(length);
            let mut byte = [0];
            write(&file).read_exact_at(&mut byte, at).unwrap_or_default();
            write(&file).write_all_at(&[byte[0] ^ 0x55], at).unwrap();
            format!("flipped byte {at} of {shown}")
        }
        2 => {
            write(&file).set_len(dice.below(length.max(1))).unwrap();
            format!("truncated {shown}")
        }
        3 => {
            write(&file).write_all_at(&vec![7; 1 + dice.below(40_000) as usize], length).unwrap();
            format!("extended {shown}")
        }
        4 => {
            fs::remove_file(&file).unwrap();
            format!("removed {shown}")
        }
        5 => {
            fs::write(folder.join(&name), "extra").unwrap();
            format!("added {name} in {}", folder.display())
        }
        6 => {
            fs::create_dir_all(folder.join(&name).join("deep/er")).unwrap();
            fs::write(folder.join(&name).join("deep/file"), "extra").unwrap();
            symlink(outside, folder.join(&name).join("deep/er/link")).unwrap();
            format!("added directories in {}", folder.display())
        }
        7 => {
            fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).unwrap();
            fs::set_permissions(&folder, fs::Permissions::from_mode(0o755)).unwrap();
            format!("other modes of {shown} and {}", folder.display())
        }
        8 => {
            fs::remove_file(&file).unwrap();
            symlink(outside.join("precious"), &file).unwrap();
            format!("{shown} is a link to a file outside")
        }
        9 => {
            fs::remove_file(&file).unwrap();
            fs::hard_link(outside.join("precious"), &file).unwrap();
            format!("{shown} is a second name of a file outside")
        }
        10 if folder != root => {
            fs::remove_dir_all(&folder).unwrap();
            symlink(outside, &folder).unwrap();
            format!("{} is a link to a directory outside", folder.display())
        }
        11 => {
            symlink(outside, folder.join(&name)).unwrap();
            symlink(outside.join("precious"), folder.join(format!("{name}.conf"))).unwrap();
            format!("added links in {}", folder.display())
        }
        12 => {
            fs::remove_file(&file).unwrap();
            fs::create_dir(&file).unwrap();
            fs::write(file.join("inside"), "extra").unwrap();
            format!("{shown} is a directory")
        }
        _ => {
            for own in
                ["postgresql.auto.conf", "backup_label", "recovery.signal", "pgkeep_restore.unfinished.new"]
            {
                drop(fs::remove_file(root.join(own)));
                // It may be a directory by now.
                drop(symlink(outside.join("precious"), root.join(own)));
            }
            "links where a restore writes".to_owned()
        }
    }
}

/// A place outside with something precious, and a way to see that it was left alone.
pub struct Outside {
    pub path: PathBuf,
}

impl Outside {
    pub fn new(path: PathBuf) -> Outside {
        fs::create_dir_all(path.join("folder")).unwrap();
        fs::write(path.join("precious"), vec![b'p'; 20_000]).unwrap();
        fs::write(path.join("folder/too"), "precious too").unwrap();
        Outside { path }
    }

    #[track_caller]
    pub fn assert_untouched(&self) {
        let found = tree(&self.path);
        assert_eq!(found.len(), 3, "{:?}", found.keys());
        assert!(found[Path::new("precious")] == (0o100_644, vec![b'p'; 20_000]));
        assert_eq!(found[Path::new("folder/too")], (0o100_644, b"precious too".to_vec()));
    }
}
