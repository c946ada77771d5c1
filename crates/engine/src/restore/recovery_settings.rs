//! The lines that make the server recover up to the target, and the file that they are put into.
//!
//! Settings are those of PostgreSQL 13 to 18 (`utils/misc/guc_tables.c`). At most one target may be set: the server
//! refuses to start with two, and an empty one clears no other. So what a former recovery left in
//! `postgresql.auto.conf` is dropped before the new lines are added.

use super::{RecoveryTarget, TargetAction, TargetTimeline};

/// What recovery is told.
#[derive(Clone, Debug)]
pub struct RecoveryOrder<'a> {
    /// How it gets WAL.
    pub restore_command: &'a str,
    /// Up to where.
    pub target: &'a RecoveryTarget,
    /// The moment with its offset, for a time target.
    pub target_time: Option<&'a str>,
    /// Stop before instead of after.
    pub exclusive: bool,
    /// Which timeline.
    pub timeline: TargetTimeline,
    /// What then.
    pub action: Option<TargetAction>,
    /// A standby follows for ever.
    pub standby: bool,
    /// The server may ask for WAL beyond the target while it replays towards it. Where that WAL is missing from the middle
    /// of the archive, the answer would end recovery with an error before the target is reached.
    pub read_ahead: bool,
    /// The user's own lines; they come last and win.
    pub settings: &'a [(String, String)],
}

/// The settings, in the order in which they are written.
pub fn recovery_settings(order: &RecoveryOrder<'_>) -> Vec<(String, String)> {
    let mut lines = Vec::new();
    let mut set = |name: &str, value: &str| lines.push((name.to_owned(), value.to_owned()));
    set("restore_command", order.restore_command);
    match order.target {
        RecoveryTarget::Latest => {}
        RecoveryTarget::Immediate => set("recovery_target", "immediate"),
        RecoveryTarget::Time(_) => set("recovery_target_time", order.target_time.unwrap_or_default()),
        RecoveryTarget::Lsn(lsn) => set("recovery_target_lsn", &lsn.to_string()),
        RecoveryTarget::Xid(xid) => set("recovery_target_xid", &xid.to_string()),
        RecoveryTarget::Name(name) => set("recovery_target_name", name),
    }
    set("recovery_target_inclusive", if order.exclusive { "off" } else { "on" });
    let timeline = match order.timeline {
        TargetTimeline::Latest => "latest".to_owned(),
        TargetTimeline::Current => "current".to_owned(),
        TargetTimeline::Number(number) => number.to_string(),
    };
    set("recovery_target_timeline", &timeline);
    if !order.read_ahead && !order.standby {
        set("recovery_prefetch", "off");
    }
    if !order.standby {
        let action = order.action.unwrap_or_default();
        set(
            "recovery_target_action",
            match action {
                TargetAction::Pause => "pause",
                TargetAction::Promote => "promote",
                TargetAction::Shutdown => "shutdown",
            },
        );
    }
    lines.extend(order.settings.iter().cloned());
    lines
}

/// `postgresql.auto.conf` with those settings after what it held: the last line of a name is the one that counts.
///
/// A former recovery may have left its own target there. The server takes one target only, and an empty one does not clear
/// another; so every line of recovery is dropped first.
pub fn replace_settings(before: &str, settings: &[(String, String)], heading: &str) -> String {
    let is_former = |line: &&str| {
        let name =
            line.trim_start().split(|c: char| c == '=' || c.is_whitespace()).next().unwrap_or_default();
        name.starts_with("recovery_target") || settings.iter().any(|(new, _)| new.eq_ignore_ascii_case(name))
    };
    let mut text = String::with_capacity(before.len());
    for line in before.lines().filter(|line| !is_former(line)) {
        text.push_str(line);
        text.push('\n');
    }
    text.push_str("# ");
    text.push_str(heading);
    text.push('\n');
    for (name, value) in settings {
        text.push_str(name);
        text.push_str(" = '");
        for letter in value.chars() {
            match letter {
                '\'' => text.push_str("''"),
                '\\' => text.push_str("\\\\"),
                '\n' => text.push_str("\\n"),
                other => text.push(other),
            }
        }
        text.push_str("'\n");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_quoted_as_the_server_reads_them() {
        let text = replace_settings("a = 1", &[("restore_command".into(), "x 'y' \\z".into())], "by a test");
        assert_eq!(text, "a = 1\n# by a test\nrestore_command = 'x ''y'' \\\\z'\n");
    }

    #[test]
    fn exactly_one_target_is_set_and_a_former_one_is_dropped() {
        let target = RecoveryTarget::Xid(77);
        let order = RecoveryOrder {
            restore_command: "c",
            target: &target,
            target_time: None,
            exclusive: true,
            timeline: TargetTimeline::Latest,
            action: Some(TargetAction::Promote),
            standby: false,
            read_ahead: false,
            settings: &[],
        };
        let lines = recovery_settings(&order);
        assert!(lines.contains(&("recovery_prefetch".to_owned(), "off".to_owned())));
        let value = |name: &str| lines.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str());
        assert_eq!(value("recovery_target_xid"), Some("77"));
        assert_eq!(value("recovery_target_lsn"), None);
        let before = "port = 1\nrecovery_target_time = 'x'\nrestore_command='old'\n";
        let text = replace_settings(before, &lines, "by a test");
        assert!(text.starts_with("port = 1\n# by a test\nrestore_command = 'c'\n"), "{text}");
        assert!(!text.contains("recovery_target_time ="), "{text}");
        assert_eq!(value("recovery_target_inclusive"), Some("off"));
        assert_eq!(value("recovery_target_action"), Some("promote"));
    }
}
