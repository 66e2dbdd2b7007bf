//! Start: who is trusted, listeners, servers; then the first look at the mesh, and everything that follows it.

use std::fs::DirBuilder;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::DirBuilderExt;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use serde::Serialize;
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval};
use tonic::transport::Server;
use tracing::{error, info, warn};
use waymark_identity::ca::ServingName;
use waymark_identity::grpc::Incoming;
use waymark_identity::tls::https_server_config;
use waymark_identity::{Ca, CertHandle, SignError};
use waymark_rt::{ListenOptions, Listener, Shutdown, Task, Tasks, listen, spawn};
use waymark_xds::server::{Options, Registry, Service};

use super::RunError;
use super::args::{Deploy, Settings, SourceSettings};
use super::cluster::Cluster;
use super::directory::Machine;
use crate::ca::{
    Authenticator, CaMetrics, CaService, NodeAuthorizer, PodsOfTheNode, SharedCa, Tokens,
};
use crate::core::Core;
use crate::debug::DebugServer;
use crate::facts::{self, Facts, Platform, ReplicaSource};
use crate::file;
use crate::generate::Generator;
use crate::index::{Index, Mesh};
use crate::ipam::Ipam;
use crate::metrics::Metrics;
use crate::serve::{CapturedWorkloads, XdsSource};
use crate::status::StatusFile;
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
    /// What has something to finish at the end: the waypoints' processes, the lease.
    last: Option<Task<()>>,
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
        if let Some(last) = self.last.take() {
            // A panic of a task is in the log already.
            let _ = last.await;
        }
        while futures_util::StreamExt::next(&mut ended).await.is_some() {}
        let _ = self.debug.await;
        self.tasks.finish().await;
        info!("control plane ended");
        Ok(())
    }
}

/// Where the mesh is, and whatever belongs to that.
enum Origin {
    Machine(Machine),
    Cluster(Box<Cluster>),
}

impl Origin {
    /// Takes up what there is. `None` when the end came first.
    async fn open(
        settings: &Settings,
        shutdown: &Shutdown,
    ) -> Result<Option<(Self, Ca)>, RunError> {
        match &settings.source {
            SourceSettings::Directory(directory) => {
                let (machine, ca) = Machine::open(settings, directory)?;
                Ok(Some((Self::Machine(machine), ca)))
            }
            SourceSettings::Kubernetes(_) => {
                let joined = Cluster::join(settings, shutdown).await?;
                Ok(joined.map(|(cluster, ca)| (Self::Cluster(Box::new(cluster)), ca)))
            }
        }
    }

    fn tokens(&self, settings: &Settings) -> Tokens {
        match self {
            Self::Machine(machine) => machine.tokens(),
            Self::Cluster(cluster) => cluster.tokens(settings),
        }
    }

    fn nodes(&self, core: &Arc<Core>) -> Arc<dyn NodeAuthorizer> {
        match self {
            Self::Machine(_) => Arc::new(CapturedWorkloads(core.clone())),
            Self::Cluster(_) => Arc::new(PodsOfTheNode(core.clone())),
        }
    }
}

/// The authority in force, and what it has signed for this process.
#[derive(Clone)]
pub(super) struct Authority {
    pub(super) ca: SharedCa,
    serving: CertHandle,
    names: Arc<[ServingName]>,
}

impl Authority {
    fn new(ca: Ca, names: Vec<ServingName>) -> Result<Self, SignError> {
        let serving = CertHandle::fixed(ca.serving(&names, None)?);
        Ok(Self {
            ca: Arc::new(ArcSwap::from_pointee(ca)),
            serving,
            names: names.into(),
        })
    }

    /// Puts another authority in force.
    pub(super) fn replace(&self, ca: Ca) {
        self.ca.store(Arc::new(ca));
        self.renew();
    }

    fn renew(&self) {
        match self.ca.load().serving(&self.names, None) {
            Ok(credentials) => self.serving.publish(Arc::new(credentials), None),
            Err(error) => warn!(%error, "serving certificate is not renewed"),
        }
    }

    /// Sees to it that the control plane's certificate never runs out.
    async fn keep(self) {
        let mut ticks = interval(RENEW_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // The first tick comes at once, and everything is new.
        ticks.tick().await;
        loop {
            ticks.tick().await;
            self.renew();
        }
    }
}

/// What is listened on.
struct Bound {
    xds: Listener,
    plaintext: Option<Listener>,
    debug: Listener,
}

impl Bound {
    fn listen(settings: &Settings) -> Result<Self, RunError> {
        let options = ListenOptions::default();
        Ok(Self {
            xds: listen(settings.xds_address, &options)?,
            plaintext: settings
                .plaintext_xds_address
                .map(|address| listen(address, &options))
                .transpose()?,
            debug: listen(settings.debug_address, &options)?,
        })
    }

