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

#[cfg(test)]
mod tests {
    use super::*;
    use rustls::client::ResolvesClientCert;
    use rustls::server::{ClientHello, ResolvesServerCert};
    use rustls::sign::CertifiedKey;
    use rustls::{ProtocolVersion, SupportedProtocolVersion};
    use std::io;
    use std::time::Duration;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};
    use tokio_rustls::{client, server};

    const DEADLINE: Duration = Duration::from_secs(60);

    struct Segment {
        dir: tempfile::TempDir,
        identity: Identity,
    }

    fn segment() -> Segment {
        let dir = tempfile::tempdir().unwrap();
        let identity = Identity::load_or_create(dir.path()).unwrap();
        Segment { dir, identity }
    }

    /// Both ends of one handshake over loopback. In TLS 1.3 the side that dials is done before the other has looked at its certificate, so it also
    /// waits for a first byte.
    async fn shake(
        acceptor: TlsAcceptor,
        connector: TlsConnector,
    ) -> (io::Result<server::TlsStream<TcpStream>>, io::Result<client::TlsStream<TcpStream>>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let take = async {
            let mut stream = acceptor.accept(listener.accept().await?.0).await?;
            stream.write_all(b"!").await?;
            stream.flush().await?;
            Ok(stream)
        };
        let dial = async {
            let mut stream = connector.connect(server_name().unwrap(), TcpStream::connect(address).await?).await?;
            assert_eq!(stream.read_u8().await?, b'!');
            Ok(stream)
        };
        tokio::time::timeout(DEADLINE, async { tokio::join!(take, dial) }).await.expect("the handshake ends")
    }

    /// A client whose certificate and key are any, or absent.
    #[derive(Debug)]
    struct Shown(Option<Arc<CertifiedKey>>);

    impl ResolvesClientCert for Shown {
        fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
            self.0.clone()
        }

        fn has_certs(&self) -> bool {
            self.0.is_some()
        }
    }

    impl ResolvesServerCert for Shown {
        fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
            self.0.clone()
        }
    }

    /// The certificates of some with the key of another.
    fn shown(certificates: &[&Identity], key: &Identity) -> Arc<Shown> {
        let key = provider().key_provider.load_private_key(key.private_key()).unwrap();
        let certificates = certificates.iter().map(|identity| identity.certificate().clone()).collect();
        Arc::new(Shown(Some(Arc::new(CertifiedKey::new(certificates, key)))))
    }

    fn odd_client(
        expected: &Identity,
        version: &'static SupportedProtocolVersion,
        shown: Arc<Shown>,
        protocols: &[&[u8]],
    ) -> TlsConnector {
        let expected = expected.fingerprint();
        let mut config = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[version])
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(OneKey { provider: provider(), expected }))
            .with_client_cert_resolver(shown);
        config.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
        TlsConnector::from(Arc::new(config))
    }

    fn odd_server(shown: Arc<Shown>) -> TlsAcceptor {
        let config = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_client_cert_verifier(Arc::new(AnyKey { provider: provider() }))
            .with_cert_resolver(shown);
        TlsAcceptor::from(Arc::new(config))
    }

    fn reason<T>(result: &io::Result<T>) -> rustls::Error {
        let error = result.as_ref().err().expect("it is refused");
        let inner = error.get_ref().unwrap_or_else(|| panic!("{error}: not TLS' refusal"));
        inner.downcast_ref::<rustls::Error>().unwrap_or_else(|| panic!("{error}: not TLS' refusal")).clone()
    }

    #[tokio::test]
    async fn both_sides_see_the_key_of_the_other() {
        let (taker, dialer) = (segment().identity, segment().identity);
        let connector = connector(&dialer, taker.fingerprint()).unwrap();
        let (took, dialed) = shake(acceptor(&taker).unwrap(), connector).await;
        let (took, dialed) = (took.unwrap(), dialed.unwrap());
        assert_eq!(fingerprint_of(took.get_ref().1.peer_certificates()), Some(dialer.fingerprint()));
        assert_eq!(fingerprint_of(dialed.get_ref().1.peer_certificates()), Some(taker.fingerprint()));
        for protocol in [took.get_ref().1.alpn_protocol(), dialed.get_ref().1.alpn_protocol()] {
            assert_eq!(protocol, Some(ALPN));
        }
        assert_eq!(took.get_ref().1.protocol_version(), Some(ProtocolVersion::TLSv1_3));
        assert_eq!(fingerprint_of(None), None);
        assert_eq!(fingerprint_of(Some(&[])), None);
    }

    #[tokio::test]
    async fn a_server_with_another_key_is_refused() {
        let (taker, dialer) = (segment(), segment());
        let connector = connector(&dialer.identity, dialer.identity.fingerprint()).unwrap();
        let (took, dialed) = shake(acceptor(&taker.identity).unwrap(), connector).await;
        let refused = rustls::Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure);
        assert_eq!(reason(&dialed), refused);
        assert!(matches!(reason(&took), rustls::Error::AlertReceived(_)));
    }

    /// Certificates are public: whoever shows one must have its key.
    #[tokio::test]
    async fn the_certificate_of_another_is_no_proof() {
        let (taker, dialer, thief) = (segment(), segment(), segment());
        let stolen = shown(&[&dialer.identity], &thief.identity);
        let client = odd_client(&taker.identity, &rustls::version::TLS13, stolen, &[ALPN]);
        let (took, dialed) = shake(acceptor(&taker.identity).unwrap(), client).await;
        assert_eq!(reason(&took), rustls::Error::InvalidCertificate(CertificateError::BadSignature));
        assert!(matches!(reason(&dialed), rustls::Error::AlertReceived(_)));

        let server = odd_server(shown(&[&taker.identity], &thief.identity));
        let connector = connector(&dialer.identity, taker.identity.fingerprint()).unwrap();
        let (_, dialed) = shake(server, connector).await;
        assert_eq!(reason(&dialed), rustls::Error::InvalidCertificate(CertificateError::BadSignature));
    }

    /// A chain could hide whose key was proven from a caller who looks at another certificate of it.
    #[tokio::test]
    async fn a_chain_is_refused() {
        let (taker, dialer) = (segment(), segment());
        let chain = shown(&[&dialer.identity, &taker.identity], &dialer.identity);
        let client = odd_client(&taker.identity, &rustls::version::TLS13, chain, &[ALPN]);
        let (took, _) = shake(acceptor(&taker.identity).unwrap(), client).await;
        assert_eq!(reason(&took), rustls::Error::InvalidCertificate(CertificateError::BadEncoding));
    }

    #[tokio::test]
    async fn a_client_without_a_certificate_is_refused() {
        let taker = segment();
        let client = odd_client(&taker.identity, &rustls::version::TLS13, Arc::new(Shown(None)), &[ALPN]);
        let (took, dialed) = shake(acceptor(&taker.identity).unwrap(), client).await;
        assert_eq!(reason(&took), rustls::Error::NoCertificatesPresented);
        assert!(matches!(reason(&dialed), rustls::Error::AlertReceived(_)));
    }

    #[tokio::test]
    async fn older_tls_is_refused() {
        let (taker, dialer) = (segment(), segment());
        let shown = shown(&[&dialer.identity], &dialer.identity);
        let client = odd_client(&taker.identity, &rustls::version::TLS12, shown, &[ALPN]);
        let (took, dialed) = shake(acceptor(&taker.identity).unwrap(), client).await;
        assert!(matches!(reason(&took), rustls::Error::PeerIncompatible(_)), "{took:?}");
        assert!(matches!(reason(&dialed), rustls::Error::AlertReceived(_)), "{dialed:?}");
    }

    #[tokio::test]
    async fn another_protocol_is_refused() {
        let (taker, dialer) = (segment(), segment());
        let shown = shown(&[&dialer.identity], &dialer.identity);
        let client = odd_client(&taker.identity, &rustls::version::TLS13, shown, &[b"h2", b"tombolo-link/9"]);
        let (took, _) = shake(acceptor(&taker.identity).unwrap(), client).await;
        assert_eq!(reason(&took), rustls::Error::NoApplicationProtocol);
    }

    #[tokio::test]
    async fn a_rotated_key_is_another_key() {
        let (taker, dialer) = (segment(), segment());
        let rotated = Identity::adopt(taker.dir.path()).unwrap();
        let old = connector(&dialer.identity, taker.identity.fingerprint()).unwrap();
        assert!(shake(acceptor(&rotated).unwrap(), old).await.1.is_err());
        let new = connector(&dialer.identity, rotated.fingerprint()).unwrap();
        assert!(shake(acceptor(&rotated).unwrap(), new).await.1.is_ok());
    }
}
