//! Short questions to the roles' HTTP endpoints.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};

const TIMEOUT: Duration = Duration::from_secs(2);
const MAX_BODY_BYTES: usize = 64 << 20;

pub(crate) type HttpClient = Client<HttpConnector, Empty<Bytes>>;

/// Why an endpoint gave no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AskError {
    #[error("ask {url}")]
    Request {
        url: String,
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    #[error("ask {url}: no answer within {TIMEOUT:?}")]
    Timeout { url: String },
    #[error("{}", .said.trim())]
    Status {
        status: StatusCode,
        /// The body, or the status in words.
        said: String,
    },
    #[error("ask {url}: answer is not the JSON expected")]
    Json {
        url: String,
        source: serde_json::Error,
    },
}

/// A client whose connections come from `source`.
pub(crate) fn client(source: Option<IpAddr>) -> HttpClient {
    let mut connector = HttpConnector::new();
    connector.set_nodelay(true);
    connector.set_local_address(source);
    connector.set_connect_timeout(Some(TIMEOUT));
    Client::builder(TokioExecutor::new())
        .pool_timer(TokioTimer::new())
        .pool_idle_timeout(Duration::from_secs(30))
        .build(connector)
}

pub(crate) async fn get(client: &HttpClient, url: &str) -> Result<Bytes, AskError> {
    let failed = |source: Box<dyn std::error::Error + Send + Sync>| AskError::Request {
        url: url.to_owned(),
        source,
    };
    let request = Request::get(url)
        .body(Empty::new())
        .map_err(|e| failed(Box::new(e)))?;
    let ask = async {
        let response = client
            .request(request)
            .await
            .map_err(|e| failed(Box::new(e)))?;
        let status = response.status();
        let body = Limited::new(response.into_body(), MAX_BODY_BYTES);
        let body = body.collect().await.map_err(failed)?.to_bytes();
        if status != StatusCode::OK {
            let said = String::from_utf8_lossy(&body).into_owned();
            return Err(AskError::Status {
                status,
                said: if said.trim().is_empty() {
                    status.to_string()
                } else {
                    said
                },
            });
        }
        Ok(body)
    };
    tokio::time::timeout(TIMEOUT, ask)
        .await
        .map_err(|_| AskError::Timeout {
            url: url.to_owned(),
        })?
}

pub(crate) async fn get_json<T: serde::de::DeserializeOwned>(
    client: &HttpClient,
    address: SocketAddr,
    path: &str,
) -> Result<T, AskError> {
    let url = format!("http://{address}{path}");
    let body = get(client, &url).await?;
    serde_json::from_slice(&body).map_err(|source| AskError::Json { url, source })
}
