//! Start: what is kept on disk, listeners, servers; then the first look at the mesh, and everything that follows it.

use std::collections::BTreeMap;
use std::fs::DirBuilder;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use serde::Serialize;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior, interval};
use tonic::transport::Server;
use tracing::{error, info, warn};
use waymark_identity::ca::ServingName;
use waymark_identity::grpc::Incoming;
use waymark_identity::tls::https_server_config;
use waymark_identity::{Ca, CertHandle, ServiceAccountRef};
use waymark_kubernetes::Access;
use waymark_proto::type_url;
use waymark_rt::{
    Clock, ListenOptions, Listener, Shutdown, SystemClock, Task, Tasks, listen, spawn,
};
use waymark_xds::server::{Options, Registry, Service};

use super::RunError;
use super::args::{Deploy, Settings, SourceSettings};
use crate::ca::{Authenticator, CaService, SharedCa, Tokens};
use crate::core::Core;
use crate::debug::DebugServer;
use crate::deploy::{self, DeployOptions, Desired, OnShutdown, ReplicaStates};
use crate::facts::{self, Facts, Platform, ReplicaSource};
use crate::file;
use crate::generate::Generator;
use crate::index::key::WaypointKey;
use crate::index::{Index, Mesh};
use crate::ipam::Ipam;
use crate::metrics::Metrics;
use crate::serve::{self, CapturedWorkloads, XdsSource};
use crate::source::directory::Directory;
use crate::source::kubernetes::Cluster;
use crate::status::{ReplicaStatus, StatusFile};
use crate::token::{TokenFiles, TokenKey};
use crate::translate::input::MeshSettings;
use crate::view::ControlPlane;

/// `controlplane.json`: where the control plane is.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Addresses {
    xds: SocketAddr,
    #[serde(skip_serializing_if = "Option::is_none")]
    plaintext_xds: Option<SocketAddr>,
    debug: SocketAddr,
    pid: u32,
}

/// A control plane that runs.
pub(super) struct Running {
    shutdown: Shutdown,
    servers: Vec<Task<Result<(), tonic::transport::Error>>>,
    debug: Task<()>,
    deployer: Option<Task<()>>,
    /// What carries changes; ended last.
    tasks: Tasks,
}

impl Running {
    /// Waits for the drain, and for what it has to finish.
    pub(super) async fn until_the_end(mut self) -> Result<(), RunError> {
        let mut ended = futures_util::stream::FuturesUnordered::from_iter(self.servers.drain(..));
        let first = tokio::select! {
            biased;
            () = self.shutdown.draining() => None,
            first = futures_util::StreamExt::next(&mut ended) => first,
        };
        if let Some(Ok(Err(error))) = first {
            // Without its server it is of no use: whoever started it is to know.
            self.shutdown.begin();
            return Err(RunError::Server(error));
        }
        if let Some(deployer) = self.deployer.take() {
            // A panic of a task is in the log already.
            let _ = deployer.await;
        }
        while futures_util::StreamExt::next(&mut ended).await.is_some() {}
        let _ = self.debug.await;
        self.tasks.finish().await;
        info!("control plane ended");
        Ok(())
    }
}

/// What proves who is who.
struct Trust {
    ca: SharedCa,
    authenticator: Arc<Authenticator>,
    tokens: Arc<TokenFiles>,
    serving: CertHandle,
    serving_names: Vec<ServingName>,
}

