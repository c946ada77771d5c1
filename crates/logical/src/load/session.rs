//! A session of a load: steps as transactions, each with its line in the journal.

use std::sync::Mutex;

use pgkeep_format::archive::TocEntry;
use pgkeep_tool::server_text::wire_text;
use pgkeep_tool::{Reporter, ToolError};
use pgkeep_wire::{ConnInfo, WireError, quote_literal};

use super::error::{LoadError, LoadErrorKind, LoadResult};
use super::journal;
use super::observe::{LoadEvent, LoadObserver};
use super::plan::Step;
use crate::quote;
use crate::restore::{Contents, Emitter, Job, Piece, Pieces, RestoreOptions, Server, Source, Target};

/// How often a step that met another one is tried.
const ATTEMPTS: u32 = 5;

/// What all sessions share.
#[derive(Clone, Copy)]
pub(super) struct Shared<'a> {
    pub(super) contents: &'a Contents,
    pub(super) pieces: &'a Pieces,
    pub(super) options: &'a RestoreOptions,
    pub(super) info: &'a ConnInfo,
    pub(super) settings: &'a [Vec<u8>],
    pub(super) observer: &'a dyn LoadObserver,
    pub(super) maintenance_work_mem: Option<u64>,
    /// No trigger looks at rows.
    pub(super) disable_triggers: bool,
}

/// Collects what a session is told while an entry is restored.
pub(super) struct Listener<'a> {
    observer: &'a dyn LoadObserver,
    refusal: Mutex<String>,
}

impl<'a> Listener<'a> {
    pub(super) fn new(observer: &'a dyn LoadObserver) -> Listener<'a> {
        Listener { observer, refusal: Mutex::default() }
    }

    fn take(&self) -> String {
        std::mem::take(&mut *self.refusal.lock().unwrap_or_else(std::sync::PoisonError::into_inner))
    }
}

impl Reporter for Listener<'_> {
    fn info(&self, _: &str) {}

    fn warning(&self, text: &str) {
        self.observer.event(&LoadEvent::Warning { text: text.to_owned(), hint: None });
    }

    fn error(&self, text: &str) {
        text.clone_into(&mut self.refusal.lock().unwrap_or_else(std::sync::PoisonError::into_inner));
    }
}

/// The server said no, and nothing of the transaction is left.
#[derive(Debug)]
pub(super) struct Refusal {
    /// The step of a batch.
    pub(super) step: usize,
    pub(super) message: String,
    pub(super) state: Option<String>,
}

/// What became of a transaction.
#[derive(Debug)]
pub(super) enum Outcome {
    /// It is committed. Bytes of rows that were sent.
    Done {
        bytes: u64,
    },
    Refused(Refusal),
}

/// Why a step is not done.
enum Failure {
    Refused { message: String, state: Option<String> },
    Fatal(LoadError),
}

impl From<LoadError> for Failure {
    fn from(error: LoadError) -> Failure {
        Failure::Fatal(error)
    }
}

/// A session and the archive as it reads it.
pub(super) struct Session<'a> {
    emitter: Emitter<'a>,
    source: Source,
    shared: Shared<'a>,
    listener: &'a Listener<'a>,
}

