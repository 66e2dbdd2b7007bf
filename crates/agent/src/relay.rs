//! ADS, relayed: whatever Envoy and the control plane say to each other passes as it is; the agent adds who it is.
//!
//! A reverse proxy of gRPC calls. Frames are not looked at, so neither their size nor their content matters, and flow
//! control reaches from end to end. The token is read anew for every stream.

use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use http::header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue, TE};
use http::{Method, Request, Response, Version};
use tonic::Status;
use tonic::body::Body;
use tonic::server::NamedService;
use tonic::transport::Channel;
use tower_service::Service;
use tracing::{info, warn};
use waymark_identity::BearerToken;

/// The relay, as a service of the server that Envoy talks to.
#[derive(Clone)]
pub(crate) struct Relay {
    upstream: Channel,
    token: Option<BearerToken>,
    cluster_id: HeaderValue,
    figures: Arc<Figures>,
}

/// What the relay did.
#[derive(Debug, Default)]
pub(crate) struct Figures {
    /// Streams that were opened.
    pub(crate) streams: AtomicU64,
    /// Streams that the control plane could not be asked for.
    pub(crate) failures: AtomicU64,
}

impl Relay {
    /// A relay to the server behind `upstream`.
    pub(crate) fn new(
        upstream: Channel,
        token: Option<BearerToken>,
        cluster_id: HeaderValue,
        figures: Arc<Figures>,
    ) -> Self {
        Self {
            upstream,
            token,
            cluster_id,
            figures,
        }
    }

    async fn forward(mut self, request: Request<Body>) -> Response<Body> {
        self.figures.streams.fetch_add(1, Ordering::Relaxed);
        let path = request.uri().path().to_owned();
        match self.ask(request).await {
            Ok(response) => {
                info!(path, "stream to the control plane");
                response
            }
            Err(status) => {
                self.figures.failures.fetch_add(1, Ordering::Relaxed);
                warn!(
                    path,
                    error = status.message(),
                    "no stream to the control plane"
                );
                status.into_http()
            }
        }
    }

    async fn ask(&mut self, request: Request<Body>) -> Result<Response<Body>, Status> {
        let request = self.as_ours(request)?;
        let unavailable = |e: tonic::transport::Error| Status::unavailable(chain(&e));
        poll_fn(|cx| self.upstream.poll_ready(cx))
            .await
            .map_err(unavailable)?;
        self.upstream.call(request).await.map_err(unavailable)
    }

    /// The same call in our name. Of Envoy's headers only what gRPC needs goes on.
    fn as_ours(&self, request: Request<Body>) -> Result<Request<Body>, Status> {
        let (head, body) = request.into_parts();
        let mut ours = Request::new(body);
        *ours.method_mut() = Method::POST;
        *ours.version_mut() = Version::HTTP_2;
        *ours.uri_mut() = head
            .uri
            .path()
            .parse()
            .map_err(|_| Status::invalid_argument("path"))?;
        let headers = ours.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        headers.insert(TE, HeaderValue::from_static("trailers"));
        headers.insert("clusterid", self.cluster_id.clone());
        if let Some(token) = &self.token {
            let token = token.header().map_err(|e| Status::unavailable(chain(&e)))?;
            let mut value = HeaderValue::from_bytes(token.as_bytes())
                .map_err(|_| Status::unavailable("the token is no header value"))?;
            value.set_sensitive(true);
            headers.insert(AUTHORIZATION, value);
        }
        Ok(ours)
    }
}

impl NamedService for Relay {
    const NAME: &'static str = "envoy.service.discovery.v3.AggregatedDiscoveryService";
}

impl Service<Request<Body>> for Relay {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let relay = self.clone();
        Box::pin(async move { Ok(relay.forward(request).await) })
    }
}

/// An error and its causes, in one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(e) = cause {
        text.push_str(": ");
        text.push_str(&e.to_string());
        cause = e.source();
    }
    text
}

#[cfg(test)]
mod tests;
