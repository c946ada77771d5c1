//! What a running load tells: data, no texts of a program.

use super::plan::LoadPlan;

/// Something that happened.
#[derive(Debug, Clone)]
pub enum LoadEvent<'a> {
    /// The plan stands; what follows does it.
    Planned(&'a LoadPlan),
    /// Something that may not be what the user wants.
    Warning {
        /// What.
        text: String,
        /// What to do.
        hint: Option<String>,
    },
    /// A step begins.
    Started {
        /// The step, such as `TABLE DATA app.users`.
        step: &'a str,
    },
    /// Rows were sent to the server.
    Rows {
        /// The step.
        step: &'a str,
        /// How many more bytes, uncompressed.
        bytes: u64,
    },
    /// A step is done and committed.
    Done {
        /// The step.
        step: &'a str,
        /// How much of the archive's data that was, as stored.
        stored_bytes: u64,
    },
    /// The server refused a step.
    Refused {
        /// The step.
        step: &'a str,
        /// The server's words.
        message: &'a str,
    },
}

/// Is told what happens, from several threads.
pub trait LoadObserver: Sync {
    /// Something happened.
    fn event(&self, event: &LoadEvent<'_>);

    /// Whether the load is to stop. Asked several times a second.
    fn is_cancelled(&self) -> bool {
        false
    }
}
