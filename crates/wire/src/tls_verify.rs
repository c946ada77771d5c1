//! Checking the server's certificate.
//!
//! The recipe in PostgreSQL's manual makes X.509 version 1 certificates with a common name only, and many servers use a
//! self-signed certificate that is its own authority. libpq accepts both; the library's verifier accepts neither, not
//! even when nothing is to be verified, because it parses the leaf for the handshake signature. So this verifier asks
//! the library first, and walks the chain itself where the library only objects to the form. The handshake signature
//! is always checked, against the raw key.

use std::fmt;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls13_signature_with_raw_key};
use rustls::pki_types::{CertificateDer, ServerName, SubjectPublicKeyInfoDer, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, DigitallySignedStruct, Error, OtherError, RootCertStore, SignatureScheme};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::ParsedExtension;
use x509_parser::prelude::FromDer;
use x509_parser::revocation_list::CertificateRevocationList;
use x509_parser::time::ASN1Time;
use x509_parser::x509::X509Version;

use crate::tls_name;

/// How deep a chain may be.
const MAX_DEPTH: usize = 8;

/// What the certificate must be.
#[derive(Debug, Clone)]
pub(crate) enum Requirement {
    /// Anything.
    Nothing,
    /// Issued by a trusted authority.
    TrustedAuthority,
    /// That, and it names this host.
    NamesHost(String),
}

/// Trusted authorities, in both forms that are needed.
#[derive(Debug)]
pub(crate) struct Authorities {
    pub(crate) certificates: Vec<CertificateDer<'static>>,
    pub(crate) store: RootCertStore,
    /// Revocation lists; when there are any, every certificate of the chain needs one of its issuer.
    pub(crate) revocation_lists: Vec<Vec<u8>>,
}

impl Authorities {
    pub(crate) fn none() -> Authorities {
        Authorities { certificates: Vec::new(), store: RootCertStore::empty(), revocation_lists: Vec::new() }
    }
}

#[derive(Debug)]
pub(crate) struct Verifier {
    pub(crate) requirement: Requirement,
    pub(crate) authorities: Authorities,
    pub(crate) algorithms: WebPkiSupportedAlgorithms,
}

/// The reason in our words; the caller digs it out of the library's error again.
#[derive(Debug)]
pub(crate) struct Rejected(pub(crate) String);

impl fmt::Display for Rejected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Rejected {}

fn rejected(reason: impl Into<String>) -> Error {
    Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(Rejected(reason.into())))))
}

