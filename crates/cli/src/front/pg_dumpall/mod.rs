//! `pg_dumpall`: a cluster as a script.

mod arguments;
mod help;

use std::ffi::OsString;
use std::io::BufWriter;

use pgkeep_logical::dump::write::OutputFile;
use pgkeep_logical::dumpall::{ClusterDatabase, ClusterDump};
use pgkeep_tool::ToolError;

use super::message::Messages;
use super::pg_dump;
use super::program::Program;
use arguments::Arguments;

const NAME: &str = "pg_dumpall";

const PROGRAM: Program<Arguments> = Program {
    name: NAME,
    help: help::TEXT,
    parse: Arguments::parse,
    is_verbose: |arguments| arguments.options.verbose,
    act: |arguments, messages| act(arguments, messages).map(|()| 0),
};

/// Runs the program; the exit status is returned.
pub(super) fn run(words: &[OsString]) -> u8 {
    PROGRAM.run(words)
}

/// Reads the words without acting on them.
#[cfg(test)]
pub(super) fn check(words: &[OsString]) -> Result<(), String> {
    PROGRAM.check(words)
}

fn act(arguments: Arguments, messages: &Messages) -> Result<(), ToolError> {
    let Arguments { options, mut connection, prompt, file, sync, dump_words } = arguments;
    let clean = options.clean;
    let cluster = prompt
        .connected(&mut connection, messages, |connection| ClusterDump::start(connection, options.clone()))?;
    let mut output = OutputFile::create(file.as_deref(), sync)?;
    let mut sink = BufWriter::with_capacity(256 << 10, &mut output);
    cluster.write(&mut sink, messages, &mut |database, out| {
        let mut words = dump_words.clone();
        words.extend(create_options(database, clean).iter().map(OsString::from));
        if database.name.contains(['\n', '\r']) {
            // Stock hands the name to a shell, and a script could not connect to such a database either.
            return Err(ToolError::new(format!(
                "shell command argument contains a newline or carriage return: \"{}\"",
                database.name
            ))
            .hint("rename the database, or leave it out with --exclude-database"));
        }
        let connection = connection
            .clone()
            .with("dbname", &database.connection_name)
            .map_err(|error| ToolError::new(error.to_string()))?;
        // Stock runs another program for this, whose messages have that program's name.
        pg_dump::dump_into(&words, &connection, out)
            .map_err(|_| ToolError::new(format!("pg_dump failed on database \"{}\", exiting", database.name)))
    })?;
    sink.into_inner().map_err(|error| pg_dump::not_written(&error.into_error()))?;
    output.finish()
}

/// Whether the dump of a database drops and makes it.
fn create_options(database: &ClusterDatabase, clean: bool) -> &'static [&'static str] {
    match (database.is_in_every_cluster(), clean) {
        (false, _) => &["--create"],
        (true, true) => &["--clean", "--create"],
        (true, false) => &[],
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;

    use super::Arguments;

    fn dump_words(words: &[&str]) -> String {
        let words: Vec<OsString> = words.iter().map(OsString::from).collect();
        let Ok(arguments) = Arguments::parse(&words) else { return "mistake".to_owned() };
        let words: Vec<String> =
            arguments.dump_words.iter().map(|word| word.to_string_lossy().into_owned()).collect();
        words.join(" ")
    }

    #[test]
    fn options_are_passed_on() {
        assert_eq!(dump_words(&[]), "");
        assert_eq!(
            dump_words(&["--no-data", "-acOsxv", "-E", "UTF8", "-Sa", "--role=r", "--if-exists", "-g"]),
            "-a -O -s -x -v -E UTF8 -S a --role r --no-data"
        );
        assert_eq!(
            dump_words(&[
                "--rows-per-insert=3",
                "--column-inserts",
                "--restrict-key=k",
                "--no-sync",
                "-f",
                "x"
            ]),
            "--rows-per-insert 3 --restrict-key k --no-sync --column-inserts"
        );
    }
}
