//! A certificate authority and HBONE ends on loopback.

use std::future::{Future, poll_fn};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::task::Poll;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rcgen::{
    BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, SanType,
};
use rustls::client::WantsClientCert;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{DigitallySignedStruct, RootCertStore, SignatureScheme};
use waymark_driver::io::{finish, put_all};
use waymark_driver::{
    Executor, Io, Socket, Tasks, TcpListener, TcpStream, now, sleep, spawn, timeout,
};
use waymark_hbone::{
    Acceptor, CopyCounters, Drain, ExpectedPeer, Incoming, Pool, PoolKey, PoolSettings,
    ServerSettings, Tunnel, copy_bidirectional,
};
use waymark_identity::SpiffeId;

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
        config.enable_secret_extraction = true;
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
    config.enable_secret_extraction = true;
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

/// Runs a test on an executor of its own, with a limit.
pub(crate) fn run<F: Future>(test: F) -> F::Output {
    let mut executor = Executor::new().unwrap();
    let output = executor.block_on(timeout(Duration::from_secs(60), test));
    assert_eq!(executor.panicked(), 0);
    output.expect("the test takes too long")
}

/// A running server on a thread of its own; ends when dropped.
pub(crate) struct Server {
    pub(crate) addr: SocketAddr,
    pub(crate) acceptor: Acceptor,
    pub(crate) drain: Drain,
    /// Connections and tunnels that somebody serves.
    pub(crate) open: Arc<AtomicUsize>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.drain.kill();
        if let Some(thread) = self.thread.take() {
            let ended = thread.join();
            if !std::thread::panicking() {
                ended.expect("the server's thread");
            }
        }
    }
}

/// Serves every CONNECT with `handler`.
pub(crate) fn serve<H, F>(
    tls: Arc<rustls::ServerConfig>,
    settings: ServerSettings,
    handler: H,
) -> Server
where
    H: Fn(Incoming) -> F + Clone + Send + 'static,
    F: Future<Output = ()> + 'static,
{
    serve_some(tls, settings, usize::MAX, handler)
}

/// As [`serve`], with connections that say GOAWAY after that many streams.
pub(crate) fn serve_some<H, F>(
    tls: Arc<rustls::ServerConfig>,
    settings: ServerSettings,
    streams: usize,
    handler: H,
) -> Server
where
    H: Fn(Incoming) -> F + Clone + Send + 'static,
    F: Future<Output = ()> + 'static,
{
    let acceptor = Acceptor::new(tls, settings);
    let drain = Drain::new();
    let open = Arc::new(AtomicUsize::new(0));
    let (told, addr) = mpsc::channel();
    let (shared, drained, counted) = (acceptor.clone(), drain.clone(), Arc::clone(&open));
    let thread = std::thread::spawn(move || {
        let mut executor = Executor::new().unwrap();
        executor.block_on(async move {
            let listener = std::net::TcpListener::bind((LOCALHOST, 0)).unwrap();
            let listener = TcpListener::from_std(listener).unwrap();
            told.send(listener.local_addr()).unwrap();
            let killed = drained.killed();
            let tasks = Tasks::new();
            let group = tasks.clone();
            let accepting = spawn("listener", async move {
                let served = Served {
                    handler,
                    streams,
                    open: counted,
                    tasks: group,
                };
                accept(listener, &shared, &drained, served).await;
            });
            killed.cancelled().await;
            drop(accepting);
            drop(tasks);
        });
        assert_eq!(executor.panicked(), 0);
    });
    Server {
        addr: addr.recv().unwrap(),
        acceptor,
        drain,
        open,
        thread: Some(thread),
    }
}

/// What becomes of the streams of a server.
struct Served<H> {
    handler: H,
    streams: usize,
    open: Arc<AtomicUsize>,
    tasks: Tasks,
}