    fn addresses(&self) -> Addresses {
        Addresses {
            xds: self.xds.local_addr(),
            plaintext_xds: self.plaintext.as_ref().map(Listener::local_addr),
            debug: self.debug.local_addr(),
            pid: std::process::id(),
        }
    }
}

/// A control plane that serves and has yet to look at its source.
#[derive(Clone, Copy)]
pub(super) struct Begun<'a> {
    pub(super) settings: &'a Settings,
    pub(super) core: &'a Arc<Core>,
    pub(super) tasks: &'a Tasks,
    pub(super) shutdown: &'a Shutdown,
}

/// Starts the control plane. `None` when the end came before it could.
pub(super) async fn start(
    settings: Settings,
    shutdown: Shutdown,
) -> Result<Option<Running>, RunError> {
    make_state_dir(&settings)?;
    let Some((origin, ca)) = Origin::open(&settings, &shutdown).await? else {
        return Ok(None);
    };
    write_state(&settings, ROOT_CERT, ca.roots_pem().as_bytes())?;
    let authority = Authority::new(ca, serving_names(&settings))?;
    let authenticator = Arc::new(Authenticator::new(
        settings.trust_domain.clone(),
        origin.tokens(&settings),
    ));
    let core = Arc::new(core(&settings)?);
    let bound = Bound::listen(&settings)?;
    let addresses = bound.addresses();

    let registry = Registry::default();
    let servers = Servers {
        core: &core,
        authenticator: &authenticator,
        registry: &registry,
        shutdown: &shutdown,
    };
    let (servers, debug, view) = servers.start(bound, &settings, &authority, origin.nodes(&core));
    let text = serde_json::to_vec(&addresses).expect("addresses and a number become JSON");
    write_state(&settings, "controlplane.json", &text)?;
    info!(xds = %addresses.xds, debug = %addresses.debug, "control plane listens");

    let tasks = Tasks::new();
    let status = StatusFile::open(&settings.state_dir.join("status.json"));
    let begun = Begun {
        settings: &settings,
        core: &core,
        tasks: &tasks,
        shutdown: &shutdown,
    };
    let last = match origin {
        Origin::Machine(machine) => {
            let xds = addresses.xds;
            machine.begin(&begun, registry, xds, &status).await?
        }
        Origin::Cluster(cluster) => Some(cluster.begin(&begun, authority.clone())),
    };
    tasks.spawn("write statuses", write_statuses(core, view, status));
    tasks.spawn("renew certificate", authority.keep());
    Ok(Some(Running {
        shutdown,
        servers,
        debug,
        last,
        tasks,
    }))
}

fn make_state_dir(settings: &Settings) -> Result<(), RunError> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&settings.state_dir)
        .map_err(|source| RunError::StateDir {
            path: settings.state_dir.clone(),
            source,
        })
}

fn write_state(settings: &Settings, name: &str, bytes: &[u8]) -> Result<(), RunError> {
    let path = settings.state_dir.join(name);
    file::replace(&path, bytes).map_err(|source| RunError::StateDir { path, source })
}

/// What servers share.
struct Servers<'a> {
    core: &'a Arc<Core>,
    authenticator: &'a Arc<Authenticator>,
    registry: &'a Registry,
    shutdown: &'a Shutdown,
}

type GrpcServers = Vec<Task<Result<(), tonic::transport::Error>>>;

