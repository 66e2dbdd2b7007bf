//! The control plane's HTTP endpoints for people and scrapers: readiness, metrics, and what it knows, as JSON.
//!
//! Spec: control-plane.md 15.1; paths and shapes are istiod's where it has them, `distribution` and `status` are ours.
//! A caller from a loopback address is not restricted; others see `/ready`, `/metrics` and `/version`, and the rest only with a
//! bearer token of the system namespace.

mod page;

use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tracing::debug;
use waymark_rt::{Listener, Shutdown, Tasks};

use self::page::{Page, Query, index_html, index_text, write_process_metrics};
use crate::ca::{Authenticator, Shown};

/// What the endpoints show; each is asked for at every request, so none may be slow.
pub trait DebugView: Send + Sync + 'static {
    /// `/ready`: whether proxies can be served.
    ///
    /// # Errors
    /// What is still missing.
    fn ready(&self) -> Result<(), String>;

    /// `/version`: `{"version": ...}` and more.
    fn version(&self) -> Value;

    /// `/metrics`: appends metrics in the text format of Prometheus. Those of the process are added by the server.
    fn metrics(&self, out: &mut String);

    /// `syncz`: for each connected proxy, what was sent and what was acknowledged; of one namespace if one is given.
    fn syncz(&self, namespace: Option<&str>) -> Value;

    /// `config_dump?proxyID=`: Envoy's admin ConfigDump of what a proxy should have, generated from the present state.
    ///
    /// # Errors
    /// When the proxy is not connected.
    fn config_dump(&self, dump: &DumpQuery<'_>) -> Result<Value, NoSuchProxy>;

    /// `adsz`: the connected proxies and what they watch; of one proxy if one is given.
    fn adsz(&self, proxy: Option<&str>) -> Value;

    /// `connections`: `{"totalClients": ..., "clients": [{"connectionId": ..., "address": ...}]}`.
    fn connections(&self) -> Value;

    /// `ambientz`: `{"workloads": [...], "services": [...], "policies": [...]}` of the index.
    fn ambientz(&self) -> Value;

    /// `configz`: the configuration objects that are in force.
    fn configz(&self) -> Value;

    /// `distribution`: how much configuration was really sent, and what a sidecar mesh would have been sent.
    fn distribution(&self) -> Value;

    /// `status`: conditions and errors of objects, as in `status.json`.
    fn status(&self) -> Value;

    /// `mesh`: what the mesh consists of, with the addresses that were given.
    fn mesh(&self) -> Value;
}

/// Which dump is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DumpQuery<'a> {
    /// The proxy, as `<pod>.<namespace>`.
    pub proxy: &'a str,
    /// Only these types (comma separated short names or type URLs, as given); `None`: all.
    pub types: Option<&'a str>,
    /// Whether endpoints are included.
    pub include_eds: bool,
}

/// A proxy that is not connected here. (The text is istiod's: its CLI goes on to the next replica when it sees it.)
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("Proxy not connected to this Pilot instance. It may be connected to another instance.")]
pub struct NoSuchProxy;

/// Serves the endpoints until the drain begins.
pub struct DebugServer<V> {
    view: Arc<V>,
    authenticator: Arc<Authenticator>,
    system_namespace: String,
}

impl<V: DebugView> DebugServer<V> {
    /// A server that shows `view`; tokens are checked with `authenticator`, and must be of `system_namespace`.
    pub fn new(
        view: Arc<V>,
        authenticator: Arc<Authenticator>,
        system_namespace: impl Into<String>,
    ) -> Self {
        Self {
            view,
            authenticator,
            system_namespace: system_namespace.into(),
        }
    }

    /// Accepts and serves until the drain begins; requests that are under way are finished.
    pub async fn serve(self, mut listener: Listener, shutdown: Shutdown) {
        let server = Arc::new(self);
        let connections = Tasks::new();
        let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        loop {
            let next = async {
                (
                    Arc::clone(&slots).acquire_owned().await,
                    listener.accept().await,
                )
            };
            let (slot, (stream, peer)) = tokio::select! {
                biased;
                () = shutdown.draining() => break,
                next = next => next,
            };
            let (server, shutdown) = (Arc::clone(&server), shutdown.clone());
            connections.spawn("debug", async move {
                let _slot = slot;
                server.connection(stream, peer, shutdown).await;
            });
        }
        // Answers take no time; what is left then is connections on which nothing was asked.
        tokio::select! {
            () = connections.wait() => {}
            () = shutdown.killed() => {}
            () = tokio::time::sleep(LAST_ANSWERS) => {}
        }
    }

    async fn connection(self: Arc<Self>, stream: TcpStream, peer: SocketAddr, shutdown: Shutdown) {
        let service = service_fn(|request: Request<Incoming>| {
            let server = Arc::clone(&self);
            async move { Ok::<_, Infallible>(server.respond(&request, peer.ip()).await) }
        });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEADER_TIMEOUT)
            .serve_connection(TokioIo::new(stream), service);
        tokio::pin!(connection);
        let result = tokio::select! {
            result = &mut connection => result,
            () = shutdown.draining() => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        if let Err(e) = result {
            debug!(%peer, error = %e, "debug connection ended");
        }
    }

