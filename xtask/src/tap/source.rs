//! The test scripts: unpacked from PostgreSQL's source, which apt fetches as a Debian source package.
//!
//! The machine's own package archive is asked for the source by an apt configuration of our own below the cache folder;
//! that of the system stays as it is. Only what the scripts need is unpacked, into a folder that one rename puts there.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use pgkeep_testkit::{ServerUser, cache_root};

use super::script::Script;
use crate::Failure;

/// The Debian source package, and the suite of Debian that has it.
const PACKAGE: &str = "postgresql-18";
const SUITE: &str = "sid";

/// Suites that can be run: their folders in the source.
const SUITES: [(&str, &str); 2] =
    [("pg_dump", "src/bin/pg_dump"), ("test_pg_dump", "src/test/modules/test_pg_dump")];

/// Folder of the Perl modules that the scripts use.
const MODULES: &str = "src/test/perl";

/// Key that Debian signs its lists with.
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// The scripts of one version.
#[derive(Debug)]
pub(super) struct Source {
    /// Such as 18.6.
    pub(super) version: String,
    folder: PathBuf,
}

impl Source {
    /// Finds the scripts in the cache folder, or gets them there.
    pub(super) fn ensure(archive: Option<&Path>) -> Result<Source, Failure> {
        perl_is_here()?;
        let root = cache_root().join("tap");
        fs::create_dir_all(&root)?;
        let lock = fs::File::create(root.join("source.lock"))?;
        lock.lock()?;
        if let Some(archive) = archive {
            return unpack(&root, archive);
        }
        if let Some(found) = newest(&root) {
            return Ok(found);
        }
        let archive = download(&root)?;
        unpack(&root, &archive)
    }

    /// What to say when the scripts are of a later minor version than the server: they may check what it does not do yet.
    pub(super) fn warning(&self, server: &str) -> Option<String> {
        let is_newer = minor(&self.version)? > minor(server)?;
        is_newer.then(|| {
            format!(
                "warning: the scripts are of PostgreSQL {}, the server is {server}: \
                 checks of what changed in between may fail; give its source with --source postgresql-{server}.tar.bz2",
                self.version
            )
        })
    }

    /// Folder that Perl looks for modules in.
    pub(super) fn modules(&self) -> PathBuf {
        self.folder.join(MODULES)
    }

    /// The control file and script of the extension that `test_pg_dump` wants.
    pub(super) fn extension_files(&self) -> Vec<PathBuf> {
        let folder = self.folder.join(SUITES[1].1);
        ["test_pg_dump.control", "test_pg_dump--1.0.sql"].iter().map(|name| folder.join(name)).collect()
    }

    /// The scripts whose names begin with one of those wanted.
    pub(super) fn scripts(&self, wanted: &[String]) -> Result<Vec<Script>, Failure> {
        let mut chosen = Vec::new();
        for word in wanted {
            let (suite, beginning) = word.split_once('/').unwrap_or((word, ""));
            let beginning = beginning.trim_end_matches(".pl");
            let Some((suite, folder)) = SUITES.iter().find(|(name, _)| *name == suite) else {
                let names = SUITES.map(|(name, _)| name).join(", ");
                return Err(format!("no suite `{suite}`; there are: {names}").into());
            };
            let folder = self.folder.join(folder);
            let mut names: Vec<String> = fs::read_dir(folder.join("t"))?
                .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
                .filter_map(|name| Some(name.strip_suffix(".pl")?.to_owned()))
                .filter(|name| name.starts_with(beginning))
                .collect();
            names.sort();
            if names.is_empty() {
                return Err(format!("suite `{suite}` has no script `{beginning}*`").into());
            }
            chosen.extend(names.into_iter().map(|name| Script {
                suite: (*suite).to_owned(),
                name,
                folder: folder.clone(),
                modules: self.modules(),
            }));
        }
        Ok(chosen)
    }
}

