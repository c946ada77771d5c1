//! Paths in the form that PostgreSQL's programs compare them in (`port/path.c`, `canonicalize_path`).

/// The path without empty names, `.`, and names that a `..` after them takes back. Nothing is looked up: a link counts
/// as a directory.
#[must_use]
pub fn canonical_path(path: &[u8]) -> Vec<u8> {
    let is_absolute = path.starts_with(b"/");
    let mut names: Vec<&[u8]> = Vec::new();
    for name in path.split(|byte| *byte == b'/') {
        match name {
            b"" | b"." => {}
            b".." => match names.last() {
                Some(last) if *last != b".." => drop(names.pop()),
                None if is_absolute => {}
                _ => names.push(name),
            },
            _ => names.push(name),
        }
    }
    let joined = names.join(&b'/');
    match (is_absolute, joined.is_empty()) {
        (true, _) => [b"/".as_slice(), &joined].concat(),
        (false, true) if path.is_empty() => joined,
        (false, true) => b".".to_vec(),
        (false, false) => joined,
    }
}

#[cfg(test)]
mod tests {
    use super::canonical_path;

    #[test]
    fn paths_are_made_plain() {
        for (path, expected) in [
            ("/a//b/./c/", "/a/b/c"),
            ("/a/../b", "/b"),
            ("/..", "/"),
            ("./base/1/", "base/1"),
            ("a/..", "."),
            ("../a/../..", "../.."),
            ("/", "/"),
            ("", ""),
            (".", "."),
        ] {
            assert_eq!(canonical_path(path.as_bytes()), expected.as_bytes(), "{path}");
        }
    }
}
