//! Exit codes: part of the interface, listed in `docs/reference/exit-codes.md`.
//!
//! PostgreSQL dictates two rules. An `archive_command` that fails must exit below 126, or the archiver process ends. A
//! `restore_command` that exits with 1 to 125 says "the archive has no such file": the server then ends recovery, and
//! without a target becomes a primary that lacks everything after it. So `wal get` exits with 1 only when it is certain,
//! and with [`CANNOT_TELL`] after any other failure, a panic and a mistake on its command line included.

use pgkeep_engine::ErrorKind;

/// It was done.
pub(crate) const OK: u8 = 0;
/// The answer is no: `wal get`, the archive does not hold the file; `check`, something failed.
pub(crate) const NO: u8 = 1;
/// `verify` found damage.
pub(crate) const DAMAGED: u8 = 17;
/// `verify --restore`: what was restored does not work, or not as was wanted.
pub(crate) const DRILL_FAILED: u8 = 18;
/// `load`: the server refused something that was asked for.
pub(crate) const INCOMPLETE: u8 = 19;
/// `wal get` failed without knowing whether the archive holds the file.
pub(crate) const CANNOT_TELL: u8 = 200;
/// The largest code that the archiver survives.
const ARCHIVER_LIMIT: u8 = 125;

/// Which of PostgreSQL's rules holds for this run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Caller {
    /// A person or a script.
    Anyone,
    /// `archive_command`.
    Archiver,
    /// `restore_command`.
    Recovery,
    /// `restore_command` of a standby, which would stop at a code above 125 instead of going on to streaming.
    Standby,
}

impl Caller {
    /// Told from the words of the command line alone, since the rules hold for a command line with mistakes too.
    pub(crate) fn of<S: AsRef<std::ffi::OsStr>>(arguments: &[S]) -> Caller {
        let place = |word: &str| arguments.iter().position(|argument| argument.as_ref() == word);
        let follows = |word: &str| match (place("wal"), place(word)) {
            (Some(wal), Some(verb)) => wal < verb,
            _ => false,
        };
        if follows("get") {
            if place("--standby").is_some() { Caller::Standby } else { Caller::Recovery }
        } else if follows("push") {
            Caller::Archiver
        } else {
            Caller::Anyone
        }
    }

    /// The code with which a failure of that kind ends.
    pub(crate) fn code(self, kind: ErrorKind) -> u8 {
        match self {
            Caller::Anyone => code(kind),
            Caller::Archiver => code(kind).min(ARCHIVER_LIMIT),
            Caller::Recovery => CANNOT_TELL,
            Caller::Standby => NO,
        }
    }
}

/// One code for each kind.
pub(crate) fn code(kind: ErrorKind) -> u8 {
    match kind {
        ErrorKind::Usage => 2,
        ErrorKind::Config => 3,
        ErrorKind::Connect => 4,
        ErrorKind::Auth => 5,
        ErrorKind::Unsupported => 6,
        ErrorKind::Mismatch => 7,
        ErrorKind::NotFound => 8,
        ErrorKind::WalGap => 9,
        ErrorKind::TargetUnreachable => 10,
        ErrorKind::Corrupt => 11,
        ErrorKind::Locked => 12,
        ErrorKind::Destination => 13,
        ErrorKind::Storage => 14,
        ErrorKind::Space => 15,
        ErrorKind::Timeout => 16,
        ErrorKind::Internal => 70,
        ErrorKind::Interrupted => 130,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KINDS: [ErrorKind; 17] = [
        ErrorKind::Usage,
        ErrorKind::Config,
        ErrorKind::Connect,
        ErrorKind::Auth,
        ErrorKind::Unsupported,
        ErrorKind::Mismatch,
        ErrorKind::NotFound,
        ErrorKind::WalGap,
        ErrorKind::TargetUnreachable,
        ErrorKind::Corrupt,
        ErrorKind::Locked,
        ErrorKind::Destination,
        ErrorKind::Storage,
        ErrorKind::Space,
        ErrorKind::Timeout,
        ErrorKind::Interrupted,
        ErrorKind::Internal,
    ];

    #[test]
    fn the_archiver_survives_every_failure_and_recovery_never_takes_one_for_the_end() {
        for kind in KINDS {
            assert!((1..=125).contains(&Caller::Archiver.code(kind)), "{kind:?}");
            assert!(Caller::Recovery.code(kind) > 125, "{kind:?}");
            assert_eq!(Caller::Standby.code(kind), 1, "{kind:?}");
        }
    }

    #[test]
    fn the_documentation_lists_every_code() {
        let document = include_str!("../../../docs/reference/exit-codes.md");
        for kind in KINDS {
            let name = serde_json::to_value(kind).unwrap();
            let row = format!("| {} | `{}` |", code(kind), name.as_str().unwrap());
            assert!(document.contains(&row), "{row}");
        }
        // Answers, not failures: they have no kind.
        for (code, verb) in
            [(DAMAGED, "`verify`"), (DRILL_FAILED, "`verify --restore`"), (INCOMPLETE, "`load`")]
        {
            let row = format!("| {code} | | {verb}: ");
            assert!(document.contains(&row), "{row}");
        }
    }

    #[test]
    fn the_caller_is_told_from_the_words() {
        let caller = |line: &str| Caller::of(&line.split(' ').collect::<Vec<_>>());
        assert_eq!(caller("backup --repo get"), Caller::Anyone);
        assert_eq!(caller("--repo /b wal get --frobnicate"), Caller::Recovery);
        assert_eq!(caller("wal --stanza a get --standby f p"), Caller::Standby);
        assert_eq!(caller("wal push"), Caller::Archiver);
    }
}
