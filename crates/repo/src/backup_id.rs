//! The name of a backup: its epoch, which no other backup of the stanza shares, and when it began.
//!
//! The name is part of every key that the backup writes (`docs/format/overview.md`). Order is by epoch alone, so a
//! clock that jumps back does not change which backup is the newest.

use std::fmt;
use std::str::FromStr;

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::key;

/// `<epoch>-<YYYYMMDDTHHMMSSZ>`, as in `000042-20261122T093000Z`.
///
/// Ordered by epoch: a clock that was set back cannot put a newer backup before an older one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BackupId {
    epoch: u32,
    /// Seconds since 1970; within the years 1 to 9999.
    started: i64,
}

const TIME_FORMAT: &str = "%Y%m%dT%H%M%SZ";

impl BackupId {
    /// The id of the backup with this epoch that began at this moment.
    #[must_use]
    pub fn new(epoch: u32, started: Timestamp) -> BackupId {
        BackupId { epoch, started: started.as_second() }
    }

    /// The number that no other backup of the stanza has; later backups have larger ones.
    #[must_use]
    pub fn epoch(self) -> u32 {
        self.epoch
    }

    /// When the backup began, to the second, by the clock of the machine that made it.
    #[must_use]
    pub fn started(self) -> Timestamp {
        Timestamp::from_second(self.started).unwrap_or(Timestamp::UNIX_EPOCH)
    }
}

impl fmt::Display for BackupId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:06}-{}", self.epoch, self.started().to_zoned(TimeZone::UTC).strftime(TIME_FORMAT))
    }
}

impl fmt::Debug for BackupId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The text is not the id of a backup.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not the id of a backup (expected one such as `000042-20261122T093000Z`)")]
pub struct ParseBackupIdError(pub String);

impl FromStr for BackupId {
    type Err = ParseBackupIdError;

    fn from_str(text: &str) -> Result<BackupId, ParseBackupIdError> {
        let parse = || {
            let (epoch, time) = text.split_once('-')?;
            let epoch = key::parse_number(epoch, 6).filter(|epoch| *epoch != 0)?;
            let time = DateTime::strptime(TIME_FORMAT, time).ok()?.to_zoned(TimeZone::UTC).ok()?.timestamp();
            let id = BackupId::new(epoch, time);
            (id.to_string() == text).then_some(id)
        };
        parse().ok_or_else(|| ParseBackupIdError(text.to_owned()))
    }
}

impl Serialize for BackupId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for BackupId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_survives_a_round_trip() {
        let id = BackupId::new(42, "2026-11-22T09:30:00.75Z".parse().unwrap());
        assert_eq!(id.to_string(), "000042-20261122T093000Z");
        assert_eq!(id.to_string().parse(), Ok(id));
        assert_eq!("1234567-20261122T093000Z".parse::<BackupId>().unwrap().epoch(), 1_234_567);
    }

    #[test]
    fn there_is_one_spelling() {
        for text in [
            "",
            "000042",
            "42-20261122T093000Z",
            "000000-20261122T093000Z",
            "0000042-20261122T093000Z",
            "000042-20261122T0930Z",
            "000042-20261322T093000Z",
            "000042-20261122T093000",
            "000042-20261122T093000Z ",
            "000042-2026112 T093000Z",
            "../000042-20261122T093000Z",
        ] {
            assert!(text.parse::<BackupId>().is_err(), "{text}");
        }
    }

    #[test]
    fn the_epoch_orders_whatever_the_clock_said() {
        let early = BackupId::new(7, "2030-01-01T00:00:00Z".parse().unwrap());
        let late = BackupId::new(8, "2020-01-01T00:00:00Z".parse().unwrap());
        assert!(early < late);
    }
}
