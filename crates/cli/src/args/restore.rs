//! `pgkeep restore`.
//!
//! What the grammar can refuse is refused here: two targets at once, an exclusive target without a moment, an action
//! without a target. Times stay text: reading them takes the cluster's time zone.

use std::path::PathBuf;

use clap::{ArgGroup, Args};
use pgkeep_engine::restore::{RecoveryTarget, TargetAction, TargetTimeline};
use pgkeep_engine::{Error, ErrorKind, Lsn, Result, TimelineId};

use super::target::TargetChoice;
use crate::config::Flag;

const EXAMPLES: &str = "\
Examples:
  pgkeep restore --repo /srv/backup /srv/restored
  pgkeep restore --repo /srv/backup --target-time '2026-11-22 10:29:59+01' --dry-run /srv/restored
  pgkeep restore --repo /srv/backup --target-xid 81734 --target-exclusive /srv/restored
  pgkeep restore --repo /srv/backup --target-name before_release --target-action promote /srv/new
  pgkeep restore --repo /srv/backup --tablespace-map /mnt/fast=/srv/fast --set port=5433 /srv/new
  pgkeep restore --repo /srv/backup --delta --dry-run /var/lib/postgresql/18/main

Nothing is written before the target is proved to be reachable. A time without a zone is read in
your time zone; the plan shows it in UTC. With --delta, blocks that are right already stay, and all
that is not in the backup is removed from DIR and from its tablespaces; --dry-run shows what.";

/// Options of `restore`.
#[derive(Args, Debug)]
#[command(
    after_help = EXAMPLES,
    group = ArgGroup::new("recovery target").args(["target_time", "target_lsn", "target_xid", "target_name", "target"])
)]
pub(crate) struct RestoreArgs {
    /// Data directory to make: absent or empty, unless --delta
    #[arg(value_name = "DIR")]
    pub(crate) destination: PathBuf,
    /// Backup to start from [default: the best one for the target]
    #[arg(long, value_name = "ID")]
    pub(crate) backup: Option<String>,
    /// Reuse the files of a former cluster in DIR, or finish a restore there
    #[arg(long)]
    pub(crate) delta: bool,
    /// Worker threads [default: one per processor]
    #[arg(short, long, value_name = "N")]
    jobs: Option<String>,
    /// Only prove the target and say what would be done
    #[arg(long)]
    pub(crate) dry_run: bool,

    /// Up to the last transaction committed at this time
    #[arg(long, value_name = "TIME", help_heading = "Recovery target")]
    target_time: Option<String>,
    /// Up to this WAL position
    #[arg(long, value_name = "LSN", help_heading = "Recovery target")]
    target_lsn: Option<Lsn>,
    /// Up to the end of this transaction
    #[arg(long, value_name = "XID", help_heading = "Recovery target")]
    target_xid: Option<u64>,
    /// Up to this restore point
    #[arg(long, value_name = "NAME", help_heading = "Recovery target")]
    target_name: Option<String>,
    /// Only until consistent, or up to the end of the archive [default: latest]
    #[arg(long, value_name = "WHAT", value_parser = ["immediate", "latest"], help_heading = "Recovery target")]
    target: Option<String>,
    /// Stop just before the target, not just after
    #[arg(long, help_heading = "Recovery target")]
    pub(crate) target_exclusive: bool,
    /// Timeline to follow: latest, current or a number [default: latest]
    #[arg(long, value_name = "TIMELINE", value_parser = timeline, help_heading = "Recovery target")]
    target_timeline: Option<TargetTimeline>,
    /// What the server does at the target [default: pause]
    #[arg(long, value_name = "ACTION", value_parser = ["pause", "promote", "shutdown"], help_heading = "Recovery target")]
    target_action: Option<String>,

    /// Move a tablespace; may be repeated
    #[arg(long, value_name = "OLD=NEW", value_parser = tablespace, help_heading = "What is made")]
    pub(crate) tablespace_map: Vec<(String, PathBuf)>,
    /// Make a standby
    #[arg(long, help_heading = "What is made")]
    pub(crate) standby: bool,
    /// Stream from this primary, with the archive to fall back on; no password is written
    #[arg(long, value_name = "CONNINFO", requires = "standby", help_heading = "What is made")]
    pub(crate) primary: Option<String>,
    /// Stream through this slot of the primary
    #[arg(long, value_name = "NAME", requires = "primary", help_heading = "What is made")]
    pub(crate) slot: Option<String>,
    /// Add a line to postgresql.auto.conf; may be repeated
    #[arg(long, value_name = "NAME=VALUE", value_parser = setting, help_heading = "What is made")]
    pub(crate) set: Vec<(String, String)>,
    /// Put configuration files that lay outside the data directory here
    #[arg(long, value_name = "DIR", help_heading = "What is made")]
    pub(crate) external_config: Option<PathBuf>,
}