fn parse<'a>(certificate: &'a CertificateDer<'_>) -> Result<X509Certificate<'a>, Error> {
    match X509Certificate::from_der(certificate.as_ref()) {
        Ok((_, parsed)) => Ok(parsed),
        Err(_) => Err(rejected("the server's certificate cannot be parsed")),
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if !matches!(self.requirement, Requirement::Nothing) {
            self.verify_chain(end_entity, intermediates, now)?;
        }
        if let Requirement::NamesHost(host) = &self.requirement {
            tls_name::check(&parse(end_entity)?, host).map_err(|names| {
                rejected(format!("the server's certificate is not for host `{host}`; it names: {names}"))
            })?;
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let parsed = parse(certificate)?;
        let candidates = self.algorithms.mapping.iter().find(|(scheme, _)| *scheme == signed.scheme);
        let (_, candidates) =
            candidates.ok_or_else(|| rejected("the server signs with a method that is not supported"))?;
        let (key_algorithm, key) = key_parts(parsed.subject_pki.raw)?;
        // In TLS 1.2 the scheme does not fix the curve, so several algorithms may fit.
        for algorithm in *candidates {
            if algorithm.public_key_alg_id().as_ref() == key_algorithm {
                return algorithm
                    .verify_signature(key, message, signed.signature())
                    .map(|()| HandshakeSignatureValid::assertion())
                    .map_err(|_| Error::InvalidCertificate(CertificateError::BadSignature));
            }
        }
        Err(rejected("the server signs with a method that does not fit its key"))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let parsed = parse(certificate)?;
        let key = SubjectPublicKeyInfoDer::from(parsed.subject_pki.raw);
        verify_tls13_signature_with_raw_key(message, &key, signed, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

impl Verifier {
    fn verify_chain(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), Error> {
        let strict = ParsedCertificate::try_from(end_entity).and_then(|parsed| {
            let (store, all) = (&self.authorities.store, self.algorithms.all);
            rustls::client::verify_server_cert_signed_by_trust_anchor(&parsed, store, intermediates, now, all)
        });
        if strict.is_ok() && self.authorities.revocation_lists.is_empty() {
            return Ok(());
        }
        let now = i64::try_from(now.as_secs())
            .ok()
            .and_then(|seconds| ASN1Time::from_timestamp(seconds).ok())
            .ok_or_else(|| rejected("the clock is out of range"))?;
        self.walk(&parse(end_entity)?, intermediates, now, 0)
    }

    /// From a certificate to a trusted one, depth first. Every link is checked before it is followed.
    fn walk(
        &self,
        certificate: &X509Certificate<'_>,
        intermediates: &[CertificateDer<'_>],
        now: ASN1Time,
        depth: usize,
    ) -> Result<(), Error> {
        if depth > MAX_DEPTH {
            return Err(rejected("the chain of certificates is too long"));
        }
        check_validity(certificate, now)?;
        check_use(certificate, depth)?;
        // Trusted itself: the usual self-signed server certificate that clients have as root.
        if self.authorities.certificates.iter().any(|root| root.as_ref() == certificate.as_raw()) {
            return Ok(());
        }
        let mut failure = rejected(format!(
            "the server's certificate is not signed by a trusted authority (issuer: {})",
            crate::error::Printable(&certificate.issuer().to_string())
        ));
        for root in &self.authorities.certificates {
            let Ok((_, issuer)) = X509Certificate::from_der(root.as_ref()) else { continue };
            if is_signed_by(certificate, &issuer, &self.algorithms) {
                match check_validity(&issuer, now)
                    .and_then(|()| self.check_revocation(certificate, &issuer, now))
                {
                    Ok(()) => return Ok(()),
                    Err(error) => failure = error,
                }
            }
        }
        for candidate in intermediates {
            let Ok((_, issuer)) = X509Certificate::from_der(candidate.as_ref()) else { continue };
            if candidate.as_ref() == certificate.as_raw()
                || !may_issue(&issuer, depth)
                || !is_signed_by(certificate, &issuer, &self.algorithms)
            {
                continue;
            }
            match self
                .check_revocation(certificate, &issuer, now)
                .and_then(|()| self.walk(&issuer, intermediates, now, depth + 1))
            {
                Ok(()) => return Ok(()),
                Err(error) => failure = error,
            }
        }
        Err(failure)
    }

    fn check_revocation(
        &self,
        certificate: &X509Certificate<'_>,
        issuer: &X509Certificate<'_>,
        now: ASN1Time,
    ) -> Result<(), Error> {
        if self.authorities.revocation_lists.is_empty() {
            return Ok(());
        }
        for bytes in &self.authorities.revocation_lists {
            let Ok((_, list)) = CertificateRevocationList::from_der(bytes) else { continue };
            let by_issuer = list.issuer().as_raw() == issuer.subject().as_raw()
                && is_signed(
                    bytes,
                    list.tbs_cert_list.as_ref(),
                    &list.signature_value.data,
                    issuer.subject_pki.raw,
                    &self.algorithms,
                );
            if !by_issuer {
                continue;
            }
            if list.next_update().is_some_and(|next| next < now) {
                return Err(rejected("the certificate revocation list has expired"));
            }
            let revoked =
                list.iter_revoked_certificates().any(|entry| entry.raw_serial() == certificate.raw_serial());
            return if revoked { Err(rejected("the server's certificate has been revoked")) } else { Ok(()) };
        }
        Err(rejected("there is no certificate revocation list of the issuer"))
    }
}

fn check_validity(certificate: &X509Certificate<'_>, now: ASN1Time) -> Result<(), Error> {
    let validity = certificate.validity();
    if now < validity.not_before {
        return Err(rejected(format!("the certificate is not valid before {}", validity.not_before)));
    }
    if now > validity.not_after {
        return Err(rejected(format!("the certificate has expired on {}", validity.not_after)));
    }
    Ok(())
}

/// The leaf may be used for a server, and nothing critical goes unread.
fn check_use(certificate: &X509Certificate<'_>, depth: usize) -> Result<(), Error> {
    for extension in certificate.extensions() {
        match extension.parsed_extension() {
            ParsedExtension::ExtendedKeyUsage(usage) if depth == 0 && !usage.server_auth && !usage.any => {
                return Err(rejected("the certificate is not meant for servers"));
            }
            ParsedExtension::BasicConstraints(_)
            | ParsedExtension::KeyUsage(_)
            | ParsedExtension::ExtendedKeyUsage(_)
            | ParsedExtension::SubjectAlternativeName(_) => {}
            // What cannot be evaluated here must not be passed over.
            _ if extension.critical => {
                return Err(rejected("the certificate has a critical extension that is not understood"));
            }
            _ => {}
        }
    }
    Ok(())
}

/// An intermediate must be an authority by its own words, with `depth` others below it and the leaf; version 1 has no
/// words for it.
fn may_issue(certificate: &X509Certificate<'_>, depth: usize) -> bool {
    let is_authority = match certificate.basic_constraints() {
        Ok(Some(constraints)) => {
            let length = constraints.value.path_len_constraint;
            constraints.value.ca && length.is_none_or(|length| length as usize >= depth)
        }
        _ => false,
    };
    let may_sign = match certificate.key_usage() {
        Ok(Some(usage)) => usage.value.key_cert_sign(),
        Ok(None) => true,
        Err(_) => false,
    };
    // Name constraints are not evaluated here, so an authority that has some is not accepted.
    let unconstrained = certificate
        .extensions()
        .iter()
        .all(|extension| !matches!(extension.parsed_extension(), ParsedExtension::NameConstraints(_)));
    certificate.version() == X509Version::V3 && is_authority && may_sign && unconstrained
}

fn is_signed_by(
    certificate: &X509Certificate<'_>,
    issuer: &X509Certificate<'_>,
    algorithms: &WebPkiSupportedAlgorithms,
) -> bool {
    certificate.issuer().as_raw() == issuer.subject().as_raw()
        && is_signed(
            certificate.as_raw(),
            certificate.tbs_certificate.as_ref(),
            &certificate.signature_value.data,
            issuer.subject_pki.raw,
            algorithms,
        )
}

/// Is `signed` (a certificate or a revocation list: body, algorithm, signature) signed with the key?
fn is_signed(
    whole: &[u8],
    body: &[u8],
    signature: &[u8],
    key_info: &[u8],
    algorithms: &WebPkiSupportedAlgorithms,
) -> bool {
    let Some(signature_algorithm) = signature_algorithm(whole) else { return false };
    let Ok((key_algorithm, key)) = key_parts(key_info) else { return false };
    algorithms.all.iter().any(|algorithm| {
        algorithm.signature_alg_id().as_ref() == signature_algorithm
            && algorithm.public_key_alg_id().as_ref() == key_algorithm
            && algorithm.verify_signature(key, body, signature).is_ok()
    })
}

/// The inside of the AlgorithmIdentifier of a signed structure.
fn signature_algorithm(whole: &[u8]) -> Option<&[u8]> {
    let (inside, _) = der_element(whole, 0x30)?;
    let (_, rest) = der_element(inside, 0x30)?;
    der_element(rest, 0x30).map(|(algorithm, _)| algorithm)
}

/// Algorithm and key of a SubjectPublicKeyInfo.
fn key_parts(key_info: &[u8]) -> Result<(&[u8], &[u8]), Error> {
    let parts = || {
        let (inside, _) = der_element(key_info, 0x30)?;
        let (algorithm, rest) = der_element(inside, 0x30)?;
        let (bits, _) = der_element(rest, 0x03)?;
        // The first byte counts unused bits: none, in every kind of key.
        bits.strip_prefix(&[0]).map(|key| (algorithm, key))
    };
    parts().ok_or_else(|| rejected("the key of a certificate cannot be parsed"))
}

/// The content of the DER element at the front, when it has this tag, and what follows it.
fn der_element(bytes: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let (&[found, first], rest) = bytes.split_first_chunk::<2>()?;
    if found != tag {
        return None;
    }
    let (length, rest) = match first {
        0..=0x7f => (usize::from(first), rest),
        0x81..=0x84 => {
            let (digits, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
            (digits.iter().fold(0, |length, digit| (length << 8) | usize::from(*digit)), rest)
        }
        _ => return None,
    };
    rest.split_at_checked(length)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn der_elements_are_cut_with_care() {
        assert_eq!(der_element(&[0x30, 2, 1, 2, 9], 0x30), Some((&[1u8, 2][..], &[9u8][..])));
        assert_eq!(der_element(&[0x30, 0x81, 1, 7], 0x30), Some((&[7u8][..], &[][..])));
        assert_eq!(der_element(&[0x30, 3, 1, 2], 0x30), None);
        assert_eq!(der_element(&[0x31, 0], 0x30), None);
        assert_eq!(der_element(&[0x30, 0x80], 0x30), None);
        assert_eq!(der_element(&[0x30, 0x85, 1, 1, 1, 1, 1], 0x30), None);
        assert_eq!(der_element(&[0x30], 0x30), None);
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            prop_assert!(signature_algorithm(&bytes).is_none_or(|found| found.len() < bytes.len()));
            prop_assert!(key_parts(&bytes).is_ok_and(|(_, key)| key.len() < bytes.len()) || key_parts(&bytes).is_err());
        }
    }
}
