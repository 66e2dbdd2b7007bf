//! The gRPC service.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::Stream;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout};
use tonic::body::Body;
use tonic::codegen::{Body as HttpBody, StdError};
use tonic::server::{Grpc, NamedService, StreamingService};
use tonic::{Code, Request, Status, Streaming};
use tracing::{debug, info, warn};
use waymark_rt::Shutdown;

use super::codec::DeltaCodec;
use super::registry::{Connection, Registry};
use super::source::{Client, Source, View};
use super::stream::{Handled, RequestError, ServerStream, Warming};
use super::type_state::Response;
use crate::discovery::DeltaDiscoveryRequest;
use crate::resource_set::ResourceSet;

/// `envoy.service.discovery.v3.AggregatedDiscoveryService`, for a tonic router. Copies serve the same source.
///
/// Only `DeltaAggregatedResources` is there; the other method is answered `UNIMPLEMENTED`.
#[derive(Debug)]
pub struct Service<S> {
    source: Arc<S>,
    registry: Registry,
    options: Options,
    shutdown: Shutdown,
}

/// Limits of the service.
#[derive(Debug, Clone)]
pub struct Options {
    /// How long a client may take until its first request.
    pub first_request: Duration,
    /// The largest request, in bytes.
    pub max_request_bytes: usize,
    /// How old a stream gets, give or take a tenth: then it ends, and its client comes back, perhaps to another replica.
    /// `None`: as old as it likes.
    pub max_stream_age: Option<Duration>,
    /// Over how long streams end once the drain begins, each at a time of its own, so that their clients do not all come
    /// to the next server at once. Until then they are served.
    pub hand_over: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            first_request: Duration::from_secs(10),
            max_request_bytes: 4 << 20,
            max_stream_age: None,
            hand_over: Duration::ZERO,
        }
    }
}

impl<S: Source> Service<S> {
    /// A service that ends its streams when `shutdown` says so.
    pub fn new(source: Arc<S>, registry: Registry, options: Options, shutdown: Shutdown) -> Self {
        Self {
            source,
            registry,
            options,
            shutdown,
        }
    }
}

impl<S> Clone for Service<S> {
    fn clone(&self) -> Self {
        Self {
            source: self.source.clone(),
            registry: self.registry.clone(),
            options: self.options.clone(),
            shutdown: self.shutdown.clone(),
        }
    }
}

impl<S> NamedService for Service<S> {
    const NAME: &'static str = "envoy.service.discovery.v3.AggregatedDiscoveryService";
}

impl<S, B> tower_service::Service<http::Request<B>> for Service<S>
where
    S: Source,
    B: HttpBody + Send + 'static,
    B::Error: Into<StdError> + Send + 'static,
{
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<B>) -> Self::Future {
        if request.uri().path() != DELTA_PATH {
            return Box::pin(async {
                Ok(Status::unimplemented("only DeltaAggregatedResources is served").into_http())
            });
        }
        let service = self.clone();
        Box::pin(async move {
            let mut grpc =
                Grpc::new(DeltaCodec).max_decoding_message_size(service.options.max_request_bytes);
            Ok(grpc.streaming(Delta(service), request).await)
        })
    }
}

struct Delta<S>(Service<S>);

type ResponseStream = Pin<Box<dyn Stream<Item = Result<Response, Status>> + Send>>;

impl<S: Source> StreamingService<DeltaDiscoveryRequest> for Delta<S> {
    type Response = Response;
    type ResponseStream = ResponseStream;
    type Future =
        Pin<Box<dyn Future<Output = Result<tonic::Response<ResponseStream>, Status>> + Send>>;

    fn call(&mut self, request: Request<Streaming<DeltaDiscoveryRequest>>) -> Self::Future {
        let service = self.0.clone();
        Box::pin(async move {
            let driver = service.accept(request).await?;
            let responses = futures_util::stream::unfold(driver, |mut driver| async move {
                driver.next().await.map(|response| (response, driver))
            });
            Ok(tonic::Response::new(Box::pin(responses) as ResponseStream))
        })
    }
}

