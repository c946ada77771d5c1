//! The test scripts: unpacked from PostgreSQL's source, which apt fetches as a Debian source package.
//!
//! The machine's own package archive is asked for the version that the tests' server has, or else for what it has now, by an
//! apt configuration of our own below the cache folder; that of the system stays as it is. Only what the scripts need is unpacked, into a folder that one rename puts there.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use pgkeep_testkit::{ServerUser, cache_root};

use super::script::Script;
use crate::Failure;

/// A major whose scripts can be run.
#[derive(Debug, Clone, Copy)]
struct Major {
    major: u32,
    /// The release of Debian that has its source.
    release: &'static str,
    /// The version of the server that the tests have, and the SHA-256 of its source: asked for first.
    version: &'static str,
    sha256: &'static str,
}

const MAJORS: [Major; 2] = [
    Major {
        major: 17,
        release: "trixie",
        version: "17.10",
        sha256: "078a03516dcdbdb705fecaf415ea3d13a956c589e46f09fed68a06fb00598c90",
    },
    Major {
        major: 18,
        release: "sid",
        version: "18.6",
        sha256: "555610c24d53e4316da5b7d3fc25c279d96856d5e0e23ee308c328c5fa881d9f",
    },
];

/// Suites that can be run: their folders in the source.
const SUITES: [(&str, &str); 7] = [
    ("pg_dump", "src/bin/pg_dump"),
    ("test_pg_dump", EXTENSION),
    ("pg_basebackup", "src/bin/pg_basebackup"),
    ("pg_verifybackup", "src/bin/pg_verifybackup"),
    ("pg_combinebackup", "src/bin/pg_combinebackup"),
    ("pg_rewind", "src/bin/pg_rewind"),
    ("recovery", "src/test/recovery"),
];

/// Folder of an extension that `test_pg_dump` dumps.
const EXTENSION: &str = "src/test/modules/test_pg_dump";

/// Folder of the Perl modules that the scripts use.
const MODULES: &str = "src/test/perl";

/// Part of apt that gets single files.
const APT_HELPER: &str = "/usr/lib/apt/apt-helper";

/// Key that Debian signs its lists with.
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// The scripts of one version.
#[derive(Debug)]
pub(super) struct Source {
    /// Such as 18.
    pub(super) major: u32,
    /// Such as 18.6.
    pub(super) version: String,
    folder: PathBuf,
}

impl Source {
    /// Finds the scripts in the cache folder, or gets them there.
    pub(super) fn ensure(major: u32, archive: Option<&Path>) -> Result<Source, Failure> {
        let Some(known) = MAJORS.into_iter().find(|known| known.major == major) else {
            return Err(format!("PostgreSQL {major} is not among those whose tests can be run").into());
        };
        perl_is_here()?;
        let root = cache_root().join("tap");
        fs::create_dir_all(&root)?;
        let lock = fs::File::create(root.join("source.lock"))?;
        lock.lock()?;
        if let Some(archive) = archive {
            return unpack(&root, major, archive);
        }
        if let Some(found) = newest(&root, major) {
            return Ok(found);
        }
        let archive = match fetch(&root, known) {
            Ok(archive) => archive,
            // Debian has gone on to a later version.
            Err(_) => download(&root, known)?,
        };
        unpack(&root, major, &archive)
    }

