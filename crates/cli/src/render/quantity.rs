//! Sizes, durations, counts and moments in words.

use jiff::Timestamp;

const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];

/// `1.65 GiB`: three digits and a binary unit.
pub(crate) fn size(bytes: u64) -> String {
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    #[expect(clippy::cast_precision_loss, reason = "three digits are shown")]
    let mut value = bytes as f64 / 1024.0;
    let mut unit = 0;
    // 1023.5 would be rounded to 1024.
    while value >= 1023.5 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    let decimals = if value < 9.995 {
        2
    } else if value < 99.95 {
        1
    } else {
        0
    };
    format!("{value:.decimals$} {}", UNITS[unit])
}

/// `1.65 GiB (1771674009 bytes)`.
pub(crate) fn exact_size(bytes: u64) -> String {
    if bytes < 1024 { size(bytes) } else { format!("{} ({bytes} bytes)", size(bytes)) }
}

/// `1 file`, `2 files`.
pub(crate) fn count(number: u64, thing: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{number} {thing}{plural}")
}

/// `1 h 02 min`, `3 min 20 s`, `45 s`.
pub(crate) fn duration(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{} min {:02} s", seconds / 60, seconds % 60),
        _ => format!("{} h {:02} min", seconds / 3600, seconds % 3600 / 60),
    }
}

/// `2026-11-22 09:12:33.25+00`, as PostgreSQL prints a moment in UTC; what is no RFC 3339 moment is shown as it is.
pub(crate) fn exact_moment(rfc3339: &str) -> String {
    formatted(rfc3339, "%Y-%m-%d %H:%M:%S%.f+00")
}

/// `2026-11-22 09:12:33+00`: the second is enough to tell when something was done.
pub(crate) fn moment(rfc3339: &str) -> String {
    formatted(rfc3339, "%Y-%m-%d %H:%M:%S+00")
}

fn formatted(rfc3339: &str, format: &str) -> String {
    match rfc3339.parse::<Timestamp>() {
        Ok(moment) => moment.strftime(format).to_string(),
        Err(_) => rfc3339.to_owned(),
    }
}

/// `16.4`, `9.6.24`: a version from `server_version_num`.
pub(crate) fn server_version(number: u32) -> String {
    if number >= 100_000 {
        format!("{}.{}", number / 10_000, number % 10_000)
    } else {
        format!("{}.{}.{}", number / 10_000, number / 100 % 100, number % 100)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_three_digits() {
        for (bytes, shown) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.00 KiB"),
            (1024 * 1024 - 1, "1.00 MiB"),
            (10 * 1024, "10.0 KiB"),
            (1_771_674_009, "1.65 GiB"),
            (160 << 20, "160 MiB"),
            (u64::MAX, "16.0 EiB"),
        ] {
            assert_eq!(size(bytes), shown);
        }
        assert_eq!(exact_size(2048), "2.00 KiB (2048 bytes)");
    }

    #[test]
    fn moments_are_shown_as_postgresql_does() {
        assert_eq!(moment("2026-11-22T09:12:33Z"), "2026-11-22 09:12:33+00");
        assert_eq!(moment("2026-11-22T10:12:33.250000+01:00"), "2026-11-22 09:12:33+00");
        assert_eq!(exact_moment("2026-11-22T10:12:33.250000+01:00"), "2026-11-22 09:12:33.25+00");
        assert_eq!(moment("not a moment"), "not a moment");
    }

    #[test]
    fn durations_and_counts_read_as_words() {
        assert_eq!([duration(5), duration(200), duration(3720)], ["5 s", "3 min 20 s", "1 h 02 min"]);
        assert_eq!([count(1, "file"), count(0, "file")], ["1 file", "0 files"]);
        assert_eq!([server_version(160_004), server_version(90_624)], ["16.4", "9.6.24"]);
    }
}
