//! What a base backup tells while it runs.

use pgkeep_tool::Reporter;

/// How far the data has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Progress {
    /// Bytes that the server has read.
    pub done_bytes: u64,
    /// What it expected to read, in KiB; 0 when it was not asked to estimate.
    pub total_kib: u64,
    /// How many tablespaces have come, the data directory included.
    pub tablespaces_done: usize,
    /// How many there are.
    pub tablespaces: usize,
    /// The file that is written; none at the end.
    pub file: Option<String>,
}

/// Is told what happens. [`Reporter::info`] is of use with `-v` only.
pub trait Observer: Reporter {
    /// Information that is told always.
    fn tell(&self, text: &str);
    /// A notice of the server, as libpq writes it, with its line end.
    fn notice(&self, text: &str);
    /// The server waits for a checkpoint; data comes then.
    fn waiting_for_checkpoint(&self);
    /// How far it is. Called often.
    fn progress(&self, progress: &Progress);
    /// Whether the group of the server's data directory may read it, and with it the group of what is written here. Whoever
    /// has a process of its own sets its umask, before anything is made.
    fn group_access(&self, allowed: bool);
}
