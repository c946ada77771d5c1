//! Backups of real servers by stock's `pg_basebackup`, and what our programs say about them.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;

use pgkeep_physical::verify::{VerifyReport, VerifyRequest, verify};
use pgkeep_testkit::{Cluster, installation, run_as_server_user};
use pgkeep_tool::{Reporter, Result};

/// Keeps what is told.
#[derive(Default)]
pub struct Told(Mutex<Vec<String>>);

impl Told {
    pub fn text(&self) -> String {
        self.0.lock().unwrap().join("\n")
    }

    fn add(&self, kind: &str, text: &str) {
        self.0.lock().unwrap().push(format!("{kind}: {text}"));
    }
}

impl Reporter for Told {
    fn info(&self, text: &str) {
        self.add("info", text);
    }

    fn warning(&self, text: &str) {
        self.add("warning", text);
    }

    fn detail(&self, text: &str) {
        self.add("detail", text);
    }

    fn error(&self, text: &str) {
        self.add("error", text);
    }
}

/// `pg_basebackup` of the server's own version where there is one, else of 18.
pub fn base_backup(cluster: &Cluster, name: &str, arguments: &[&str]) -> PathBuf {
    let directory = cluster.scratch().path().join(name);
    let major = cluster.major().max(17);
    let mut command = Command::new(installation(major).program("pg_basebackup"));
    command.args(["-d", &cluster.conninfo(), "-c", "fast", "--no-sync", "-D"]).arg(&directory);
    command.args(arguments);
    run_as_server_user(&mut command);
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    directory
}

pub fn request(directory: &Path) -> VerifyRequest {
    VerifyRequest {
        directory: directory.to_owned(),
        manifest_path: None,
        format: None,
        ignore: Vec::new(),
        exit_on_error: false,
        skip_checksums: false,
        parse_wal: true,
        wal_directory: None,
        jobs: 2,
    }
}

/// Checks a backup; everything that was told is returned, with the error that ended it.
pub fn verified(request: &VerifyRequest) -> (Result<VerifyReport>, String) {
    let told = Told::default();
    let result = verify(request, &told, &|_| {});
    let mut text = told.text();
    if let Err(error) = &result {
        text.push_str(&format!("\nfatal: {error}"));
    }
    (result, text)
}

pub fn assert_good(request: &VerifyRequest) {
    let (result, text) = verified(request);
    assert!(result.is_ok_and(|report| report.is_good && report.files > 100), "{request:?}: {text}");
    assert_eq!(text, "");
}

/// That a check finds this wrong.
pub fn assert_found(request: &VerifyRequest, expected: &str) {
    let (result, text) = verified(request);
    assert!(!result.is_ok_and(|report| report.is_good), "taken for good; wanted: {expected}");
    assert!(text.contains(expected), "wanted: {expected}\nfound: {text}");
}

/// Changes a byte of a file while `act` runs.
pub fn with_flipped_byte(path: &Path, offset: u64, act: impl FnOnce()) {
    let file = fs::OpenOptions::new().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, offset).unwrap();
    file.write_all_at(&[byte[0] ^ 0x10], offset).unwrap();
    act();
    file.write_all_at(&byte, offset).unwrap();
}

/// Takes a file away while `act` runs.
pub fn without(path: &Path, act: impl FnOnce()) {
    let aside = path.with_extension("aside");
    let parked = std::env::temp_dir().join(format!(
        "pgkeep-aside-{}-{}",
        std::process::id(),
        aside.file_name().unwrap().to_string_lossy()
    ));
    fs::copy(path, &parked).unwrap();
    fs::remove_file(path).unwrap();
    act();
    fs::copy(&parked, path).unwrap();
    fs::remove_file(parked).unwrap();
}