pub(super) async fn start(settings: Settings, shutdown: Shutdown) -> Result<Running, RunError> {
    let state = settings.state_dir.clone();
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&state)
        .map_err(|source| RunError::StateDir {
            path: state.clone(),
            source,
        })?;
    let xds = listen(settings.xds_address, &ListenOptions::default())?;
    let plaintext = settings
        .plaintext_xds_address
        .map(|address| listen(address, &ListenOptions::default()))
        .transpose()?;
    let debug = listen(settings.debug_address, &ListenOptions::default())?;
    let addresses = Addresses {
        xds: xds.local_addr(),
        plaintext_xds: plaintext.as_ref().map(Listener::local_addr),
        debug: debug.local_addr(),
        pid: std::process::id(),
    };
    let trust = trust(&settings, addresses.xds.ip())?;
    let core = Arc::new(core(&settings, &trust)?);
    let registry = Registry::default();
    let ca_service = CaService::new(
        trust.ca.clone(),
        trust.authenticator.clone(),
        Arc::new(CapturedWorkloads(core.clone())),
        settings.node_accounts.clone(),
    );
    let ca_metrics = ca_service.metrics();

    let source = Arc::new(XdsSource::new(core.clone(), trust.authenticator.clone()));
    let ads = Service::new(
        source,
        registry.clone(),
        Options::default(),
        shutdown.clone(),
    );
    let mut servers = Vec::new();
    let incoming = Incoming::tls(xds, https_server_config(&trust.serving), shutdown.clone());
    let tls = server()
        .add_service(ads.clone())
        .add_service(ca_service.into_server());
    servers.push(spawn(
        "xds",
        tls.serve_with_incoming_shutdown(incoming, draining(&shutdown)),
    ));
    if let Some(listener) = plaintext {
        let incoming = Incoming::plain(listener, shutdown.clone());
        let plain = server().add_service(ads);
        servers.push(spawn(
            "xds plaintext",
            plain.serve_with_incoming_shutdown(incoming, draining(&shutdown)),
        ));
    }
    let view = Arc::new(ControlPlane::new(
        core.clone(),
        registry.clone(),
        ca_metrics,
    ));
    let debug_server =
        DebugServer::new(view.clone(), trust.authenticator.clone(), SYSTEM_NAMESPACE);
    let debug = spawn("debug", debug_server.serve(debug, shutdown.clone()));

    let text = serde_json::to_vec(&addresses).expect("addresses and a number become JSON");
    let path = state.join("controlplane.json");
    file::replace(&path, &text).map_err(|source| RunError::StateDir { path, source })?;
    info!(xds = %addresses.xds, debug = %addresses.debug, "control plane listens");
    let tasks = Tasks::new();
    let status = StatusFile::open(&state.join("status.json"));
    let begun = Begun {
        settings: &settings,
        core: &core,
        registry,
        tasks: &tasks,
        shutdown: &shutdown,
        tokens: trust.tokens.clone(),
        xds: addresses.xds,
        remembered: remembered(&status),
    };
    let deployer = match &settings.source {
        SourceSettings::Directory(directory) => begun.directory(directory.clone()).await?,
        SourceSettings::Kubernetes(access) => {
            begun.cluster(access).await?;
            None
        }
    };
    tasks.spawn("write statuses", write_statuses(core, view, status));
    tasks.spawn(
        "renew certificate and tokens",
        renew(
            trust.serving,
            trust.serving_names,
            trust.ca,
            trust.tokens,
            settings.node_accounts.clone(),
        ),
    );
    Ok(Running {
        shutdown,
        servers,
        debug,
        deployer,
        tasks,
    })
}

/// A control plane that serves and has yet to look at its source.
struct Begun<'a> {
    settings: &'a Settings,
    core: &'a Arc<Core>,
    registry: Registry,
    tasks: &'a Tasks,
    shutdown: &'a Shutdown,
    tokens: Arc<TokenFiles>,
    xds: SocketAddr,
    remembered: Remembered,
}

