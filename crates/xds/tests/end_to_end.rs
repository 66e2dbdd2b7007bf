//! Server and client over gRPC on a loopback port.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::metadata::MetadataMap;
use tonic::transport::{Channel, Endpoint, Server};
use waymark_proto::envoy::envoy::config::core::v3::Node;
use waymark_proto::type_url::{ADDRESS, AUTHORIZATION, CLUSTER, ENDPOINT};
use waymark_rt::{Drain, Task, spawn};
use waymark_xds::client::{self, ClientOptions, ClientState, Credentials, CredentialsError};
use waymark_xds::server::{Client, Options, Refusal, Registry, Service, View};
use waymark_xds::{
    AdsClient, Encoded, Handler, NackReason, Rejection, ResourceMap, ResourceSet, Source,
    Subscriptions, Update,
};

type Contents = BTreeMap<String, BTreeMap<String, Vec<u8>>>;

/// One set for everybody who has the token.
#[derive(Debug)]
struct OneSet(watch::Sender<ResourceSet>);

impl Source for OneSet {
    async fn authenticate(
        &self,
        headers: &http::HeaderMap,
        _: &tonic::Extensions,
    ) -> Result<Option<String>, Refusal> {
        match headers
            .get("authorization")
            .and_then(|value| value.to_str().ok())
        {
            Some("Bearer good") => Ok(Some("spiffe://td/ns/a/sa/b".to_owned())),
            _ => Err(Refusal::Unauthenticated(
                "authentication failure".to_owned(),
            )),
        }
    }

    fn open(&self, _: &Client) -> Result<View, Refusal> {
        Ok(View::new(self.0.subscribe()))
    }
}

/// Publishes what it has; wants the endpoints of its clusters; refuses empty resources.
struct Store(watch::Sender<Contents>);

impl Handler for Store {
    fn apply(&mut self, update: Update<'_>, wanted: &mut Subscriptions) -> Result<(), NackReason> {
        let mut rejections = Vec::new();
        self.0.send_modify(|contents| {
            let have = contents.entry(update.type_url.to_owned()).or_default();
            for name in &update.removed {
                have.remove(name);
            }
            for resource in update.resources {
                let value = resource.resource.map(|any| any.value).unwrap_or_default();
                if value.is_empty() {
                    rejections.push(Rejection {
                        name: resource.name,
                        reason: "is empty".to_owned(),
                    });
                } else {
                    have.insert(resource.name, value);
                }
            }
        });
        if update.type_url == CLUSTER {
            wanted.names(ENDPOINT, self.0.borrow()[CLUSTER].keys().cloned());
        }
        if rejections.is_empty() {
            Ok(())
        } else {
            Err(NackReason::Resources(rejections))
        }
    }
}

struct Token(&'static str);

impl Credentials for Token {
    fn add(&self, metadata: &mut MetadataMap) -> Result<(), CredentialsError> {
        metadata.insert("authorization", self.0.parse().unwrap());
        Ok(())
    }
}

struct RunningServer {
    address: SocketAddr,
    registry: Registry,
    drain: Drain,
    task: Task<Result<(), tonic::transport::Error>>,
}

impl RunningServer {
    async fn start(address: SocketAddr, source: Arc<OneSet>) -> Self {
        Self::start_with(address, source, Options::default()).await
    }

    async fn start_with(address: SocketAddr, source: Arc<OneSet>, options: Options) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (registry, drain) = (Registry::default(), Drain::new(Duration::from_secs(5)));
        let service = Service::new(source, registry.clone(), options, drain.shutdown());
        let shutdown = drain.shutdown();
        let task = spawn("server", async move {
            Server::builder()
                .add_service(service)
                .serve_with_incoming_shutdown(TcpListenerStream::new(listener), async move {
                    shutdown.draining().await
                })
                .await
        });
        Self {
            address,
            registry,
            drain,
            task,
        }
    }

    async fn stop(self) {
        self.drain.finish().await;
        timeout(DEADLINE, self.task)
            .await
            .unwrap()
            .unwrap()
            .unwrap();
    }
}

struct RunningClient {
    contents: watch::Receiver<Contents>,
    state: watch::Receiver<ClientState>,
    _drain: Drain,
    _task: Task<()>,
}

