//! TLS 1.3 between segments.
//!
//! Each side sends a certificate that it signed itself and proves that it has the key. Names, dates and signatures of certificates say nothing here and
//! are not looked at; the key is what counts. The side that dials knows whom it wants and refuses any other key before it sends a
//! byte of its own. The side that is dialled lets the handshake finish with whatever key, and its caller decides by
//! [`fingerprint_of`] what the peer may do: a known link, a newcomer with a code, or nothing.
//!
//! Sessions are not resumed and nothing is sent before the handshake ends: every connection proves both keys.

use crate::identity::{CERTIFICATE_NAME, Fingerprint, Identity};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{ClientConfig, Resumption};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{NoServerSessionStorage, ServerConfig};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, PeerIncompatible, SignatureScheme};
use std::sync::Arc;
use tokio_rustls::{TlsAcceptor, TlsConnector};
use tombolo_core::{Error, ErrorKind, Result};

/// The protocol as TLS names it (RFC 7301). Both sides offer it; a peer that offers others only is refused.
pub const ALPN: &[u8] = b"tombolo-link/1";

/// How a segment's key may sign a handshake: what [`Identity`] makes, and what a later one might.
const SCHEMES: [SignatureScheme; 2] = [SignatureScheme::ECDSA_NISTP256_SHA256, SignatureScheme::ED25519];

/// Takes connections: requires a certificate and the proof of its key, whatever key it is. The caller must look at
/// [`fingerprint_of`] the peer's certificates before it believes anything.
pub fn acceptor(identity: &Identity) -> Result<TlsAcceptor> {
    let provider = provider();
    let mut config = ServerConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(unusable)?
        .with_client_cert_verifier(Arc::new(AnyKey { provider }))
        .with_single_cert(vec![identity.certificate().clone()], identity.private_key())
        .map_err(unusable)?;
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(TlsAcceptor::from(Arc::new(config)))
}

/// Dials the segment that has the key `expected`; with another one the handshake fails. Sends this segment's certificate. The name to give is
/// [`server_name`].
pub fn connector(identity: &Identity, expected: Fingerprint) -> Result<TlsConnector> {
    let provider = provider();
    let mut config = ClientConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(unusable)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(OneKey { provider, expected }))
        .with_client_auth_cert(vec![identity.certificate().clone()], identity.private_key())
        .map_err(unusable)?;
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.resumption = Resumption::disabled();
    // It would tell whoever listens that this is Tombolo, and a peer has no need of it.
    config.enable_sni = false;
    Ok(TlsConnector::from(Arc::new(config)))
}

/// The name to dial with: the same for all segments, as keys and not names say who a peer is. It is not sent.
pub fn server_name() -> Result<ServerName<'static>> {
    ServerName::try_from(CERTIFICATE_NAME).map_err(unusable)
}

/// The key that a peer proved in the handshake; from `peer_certificates()` of a connection whose handshake is over. `None`: no certificate.
pub fn fingerprint_of(certificates: Option<&[CertificateDer<'_>]>) -> Option<Fingerprint> {
    Fingerprint::of_certificate(certificates?.first()?)
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

fn unusable(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
    Error::new(ErrorKind::Failed, "TLS can't be set up with this segment's key").because(error)
}

fn check_signature(
    provider: &CryptoProvider,
    message: &[u8],
    certificate: &CertificateDer<'_>,
    signed: &DigitallySignedStruct,
) -> Result<HandshakeSignatureValid, rustls::Error> {
    if !SCHEMES.contains(&signed.scheme) {
        return Err(PeerIncompatible::NoSignatureSchemesInCommon.into());
    }
    verify_tls13_signature(message, certificate, signed, &provider.signature_verification_algorithms)
}

/// One certificate, no chain: there is nobody who could have signed it.
fn check_alone(certificate: &CertificateDer<'_>, chain: &[CertificateDer<'_>]) -> Result<Fingerprint, rustls::Error> {
    let bad = || rustls::Error::InvalidCertificate(CertificateError::BadEncoding);
    if chain.is_empty() { Fingerprint::of_certificate(certificate).ok_or_else(bad) } else { Err(bad()) }
}

/// Lets in whoever proves a key.
#[derive(Debug)]
struct AnyKey {
    provider: Arc<CryptoProvider>,
}

impl ClientCertVerifier for AnyKey {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        certificate: &CertificateDer<'_>,
        chain: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        check_alone(certificate, chain).map(|_| ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(PeerIncompatible::Tls12NotOffered.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        check_signature(&self.provider, message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        SCHEMES.to_vec()
    }
}

/// Wants one key and no other.
#[derive(Debug)]
struct OneKey {
    provider: Arc<CryptoProvider>,
    expected: Fingerprint,
}

impl ServerCertVerifier for OneKey {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        chain: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if check_alone(certificate, chain)? != self.expected {
            return Err(rustls::Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure));
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(PeerIncompatible::ServerTlsVersionIsDisabledByOurConfig.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        check_signature(&self.provider, message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        SCHEMES.to_vec()
    }
}
