//! Commands shown as a user would type them, and run exactly so, as the server user. What was started is stopped
//! however the caller ends.

use std::ffi::OsString;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use pgkeep_testkit::run_as_server_user;

use crate::Failure;

/// An environment in which commands are typed: a search path, variables, and the server user.
#[derive(Debug)]
pub(crate) struct Shell {
    path: OsString,
    variables: Vec<(String, String)>,
    interrupted: Arc<AtomicBool>,
}

impl Shell {
    /// A shell whose search path begins with `folders`. Ctrl-C is noted from now on instead of ending this process,
    /// so that what was started is also stopped.
    pub(crate) fn new(folders: &[&Path]) -> Result<Shell, Failure> {
        let old = std::env::var_os("PATH").unwrap_or_default();
        let all = folders.iter().map(|folder| folder.to_path_buf()).chain(std::env::split_paths(&old));
        let interrupted = Arc::new(AtomicBool::new(false));
        for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
            signal_hook::flag::register(signal, Arc::clone(&interrupted))?;
        }
        Ok(Shell { path: std::env::join_paths(all)?, variables: Vec::new(), interrupted })
    }

    /// Sets a variable and shows the line that does it.
    pub(crate) fn export(&mut self, name: &str, value: &str) {
        println!("$ export {name}={}", quoted(value));
        self.variables.push((name.to_owned(), value.to_owned()));
    }

    /// Shows and runs a command, with its output on the terminal.
    pub(crate) fn run(&self, program: &str, arguments: &[&str]) -> Result<(), Failure> {
        println!("$ {}", line(program, arguments));
        let mut child = self
            .command(program, arguments)
            .spawn()
            .map_err(|error| format!("cannot run `{program}`: {error}"))?;
        let status = child.wait()?;
        self.check_interrupt()?;
        if status.success() {
            Ok(())
        } else {
            Err(format!("`{}` ended with {status}", line(program, arguments)).into())
        }
    }

    /// Shows and runs a command whose output says nothing of interest when it works.
    pub(crate) fn just(&self, program: &str, arguments: &[&str]) -> Result<(), Failure> {
        println!("$ {}", line(program, arguments));
        self.quietly(program, arguments).map(|_| ())
    }

    /// Runs a command without showing it; its output matters only when it fails.
    pub(crate) fn quietly(&self, program: &str, arguments: &[&str]) -> Result<String, Failure> {
        let output = self
            .command(program, arguments)
            .output()
            .map_err(|error| format!("cannot run `{program}`: {error}"))?;
        self.check_interrupt()?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).trim_end().to_owned());
        }
        let said = [output.stdout, output.stderr].concat();
        Err(format!("`{}` failed: {}", line(program, arguments), String::from_utf8_lossy(&said).trim_end())
            .into())
    }

    /// Shows and runs a command whose output is small and wanted.
    pub(crate) fn ask(&self, program: &str, arguments: &[&str]) -> Result<String, Failure> {
        println!("$ {}", line(program, arguments));
        let answer = self.quietly(program, arguments)?;
        println!("{answer}");
        Ok(answer)
    }

    /// Shows a command and starts it in the background, its output dropped.
    pub(crate) fn background(&self, program: &str, arguments: &[&str]) -> Result<Child, Failure> {
        println!("$ {} &", line(program, arguments));
        let mut command = self.command(program, arguments);
        command.stdout(Stdio::null()).stderr(Stdio::null());
        command.spawn().map_err(|error| format!("cannot run `{program}`: {error}").into())
    }

    fn command(&self, program: &str, arguments: &[&str]) -> Command {
        // Looked up here: the child's search path counts only once it runs.
        let found =
            std::env::split_paths(&self.path).map(|folder| folder.join(program)).find(|path| path.is_file());
        let mut command = Command::new(found.unwrap_or_else(|| program.into()));
        command.args(arguments).stdin(Stdio::null()).env("LC_ALL", "C");
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("PG")) {
            command.env_remove(name);
        }
        command.env("PATH", &self.path).envs(self.variables.iter().map(|(name, value)| (name, value)));
        run_as_server_user(&mut command);
        command
    }

    fn check_interrupt(&self) -> Result<(), Failure> {
        if self.interrupted.load(Ordering::Relaxed) { Err("interrupted".into()) } else { Ok(()) }
    }
}

/// A command line as one would type it.
pub(crate) fn line(program: &str, arguments: &[&str]) -> String {
    let words = std::iter::once(program).chain(arguments.iter().copied()).map(quoted);
    words.collect::<Vec<String>>().join(" ")
}

fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_=/.,:+@%".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else if word.contains('\'') {
        format!("\"{}\"", word.replace('\\', "\\\\").replace('"', "\\\"").replace('$', "\\$"))
    } else {
        format!("'{word}'")
    }
}

#[cfg(test)]
mod tests {
    use super::line;

    #[test]
    fn a_shown_command_can_be_typed() {
        assert_eq!(line("psql", &["-c", "SELECT 1"]), "psql -c 'SELECT 1'");
        assert_eq!(line("psql", &["-c", "SELECT 'a'"]), "psql -c \"SELECT 'a'\"");
        assert_eq!(line("pgkeep", &["backup", "--repo", "/tmp/r"]), "pgkeep backup --repo /tmp/r");
    }
}