impl RunningClient {
    fn start(address: SocketAddr, token: &'static str) -> Self {
        let channel: Channel = Endpoint::from_shared(format!("http://{address}"))
            .unwrap()
            .connect_lazy();
        let mut wanted = Subscriptions::new();
        wanted.all(CLUSTER);
        wanted.all(ADDRESS);
        wanted.all(AUTHORIZATION);
        let node = Node {
            id: "waypoint~127.244.0.9~w.a~a.svc.cluster.local".to_owned(),
            ..Node::default()
        };
        let (contents_tx, contents) = watch::channel(Contents::new());
        let (state_tx, state) = watch::channel(ClientState::default());
        let drain = Drain::new(Duration::from_secs(5));
        let shutdown = drain.shutdown();
        let task = spawn("client", async move {
            let options = ClientOptions::default();
            let mut store = Store(contents_tx);
            client::run(
                AdsClient::new(node, wanted),
                channel,
                &Token(token),
                options,
                &mut store,
                &state_tx,
                shutdown,
            )
            .await;
        });
        Self {
            contents,
            state,
            _drain: drain,
            _task: task,
        }
    }

    async fn has(&mut self, type_url: &str, want: &[(&str, &[u8])]) {
        let want: BTreeMap<String, Vec<u8>> = want
            .iter()
            .map(|(name, value)| ((*name).to_owned(), value.to_vec()))
            .collect();
        let reached = self
            .contents
            .wait_for(|contents| contents.get(type_url) == Some(&want));
        if timeout(DEADLINE, reached).await.is_err() {
            panic!(
                "{type_url} is {:?}, not {want:?}",
                self.contents.borrow().get(type_url)
            );
        }
    }

    async fn state(&mut self, is: impl FnMut(&ClientState) -> bool) -> ClientState {
        timeout(DEADLINE, self.state.wait_for(is))
            .await
            .unwrap()
            .unwrap()
            .clone()
    }
}

const DEADLINE: Duration = Duration::from_secs(20);

fn map(type_url: &str, resources: &[(&str, &[u8])]) -> ResourceMap {
    resources
        .iter()
        .map(|(name, value)| Encoded::new(*name, type_url, value.to_vec()))
        .collect()
}

fn source() -> Arc<OneSet> {
    let set = ResourceSet::new("v1")
        .with(CLUSTER, map(CLUSTER, &[("a", b"1"), ("b", b"1")]))
        .with(
            ENDPOINT,
            map(ENDPOINT, &[("a", b"1"), ("b", b"1"), ("c", b"1")]),
        )
        .with(
            ADDRESS,
            (0..5000)
                .map(|n| Encoded::new(format!("w{n}"), ADDRESS, vec![1; 300]))
                .collect(),
        );
    Arc::new(OneSet(watch::Sender::new(set)))
}

#[tokio::test]
async fn a_client_gets_what_there_is_and_what_changes() {
    let source = source();
    let server = RunningServer::start(SocketAddr::from(([127, 0, 0, 1], 0)), source.clone()).await;
    let mut client = RunningClient::start(server.address, "Bearer good");
    client.has(CLUSTER, &[("a", b"1"), ("b", b"1")]).await;
    client.has(ENDPOINT, &[("a", b"1"), ("b", b"1")]).await;
    client.has(AUTHORIZATION, &[]).await;
    client
        .state(|state| state.connected && state.answered)
        .await;
    assert_eq!(client.contents.borrow()[ADDRESS].len(), 5000);

    source
        .0
        .send_modify(|set| set.set(CLUSTER, map(CLUSTER, &[("a", b"2"), ("c", b"1")])));
    client.has(CLUSTER, &[("a", b"2"), ("c", b"1")]).await;
    client
        .has(ENDPOINT, &[("a", b"1"), ("b", b"1"), ("c", b"1")])
        .await;

    let connections = server.registry.connections();
    assert_eq!(
        connections[0].client.identity.as_deref(),
        Some("spiffe://td/ns/a/sa/b")
    );
    let totals = server.registry.totals();
    // a, b, then a and c.
    assert_eq!(
        (totals[CLUSTER].resources, totals[CLUSTER].removals),
        (4, 1)
    );
    assert_eq!(totals[ADDRESS].resources, 5000);
    assert!(totals[ADDRESS].bytes > 5000 * 300);
    drop(client);
    server.stop().await;
}

