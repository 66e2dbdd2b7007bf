//! Programs by hand: what istiod sends for one service, with changes.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use http::{HeaderName, HeaderValue, StatusCode};
use waymark_waypoint::program::{
    AccessLog, Breakers, Chain, Cluster, Codec, DestinationsBuilder, Discovery, Endpoint,
    EndpointHealth, EndpointKind, EndpointSet, HboneServer, HttpChain, HttpFilter, HttpTimeouts,
    LbPolicy, LocalityEndpoints, LocalityName, LogTarget, Names, PathOptions, PeerRule, Priority,
    RequestIdOptions, ServerHeader, Snapshot, SnapshotParts, StringMatch, Target, TcpChain,
    TcpDestination, Thresholds, TunnelClient, Underscores, UpstreamHttp, UpstreamHttp2,
    UpstreamProtocol,
};
use waymark_waypoint::route::{
    Action, AppendAction, BackOff, Clusters, Destination, DirectResponse, Forward, ForwardTimeouts,
    HeaderEdits, HeaderOp, HeaderOps, LogFormat, PathMatch, RetryOn, RetryPolicy, Route,
    RouteMatch, RouteTable, Template, VirtualHost, Weighted,
};

/// The VIP and port of the HTTP service.
pub(crate) const HTTP: &str = "10.96.0.1:9080";
/// Of the TCP service.
pub(crate) const TCP: &str = "10.96.0.2:3306";
/// Of the service whose protocol is not declared.
pub(crate) const SNIFFED: &str = "10.96.0.3:8000";

pub(crate) const UNLIMITED: Thresholds = Thresholds {
    max_connections: u32::MAX,
    max_pending_requests: u32::MAX,
    max_requests: u32::MAX,
    max_retries: u32::MAX,
    retry_budget: None,
};

/// What the snapshots of a test are made of.
pub(crate) struct Program {
    pub(crate) names: std::cell::RefCell<Names>,
    pub(crate) http: HttpChain,
    pub(crate) tcp: TcpChain,
    pub(crate) routes: Vec<Route>,
    pub(crate) clusters: Vec<Arc<Cluster>>,
    pub(crate) max_concurrent_streams: u32,
    pub(crate) inspection_timeout: Option<Duration>,
}

impl Program {
    /// One service, all of whose traffic goes to the cluster `one` with istiod's default retry policy.
    pub(crate) fn new(endpoints: &[SocketAddr]) -> Self {
        let mut names = Names::default();
        let one = cluster(&mut names, "one", endpoints);
        let routes = vec![route(
            "/",
            Action::Forward(Box::new(forward(&mut names, "one"))),
        )];
        let tcp = tcp_chain(TcpDestination::One(names.cluster("one")));
        Self {
            names: names.into(),
            http: http_chain(),
            tcp,
            routes,
            clusters: vec![Arc::new(one)],
            max_concurrent_streams: 100,
            inspection_timeout: Some(Duration::from_secs(15)),
        }
    }

    /// One more cluster.
    pub(crate) fn cluster(&mut self, name: &str, endpoints: &[SocketAddr]) {
        let made = cluster(self.names.get_mut(), name, endpoints);
        self.clusters.push(Arc::new(made));
    }

    /// Changes the cluster `one`.
    pub(crate) fn change_cluster(&mut self, change: impl FnOnce(&mut Cluster)) {
        let one = Arc::get_mut(&mut self.clusters[0]).expect("nothing was published yet");
        change(one);
    }

    /// Changes the first route's forwarding.
    pub(crate) fn change_forward(&mut self, change: impl FnOnce(&mut Forward)) {
        match &mut self.routes[0].action {
            Action::Forward(forward) => change(forward),
            other => panic!("{other:?} does not forward"),
        }
    }

    /// Routes by weight.
    pub(crate) fn split(&mut self, weights: &[(u32, &str)]) {
        let names = self.names.get_mut();
        let parts: Vec<_> = weights
            .iter()
            .map(|(weight, name)| (*weight, destination(names, name)))
            .collect();
        self.change_forward(|f| f.clusters = Clusters::Weighted(Weighted::new(parts).unwrap()));
    }

    /// A forward to a cluster, for another route.
    pub(crate) fn forward(&mut self, cluster: &str) -> Action {
        Action::Forward(Box::new(forward(self.names.get_mut(), cluster)))
    }

