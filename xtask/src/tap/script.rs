//! One test script and its run.

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Command, ExitStatus, Stdio};
use std::time::Instant;

use pgkeep_testkit::run_as_server_user;

use super::installation::{Installation, stop_servers};
use super::result::{Outcome, Score};
use super::totals::Total;
use crate::Failure;

/// A Perl module that lets scripts go on without files they look for.
const LENIENT: &str = include_str!("lenient.pm");

/// A test script.
#[derive(Debug)]
pub(super) struct Script {
    /// Suite, such as `pg_dump`.
    pub(super) suite: String,
    /// Name without ending, such as `002_pg_dump`.
    pub(super) name: String,
    /// The suite's folder in the source.
    pub(super) folder: PathBuf,
    /// Where the modules are.
    pub(super) modules: PathBuf,
}

impl Script {
    /// Suite and name.
    pub(super) fn title(&self) -> String {
        format!("{}/{}", self.suite, self.name)
    }

    /// Runs it. What it says is kept in the run's folder; its servers and data are gone afterwards.
    pub(super) fn run(
        &self,
        installation: &Installation,
        limit: u64,
        lenient: bool,
        total: Option<Total>,
    ) -> Outcome {
        let started = Instant::now();
        let (score, note) = match self.attempt(installation, limit, lenient) {
            Ok((output, status)) => {
                let score = Score::read(&output);
                let note = note(&score, status);
                (score, note)
            }
            Err(failure) => (Score::default(), Some(format!("did not run: {failure}"))),
        };
        Outcome { title: self.title(), score, stock: total, seconds: started.elapsed().as_secs_f32(), note }
    }

    fn attempt(
        &self,
        installation: &Installation,
        limit: u64,
        lenient: bool,
    ) -> Result<(String, ExitStatus), Failure> {
        let run = &installation.run;
        let base = format!("{}.{}", self.suite, self.name);
        let output = run.join("tap").join(format!("{base}.tap"));
        let data = run.join("data").join(&base);
        let path = std::env::join_paths(
            std::iter::once(installation.bin.clone())
                .chain(std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default())),
        )?;
        let mut command = Command::new("timeout");
        // Asked to end, a script still stops its servers.
        command.args(["--foreground", "--kill-after=30", &limit.to_string(), "perl"]);
        if let Some(modules) = &installation.own_modules {
            command.arg("-I").arg(modules);
        }
        command.arg("-I").arg(&self.modules);
        if lenient {
            fs::write(run.join("Lenient.pm"), LENIENT)?;
            command.arg("-I").arg(run).arg("-MLenient");
        }
        command.arg(format!("t/{}.pl", self.name)).current_dir(&self.folder);
        command.stdin(Stdio::null()).stdout(File::create(&output)?);
        command.stderr(File::create(output.with_extension("err"))?);
        for (name, _) in std::env::vars_os() {
            let name_text = name.to_string_lossy();
            if name_text.starts_with("PG") || name_text.starts_with("LC_") || name_text == "LANGUAGE" {
                command.env_remove(&name);
            }
        }
        command
            .env("PATH", path)
            .env("LANG", "C.UTF-8")
            .env("TESTDATADIR", &data)
            .env("TESTLOGDIR", run.join("log").join(&self.suite))
            .env("PG_TEST_PORT_DIR", run.join("ports"))
            .env("PG_TEST_TIMEOUT_DEFAULT", "180")
            .env("PG_REGRESS", &installation.pg_regress)
            .env("INITDB_TEMPLATE", &installation.template)
            .env("top_builddir", run)
            .env("with_icu", if installation.icu { "yes" } else { "no" })
            .env("enable_injection_points", "no")
            .env("GZIP_PROGRAM", "gzip")
            .env("TAR", "tar");
        if let Some(libraries) = &installation.libraries {
            command.env("LD_LIBRARY_PATH", libraries);
        }
        run_as_server_user(&mut command);
        let status = command.status().map_err(|error| format!("cannot run `timeout`: {error}"))?;
        stop_servers(&data, &installation.bin.join("pg_ctl"));
        if data.exists() {
            // Tests make folders that their owner cannot enter.
            Command::new("chmod").args(["-R", "u+rwX"]).arg(&data).status()?;
            fs::remove_dir_all(&data)?;
        }
        Ok((String::from_utf8_lossy(&fs::read(&output)?).into_owned(), status))
    }
}

/// What there is to say beside the figures.
fn note(score: &Score, status: ExitStatus) -> Option<String> {
    if matches!(status.code(), Some(124 | 137)) {
        return Some("took too long".to_owned());
    }
    if !score.finished {
        return Some(format!("died after {} checks ({status})", score.passed + score.failed));
    }
    if let Some(reason) = &score.skipped_whole {
        return Some(format!("skipped: {reason}"));
    }
    if score.failed == 0 && !status.success() {
        return Some(status.to_string());
    }
    (score.skipped > 0).then(|| format!("{} skipped", score.skipped))
}
