//! A small HTTP/1 server for admin, metrics and readiness.

use std::convert::Infallible;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, SERVER, X_CONTENT_TYPE_OPTIONS};
use http::{HeaderValue, Method, Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::sync::Semaphore;
use tracing::debug;
use waymark_rt::{Listener, Shutdown, Tasks};

use super::{Admin, Answer};

/// Connections at once; those beyond wait to be accepted.
const MAX_CONNECTIONS: usize = 256;
/// How long a client may take to send a request's head.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);

/// Serves `answer`, a function of who asks, the method and path and query, until `shutdown` kills or the task is dropped. (Draining, it goes on: that is when people look.)
pub async fn serve(
    mut listener: Listener,
    admin: Arc<Admin>,
    answer: fn(&Admin, IpAddr, &Method, &str) -> Answer,
    shutdown: Shutdown,
) {
    let connections = Tasks::new();
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        // The semaphore is never closed.
        let Ok(place) = Arc::clone(&places).acquire_owned().await else {
            return;
        };
        let (stream, peer) = tokio::select! {
            biased;
            () = shutdown.killed() => break,
            accepted = listener.accept() => accepted,
        };
        let admin = Arc::clone(&admin);
        connections.spawn("admin connection", async move {
            let _place = place;
            let service = service_fn(move |request: Request<Incoming>| {
                let admin = Arc::clone(&admin);
                async move { Ok::<_, Infallible>(response(answer, &admin, peer.ip(), &request)) }
            });
            let served = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEAD_TIMEOUT)
                .serve_connection(TokioIo::new(stream), service)
                .await;
            if let Err(error) = served {
                debug!(%peer, %error, "admin connection");
            }
        });
    }
}

fn response(
    answer: fn(&Admin, IpAddr, &Method, &str) -> Answer,
    admin: &Admin,
    from: IpAddr,
    request: &Request<Incoming>,
) -> Response<Full<Bytes>> {
    let target = request.uri().path_and_query().map_or("/", |p| p.as_str());
    let Answer {
        status,
        content_type,
        body,
    } = answer(admin, from, request.method(), target);
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(
        CACHE_CONTROL,
        HeaderValue::from_static("no-cache, max-age=0"),
    );
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(SERVER, HeaderValue::from_static("waymark"));
    response
}