    /// What to say when the scripts are of a later minor version than the server: they may check what it does not do yet.
    pub(super) fn warning(&self, server: &str) -> Option<String> {
        let is_newer = minor(&self.version, self.major)? > minor(server, self.major)?;
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
        let folder = self.folder.join(EXTENSION);
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

/// The newest version unpacked. Folders with a version as name are complete, but older ones may lack suites that were
/// added here since.
fn newest(root: &Path, major: u32) -> Option<Source> {
    let versions = fs::read_dir(root).ok()?.flatten().filter_map(|entry| {
        let name = entry.file_name().into_string().ok()?;
        let version = name.strip_prefix("source-")?.to_owned();
        let minor = minor(&version, major)?;
        let folder = entry.path();
        let is_whole = SUITES.iter().all(|(_, suite)| folder.join(suite).is_dir());
        is_whole.then_some((minor, Source { major, version, folder }))
    });
    versions.max_by_key(|(minor, _)| *minor).map(|(_, source)| source)
}

/// The minor version of a version of this major.
fn minor(version: &str, major: u32) -> Option<u32> {
    version.strip_prefix(&format!("{major}."))?.parse().ok()
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
    let output = command
        .output()
        .map_err(|error| format!("cannot run apt-get: {error}; give PostgreSQL's source with --source"))?;
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

/// Gets the very version that the tests' server has.
fn fetch(root: &Path, Major { major, version, sha256, .. }: Major) -> Result<PathBuf, Failure> {
    let archive = package_archive()?;
    let folder = root.join("apt").join(major.to_string());
    fs::create_dir_all(&folder)?;
    let name = format!("postgresql-{major}_{version}.orig.tar.bz2");
    let target = folder.join(&name);
    println!("fetching the source of PostgreSQL {version} …");
    // It comes whole or not at all: the digest is compared before it gets its name.
    let output = Command::new(APT_HELPER)
        .arg("-oAPT::Sandbox::User=root")
        .arg("download-file")
        .arg(format!("{archive}/pool/main/p/postgresql-{major}/{name}"))
        .arg(&target)
        .arg(format!("SHA256:{sha256}"))
        .output()?;
    if output.status.success() {
        return Ok(target);
    }
    Err(String::from_utf8_lossy(&output.stderr).trim().to_owned().into())
}

fn download(root: &Path, Major { major, release, .. }: Major) -> Result<PathBuf, Failure> {
    let package = format!("postgresql-{major}");
    let folder = root.join("apt").join(major.to_string());
    for below in ["lists/partial", "cache/archives/partial", "download"] {
        fs::create_dir_all(folder.join(below))?;
    }
    let list = folder.join("sources.list");
    fs::write(&list, format!("deb-src [signed-by={KEYRING}] {} {release} main\n", package_archive()?))?;
    let settings = [
        format!("-oDir::Etc::SourceList={}", list.display()),
        "-oDir::Etc::SourceParts=/dev/null".to_owned(),
        format!("-oDir::State::Lists={}", folder.join("lists").display()),
        format!("-oDir::Cache={}", folder.join("cache").display()),
        // Root's apt would download as a user that cannot write here.
        "-oAPT::Sandbox::User=root".to_owned(),
    ];
    println!("fetching the source of {package} with apt-get …");
    apt_get(&settings, &["update", "--quiet"])?;
    let download = folder.join("download");
    let mut command = Command::new("apt-get");
    command.args(&settings).args(["source", "--quiet", "--download-only", &package]).current_dir(&download);
    let output = command.output()?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(format!("`apt-get source {package}` failed: {}", said.trim()).into());
    }
    let mut archives: Vec<PathBuf> = fs::read_dir(&download)?
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| version(path, major).is_some())
        .collect();
    archives.sort_by_key(|path| path.metadata().and_then(|metadata| metadata.modified()).ok());
    archives.pop().ok_or_else(|| format!("apt-get left no source in {}", download.display()).into())
}

/// The version in an archive's name: `postgresql-18_18.6.orig.tar.bz2`, `postgresql-18.6.tar.bz2`.
fn version(archive: &Path, major: u32) -> Option<String> {
    let name = archive.file_name()?.to_str()?;
    let (stem, packing) = name.split_once(".tar.")?;
    let version = stem.trim_end_matches(".orig").rsplit(['_', '-']).next()?;
    let known = ["bz2", "gz", "xz"].contains(&packing) && version.starts_with(&format!("{major}."));
    known.then(|| version.to_owned())
}

fn unpack(root: &Path, major: u32, archive: &Path) -> Result<Source, Failure> {
    let version = version(archive, major).ok_or_else(|| {
        format!(
            "`{}` is not named like a source of PostgreSQL {major}: postgresql-{major}.6.tar.bz2",
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
    Ok(Source { major, version, folder })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_is_in_the_name() {
        let of = |name: &str| version(Path::new(name), 18);
        assert_eq!(of("/a/postgresql-18_18.6.orig.tar.bz2").as_deref(), Some("18.6"));
        assert_eq!(of("postgresql-18.7.tar.gz").as_deref(), Some("18.7"));
        assert_eq!(of("postgresql-18_18.6-1.debian.tar.xz"), None);
        assert_eq!(of("postgresql-17.2.tar.gz"), None);
        assert_eq!(of("postgresql-18_18.6-1.dsc"), None);
    }

    #[test]
    fn newer_scripts_than_the_server_are_warned_of() {
        let warning = |version: &str, server: &str| {
            Source { major: 18, version: version.to_owned(), folder: PathBuf::new() }.warning(server)
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
