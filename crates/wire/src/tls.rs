//! TLS, set up only when a connection asks for it: a plain connection loads no provider and reads no certificate.

use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use aws_lc_rs::digest;
use rustls::client::{ResolvesClientCert, Resumption};
use rustls::crypto::{CryptoProvider, aws_lc_rs::default_provider};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer, ServerName};
use rustls::sign::CertifiedKey;
use rustls::{
    CertificateError, ClientConfig, ClientConnection, Error, SignatureScheme, StreamOwned,
    SupportedProtocolVersion,
};
use x509_parser::prelude::FromDer;

use crate::error::WireError;
use crate::host::Target;
use crate::settings::{Settings, SslCertMode, SslMode, SslNegotiation, SslRoots, SslSettings};
use crate::stream::{Deadline, Socket, SocketAddress, Transport};
use crate::tls_verify::{Authorities, Rejected, Requirement, Verifier};

/// The name of the protocol in ALPN; without it a direct handshake could be replayed to another kind of server.
const ALPN: &[u8] = b"postgresql";

/// A configuration for one host, kept for cancel requests.
#[derive(Debug)]
pub(crate) struct TlsContext {
    config: Arc<ClientConfig>,
    identity: Arc<Identity>,
}

/// Builds the configuration for one host.
pub(crate) fn context(settings: &Settings, target: &Target) -> Result<TlsContext, WireError> {
    build(&settings.ssl, target.host_name.as_deref())
        .map_err(|reason| WireError::Tls { endpoint: target.endpoint.clone(), reason })
}

fn build(ssl: &SslSettings, host: Option<&str>) -> Result<TlsContext, String> {
    let provider = Arc::new(default_provider());
    let mut versions: Vec<&'static SupportedProtocolVersion> = Vec::new();
    if !ssl.maximum_is_tls12 {
        versions.push(&rustls::version::TLS13);
    }
    if !ssl.minimum_is_tls13 {
        versions.push(&rustls::version::TLS12);
    }
    let authorities = authorities(ssl)?;
    let requirement = match ssl.mode {
        SslMode::VerifyFull => match host {
            Some(host) => Requirement::NamesHost(host.to_owned()),
            None => return Err("`sslmode=verify-full` needs a host name (`host`)".to_owned()),
        },
        _ if authorities.is_some() => Requirement::TrustedAuthority,
        _ => Requirement::Nothing,
    };
    let verifier = Verifier {
        requirement,
        authorities: authorities.unwrap_or_else(Authorities::none),
        algorithms: provider.signature_verification_algorithms,
    };
    let identity = Arc::new(Identity { key: client_key(ssl, &provider)?, requested: AtomicBool::new(false) });
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&versions)
        .map_err(|error| error.to_string())?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_client_cert_resolver(Arc::clone(&identity) as Arc<dyn ResolvesClientCert>);
    config.enable_sni = ssl.send_server_name;
    config.resumption = Resumption::disabled();
    config.alpn_protocols = vec![ALPN.to_vec()];
    Ok(TlsContext { config: Arc::new(config), identity })
}

/// The trusted authorities; `None` when the mode does not need any and there is no file.
fn authorities(ssl: &SslSettings) -> Result<Option<Authorities>, String> {
    let must_verify = ssl.mode >= SslMode::VerifyCa;
    let certificates: Vec<CertificateDer<'static>> = match &ssl.roots {
        SslRoots::System => {
            let found = rustls_native_certs::load_native_certs();
            if found.certs.is_empty() {
                let reason = found.errors.first().map(|error| format!(": {error}")).unwrap_or_default();
                return Err(format!("no trusted certificates found on this system{reason}"));
            }
            found.certs
        }
        SslRoots::File(path) => match read_certificates(path) {
            Ok(certificates) => certificates,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                if must_verify {
                    return Err(format!(
                        "root certificate file {} does not exist (give `sslrootcert`, or use `sslrootcert=system`)",
                        path.display()
                    ));
                }
                return Ok(None);
            }
            Err(error) => return Err(format!("root certificate file {}: {error}", path.display())),
        },
        SslRoots::None if must_verify => {
            return Err("no root certificate file is known (give `sslrootcert`)".to_owned());
        }
        SslRoots::None => return Ok(None),
    };
    let mut authorities = Authorities::none();
    for certificate in certificates {
        // One that the library does not take can still be compared with and checked against by our own walk.
        drop(authorities.store.add(certificate.clone()));
        authorities.certificates.push(certificate);
    }
    if let Some(path) = &ssl.revocation_list {
        let lists: Result<Vec<_>, _> =
            CertificateRevocationListDer::pem_file_iter(path).and_then(Iterator::collect);
        let lists =
            lists.map_err(|error| format!("certificate revocation list {}: {error}", path.display()))?;
        authorities.revocation_lists = lists.into_iter().map(|list| list.to_vec()).collect();
    }
    Ok(Some(authorities))
}

