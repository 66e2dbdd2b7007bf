//! The load generator: a source node proxy without the application.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Buf, Bytes, BytesMut};
use clap::{Args, ValueEnum};
use h2::client::SendRequest;
use hdrhistogram::Histogram;
use http::{Method, Request, StatusCode};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use serde::Serialize;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpSocket;
use tokio::task::{JoinHandle, LocalSet};
use tokio_rustls::TlsConnector;

use crate::certs::{Ca, CertError};

const WINDOW: u32 = 16 << 20;
const HIGHEST_US: u64 = 60_000_000;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// What is spoken inside a tunnel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Inner {
    H1,
    H2,
}

/// What a round measures.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Mode {
    /// Requests on open tunnels, as fast as answers come, or at `--rate`.
    Requests,
    /// A new CONNECT on a live connection for each request.
    Connects,
    /// A new mTLS connection for each request.
    Connections,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct LoadArgs {
    /// Where the proxy accepts HBONE.
    #[arg(long)]
    pub(crate) target: SocketAddr,
    /// What is asked for: CONNECT to this.
    #[arg(long)]
    pub(crate) authority: String,
    /// Directory with ca-cert.pem, ca-key.pem, root-cert.pem.
    #[arg(long)]
    pub(crate) ca_dir: PathBuf,
    /// Own identity.
    #[arg(long, default_value = "spiffe://cluster.local/ns/bench/sa/client")]
    pub(crate) identity: String,
    /// Address to connect from.
    #[arg(long)]
    pub(crate) source: Option<IpAddr>,
    /// TLS connections.
    #[arg(long, default_value_t = 4)]
    pub(crate) connections: usize,
    /// Tunnels on each connection.
    #[arg(long, default_value_t = 8)]
    pub(crate) streams: usize,
    /// What is spoken inside.
    #[arg(long, value_enum, default_value = "h1")]
    pub(crate) inner: Inner,
    /// Inner HTTP/2 streams in each tunnel.
    #[arg(long, default_value_t = 1)]
    pub(crate) inner_streams: usize,
    /// What is measured.
    #[arg(long, value_enum, default_value = "requests")]
    pub(crate) mode: Mode,
    /// Requests per second over all, evenly paced; 0: closed loop.
    #[arg(long, default_value_t = 0)]
    pub(crate) rate: u32,
    /// How long to measure.
    #[arg(long, default_value_t = 5.0)]
    pub(crate) seconds: f64,
    /// How long to run before measuring.
    #[arg(long, default_value_t = 1.0)]
    pub(crate) warm_up: f64,
    /// Process whose CPU time is taken.
    #[arg(long)]
    pub(crate) pid: Option<u32>,
}

