//! Values of options that several fronts have, read and refused as stock does.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, stdin};
use std::ops::RangeInclusive;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Duration;

use pgkeep_logical::filter::{self, FilterItem};
use pgkeep_logical::restore::Selection;
use pgkeep_logical::restrict_key;
use pgkeep_physical::base_backup::SyncMethod;
use pgkeep_tool::system_text;
use pgkeep_wire::{ConnInfo, ConnInfoError, Environment, parse_connection_string, raw_text};

use super::program::Mistake;
use crate::caller::Caller;

/// Refuses two options that exclude each other.
pub(super) fn together(
    first: bool,
    first_name: &str,
    second: bool,
    second_name: &str,
) -> Result<(), Mistake> {
    if first && second {
        return Err(Mistake::Plain(format!(
            "options {first_name} and {second_name} cannot be used together"
        )));
    }
    Ok(())
}

/// Refuses `--if-exists` where nothing is dropped.
pub(super) fn check_if_exists(if_exists: bool, clean: bool) -> Result<(), Mistake> {
    if if_exists && !clean {
        return Err(Mistake::Plain("option --if-exists requires option -c/--clean".to_owned()));
    }
    Ok(())
}

/// A whole number in a range.
pub(super) fn number(value: &OsStr, option: &str, range: RangeInclusive<i32>) -> Result<i32, Mistake> {
    let text = value.to_string_lossy();
    let trimmed = text.trim_matches([' ', '\t', '\n', '\r', '\u{b}', '\u{c}']);
    let digits = trimmed.strip_prefix(['+', '-']).unwrap_or(trimmed);
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(Mistake::Plain(format!("invalid value \"{text}\" for option {option}")));
    }
    match trimmed.parse::<i32>() {
        Ok(number) if range.contains(&number) => Ok(number),
        _ => Err(Mistake::Plain(format!("{option} must be in range {}..{}", range.start(), range.end()))),
    }
}

/// `--sync-method`.
pub(super) fn sync_method(value: &OsStr) -> Result<SyncMethod, Mistake> {
    match value.as_bytes() {
        b"fsync" => Ok(SyncMethod::Fsync),
        b"syncfs" => Ok(SyncMethod::Syncfs),
        _ => Err(Mistake::Plain(format!("unrecognized sync method: {}", value.to_string_lossy()))),
    }
}

/// How often a server is told where we are unless it is said.
pub(super) const STATUS_INTERVAL: Option<Duration> = Some(Duration::from_secs(10));

/// `--status-interval`, in seconds; 0 is none.
pub(super) fn status_interval(value: &OsStr) -> Result<Option<Duration>, Mistake> {
    // As milliseconds stock has it in an `int`.
    let seconds = number(value, "-s/--status-interval", 0..=i32::MAX / 1000)?.unsigned_abs();
    Ok((seconds > 0).then(|| Duration::from_secs(u64::from(seconds))))
}

/// How many, at least one.
pub(super) fn count(value: &OsStr, option: &str) -> Result<u32, Mistake> {
    number(value, option, 1..=i32::MAX).map(i32::unsigned_abs)
}

/// A text that goes to the server, or names what it has, in whatever encoding that is.
pub(super) fn text(value: &OsStr) -> String {
    raw_text(value.as_bytes())
}

/// The sections that `--section` names.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Sections {
    pre_data: bool,
    data: bool,
    post_data: bool,
}

impl Sections {
    /// One more.
    pub(super) fn add(&mut self, value: &OsStr) -> Result<(), Mistake> {
        let section = match value.as_bytes() {
            b"pre-data" => &mut self.pre_data,
            b"data" => &mut self.data,
            b"post-data" => &mut self.post_data,
            _ => {
                let text = format!("unrecognized section name: \"{}\"", value.to_string_lossy());
                return Err(Mistake::TryHelp(text));
            }
        };
        *section = true;
        Ok(())
    }

    /// Selects these and no others.
    pub(super) fn select(self, selection: &mut Selection) {
        selection.pre_data = self.pre_data;
        selection.data_section = self.data;
        selection.post_data = self.post_data;
    }
}

/// Refuses what cannot be a key of `\restrict`.
pub(super) fn check_restrict_key(key: &str) -> Result<(), Mistake> {
    if key.is_empty() || !key.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
        return Err(Mistake::Plain("invalid restrict key".to_owned()));
    }
    Ok(())
}

/// The key of `\restrict`: as given, or random.
pub(super) fn restrict_key(given: Option<String>) -> Result<String, Mistake> {
    match given {
        Some(key) => check_restrict_key(&key).map(|()| key),
        None => restrict_key::generate()
            .map_err(|error| Mistake::Plain(format!("could not generate restrict key: {error}"))),
    }
}

/// The lines of a file of `--filter`, or of the standard input for `-`; one that is bad ends it.
pub(super) fn filter_file(
    path: &Path,
) -> Result<impl Iterator<Item = Result<FilterItem, Mistake>> + use<>, Mistake> {
    let name = path.to_string_lossy();
    let (input, name): (Box<dyn BufRead>, Option<&str>) = if name == "-" {
        (Box::new(stdin().lock()), None)
    } else {
        let file = std::fs::File::open(path).map_err(|error| {
            Mistake::Plain(format!("could not open filter file \"{name}\": {}", system_text(&error)))
        })?;
        (Box::new(BufReader::new(file)), Some(&name))
    };
    Ok(filter::read(input, name).map(|item| item.map_err(Mistake::Plain)))
}

/// The refusal of a line that names a kind of object for which the program has no such option.
pub(super) fn not_allowed(item: &FilterItem) -> Mistake {
    let object = filter::object_name(item.object);
    Mistake::Plain(item.refused(&format!("{} filter for \"{object}\" is not allowed", item.action.name())))
}

/// The pattern of a line, as text.
pub(super) fn filter_pattern(item: &FilterItem) -> String {
    raw_text(item.pattern.as_bytes())
}

/// The connection that a string and other options ask for. The options beat the string, whose database does not count.
pub(super) fn beneath_options(text: Option<&str>, options: &[(String, String)]) -> Result<ConnInfo, Mistake> {
    let mistake = |error: ConnInfoError| Mistake::Plain(error.to_string());
    let mut pairs = Vec::new();
    if let Some(text) = text.filter(|text| !text.is_empty()) {
        if !text.contains('=') && !text.contains("://") {
            return Err(Mistake::Plain(format!("missing \"=\" after \"{text}\" in connection info string")));
        }
        pairs = parse_connection_string(text).map_err(mistake)?;
        pairs.retain(|(keyword, value)| keyword != "dbname" && !value.is_empty());
    }
    let pairs: Vec<(&str, &str)> =
        pairs.iter().chain(options).map(|(keyword, value)| (keyword.as_str(), value.as_str())).collect();
    ConnInfo::resolve_with(&pairs, None, &environment()).map_err(mistake)
}

/// As [`beneath_options`], of a program that the server knows by its name unless it is told another one.
pub(super) fn server_connection(
    program: &str,
    text: Option<&str>,
    options: &[(String, String)],
) -> Result<ConnInfo, Mistake> {
    let connection = beneath_options(text, options)?;
    match connection.get("fallback_application_name") {
        Some(_) => Ok(connection),
        None => connection
            .with("fallback_application_name", program)
            .map_err(|error| Mistake::Plain(error.to_string())),
    }
}

/// What libpq reads of the environment.
pub(super) fn environment() -> Environment {
    let caller = Caller::read();
    Environment::from_iter(caller.client_variables(), caller.home.clone())
}