impl Begun<'_> {
    /// Reads a directory, watches it, and sees to the waypoints that it asks for. Gives what is to end first.
    async fn directory(self, mesh_dir: PathBuf) -> Result<Option<Task<()>>, RunError> {
        let Self { settings, core, .. } = self;
        // Reading a directory is blocking work; nothing else has to be done before it.
        let opened = tokio::task::spawn_blocking(move || Directory::open(&mesh_dir)).await;
        let (directory, first) =
            opened.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))?;
        if settings.deploy == Deploy::No {
            core.connected(by_waypoint(
                self.remembered
                    .iter()
                    .map(|(waypoint, name, address, _)| (waypoint, name, *address)),
            ));
        } else {
            let processes = self
                .remembered
                .iter()
                .filter_map(|(waypoint, name, _, pid)| {
                    Some((waypoint.clone(), name.clone(), (*pid)?))
                });
            core.remember(processes);
        }
        core.take(first);

        let (batches, received) = mpsc::channel(BATCHES);
        let stop = self.shutdown.draining_token();
        let watching = directory.watch(batches, settings.rescan, stop);
        self.tasks.spawn("watch mesh directory", async move {
            if let Err(error) = watching.await {
                error!(%error, cause = ?std::error::Error::source(&error).map(ToString::to_string), "mesh directory is not watched any more");
            }
        });
        self.tasks
            .spawn("take changes", take_changes(core.clone(), received));
        if settings.deploy == Deploy::No {
            self.tasks.spawn(
                "issue waypoint tokens",
                issue_tokens(core.desired(), self.tokens),
            );
            self.tasks.spawn(
                "watch connections",
                watch_connections(core.clone(), self.registry, self.remembered),
            );
            return Ok(None);
        }
        let options = deploy_options(settings, self.xds, self.tokens)?;
        let (deployer, states) = deploy::start(options, core.desired(), self.shutdown.clone());
        self.tasks
            .spawn("take replica states", take_replicas(core.clone(), states));
        Ok(Some(deployer))
    }

    /// Watches a cluster. Until all of it has been read, which takes as long as its API server is away, nobody is served.
    async fn cluster(self, access: &Access) -> Result<(), RunError> {
        let client = waymark_kubernetes::connect(access).await?;
        let options = waymark_kubernetes::Options {
            revision: self.settings.revision.clone(),
            ..waymark_kubernetes::Options::default()
        };
        let (told, heard) = mpsc::channel(BATCHES);
        let (batches, received) = mpsc::channel(BATCHES);
        let stop = self.shutdown.draining_token();
        self.tasks.spawn(
            "watch cluster",
            waymark_kubernetes::watch(client, options, told, stop),
        );
        self.tasks
            .spawn("read cluster", Cluster::default().pass_on(heard, batches));
        self.tasks
            .spawn("take changes", take_changes(self.core.clone(), received));
        Ok(())
    }
}

fn trust(settings: &Settings, address: IpAddr) -> Result<Trust, RunError> {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let state = &settings.state_dir;
    let ca = match &settings.ca_dir {
        Some(dir) => Ca::load(dir, &settings.trust_domain, clock.clone())?,
        None => Ca::load_or_create(&state.join("ca"), &settings.trust_domain, clock.clone())?,
    };
    let root_cert = state.join(ROOT_CERT);
    let replaced = file::replace(&root_cert, ca.roots_pem().as_bytes());
    replaced.map_err(|source| RunError::StateDir {
        path: root_cert,
        source,
    })?;
    let key = Arc::new(TokenKey::load_or_create(&state.join("token-key"), clock)?);
    let tokens = TokenFiles::new(&state.join("tokens"), key.clone())?;
    for account in &settings.node_accounts {
        tokens.ensure(account)?;
    }
    let serving_names = serving_names(settings, address);
    let serving = CertHandle::fixed(ca.serving(&serving_names, None)?);
    Ok(Trust {
        ca: Arc::new(ArcSwap::from_pointee(ca)),
        authenticator: Arc::new(Authenticator::new(
            settings.trust_domain.clone(),
            Tokens::Issued(key),
        )),
        tokens: Arc::new(tokens),
        serving,
        serving_names,
    })
}

/// Upstream's names, what this machine calls itself, and the operator's.
fn serving_names(settings: &Settings, address: IpAddr) -> Vec<ServingName> {
    let upstream = ["istiod", "istiod-remote", "istio-pilot"]
        .map(|name| format!("{name}.{SYSTEM_NAMESPACE}.svc"));
    let names = upstream
        .into_iter()
        .chain(["localhost".to_owned()])
        .chain(settings.serving_names.iter().cloned());
    let mut addresses = vec![address, IpAddr::from([127, 0, 0, 1])];
    addresses.dedup();
    // The unspecified address is listened on, never dialled.
    let addresses = addresses
        .into_iter()
        .filter(|address| !address.is_unspecified());
    names
        .map(ServingName::Dns)
        .chain(addresses.map(ServingName::Ip))
        .collect()
}