impl RestoreArgs {
    /// The settings that these options override.
    pub(crate) fn flags(&self) -> Vec<Flag> {
        Flag::given([("restore.jobs", "--jobs", &self.jobs)])
    }

    /// The target; the grammar lets at most one be given.
    pub(crate) fn recovery_target(&self) -> Result<RecoveryTarget> {
        let target = TargetChoice {
            time: self.target_time.as_deref(),
            lsn: self.target_lsn,
            xid: self.target_xid,
            name: self.target_name.as_deref(),
            immediate: self.target.as_deref() == Some("immediate"),
            exclusive: self.target_exclusive,
        }
        .read()?;
        if self.target_action.is_some() && target == RecoveryTarget::Latest {
            return Err(Error::new(ErrorKind::Usage, "`--target-action` needs a recovery target")
                .cause("without one the server replays all of the archive and then becomes a primary")
                .hint("add `--target-time`, `--target-lsn`, `--target-xid`, `--target-name` or `--target immediate`"));
        }
        Ok(target)
    }

    /// Which timeline to follow.
    pub(crate) fn timeline(&self) -> TargetTimeline {
        self.target_timeline.unwrap_or_default()
    }

    /// What the server does at the target.
    pub(crate) fn action(&self) -> Option<TargetAction> {
        self.target_action.as_deref().map(|action| match action {
            "promote" => TargetAction::Promote,
            "shutdown" => TargetAction::Shutdown,
            _ => TargetAction::Pause,
        })
    }
}

pub(super) fn timeline(text: &str) -> Result<TargetTimeline, String> {
    match text {
        "latest" => Ok(TargetTimeline::Latest),
        "current" => Ok(TargetTimeline::Current),
        // PostgreSQL also takes a hexadecimal number, as file names show it.
        _ => match text.strip_prefix("0x") {
            Some(digits) => u32::from_str_radix(digits, 16).ok(),
            None => text.parse().ok(),
        }
        .and_then(TimelineId::new)
        .map(TargetTimeline::Number)
        .ok_or_else(|| "expected `latest`, `current` or the number of a timeline".to_owned()),
    }
}

/// Splits at the first `=` that no backslash precedes, as `pg_basebackup --tablespace-mapping` does.
pub(super) fn tablespace(text: &str) -> Result<(String, PathBuf), String> {
    let mut sides = [String::new(), String::new()];
    let mut side = 0;
    let mut characters = text.chars().peekable();
    while let Some(character) = characters.next() {
        match character {
            '\\' if characters.peek() == Some(&'=') => {
                sides[side].push('=');
                characters.next();
            }
            '=' if side == 0 => side = 1,
            '=' => return Err("more than one `=`; write `\\=` for one that belongs to a path".to_owned()),
            other => sides[side].push(other),
        }
    }
    let [old, new] = sides;
    if old.is_empty() || new.is_empty() {
        return Err("expected OLD=NEW".to_owned());
    }
    if !new.starts_with('/') {
        return Err("the new place must be an absolute path".to_owned());
    }
    Ok((old, PathBuf::from(new)))
}

pub(super) fn setting(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("expected NAME=VALUE")?;
    let name = name.trim();
    let first_is_letter = name.bytes().next().is_some_and(|byte| byte.is_ascii_alphabetic() || byte == b'_');
    if !first_is_letter || !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_.$".contains(&byte)) {
        return Err("expected the name of a server setting before `=`".to_owned());
    }
    if value.contains(['\n', '\r', '\0']) {
        return Err("a value must be one line".to_owned());
    }
    Ok((name.to_owned(), value.trim().to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tablespace_is_split_at_the_first_bare_equals_sign() {
        assert_eq!(tablespace(r"/a\=b=/c\=d"), Ok(("/a=b".to_owned(), PathBuf::from("/c=d"))));
        assert_eq!(tablespace(r"/a\b=/c"), Ok((r"/a\b".to_owned(), PathBuf::from("/c"))));
        for bad in ["", "/a", "/a=", "=/b", "/a=b", "/a=/b=/c"] {
            assert!(tablespace(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_timeline_is_a_word_or_a_number_above_zero() {
        assert_eq!(timeline("latest"), Ok(TargetTimeline::Latest));
        assert_eq!(timeline("12"), Ok(TargetTimeline::Number(TimelineId::new(12).unwrap())));
        assert_eq!(timeline("0x1A"), Ok(TargetTimeline::Number(TimelineId::new(26).unwrap())));
        for bad in ["", "0", "-1", "newest", "4294967296"] {
            assert!(timeline(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_server_setting_has_a_plain_name_and_one_line() {
        assert_eq!(setting("port = 5433"), Ok(("port".to_owned(), "5433".to_owned())));
        assert_eq!(setting("a.b="), Ok(("a.b".to_owned(), String::new())));
        for bad in ["port", "=1", "po rt=1", "1a=1", "a=1\nb=2"] {
            assert!(setting(bad).is_err(), "{bad}");
        }
    }
}
