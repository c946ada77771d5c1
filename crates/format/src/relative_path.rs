//! Paths out of archives and manifests, which must stay below the directory they are joined to.
//!
//! A path is a sequence of names. Empty names and `.` mean nothing and go; `..`, NUL and a leading slash make it
//! worthless.

/// The path without empty names and `.`; `.` alone for the directory itself. None where it is empty, absolute, or has
/// `..` or NUL in it.
pub(crate) fn normalize(path: &[u8]) -> Option<Vec<u8>> {
    if path.is_empty() || path.starts_with(b"/") || path.contains(&0) {
        return None;
    }
    let mut normal = Vec::with_capacity(path.len());
    for name in path.split(|byte| *byte == b'/') {
        match name {
            b"" | b"." => {}
            b".." => return None,
            _ => {
                if !normal.is_empty() {
                    normal.push(b'/');
                }
                normal.extend_from_slice(name);
            }
        }
    }
    if normal.is_empty() {
        normal.push(b'.');
    }
    Some(normal)
}
