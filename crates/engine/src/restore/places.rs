//! Refuses destinations that get in each other's way, in the repository's, or in another cluster's.
//!
//! Directories are compared by device and inode of all that is above them, since one place can have many paths.

use std::fs;
use std::path::{Path, PathBuf};

use super::delta::in_use::{Identity, identity};
use crate::error::{Error, ErrorKind, Result};

/// A directory that will hold nothing but what is restored.
#[derive(Clone, Debug)]
pub struct Place {
    /// What it is, in words.
    pub what: String,
    /// The directory, which may not exist yet.
    pub path: PathBuf,
}

/// A directory and all above it that exist, nearest first, by identity.
struct Lineage {
    resolved: PathBuf,
    existing: Vec<(PathBuf, Identity)>,
}

fn lineage(path: &Path) -> Lineage {
    let nearest = path.ancestors().find_map(|above| fs::canonicalize(above).ok().map(|real| (above, real)));
    let (above, real) = nearest.unwrap_or((Path::new("/"), PathBuf::from("/")));
    let rest = path.strip_prefix(above).unwrap_or(Path::new(""));
    let resolved = if rest.as_os_str().is_empty() { real.clone() } else { real.join(rest) };
    let existing = real.ancestors().filter_map(|above| Some((above.to_owned(), identity(above)?))).collect();
    Lineage { resolved, existing }
}

impl Lineage {
    /// The directory itself, where it exists.
    fn own(&self) -> Option<Identity> {
        self.existing.first().filter(|(path, _)| *path == self.resolved).map(|(_, id)| *id)
    }

    /// Whether it is the other directory, or lies in it.
    fn is_within(&self, other: &Lineage) -> bool {
        self.resolved.starts_with(&other.resolved)
            || other.own().is_some_and(|other| self.existing.iter().any(|(_, id)| *id == other))
    }
}

/// Refuses places that are not apart from each other, from the repository, and from other data directories.
pub fn refuse_entangled(places: &[Place], repository: Option<&Path>) -> Result<()> {
    let lines: Vec<Lineage> = places.iter().map(|place| lineage(&place.path)).collect();
    let repository = repository.map(|path| (path, lineage(path)));
    for (index, (place, line)) in places.iter().zip(&lines).enumerate() {
        let shown = place.path.display();
        let refuse = |why: String| {
            Error::new(ErrorKind::Destination, format!("cannot restore {} to `{shown}`", place.what))
                .cause(why)
                .hint("name a directory that has nothing to do with it")
        };
        if let Some((path, repository)) = &repository {
            if line.is_within(repository) {
                return Err(refuse(format!("it lies inside the repository `{}`", path.display())));
            }
            if repository.is_within(line) {
                return Err(refuse(format!("it contains the repository `{}`", path.display())));
            }
        }
        for (other, other_line) in places.iter().zip(&lines).take(index) {
            if line.is_within(other_line) || other_line.is_within(line) {
                return Err(refuse(format!(
                    "that is not apart from {}, which goes to `{}`",
                    other.what,
                    other.path.display()
                )));
            }
        }
        let own = line.own();
        let above = line.existing.iter().filter(|(_, id)| Some(*id) != own).map(|(path, _)| path);
        if let Some(cluster) = above.into_iter().find(|path| is_data_directory(path)) {
            return Err(refuse(format!("it lies inside the data directory `{}`", cluster.display())));
        }
    }
    Ok(())
}

fn is_data_directory(path: &Path) -> bool {
    path.join("PG_VERSION").is_file() && path.join("global").is_dir() && path.join("base").is_dir()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn place(path: PathBuf) -> Place {
        Place { what: "it".into(), path }
    }

    #[test]
    fn places_must_be_apart_by_whatever_path() {
        let scratch = tempfile::tempdir().unwrap();
        let at = |name: &str| scratch.path().join(name);
        for name in ["repo/main", "data", "space", "cluster/global", "cluster/base/5"] {
            fs::create_dir_all(at(name)).unwrap();
        }
        fs::write(at("cluster/PG_VERSION"), "18\n").unwrap();
        symlink(at("data"), at("data-link")).unwrap();
        symlink(at("repo"), at("repo-link")).unwrap();
        let check = |paths: &[&str]| {
            let places: Vec<Place> = paths.iter().map(|path| place(at(path))).collect();
            refuse_entangled(&places, Some(&at("repo")))
        };
        check(&["data", "space"]).unwrap();
        check(&["data", "new/place"]).unwrap();
        check(&["data", "data2"]).unwrap();
        check(&["cluster"]).unwrap();
        for bad in [
            &["repo"][..],
            &["repo/main/new"],
            &["repo-link/new"],
            &[""],
            &["data", "data"],
            &["data", "data-link"],
            &["data", "data-link/new/deep"],
            &["data/inside", "data"],
            &["cluster/base/5"],
            &["cluster/new"],
        ] {
            assert_eq!(check(bad).map_err(|error| error.kind), Err(ErrorKind::Destination), "{bad:?}");
        }
    }
}