#[tokio::test]
async fn a_server_that_comes_back_sends_nothing_twice() {
    let source = source();
    let server = RunningServer::start(SocketAddr::from(([127, 0, 0, 1], 0)), source.clone()).await;
    let address = server.address;
    let mut client = RunningClient::start(address, "Bearer good");
    client.state(|state| state.answered).await;
    client.has(ENDPOINT, &[("a", b"1"), ("b", b"1")]).await;
    server.stop().await;
    client.state(|state| !state.connected).await;

    source
        .0
        .send_modify(|set| set.set(CLUSTER, map(CLUSTER, &[("a", b"1"), ("b", b"2")])));
    let server = RunningServer::start(address, source.clone()).await;
    client.has(CLUSTER, &[("a", b"1"), ("b", b"2")]).await;
    client.state(|state| state.connected).await;
    // The changed cluster is all that is sent; each type is answered.
    let all_answered = async {
        while server.registry.totals().len() < 4 {
            tokio::task::yield_now().await;
        }
    };
    timeout(DEADLINE, all_answered).await.unwrap();
    let totals = server.registry.totals();
    let sent = [CLUSTER, ENDPOINT, ADDRESS, AUTHORIZATION].map(|type_url| {
        (
            type_url,
            totals[type_url].resources,
            totals[type_url].removals,
        )
    });
    assert_eq!(
        sent,
        [
            (CLUSTER, 1, 0),
            (ENDPOINT, 0, 0),
            (ADDRESS, 0, 0),
            (AUTHORIZATION, 0, 0)
        ]
    );
    drop(client);
    server.stop().await;
}

#[tokio::test]
async fn a_stream_that_is_old_ends_and_what_comes_back_is_sent_nothing_twice() {
    let options = Options {
        max_stream_age: Some(Duration::from_millis(300)),
        ..Options::default()
    };
    let address = SocketAddr::from(([127, 0, 0, 1], 0));
    let server = RunningServer::start_with(address, source(), options).await;
    let mut client = RunningClient::start(server.address, "Bearer good");
    client.state(|state| state.streams >= 3).await;
    client
        .state(|state| state.connected && state.answered)
        .await;
    client.has(CLUSTER, &[("a", b"1"), ("b", b"1")]).await;
    assert_eq!(server.registry.totals()[ADDRESS].resources, 5000);
    drop(client);
    server.stop().await;
}

#[tokio::test]
async fn a_refused_resource_leaves_the_last_good_one_and_is_seen() {
    let source = source();
    let server = RunningServer::start(SocketAddr::from(([127, 0, 0, 1], 0)), source.clone()).await;
    let mut client = RunningClient::start(server.address, "Bearer good");
    client.has(CLUSTER, &[("a", b"1"), ("b", b"1")]).await;
    source
        .0
        .send_modify(|set| set.set(CLUSTER, map(CLUSTER, &[("a", b""), ("b", b"2")])));
    client.has(CLUSTER, &[("a", b"1"), ("b", b"2")]).await;
    let refused = async {
        loop {
            let connections = server.registry.connections();
            let error = connections
                .first()
                .and_then(|c| c.types.get(CLUSTER))
                .and_then(|status| status.last_error.clone());
            if let Some(error) = error {
                return error;
            }
            tokio::task::yield_now().await;
        }
    };
    assert_eq!(timeout(DEADLINE, refused).await.unwrap(), "a: is empty");
    drop(client);
    server.stop().await;
}

#[tokio::test]
async fn a_client_without_a_good_token_is_refused_and_told() {
    let server = RunningServer::start(SocketAddr::from(([127, 0, 0, 1], 0)), source()).await;
    let mut client = RunningClient::start(server.address, "Bearer bad");
    let state = client.state(|state| state.last_error.is_some()).await;
    assert_eq!(
        state.last_error.as_deref(),
        Some("Unauthenticated: authentication failure")
    );
    assert!(server.registry.is_empty());
    drop(client);
    server.stop().await;
}

#[tokio::test]
async fn a_client_that_does_not_say_who_it_is_is_refused() {
    use discovery::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
    use waymark_proto::envoy::envoy::service::discovery::v3 as discovery;
    let server = RunningServer::start(SocketAddr::from(([127, 0, 0, 1], 0)), source()).await;
    let channel = Endpoint::from_shared(format!("http://{}", server.address))
        .unwrap()
        .connect_lazy();
    let mut client = AggregatedDiscoveryServiceClient::new(channel);
    let first = discovery::DeltaDiscoveryRequest {
        type_url: CLUSTER.to_owned(),
        ..Default::default()
    };
    let mut request = tonic::Request::new(tokio_stream::iter([first]));
    request
        .metadata_mut()
        .insert("authorization", "Bearer good".parse().unwrap());
    let status = client
        .delta_aggregated_resources(request)
        .await
        .unwrap_err();
    assert_eq!(
        (status.code(), status.message()),
        (tonic::Code::InvalidArgument, "missing node information")
    );

    let mut request =
        tonic::Request::new(tokio_stream::iter([discovery::DiscoveryRequest::default()]));
    request
        .metadata_mut()
        .insert("authorization", "Bearer good".parse().unwrap());
    let status = client
        .stream_aggregated_resources(request)
        .await
        .unwrap_err();
    assert_eq!(status.code(), tonic::Code::Unimplemented);
    drop(client);
    server.stop().await;
}
