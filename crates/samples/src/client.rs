//! How a service calls another one: from its pod's address, passing the tracing headers on.

use std::net::IpAddr;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request, StatusCode};
use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::client::legacy::Client as HttpClient;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};

/// Headers that a service copies from the request it serves to those it makes, as the sample does.
const PROPAGATED: &[&str] = &[
    "x-request-id",
    "x-ot-span-context",
    "x-b3-traceid",
    "x-b3-spanid",
    "x-b3-parentspanid",
    "x-b3-sampled",
    "x-b3-flags",
    "b3",
    "traceparent",
    "tracestate",
    "end-user",
    "user-agent",
    "authorization",
    "cookie",
];

const TIMEOUT: Duration = Duration::from_secs(3);
const MAX_BODY_BYTES: usize = 1 << 20;

pub(crate) struct Client {
    http: HttpClient<HttpConnector, Empty<Bytes>>,
}

impl Client {
    pub(crate) fn new(source: Option<IpAddr>) -> Self {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        connector.set_local_address(source);
        connector.set_connect_timeout(Some(TIMEOUT));
        let http = HttpClient::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(Duration::from_secs(30))
            .build(connector);
        Self { http }
    }

    /// Status and JSON body of `GET http://<service><path>`; `None` when the call failed or timed out.
    pub(crate) async fn get_json(
        &self,
        service: &str,
        path: &str,
        incoming: &HeaderMap,
    ) -> Option<(StatusCode, serde_json::Value)> {
        let mut request = Request::get(format!("http://{}{path}", authority(service)));
        for name in PROPAGATED {
            for value in incoming.get_all(*name) {
                request = request.header(*name, value);
            }
        }
        let request = request.body(Empty::new()).ok()?;
        let call = async {
            let response = self.http.request(request).await.ok()?;
            let status = response.status();
            let body = Limited::new(response.into_body(), MAX_BODY_BYTES)
                .collect()
                .await
                .ok()?
                .to_bytes();
            let value = serde_json::from_slice(&body).unwrap_or(serde_json::Value::Null);
            Some((status, value))
        };
        tokio::time::timeout(TIMEOUT, call).await.ok().flatten()
    }
}

/// `host:port` of a service, from the variables that Kubernetes sets, else its name and 9080.
fn authority(service: &str) -> String {
    let upper = service.to_uppercase().replace('-', "_");
    let host = std::env::var(format!("{upper}_SERVICE_HOST")).unwrap_or_else(|_| service.into());
    let port = std::env::var(format!("{upper}_SERVICE_PORT")).unwrap_or_else(|_| "9080".into());
    format!("{host}:{port}")
}
