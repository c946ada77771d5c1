//! `-Z`: a method, a level or both, as PostgreSQL's programs write them: `5`, `gzip`, `zstd:level=3,long`.

use pgkeep_format::archive::Compression;

/// Of the data of an archive, or of a script.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct CompressionChoice {
    pub(crate) algorithm: Compression,
    /// The codec's own when none.
    pub(crate) level: Option<i32>,
    /// Zstandard's `long`.
    pub(crate) long_distance: bool,
    /// Zstandard's `workers`.
    pub(crate) workers: Option<i32>,
}

impl CompressionChoice {
    fn of(algorithm: Compression) -> CompressionChoice {
        CompressionChoice { algorithm, level: None, long_distance: false, workers: None }
    }
}

/// Reads it; the second value is a warning.
pub(crate) fn parse(
    text: Option<&str>,
    default: Compression,
) -> Result<(CompressionChoice, Option<String>), String> {
    let Some(text) = text else {
        return Ok((CompressionChoice::of(default), None));
    };
    // A number alone is a level of gzip; 0 is none.
    let is_number = |text: &str| {
        let digits = text.trim_start().strip_prefix(['+', '-']).unwrap_or(text.trim_start());
        !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit())
    };
    let (name, detail) = match text.split_once(':') {
        None if is_number(text) => match text.trim().parse::<i64>() {
            Ok(0) => ("none", None),
            _ => ("gzip", Some(text)),
        },
        None => (text, None),
        Some((name, detail)) => (name, Some(detail)),
    };
    let algorithm = match name {
        "none" => Compression::None,
        "gzip" => Compression::Gzip,
        "lz4" => Compression::Lz4,
        "zstd" => Compression::Zstd,
        _ => return Err(format!("unrecognized compression algorithm: \"{name}\"")),
    };
    let invalid = |problem: String| format!("invalid compression specification: {problem}");
    let mut level = None;
    let mut warning = None;
    let mut long_distance = false;
    let mut workers = None;
    match detail {
        None => {}
        Some(detail) if is_number(detail) => level = Some(level_of(detail).map_err(invalid)?),
        Some("") => return Err(invalid("found empty string where a compression option was expected".into())),
        Some(detail) => {
            for option in detail.split(',') {
                let (keyword, value) = option.split_once('=').map_or((option, None), |(k, v)| (k, Some(v)));
                match (keyword, value) {
                    ("", _) => {
                        return Err(invalid(
                            "found empty string where a compression option was expected".into(),
                        ));
                    }
                    ("level" | "workers", None) => {
                        return Err(invalid(format!("compression option \"{keyword}\" requires a value")));
                    }
                    ("level", Some(value)) => level = Some(level_of(value).map_err(invalid)?),
                    ("workers", Some(value)) => {
                        let count = value.parse::<i32>().map_err(|_| {
                            invalid(format!("value for compression option \"{keyword}\" must be an integer"))
                        })?;
                        workers = Some(count);
                        if algorithm != Compression::Zstd {
                            return Err(invalid(format!(
                                "compression algorithm \"{name}\" does not accept a worker count"
                            )));
                        }
                        warning = Some(
                            "compression option \"workers\" is not currently supported by pg_dump".to_owned(),
                        );
                    }
                    ("long", value) => {
                        if !matches!(
                            value,
                            None | Some("on" | "off" | "yes" | "no" | "true" | "false" | "1" | "0")
                        ) {
                            return Err(invalid(
                                "value for compression option \"long\" must be a Boolean value".into(),
                            ));
                        }
                        if algorithm != Compression::Zstd {
                            return Err(invalid(format!(
                                "compression algorithm \"{name}\" does not support long-distance mode"
                            )));
                        }
                        long_distance = matches!(value, None | Some("on" | "yes" | "true" | "1"));
                    }
                    _ => return Err(invalid(format!("unrecognized compression option: \"{keyword}\""))),
                }
            }
        }
    }
    let Some(level) = level else {
        return Ok((CompressionChoice { algorithm, level: None, long_distance, workers }, warning));
    };
    let (least, most, default) = match algorithm {
        Compression::None => {
            return Err(invalid(format!(
                "compression algorithm \"{name}\" does not accept a compression level"
            )));
        }
        Compression::Gzip => (1, 9, -1),
        Compression::Lz4 => (1, 12, 0),
        Compression::Zstd => (-131_072, 22, 3),
    };
    if level != default && !(least..=most).contains(&level) {
        return Err(invalid(format!(
            "compression algorithm \"{name}\" expects a compression level between {least} and {most} (default at {default})"
        )));
    }
    let level = (level != default).then_some(level);
    Ok((CompressionChoice { algorithm, level, long_distance, workers }, warning))
}

fn level_of(text: &str) -> Result<i32, String> {
    let number: i64 = text
        .trim()
        .parse()
        .map_err(|_| "value for compression option \"level\" must be an integer".to_owned())?;
    // What is out of any range stays out of it.
    Ok(i32::try_from(number).unwrap_or(i32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<(Compression, Option<i32>), String> {
        parse(Some(text), Compression::None).map(|(choice, _)| (choice.algorithm, choice.level))
    }

    #[test]
    fn forms() {
        assert_eq!(read("0"), Ok((Compression::None, None)));
        assert_eq!(read("5"), Ok((Compression::Gzip, Some(5))));
        assert_eq!(read("gzip:1"), Ok((Compression::Gzip, Some(1))));
        assert_eq!(read("zstd:level=7,long"), Ok((Compression::Zstd, Some(7))));
        let long = |text| parse(Some(text), Compression::None).unwrap().0.long_distance;
        assert!(long("zstd:level=7,long") && long("zstd:long=on") && !long("zstd:long=off") && !long("zstd"));
        assert_eq!(read("lz4"), Ok((Compression::Lz4, None)));
        assert_eq!(parse(None, Compression::Gzip).unwrap().0.algorithm, Compression::Gzip);
        assert!(parse(Some("zstd:workers=2"), Compression::None).unwrap().1.is_some());
    }

    #[test]
    fn mistakes_are_told_in_stocks_words() {
        for (text, expected) in [
            ("garbage", "unrecognized compression algorithm: \"garbage\""),
            (
                "15",
                "invalid compression specification: compression algorithm \"gzip\" expects a compression level between 1 and 9 (default at -1)",
            ),
            (
                "none:1",
                "invalid compression specification: compression algorithm \"none\" does not accept a compression level",
            ),
            ("gzip:nonInt", "invalid compression specification: unrecognized compression option: \"nonInt\""),
        ] {
            assert_eq!(read(text).unwrap_err(), expected);
        }
    }
}