/// What was measured.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Measured {
    pub(crate) requests: u64,
    pub(crate) failed: u64,
    pub(crate) per_second: f64,
    /// Microseconds of the proxy's CPU for each request, if a process was named.
    pub(crate) cpu_us: Option<f64>,
    pub(crate) p50_ms: f64,
    pub(crate) p99_ms: f64,
    pub(crate) max_ms: f64,
    /// Resident set of the proxy at the end, if a process was named.
    pub(crate) rss_mib: Option<f64>,
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum LoadError {
    #[error(transparent)]
    Certs(#[from] CertError),
    #[error("connect to {0}")]
    Connect(SocketAddr, #[source] std::io::Error),
    #[error("HTTP/2 with the proxy")]
    H2(#[from] h2::Error),
    #[error("HTTP inside the tunnel")]
    Inner(#[from] hyper::Error),
    #[error("CONNECT was answered with {0}")]
    Status(StatusCode),
    #[error("the tunnel ended before the answer was whole")]
    CutShort,
    #[error("answer was {0}")]
    Answer(String),
    #[error("no connection within {CONNECT_TIMEOUT:?}")]
    Timeout,
    #[error("a histogram can't be made")]
    Histogram(#[from] hdrhistogram::CreationError),
}

pub(crate) async fn run(args: &LoadArgs) -> Result<Measured, LoadError> {
    let tls = Ca::load(&args.ca_dir)?.client(&args.identity)?;
    LocalSet::new().run_until(drive(args, tls)).await
}

/// Shared by the workers of one run.
struct Shared {
    args: LoadArgs,
    tls: Arc<ClientConfig>,
    measure_from: Instant,
    until: Instant,
}

#[derive(Default)]
struct Tally {
    latencies_us: Vec<u64>,
    failed: u64,
    first_error: Option<String>,
}

async fn drive(args: &LoadArgs, tls: Arc<ClientConfig>) -> Result<Measured, LoadError> {
    let mut links = Vec::new();
    for _ in 0..args.connections {
        links.push(Link::open(args, &tls).await?);
    }
    let mut tunnels = Vec::new();
    if args.mode == Mode::Requests {
        for link in &links {
            for _ in 0..args.streams {
                tunnels.push(link.tunnel(&args.authority).await?);
            }
        }
    }
    let start = Instant::now();
    let shared = Rc::new(Shared {
        args: args.clone(),
        tls,
        measure_from: start + Duration::from_secs_f64(args.warm_up),
        until: start + Duration::from_secs_f64(args.warm_up + args.seconds),
    });
    let mut workers: Vec<JoinHandle<Result<Tally, LoadError>>> = Vec::new();
    match args.mode {
        Mode::Requests => {
            let n = tunnels.len() * args.inner_streams.max(1);
            let mut index = 0;
            for tunnel in tunnels {
                match args.inner {
                    Inner::H1 => {
                        workers.push(tokio::task::spawn_local(h1_worker(
                            tunnel,
                            Rc::clone(&shared),
                            index,
                            n,
                        )));
                        index += 1;
                    }
                    Inner::H2 => {
                        let sender = tunnel.into_h2().await?;
                        for _ in 0..args.inner_streams.max(1) {
                            workers.push(tokio::task::spawn_local(h2_worker(
                                sender.clone(),
                                Rc::clone(&shared),
                                index,
                                n,
                            )));
                            index += 1;
                        }
                    }
                }
            }
        }
        Mode::Connects => {
            for link in links.iter().cycle().take(args.connections * args.streams) {
                workers.push(tokio::task::spawn_local(connect_worker(
                    link.clone(),
                    Rc::clone(&shared),
                )));
            }
        }
        Mode::Connections => {
            for _ in 0..args.connections * args.streams {
                workers.push(tokio::task::spawn_local(connection_worker(Rc::clone(
                    &shared,
                ))));
            }
        }
    }
    tokio::time::sleep_until(shared.measure_from.into()).await;
    let cpu_before = args.pid.map(crate::process::cpu);
    tokio::time::sleep_until(shared.until.into()).await;
    let cpu_after = args.pid.map(crate::process::cpu);
    let mut histogram = Histogram::<u64>::new_with_bounds(1, HIGHEST_US, 3)?;
    let mut failed = 0;
    for worker in workers {
        let tally = worker
            .await
            .map_err(|e| LoadError::Answer(e.to_string()))??;
        failed += tally.failed;
        for latency in tally.latencies_us {
            histogram.saturating_record(latency.max(1));
        }
    }
    let rss_mib = args.pid.map(crate::process::rss_mib);
    drop(links);
    #[expect(clippy::cast_precision_loss, reason = "counts are small")]
    let requests = histogram.len() as f64;
    let cpu = cpu_before
        .zip(cpu_after)
        .map(|(a, b)| (b - a).as_secs_f64() * 1e6 / requests.max(1.0));
    #[expect(clippy::cast_precision_loss, reason = "latencies are small")]
    let ms = |us: u64| us as f64 / 1000.0;
    Ok(Measured {
        requests: histogram.len(),
        failed,
        per_second: requests / args.seconds,
        cpu_us: cpu,
        p50_ms: ms(histogram.value_at_quantile(0.5)),
        p99_ms: ms(histogram.value_at_quantile(0.99)),
        max_ms: ms(histogram.max()),
        rss_mib,
    })
}

impl Shared {
    /// Runs `one` until the end, paced or not; `index` of `n` workers.
    async fn repeat<F: AsyncFnMut() -> Result<(), LoadError>>(
        &self,
        index: usize,
        n: usize,
        mut one: F,
    ) -> Tally {
        let mut tally = Tally::default();
        let pace = (self.args.rate > 0).then(|| {
            let every = Duration::from_secs_f64(n as f64 / f64::from(self.args.rate));
            (
                every,
                Instant::now() + every.mul_f64(index as f64 / n as f64),
            )
        });
        let mut due = pace.map(|(_, first)| first);
        loop {
            let start = match (pace, due) {
                (Some((every, _)), Some(at)) => {
                    tokio::time::sleep_until(at.into()).await;
                    due = Some(at + every);
                    // From when it was due: what a stalled proxy delays counts.
                    at
                }
                _ => Instant::now(),
            };
            if start >= self.until {
                return tally;
            }
            let result = one().await;
            let end = Instant::now();
            if end >= self.until || start < self.measure_from {
                if end >= self.until {
                    return tally;
                }
                continue;
            }
            match result {
                Ok(()) => {
                    let us = u64::try_from((end - start).as_micros()).unwrap_or(u64::MAX);
                    tally.latencies_us.push(us);
                }
                Err(error) => {
                    tally.failed += 1;
                    tally.first_error.get_or_insert(error.to_string());
                    if tally.failed > 1000 {
                        return tally;
                    }
                }
            }
        }
    }
}

async fn h1_worker(
    mut tunnel: Tunnel,
    shared: Rc<Shared>,
    index: usize,
    n: usize,
) -> Result<Tally, LoadError> {
    Ok(shared.repeat(index, n, async || tunnel.h1().await).await)
}

async fn h2_worker(
    sender: hyper::client::conn::http2::SendRequest<http_body_util::Full<Bytes>>,
    shared: Rc<Shared>,
    index: usize,
    n: usize,
) -> Result<Tally, LoadError> {
    Ok(shared
        .repeat(index, n, async || {
            let mut sender = sender.clone();
            let request = Request::post("http://backend/echo.Echo/Call")
                .header("content-type", "application/grpc")
                .header("te", "trailers")
                .body(http_body_util::Full::new(Bytes::from_static(&[0; 64])))
                .map_err(|e| LoadError::Answer(e.to_string()))?;
            let response = sender.send_request(request).await?;
            if response.status() != StatusCode::OK {
                return Err(LoadError::Answer(response.status().to_string()));
            }
            let mut body = response.into_body();
            while let Some(frame) = http_body_util::BodyExt::frame(&mut body).await {
                frame?;
            }
            Ok(())
        })
        .await)
}

async fn connect_worker(link: Link, shared: Rc<Shared>) -> Result<Tally, LoadError> {
    let authority = shared.args.authority.clone();
    Ok(shared
        .repeat(0, 1, async || link.tunnel(&authority).await?.once().await)
        .await)
}

async fn connection_worker(shared: Rc<Shared>) -> Result<Tally, LoadError> {
    Ok(shared
        .repeat(0, 1, async || {
            let link = Link::open(&shared.args, &shared.tls).await?;
            link.tunnel(&shared.args.authority).await?.once().await
        })
        .await)
}

/// One TLS connection with HTTP/2 on it.
#[derive(Clone)]
struct Link {
    send: SendRequest<Bytes>,
    _driver: Rc<Driver>,
}

struct Driver(JoinHandle<()>);

impl Drop for Driver {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Link {
    async fn open(args: &LoadArgs, tls: &Arc<ClientConfig>) -> Result<Self, LoadError> {
        let failed = |e| LoadError::Connect(args.target, e);
        let dial = async {
            let socket = TcpSocket::new_v4().map_err(failed)?;
            if let Some(source) = args.source {
                socket.bind(SocketAddr::new(source, 0)).map_err(failed)?;
            }
            let stream = socket.connect(args.target).await.map_err(failed)?;
            stream.set_nodelay(true).map_err(failed)?;
            let name = ServerName::IpAddress(args.target.ip().into());
            let stream = TlsConnector::from(Arc::clone(tls))
                .connect(name, stream)
                .await
                .map_err(failed)?;
            let mut builder = h2::client::Builder::new();
            builder
                .initial_window_size(WINDOW)
                .initial_connection_window_size(WINDOW)
                .max_send_buffer_size(WINDOW as usize)
                .enable_push(false);
            Ok::<_, LoadError>(builder.handshake::<_, Bytes>(stream).await?)
        };
        let (send, connection) = tokio::time::timeout(CONNECT_TIMEOUT, dial)
            .await
            .map_err(|_| LoadError::Timeout)??;
        let driver = tokio::task::spawn_local(async move {
            let _ = connection.await;
        });
        Ok(Self {
            send,
            _driver: Rc::new(Driver(driver)),
        })
    }

    async fn tunnel(&self, authority: &str) -> Result<Tunnel, LoadError> {
        let request = Request::builder()
            .method(Method::CONNECT)
            .uri(authority)
            .body(())
            .map_err(|e| LoadError::Answer(e.to_string()))?;
        let mut send = self.send.clone().ready().await?;
        let (response, sender) = send.send_request(request, false)?;
        let response = response.await?;
        if response.status() != StatusCode::OK {
            return Err(LoadError::Status(response.status()));
        }
        Ok(Tunnel {
            sender,
            receiver: response.into_body(),
            buffer: BytesMut::new(),
            _link: self.clone(),
        })
    }
}

/// One CONNECT stream.
struct Tunnel {
    sender: h2::SendStream<Bytes>,
    receiver: h2::RecvStream,
    buffer: BytesMut,
    _link: Link,
}

impl Tunnel {
    /// One HTTP/1.1 request and its whole answer.
    async fn h1(&mut self) -> Result<(), LoadError> {
        const REQUEST: &[u8] = b"GET /bench HTTP/1.1\r\nhost: backend.bench.svc.cluster.local\r\nuser-agent: waymark-bench\r\naccept: */*\r\n\r\n";
        self.sender.send_data(Bytes::from_static(REQUEST), false)?;
        let (head, length) = loop {
            if let Some(parsed) = parse_head(&self.buffer)? {
                break parsed;
            }
            self.more().await?;
        };
        while self.buffer.len() < head + length {
            self.more().await?;
        }
        self.buffer.advance(head + length);
        Ok(())
    }

    /// One request on this tunnel, which then ends in good order: a reset each time looks like an attack.
    async fn once(mut self) -> Result<(), LoadError> {
        self.h1().await?;
        self.sender.send_data(Bytes::new(), true)?;
        while let Some(chunk) = self.receiver.data().await {
            self.receiver
                .flow_control()
                .release_capacity(chunk?.len())?;
        }
        Ok(())
    }

    async fn more(&mut self) -> Result<(), LoadError> {
        let chunk = self.receiver.data().await.ok_or(LoadError::CutShort)??;
        self.receiver.flow_control().release_capacity(chunk.len())?;
        self.buffer.extend_from_slice(&chunk);
        Ok(())
    }

    /// A hyper client on the tunnel.
    async fn into_h2(
        self,
    ) -> Result<hyper::client::conn::http2::SendRequest<http_body_util::Full<Bytes>>, LoadError>
    {
        let (near, far) = tokio::io::duplex(256 * 1024);
        let Self {
            mut sender,
            mut receiver,
            _link: link,
            ..
        } = self;
        let (mut from_hyper, mut to_hyper) = tokio::io::split(near);
        tokio::task::spawn_local(async move {
            let _link = link;
            while let Some(Ok(chunk)) = receiver.data().await {
                let _ = receiver.flow_control().release_capacity(chunk.len());
                if to_hyper.write_all(&chunk).await.is_err() {
                    return;
                }
            }
        });
        tokio::task::spawn_local(async move {
            let mut buffer = BytesMut::with_capacity(64 * 1024);
            while matches!(from_hyper.read_buf(&mut buffer).await, Ok(n) if n > 0) {
                if sender.send_data(buffer.split().freeze(), false).is_err() {
                    return;
                }
            }
        });
        let (send, connection) =
            hyper::client::conn::http2::Builder::new(hyper_util::rt::TokioExecutor::new())
                .initial_stream_window_size(WINDOW)
                .initial_connection_window_size(WINDOW)
                .handshake(hyper_util::rt::TokioIo::new(far))
                .await?;
        tokio::task::spawn_local(async move {
            let _ = connection.await;
        });
        Ok(send)
    }
}

/// Length of head and body, once the head is whole.
fn parse_head(bytes: &[u8]) -> Result<Option<(usize, usize)>, LoadError> {
    let Some(end) = bytes.windows(4).position(|w| w == b"\r\n\r\n") else {
        return Ok(None);
    };
    let head = String::from_utf8_lossy(&bytes[..end]).to_lowercase();
    if !head.starts_with("http/1.1 200") {
        return Err(LoadError::Answer(
            head.lines().next().unwrap_or("").to_owned(),
        ));
    }
    let length = head
        .lines()
        .find_map(|l| l.strip_prefix("content-length:"))
        .and_then(|v| v.trim().parse().ok())
        .ok_or_else(|| LoadError::Answer("an answer without content-length".into()))?;
    Ok(Some((end + 4, length)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_are_read_once_whole() {
        assert!(matches!(
            parse_head(b"HTTP/1.1 200 OK\r\ncontent-"),
            Ok(None)
        ));
        let whole = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello";
        assert!(matches!(parse_head(whole), Ok(Some((38, 5)))));
        assert!(parse_head(b"HTTP/1.1 503 No\r\n\r\n").is_err());
    }
}