fn read_certificates(path: &Path) -> io::Result<Vec<CertificateDer<'static>>> {
    let bytes = std::fs::read(path)?;
    let certificates: Vec<_> =
        CertificateDer::pem_slice_iter(&bytes).collect::<Result<_, _>>().map_err(io::Error::other)?;
    if certificates.is_empty() {
        return Err(io::Error::other("it holds no certificate"));
    }
    Ok(certificates)
}

fn client_key(ssl: &SslSettings, provider: &CryptoProvider) -> Result<Option<Arc<CertifiedKey>>, String> {
    let none = || match ssl.certificate_mode {
        SslCertMode::Require => Err("`sslcertmode=require`, but there is no client certificate".to_owned()),
        _ => Ok(None),
    };
    let Some(path) = ssl.certificate.as_deref().filter(|_| ssl.certificate_mode != SslCertMode::Disable)
    else {
        return none();
    };
    let chain = match read_certificates(path) {
        Ok(chain) => chain,
        Err(error) if error.kind() == io::ErrorKind::NotFound && !ssl.certificate_given => return none(),
        Err(error) => return Err(format!("client certificate {}: {error}", path.display())),
    };
    let Some(key_path) = &ssl.key else { return Err("there is a client certificate, but no key".to_owned()) };
    let key = read_private_key(key_path)
        .map_err(|reason| format!("private key {}: {reason}", key_path.display()))?;
    let key = provider
        .key_provider
        .load_private_key(key)
        .map_err(|error| format!("private key {}: {error}", key_path.display()))?;
    // Not checked against the certificate: the check cannot read version 1 certificates, and the server will.
    Ok(Some(Arc::new(CertifiedKey::new(chain, key))))
}

fn read_private_key(path: &Path) -> Result<PrivateKeyDer<'static>, String> {
    let file = File::open(path).map_err(|error| error.to_string())?;
    let metadata = file.metadata().map_err(|error| error.to_string())?;
    if !metadata.is_file() {
        return Err("it is not a plain file".to_owned());
    }
    // As in libpq: ours alone, or root's and readable by a group that we are in.
    let too_open = if metadata.uid() == 0 { 0o037 } else { 0o077 };
    if metadata.mode() & too_open != 0 {
        return Err(
            "it has group or world access; permissions should be 0600, or 0640 when owned by root".to_owned()
        );
    }
    let text = io::read_to_string(file).map_err(|error| error.to_string())?;
    if text.contains("ENCRYPTED") {
        return Err("it is encrypted, which is not supported; decrypt it with `openssl pkey`".to_owned());
    }
    PrivateKeyDer::from_pem_slice(text.as_bytes()).map_err(|error| error.to_string())
}

/// The client's certificate, and whether the server asked for one.
#[derive(Debug)]
struct Identity {
    key: Option<Arc<CertifiedKey>>,
    requested: AtomicBool,
}

impl ResolvesClientCert for Identity {
    fn resolve(&self, _hints: &[&[u8]], _schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.requested.store(true, Ordering::Relaxed);
        self.key.clone()
    }

    fn has_certs(&self) -> bool {
        // Always: the question is also how we learn that the server asked.
        true
    }
}

