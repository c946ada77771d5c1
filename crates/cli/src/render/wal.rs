//! What `wal receive` did, as text.

use pgkeep_engine::wal::{ReceiveEnd, ReceiveReport};

/// The report.
pub(crate) fn received(report: &ReceiveReport) -> String {
    let mut text = match report.end {
        ReceiveEnd::Stopped => "stopped",
        ReceiveEnd::Reached => "the position is reached",
        ReceiveEnd::SpoolStored => "the spool is stored",
    }
    .to_owned();
    if let (Some(position), Some(timeline)) = (report.position, report.timeline) {
        text.push_str(&format!(": WAL of timeline {timeline} up to {position} is received"));
    }
    text.push_str(&format!(
        "\n{} segments and {} beginnings of segments stored\n",
        report.segments, report.tails
    ));
    for gap in &report.gaps {
        let after = match &gap.backup {
            Some(id) => format!("backup {id} was taken after it"),
            None => format!("take a backup: `pgkeep backup --stanza {}`", report.stanza),
        };
        text.push_str(&format!(
            "LOST: {} segments on timeline {}, {} to {}; {after}\n",
            gap.segments, gap.timeline, gap.first_missing, gap.last_missing
        ));
    }
    text
}

#[cfg(test)]
mod tests {
    use pgkeep_engine::wal::RecordedGap;

    use super::*;

    #[test]
    fn lost_wal_is_told_with_what_to_do() {
        let gap = RecordedGap {
            timeline: "1".parse::<u32>().ok().and_then(pgkeep_format::TimelineId::new).unwrap(),
            first_missing: "A".to_owned(),
            last_missing: "B".to_owned(),
            segments: 2,
            from_lsn: pgkeep_format::Lsn(1),
            to_lsn: pgkeep_format::Lsn(2),
            noticed: String::new(),
            report: String::new(),
            backup: None,
        };
        let mut report = ReceiveReport {
            stanza: "main".to_owned(),
            slot: None,
            end: ReceiveEnd::Stopped,
            timeline: None,
            position: None,
            segments: 3,
            tails: 1,
            connections: 1,
            gaps: vec![gap],
        };
        assert!(received(&report).contains("LOST: 2 segments on timeline 1, A to B; take a backup"));
        assert!(report.has_open_gap());
        report.gaps[0].backup = Some("000007".to_owned());
        assert!(received(&report).contains("backup 000007 was taken after it"));
        assert!(!report.has_open_gap());
    }
}
