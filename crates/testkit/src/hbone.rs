//! An HBONE client and a destination made of the h2 crate alone: what a peer that shares no code with ours sees.

mod destination;

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use h2::client::SendRequest;
use http::{Method, Request, StatusCode};
use rustls::ClientConfig;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{DigitallySignedStruct, SignatureScheme};
use tokio::net::{TcpSocket, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

pub use destination::{Destination, Opened};

const TIMEOUT: Duration = Duration::from_secs(10);

/// Why there is no tunnel.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// TCP or TLS.
    #[error("connect to {0}")]
    Connect(SocketAddr, #[source] std::io::Error),
    /// HTTP/2.
    #[error("HTTP/2")]
    H2(#[from] h2::Error),
    /// The peer said no.
    #[error("CONNECT was answered with {0}")]
    Status(StatusCode),
    /// Nothing came.
    #[error("no answer within {TIMEOUT:?}")]
    Timeout,
}

/// A leaf certificate with its key.
pub struct Leaf {
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
}

/// A CA of which leaves are made.
pub struct Issuer {
    issuer: rcgen::Issuer<'static, rcgen::KeyPair>,
}

impl Issuer {
    /// The CA in a mesh's state directory: what it signs, the mesh believes.
    ///
    /// # Panics
    /// When the files are not there or not a CA.
    #[must_use]
    pub fn of_mesh(state: &Path) -> Self {
        let read =
            |name: &str| std::fs::read_to_string(state.join("ca").join(name)).expect("CA file");
        let key = rcgen::KeyPair::from_pem(&read("ca-key.pem")).expect("CA key");
        let issuer =
            rcgen::Issuer::from_ca_cert_pem(&read("ca-cert.pem"), key).expect("CA certificate");
        Self { issuer }
    }

    /// A CA that nobody knows.
    ///
    /// # Panics
    /// Never: the parameters are good.
    #[must_use]
    pub fn unknown() -> Self {
        let key = rcgen::KeyPair::generate().expect("key");
        let mut params = rcgen::CertificateParams::default();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        params
            .distinguished_name
            .push(rcgen::DnType::OrganizationName, "cluster.local");
        Self {
            issuer: rcgen::Issuer::new(params, key),
        }
    }

    /// A leaf with that URI as its only name.
    ///
    /// # Panics
    /// When the URI can't be a name.
    #[must_use]
    pub fn leaf(&self, uri: &str) -> Leaf {
        let key = rcgen::KeyPair::generate().expect("key");
        let mut params = rcgen::CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.subject_alt_names = vec![rcgen::SanType::URI(uri.try_into().expect("URI"))];
        params.extended_key_usages = vec![
            rcgen::ExtendedKeyUsagePurpose::ClientAuth,
            rcgen::ExtendedKeyUsagePurpose::ServerAuth,
        ];
        let certificate = params.signed_by(&key, &self.issuer).expect("sign");
        Leaf {
            chain: vec![certificate.der().clone()],
            key: PrivateKeyDer::Pkcs8(key.serialize_der().into()),
        }
    }
}

/// A connection to a 15008.
pub struct Client {
    send: SendRequest<Bytes>,
    connection: tokio::task::JoinHandle<()>,
}

impl Drop for Client {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

/// TLS to a 15008, without HTTP/2 yet.
///
/// # Errors
/// When there is no connection, or the handshake is refused.
pub async fn tls(
    source: Option<IpAddr>,
    to: SocketAddr,
    leaf: Option<&Leaf>,
) -> Result<TlsStream<TcpStream>, DialError> {
    let failed = |e| DialError::Connect(to, e);
    let dial = async {
        let socket = TcpSocket::new_v4().map_err(failed)?;
        if let Some(source) = source {
            socket.bind(SocketAddr::new(source, 0)).map_err(failed)?;
        }
        let stream = socket.connect(to).await.map_err(failed)?;
        stream.set_nodelay(true).map_err(failed)?;
        let name = ServerName::IpAddress(to.ip().into());
        TlsConnector::from(config(leaf))
            .connect(name, stream)
            .await
            .map_err(failed)
    };
    tokio::time::timeout(TIMEOUT, dial)
        .await
        .map_err(|_| DialError::Timeout)?
}

impl Client {
    /// Connects with that certificate.
    ///
    /// # Errors
    /// When there is no connection, or the peer refuses the certificate (TLS 1.3 tells a client only when it reads).
    pub async fn connect(
        source: Option<IpAddr>,
        to: SocketAddr,
        leaf: Option<&Leaf>,
    ) -> Result<Self, DialError> {
        let stream = tls(source, to, leaf).await?;
        let (send, connection) = h2::client::handshake(stream).await?;
        #[expect(
            clippy::disallowed_methods,
            reason = "aborted when the client is dropped"
        )]
        let connection = tokio::spawn(async move {
            let _ = connection.await;
        });
        Ok(Self { send, connection })
    }

    /// Sends a request on a tunnel of its own and returns everything that comes back.
    ///
    /// # Errors
    /// When the tunnel is refused or breaks.
    pub async fn exchange(
        &mut self,
        authority: &str,
        headers: &[(&str, &str)],
        bytes: &[u8],
    ) -> Result<Vec<u8>, DialError> {
        let (all, broken) = self.talk(authority, headers, bytes, |_| false).await?;
        broken.map_or(Ok(all), |e| Err(e.into()))
    }

    /// As [`Client::exchange`], but the client ends its side once `complete` says that the answer is whole, and a peer that
    /// then resets the tunnel instead of ending it has done nothing wrong.
    ///
    /// # Errors
    /// When the tunnel is refused, or breaks otherwise.
    pub async fn exchange_until(
        &mut self,
        authority: &str,
        bytes: &[u8],
        complete: impl Fn(&[u8]) -> bool,
    ) -> Result<Vec<u8>, DialError> {
        match self.talk(authority, &[], bytes, complete).await? {
            (_, Some(broken)) if !broken.is_reset() => Err(broken.into()),
            (all, _) => Ok(all),
        }
    }

    /// What came back, and how the tunnel broke if it did.
    async fn talk(
        &mut self,
        authority: &str,
        headers: &[(&str, &str)],
        bytes: &[u8],
        complete: impl Fn(&[u8]) -> bool,
    ) -> Result<(Vec<u8>, Option<h2::Error>), DialError> {
        let mut request = Request::builder().method(Method::CONNECT).uri(authority);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(()).expect("a good request");
        let talk = async {
            let mut send = self.send.clone().ready().await?;
            let (response, mut body) = send.send_request(request, false)?;
            let response = response.await?;
            if response.status() != StatusCode::OK {
                return Err(DialError::Status(response.status()));
            }
            body.send_data(Bytes::copy_from_slice(bytes), false)?;
            let mut received = response.into_body();
            let (mut all, mut ended) = (Vec::new(), false);
            while let Some(chunk) = received.data().await {
                let chunk = match chunk {
                    Ok(chunk) => chunk,
                    Err(e) => return Ok((all, Some(e))),
                };
                received.flow_control().release_capacity(chunk.len())?;
                all.extend_from_slice(&chunk);
                if !ended && complete(&all) {
                    ended = true;
                    body.send_data(Bytes::new(), true)?;
                }
            }
            Ok((all, None))
        };
        tokio::time::timeout(TIMEOUT, talk)
            .await
            .map_err(|_| DialError::Timeout)?
    }
}

fn config(leaf: Option<&Leaf>) -> Arc<ClientConfig> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("TLS 1.3")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anybody));
    let mut config = match leaf {
        Some(leaf) => builder
            .with_client_auth_cert(leaf.chain.clone(), leaf.key.clone_key())
            .expect("certificate and key"),
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    Arc::new(config)
}

/// The test judges what the server does with the client, not the server.
#[derive(Debug)]
struct Anybody;

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        schemes()
    }
}

fn schemes() -> Vec<SignatureScheme> {
    vec![
        SignatureScheme::ECDSA_NISTP256_SHA256,
        SignatureScheme::ECDSA_NISTP384_SHA384,
        SignatureScheme::RSA_PSS_SHA256,
        SignatureScheme::RSA_PKCS1_SHA256,
        SignatureScheme::ED25519,
    ]
}
