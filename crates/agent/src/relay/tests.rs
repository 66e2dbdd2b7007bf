#![expect(clippy::unwrap_used, reason = "tests")]

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use futures_util::{Stream, StreamExt};
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Endpoint, Server};
use tonic::{Code, Streaming};
use waymark_identity::grpc::{Incoming, Target, channel};
use waymark_proto::envoy::envoy::service::discovery::v3::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use waymark_proto::envoy::envoy::service::discovery::v3::aggregated_discovery_service_server::{
    AggregatedDiscoveryService, AggregatedDiscoveryServiceServer,
};
use waymark_proto::envoy::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
};
use waymark_rt::{Drain, ListenOptions, Tasks, listen};

use super::*;
use crate::directory::{Directory, incoming};

/// Answers each request with what it was shown: the token, and the request's type.
struct ControlPlane;

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl AggregatedDiscoveryService for ControlPlane {
    type DeltaAggregatedResourcesStream = Answers<DeltaDiscoveryResponse>;
    type StreamAggregatedResourcesStream = Answers<DiscoveryResponse>;

    async fn delta_aggregated_resources(
        &self,
        request: tonic::Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<tonic::Response<Self::DeltaAggregatedResourcesStream>, Status> {
        let shown = ["authorization", "clusterid"]
            .map(|name| {
                request
                    .metadata()
                    .get(name)
                    .map_or("none", |v| v.to_str().unwrap())
            })
            .join(" ");
        let answers = request.into_inner().map(move |request| {
            let request = request?;
            if request.type_url == "end" {
                return Err(Status::permission_denied("not you"));
            }
            Ok(DeltaDiscoveryResponse {
                system_version_info: shown.clone(),
                nonce: request.response_nonce,
                ..DeltaDiscoveryResponse::default()
            })
        });
        Ok(tonic::Response::new(Box::pin(answers)))
    }

    async fn stream_aggregated_resources(
        &self,
        request: tonic::Request<Streaming<DiscoveryRequest>>,
    ) -> Result<tonic::Response<Self::StreamAggregatedResourcesStream>, Status> {
        let answers = request.into_inner().map(|request| {
            Ok(DiscoveryResponse {
                type_url: request?.type_url,
                ..DiscoveryResponse::default()
            })
        });
        Ok(tonic::Response::new(Box::pin(answers)))
    }
}

/// A control plane, the relay before it, and what stands in for Envoy.
struct World {
    dir: tempfile::TempDir,
    client: AggregatedDiscoveryServiceClient<Channel>,
    figures: Arc<Figures>,
    _tasks: Tasks,
    _drain: Drain,
}

impl World {
    async fn new() -> Self {
        let listener = listen((Ipv4Addr::LOCALHOST, 0).into(), &ListenOptions::default()).unwrap();
        let address = listener.local_addr();
        let drain = Drain::new(Duration::from_secs(1));
        let tasks = Tasks::new();
        let connections = Incoming::plain(listener, drain.shutdown());
        tasks.spawn("control plane", async move {
            let service = AggregatedDiscoveryServiceServer::new(ControlPlane)
                .max_decoding_message_size(64 << 20);
            Server::builder()
                .add_service(service)
                .serve_with_incoming(connections)
                .await
                .unwrap();
        });
        Self::before(address, tasks, drain)
    }

    fn before(address: SocketAddr, tasks: Tasks, drain: Drain) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let token = dir.path().join("token");
        std::fs::write(&token, "one\n").unwrap();
        let upstream = channel(&Target {
            address: address.to_string(),
            tls: None,
        })
        .unwrap();
        let figures = Arc::new(Figures::default());
        let relay = Relay::new(
            upstream,
            Some(BearerToken::File(token)),
            HeaderValue::from_static("Kubernetes"),
            Arc::clone(&figures),
        );
        let directory = Directory::prepare(&dir.path().join("agent")).unwrap();
        let socket = directory.listen("XDS").unwrap();
        tasks.spawn("relay", async move {
            Server::builder()
                .add_service(relay)
                .serve_with_incoming(incoming(socket))
                .await
                .unwrap();
        });
        let client = AggregatedDiscoveryServiceClient::new(unix(&directory.path().join("XDS")))
            .max_decoding_message_size(64 << 20);
        Self {
            dir,
            client,
            figures,
            _tasks: tasks,
            _drain: drain,
        }
    }

    async fn first_answer(&mut self) -> Result<DeltaDiscoveryResponse, Status> {
        let requests = tokio_stream::once(DeltaDiscoveryRequest::default());
        let answers = self.client.delta_aggregated_resources(requests).await?;
        answers.into_inner().next().await.unwrap()
    }
}

