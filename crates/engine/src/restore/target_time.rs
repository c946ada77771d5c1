//! Reads the moment that a user means by `--target-time`.
//!
//! A time with a zone always means one moment; PostgreSQL's spellings are understood (`+00`, `+05:30`, `Z`, `UTC`,
//! `Europe/Berlin` after a blank). A time without a zone is ambiguous by nature: the user may mean his own clock or the
//! server's. Where both give the same moment it is taken, where they differ it is refused with both readings, since a
//! recovery that stops an hour off is a data loss that looks like success.

use jiff::civil;
use jiff::tz::{Offset, TimeZone};
use jiff::{SignedDuration, Timestamp};

use crate::error::{Error, ErrorKind, Result};

/// Microseconds from 1970 to 2000, the epoch of PostgreSQL's time stamps.
const POSTGRES_EPOCH_MICROSECONDS: i64 = 946_684_800_000_000;

/// Letters of `2026-11-20`.
const DATE_LENGTH: usize = 10;

/// A moment, and how it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TargetTime {
    /// The moment.
    pub moment: Timestamp,
    /// How it was read, in words: "2026-11-20 10:00:00 in Europe/Berlin, 2026-11-20 09:00:00+00 in UTC".
    pub reading: String,
}

impl TargetTime {
    /// Microseconds since 2000-01-01 UTC, as WAL has it.
    pub fn postgres_microseconds(&self) -> i64 {
        self.moment.as_microsecond() - POSTGRES_EPOCH_MICROSECONDS
    }

    /// As `recovery_target_time` takes it, with the offset that makes the server's own zone irrelevant.
    pub fn as_setting(&self) -> String {
        show_utc(self.moment)
    }
}

/// A moment in UTC as PostgreSQL writes it: `2026-11-20 09:00:00.25+00`.
pub fn show_utc(moment: Timestamp) -> String {
    let time = Offset::UTC.to_datetime(moment);
    let mut text = time.strftime("%Y-%m-%d %H:%M:%S").to_string();
    let micros = time.subsec_nanosecond() / 1000;
    if micros != 0 {
        text.push_str(format!(".{micros:06}").trim_end_matches('0'));
    }
    text.push_str("+00");
    text
}

/// The moment that many microseconds after 2000-01-01 UTC.
pub fn from_postgres(microseconds: i64) -> Option<Timestamp> {
    Timestamp::from_microsecond(microseconds.checked_add(POSTGRES_EPOCH_MICROSECONDS)?).ok()
}

/// Reads `text`; `caller` and `cluster` are the zones that a time without one may mean.
pub fn read_target_time(text: &str, caller: &str, cluster: &str) -> Result<TargetTime> {
    let text = text.trim();
    let (civil_text, zone_text) = split_zone(text);
    let time = read_civil(civil_text).ok_or_else(|| unreadable(text))?;
    if let Some(zone_text) = zone_text {
        let zone = read_zone(zone_text).ok_or_else(|| {
            Error::new(
                ErrorKind::Usage,
                format!("`{zone_text}` in `{text}` is not a time zone that pgkeep knows"),
            )
            .hint("give an offset, as in `2026-11-20 09:00:00+00`, or a name such as `Europe/Berlin`")
        })?;
        let moment = to_moment(time, &zone, text)?;
        let reading = if zone_text.eq_ignore_ascii_case("utc") || show_utc(moment) == text {
            show_utc(moment)
        } else {
            format!("{text}, which is {}", show_utc(moment))
        };
        return Ok(TargetTime { moment, reading });
    }
    let mut readings = Vec::new();
    for (whose, name) in [("your", caller), ("the cluster's", cluster)] {
        let zone = read_zone(name).ok_or_else(|| {
            Error::new(ErrorKind::Usage, format!("{whose} time zone `{name}` is not known here"))
                .hint(format!("give the time with an offset, as in `{civil_text}+00`"))
        })?;
        readings.push((whose, name, to_moment(time, &zone, text)?));
    }
    let (_, name, moment) = readings[0];
    if readings[1].2 != moment {
        let mut error = Error::new(ErrorKind::Usage, format!("`{text}` names two different moments"));
        for (whose, name, moment) in &readings {
            error = error.cause(format!("in {whose} time zone {name} it is {}", show_utc(*moment)));
        }
        return Err(error.hint(format!(
            "say which one: `--target-time '{}'` or `--target-time '{}'`",
            show_utc(readings[0].2),
            show_utc(readings[1].2)
        )));
    }
    Ok(TargetTime { moment, reading: format!("{text} in {name}, which is {}", show_utc(moment)) })
}

fn unreadable(text: &str) -> Error {
    Error::new(ErrorKind::Usage, format!("`{text}` is not a time"))
        .hint("write it as `2026-11-20 09:00:00+00`; relative words such as `yesterday` are refused")
}

/// Divides `2026-11-20 09:00:00.5+01:00` and `2026-11-20 09:00 Europe/Berlin` into the time and the zone.
fn split_zone(text: &str) -> (&str, Option<&str>) {
    if let Some(stem) = text.strip_suffix(['Z', 'z'])
        && stem.ends_with(|c: char| c.is_ascii_digit())
    {
        return (stem, Some("UTC"));
    }
    // A zone's name begins with a letter that is not the T between date and time.
    if let Some(at) = text
        .find(' ')
        .and_then(|first| text[first..].find(|c: char| c.is_ascii_alphabetic()).map(|letter| first + letter))
    {
        return (text[..at].trim_end(), Some(&text[at..]));
    }
    // An offset follows the seconds; the dashes of the date come before the colon or the T.
    let time_from = text.find(['T', 't', ' ']).unwrap_or(DATE_LENGTH);
    if let Some(at) = text.get(time_from..).and_then(|rest| rest.find(['+', '-'])) {
        let at = time_from + at;
        return (text[..at].trim_end(), Some(&text[at..]));
    }
    (text, None)
}

