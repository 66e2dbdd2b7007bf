//! Runs a client over tonic.

use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{mpsc, watch};
use tokio::time::{sleep, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::body::Body;
use tonic::client::GrpcService;
use tonic::codegen::{Body as HttpBody, StdError};
use tonic::metadata::MetadataMap;
use tonic::{Request, Status, Streaming};
use tracing::{debug, info, warn};
use waymark_proto::envoy::envoy::service::discovery::v3::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use waymark_rt::Shutdown;

use super::ads::{AdsClient, Handler};
use super::backoff::Backoff;
use crate::discovery::{DeltaDiscoveryRequest, DeltaDiscoveryResponse};

/// What is put into the metadata of each stream: `authorization`, `clusterid`.
pub trait Credentials: Send + Sync {
    /// Adds to the metadata of a new stream. Called for each one, so that a token may be read anew.
    ///
    /// # Errors
    ///
    /// There is no token, for example; the client tries again later.
    fn add(&self, metadata: &mut MetadataMap) -> Result<(), CredentialsError>;
}

/// Why a stream has no credentials.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct CredentialsError(pub String);

/// Adds nothing.
#[derive(Debug, Clone, Copy)]
pub struct NoCredentials;

impl Credentials for NoCredentials {
    fn add(&self, _: &mut MetadataMap) -> Result<(), CredentialsError> {
        Ok(())
    }
}

/// How a client connects.
#[derive(Debug, Clone)]
pub struct ClientOptions {
    /// Waits between attempts.
    pub backoff: Backoff,
    /// How long the server may take to open a stream and to answer the first request.
    pub open: Duration,
}

impl Default for ClientOptions {
    fn default() -> Self {
        Self {
            backoff: Backoff::default(),
            open: Duration::from_secs(30),
        }
    }
}

/// Where a client stands.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ClientState {
    /// There is a stream, and the server has answered on it.
    pub connected: bool,
    /// All that is wanted has been answered at least once.
    pub answered: bool,
    /// Streams that were opened.
    pub streams: u64,
    /// Why there is no stream.
    pub last_error: Option<String>,
}

/// Keeps a stream open over `service` until `shutdown` drains, and hands what comes to `handler`.
///
/// `service` is a tonic `Channel` or anything that speaks HTTP/2 to the server; it connects when it is called and should
/// have keep-alive pings on, for a stream may be silent for hours. The handler runs on this task.
pub async fn run<S, H>(
    mut client: AdsClient,
    service: S,
    credentials: &dyn Credentials,
    options: ClientOptions,
    handler: &mut H,
    state: &watch::Sender<ClientState>,
    shutdown: Shutdown,
) where
    S: GrpcService<Body> + Clone,
    S::Error: Into<StdError>,
    S::ResponseBody: HttpBody<Data = Bytes> + Send + 'static,
    <S::ResponseBody as HttpBody>::Error: Into<StdError> + Send,
    H: Handler,
{
    let ClientOptions { mut backoff, open } = options;
    loop {
        let mut session = Session {
            client: &mut client,
            handler,
            state,
            answered: false,
        };
        let end = tokio::select! {
            biased;
            () = shutdown.draining() => End::Shutdown,
            end = session.run(service.clone(), credentials, open) => end,
        };
        let answered = session.answered;
        client.disconnected();
        if answered {
            backoff.reset();
        }
        let error = match end {
            End::Shutdown => return,
            End::Closed => None,
            End::Broken(error) => Some(error),
        };
        state.send_modify(|state| {
            state.connected = false;
            state.last_error.clone_from(&error);
        });
        let wait = match &error {
            // A server that ends a stream in good order, as each does after a while, is called again at once.
            None if answered => Duration::ZERO,
            _ => backoff.next(rand::random()),
        };
        match error {
            None => debug!(?wait, "xds stream closed by server"),
            Some(error) => warn!(error, ?wait, "xds stream broken"),
        }
        tokio::select! {
            biased;
            () = shutdown.draining() => return,
            () = sleep(wait) => {}
        }
    }
}

