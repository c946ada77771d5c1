//! Does a certificate name the host? The rules of libpq, which knows more certificates than the web does: the common
//! name counts when there is no alternative name of the host's kind.

use std::net::IpAddr;

use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;

/// Ok when the certificate names `host`, else what it names instead.
pub(crate) fn check(certificate: &X509Certificate<'_>, host: &str) -> Result<(), String> {
    let address: Option<IpAddr> = host.parse().ok();
    let mut names = Vec::new();
    let mut use_common_name = true;
    if let Ok(Some(alternative)) = certificate.subject_alternative_name() {
        for name in &alternative.value.general_names {
            match name {
                GeneralName::DNSName(pattern) => {
                    use_common_name &= address.is_some();
                    if matches_name(pattern, host) {
                        return Ok(());
                    }
                    names.push((*pattern).to_owned());
                }
                GeneralName::IPAddress(bytes) => {
                    use_common_name &= address.is_none();
                    let named = ip_address(bytes);
                    if named.is_some() && named == address {
                        return Ok(());
                    }
                    names.extend(named.map(|address| address.to_string()));
                }
                _ => {}
            }
        }
    }
    if use_common_name
        && let Some(Ok(common_name)) =
            certificate.subject().iter_common_name().next().map(|name| name.as_str())
    {
        if matches_name(common_name, host) {
            return Ok(());
        }
        names.push(common_name.to_owned());
    }
    Err(if names.is_empty() { "nothing".to_owned() } else { names.join(", ") })
}

fn ip_address(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => <[u8; 4]>::try_from(bytes).ok().map(IpAddr::from),
        16 => <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from),
        _ => None,
    }
}

/// Case does not matter; a leading `*.` stands for exactly one label.
fn matches_name(pattern: &str, host: &str) -> bool {
    if pattern.contains('\0') || pattern.is_empty() {
        return false;
    }
    if pattern.eq_ignore_ascii_case(host) {
        return true;
    }
    let Some(suffix) = pattern.strip_prefix('*').filter(|suffix| suffix.starts_with('.') && suffix.len() > 1)
    else {
        return false;
    };
    match host.split_once('.') {
        Some((label, _)) if !label.is_empty() => host[label.len()..].eq_ignore_ascii_case(suffix),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wildcards_stand_for_one_label() {
        assert!(matches_name("db.example.com", "DB.example.COM"));
        assert!(matches_name("*.example.com", "db.example.com"));
        assert!(!matches_name("*.example.com", "a.db.example.com"));
        assert!(!matches_name("*.example.com", "example.com"));
        assert!(!matches_name("*.example.com", ".example.com"));
        assert!(!matches_name("d*.example.com", "db.example.com"));
        assert!(!matches_name("*.", "db."));
        assert!(!matches_name("*", "db"));
        assert!(!matches_name("db\0.example.com", "db"));
        assert!(!matches_name("", ""));
    }
}