/// Does the handshake.
pub(crate) fn connect(
    mut socket: Socket,
    context: &TlsContext,
    settings: &Settings,
    target: &Target,
    deadline: Deadline,
) -> Result<Transport, WireError> {
    let refuse = |reason: String| WireError::Tls { endpoint: target.endpoint.clone(), reason };
    let mut connection = ClientConnection::new(Arc::clone(&context.config), server_name(target))
        .map_err(|error| refuse(error.to_string()))?;
    while connection.is_handshaking() {
        let timeout = deadline.remaining().map_err(|error| WireError::from_io(error, "the TLS handshake"))?;
        socket.set_read_timeout(timeout).map_err(WireError::Io)?;
        match connection.complete_io(&mut socket) {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                return Err(refuse("the server closed the connection during the handshake".to_owned()));
            }
            Err(error) => match tls_reason(&error) {
                Some(reason) => return Err(refuse(reason)),
                None => return Err(WireError::from_io(error, "the TLS handshake")),
            },
        }
    }
    if settings.ssl.negotiation == SslNegotiation::Direct && connection.alpn_protocol() != Some(ALPN) {
        return Err(refuse("the server does not confirm the protocol, which direct TLS needs".to_owned()));
    }
    if settings.ssl.certificate_mode == SslCertMode::Require
        && !context.identity.requested.load(Ordering::Relaxed)
    {
        return Err(refuse("`sslcertmode=require`, but the server did not ask for a certificate".to_owned()));
    }
    Ok(Transport::Tls(Box::new(StreamOwned::new(connection, socket))))
}

/// What goes into SNI: the name when it can be one, else the address, which is not sent.
fn server_name(target: &Target) -> ServerName<'static> {
    let name = target.host_name.as_deref().and_then(|host| ServerName::try_from(host.to_owned()).ok());
    let address = match &target.address {
        SocketAddress::Tcp(address) => address.ip(),
        SocketAddress::Unix(_) => std::net::Ipv4Addr::LOCALHOST.into(),
    };
    name.unwrap_or_else(|| ServerName::from(address))
}

/// The reason when an I/O error is really one of TLS, in words for an operator.
pub(crate) fn tls_reason(error: &io::Error) -> Option<String> {
    let error = error.get_ref()?.downcast_ref::<Error>()?;
    Some(match error {
        Error::InvalidCertificate(CertificateError::Other(other)) => match other.0.downcast_ref::<Rejected>()
        {
            Some(rejected) => rejected.to_string(),
            None => other.0.to_string(),
        },
        Error::AlertReceived(alert) => format!("the server ended it with alert {alert:?}"),
        Error::InvalidMessage(_) => "what the server sends is not TLS".to_owned(),
        other => other.to_string(),
    })
}

/// The `tls-server-end-point` binding: a hash of the server's certificate, with the hash of its signature but at least
/// SHA-256. `None` on a plain connection, or when the signature has no hash of its own (Ed25519).
pub(crate) fn channel_binding(transport: &Transport) -> Option<Vec<u8>> {
    let Transport::Tls(stream) = transport else { return None };
    let certificate = stream.conn.peer_certificates()?.first()?;
    let (_, parsed) = x509_parser::certificate::X509Certificate::from_der(certificate.as_ref()).ok()?;
    let algorithm = match parsed.signature_algorithm.algorithm.to_id_string().as_str() {
        // RSA and ECDSA with MD5, SHA-1, SHA-224 (not offered by any authority), SHA-256.
        "1.2.840.113549.1.1.4" | "1.2.840.113549.1.1.5" | "1.2.840.10045.4.1" => &digest::SHA256,
        "1.2.840.113549.1.1.14" | "1.2.840.10045.4.3.1" => &digest::SHA224,
        "1.2.840.113549.1.1.11" | "1.2.840.10045.4.3.2" => &digest::SHA256,
        "1.2.840.113549.1.1.12" | "1.2.840.10045.4.3.3" => &digest::SHA384,
        "1.2.840.113549.1.1.13" | "1.2.840.10045.4.3.4" => &digest::SHA512,
        "1.2.840.113549.1.1.10" => pss_hash(&parsed)?,
        _ => return None,
    };
    Some(digest::digest(algorithm, certificate.as_ref()).as_ref().to_vec())
}

/// The hash named in the parameters of an RSASSA-PSS signature.
fn pss_hash(
    certificate: &x509_parser::certificate::X509Certificate<'_>,
) -> Option<&'static digest::Algorithm> {
    use x509_parser::signature_algorithm::SignatureAlgorithm;
    let Ok(SignatureAlgorithm::RSASSA_PSS(parameters)) =
        SignatureAlgorithm::try_from(&certificate.signature_algorithm)
    else {
        return None;
    };
    Some(match parameters.hash_algorithm_oid().to_id_string().as_str() {
        "1.3.14.3.2.26" | "2.16.840.1.101.3.4.2.1" => &digest::SHA256,
        "2.16.840.1.101.3.4.2.2" => &digest::SHA384,
        "2.16.840.1.101.3.4.2.3" => &digest::SHA512,
        _ => return None,
    })
}