/// The newest version unpacked. Folders with a version as name are complete.
fn newest(root: &Path) -> Option<Source> {
    let versions = fs::read_dir(root).ok()?.flatten().filter_map(|entry| {
        let name = entry.file_name().into_string().ok()?;
        let version = name.strip_prefix("source-")?.to_owned();
        Some((minor(&version)?, Source { version, folder: entry.path() }))
    });
    versions.max_by_key(|(minor, _)| *minor).map(|(_, source)| source)
}

/// The minor version of an 18.
fn minor(version: &str) -> Option<u32> {
    version.strip_prefix("18.")?.parse().ok()
}

/// The scripts are Perl and use one module that Perl does not bring.
fn perl_is_here() -> Result<(), Failure> {
    let has_modules = || {
        Command::new("perl")
            .args(["-MIPC::Run", "-e", "1"])
            .output()
            .is_ok_and(|output| output.status.success())
    };
    if has_modules() {
        return Ok(());
    }
    let advice = "PostgreSQL's tests need Perl's IPC::Run: apt-get install perl libipc-run-perl bzip2";
    if !ServerUser::current().dropped {
        return Err(advice.into());
    }
    println!("{advice}");
    apt_get(&[], &["update", "--quiet"])?;
    let packages = ["perl", "libipc-run-perl", "bzip2"];
    apt_get(&[], &[&["install", "--quiet", "--yes", "--no-install-recommends"], &packages[..]].concat())?;
    if has_modules() { Ok(()) } else { Err(format!("still not there: {advice}").into()) }
}

fn apt_get(settings: &[String], arguments: &[&str]) -> Result<(), Failure> {
    let mut command = Command::new("apt-get");
    command.args(settings).args(arguments).env("DEBIAN_FRONTEND", "noninteractive");
    let output = command.output().map_err(|error| {
        format!("cannot run apt-get: {error}; give PostgreSQL's source with --source postgresql-18.x.tar.bz2")
    })?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(format!("`apt-get {}` failed: {said}", arguments.join(" ")).into())
}

/// Where this machine gets its Debian packages from.
fn package_archive() -> Result<String, Failure> {
    let ask = || -> Result<Option<String>, Failure> {
        let output = Command::new("apt-get")
            .args(["indextargets", "--format", "$(ORIGIN) $(SITE)", "Created-By: Packages"])
            .output()
            .map_err(|error| {
                format!("cannot run apt-get: {error}; give PostgreSQL's source with --source")
            })?;
        Ok(debian_archive(&String::from_utf8_lossy(&output.stdout)))
    };
    if let Some(found) = ask()? {
        return Ok(found);
    }
    if ServerUser::current().dropped {
        // Until its lists are here, apt cannot tell who made an archive.
        apt_get(&[], &["update", "--quiet"])?;
        if let Some(found) = ask()? {
            return Ok(found);
        }
    }
    Err("apt names no Debian archive here; run `apt-get update` as root, or give PostgreSQL's source with --source"
        .into())
}

fn debian_archive(targets: &str) -> Option<String> {
    let mut sites = targets.lines().filter_map(|line| line.strip_prefix("Debian "));
    sites.find(|site| !site.is_empty() && !site.contains("security")).map(str::to_owned)
}

fn download(root: &Path) -> Result<PathBuf, Failure> {
    let folder = root.join("apt");
    for below in ["lists/partial", "cache/archives/partial", "download"] {
        fs::create_dir_all(folder.join(below))?;
    }
    let list = folder.join("sources.list");
    fs::write(&list, format!("deb-src [signed-by={KEYRING}] {} {SUITE} main\n", package_archive()?))?;
    let settings = [
        format!("-oDir::Etc::SourceList={}", list.display()),
        "-oDir::Etc::SourceParts=/dev/null".to_owned(),
        format!("-oDir::State::Lists={}", folder.join("lists").display()),
        format!("-oDir::Cache={}", folder.join("cache").display()),
        // Root's apt would download as a user that cannot write here.
        "-oAPT::Sandbox::User=root".to_owned(),
    ];
    println!("fetching the source of {PACKAGE} with apt-get …");
    apt_get(&settings, &["update", "--quiet"])?;
    let download = folder.join("download");
    let mut command = Command::new("apt-get");
    command.args(&settings).args(["source", "--quiet", "--download-only", PACKAGE]).current_dir(&download);
    let output = command.output()?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(format!("`apt-get source {PACKAGE}` failed: {}", said.trim()).into());
    }
    let mut archives: Vec<PathBuf> = fs::read_dir(&download)?
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| version(path).is_some())
        .collect();
    archives.sort_by_key(|path| path.metadata().and_then(|metadata| metadata.modified()).ok());
    archives.pop().ok_or_else(|| format!("apt-get left no source in {}", download.display()).into())
}