fn read_civil(text: &str) -> Option<civil::DateTime> {
    let text = text.trim();
    if let Ok(date) = civil::Date::strptime("%Y-%m-%d", text) {
        return Some(date.to_datetime(civil::Time::midnight()));
    }
    for format in
        ["%Y-%m-%d %H:%M:%S%.f", "%Y-%m-%dT%H:%M:%S%.f", "%Y-%m-%d %H:%M", "%Y-%m-%dT%H:%M", "%Y%m%dT%H%M%S"]
    {
        if let Ok(time) = civil::DateTime::strptime(format, text) {
            return Some(time);
        }
    }
    None
}

fn read_zone(text: &str) -> Option<TimeZone> {
    if let Some(sign) = text.chars().next().filter(|c| matches!(c, '+' | '-')) {
        let digits: Vec<&str> = match text[1..].split(':').collect::<Vec<_>>() {
            parts if parts.len() > 1 => parts,
            parts if parts[0].len() == 4 => vec![parts[0].get(..2)?, parts[0].get(2..)?],
            parts => parts,
        };
        if digits.len() > 3 || digits.iter().any(|part| part.is_empty() || part.len() > 2) {
            return None;
        }
        let mut seconds = 0_i32;
        for (part, unit) in digits.iter().zip([3600, 60, 1]) {
            if !part.bytes().all(|b| b.is_ascii_digit()) {
                return None;
            }
            seconds += part.parse::<i32>().ok()? * unit;
        }
        let seconds = if sign == '-' { -seconds } else { seconds };
        return Offset::from_seconds(seconds).ok().map(TimeZone::fixed);
    }
    if ["utc", "gmt", "zulu", "z", "etc/utc"].iter().any(|name| text.eq_ignore_ascii_case(name)) {
        return Some(TimeZone::UTC);
    }
    TimeZone::get(text).ok()
}

fn to_moment(time: civil::DateTime, zone: &TimeZone, text: &str) -> Result<Timestamp> {
    let ambiguous = zone.to_ambiguous_zoned(time);
    if ambiguous.is_ambiguous() {
        return Err(Error::new(
            ErrorKind::Usage,
            format!("`{text}` falls into the hour in which the clocks change: it names no moment or two"),
        )
        .hint("give the time with an offset, as in `2026-10-25 02:30:00+01`"));
    }
    ambiguous.unambiguous().map(|zoned| zoned.timestamp()).map_err(|_| unreadable(text))
}

/// `moment` less one microsecond, the step of PostgreSQL's clock.
pub fn just_before(moment: Timestamp) -> Timestamp {
    moment.checked_sub(SignedDuration::from_micros(1)).unwrap_or(moment)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn utc(text: &str) -> String {
        show_utc(read_target_time(text, "Europe/Berlin", "America/New_York").unwrap().moment)
    }

    #[test]
    fn a_time_with_a_zone_is_one_moment_in_every_spelling() {
        for text in [
            "2026-11-20 09:00:00+00",
            "2026-11-20 09:00:00Z",
            "2026-11-20T09:00:00Z",
            "2026-11-20 10:00:00+01",
            "2026-11-20 10:00:00 +01:00",
            "2026-11-20 14:30:00+0530",
            "2026-11-20 04:00:00-05",
            "2026-11-20 10:00:00 Europe/Berlin",
            "2026-11-20 09:00:00 UTC",
            "2026-11-20 09:00 UTC",
            "20261120T090000Z",
        ] {
            assert_eq!(utc(text), "2026-11-20 09:00:00+00", "{text}");
        }
        assert_eq!(utc("2026-11-20 09:00:00.250000+00"), "2026-11-20 09:00:00.25+00");
        assert_eq!(utc("2026-11-20+00"), "2026-11-20 00:00:00+00");
    }

    #[test]
    fn a_time_without_a_zone_is_taken_only_where_both_readings_agree() {
        let same = read_target_time("2026-11-20 10:00:00", "Europe/Berlin", "Europe/Paris").unwrap();
        assert_eq!(show_utc(same.moment), "2026-11-20 09:00:00+00");
        assert!(same.reading.contains("Europe/Berlin"), "{}", same.reading);
        let error = read_target_time("2026-11-20 10:00:00", "Europe/Berlin", "UTC").unwrap_err();
        assert_eq!(error.kind, ErrorKind::Usage);
        assert!(
            error.causes[0].contains("09:00:00+00") && error.causes[1].contains("10:00:00+00"),
            "{error:?}"
        );
    }

    #[test]
    fn what_is_no_time_or_no_single_moment_is_refused() {
        for text in ["", "yesterday", "now", "2026-13-01 00:00:00+00", "13am", "2026-11-20 25:00:00+00"] {
            assert!(read_target_time(text, "UTC", "UTC").is_err(), "{text}");
        }
        assert!(read_target_time("2026-10-25 02:30:00 Europe/Berlin", "UTC", "UTC").is_err());
        assert!(read_target_time("2026-03-29 02:30:00 Europe/Berlin", "UTC", "UTC").is_err());
        assert!(read_target_time("2026-11-20 10:00:00 Mars/Olympus", "UTC", "UTC").is_err());
    }
}