fn unix(path: &Path) -> Channel {
    let path = path.to_owned();
    let connect = tonic_connector(move || UnixStream::connect(path.clone()));
    Endpoint::from_static("http://xds-grpc").connect_with_connector_lazy(connect)
}

/// What tonic takes for a connector, of a function.
fn tonic_connector<F, C>(connect: F) -> Connect<F>
where
    F: Fn() -> C,
{
    Connect(connect)
}

struct Connect<F>(F);

impl<F, C> Service<http::Uri> for Connect<F>
where
    F: Fn() -> C,
    C: Future<Output = std::io::Result<UnixStream>> + Send + 'static,
{
    type Response = TokioIo<UnixStream>;
    type Error = std::io::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, std::io::Error>> + Send>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), std::io::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _uri: http::Uri) -> Self::Future {
        let connecting = (self.0)();
        Box::pin(async move { connecting.await.map(TokioIo::new) })
    }
}

#[tokio::test]
async fn adds_who_we_are_and_reads_the_token_for_every_stream() {
    let mut world = World::new().await;
    assert_eq!(
        world.first_answer().await.unwrap().system_version_info,
        "Bearer one Kubernetes"
    );
    std::fs::write(world.dir.path().join("token"), "two").unwrap();
    assert_eq!(
        world.first_answer().await.unwrap().system_version_info,
        "Bearer two Kubernetes"
    );
    std::fs::remove_file(world.dir.path().join("token")).unwrap();
    let refused = world.first_answer().await.unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable);
    assert!(refused.message().contains("read the token"), "{refused}");
    assert_eq!(world.figures.streams.load(Ordering::Relaxed), 3);
    assert_eq!(world.figures.failures.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn carries_both_directions_of_an_open_stream_whatever_the_size_and_the_status_at_its_end() {
    let mut world = World::new().await;
    let (send, requests) = mpsc::channel(1);
    let mut answers = world
        .client
        .delta_aggregated_resources(ReceiverStream::new(requests))
        .await
        .unwrap()
        .into_inner();
    // More than any window and any default limit of a message.
    for nonce in ["small".to_owned(), "x".repeat(20 << 20), "again".to_owned()] {
        let request = DeltaDiscoveryRequest {
            response_nonce: nonce.clone(),
            ..DeltaDiscoveryRequest::default()
        };
        send.send(request).await.unwrap();
        assert!(answers.next().await.unwrap().unwrap().nonce == nonce);
    }
    let end = DeltaDiscoveryRequest {
        type_url: "end".to_owned(),
        ..DeltaDiscoveryRequest::default()
    };
    send.send(end).await.unwrap();
    let status = answers.next().await.unwrap().unwrap_err();
    assert_eq!(
        (status.code(), status.message()),
        (Code::PermissionDenied, "not you")
    );
}

#[tokio::test]
async fn carries_the_state_of_the_world_form() {
    let mut world = World::new().await;
    let request = DiscoveryRequest {
        type_url: "t".to_owned(),
        ..DiscoveryRequest::default()
    };
    let answers = world
        .client
        .stream_aggregated_resources(tokio_stream::once(request))
        .await
        .unwrap();
    assert_eq!(
        answers.into_inner().next().await.unwrap().unwrap().type_url,
        "t"
    );
}

#[tokio::test]
async fn a_control_plane_that_is_not_there_is_unavailable() {
    // An address that nobody listens on.
    let address = waymark_rt::bind((Ipv4Addr::LOCALHOST, 0).into(), &ListenOptions::default())
        .unwrap()
        .local_addr()
        .unwrap();
    let mut world = World::before(address, Tasks::new(), Drain::new(Duration::from_secs(1)));
    let status = world.first_answer().await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    assert!(
        status.message().contains(&format!("connect to {address}")),
        "{status}"
    );
}
