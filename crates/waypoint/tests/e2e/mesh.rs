//! A source node, a waypoint, destination nodes and applications.

use std::convert::Infallible;
use std::future::Future;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Empty, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use waymark_hbone::{Drain, ServeAs, ServerTls};
use waymark_hbone_tokio::{
    self as peer, Acceptor, Authority, CopyCounters, ExpectedPeer, Pool, PoolKey, PoolSettings,
    ServerSettings, Tunnel, copy_bidirectional,
};
use waymark_identity::{Ca, CertHandle, PeerPolicy, SpiffeId, TrustDomain};
use waymark_rt::{ListenOptions, SystemClock, Tasks};
use waymark_waypoint::program::{Snapshot, SnapshotCell};
use waymark_waypoint::telemetry::{ServerStats, Telemetry};
use waymark_waypoint::{NodeAccount, Shared, TerminatorTls, Workers};

pub(crate) const LOCALHOST: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
pub(crate) const CLIENT: &str = "spiffe://cluster.local/ns/default/sa/client";
pub(crate) const WAYPOINT: &str = "spiffe://cluster.local/ns/default/sa/waypoint";
const NODE: &str = "spiffe://cluster.local/ns/default/sa/server";

pub(crate) type Body = BoxBody<Bytes, hyper::Error>;

/// Everything that a test needs; ends when dropped.
pub(crate) struct Mesh {
    pub(crate) ca: Ca,
    pub(crate) waypoint: SocketAddr,
    pub(crate) snapshot: SnapshotCell,
    pub(crate) telemetry: Arc<Telemetry>,
    pub(crate) drain: Drain,
    pub(crate) tasks: Tasks,
    /// The address of the destination node's tunnels.
    pub(crate) node: SocketAddr,
    /// CONNECTs that the destination node got.
    pub(crate) tunnels: Arc<AtomicUsize>,
    source: Pool,
}

impl Mesh {
    pub(crate) fn start() -> Self {
        Self::with_workers(1)
    }

    pub(crate) fn with_workers(count: usize) -> Self {
        let ca = Ca::in_memory(&trust_domain(), Arc::new(SystemClock)).unwrap();
        let snapshot = Snapshot::cell();
        let drain = Drain::new();
        let telemetry = Arc::new(Telemetry::new(
            Arc::new(ServerStats::default()),
            SystemTime::now(),
        ));
        let own = certificate(&ca, WAYPOINT);
        let shared = Arc::new(Shared {
            snapshot: Arc::clone(&snapshot),
            identity: WAYPOINT.parse().unwrap(),
            bind: Some(LOCALHOST),
            client_tls: Arc::new(own.clone()),
            node_account: NodeAccount::new("cluster.local", "istio-system/waymark-node").unwrap(),
            telemetry: Arc::clone(&telemetry),
            drain: drain.clone(),
        });
        let tls = TerminatorTls::new(
            ServeAs::new(own, PeerPolicy::AnyTrusted),
            Arc::clone(&snapshot),
        );
        let tls: Arc<dyn ServerTls> = Arc::new(tls);
        let workers = Workers::start(count, &shared, &tls).unwrap();
        let listener =
            waymark_rt::listen((LOCALHOST, 0).into(), &ListenOptions::default()).unwrap();
        let waypoint = listener.local_addr();
        let tasks = Tasks::new();
        tasks.spawn(
            "accept",
            async move { workers.accept(listener, &shared).await },
        );

        let tunnels = Arc::new(AtomicUsize::new(0));
        let node = node(&ca, &tasks, Arc::clone(&tunnels));
        let source = Pool::new(
            certificate(&ca, CLIENT),
            PoolSettings::default(),
            &peer::Drain::new(),
        );
        Self {
            ca,
            waypoint,
            snapshot,
            telemetry,
            drain,
            tasks,
            node,
            tunnels,
            source,
        }
    }

    /// Publishes a program.
    pub(crate) fn publish(&self, program: &crate::program::Program) {
        self.snapshot.store(Arc::new(program.snapshot(self.node)));
    }

    /// A tunnel to the waypoint, as the client.
    pub(crate) async fn connect(&self, authority: &str) -> Tunnel {
        self.connect_with(&self.source, CLIENT, authority, HeaderMap::new())
            .await
            .unwrap()
    }

    pub(crate) async fn connect_with(
        &self,
        pool: &Pool,
        source: &str,
        authority: &str,
        headers: HeaderMap,
    ) -> Result<Tunnel, peer::ConnectError> {
        let key = PoolKey {
            source: source.parse().unwrap(),
            expected: ExpectedPeer::one(WAYPOINT.parse().unwrap()),
            destination: self.waypoint,
            bind: None,
        };
        let authority: Authority = authority.parse().unwrap();
        Ok(pool.connect(&key, &authority, headers).await?.tunnel)
    }

