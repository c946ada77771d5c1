//! The section `[retention]`: spans and numbers into a policy.

use std::collections::BTreeMap;

use pgkeep_engine::Result;
use pgkeep_engine::expire::{DumpRetention, RetentionPolicy, WalRetention};

use super::Given;
use super::resolve::invalid;

/// A century: longer spans are mistakes.
const MAX_SPAN: u64 = 100 * 366 * 86_400;
/// More backups than anybody has.
const MAX_NUMBER: u32 = 1_000_000;

/// `[retention]`.
#[derive(Debug)]
pub(crate) struct RetentionSettings {
    pub(crate) policy: RetentionPolicy,
    pub(crate) dumps: DumpRetention,
    pub(crate) grace_seconds: u64,
    pub(crate) abandoned_after_seconds: u64,
}

/// The settings of the section, with types.
pub(super) fn typed(winners: &BTreeMap<&'static str, Given>) -> Result<RetentionSettings> {
    let number_of = |path: &str| winners.get(path).map(number).transpose();
    let seconds_of = |path: &str, least| winners.get(path).map(|given| span(given, least)).transpose();
    Ok(RetentionSettings {
        policy: RetentionPolicy {
            count: number_of("retention.count")?,
            window_seconds: seconds_of("retention.window", 1)?,
            hourly: number_of("retention.hourly")?,
            daily: number_of("retention.daily")?,
            weekly: number_of("retention.weekly")?,
            monthly: number_of("retention.monthly")?,
            yearly: number_of("retention.yearly")?,
            min: number_of("retention.min")?,
            wal: winners.get("retention.wal").map(wal).transpose()?.unwrap_or_default(),
        },
        dumps: DumpRetention {
            count: number_of("retention.dump_count")?,
            window_seconds: seconds_of("retention.dump_window", 1)?,
        },
        grace_seconds: seconds_of("retention.grace", 0)?.unwrap_or(0),
        abandoned_after_seconds: seconds_of("retention.abandoned_after", 3600)?.unwrap_or(MAX_SPAN),
    })
}

fn number(given: &Given) -> Result<u32> {
    let number = given.text.parse::<u32>().ok().filter(|number| (1..=MAX_NUMBER).contains(number));
    number.ok_or_else(|| invalid(given, format!("expected a whole number from 1 to {MAX_NUMBER}")))
}

fn wal(given: &Given) -> Result<WalRetention> {
    let text = given.text.trim();
    if text == "all" {
        return Ok(WalRetention::All);
    }
    if text.bytes().all(|byte| byte.is_ascii_digit())
        && let Ok(count) = number(given)
    {
        return Ok(WalRetention::Count(count));
    }
    match parse_span(text).filter(|seconds| (1..=MAX_SPAN).contains(seconds)) {
        Some(seconds) if text.ends_with(|c: char| c.is_ascii_alphabetic()) => {
            Ok(WalRetention::Window(seconds))
        }
        _ => Err(invalid(given, "expected `all`, a number of backups from 1, or a time such as `14d`")),
    }
}

fn span(given: &Given, least: u64) -> Result<u64> {
    parse_span(given.text.trim()).filter(|seconds| (least..=MAX_SPAN).contains(seconds)).ok_or_else(|| {
        let bound = if least > 1 { format!(", at least {least} s") } else { String::new() };
        invalid(given, format!("expected a time such as `36h`, `30d` or `8w`{bound}"))
    })
}

/// Seconds, from `90`, `90s`, `15min`, `36h`, `30d` or `8w`.
fn parse_span(text: &str) -> Option<u64> {
    let (number, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()));
    let scale = match unit.trim() {
        "" | "s" => 1,
        "min" => 60,
        "h" => 3600,
        "d" => 86_400,
        "w" => 7 * 86_400,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(scale)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Origin;

    fn given(text: &str) -> Given {
        Given { path: "retention.wal", text: text.to_owned(), origin: Origin::BuiltIn }
    }

    #[test]
    fn spans_have_units_and_bounds() {
        for (text, seconds) in [
            ("90", 90),
            ("90s", 90),
            ("15min", 900),
            ("36h", 129_600),
            ("30d", 2_592_000),
            ("8 w", 4_838_400),
        ] {
            assert_eq!(span(&given(text), 1).unwrap(), seconds, "{text}");
        }
        assert_eq!(span(&given("0s"), 0).unwrap(), 0);
        for bad in ["", "0", "30 days", "1m", "-1d", "1.5d", "36601d", "99999999999999999999w"] {
            assert!(span(&given(bad), 1).is_err(), "{bad}");
        }
    }

    #[test]
    fn wal_is_kept_for_all_for_some_or_for_a_time() {
        assert_eq!(wal(&given("all")).unwrap(), WalRetention::All);
        assert_eq!(wal(&given("3")).unwrap(), WalRetention::Count(3));
        assert_eq!(wal(&given("14d")).unwrap(), WalRetention::Window(14 * 86_400));
        for bad in ["", "0", "none", "0d", "-3", "3 backups"] {
            assert!(wal(&given(bad)).is_err(), "{bad}");
        }
    }
}
