//! The whole role: settings in, a running waypoint until it is told to end.
//!
//! One thread of control (configuration, certificate, admin) beside the workers, which carry the traffic.

use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::SystemTime;

use http::Method;
use tokio::sync::watch;
use tonic::metadata::MetadataMap;
use tonic::transport::Channel;
use tracing::{info, warn};
use waymark_hbone::{Drain, ServeAs, ServerTls};
use waymark_identity::grpc::{Target, TargetError, TargetTls, channel};
use waymark_identity::tls::{RootSource, https_client_config};
use waymark_identity::{
    BearerToken, CaClient, CaClientOptions, CertHandle, CertStore, PeerPolicy, StoreOptions,
};
use waymark_rt::log::LogHandle;
use waymark_rt::{ListenError, ListenOptions, Listener, Shutdown, SystemClock, Tasks, listen};
use waymark_xds::client::{ClientOptions, ClientState, Credentials, CredentialsError};

use crate::admin::{self, Admin, Answer, Lifecycle, Phase, Places, Wish};
use crate::args::Settings;
use crate::config::{Config, Readiness};
use crate::dns::resolve_clusters;
use crate::listener::TerminatorTls;
use crate::program::Snapshot;
use crate::telemetry::{ServerStats, Telemetry};
use crate::worker::Shared;
use crate::workers::Workers;