    /// An HTTP/1.1 connection through the waypoint.
    pub(crate) async fn http1(&self, authority: &str) -> Client1 {
        let tunnel = self.connect(authority).await;
        let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(tunnel))
            .await
            .unwrap();
        let driver = waymark_rt::spawn("client", async move {
            let _ = connection.with_upgrades().await;
        });
        Client1 {
            sender,
            _driver: driver,
        }
    }

    /// An HTTP/2 connection through the waypoint.
    pub(crate) async fn http2(&self, authority: &str) -> Client2 {
        let tunnel = self.connect(authority).await;
        let (sender, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(tunnel))
                .await
                .unwrap();
        let driver = waymark_rt::spawn("client", async move {
            let _ = connection.await;
        });
        Client2 {
            sender,
            _driver: driver,
        }
    }

    /// One GET over a connection of its own.
    pub(crate) async fn get(&self, authority: &str, path: &str) -> Answer {
        self.http1(authority).await.get(path).await
    }

    /// An HTTP/1.1 and HTTP/2 application on an address of its own.
    pub(crate) fn app<H, F>(&self, handler: H) -> SocketAddr
    where
        H: Fn(Request<Incoming>) -> F + Clone + Send + Sync + 'static,
        F: Future<Output = Response<Body>> + Send + 'static,
    {
        app(&self.tasks, handler)
    }

    /// An application that says its name.
    pub(crate) fn named(&self, name: &'static str) -> SocketAddr {
        self.app(move |_| async move { text(StatusCode::OK, name) })
    }

    /// An application that gets each connection raw.
    pub(crate) fn raw_app<H, F>(&self, handler: H) -> SocketAddr
    where
        H: Fn(tokio::net::TcpStream) -> F + Clone + Send + Sync + 'static,
        F: Future<Output = ()> + Send + 'static,
    {
        let listener = listener();
        let addr = listener.local_addr().unwrap();
        let spawner = self.tasks.spawner();
        self.tasks.spawn("raw app", async move {
            let listener = TcpListener::from_std(listener).unwrap();
            while let Ok((tcp, _)) = listener.accept().await {
                let _ = tcp.set_nodelay(true);
                spawner.spawn("raw connection", handler(tcp));
            }
        });
        addr
    }

    /// An address where nothing listens.
    pub(crate) fn nowhere(&self) -> SocketAddr {
        listener().local_addr().unwrap()
    }
}

impl Drop for Mesh {
    fn drop(&mut self) {
        self.drain.kill();
    }
}

fn listener() -> std::net::TcpListener {
    let listener = std::net::TcpListener::bind((LOCALHOST, 0)).unwrap();
    listener.set_nonblocking(true).unwrap();
    listener
}

pub(crate) fn app<H, F>(tasks: &Tasks, handler: H) -> SocketAddr
where
    H: Fn(Request<Incoming>) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Response<Body>> + Send + 'static,
{
    let listener = listener();
    let addr = listener.local_addr().unwrap();
    let spawner = tasks.spawner();
    tasks.spawn("app", async move {
        let listener = TcpListener::from_std(listener).unwrap();
        while let Ok((tcp, _)) = listener.accept().await {
            let _ = tcp.set_nodelay(true);
            let handler = handler.clone();
            spawner.spawn("app connection", async move {
                let service = service_fn(move |request| {
                    let response = handler(request);
                    async move { Ok::<_, Infallible>(response.await) }
                });
                let server = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
                let _ = server
                    .serve_connection_with_upgrades(TokioIo::new(tcp), service)
                    .await;
            });
        }
    });
    addr
}