impl Servers<'_> {
    fn start(
        &self,
        bound: Bound,
        settings: &Settings,
        authority: &Authority,
        nodes: Arc<dyn NodeAuthorizer>,
    ) -> (GrpcServers, Task<()>, Arc<ControlPlane>) {
        let ca = CaService::new(
            authority.ca.clone(),
            self.authenticator.clone(),
            nodes,
            settings.node_accounts.clone(),
        );
        let view = self.view(ca.metrics());
        let debug = DebugServer::new(
            view.clone(),
            self.authenticator.clone(),
            settings.system_namespace(),
        );
        let debug = spawn("debug", debug.serve(bound.debug, self.shutdown.clone()));

        let ads = self.ads(settings);
        let tls = https_server_config(&authority.serving);
        let incoming = Incoming::tls(bound.xds, tls, self.shutdown.clone());
        let secure = server(settings)
            .add_service(ads.clone())
            .add_service(ca.into_server());
        let mut servers = vec![spawn(
            "xds",
            secure.serve_with_incoming_shutdown(incoming, draining(self.shutdown)),
        )];
        if let Some(listener) = bound.plaintext {
            let incoming = Incoming::plain(listener, self.shutdown.clone());
            let plain = server(settings).add_service(ads);
            servers.push(spawn(
                "xds plaintext",
                plain.serve_with_incoming_shutdown(incoming, draining(self.shutdown)),
            ));
        }
        (servers, debug, view)
    }

    fn ads(&self, settings: &Settings) -> Service<XdsSource> {
        let source = XdsSource::new(self.core.clone(), self.authenticator.clone());
        let options = Options {
            max_stream_age: settings.max_connection_age,
            hand_over: match settings.source {
                SourceSettings::Directory(_) => Duration::ZERO,
                SourceSettings::Kubernetes(_) => HAND_OVER,
            },
            ..Options::default()
        };
        Service::new(
            Arc::new(source),
            self.registry.clone(),
            options,
            self.shutdown.clone(),
        )
    }

    fn view(&self, ca: Arc<CaMetrics>) -> Arc<ControlPlane> {
        let (core, registry) = (self.core.clone(), self.registry.clone());
        Arc::new(ControlPlane::new(core, registry, ca))
    }
}

/// Upstream's names, what this machine calls itself, and the operator's.
fn serving_names(settings: &Settings) -> Vec<ServingName> {
    let namespace = settings.system_namespace();
    let upstream =
        ["istiod", "istiod-remote", "istio-pilot"].map(|name| format!("{name}.{namespace}.svc"));
    let cluster = match &settings.source {
        SourceSettings::Kubernetes(cluster) => cluster.serving_names(&settings.revision),
        SourceSettings::Directory(_) => Vec::new(),
    };
    let mut names: Vec<String> = upstream
        .into_iter()
        .chain(cluster)
        .chain(["localhost".to_owned()])
        .chain(settings.serving_names.iter().cloned())
        .collect();
    let mut seen = std::collections::HashSet::new();
    names.retain(|name| seen.insert(name.clone()));
    let mut addresses = vec![settings.xds_address.ip(), IpAddr::from([127, 0, 0, 1])];
    addresses.dedup();
    // The unspecified address is listened on, never dialled.
    let addresses = addresses
        .into_iter()
        .filter(|address| !address.is_unspecified());
    names
        .into_iter()
        .map(ServingName::Dns)
        .chain(addresses.map(ServingName::Ip))
        .collect()
}

fn core(settings: &Settings) -> Result<Core, RunError> {
    let (platform, ipam) = match settings.source {
        SourceSettings::Directory(_) => (
            Platform::Directory,
            Ipam::load(&settings.state_dir.join("ipam.json"))?,
        ),
        SourceSettings::Kubernetes(_) => (Platform::Kubernetes, Ipam::in_memory()),
    };
    let trust_domain = settings.trust_domain.as_str().to_owned();
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
        root_namespace: settings.system_namespace().to_owned(),
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

/// Spec: control-plane.md 2.2, server limits.
fn server(settings: &Settings) -> Server {
    let mut server = Server::builder();
    if let Some(age) = settings.max_connection_age {
        // Earlier than any stream on it ends: the client's next one is on a new connection, perhaps to another replica.
        server = server.max_connection_age(age.mul_f64(0.85));
    }
    server
        .http2_keepalive_interval(Some(Duration::from_secs(30)))
        .http2_keepalive_timeout(Some(Duration::from_secs(10)))
        .max_concurrent_streams(Some(MAX_STREAMS))
        .tcp_nodelay(true)
}

fn draining(shutdown: &Shutdown) -> impl Future<Output = ()> + Send + 'static {
    let token = shutdown.draining_token();
    async move { token.cancelled().await }
}

pub(super) async fn take_changes(
    core: Arc<Core>,
    mut batches: mpsc::Receiver<crate::source::Batch>,
) {
    while let Some(batch) = batches.recv().await {
        core.take(batch);
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

pub(super) const ROOT_CERT: &str = "root-cert.pem";
/// Looks at the source that may wait; then the watcher waits, and gathers.
pub(super) const BATCHES: usize = 4;
/// Spec: control-plane.md 2.2.
const MAX_STREAMS: u32 = 100_000;
/// Over how long clients are handed to the other replicas: of the time that a drain has, with some to spare.
const HAND_OVER: Duration = Duration::from_secs(3);
/// Certificates last a day, tokens longer.
pub(super) const RENEW_EVERY: Duration = Duration::from_secs(6 * 3600);
