//! Running the program and showing what it did.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use pgkeep_testkit::{Scratch, pgkeep_binary, run_as_server_user};

/// A place to run the program in: home, working directory and room for a repository.
pub(crate) struct Place {
    scratch: Scratch,
    program: PathBuf,
}

impl Place {
    /// A new, empty place.
    pub(crate) fn new() -> Place {
        Place { scratch: Scratch::new(), program: pgkeep_binary() }
    }

    /// A path in it.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.scratch.path().join(name)
    }

    /// A directory in it that the program may write to.
    pub(crate) fn directory(&self, name: &str) -> PathBuf {
        self.scratch.create_dir(name, 0o700)
    }

    /// Writes a file into it.
    pub(crate) fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().expect("a parent")).expect("a directory");
        std::fs::write(&path, text).expect("a file");
        path
    }

    /// The program, as the server's user, with nothing in its environment but what is needed.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.env_clear().current_dir(self.scratch.path()).args(arguments);
        run_as_server_user(&mut command);
        command.env_remove("USER").env("HOME", self.scratch.path()).env("TZ", "UTC");
        command
    }

    /// Runs it and shows exit code and output, redacted.
    pub(crate) fn show(&self, arguments: &[&str]) -> String {
        self.shown(&mut self.command(arguments))
    }

    /// The same for a command with an environment of its own.
    pub(crate) fn shown(&self, command: &mut Command) -> String {
        self.redacted(&command.output().expect("the program runs"))
    }

    /// Runs it and wants it to succeed; its stdout.
    #[track_caller]
    pub(crate) fn succeed(&self, arguments: &[&str]) -> String {
        let output = self.command(arguments).output().expect("the program runs");
        assert!(output.status.success(), "pgkeep {}\n{}", arguments.join(" "), self.redacted(&output));
        String::from_utf8(output.stdout).expect("UTF-8")
    }

    fn redacted(&self, output: &Output) -> String {
        let code = output.status.code().map_or("signal".to_owned(), |code| code.to_string());
        let mut text = format!("exit code {code}\n");
        for (name, bytes) in [("stdout", &output.stdout), ("stderr", &output.stderr)] {
            if !bytes.is_empty() {
                text.push_str(&format!("--- {name}\n{}", String::from_utf8_lossy(bytes)));
            }
        }
        self.without_paths(&text)
    }

    /// Hides this place and the program's path.
    pub(crate) fn without_paths(&self, text: &str) -> String {
        text.replace(&path_text(self.scratch.path()), "[HERE]").replace(&path_text(&self.program), "[PGKEEP]")
    }
}

/// A path as text.
pub(crate) fn path_text(path: &Path) -> String {
    path.to_str().expect("UTF-8").to_owned()
}

/// Snapshot settings that hide what differs from run to run in the dealings with a real server.
pub(crate) fn redactions() -> insta::Settings {
    let mut settings = insta::Settings::clone_current();
    settings.set_prepend_module_to_snapshot(false);
    for (pattern, replacement) in [
        (r"/\S*/pgk-\d+-\d+", "[CLUSTER]"),
        (r"\.s\.PGSQL\.\d+", ".s.PGSQL.[PORT]"),
        (r"\bport[= ]\d{2,5}", "port [PORT]"),
        (r"127\.0\.0\.1:\d+", "127.0.0.1:[PORT]"),
        (r"\[CLUSTER\](/\S*)?:\d{4,5}", "[CLUSTER]:[PORT]"),
        (r"\d{6}-\d{8}T\d{6}Z", "[BACKUP]"),
        (r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z", "[TIME]"),
        (r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d(\.\d+)?\+00", "[TIME]"),
        (r"\b[0-9A-F]{24}\b", "[SEGMENT]"),
        (r"\b\d{18,20}\b", "[SYSTEM]"),
        (r"\b[0-9A-F]{1,8}/[0-9A-F]{5,8}\b", "[LSN]"),
        (r"\b[0-9a-f]{32}\b", "[ID]"),
        (r"\b\d+(\.\d+)? (KiB|MiB|GiB)", "[SIZE]"),
        (r"\b\d+ B\b", "[SIZE]"),
        (r"\[TIME\]  18\.\d+ ", "[TIME]  [VERSION] "),
        (r"\(\d+ bytes\)", "([N] bytes)"),
        (r"[\d,]+ blocks? kept, [\d,]+ fetched(, [\d,]+ made zeros)?", "[N] blocks kept, [N] fetched"),
        (r"\b\d+ (files|% of it)", "[N] $1"),
        (r" +\[SIZE\]", "  [SIZE]"),
        (r"(stop LSN|cluster|stored) +(cluster|stored|unique)", "$1  $2"),
        (r"(stop LSN|cluster|stored) +(cluster|stored|unique)", "$1  $2"),
        (r"(?m)^  files( +)\d+$", "  files$1[N]"),
        (r"pgkeep-drill-\d+-[0-9a-f]+", "pgkeep-drill-[N]"),
        (r"% since \d{4}-\d\d-\d\d", "% since [DAY]"),
        (r"\b\d+ (frames|pages)", "[N] $1"),
        (r"\b\d+ of \d+ WAL segments", "[N] of [N] WAL segments"),
        (r"names process \d+", "names process [PID]"),
        (r"within \d+\.\d s", "within [TIME]"),
        (r"PostgreSQL 1\d\.\d+", "PostgreSQL [VERSION]"),
    ] {
        settings.add_filter(pattern, replacement);
    }
    settings
}
