//! What probes, scrapers and pods ask of the agent, on port 15020.
//!
//! Spec: cli-and-admin.md 11.

mod readiness;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Method, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tracing::{debug, info, warn};
use waymark_identity::CertHandle;
use waymark_rt::{Listener, Shutdown, Tasks};

use self::readiness::Readiness;
use crate::envoy::admin;
use crate::relay::{Figures, chain};

/// What the answers are made of.
pub(crate) struct Status {
    admin: SocketAddr,
    readiness: Readiness,
    certificate: CertHandle,
    relay: Arc<Figures>,
    shutdown: Shutdown,
    started: Instant,
    scrapes: AtomicU64,
    failed_scrapes: AtomicU64,
}

impl Status {
    pub(crate) fn new(
        admin: SocketAddr,
        certificate: CertHandle,
        relay: Arc<Figures>,
        shutdown: Shutdown,
    ) -> Self {
        Self {
            admin,
            readiness: Readiness::new(admin),
            certificate,
            relay,
            shutdown,
            started: Instant::now(),
            scrapes: AtomicU64::new(0),
            failed_scrapes: AtomicU64::new(0),
        }
    }

    async fn answer(&self, request: &http::Request<Incoming>, peer: SocketAddr) -> Answer {
        let uri = request.uri();
        match uri.path() {
            "/healthz/ready" => self.ready().await,
            "/stats/prometheus" | "/metrics" => self.metrics(uri.query()).await,
            path @ ("/quitquitquit" | "/drain") => {
                if request.method() != Method::POST {
                    return text(StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed\n");
                }
                if !peer.ip().to_canonical().is_loopback() {
                    return text(
                        StatusCode::FORBIDDEN,
                        "Only requests from localhost are allowed\n",
                    );
                }
                info!(path, "asked to drain and end");
                self.shutdown.begin();
                text(StatusCode::OK, "OK")
            }
            _ => text(StatusCode::NOT_FOUND, "404 page not found\n"),
        }
    }

    async fn ready(&self) -> Answer {
        let ready = !self.shutdown.is_draining() && self.readiness.look().await;
        text(
            if ready {
                StatusCode::OK
            } else {
                StatusCode::SERVICE_UNAVAILABLE
            },
            "",
        )
    }

    /// The agent's own numbers, then Envoy's.
    async fn metrics(&self, query: Option<&str>) -> Answer {
        self.scrapes.fetch_add(1, Ordering::Relaxed);
        let path = query.map_or_else(|| STATS.to_owned(), |query| format!("{STATS}?{query}"));
        let envoys = match admin::ask(self.admin, Method::GET, &path).await {
            Ok(body) => body,
            Err(error) => {
                self.failed_scrapes.fetch_add(1, Ordering::Relaxed);
                warn!(error = chain(&error), "scrape of envoy failed");
                Bytes::new()
            }
        };
        let mut body = self.own_metrics().into_bytes();
        body.extend_from_slice(&envoys);
        let mut answer = Response::new(Full::new(Bytes::from(body)));
        let kind = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
        answer.headers_mut().insert(CONTENT_TYPE, kind);
        answer
    }

    fn own_metrics(&self) -> String {
        let read = |number: &AtomicU64| number.load(Ordering::Relaxed).to_string();
        let now = SystemTime::now();
        let expiry = self
            .certificate
            .current()
            .map(|c| c.info().remaining(now).as_secs().to_string());
        let usage = waymark_rt::usage::of_this_process();
        let mut text = String::new();
        let mut metric = |name: &str, kind: &str, labels: &str, value: Option<String>| {
            if let Some(value) = value {
                text.push_str(&format!("# TYPE {name} {kind}\n{name}{labels} {value}\n"));
            }
        };
        metric(
            "istio_agent_scrapes_total",
            "counter",
            "",
            Some(read(&self.scrapes)),
        );
        metric(
            "istio_agent_scrape_failures_total",
            "counter",
            "{type=\"envoy\"}",
            Some(read(&self.failed_scrapes)),
        );
        metric(
            "istio_agent_startup_duration_seconds",
            "gauge",
            "",
            self.readiness.ready_after(self.started),
        );
        metric(
            "istio_agent_cert_expiry_seconds",
            "gauge",
            "{resource_name=\"default\"}",
            expiry,
        );
        metric(
            "istio_agent_xds_streams_total",
            "counter",
            "",
            Some(read(&self.relay.streams)),
        );
        metric(
            "istio_agent_xds_stream_failures_total",
            "counter",
            "",
            Some(read(&self.relay.failures)),
        );
        metric(
            "istio_agent_process_cpu_seconds_total",
            "counter",
            "",
            Some(usage.cpu.as_secs_f64().to_string()),
        );
        metric(
            "istio_agent_process_resident_memory_bytes",
            "gauge",
            "",
            Some(usage.resident_bytes.to_string()),
        );
        metric(
            "istio_agent_process_open_fds",
            "gauge",
            "",
            Some(usage.open_fds.to_string()),
        );
        text
    }
}

type Answer = Response<Full<Bytes>>;

fn text(status: StatusCode, body: &'static str) -> Answer {
    let mut answer = Response::new(Full::new(Bytes::from_static(body.as_bytes())));
    *answer.status_mut() = status;
    answer
}

/// Answers requests until it is dropped.
pub(crate) async fn serve(status: Arc<Status>, mut listener: Listener) {
    let connections = Tasks::new();
    loop {
        let (stream, peer) = listener.accept().await;
        let status = Arc::clone(&status);
        connections.spawn("status connection", async move {
            let service = service_fn(|request| {
                let status = Arc::clone(&status);
                async move { Ok::<_, Infallible>(status.answer(&request, peer).await) }
            });
            let mut server = http1::Builder::new();
            server
                .timer(TokioTimer::new())
                .header_read_timeout(HEADER_TIMEOUT);
            if let Err(error) = server.serve_connection(TokioIo::new(stream), service).await {
                debug!(%peer, %error, "status connection");
            }
        });
    }
}

const STATS: &str = "/stats/prometheus";
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