async fn accept<H, F>(
    mut listener: TcpListener,
    acceptor: &Acceptor,
    drain: &Drain,
    served: Served<H>,
) where
    H: Fn(Incoming) -> F + Clone + 'static,
    F: Future<Output = ()> + 'static,
{
    let mut drained = Box::pin(drain.cancelled());
    loop {
        let mut accepted = Box::pin(listener.accept());
        let socket = poll_fn(|cx| {
            if drained.as_mut().poll(cx).is_ready() {
                return Poll::Ready(None);
            }
            accepted.as_mut().poll(cx).map(Some)
        });
        let Some(socket) = socket.await else { return };
        drop(accepted);
        let (acceptor, drain, handler) = (acceptor.clone(), drain.child(), served.handler.clone());
        let (open, group, streams) = (
            Counted::new(&served.open),
            served.tasks.clone(),
            served.streams,
        );
        served.tasks.spawn("connection", async move {
            let tcp = TcpStream::adopt(socket).unwrap();
            let Ok(mut connection) = acceptor.accept(tcp, &drain).await else {
                return;
            };
            let mut taken = 0;
            while let Some(incoming) = connection.next().await {
                let counted = Counted::new(&open.0);
                let served = handler(incoming);
                group.spawn("tunnel", async move {
                    served.await;
                    drop(counted);
                });
                taken += 1;
                if taken == streams {
                    drain.start();
                }
            }
            drop(open);
        });
    }
}

/// Counts itself.
struct Counted(Arc<AtomicUsize>);

impl Counted {
    fn new(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(count))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Sends everything back.
pub(crate) async fn echo(incoming: Incoming) {
    let Ok(mut tunnel) = incoming.accept([]) else {
        return;
    };
    loop {
        let Ok(chunk) = chunk(&mut tunnel).await else {
            return;
        };
        if chunk.is_empty() {
            let _ = finish(&mut tunnel).await;
            return;
        }
        if put_all(&mut tunnel, &chunk).await.is_err() {
            return;
        }
    }
}

/// Connects to the address in the authority, as a node proxy does.
pub(crate) async fn relay(incoming: Incoming) {
    let address = incoming.authority.as_address().unwrap();
    let Ok(tcp) = TcpStream::connect(address, &waymark_rt::ConnectOptions::default()).await else {
        return incoming.refuse(http::StatusCode::SERVICE_UNAVAILABLE);
    };
    let mut tcp = Socket::plain(tcp).unwrap();
    let Ok(mut tunnel) = incoming.accept([]) else {
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
    pool.connect(&key(server.addr), &authority, [])
        .await
        .unwrap()
        .tunnel
}

/// Takes what has come.
pub(crate) async fn chunk(io: &mut impl Io) -> std::io::Result<Vec<u8>> {
    let chunk = poll_fn(|cx| io.poll_fill(cx).map_ok(<[u8]>::to_vec)).await?;
    io.consume(chunk.len());
    Ok(chunk)
}

/// Takes exactly this much.
pub(crate) async fn exactly(io: &mut impl Io, count: usize) -> Vec<u8> {
    let mut got = Vec::new();
    while got.len() < count {
        let wanted = count - got.len();
        let taken = poll_fn(|cx| {
            io.poll_fill(cx).map_ok(|bytes| {
                let taken = &bytes[..bytes.len().min(wanted)];
                got.extend_from_slice(taken);
                taken.len()
            })
        });
        let taken = taken.await.unwrap();
        assert!(taken > 0, "ended early");
        io.consume(taken);
    }
    got
}

/// Says it and waits for the echo.
pub(crate) async fn ping(tunnel: &mut Tunnel, what: &[u8]) {
    put_all(tunnel, what).await.unwrap();
    assert_eq!(exactly(tunnel, what.len()).await, what);
}

/// Waits until `condition` holds, while the executor runs.
pub(crate) async fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = now() + Duration::from_secs(10);
    while !condition() {
        assert!(now() < deadline, "never: {what}");
        sleep(Duration::from_millis(1)).await;
    }
}

/// Waits until `condition` holds for the server on its own thread.
pub(crate) fn eventually_there(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !condition() {
        assert!(Instant::now() < deadline, "never: {what}");
        std::thread::park_timeout(Duration::from_millis(1));
    }
}
