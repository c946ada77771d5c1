//! Times as stock writes them: local, with the zone's abbreviation.

use jiff::Zoned;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use pgkeep_format::archive::LocalTime;

const FORMAT: &str = "%Y-%m-%d %H:%M:%S %Z";

/// The time in a header, taken as a time of this machine's zone: archives do not tell theirs.
pub(crate) fn stamp(time: &LocalTime) -> String {
    let civil = || -> Option<DateTime> {
        DateTime::new(
            i16::try_from(time.year_since_1900.checked_add(1900)?).ok()?,
            i8::try_from(time.month0.checked_add(1)?).ok()?,
            i8::try_from(time.day).ok()?,
            i8::try_from(time.hour).ok()?,
            i8::try_from(time.minute).ok()?,
            i8::try_from(time.second.min(59)).ok()?,
            0,
        )
        .ok()
    };
    let zoned = civil().and_then(|civil| civil.to_zoned(TimeZone::system()).ok());
    zoned.map_or_else(|| "[unknown]".to_owned(), |zoned| zoned.strftime(FORMAT).to_string())
}

/// This moment.
pub(crate) fn now() -> String {
    Zoned::now().strftime(FORMAT).to_string()
}
