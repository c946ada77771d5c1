//! What may be in a directory that is `pg_wal`: the names that PostgreSQL gives there.
//!
//! `pg_wal` may be a link to a directory on another disk, which a delta restore empties. A link can also point somewhere by
//! mistake or malice, so what is not named like this is never removed. Names are those of PostgreSQL 13 to 18
//! (`access/xlog_internal.h`, `access/transam/xlogarchive.c`, `postmaster/walsummarizer.c`).

/// Whether a path of a file, `pg_wal/…`, is one that PostgreSQL makes. A link or socket counts by its name as well.
pub fn is_wal_entry(path: &[u8]) -> bool {
    let Some(name) = std::str::from_utf8(path).ok().and_then(|path| path.strip_prefix("pg_wal/")) else {
        return false;
    };
    match name.split_once('/') {
        Some(("archive_status", status)) => {
            [".ready", ".done"].iter().any(|end| status.strip_suffix(end).is_some_and(is_wal_file))
        }
        Some(("summaries", summary)) => {
            summary == "temp.summary" || summary.strip_suffix(".summary").is_some_and(|name| is_hex(name, 40))
        }
        Some(_) => false,
        None => is_wal_file(name),
    }
}

/// Whether a path is that of a directory that PostgreSQL makes in `pg_wal`.
pub fn is_wal_folder(path: &[u8]) -> bool {
    path == b"pg_wal/archive_status" || path == b"pg_wal/summaries"
}

fn is_wal_file(name: &str) -> bool {
    if is_hex(name, 24) || name == "RECOVERYXLOG" || name == "RECOVERYHISTORY" {
        return true;
    }
    match name.split_once('.') {
        Some((timeline, "history")) => is_hex(timeline, 8),
        Some((segment, "partial")) => is_hex(segment, 24),
        Some(("xlogtemp", pid)) => !pid.is_empty() && pid.bytes().all(|byte| byte.is_ascii_digit()),
        Some((segment, rest)) => {
            is_hex(segment, 24) && rest.strip_suffix(".backup").is_some_and(|offset| is_hex(offset, 8))
        }
        None => false,
    }
}

fn is_hex(text: &str, length: usize) -> bool {
    text.len() == length && text.bytes().all(|byte| byte.is_ascii_digit() || (b'A'..=b'F').contains(&byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_names_of_the_server_are_wal() {
        for name in [
            "0000000100000000000000A1",
            "0000000100000000000000A1.partial",
            "0000000100000000000000A1.00000028.backup",
            "00000002.history",
            "xlogtemp.1234",
            "RECOVERYXLOG",
            "archive_status/0000000100000000000000A1.ready",
            "archive_status/00000002.history.done",
            "summaries/0000000100000000010000280000000001000100.summary",
        ] {
            assert!(is_wal_entry(format!("pg_wal/{name}").as_bytes()), "{name}");
        }
        for name in [
            "thesis.txt",
            "0000000100000000000000a1",
            "0000000100000000000000A1.gz",
            "xlogtemp.",
            "archive_status/notes",
            "archive_status/thesis.ready",
            "summaries/x.summary",
            "other/0000000100000000000000A1",
            "",
        ] {
            assert!(!is_wal_entry(format!("pg_wal/{name}").as_bytes()), "{name}");
        }
        assert!(!is_wal_entry(b"base/0000000100000000000000A1"));
    }
}
