//! A certificate authority and HBONE ends on loopback.

use std::future::Future;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use http::HeaderMap;
use rcgen::{
    BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, SanType,
};
use rustls::client::WantsClientCert;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{DigitallySignedStruct, RootCertStore, SignatureScheme};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;
use waymark_hbone_tokio::{
    Acceptor, CopyCounters, Drain, ExpectedPeer, Incoming, Pool, PoolKey, PoolSettings,
    ServerSettings, Tunnel, copy_bidirectional,
};
use waymark_identity::SpiffeId;
use waymark_rt::Tasks;

pub(crate) const LOCALHOST: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
pub(crate) const SERVER: &str = "spiffe://cluster.local/ns/default/sa/server";
pub(crate) const CLIENT: &str = "spiffe://cluster.local/ns/default/sa/client";

pub(crate) struct Ca {
    issuer: Issuer<'static, KeyPair>,
    root: CertificateDer<'static>,
}

impl Ca {
    pub(crate) fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let root = params.self_signed(&key).unwrap().der().clone();
        Self {
            issuer: Issuer::new(params, key),
            root,
        }
    }

    fn issue(&self, id: &str) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.subject_alt_names = vec![SanType::URI(id.try_into().unwrap())];
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        let cert = params.signed_by(&key, &self.issuer).unwrap();
        (
            vec![cert.der().clone()],
            PrivateKeyDer::try_from(key.serialize_der()).unwrap(),
        )
    }

    fn roots(&self) -> Arc<RootCertStore> {
        let mut roots = RootCertStore::empty();
        roots.add(self.root.clone()).unwrap();
        Arc::new(roots)
    }

    pub(crate) fn server(&self, id: &str) -> Arc<rustls::ServerConfig> {
        let (chain, key) = self.issue(id);
        let verifier =
            rustls::server::WebPkiClientVerifier::builder_with_provider(self.roots(), provider())
                .build()
                .unwrap();
        let mut config = rustls::ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_client_cert_verifier(verifier)
            .with_single_cert(chain, key)
            .unwrap();
        config.alpn_protocols = vec![b"h2".to_vec()];
        Arc::new(config)
    }

    pub(crate) fn client(&self, id: &str) -> Arc<rustls::ClientConfig> {
        let (chain, key) = self.issue(id);
        finished(
            self.client_builder()
                .with_client_auth_cert(chain, key)
                .unwrap(),
        )
    }

    pub(crate) fn client_without_certificate(&self) -> Arc<rustls::ClientConfig> {
        finished(self.client_builder().with_no_client_auth())
    }

    fn client_builder(&self) -> rustls::ConfigBuilder<rustls::ClientConfig, WantsClientCert> {
        rustls::ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(ChainOnly(self.roots())))
    }
}

fn finished(mut config: rustls::ClientConfig) -> Arc<rustls::ClientConfig> {
    config.alpn_protocols = vec![b"h2".to_vec()];
    config.enable_sni = false;
    Arc::new(config)
}

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

#[derive(Debug)]
struct ChainOnly(Arc<RootCertStore>);

impl ServerCertVerifier for ChainOnly {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let leaf = rustls::server::ParsedCertificate::try_from(leaf)?;
        let algorithms = provider().signature_verification_algorithms;
        rustls::client::verify_server_cert_signed_by_trust_anchor(
            &leaf,
            &self.0,
            intermediates,
            now,
            algorithms.all,
        )?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::General("TLS 1.2 is not spoken".into()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(
            message,
            cert,
            dss,
            &provider().signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider()
            .signature_verification_algorithms
            .supported_schemes()
    }
}

/// A running server; ends when dropped.
pub(crate) struct Server {
    pub(crate) addr: SocketAddr,
    pub(crate) acceptor: Acceptor,
    pub(crate) drain: Drain,
    pub(crate) tasks: Tasks,
}

/// Serves every CONNECT with `handler`.
pub(crate) async fn serve<H, F>(
    tls: Arc<rustls::ServerConfig>,
    settings: ServerSettings,
    handler: H,
) -> Server
where
    H: Fn(Incoming) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind((LOCALHOST, 0)).await.unwrap();
    let addr = listener.local_addr().unwrap();
    let acceptor = Acceptor::new(tls, settings);
    let drain = Drain::new();
    let tasks = Tasks::new();
    let spawner = tasks.spawner();
    let (shared, drained) = (acceptor.clone(), drain.clone());
    tasks.spawn("listener", async move {
        loop {
            let (tcp, _) = tokio::select! {
                biased;
                () = drained.cancelled() => return,
                accepted = listener.accept() => accepted.unwrap(),
            };
            let (acceptor, drain, handler, tunnels) = (
                shared.clone(),
                drained.clone(),
                handler.clone(),
                spawner.clone(),
            );
            spawner.spawn("connection", async move {
                let Ok(mut connection) = acceptor.accept(tcp, &drain).await else {
                    return;
                };
                while let Some(incoming) = connection.next().await {
                    tunnels.spawn("tunnel", handler(incoming));
                }
            });
        }
    });
    Server {
        addr,
        acceptor,
        drain,
        tasks,
    }
}

/// Sends everything back.
pub(crate) async fn echo(incoming: Incoming) {
    let Ok(tunnel) = incoming.accept(HeaderMap::new()) else {
        return;
    };
    let (mut read, mut write) = tokio::io::split(tunnel);
    let _ = tokio::io::copy(&mut read, &mut write).await;
    let _ = write.shutdown().await;
}

/// Connects to the address in the authority, as a node proxy does.
pub(crate) async fn relay(incoming: Incoming) {
    let address = incoming.authority.as_address().unwrap();
    let Ok(mut tcp) = waymark_rt::connect(address, &waymark_rt::ConnectOptions::default()).await
    else {
        return incoming.refuse(http::StatusCode::SERVICE_UNAVAILABLE);
    };
    let Ok(mut tunnel) = incoming.accept(HeaderMap::new()) else {
        return;
    };
    copy_bidirectional(&mut tunnel, &mut tcp, &CopyCounters::default()).await;
}

pub(crate) fn pool(ca: &Ca, settings: PoolSettings) -> Pool {
    Pool::new(ca.client(CLIENT), settings, &Drain::new())
}

pub(crate) fn key(destination: SocketAddr) -> PoolKey {
    PoolKey {
        source: CLIENT.parse().unwrap(),
        expected: ExpectedPeer::one(SERVER.parse::<SpiffeId>().unwrap()),
        destination,
        bind: Some(LOCALHOST),
    }
}

pub(crate) async fn open(pool: &Pool, server: &Server) -> Tunnel {
    let authority = "10.0.0.1:80".parse().unwrap();
    pool.connect(&key(server.addr), &authority, HeaderMap::new())
        .await
        .unwrap()
        .tunnel
}

/// Waits until `condition` holds.
pub(crate) async fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let held = async {
        while !condition() {
            tokio::task::yield_now().await;
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), held)
        .await
        .unwrap_or_else(|_| panic!("never: {what}"));
}