/// How a stream ended.
enum End {
    Shutdown,
    Closed,
    Broken(String),
}

/// One stream.
struct Session<'a, H> {
    client: &'a mut AdsClient,
    handler: &'a mut H,
    state: &'a watch::Sender<ClientState>,
    /// A response has come.
    answered: bool,
}

impl<H: Handler> Session<'_, H> {
    async fn run<S>(&mut self, service: S, credentials: &dyn Credentials, open: Duration) -> End
    where
        S: GrpcService<Body>,
        S::Error: Into<StdError>,
        S::ResponseBody: HttpBody<Data = Bytes> + Send + 'static,
        <S::ResponseBody as HttpBody>::Error: Into<StdError> + Send,
    {
        // One request a type, and one for each response: the rest waits in the client.
        let (requests, outgoing) = mpsc::channel(REQUESTS);
        let mut request = Request::new(ReceiverStream::new(outgoing));
        if let Err(error) = credentials.add(request.metadata_mut()) {
            return End::Broken(error.to_string());
        }
        self.client.connected();
        self.send_ready(&requests);
        let mut grpc =
            AggregatedDiscoveryServiceClient::new(service).max_decoding_message_size(usize::MAX);
        let responses = match timeout(open, grpc.delta_aggregated_resources(request)).await {
            Err(_) => return End::Broken(format!("no answer within {open:?}")),
            Ok(Err(status)) => return End::Broken(describe(&status)),
            Ok(Ok(response)) => response.into_inner(),
        };
        self.state.send_modify(|state| state.streams += 1);
        self.exchange(requests, responses, open).await
    }

    async fn exchange(
        &mut self,
        requests: mpsc::Sender<DeltaDiscoveryRequest>,
        mut responses: Streaming<DeltaDiscoveryResponse>,
        open: Duration,
    ) -> End {
        let first = sleep(open);
        tokio::pin!(first);
        let mut waiting: Option<DeltaDiscoveryRequest> = None;
        loop {
            if waiting.is_none() {
                waiting = self.client.poll_request();
            }
            tokio::select! {
                permit = requests.reserve(), if waiting.is_some() => match (permit, waiting.take()) {
                    (Ok(permit), Some(request)) => permit.send(request),
                    (Ok(_), None) => {}
                    (Err(_), _) => return End::Closed,
                },
                response = responses.message() => match response {
                    Ok(Some(response)) => self.handle(response),
                    Ok(None) => return End::Closed,
                    Err(status) => return End::Broken(describe(&status)),
                },
                () = &mut first, if !self.answered && !self.client.subscriptions().is_empty() => {
                    return End::Broken(format!("no response within {open:?}"));
                }
            }
        }
    }

    fn handle(&mut self, response: DeltaDiscoveryResponse) {
        let type_url = response.type_url.clone();
        debug!(
            type_url,
            resources = response.resources.len(),
            removed = response.removed_resources.len(),
            "xds response"
        );
        if let Err(reason) = self.client.handle(response, self.handler) {
            warn!(type_url, %reason, "xds response refused");
        }
        if !std::mem::replace(&mut self.answered, true) {
            info!("xds connected");
        }
        let answered = self.client.is_answered();
        self.state.send_if_modified(|state| {
            let before = state.clone();
            state.connected = true;
            state.answered |= answered;
            state.last_error = None;
            *state != before
        });
    }

    /// Before the stream is there, the first requests are queued: some servers open it only when one has come.
    fn send_ready(&mut self, requests: &mpsc::Sender<DeltaDiscoveryRequest>) {
        while let Ok(permit) = requests.try_reserve() {
            match self.client.poll_request() {
                Some(request) => permit.send(request),
                None => return,
            }
        }
    }
}

fn describe(status: &Status) -> String {
    let mut text = format!("{:?}: {}", status.code(), status.message());
    let mut cause = std::error::Error::source(status);
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

/// Requests on their way to the transport.
const REQUESTS: usize = 16;
