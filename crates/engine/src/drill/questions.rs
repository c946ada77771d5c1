//! What is asked of the restored server: the user's statements, and `pg_amcheck`.

use std::fs::OpenOptions;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use pgkeep_wire::{Connection, Rows, WireError};

use super::configuration::Places;
use super::request::{AmcheckResult, Assertion, DrillRequest, RunAs};
use super::server::{Programs, Server, command, last_lines};
use super::sql_script::Step;
use crate::error::{Error, ErrorKind, Result};

/// The OID of `boolean` in every version.
const BOOLEAN: u32 = 16;
/// What is shown of a statement.
const SHOWN: usize = 200;

/// Runs the steps of a script; a statement that fails does not keep the next ones from being tried.
pub(super) fn ask(
    server: &Server,
    role: &str,
    database: &str,
    steps: &[Step],
    go_on: &(dyn Fn() -> Result<()> + Sync),
) -> Result<Vec<Assertion>> {
    let mut assertions = Vec::new();
    let mut database = database.to_owned();
    let mut session: Option<Connection> = None;
    for step in steps {
        go_on()?;
        match step {
            Step::Connect(other) => {
                database.clone_from(other);
                session = None;
            }
            Step::Statement { line, text } => {
                let began = Instant::now();
                let outcome = match session.take().filter(|session| !session.is_broken()) {
                    Some(open) => Ok(open),
                    None => server.connect(role, &database),
                };
                let problem = match outcome {
                    Err(error) => Some(words(&error)),
                    Ok(mut open) => {
                        let problem = judge(&query(&mut open, text, go_on));
                        // A statement that was cancelled proves nothing.
                        go_on()?;
                        session = Some(open);
                        problem
                    }
                };
                let mut statement: String = text.chars().take(SHOWN).collect();
                if statement.len() < text.len() {
                    statement.push('…');
                }
                assertions.push(Assertion {
                    line: *line,
                    statement,
                    ok: problem.is_none(),
                    problem,
                    seconds: began.elapsed().as_secs_f64(),
                });
            }
        }
    }
    Ok(assertions)
}

/// Runs a statement, which may take as long as it likes; cancelled on the server when the drill is to end.
fn query(
    session: &mut Connection,
    text: &str,
    go_on: &(dyn Fn() -> Result<()> + Sync),
) -> Result<Rows, WireError> {
    let handle = session.cancel_handle();
    let answered = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !answered.load(Ordering::Relaxed) {
                // Asked again and again: the statement may not have begun yet.
                if go_on().is_err() && handle.cancel().is_err() {
                    handle.shutdown();
                }
                std::thread::sleep(Duration::from_millis(50));
            }
        });
        let answer = session.query(text);
        answered.store(true, Ordering::Relaxed);
        answer
    })
}

/// What is wrong with an answer. One boolean column is an assertion: every row must be true, and there must be one.
fn judge(answer: &Result<Rows, WireError>) -> Option<String> {
    let rows = match answer {
        Ok(rows) => rows,
        Err(error) => return Some(words(error)),
    };
    let ([column], [BOOLEAN]) = (rows.columns(), rows.column_types()) else { return None };
    if rows.is_empty() {
        return Some("it gives no row, which proves nothing".to_owned());
    }
    let wrong = rows.iter().position(|row| !matches!(row.bytes(column), Ok(Some(b"t"))))?;
    let said = match rows.iter().nth(wrong).map(|row| row.bytes(column)) {
        Some(Ok(Some(_))) => "false",
        _ => "null",
    };
    Some(match rows.len() {
        1 => format!("it is {said}"),
        count => format!("row {} of {count} is {said}", wrong + 1),
    })
}

fn words(error: &WireError) -> String {
    let mut text = error.to_string();
    let mut next = std::error::Error::source(error);
    while let Some(cause) = next {
        let more = cause.to_string();
        if !text.contains(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        next = cause.source();
    }
    text
}

/// Runs `pg_amcheck` on every database, indexes against their tables too.
pub(super) fn amcheck(
    programs: &Programs,
    places: &Places,
    server: &Server,
    role: &str,
    request: &DrillRequest,
    user: Option<RunAs>,
    go_on: &(dyn Fn() -> Result<()> + Sync),
) -> Result<AmcheckResult> {
    let Some(program) = &programs.amcheck else {
        return Err(Error::new(ErrorKind::Config, "`pg_amcheck` is not installed")
            .hint("install it, or leave out `--amcheck`"));
    };
    let failed = |error: &std::io::Error| {
        Error::new(ErrorKind::Config, format!("cannot run `{}`", program.display()))
            .caused_by(error)
            .hint("check that the server's user may run it")
    };
    let log = places.scratch.join("amcheck.log");
    let output = OpenOptions::new().create(true).append(true).open(&log).map_err(|error| failed(&error))?;
    let mut child = command(program, request, user)
        .args(["--all", "--heapallindexed", "--install-missing", "--no-password", "--port", "5432"])
        .arg("--host")
        .arg(server.sockets())
        .arg("--username")
        .arg(role)
        .stdout(output.try_clone().map_err(|error| failed(&error))?)
        .stderr(output)
        .spawn()
        .map_err(|error| failed(&error))?;
    loop {
        match child.try_wait() {
            Ok(Some(status)) => {
                return Ok(AmcheckResult { ok: status.success(), output: last_lines(&log) });
            }
            Ok(None) => {}
            Err(error) => return Err(failed(&error)),
        }
        if let Err(error) = go_on() {
            drop(child.kill());
            drop(child.wait());
            return Err(error);
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}