    pub(crate) fn snapshot(&self, node: SocketAddr) -> Snapshot {
        let mut names = self.names.borrow_mut();
        let host = VirtualHost::new("any".into(), vec!["*".into()], self.routes.clone());
        let mut http = self.http.clone();
        http.routes = Arc::new(RouteTable::new("routes".into(), vec![host]).unwrap());
        let (http_id, tcp_id) = (names.chain(&http.name), names.chain(&self.tcp.name));
        let mut destinations = DestinationsBuilder::default();
        let at = |text: &str| {
            let address: SocketAddr = text.parse().unwrap();
            (ipnet::IpNet::from(address.ip()), address.port())
        };
        let sniff = Target::Sniff {
            h2c: Some(http_id),
            http11: Some(http_id),
            http10: None,
            other: Some(tcp_id),
        };
        for (text, target) in [
            (HTTP, Target::Chain(http_id)),
            (TCP, Target::Chain(tcp_id)),
            (SNIFFED, sniff),
        ] {
            let (net, port) = at(text);
            destinations.add(&[net], false, &[(Some(port), target)]);
        }
        let mut destinations = destinations.build();
        destinations.inspection_timeout = self.inspection_timeout;
        let parts = SnapshotParts {
            hbone: Some(Arc::new(hbone_server(self.max_concurrent_streams))),
            tunnel: Some(Arc::new(tunnel_client(node.port()))),
            destinations: Arc::new(destinations),
            chains: vec![
                Arc::new(Chain::Http(Box::new(http))),
                Arc::new(Chain::Tcp(self.tcp.clone())),
            ],
            clusters: self.clusters.clone(),
        };
        Snapshot::assemble(1, &mut names, parts)
    }
}

/// An access log with nothing but response flags, a line each request.
pub(crate) struct FlagLog(tempfile::NamedTempFile);

impl FlagLog {
    /// The log of a program's HTTP chain.
    pub(crate) fn of(program: &mut Program) -> Self {
        let file = tempfile::NamedTempFile::new().unwrap();
        let format = Template::parse("%RESPONSE_FLAGS%\n").unwrap();
        program.http.access_logs = vec![AccessLog {
            format: Arc::new(LogFormat::Text(format)),
            to: LogTarget::File(file.path().to_str().unwrap().into()),
            only: None,
        }];
        Self(file)
    }

    /// What was logged so far.
    pub(crate) fn lines(&self) -> Vec<String> {
        let text = std::fs::read_to_string(self.0.path()).unwrap();
        text.lines().map(str::to_owned).collect()
    }
}

fn same_trust_domain() -> PeerRule {
    PeerRule::UriSan(vec![StringMatch::Prefix {
        value: "spiffe://cluster.local/".into(),
        ignore_case: false,
    }])
}

fn hbone_server(max_concurrent_streams: u32) -> HboneServer {
    HboneServer {
        bind: Vec::new(),
        max_concurrent_streams,
        initial_stream_window_bytes: None,
        initial_connection_window_bytes: None,
        keep_alive: None,
        peers: same_trust_domain(),
        server_name: HeaderValue::from_static("istio-envoy"),
        idle_timeout: None,
    }
}

fn tunnel_client(port: u16) -> TunnelClient {
    TunnelClient {
        port,
        connect_timeout: Duration::from_secs(10),
        idle_timeout: Some(Duration::from_secs(3600)),
        peers: same_trust_domain(),
        initial_stream_window_bytes: None,
        initial_connection_window_bytes: None,
        keep_alive: None,
    }
}

fn http_chain() -> HttpChain {
    HttpChain {
        name: "inbound-vip|9080|http|reviews".into(),
        stat_prefix: "inbound_0.0.0.0_9080".into(),
        codec: Codec::Auto,
        http1: Default::default(),
        http2: Default::default(),
        max_request_headers_bytes: 60 * 1024,
        max_headers: 100,
        max_requests_per_connection: None,
        underscores: Underscores::Allow,
        path: PathOptions {
            normalize: true,
            ..PathOptions::default()
        },
        server_name: HeaderValue::from_static("istio-envoy"),
        server_header: ServerHeader::Overwrite,
        request_id: RequestIdOptions {
            generate: true,
            in_response: false,
        },
        relay_100_continue: true,
        append_x_forwarded_port: false,
        suppress_envoy_headers: false,
        forward_client_cert: false,
        upgrades: vec!["websocket".into()],
        timeouts: HttpTimeouts::default(),
        filters: vec![
            HttpFilter::GrpcStats,
            HttpFilter::Fault,
            HttpFilter::Cors,
            HttpFilter::Router,
        ],
        routes: Arc::new(RouteTable::default()),
        access_logs: Vec::new(),
        tracing: true,
    }
}