/// A node proxy: connects to whatever address a CONNECT names.
fn node(ca: &Ca, tasks: &Tasks, tunnels: Arc<AtomicUsize>) -> SocketAddr {
    let listener = listener();
    let addr = listener.local_addr().unwrap();
    let tls = peer::ServeAs::new(
        certificate(ca, NODE),
        PeerPolicy::trust_domain(trust_domain()),
    );
    let acceptor = Acceptor::new(tls, ServerSettings::default());
    let spawner = tasks.spawner();
    tasks.spawn("node", async move {
        let listener = TcpListener::from_std(listener).unwrap();
        while let Ok((tcp, _)) = listener.accept().await {
            let (acceptor, spawner, tunnels) =
                (acceptor.clone(), spawner.clone(), Arc::clone(&tunnels));
            spawner.clone().spawn("node connection", async move {
                let Ok(mut connection) = acceptor.accept(tcp, &peer::Drain::new()).await else {
                    return;
                };
                while let Some(incoming) = connection.next().await {
                    tunnels.fetch_add(1, Ordering::Relaxed);
                    spawner.spawn("node tunnel", async move {
                        let to = incoming.authority.as_address().unwrap();
                        if to.port() < 600 {
                            let status = StatusCode::from_u16(to.port()).unwrap();
                            return incoming.refuse(status);
                        }
                        let options = waymark_rt::ConnectOptions::default();
                        let Ok(mut tcp) = waymark_rt::connect(to, &options).await else {
                            return incoming.refuse(StatusCode::SERVICE_UNAVAILABLE);
                        };
                        let Ok(mut tunnel) = incoming.accept(HeaderMap::new()) else {
                            return;
                        };
                        copy_bidirectional(&mut tunnel, &mut tcp, &CopyCounters::default()).await;
                    });
                }
            });
        }
    });
    addr
}

pub(crate) fn trust_domain() -> TrustDomain {
    "cluster.local".parse().unwrap()
}

pub(crate) fn certificate(ca: &Ca, id: &str) -> CertHandle {
    let id: SpiffeId = id.parse().unwrap();
    CertHandle::fixed(ca.credentials_for(&id, None).unwrap())
}

/// An HTTP/1.1 client.
pub(crate) struct Client1 {
    pub(crate) sender: hyper::client::conn::http1::SendRequest<Body>,
    _driver: waymark_rt::Task<()>,
}

/// An HTTP/2 client.
pub(crate) struct Client2 {
    pub(crate) sender: hyper::client::conn::http2::SendRequest<Body>,
    _driver: waymark_rt::Task<()>,
}

impl Client1 {
    pub(crate) async fn send(&mut self, request: Request<Body>) -> Answer {
        self.try_send(request).await.unwrap()
    }

    pub(crate) async fn try_send(
        &mut self,
        request: Request<Body>,
    ) -> Result<Answer, hyper::Error> {
        self.sender.ready().await?;
        Answer::of(self.sender.send_request(request).await?).await
    }

    pub(crate) async fn get(&mut self, path: &str) -> Answer {
        self.send(get(path)).await
    }
}

impl Client2 {
    pub(crate) async fn send(&mut self, request: Request<Body>) -> Answer {
        Answer::of(self.sender.send_request(request).await.unwrap())
            .await
            .unwrap()
    }
}

/// A whole response.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
    pub(crate) trailers: Option<HeaderMap>,
}

impl Answer {
    async fn of(response: Response<Incoming>) -> Result<Self, hyper::Error> {
        let (head, body) = response.into_parts();
        let body = body.collect().await?;
        let trailers = body.trailers().cloned();
        Ok(Self {
            status: head.status.as_u16(),
            headers: head.headers,
            body: body.to_bytes(),
            trailers,
        })
    }

    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|v| v.to_str().unwrap())
    }
}

pub(crate) fn empty() -> Body {
    Empty::new().map_err(|never| match never {}).boxed()
}

pub(crate) fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into())
        .map_err(|never| match never {})
        .boxed()
}

/// A body that is sent piece by piece.
pub(crate) fn streamed() -> (mpsc::Sender<Bytes>, Body) {
    let (send, receive) = mpsc::channel(16);
    let stream = tokio_stream_of(receive);
    (
        send,
        BodyExt::boxed(http_body_util::StreamBody::new(stream)),
    )
}

fn tokio_stream_of(
    receive: mpsc::Receiver<Bytes>,
) -> impl futures_util::Stream<Item = Result<http_body::Frame<Bytes>, hyper::Error>> {
    futures_util::stream::unfold(receive, |mut receive| async move {
        receive
            .recv()
            .await
            .map(|bytes| (Ok(http_body::Frame::data(bytes)), receive))
    })
}

pub(crate) fn text(status: StatusCode, body: impl Into<Bytes>) -> Response<Body> {
    let mut response = Response::new(full(body));
    *response.status_mut() = status;
    response
}

pub(crate) fn get(path: &str) -> Request<Body> {
    Request::get(path)
        .header("host", "reviews")
        .body(empty())
        .unwrap()
}

pub(crate) fn post(path: &str, body: Body) -> Request<Body> {
    Request::post(path)
        .header("host", "reviews")
        .body(body)
        .unwrap()
}

/// Waits until `condition` holds.
pub(crate) async fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let held = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(15), held)
        .await
        .unwrap_or_else(|_| panic!("never: {what}"));
}
