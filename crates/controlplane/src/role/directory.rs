//! A mesh on one machine: objects from a directory, authority and tokens from the state directory, waypoints as processes.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior, interval};
use tracing::{error, warn};
use waymark_identity::{Ca, ServiceAccountRef};
use waymark_proto::type_url;
use waymark_rt::{Clock, SystemClock, Task};
use waymark_xds::server::Registry;

use super::RunError;
use super::args::{Deploy, Settings};
use super::start::{BATCHES, Begun, RENEW_EVERY, ROOT_CERT, take_changes};
use crate::ca::Tokens;
use crate::core::Core;
use crate::deploy::{self, DeployOptions, Desired, OnShutdown, ReplicaStates};
use crate::index::key::WaypointKey;
use crate::serve;
use crate::source::directory::Directory;
use crate::status::{ReplicaStatus, StatusFile};
use crate::token::{TokenFiles, TokenKey};

/// The machine's side of a control plane.
pub(super) struct Machine {
    mesh_dir: PathBuf,
    key: Arc<TokenKey>,
    tokens: Arc<TokenFiles>,
}

impl Machine {
    /// Takes up the authority and the tokens of the state directory, or makes them.
    pub(super) fn open(settings: &Settings, mesh_dir: &Path) -> Result<(Self, Ca), RunError> {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let state = &settings.state_dir;
        let ca = match &settings.ca_dir {
            Some(dir) => Ca::load(dir, &settings.trust_domain, clock.clone())?,
            None => Ca::load_or_create(&state.join("ca"), &settings.trust_domain, clock.clone())?,
        };
        let key = Arc::new(TokenKey::load_or_create(&state.join("token-key"), clock)?);
        let tokens = TokenFiles::new(&state.join("tokens"), key.clone())?;
        for account in &settings.node_accounts {
            tokens.ensure(account)?;
        }
        let machine = Self {
            mesh_dir: mesh_dir.to_owned(),
            key,
            tokens: Arc::new(tokens),
        };
        Ok((machine, ca))
    }

    /// Tokens are our own.
    pub(super) fn tokens(&self) -> Tokens {
        Tokens::Issued(self.key.clone())
    }

    /// Reads the directory, watches it, and sees to the waypoints that it asks for. Gives what is to end first.
    pub(super) async fn begin(
        self,
        begun: &Begun<'_>,
        registry: Registry,
        xds: SocketAddr,
        status: &StatusFile,
    ) -> Result<Option<Task<()>>, RunError> {
        let Begun {
            settings,
            core,
            tasks,
            shutdown,
        } = *begun;
        let remembered = remembered(status);
        // Reading a directory is blocking work; nothing else has to be done before it.
        let mesh_dir = self.mesh_dir;
        let opened = tokio::task::spawn_blocking(move || Directory::open(&mesh_dir)).await;
        let (directory, first) =
            opened.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))?;
        recall(settings, core, &remembered);
        core.take(first);

        let (batches, received) = mpsc::channel(BATCHES);
        let stop = shutdown.draining_token();
        let watching = directory.watch(batches, settings.rescan, stop);
        tasks.spawn("watch mesh directory", async move {
            if let Err(error) = watching.await {
                error!(%error, cause = ?std::error::Error::source(&error).map(ToString::to_string), "mesh directory is not watched any more");
            }
        });
        tasks.spawn("take changes", take_changes(core.clone(), received));
        tasks.spawn(
            "renew tokens",
            renew_tokens(self.tokens.clone(), settings.node_accounts.clone()),
        );
        if settings.deploy == Deploy::No {
            tasks.spawn(
                "issue waypoint tokens",
                issue_tokens(core.desired(), self.tokens),
            );
            tasks.spawn(
                "watch connections",
                watch_connections(core.clone(), registry, remembered),
            );
            return Ok(None);
        }
        let options = deploy_options(settings, xds, self.tokens)?;
        let (deployer, states) = deploy::start(options, core.desired(), shutdown.clone());
        tasks.spawn("take replica states", take_replicas(core.clone(), states));
        Ok(Some(deployer))
    }
}

/// Tells the core what was ready when the last control plane ended.
fn recall(settings: &Settings, core: &Core, remembered: &Remembered) {
    if settings.deploy == Deploy::No {
        core.connected(by_waypoint(
            remembered
                .iter()
                .map(|(waypoint, name, address, _)| (waypoint, name, *address)),
        ));
    } else {
        let processes = remembered
            .iter()
            .filter_map(|(waypoint, name, _, pid)| Some((waypoint.clone(), name.clone(), (*pid)?)));
        core.remember(processes);
    }
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

/// Sees to it that the tokens of node proxies never run out.
async fn renew_tokens(tokens: Arc<TokenFiles>, accounts: Vec<ServiceAccountRef>) {
    let mut ticks = interval(RENEW_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // The first tick comes at once, and everything is new.
    ticks.tick().await;
    loop {
        ticks.tick().await;
        for account in &accounts {
            if let Err(error) = tokens.ensure(account) {
                warn!(%error, %account, "token is not renewed");
            }
        }
    }
}

/// How long a process that was ready is taken to be so until it has been asked.
const REMEMBERED: Duration = Duration::from_secs(10);
/// Longer than clients wait between two attempts. Spec: ztunnel's back-off.
const CONNECTION_GONE: Duration = Duration::from_secs(20);
const CONNECTIONS_EVERY: Duration = Duration::from_millis(100);
