//! What a chain is checked by in `backup_label`, and the label of the result.
//!
//! A server refuses to start from a label that names what an incremental builds upon, so these lines go.

use pgkeep_format::{Lsn, TimelineId};

const START_LSN: &str = "START WAL LOCATION";
const START_TIMELINE: &str = "START TIMELINE";
const FROM_LSN: &str = "INCREMENTAL FROM LSN";
const FROM_TIMELINE: &str = "INCREMENTAL FROM TLI";

/// Where a backup begins, and where the one that it builds upon does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ChainLink {
    pub(super) start: (TimelineId, Lsn),
    /// None for a full backup.
    pub(super) previous: Option<(TimelineId, Lsn)>,
}

/// Reads a label.
///
/// # Errors
/// In stock's words, without the name of the file.
pub(super) fn parse(label: &[u8]) -> Result<ChainLink, String> {
    let text = String::from_utf8_lossy(label);
    let (mut start, mut start_timeline, mut from, mut from_timeline) = (None, None, None, None);
    for line in text.split_inclusive('\n') {
        let Some((name, value)) = line.split_once(": ") else { continue };
        match name {
            START_LSN => {
                let (lsn, _) =
                    value.split_once(' ').ok_or_else(|| format!("improper terminator for {START_LSN}"))?;
                start = Some(lsn_of(lsn, START_LSN)?);
            }
            START_TIMELINE => start_timeline = Some(timeline_of(value, "TLI for START TIMELINE")?),
            FROM_LSN => {
                let lsn =
                    value.strip_suffix('\n').ok_or_else(|| format!("improper terminator for {FROM_LSN}"))?;
                from = Some(lsn_of(lsn, FROM_LSN)?);
            }
            FROM_TIMELINE => from_timeline = Some(timeline_of(value, FROM_TIMELINE)?),
            _ => {}
        }
    }
    let start = start.ok_or_else(|| format!("could not find {START_LSN}"))?;
    let start_timeline = start_timeline.ok_or_else(|| format!("could not find {START_TIMELINE}"))?;
    let previous = match (from_timeline, from) {
        (None, None) => None,
        (Some(timeline), Some(lsn)) => Some((timeline, lsn)),
        (None, Some(_)) => return Err(format!("{FROM_LSN} requires {FROM_TIMELINE}")),
        (Some(_), None) => return Err(format!("{FROM_TIMELINE} requires {FROM_LSN}")),
    };
    Ok(ChainLink { start: (start_timeline, start), previous })
}

/// The label of a full backup: without the lines of an incremental.
pub(super) fn of_full_backup(label: &[u8]) -> Vec<u8> {
    let is_incremental = |line: &&[u8]| {
        [FROM_LSN, FROM_TIMELINE]
            .iter()
            .any(|name| line.strip_prefix(name.as_bytes()).is_some_and(|rest| rest.starts_with(b": ")))
    };
    label
        .split_inclusive(|byte| *byte == b'\n')
        .filter(|line| !is_incremental(line))
        .flatten()
        .copied()
        .collect()
}

fn lsn_of(text: &str, what: &str) -> Result<Lsn, String> {
    text.parse().map_err(|_| format!("could not parse {what}"))
}

fn timeline_of(text: &str, what: &str) -> Result<TimelineId, String> {
    let number = text.strip_suffix('\n').and_then(|text| text.parse().ok());
    let number: u32 = number.ok_or_else(|| format!("could not parse {what}"))?;
    TimelineId::new(number).ok_or_else(|| "invalid TLI".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const FULL: &str =
        "START WAL LOCATION: 0/4000028 (file 000000010000000000000004)\nLABEL: x\nSTART TIMELINE: 1\n";

    #[test]
    fn a_full_and_an_incremental_backup() {
        let full = parse(FULL.as_bytes()).unwrap();
        assert_eq!(full, ChainLink { start: (TimelineId::FIRST, Lsn(0x400_0028)), previous: None });
        let text = format!("{FULL}INCREMENTAL FROM LSN: 0/2000028\nINCREMENTAL FROM TLI: 1\n");
        let incremental = parse(text.as_bytes()).unwrap();
        assert_eq!(incremental.previous, Some((TimelineId::FIRST, Lsn(0x200_0028))));
        assert_eq!(of_full_backup(text.as_bytes()), FULL.as_bytes());
        assert_eq!(of_full_backup(FULL.as_bytes()), FULL.as_bytes());
    }

    #[test]
    fn malformed_labels_are_told_in_stocks_words() {
        for (text, expected) in [
            ("", "could not find START WAL LOCATION"),
            ("START WAL LOCATION: 0/4\n", "improper terminator for START WAL LOCATION"),
            ("START WAL LOCATION: x (\n", "could not parse START WAL LOCATION"),
            ("START WAL LOCATION: 0/4 (\n", "could not find START TIMELINE"),
            ("START TIMELINE: 1 \n", "could not parse TLI for START TIMELINE"),
            ("START TIMELINE: 0\n", "invalid TLI"),
        ] {
            assert_eq!(parse(text.as_bytes()).unwrap_err(), expected);
        }
        let half = format!("{FULL}INCREMENTAL FROM LSN: 0/2000028\n");
        assert_eq!(parse(half.as_bytes()).unwrap_err(), "INCREMENTAL FROM LSN requires INCREMENTAL FROM TLI");
        let half = format!("{FULL}INCREMENTAL FROM TLI: 2\n");
        assert_eq!(parse(half.as_bytes()).unwrap_err(), "INCREMENTAL FROM TLI requires INCREMENTAL FROM LSN");
    }
}