/// Why the waypoint does not run.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// An own address cannot be listened on.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// The address of control plane or certificate authority is none.
    #[error(transparent)]
    Target(#[from] TargetError),
    /// Nothing to verify the control plane with.
    #[error("--root-cert is missing (write the address as http://{0} to go without TLS)")]
    NoRoots(String),
    /// The threads could not be started.
    #[error("start worker threads")]
    Workers(#[source] io::Error),
}

/// Runs a waypoint until `shutdown` drains and its connections have ended, or the drain's deadline has passed.
///
/// # Errors
/// When it cannot start; what fails later is reported by readiness, logs and metrics.
pub async fn run(
    settings: Settings,
    shutdown: Shutdown,
    log: Option<LogHandle>,
) -> Result<(), RunError> {
    let hold = shutdown.hold();
    // Bound before anything else, so that an address in use is told at once. Who connects early waits for the
    // configuration instead of being refused.
    let servers = Servers::bind(&settings)?;
    let own = Tasks::new();

    let stats = Arc::new(ServerStats::default());
    let lifecycle = Arc::new(Lifecycle::new(Arc::clone(&stats)));
    let telemetry = Arc::new(Telemetry::new(Arc::clone(&stats), SystemTime::now()));
    let snapshot = Snapshot::cell();
    let config = Config::new(
        Arc::clone(&snapshot),
        Arc::clone(&stats),
        Arc::new(SystemClock),
    );
    let store = certificates(&settings)?;
    let certificate = store.handle(&settings.identity);

    let drain = Drain::from(&shutdown).child();
    let shared = Arc::new(Shared {
        snapshot: Arc::clone(&snapshot),
        identity: settings.identity.clone(),
        bind: settings.source,
        client_tls: Arc::new(certificate.clone()),
        node_account: settings.node_account.clone(),
        telemetry: Arc::clone(&telemetry),
        drain: drain.clone(),
    });
    let serve_as = ServeAs::new(certificate.clone(), PeerPolicy::AnyTrusted);
    let tls: Arc<dyn ServerTls> = Arc::new(TerminatorTls::new(serve_as, Arc::clone(&snapshot)));
    let workers = Workers::start(settings.concurrency, &shared, &tls).map_err(RunError::Workers)?;

    let admin = Arc::new(Admin {
        config: config.clone(),
        snapshot,
        telemetry,
        lifecycle: Arc::clone(&lifecycle),
        identity: Some(certificate.clone()),
        log,
        node: settings.node.clone(),
        places: servers.places(&settings),
        clock: Arc::new(SystemClock),
    });
    let hbone = servers.start(&own, &admin, &shutdown);
    lifecycle.set(Phase::Initializing);
    info!(identity = %settings.identity, hbone = %settings.hbone, "waypoint started");
    own.spawn(
        "wishes",
        heed(lifecycle.wishes(), shutdown.clone(), drain.clone()),
    );
    own.spawn("dns", resolve_clusters(Arc::clone(&shared.snapshot)));
    own.spawn(
        "xds",
        follow(&settings, config.clone(), stats, shutdown.clone())?,
    );

    let is_ready = tokio::select! {
        biased;
        () = drain.cancelled() => false,
        () = ready(&certificate, config.readiness()) => true,
    };
    if is_ready {
        lifecycle.set(Phase::Live);
        info!("ready");
        let draining = async {
            drain.cancelled().await;
            lifecycle.set(Phase::Draining);
            std::future::pending::<()>().await
        };
        tokio::select! {
            () = workers.accept(hbone, &shared) => {}
            () = draining => {}
        }
    }
    lifecycle.set(Phase::Draining);
    let open: usize = workers.open_connections().iter().sum();
    info!(connections = open, "draining");
    // The workers end with their last connection, or at the deadline.
    if tokio::task::spawn_blocking(move || workers.join())
        .await
        .is_err()
    {
        warn!("waiting for the workers failed");
    }
    drop(hold);
    shutdown.draining().await; // a drain that an operator asked for is no end
    Ok(())
}

/// Resolves when traffic can be served: there is a certificate, and everything that was asked for has come.
async fn ready(certificate: &CertHandle, mut readiness: watch::Receiver<Readiness>) {
    certificate.available().await;
    if readiness.wait_for(|r| r.is_ready()).await.is_err() {
        std::future::pending().await
    }
}

/// Does what an operator asks for through admin.
async fn heed(mut wishes: watch::Receiver<Wish>, shutdown: Shutdown, drain: Drain) {
    loop {
        let wish = *wishes.borrow_and_update();
        match wish {
            Wish::Run => {}
            Wish::Drain => drain.start(),
            Wish::Quit => shutdown.begin(),
        }
        if wishes.changed().await.is_err() {
            return;
        }
    }
}

/// Keeps the stream to the control plane open and the configuration up to date.
fn follow(
    settings: &Settings,
    config: Config,
    stats: Arc<ServerStats>,
    shutdown: Shutdown,
) -> Result<impl Future<Output = ()> + Send + use<>, RunError> {
    let service = connect(settings, &settings.xds_address)?;
    let client = config.client(&settings.node);
    let metadata = Metadata {
        token: settings.token_file.clone().map(BearerToken::File),
        cluster_id: settings.node.cluster_id.clone(),
    };
    Ok(async move {
        let (state, mut watched) = watch::channel(ClientState::default());
        let mut handler = config;
        let stream = waymark_xds::client::run(
            client,
            service,
            &metadata,
            ClientOptions::default(),
            &mut handler,
            &state,
            shutdown,
        );
        let connected = async {
            while watched.changed().await.is_ok() {
                stats
                    .connected_state
                    .set(i64::from(watched.borrow_and_update().connected));
            }
            std::future::pending().await
        };
        tokio::select! {
            () = Box::pin(stream) => {}
            () = connected => {}
        }
    })
}

fn certificates(settings: &Settings) -> Result<CertStore, RunError> {
    let options = CaClientOptions {
        token: settings.token_file.clone().map(BearerToken::File),
        own: None,
        ttl: Some(settings.cert_ttl),
        cluster_id: Some(settings.node.cluster_id.clone()),
    };
    let authority = CaClient::new(connect(settings, &settings.ca_address)?, options);
    Ok(CertStore::new(Arc::new(authority), StoreOptions::default()))
}

/// A channel to the control plane; it connects when it is used.
fn connect(settings: &Settings, address: &str) -> Result<Channel, RunError> {
    if let Some(address) = address.strip_prefix("http://") {
        let address = address.to_owned();
        return Ok(channel(&Target { address, tls: None })?);
    }
    let address = address
        .strip_prefix("https://")
        .unwrap_or(address)
        .to_owned();
    let Some(roots) = &settings.root_cert else {
        return Err(RunError::NoRoots(address));
    };
    let config = https_client_config(RootSource::file(roots), None);
    let name = settings.server_name.clone();
    let tls = Some(TargetTls { config, name });
    Ok(channel(&Target { address, tls })?)
}

/// What is shown when a stream is opened.
struct Metadata {
    token: Option<BearerToken>,
    cluster_id: String,
}

impl Credentials for Metadata {
    fn add(&self, metadata: &mut MetadataMap) -> Result<(), CredentialsError> {
        if let Some(token) = &self.token {
            let header = token.header().map_err(|e| {
                let cause = std::error::Error::source(&e).map(|c| format!(": {c}"));
                CredentialsError(format!("{e}{}", cause.unwrap_or_default()))
            })?;
            metadata.insert("authorization", header);
        }
        if let Ok(cluster) = self.cluster_id.parse() {
            metadata.insert("clusterid", cluster);
        }
        Ok(())
    }
}

/// What answers the requests of a small server.
type Answering = fn(&Admin, IpAddr, &Method, &str) -> Answer;

/// The bound sockets.
struct Servers {
    hbone: Listener,
    admin: Listener,
    metrics: Listener,
    readiness: Listener,
    prometheus: Option<Listener>,
}

impl Servers {
    fn bind(settings: &Settings) -> Result<Self, ListenError> {
        let options = ListenOptions::default();
        Ok(Self {
            hbone: listen(settings.hbone, &options)?,
            admin: listen(settings.admin, &options)?,
            metrics: listen(settings.metrics, &options)?,
            readiness: listen(settings.readiness, &options)?,
            prometheus: settings
                .prometheus
                .map(|at| listen(at, &options))
                .transpose()?,
        })
    }

    fn places(&self, settings: &Settings) -> Places {
        Places {
            admin: self.admin.local_addr(),
            metrics: self.metrics.local_addr(),
            readiness: self.readiness.local_addr(),
            tunnels: vec![self.hbone.local_addr()],
            control_plane: settings.xds_address.clone(),
            ca: settings.ca_address.clone(),
            workers: settings.concurrency,
        }
    }

    /// Starts the small servers; what is left is the listener of tunnels.
    fn start(self, tasks: &Tasks, admin: &Arc<Admin>, shutdown: &Shutdown) -> Listener {
        let answers: [(&'static str, Option<Listener>, Answering); 4] = [
            ("admin", Some(self.admin), |admin, _, method, target| {
                admin.answer(method, target)
            }),
            ("metrics", Some(self.metrics), Admin::answer_metrics),
            (
                "readiness",
                Some(self.readiness),
                |admin, _, method, target| admin.answer_readiness(method, target),
            ),
            ("prometheus", self.prometheus, |admin, _, _, target| {
                admin.answer_prometheus(target)
            }),
        ];
        for (name, listener, answer) in answers {
            let Some(listener) = listener else { continue };
            let admin = Arc::clone(admin);
            tasks.spawn(
                name,
                admin::serve(listener, admin, answer, shutdown.clone()),
            );
        }
        self.hbone
    }
}