fn tcp_chain(to: TcpDestination) -> TcpChain {
    TcpChain {
        name: "inbound-vip|3306|tcp|mysql".into(),
        stat_prefix: "tcp".into(),
        to,
        idle_timeout: None,
        max_duration: None,
        max_connect_attempts: 1,
        stats: None,
        access_logs: Vec::new(),
    }
}

fn cluster(names: &mut Names, name: &str, endpoints: &[SocketAddr]) -> Cluster {
    let reference = names.cluster(name);
    Cluster {
        id: reference.id,
        name: reference.name,
        discovery: Discovery::Eds {
            service_name: name.into(),
        },
        lb: LbPolicy::LeastRequest {
            choices: 2,
            active_request_bias: 1.0,
            slow_start: None,
        },
        panic_threshold_percent: 0.0,
        locality_weighted: false,
        connect_timeout: Duration::from_secs(10),
        breakers: Breakers {
            default: UNLIMITED,
            high: UNLIMITED,
        },
        protocol: UpstreamProtocol::Http1,
        http: UpstreamHttp {
            idle_timeout: Some(Duration::from_secs(3600)),
            max_connection_duration: None,
            max_requests_per_connection: None,
            http2: UpstreamHttp2 {
                max_concurrent_streams: 1024,
                initial_stream_window_bytes: 1 << 20,
                initial_connection_window_bytes: 4 << 20,
                keep_alive: None,
            },
        },
        service: None,
        subset: None,
        config: None,
        stat_name: name.into(),
        endpoints: Arc::new(ArcSwap::from_pointee(endpoint_set(endpoints))),
        stats: Arc::default(),
    }
}

/// Healthy endpoints behind tunnels.
pub(crate) fn endpoint_set(endpoints: &[SocketAddr]) -> EndpointSet {
    let endpoints = endpoints
        .iter()
        .map(|address| {
            Arc::new(Endpoint {
                kind: EndpointKind::Tunnel {
                    local: *address,
                    via: None,
                },
                text: format!("envoy://connect_originate/{address}").into(),
                health: EndpointHealth::Healthy,
                weight: 1,
                locality: LocalityName::default(),
                priority: 0,
                hostname: None,
                workload: None,
                stats: Arc::default(),
            })
        })
        .collect();
    EndpointSet {
        generation: 1,
        received: true,
        priorities: vec![Priority {
            localities: vec![LocalityEndpoints {
                locality: LocalityName::default(),
                weight: None,
                endpoints,
            }],
        }],
        overprovisioning_percent: 140,
    }
}

pub(crate) fn destination(names: &mut Names, cluster: &str) -> Destination {
    Destination {
        cluster: names.cluster(cluster),
        headers: HeaderEdits::default(),
        host_rewrite: None,
    }
}

/// istiod's default policy.
pub(crate) fn default_retries() -> RetryPolicy {
    RetryPolicy {
        on: RetryOn::parse(
            "connect-failure,refused-stream,unavailable,cancelled,retriable-status-codes",
        )
        .unwrap(),
        status_codes: Vec::new(),
        num_retries: 2,
        per_try_timeout: None,
        back_off: BackOff::DEFAULT,
        host_selection_attempts: 5,
        avoid_previous_hosts: true,
    }
}

fn forward(names: &mut Names, cluster: &str) -> Forward {
    Forward {
        clusters: Clusters::One(destination(names, cluster)),
        cluster_not_found: StatusCode::SERVICE_UNAVAILABLE,
        path_rewrite: None,
        host_rewrite: None,
        timeouts: ForwardTimeouts {
            grpc_max: Some(None),
            ..ForwardTimeouts::default()
        },
        retry: Some(default_retries()),
        upgrades: Vec::new(),
        retry_buffer_bytes: None,
        high_priority: false,
    }
}

pub(crate) fn route(prefix: &str, action: Action) -> Route {
    Route {
        name: "default".into(),
        matches: RouteMatch {
            path: PathMatch::Prefix {
                prefix: prefix.into(),
                ignore_case: false,
            },
            ..RouteMatch::any()
        },
        action,
        fault: None,
        cors: None,
        decorator: Some("reviews:9080/*".into()),
        config: None,
        stat_prefix: None,
    }
}

pub(crate) fn direct(status: StatusCode, body: &'static str) -> Action {
    Action::Direct(DirectResponse {
        status,
        body: body.into(),
        response_headers: HeaderOps::default(),
    })
}

pub(crate) fn set_header(name: &'static str, value: &str) -> HeaderOp {
    HeaderOp::Add {
        name: HeaderName::from_static(name),
        value: Template::parse(value).unwrap(),
        action: AppendAction::OverwriteOrAdd,
        keep_empty: false,
    }
}
