//! `backup_label`: where recovery of a base backup begins (`access/transam/xlogbackup.c` from 16 on, `xlog.c`
//! before).
//!
//! Lines of `KEY: value`, the same from 13 to 18; 17 added two for native incrementals. A restored cluster gets the
//! text exactly as the server returned it, kept in our manifest; this reads it, and prints one for the case that a
//! restore must write its own (a combined incremental, whose label must lose its `INCREMENTAL FROM` lines).

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{Lsn, TimelineId};

/// Longer texts are refused: a label has at most 1 KiB of free text, and the rest is a dozen short lines.
pub const MAX_BACKUP_LABEL_LENGTH: usize = 16 << 10;

/// The contents of a `backup_label` file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackupLabel {
    /// Where replay must begin: the redo pointer of the backup's checkpoint.
    pub start_lsn: Lsn,
    /// The name of the WAL segment that holds `start_lsn`.
    pub start_segment_name: String,
    /// Where the record of the backup's checkpoint begins.
    pub checkpoint: Lsn,
    /// `streamed` for every backup but the exclusive ones of 14 and older; empty where the line is missing.
    pub method: String,
    /// Whether a standby was backed up.
    pub from_standby: bool,
    /// When the backup began, in the server's `log_timezone`; for people.
    pub start_time: String,
    /// The text that was given to the backup.
    pub label: String,
    /// The timeline of `start_lsn`.
    pub start_timeline: TimelineId,
    /// The backup that a native incremental (17 and later) builds upon. A server refuses to start with it.
    pub incremental_from: Option<IncrementalFrom>,
}

/// The backup that a native incremental builds upon.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct IncrementalFrom {
    /// Its start position.
    pub lsn: Lsn,
    /// The timeline of that position.
    pub timeline: TimelineId,
}

/// Why a `backup_label` could not be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BackupLabelError {
    /// Far longer than any server writes it.
    #[error("backup_label has {length} bytes, more than any server writes")]
    TooLong {
        /// Its length in bytes.
        length: usize,
    },
    /// A line that recovery needs is not there.
    #[error("backup_label has no `{line}` line")]
    Missing {
        /// How the line begins.
        line: &'static str,
    },
    /// A line does not hold what its beginning promises.
    #[error("backup_label has a malformed `{line}` line: `{value}`")]
    Malformed {
        /// How the line begins.
        line: &'static str,
        /// What follows.
        value: String,
    },
    /// A line occurs twice, as when the label's text contains line breaks.
    #[error("backup_label has more than one `{line}` line")]
    Repeated {
        /// How the line begins.
        line: &'static str,
    },
}

const START: &str = "START WAL LOCATION";
const CHECKPOINT: &str = "CHECKPOINT LOCATION";
const METHOD: &str = "BACKUP METHOD";
const FROM: &str = "BACKUP FROM";
const START_TIME: &str = "START TIME";
const LABEL: &str = "LABEL";
const TIMELINE: &str = "START TIMELINE";
const INCREMENTAL_LSN: &str = "INCREMENTAL FROM LSN";
const INCREMENTAL_TIMELINE: &str = "INCREMENTAL FROM TLI";
const LINES: [&str; 9] =
    [START, CHECKPOINT, METHOD, FROM, START_TIME, LABEL, TIMELINE, INCREMENTAL_LSN, INCREMENTAL_TIMELINE];

