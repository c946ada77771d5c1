//! What a verb tells while it works. Events are data; the program decides how they look.
//!
//! Observers are called from several threads and must not block for long: the verb waits for them. The cancel token
//! goes the other way, and is looked at between pieces of work.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::error::{Error, ErrorKind, Result};

/// A named part of a verb's work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Step {
    /// The server makes the checkpoint that the backup starts from.
    Checkpoint,
    /// Files are read and stored.
    Copy,
    /// The WAL that the backup needs is being awaited.
    AwaitWal,
    /// The manifest is written.
    Commit,
    /// The target is being proved.
    Prove,
    /// What does not belong is removed from a former cluster's directory.
    Clear,
    /// Files are written to the destination.
    Write,
    /// What was written is made durable.
    Sync,
    /// What is going to be removed is published; others get time to see it.
    Grace,
    /// Backups, packs and WAL are removed.
    Remove,
    /// Stored bytes are read and proved.
    Verify,
    /// A restored server replays WAL.
    Recover,
    /// A restored server is questioned.
    Question,
    /// Rows of a database are fetched and written.
    Dump,
}

/// Something that happened.
#[derive(Clone, Debug, serde::Serialize)]
#[serde(rename_all = "snake_case", tag = "event")]
pub enum Event {
    /// A step began; `total_bytes` is what it will handle, where that is known.
    StepStarted {
        /// Which.
        step: Step,
        /// Bytes that it will handle.
        total_bytes: Option<u64>,
    },
    /// So much is done of the step; sent often, cheap to drop.
    Progress {
        /// Which.
        step: Step,
        /// Bytes handled since the step began.
        done_bytes: u64,
    },
    /// A step goes on with a part that has a name, such as a table.
    Item {
        /// Which step.
        step: Step,
        /// The part.
        name: String,
        /// Bytes of it, about, where that is known.
        total_bytes: Option<u64>,
    },
    /// A step ended.
    StepFinished {
        /// Which.
        step: Step,
    },
    /// Something worth a line: what was decided and why.
    Note {
        /// The line.
        text: String,
    },
    /// Something that the user should look at, though the verb goes on.
    Warning {
        /// What.
        text: String,
        /// What to do about it.
        hint: Option<String>,
    },
}

/// Is told what happens. Called from several threads.
pub trait Observer: Send + Sync {
    /// One event.
    fn event(&self, event: Event);
}

/// Hears nothing.
#[derive(Debug, Clone, Copy)]
pub struct Silent;

impl Observer for Silent {
    fn event(&self, _: Event) {}
}

/// Asks a running verb to stop. Cheap to clone; setting it is safe in a signal handler's thread.
#[derive(Clone, Debug, Default)]
pub struct Cancel(Arc<AtomicBool>);

impl Cancel {
    /// Asks to stop.
    pub fn cancel(&self) {
        self.0.store(true, Ordering::SeqCst);
    }

    /// The flag itself, for a signal handler to set.
    #[must_use]
    pub fn flag(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.0)
    }

    /// Whether somebody asked to stop.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }

    /// An error where somebody asked to stop.
    pub fn check(&self) -> Result<()> {
        if self.is_cancelled() {
            return Err(Error::new(ErrorKind::Interrupted, "interrupted")
                .hint("nothing that was listed before is affected; run the command again when ready"));
        }
        Ok(())
    }
}