/// The version in an archive's name: `postgresql-18_18.6.orig.tar.bz2`, `postgresql-18.6.tar.bz2`.
fn version(archive: &Path) -> Option<String> {
    let name = archive.file_name()?.to_str()?;
    let (stem, packing) = name.split_once(".tar.")?;
    let version = stem.trim_end_matches(".orig").rsplit(['_', '-']).next()?;
    let known = ["bz2", "gz", "xz"].contains(&packing) && version.starts_with("18.");
    known.then(|| version.to_owned())
}

fn unpack(root: &Path, archive: &Path) -> Result<Source, Failure> {
    let version = version(archive).ok_or_else(|| {
        format!(
            "`{}` is not named like a source of PostgreSQL 18: postgresql-18.6.tar.bz2",
            archive.display()
        )
    })?;
    let staging = root.join("staging");
    if staging.exists() {
        fs::remove_dir_all(&staging)?;
    }
    fs::create_dir_all(&staging)?;
    let mut command = Command::new("tar");
    command
        .arg("-C")
        .arg(&staging)
        .args(["--strip-components=1", "--wildcards", "--no-same-owner", "-xf"])
        .arg(archive);
    command.arg(format!("*/{MODULES}"));
    command.args(SUITES.iter().map(|(_, folder)| format!("*/{folder}")));
    let output = command.output()?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(format!("cannot unpack `{}`: {}", archive.display(), said.trim()).into());
    }
    let status = Command::new("chmod").args(["-R", "go+rX"]).arg(&staging).status()?;
    if !status.success() {
        return Err(format!("cannot open {} to the server user", staging.display()).into());
    }
    let folder = root.join(format!("source-{version}"));
    if folder.exists() {
        fs::remove_dir_all(&folder)?;
    }
    fs::rename(&staging, &folder)?;
    Ok(Source { version, folder })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_is_in_the_name() {
        let of = |name: &str| version(Path::new(name));
        assert_eq!(of("/a/postgresql-18_18.6.orig.tar.bz2").as_deref(), Some("18.6"));
        assert_eq!(of("postgresql-18.7.tar.gz").as_deref(), Some("18.7"));
        assert_eq!(of("postgresql-18_18.6-1.debian.tar.xz"), None);
        assert_eq!(of("postgresql-17.2.tar.gz"), None);
        assert_eq!(of("postgresql-18_18.6-1.dsc"), None);
    }

    #[test]
    fn newer_scripts_than_the_server_are_warned_of() {
        let warning = |version: &str, server: &str| {
            Source { version: version.to_owned(), folder: PathBuf::new() }.warning(server)
        };
        assert!(warning("18.10", "18.9").is_some_and(|text| text.contains("18.10") && text.contains("18.9")));
        assert_eq!(warning("18.9", "18.9"), None);
        assert_eq!(warning("18.9", "18.10"), None);
        assert_eq!(warning("18.9", "18devel"), None);
    }

    #[test]
    fn the_archive_is_debians_own_for_packages() {
        let targets = "Other http://other\nDebian http://x/debian-security\nDebian http://x/debian\n";
        assert_eq!(debian_archive(targets).as_deref(), Some("http://x/debian"));
        assert_eq!(debian_archive("Other http://other\n"), None);
    }
}