    async fn respond<B>(&self, request: &Request<B>, from: IpAddr) -> Response<Full<Bytes>> {
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            let mut response =
                Page::text(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD\n").into_response();
            response
                .headers_mut()
                .insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
            return response;
        }
        let path = request.uri().path();
        let authorization = request.headers().get(header::AUTHORIZATION);
        let page = match self.admit(path, from, authorization).await {
            Ok(()) => self.page(
                path,
                &Query::parse(request.uri().query().unwrap_or_default()),
            ),
            Err(refused) => refused,
        };
        // For HEAD, the HTTP library leaves the body out and keeps its length.
        page.into_response()
    }

    async fn admit(
        &self,
        path: &str,
        from: IpAddr,
        authorization: Option<&HeaderValue>,
    ) -> Result<(), Page> {
        if from.to_canonical().is_loopback() || OPEN.contains(&path) {
            return Ok(());
        }
        match self
            .authenticator
            .authenticate_shown(Shown {
                authorization: authorization.map(HeaderValue::as_bytes),
                ..Shown::default()
            })
            .await
        {
            Ok(caller) if caller.identity.namespace() == self.system_namespace => Ok(()),
            Ok(_) => Err(Page::text(
                StatusCode::FORBIDDEN,
                "not for this namespace\n",
            )),
            Err(_) => Err(Page::text(
                StatusCode::UNAUTHORIZED,
                "a bearer token is needed\n",
            )),
        }
    }

    fn page(&self, path: &str, query: &Query) -> Page {
        let view = &*self.view;
        let json = |value: Value| Page::json(&value, query.has("pretty"));
        match path {
            "/ready" => match view.ready() {
                Ok(()) => Page::text(StatusCode::OK, ""),
                Err(why) => Page::text(
                    StatusCode::SERVICE_UNAVAILABLE,
                    format!("not ready: {why}\n"),
                ),
            },
            "/metrics" => {
                let mut text = String::new();
                view.metrics(&mut text);
                write_process_metrics(&mut text);
                Page::metrics(text)
            }
            "/version" => json(view.version()),
            "/" | "/debug" | "/debug/" => Page::html(index_html(ENDPOINTS)),
            _ => match path.strip_prefix("/debug/") {
                Some(name) => self
                    .debug_page(name, query)
                    .unwrap_or_else(|| not_found(path)),
                None => not_found(path),
            },
        }
    }

    fn debug_page(&self, name: &str, query: &Query) -> Option<Page> {
        let view = &*self.view;
        let value = match name {
            "syncz" => view.syncz(query.get("namespace")),
            "config_dump" => return Some(self.config_dump(query)),
            "adsz" => view.adsz(query.get("proxyID")),
            "connections" => view.connections(),
            "ambientz" => view.ambientz(),
            "configz" => view.configz(),
            "distribution" => view.distribution(),
            "status" => view.status(),
            "mesh" => view.mesh(),
            "list" => ENDPOINTS
                .iter()
                .map(|(path, _)| Value::from(*path))
                .collect(),
            _ => return None,
        };
        Some(Page::json(&value, query.has("pretty")))
    }

    fn config_dump(&self, query: &Query) -> Page {
        let Some(proxy) = query.get("proxyID").filter(|id| !id.is_empty()) else {
            return Page::text(
                StatusCode::BAD_REQUEST,
                "You must provide a proxyID in the query string\n",
            );
        };
        let include_eds = query.has("include_eds") && query.get("include_eds") != Some("false");
        match self.view.config_dump(&DumpQuery {
            proxy,
            types: query.get("types"),
            include_eds,
        }) {
            Ok(dump) => Page::json(&dump, query.has("pretty")),
            Err(e) => Page::text(StatusCode::NOT_FOUND, format!("{e}\n")),
        }
    }
}

fn not_found(path: &str) -> Page {
    Page::text(
        StatusCode::NOT_FOUND,
        format!("no such endpoint: {path}\n\n{}", index_text(ENDPOINTS)),
    )
}

/// Every endpoint, and what it shows.
const ENDPOINTS: &[(&str, &str)] = &[
    ("/ready", "200 when proxies can be served"),
    ("/metrics", "metrics in the text format of Prometheus"),
    ("/version", "the version of this program"),
    ("/debug/list", "these endpoints, as JSON"),
    (
        "/debug/syncz",
        "what each connected proxy was sent and has acknowledged (?namespace=)",
    ),
    (
        "/debug/config_dump",
        "the configuration of a proxy (?proxyID=POD.NAMESPACE&types=&include_eds)",
    ),
    (
        "/debug/adsz",
        "the connected proxies and what they watch (?proxyID=)",
    ),
    ("/debug/connections", "the connected proxies"),
    (
        "/debug/ambientz",
        "workloads, services and policies of the index",
    ),
    ("/debug/configz", "the configuration objects in force"),
    (
        "/debug/distribution",
        "how much configuration was sent, and what a sidecar mesh would have been sent",
    ),
    ("/debug/status", "conditions and errors of objects"),
    ("/debug/mesh", "what the mesh consists of"),
];

/// What everybody may see.
const OPEN: &[&str] = &["/ready", "/metrics", "/version"];
const MAX_CONNECTIONS: usize = 128;
/// How long the end waits for answers under way.
const LAST_ANSWERS: Duration = Duration::from_secs(1);
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests;