impl BackupLabel {
    /// Reads the text of a `backup_label` file. Unknown lines are passed over, so that a backup history file, which has
    /// the same lines and a few more, can be read too.
    ///
    /// # Errors
    /// When a line that recovery depends on is missing, malformed or ambiguous.
    pub fn parse(text: &str) -> Result<BackupLabel, BackupLabelError> {
        if text.len() > MAX_BACKUP_LABEL_LENGTH {
            return Err(BackupLabelError::TooLong { length: text.len() });
        }
        let mut found = Lines::default();
        for line in text.split('\n') {
            if let Some((name, value)) = line.split_once(": ") {
                found.keep(name, value)?;
            }
        }
        let start = found.required(START)?;
        let (start_lsn, start_segment_name) = parse_start(start).ok_or_else(|| malformed(START, start))?;
        let incremental_from = match (found.get(INCREMENTAL_LSN), found.get(INCREMENTAL_TIMELINE)) {
            (None, None) => None,
            (Some(lsn), Some(timeline)) => Some(IncrementalFrom {
                lsn: parse_lsn(INCREMENTAL_LSN, lsn)?,
                timeline: parse_timeline(INCREMENTAL_TIMELINE, timeline)?,
            }),
            (None, Some(_)) => return Err(BackupLabelError::Missing { line: INCREMENTAL_LSN }),
            (Some(_), None) => return Err(BackupLabelError::Missing { line: INCREMENTAL_TIMELINE }),
        };
        Ok(BackupLabel {
            start_lsn,
            start_segment_name,
            checkpoint: parse_lsn(CHECKPOINT, found.required(CHECKPOINT)?)?,
            method: found.get(METHOD).unwrap_or_default().to_owned(),
            from_standby: found.get(FROM) == Some("standby"),
            start_time: found.get(START_TIME).unwrap_or_default().to_owned(),
            label: found.get(LABEL).unwrap_or_default().to_owned(),
            start_timeline: parse_timeline(TIMELINE, found.required(TIMELINE)?)?,
            incremental_from,
        })
    }
}

impl fmt::Display for BackupLabel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{START}: {} (file {})", self.start_lsn, self.start_segment_name)?;
        writeln!(f, "{CHECKPOINT}: {}", self.checkpoint)?;
        writeln!(f, "{METHOD}: {}", self.method)?;
        writeln!(f, "{FROM}: {}", if self.from_standby { "standby" } else { "primary" })?;
        writeln!(f, "{START_TIME}: {}", self.start_time)?;
        writeln!(f, "{LABEL}: {}", self.label)?;
        writeln!(f, "{TIMELINE}: {}", self.start_timeline)?;
        if let Some(from) = self.incremental_from {
            writeln!(f, "{INCREMENTAL_LSN}: {}", from.lsn)?;
            writeln!(f, "{INCREMENTAL_TIMELINE}: {}", from.timeline)?;
        }
        Ok(())
    }
}

/// The value of each known line.
#[derive(Default)]
struct Lines<'a>(Vec<(&'static str, &'a str)>);

impl<'a> Lines<'a> {
    fn keep(&mut self, name: &str, value: &'a str) -> Result<(), BackupLabelError> {
        let Some(line) = LINES.iter().copied().find(|known| *known == name) else { return Ok(()) };
        if self.get(line).is_some() {
            return Err(BackupLabelError::Repeated { line });
        }
        self.0.push((line, value));
        Ok(())
    }

