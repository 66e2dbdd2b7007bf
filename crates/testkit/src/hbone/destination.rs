//! A node proxy and the application behind it, in one: takes tunnels, writes down who opened them and to where, and answers
//! HTTP/1.1 with its name, or with what it saw.

use std::net::{SocketAddr, TcpListener as StdTcpListener};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use http::{Method, Response, StatusCode};
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    DigitallySignedStruct, DistinguishedName, ServerConfig, SignatureScheme,
    client::danger::HandshakeSignatureValid,
};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use super::Leaf;

/// A tunnel that was opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Opened {
    /// `:authority` of the CONNECT.
    pub authority: String,
    /// The URI in the certificate of who opened it.
    pub peer: String,
}

/// What the application says.
#[derive(Debug, Clone, Copy)]
enum Says {
    /// Its name.
    Name,
    /// `{"pod": its name, "to": :authority of the CONNECT, "head": the request's head}`.
    WhatItSaw,
}

/// Listens until dropped.
pub struct Destination {
    opened: Arc<Mutex<Vec<Opened>>>,
    runtime: Option<tokio::runtime::Runtime>,
}

impl Drop for Destination {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Destination {
    /// Listens on `at` with that certificate; the application says `name`.
    ///
    /// # Panics
    /// When it cannot listen.
    #[must_use]
    pub fn listen(at: SocketAddr, leaf: &Leaf, name: &'static str) -> Self {
        Self::start(at, leaf, name, Says::Name)
    }

    /// As [`Destination::listen`], but the application says what it saw, as JSON: `pod` (the name), `to` (`:authority` of
    /// the CONNECT), `head` (the request's, as it came).
    ///
    /// # Panics
    /// When it cannot listen.
    #[must_use]
    pub fn echo(at: SocketAddr, leaf: &Leaf, name: &'static str) -> Self {
        Self::start(at, leaf, name, Says::WhatItSaw)
    }

    fn start(at: SocketAddr, leaf: &Leaf, name: &'static str, says: Says) -> Self {
        let listener = StdTcpListener::bind(at).expect("listen");
        listener.set_nonblocking(true).expect("non-blocking");
        let acceptor = TlsAcceptor::from(config(leaf));
        let opened = Arc::new(Mutex::new(Vec::new()));
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("runtime");
        let seen = Arc::clone(&opened);
        #[expect(
            clippy::disallowed_methods,
            reason = "ended with the runtime, when the destination is dropped"
        )]
        runtime.spawn(async move {
            let listener = TcpListener::from_std(listener).expect("listener");
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, seen) = (acceptor.clone(), Arc::clone(&seen));
                tokio::spawn(async move {
                    let _ = connection(&acceptor, stream, (name, says), &seen).await;
                });
            }
        });
        Self {
            opened,
            runtime: Some(runtime),
        }
    }

    /// The tunnels so far.
    #[must_use]
    pub fn opened(&self) -> Vec<Opened> {
        self.opened
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

type Failed = Box<dyn std::error::Error + Send + Sync>;

async fn connection(
    acceptor: &TlsAcceptor,
    stream: TcpStream,
    app: (&'static str, Says),
    seen: &Mutex<Vec<Opened>>,
) -> Result<(), Failed> {
    stream.set_nodelay(true)?;
    let tls = acceptor.accept(stream).await?;
    let peer = tls.get_ref().1.peer_certificates();
    let peer = peer.and_then(|c| uri(c.first()?)).unwrap_or_default();
    let mut connection = h2::server::handshake(tls).await?;
    while let Some(request) = connection.accept().await {
        let (request, mut respond) = request?;
        if request.method() != Method::CONNECT {
            respond.send_reset(h2::Reason::REFUSED_STREAM);
            continue;
        }
        let authority = request.uri().authority().map(ToString::to_string);
        let authority = authority.unwrap_or_default();
        let answer = answer(app, authority.clone());
        seen.lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(Opened {
                authority,
                peer: peer.clone(),
            });
        let response = Response::builder().status(StatusCode::OK).body(())?;
        let send = respond.send_response(response, false)?;
        #[expect(clippy::disallowed_methods, reason = "ended with the runtime")]
        tokio::spawn(async move {
            let _ = application(request.into_body(), send, answer).await;
        });
    }
    Ok(())
}

/// What the application answers to a head.
fn answer((name, says): (&'static str, Says), authority: String) -> impl Fn(&[u8]) -> String {
    move |head| match says {
        Says::Name => name.to_owned(),
        Says::WhatItSaw => {
            let head = String::from_utf8_lossy(head);
            serde_json::json!({"pod": name, "to": authority, "head": head}).to_string()
        }
    }
}

/// Answers each request of a tunnel: heads only, which is all that a GET has.
async fn application(
    mut received: h2::RecvStream,
    mut send: h2::SendStream<Bytes>,
    answer: impl Fn(&[u8]) -> String,
) -> Result<(), Failed> {
    let mut head = Vec::new();
    while let Some(chunk) = received.data().await {
        let chunk = chunk?;
        received.flow_control().release_capacity(chunk.len())?;
        head.extend_from_slice(&chunk);
        while let Some(end) = head.windows(4).position(|w| w == b"\r\n\r\n") {
            let body = answer(&head[..end]);
            head.drain(..end + 4);
            let length = body.len();
            let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n{body}");
            send.send_data(answer.into(), false)?;
        }
    }
    send.send_data(Bytes::new(), true)?;
    Ok(())
}

/// The one URI in a certificate: DER has its length, below 128, before it.
fn uri(certificate: &CertificateDer<'_>) -> Option<String> {
    let der: &[u8] = certificate;
    let at = der.windows(9).position(|w| w == b"spiffe://")?;
    let length = usize::from(*der.get(at.checked_sub(1)?)?);
    Some(String::from_utf8_lossy(der.get(at..at + length)?).into_owned())
}

fn config(leaf: &Leaf) -> Arc<ServerConfig> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("TLS 1.3")
        .with_client_cert_verifier(Arc::new(Anybody))
        .with_single_cert(leaf.chain.clone(), leaf.key.clone_key())
        .expect("certificate and key");
    config.alpn_protocols = vec![b"h2".to_vec()];
    Arc::new(config)
}

/// Who comes is written down, not judged; it has to have a certificate.
#[derive(Debug)]
struct Anybody;

impl ClientCertVerifier for Anybody {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        Ok(ClientCertVerified::assertion())
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
        super::schemes()
    }
}