fn core(settings: &Settings, trust: &Trust) -> Result<Core, RunError> {
    let (platform, ipam) = match settings.source {
        SourceSettings::Directory(_) => (
            Platform::Directory,
            Ipam::load(&settings.state_dir.join("ipam.json"))?,
        ),
        SourceSettings::Kubernetes(_) => (Platform::Kubernetes, Ipam::in_memory()),
    };
    let trust_domain = trust.ca.load().trust_domain().as_str().to_owned();
    let facts = facts::Settings {
        cluster_id: settings.cluster_id.clone(),
        node_name: settings.node_name.as_str().into(),
        replicas: match (platform, settings.deploy) {
            (Platform::Kubernetes, _) => ReplicaSource::Pods,
            (Platform::Directory, Deploy::No) => ReplicaSource::Connections,
            (Platform::Directory, Deploy::Yes | Deploy::AndKeep) => ReplicaSource::Gateway,
        },
        platform,
    };
    let mesh = Mesh {
        trust_domain: trust_domain.clone(),
        cluster_id: settings.cluster_id.clone(),
        ..Mesh::default()
    };
    let generator = Generator::new(MeshSettings {
        trust_domains: vec![trust_domain],
        access_log: settings.access_log.clone(),
        ..MeshSettings::default()
    });
    Ok(Core::new(
        Facts::new(facts, ipam),
        Index::new(mesh),
        generator,
        Arc::new(Metrics::default()),
    ))
}

fn deploy_options(
    settings: &Settings,
    xds: SocketAddr,
    tokens: Arc<TokenFiles>,
) -> Result<DeployOptions, RunError> {
    let executable = match &settings.waypoint_program {
        Some(program) => program.clone(),
        None => std::env::current_exe().map_err(RunError::Executable)?,
    };
    let dialled = if xds.ip().is_unspecified() {
        SocketAddr::from(([127, 0, 0, 1], xds.port()))
    } else {
        xds
    };
    Ok(DeployOptions {
        executable,
        state_dir: settings.state_dir.clone(),
        xds_address: dialled.to_string(),
        ca_address: dialled.to_string(),
        root_cert: settings.state_dir.join(ROOT_CERT),
        trust_domain: settings.trust_domain.as_str().to_owned(),
        cluster_id: settings.cluster_id.clone(),
        tokens,
        ready_port: deploy::READY_PORT,
        binary: settings.waypoint_binary,
        envoy: settings.envoy.clone(),
        drain: settings.drain,
        on_shutdown: match settings.deploy {
            Deploy::AndKeep => OnShutdown::Leave,
            Deploy::Yes | Deploy::No => OnShutdown::Drain,
        },
    })
}

/// Spec: control-plane.md 2.2, server limits.
fn server() -> Server {
    Server::builder()
        .http2_keepalive_interval(Some(Duration::from_secs(30)))
        .http2_keepalive_timeout(Some(Duration::from_secs(10)))
        .max_concurrent_streams(Some(MAX_STREAMS))
        .tcp_nodelay(true)
}

fn draining(shutdown: &Shutdown) -> impl Future<Output = ()> + Send + 'static {
    let token = shutdown.draining_token();
    async move { token.cancelled().await }
}

async fn take_changes(core: Arc<Core>, mut batches: mpsc::Receiver<crate::source::Batch>) {
    while let Some(batch) = batches.recv().await {
        core.take(batch);
    }
}

async fn take_replicas(core: Arc<Core>, mut states: watch::Receiver<Arc<ReplicaStates>>) {
    let forget = tokio::time::sleep(REMEMBERED);
    tokio::pin!(forget);
    let mut forgotten = false;
    loop {
        let current = states.borrow_and_update().clone();
        core.replicas(current);
        tokio::select! {
            changed = states.changed() => if changed.is_err() { return },
            () = &mut forget, if !forgotten => {
                forgotten = true;
                core.forget_remembered();
            }
        }
    }
}

/// Replicas that were ready when the last control plane ended.
type Remembered = Vec<(WaypointKey, Arc<str>, IpAddr, Option<u32>)>;

fn remembered(status: &StatusFile) -> Remembered {
    let replica = |(waypoint, replica): (WaypointKey, &ReplicaStatus)| {
        Some((
            waypoint,
            replica.name.as_str().into(),
            replica.address.parse().ok()?,
            replica.pid,
        ))
    };
    status.ready_replicas().filter_map(replica).collect()
}

fn by_waypoint<'a>(
    replicas: impl Iterator<Item = (&'a WaypointKey, &'a Arc<str>, IpAddr)>,
) -> BTreeMap<WaypointKey, BTreeMap<Arc<str>, IpAddr>> {
    let mut by_waypoint: BTreeMap<WaypointKey, BTreeMap<Arc<str>, IpAddr>> = BTreeMap::new();
    for (waypoint, name, address) in replicas {
        by_waypoint
            .entry(waypoint.clone())
            .or_default()
            .insert(name.clone(), address);
    }
    by_waypoint
}