    fn get(&self, line: &'static str) -> Option<&'a str> {
        self.0.iter().find(|(name, _)| *name == line).map(|(_, value)| *value)
    }

    fn required(&self, line: &'static str) -> Result<&'a str, BackupLabelError> {
        self.get(line).ok_or(BackupLabelError::Missing { line })
    }
}

fn malformed(line: &'static str, value: &str) -> BackupLabelError {
    BackupLabelError::Malformed { line, value: value.to_owned() }
}

/// `X/X (file <24 letters>)`.
fn parse_start(value: &str) -> Option<(Lsn, String)> {
    let (lsn, file) = value.split_once(' ')?;
    let name = file.strip_prefix("(file ")?.strip_suffix(')')?;
    let well_formed = name.len() == 24 && name.bytes().all(|b| matches!(b, b'0'..=b'9' | b'A'..=b'F'));
    if well_formed { Some((lsn.parse().ok()?, name.to_owned())) } else { None }
}

fn parse_lsn(line: &'static str, value: &str) -> Result<Lsn, BackupLabelError> {
    value.parse().map_err(|_| malformed(line, value))
}

fn parse_timeline(line: &'static str, value: &str) -> Result<TimelineId, BackupLabelError> {
    value.parse().ok().and_then(TimelineId::new).ok_or_else(|| malformed(line, value))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TEXT: &str = "START WAL LOCATION: 7/4A000028 (file 00000002000000070000004A)
CHECKPOINT LOCATION: 7/4A000080
BACKUP METHOD: streamed
BACKUP FROM: standby
START TIME: 2026-11-22 07:34:51 UTC
LABEL: nightly: of main
START TIMELINE: 2
";

    #[test]
    fn every_line_is_read() {
        let label = BackupLabel::parse(TEXT).unwrap();
        assert_eq!(label.start_lsn, Lsn(0x7_4A00_0028));
        assert_eq!(label.start_segment_name, "00000002000000070000004A");
        assert_eq!(label.checkpoint, Lsn(0x7_4A00_0080));
        assert_eq!(label.method, "streamed");
        assert!(label.from_standby);
        assert_eq!(label.start_time, "2026-11-22 07:34:51 UTC");
        assert_eq!(label.label, "nightly: of main");
        assert_eq!(label.start_timeline.get(), 2);
        assert_eq!(label.incremental_from, None);
        assert_eq!(label.to_string(), TEXT);
    }

    #[test]
    fn a_native_incremental_names_what_it_builds_upon() {
        let text = format!("{TEXT}INCREMENTAL FROM LSN: 7/1000028\nINCREMENTAL FROM TLI: 1\n");
        let label = BackupLabel::parse(&text).unwrap();
        let from = IncrementalFrom { lsn: Lsn(0x7_0100_0028), timeline: TimelineId::FIRST };
        assert_eq!(label.incremental_from, Some(from));
        assert_eq!(label.to_string(), text);
        let half = format!("{TEXT}INCREMENTAL FROM LSN: 7/1000028\n");
        assert_eq!(
            BackupLabel::parse(&half),
            Err(BackupLabelError::Missing { line: "INCREMENTAL FROM TLI" })
        );
    }

    #[test]
    fn a_backup_history_file_is_read_as_well() {
        let text = TEXT.replace(
            "CHECKPOINT",
            "STOP WAL LOCATION: 7/4B000120 (file 00000002000000070000004B)\nCHECKPOINT",
        );
        assert!(BackupLabel::parse(&text).is_ok());
    }

    #[test]
    fn lines_that_recovery_needs_must_be_there_once_and_well_formed() {
        for line in [START, CHECKPOINT, TIMELINE] {
            let without: String = TEXT.split_inclusive('\n').filter(|l| !l.starts_with(line)).collect();
            assert_eq!(BackupLabel::parse(&without), Err(BackupLabelError::Missing { line }));
        }
        for (from, to) in [
            ("7/4A000028", "7-4A000028"),
            ("(file ", "file "),
            ("070000004A)", "07000000)"),
            ("4A)\n", "4A)\r\n"),
            ("7/4A000080", "7/4A000080 "),
            ("TIMELINE: 2", "TIMELINE: 0"),
            ("TIMELINE: 2", "TIMELINE: x"),
        ] {
            let text = TEXT.replace(from, to);
            assert!(matches!(BackupLabel::parse(&text), Err(BackupLabelError::Malformed { .. })), "{to:?}");
        }
        let forged = TEXT.replace("of main", "of main\nSTART TIMELINE: 1");
        assert_eq!(BackupLabel::parse(&forged), Err(BackupLabelError::Repeated { line: TIMELINE }));
        let long = "x".repeat(MAX_BACKUP_LABEL_LENGTH + 1);
        assert!(matches!(BackupLabel::parse(&long), Err(BackupLabelError::TooLong { .. })));
    }

    proptest! {
        #[test]
        fn what_is_printed_is_read_back(
            (start, checkpoint, from_standby) in any::<(u64, u64, bool)>(),
            start_segment_name in "[0-9A-F]{24}",
            (method, start_time, label) in ("[a-z_]{0,20}", "[ -~]{0,30}", "[^\n]{0,300}"),
            start_timeline in 1u32..,
            from in prop::option::of((any::<u64>(), 1u32..)),
        ) {
            let label = BackupLabel {
                start_lsn: Lsn(start),
                start_segment_name,
                checkpoint: Lsn(checkpoint),
                method,
                from_standby,
                start_time,
                label,
                start_timeline: TimelineId::new(start_timeline).unwrap(),
                incremental_from: from.map(|(lsn, timeline)| IncrementalFrom {
                    lsn: Lsn(lsn),
                    timeline: TimelineId::new(timeline).unwrap(),
                }),
            };
            prop_assert_eq!(BackupLabel::parse(&label.to_string()), Ok(label));
        }

        #[test]
        fn arbitrary_text_does_no_harm(
            text in "\\PC{0,200}", at in 0..TEXT.len(), replacement in "[A-F0-9/ ():\n]{0,6}",
        ) {
            drop(BackupLabel::parse(&text));
            let (before, after) = TEXT.split_at(at);
            drop(BackupLabel::parse(&format!("{before}{replacement}{after}")));
        }
    }
}