impl<S: Source> Service<S> {
    /// Reads the first request and decides whether the client is served.
    async fn accept(
        self,
        request: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Driver, Status> {
        let peer = request.remote_addr();
        let (metadata, extensions, mut requests) = request.into_parts();
        let identity = self
            .source
            .authenticate(metadata.as_ref(), &extensions)
            .await?;
        let first = loop {
            let request = timeout(self.options.first_request, requests.message())
                .await
                .map_err(|_| Status::deadline_exceeded("no request"))??
                .ok_or_else(|| Status::cancelled("closed without a request"))?;
            // An agent may tell its health before anything else.
            if request.type_url != waymark_proto::type_url::HEALTH_INFORMATION
                || request.node.is_some()
            {
                break request;
            }
        };
        let node = first
            .node
            .clone()
            .filter(|node| !node.id.is_empty())
            .ok_or_else(|| Status::invalid_argument("missing node information"))?;
        let warming = if node.user_agent_name == "envoy" {
            Warming::NeedsEndpoints
        } else {
            Warming::KeepsEndpoints
        };
        let client = Client {
            node,
            identity,
            peer,
        };
        let mut view = self.source.open(&client).map_err(|refusal| {
            info!(node = %client.node.id, reason = %refusal, "xds client refused");
            Status::from(refusal)
        })?;
        let connection = self.registry.open(&client);
        info!(
            connection = connection.id(),
            identity = client.identity,
            "xds client connected"
        );
        let set = view.sets.borrow_and_update().clone();
        let nonce_prefix = format!("{:08x}", rand::random::<u32>());
        let mut driver = Driver {
            stream: ServerStream::new(set, nonce_prefix, warming),
            requests,
            view,
            connection,
            ends: self
                .options
                .max_stream_age
                .map(|age| Instant::now() + jittered(age)),
            leaving: Leaving::No(self.shutdown, self.options.hand_over),
        };
        driver.handle(first)?;
        Ok(driver)
    }
}

/// One stream. Polled by the connection when the client takes data, so a slow client is not read from either, and holds
/// nothing but its place.
struct Driver {
    stream: ServerStream,
    requests: Streaming<DeltaDiscoveryRequest>,
    view: View,
    connection: Connection,
    /// When it is old enough.
    ends: Option<Instant>,
    leaving: Leaving,
}

/// Whether the server is ending.
enum Leaving {
    /// Not that anybody has said; then, over how long its streams end.
    No(Shutdown, Duration),
    Yes,
}

impl Leaving {
    /// Resolves once, when the drain begins, with how long this stream goes on.
    async fn begins(&mut self) -> Duration {
        let Self::No(shutdown, hand_over) = self else {
            return std::future::pending().await;
        };
        shutdown.draining().await;
        let left = hand_over.mul_f64(rand::random());
        *self = Self::Yes;
        left
    }
}

impl Driver {
    async fn next(&mut self) -> Option<Result<Response, Status>> {
        loop {
            if let Some(response) = self.stream.poll() {
                self.publish();
                debug!(
                    connection = self.connection.id(),
                    type_url = %response.type_url,
                    resources = response.resources.len(),
                    removed = response.removed.len(),
                    nonce = response.nonce,
                    "xds response"
                );
                return Some(Ok(response));
            }
            let event = tokio::select! {
                biased;
                left = self.leaving.begins() => Event::Leave(left),
                request = self.requests.message() => Event::Request(request),
                set = changed(&mut self.view.sets) => Event::Set(set),
                () = sleep_until(self.ends.unwrap_or_else(Instant::now)), if self.ends.is_some() => Event::Old,
            };
            match event {
                Event::Request(Ok(Some(request))) => {
                    if let Err(status) = self.handle(request) {
                        return Some(Err(status));
                    }
                }
                Event::Request(Ok(None)) => return None,
                Event::Request(Err(status)) => {
                    if status.code() != Code::Cancelled {
                        debug!(connection = self.connection.id(), error = %status, "xds stream broken");
                    }
                    return None;
                }
                Event::Set(Some(set)) => self.stream.offer(set),
                Event::Old => {
                    debug!(
                        connection = self.connection.id(),
                        "xds stream is old enough"
                    );
                    // In good order, so that the client comes back at once.
                    return None;
                }
                Event::Leave(left) => {
                    let end = Instant::now() + left;
                    self.ends = Some(self.ends.map_or(end, |ends| ends.min(end)));
                }
                Event::Set(None) => {
                    return Some(Err(Status::unavailable("server is closing")));
                }
            }
        }
    }

    fn handle(&mut self, request: DeltaDiscoveryRequest) -> Result<(), Status> {
        let type_url = request.type_url.clone();
        let handled = self.stream.handle(request)?;
        self.connection.count(&handled);
        match &handled {
            Handled::Nack(reason) => {
                warn!(
                    connection = self.connection.id(),
                    type_url, reason, "xds response refused by client"
                );
            }
            Handled::First
            | Handled::Ack
            | Handled::Stale
            | Handled::Subscription
            | Handled::Ignored => {
                debug!(
                    connection = self.connection.id(),
                    type_url,
                    ?handled,
                    "xds request"
                );
            }
        }
        self.publish();
        Ok(())
    }

    fn publish(&mut self) {
        self.connection.update(self.stream.take_changed_status());
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        info!(connection = self.connection.id(), "xds client disconnected");
    }
}

#[expect(clippy::large_enum_variant, reason = "taken apart at once")]
enum Event {
    Request(Result<Option<DeltaDiscoveryRequest>, Status>),
    Set(Option<ResourceSet>),
    Old,
    Leave(Duration),
}

/// The next set; `None` when there will be no other.
async fn changed(sets: &mut watch::Receiver<ResourceSet>) -> Option<ResourceSet> {
    sets.changed().await.ok()?;
    Some(sets.borrow_and_update().clone())
}

/// Give or take a tenth, as gRPC does it, so that clients that came together do not come back together.
fn jittered(age: Duration) -> Duration {
    age.mul_f64(rand::random_range(0.9..=1.1))
}

impl From<RequestError> for Status {
    fn from(error: RequestError) -> Self {
        match error {
            RequestError::NoType => Self::invalid_argument(error.to_string()),
            RequestError::TooManyTypes | RequestError::TooManyNames { .. } => {
                Self::resource_exhausted(error.to_string())
            }
        }
    }
}

const DELTA_PATH: &str =
    "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources";
