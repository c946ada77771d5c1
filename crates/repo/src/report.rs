//! Reports of what was done, kept as `<stanza>/report/<time>-<verb>-<random>.json` so that any machine can show them.
//! Names carry microseconds, so that those which one machine writes sort by time; nothing that matters may rest upon that
//! order all the same, for machines' clocks differ.
//!
//! Written once, like everything; nothing depends on them, and one that is missing is no damage.

use jiff::Timestamp;
use jiff::tz::TimeZone;

use crate::digest::{random, to_hex};
use crate::error::Result;
use crate::stanza::Stanza;
use crate::{RepoError, key};

/// The longest report that is read.
const MAX_REPORT: u64 = 256 << 20;

/// How times are written in names; a reader takes whole seconds too.
const TIME: &str = "%Y%m%dT%H%M%S.%6f";
const TIME_OR_SECONDS: &str = "%Y%m%dT%H%M%S%.f";

/// The name of a stored report: `<YYYYMMDDTHHMMSS.ffffffZ>-<verb>-<random>.json`. Names sort by time.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ReportName(String);

impl ReportName {
    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// When it was written, by the clock of the machine that wrote it; none for a name that pgkeep did not give.
    #[must_use]
    pub fn time(&self) -> Option<Timestamp> {
        let time = self.0.split_once('-')?.0.strip_suffix('Z')?;
        let time = jiff::civil::DateTime::strptime(TIME_OR_SECONDS, time).ok()?;
        Some(time.to_zoned(TimeZone::UTC).ok()?.timestamp())
    }

    /// What was done; none for a name that pgkeep did not give.
    #[must_use]
    pub fn verb(&self) -> Option<&str> {
        Some(self.0.split_once('-')?.1.rsplit_once('-')?.0)
    }
}

impl Stanza {
    /// Stores a report, durably.
    ///
    /// # Errors
    /// [`RepoError::Unrepresentable`] where the verb is not plain letters, or when the storage fails.
    pub fn put_report(&self, now: Timestamp, verb: &str, json: Vec<u8>) -> Result<ReportName> {
        let time = now.to_zoned(TimeZone::UTC).strftime(TIME);
        let name = format!("{time}Z-{verb}-{}.json", to_hex(&random::<4>()?));
        if !key::is_valid_part(&name) {
            return Err(RepoError::unrepresentable(format!("a report of `{verb}`")));
        }
        let key = format!("{}/report/{name}", self.name());
        if self.repository().store().put_new(&key, json)? {
            Ok(ReportName(name))
        } else {
            Err(RepoError::AlreadyExists { key })
        }
    }

    /// The names of all reports, oldest first.
    ///
    /// # Errors
    /// When the storage fails.
    pub fn reports(&self) -> Result<Vec<ReportName>> {
        let names = self.repository().store().list_names(&format!("{}/report", self.name()))?;
        Ok(names.into_iter().filter(|name| name.ends_with(".json")).map(ReportName).collect())
    }

    /// A stored report.
    ///
    /// # Errors
    /// [`RepoError::NotFound`], [`RepoError::Corrupt`] where it is longer than any report, or when the storage fails.
    pub fn report(&self, name: &ReportName) -> Result<Vec<u8>> {
        let key = format!("{}/report/{}", self.name(), name.as_str());
        if let Some(size) = self.repository().store().head(&key)?.filter(|size| *size > MAX_REPORT) {
            return Err(RepoError::corrupt(key, size, "it is longer than any report"));
        }
        Ok(self.repository().store().get(&key)?.into())
    }
}
