//! The key of psql's `\restrict`, which scripts begin with: without knowing it no data in a script can make psql take
//! commands of its own again.

/// Characters of a key.
const LENGTH: usize = 63;
const ALPHABET: &[u8; 62] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";

/// A random key of letters and digits.
///
/// # Errors
/// When the system gives no random bytes.
pub fn generate() -> Result<String, getrandom::Error> {
    let mut key = String::with_capacity(LENGTH);
    while key.len() < LENGTH {
        let mut bytes = [0; LENGTH];
        getrandom::fill(&mut bytes)?;
        // Only values below a multiple of 62, so that each character is as likely as the others.
        let fair = bytes.iter().filter(|byte| **byte < 248).map(|byte| ALPHABET[usize::from(*byte) % 62]);
        key.extend(fair.map(char::from).take(LENGTH - key.len()));
    }
    Ok(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_long_plain_and_never_the_same() {
        let (first, second) = (generate().unwrap(), generate().unwrap());
        assert_eq!(first.len(), LENGTH);
        assert!(first.bytes().all(|byte| byte.is_ascii_alphanumeric()));
        assert_ne!(first, second);
    }
}
