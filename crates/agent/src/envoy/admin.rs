//! Questions to Envoy's admin interface.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http::header::HOST;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use waymark_rt::{ConnectError, ConnectOptions, connect};

/// Why Envoy did not answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AdminError {
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error("ask envoy for {path}")]
    Http { path: String, source: hyper::Error },
    #[error("ask envoy for {path}: {status}")]
    Status { path: String, status: StatusCode },
    #[error("ask envoy for {path}: the answer breaks off or is too long")]
    Body { path: String },
    #[error("ask envoy for {path}: no answer within {TIMEOUT:?}")]
    Timeout { path: String },
}

/// Asks, and gives the body of a good answer.
pub(crate) async fn ask(
    admin: SocketAddr,
    method: Method,
    path: &str,
) -> Result<Bytes, AdminError> {
    let answer = tokio::time::timeout(TIMEOUT, ask_patiently(admin, method, path));
    answer.await.map_err(|_| AdminError::Timeout {
        path: path.to_owned(),
    })?
}

async fn ask_patiently(admin: SocketAddr, method: Method, path: &str) -> Result<Bytes, AdminError> {
    let http = |source| AdminError::Http {
        path: path.to_owned(),
        source,
    };
    let options = ConnectOptions {
        timeout: TIMEOUT,
        keepalive: None,
        ..ConnectOptions::default()
    };
    let stream = connect(admin, &options).await?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(http)?;
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header(HOST, admin.to_string())
        .body(Empty::<Bytes>::new())
        .map_err(|_| AdminError::Body {
            path: path.to_owned(),
        })?;
    let exchange = async {
        let response = sender.send_request(request).await.map_err(http)?;
        let status = response.status();
        if !status.is_success() {
            return Err(AdminError::Status {
                path: path.to_owned(),
                status,
            });
        }
        let body = Limited::new(response.into_body(), LONGEST).collect().await;
        body.map(http_body_util::Collected::to_bytes)
            .map_err(|_| AdminError::Body {
                path: path.to_owned(),
            })
    };
    tokio::pin!(exchange);
    tokio::select! {
        answer = &mut exchange => answer,
        // Over, perhaps in the very poll that read the answer's end.
        _ = connection => exchange.await,
    }
}

/// Numbers of Envoy's plain `/stats`, by name.
pub(crate) fn numbers(stats: &str) -> impl Iterator<Item = (&str, u64)> {
    stats.lines().filter_map(|line| {
        let (name, value) = line.rsplit_once(": ")?;
        Some((name, value.trim().parse().ok()?))
    })
}

const TIMEOUT: Duration = Duration::from_secs(5);
/// Metrics of a large mesh are some megabytes.
const LONGEST: usize = 256 << 20;