impl<'a> Session<'a> {
    /// Connects. `source`: an archive of its own.
    pub(super) fn open(
        shared: Shared<'a>,
        listener: &'a Listener<'a>,
        source: Source,
    ) -> LoadResult<Session<'a>> {
        let failed = |error: &ToolError| {
            LoadError::new(LoadErrorKind::Connect, "cannot open a session to load in")
                .cause(if error.is_reported { listener.take() } else { error.message.clone() })
                .hint("look at the server; fewer `--jobs` take fewer sessions. An interrupted load goes on with `--resume`")
        };
        let job = Job { contents: shared.contents, options: shared.options, reporter: listener };
        let mut server = Server::connect(shared.info, true, listener).map_err(|error| failed(&error))?;
        for setting in shared.settings {
            // The database gets it in the end, and a refusal is told again then.
            if let Err(error) = server.connection().execute(setting.as_slice()) {
                let text = format!(
                    "the server refused `{}`: {}",
                    String::from_utf8_lossy(setting),
                    wire_text(&error, None).trim_end()
                );
                listener.warning(&text);
            }
        }
        let mut emitter = Emitter::new(job, Target::Server(Box::new(server)), 0);
        emitter.fixed_state().map_err(|error| failed(&error))?;
        let mut session = Session { emitter, source, shared, listener };
        // Commits do not wait for the disk; the last one of the load does, and with it all before it are safe.
        session.set("SET synchronous_commit = off")?;
        session.set("SET idle_session_timeout = 0")?;
        if let Some(memory) = shared.maintenance_work_mem {
            session.set(&format!("SET maintenance_work_mem = '{}kB'", memory / 1024))?;
        }
        // A server that finds nobody at the other end stops building for them; not every system can tell.
        drop(session.server()?.connection().execute("SET client_connection_check_interval = '5s'"));
        Ok(session)
    }

    fn server(&mut self) -> LoadResult<&mut Server<'a>> {
        self.emitter.server().ok_or_else(|| LoadError::new(LoadErrorKind::Connect, "no session"))
    }

    pub(super) fn cancel_handle(&mut self) -> LoadResult<pgkeep_wire::CancelHandle> {
        Ok(self.server()?.cancel_handle())
    }

    fn set(&mut self, sql: &str) -> LoadResult<()> {
        let result = self.server()?.connection().execute(sql);
        result.map_err(|error| LoadError::server(&format!("the server refused `{sql}`"), &error))
    }

    /// A command of ours.
    fn execute(&mut self, sql: &str) -> Result<(), Failure> {
        let result = self.server()?.connection().execute(sql);
        result.map_err(|error| failure(&error, sql))
    }

    /// Does a step, as a transaction. `replica`: triggers that are there already stay quiet.
    pub(super) fn step(&mut self, number: usize, step: &Step, replica: bool) -> LoadResult<Outcome> {
        self.batch(&[(number, step)], replica, None)
    }

    /// Does steps in one transaction. `last`: a command before them, in place of the journal, and the mode of the commit.
    pub(super) fn batch(
        &mut self,
        steps: &[(usize, &Step)],
        replica: bool,
        last: Option<(&str, &str)>,
    ) -> LoadResult<Outcome> {
        let mut attempt = 1;
        loop {
            let mut at = steps.first().map_or(0, |(number, _)| *number);
            match self.transaction(steps, replica, last, &mut at) {
                Ok(bytes) => return Ok(Outcome::Done { bytes }),
                Err(Failure::Fatal(error)) => return Err(error),
                Err(Failure::Refused { message, state }) => {
                    self.roll_back()?;
                    let met_another = matches!(state.as_deref(), Some("40P01" | "40001"))
                        || message.contains("tuple concurrently updated");
                    if met_another && attempt < ATTEMPTS {
                        attempt += 1;
                        continue;
                    }
                    return Ok(Outcome::Refused(Refusal { step: at, message, state }));
                }
            }
        }
    }

    fn roll_back(&mut self) -> LoadResult<()> {
        self.set("ROLLBACK")?;
        // Settings of the transaction went with it.
        self.emitter.forget_state();
        Ok(())
    }

    fn transaction(
        &mut self,
        steps: &[(usize, &Step)],
        replica: bool,
        last: Option<(&str, &str)>,
        at: &mut usize,
    ) -> Result<u64, Failure> {
        self.execute("BEGIN")?;
        if let Some((command, mode)) = last {
            self.execute(&format!("SET LOCAL synchronous_commit = {}", quote_literal(mode)))?;
            self.execute(command)?;
        }
        if replica || (self.shared.disable_triggers && steps.iter().any(|(_, step)| step.rows.is_some())) {
            self.execute("SET LOCAL session_replication_role = replica")?;
        }
        let mut bytes = 0;
        for (number, step) in steps {
            *at = *number;
            if last.is_none() && !step.repeats {
                let unlogged = step.rows.is_some_and(|rows| rows.unlogged);
                let connection = self.server()?.connection();
                let is_new = journal::write(connection, &step.key, unlogged)
                    .map_err(|error| failure(&error, "INSERT INTO pgkeep_load.done …"))?;
                if !is_new {
                    continue;
                }
            }
            bytes += self.work(step)?;
        }
        self.execute("COMMIT")?;
        Ok(bytes)
    }

    /// What the step is about.
    fn work(&mut self, step: &Step) -> Result<u64, Failure> {
        let contents = self.shared.contents;
        let entry = step.entry(contents);
        let copy = entry.copy_statement.as_deref().filter(|copy| !copy.is_empty());
        match (step.rows, copy) {
            // Archives of old leave the schema to the search path, which the emitter sets.
            (Some(rows), Some(copy)) if contents.search_path.is_some() => {
                if rows.truncate {
                    let table = quote::qualified(entry.namespace.as_deref(), &entry.tag);
                    self.execute(&format!("TRUNCATE TABLE ONLY {}", String::from_utf8_lossy(&table)))?;
                }
                self.copy(step, entry, copy)
            }
            _ => {
                let result = self.emitter.restore_entry(&mut self.source, entry, step.wanted, false);
                result.map(|_| 0).map_err(|error| self.failed(error, None))
            }
        }
    }

    /// Rows by COPY.
    fn copy(&mut self, step: &Step, entry: &TocEntry, copy: &[u8]) -> Result<u64, Failure> {
        let Session { emitter, source, shared, .. } = self;
        let server = emitter.server().ok_or_else(|| LoadError::new(LoadErrorKind::Connect, "no session"))?;
        let mut bytes = 0;
        let mut of_archive = None;
        let result = server.copy(copy, &entry.tag, |sink| {
            let mut of_server = false;
            let mut take = |piece: Piece<'_>| match piece {
                Piece::Bytes(piece) => {
                    let length = piece.len() as u64;
                    bytes += length;
                    sink(piece).inspect_err(|_| of_server = true)?;
                    shared.observer.event(&LoadEvent::Rows { step: &step.label, bytes: length });
                    Ok(())
                }
                Piece::LargeObject(_) | Piece::LargeObjectEnd => {
                    Err(ToolError::new("rows were expected, and there are large objects"))
                }
            };
            let piece = step.rows.and_then(|rows| Some((rows.piece?, shared.pieces.of_rows(entry)?)));
            let result = match piece {
                Some((number, indexed)) => source.piece(entry, indexed, number, &mut take),
                None => source.rows(entry, &mut take),
            };
            if !of_server {
                of_archive = result.as_ref().err().cloned();
            }
            result
        });
        result.map(|()| bytes).map_err(|error| self.failed(error, of_archive))
    }

    /// Tells refusals from everything else.
    fn failed(&mut self, error: ToolError, of_archive: Option<ToolError>) -> Failure {
        if let Some(error) = of_archive {
            return LoadError::archive(&error).into();
        }
        let Ok(server) = self.server() else { return LoadError::archive(&error).into() };
        if error.is_reported {
            let state = server.last_state().map(str::to_owned);
            return Failure::Refused { message: self.listener.take().trim_end().to_owned(), state };
        }
        if server.connection().is_broken() {
            return LoadError::new(LoadErrorKind::Connect, "the connection to the server was lost")
                .cause(error.message)
                .hint("look at the server and its log, then go on with `--resume`")
                .into();
        }
        LoadError::archive(&error).into()
    }
}

fn failure(error: &WireError, sql: &str) -> Failure {
    if error.server_error().is_some_and(|error| !error.is_fatal()) {
        let state = error.sqlstate().map(str::to_owned);
        return Failure::Refused {
            message: wire_text(error, Some(sql.as_bytes())).trim_end().to_owned(),
            state,
        };
    }
    LoadError::server("the connection to the server was lost", error).into()
}