/// Where nobody starts waypoints, those that are connected and have accepted their listeners are the replicas. One whose
/// connection is gone has some time to come back: it may well be alive.
async fn watch_connections(core: Arc<Core>, registry: Registry, remembered: Remembered) {
    let mut seen: BTreeMap<(WaypointKey, Arc<str>), (IpAddr, Instant)> = remembered
        .into_iter()
        .map(|(waypoint, name, address, _)| ((waypoint, name), (address, Instant::now())))
        .collect();
    let mut ticks = interval(CONNECTIONS_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let now = Instant::now();
        for connection in registry.connections() {
            let configured = connection
                .types
                .get(type_url::LISTENER)
                .is_some_and(|status| !status.nonce_acked.is_empty());
            let replica = core.read(|inner| serve::replica_of(&inner.index, &connection.client));
            if let Some((waypoint, name, address)) = replica.filter(|_| configured) {
                seen.insert((waypoint, name), (address, now));
            }
        }
        seen.retain(|_, (_, at)| now.duration_since(*at) < CONNECTION_GONE);
        core.connected(by_waypoint(
            seen.iter()
                .map(|((waypoint, name), (address, _))| (waypoint, name, *address)),
        ));
    }
}

/// Where nobody starts waypoints, whoever does finds their tokens all the same.
async fn issue_tokens(mut desired: watch::Receiver<Desired>, tokens: Arc<TokenFiles>) {
    let mut ticks = interval(RENEW_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let waypoints = desired.borrow_and_update().clone();
        for waypoint in waypoints.iter().flat_map(|waypoints| waypoints.iter()) {
            let account = ServiceAccountRef::new(&waypoint.namespace, &waypoint.service_account);
            let (namespace, gateway) = (&waypoint.namespace, &waypoint.gateway);
            match account.map(|account| tokens.ensure(&account)) {
                Ok(Ok(_)) => {}
                Ok(Err(error)) => warn!(%error, namespace, gateway, "token is not issued"),
                Err(error) => warn!(%error, namespace, gateway, "waypoint has no service account"),
            }
        }
        tokio::select! {
            changed = desired.changed() => if changed.is_err() { return },
            _ = ticks.tick() => {}
        }
    }
}

async fn write_statuses(core: Arc<Core>, view: Arc<ControlPlane>, mut file: StatusFile) {
    let mut revision = core.revision();
    loop {
        revision.borrow_and_update();
        let now = time::OffsetDateTime::now_utc();
        if let Err(error) = core.read(|inner| file.update(inner, now)) {
            error!(%error, "status is not written");
        }
        view.set_status(file.current().clone());
        if revision.changed().await.is_err() {
            return;
        }
    }
}

/// Sees to it that the control plane's certificate and its node proxies' tokens never run out.
async fn renew(
    serving: CertHandle,
    names: Vec<ServingName>,
    ca: SharedCa,
    tokens: Arc<TokenFiles>,
    accounts: Vec<ServiceAccountRef>,
) {
    let mut ticks = interval(RENEW_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // The first tick comes at once, and everything is new.
    ticks.tick().await;
    loop {
        ticks.tick().await;
        match ca.load().serving(&names, None) {
            Ok(credentials) => serving.publish(Arc::new(credentials), None),
            Err(error) => warn!(%error, "serving certificate is not renewed"),
        }
        for account in &accounts {
            if let Err(error) = tokens.ensure(account) {
                warn!(%error, %account, "token is not renewed");
            }
        }
    }
}

const SYSTEM_NAMESPACE: &str = waymark_api::names::SYSTEM_NAMESPACE;
const ROOT_CERT: &str = "root-cert.pem";
/// Looks at the directory that may wait; then the watcher waits, and gathers.
const BATCHES: usize = 4;
/// Spec: control-plane.md 2.2.
const MAX_STREAMS: u32 = 100_000;
/// How long a process that was ready is taken to be so until it has been asked.
const REMEMBERED: Duration = Duration::from_secs(10);
/// Longer than clients wait between two attempts. Spec: ztunnel's back-off.
const CONNECTION_GONE: Duration = Duration::from_secs(20);
const CONNECTIONS_EVERY: Duration = Duration::from_millis(100);
/// Certificates last a day, tokens longer.
const RENEW_EVERY: Duration = Duration::from_secs(6 * 3600);
