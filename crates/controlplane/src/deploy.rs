//! Runs waypoints as processes of this machine: one `waymark run waypoint` for each replica of each waypoint Gateway, or
//! one `waymark run agent`, which has a stock Envoy beside it.
//!
//! Waypoints outlive the control plane: one that was killed finds them again (by their pid files, or by their command lines)
//! and goes on watching them, instead of starting others.
//!
//! ```text
//! state directory: waypoints/<namespace>.<deployment>-<replica>/
//!   pid      "<pid> <start time> <fingerprint of the command>"; the start time (field 22 of /proc/<pid>/stat) makes sure
//!            that it is still the same process
//!   log      what it prints; log.1 is what was there before
//!
//! (nothing) --start--> Starting --answers 200 on /healthz/ready--> Ready
//!     ^                   | exits, or cannot be started                | exits
//!     |                   v                                            v
//!     +---retry------- Backoff (100 ms, doubling to 10 s, back to 100 ms after 10 s of health)
//!
//! no longer wanted, or wanted with another command: Draining (SIGTERM, the drain deadline, SIGKILL), then (nothing)
//! ```

mod log_file;
mod probe;
mod process;
mod replica;

use std::collections::{BTreeMap, HashMap};
use std::ffi::OsString;
use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::sync::{mpsc, watch};
use tokio::time::{MissedTickBehavior, interval};
use tracing::warn;
use waymark_api::gateway::WaypointBinary;
use waymark_identity::ServiceAccountRef;
use waymark_rt::{Shutdown, Task, spawn};

use self::process::CommandLine;
use self::replica::{Replica, Report, Spec, Target};
use crate::token::TokenFiles;

/// A waypoint that should run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DesiredWaypoint {
    /// The Gateway's namespace.
    pub namespace: String,
    /// The Gateway's name.
    pub gateway: String,
    /// What it is deployed as.
    pub deployment: String,
    /// The account, in the Gateway's namespace, that it runs as.
    pub service_account: String,
    /// Its replicas.
    pub replicas: Vec<DesiredReplica>,
    /// The program that its Gateway asks for.
    pub binary: Option<WaypointBinary>,
    /// Further arguments.
    pub args: Vec<OsString>,
    /// Further environment.
    pub env: Vec<(OsString, OsString)>,
}

/// One process of a waypoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DesiredReplica {
    /// 0, 1, ...
    pub index: u32,
    /// What it listens on.
    pub address: IpAddr,
}

/// What waypoints should run; `None` until that is known. (With nothing known, nothing is started and nothing is ended.)
pub type Desired = Option<Arc<Vec<DesiredWaypoint>>>;

/// Every replica that runs or should.
pub type ReplicaStates = BTreeMap<ReplicaKey, ReplicaState>;

/// Names one replica.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ReplicaKey {
    /// The Gateway's namespace.
    pub namespace: String,
    /// What the waypoint is deployed as.
    pub deployment: String,
    /// 0, 1, ...
    pub index: u32,
}

impl ReplicaKey {
    /// What the replica is called: `<deployment>-<index>`.
    pub fn name(&self) -> String {
        format!("{}-{}", self.deployment, self.index)
    }

    /// Its directory's name. (A namespace has no dot, so names do not collide.)
    fn dir_name(&self) -> String {
        format!("{}.{}-{}", self.namespace, self.deployment, self.index)
    }

    fn from_dir_name(name: &str) -> Option<Self> {
        let (namespace, rest) = name.split_once('.')?;
        let (deployment, index) = rest.rsplit_once('-')?;
        let key = Self {
            namespace: namespace.to_owned(),
            deployment: deployment.to_owned(),
            index: index.parse().ok()?,
        };
        (key.dir_name() == name).then_some(key)
    }
}

impl fmt::Display for ReplicaKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}-{}", self.namespace, self.deployment, self.index)
    }
}

/// How one replica is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReplicaState {
    /// What it does.
    pub phase: Phase,
    /// Since when.
    pub since: SystemTime,
    /// Its process, while there is one.
    pub pid: Option<u32>,
    /// How often it was started again after it had ended by itself.
    pub restarts: u32,
    /// Why it is not run as its Gateway asks for now; what ran before, if anything did, goes on.
    pub refused: Option<String>,
}

/// What a replica does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Phase {
    /// Its process runs but does not say yet that it is ready.
    Starting,
    /// It takes traffic.
    Ready,
    /// Its process ended, or could not be started.
    Backoff {
        /// Why.
        why: String,
    },
    /// It was told to end, and finishes its work.
    Draining,
}

/// What becomes of the waypoints when the control plane is told to end. (When it is killed they always go on.)
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnShutdown {
    /// They go on; the next control plane finds them.
    Leave,
    /// They are drained first.
    Drain,
}

/// How waypoints are run.
#[derive(Debug, Clone)]
pub struct DeployOptions {
    /// What is started: this program.
    pub executable: PathBuf,
    /// `waypoints/` is made below it.
    pub state_dir: PathBuf,
    /// Where waypoints find their configuration, as `host:port`.
    pub xds_address: String,
    /// Where waypoints have their certificates signed, as `host:port`.
    pub ca_address: String,
    /// What they verify the control plane with.
    pub root_cert: PathBuf,
    /// Trust domain of their identities.
    pub trust_domain: String,
    /// The cluster that they say they are in.
    pub cluster_id: String,
    /// What they show the control plane.
    pub tokens: Arc<TokenFiles>,
    /// Where they say that they are ready.
    pub ready_port: u16,
    /// The program of Gateways that ask for none.
    pub binary: WaypointBinary,
    /// Where Envoy is, for those that are to be served by it.
    pub envoy: Option<PathBuf>,
    /// How long one may drain until it is killed.
    pub drain: Duration,
    /// What becomes of them at the end.
    pub on_shutdown: OnShutdown,
}

impl DesiredWaypoint {
    fn key(&self, replica: &DesiredReplica) -> ReplicaKey {
        ReplicaKey {
            namespace: self.namespace.clone(),
            deployment: self.deployment.clone(),
            index: replica.index,
        }
    }
}

impl DeployOptions {
    fn dir(&self) -> PathBuf {
        self.state_dir.join("waypoints")
    }

    fn replica_dir(&self, key: &ReplicaKey) -> PathBuf {
        self.dir().join(key.dir_name())
    }
}

/// The port of a waypoint's readiness. Spec: ARCHITECTURE.md, addresses.
pub const READY_PORT: u16 = 15021;
/// How long a waypoint may drain. Spec: Kubernetes' `terminationGracePeriodSeconds`.
pub const DRAIN: Duration = Duration::from_secs(30);

/// The arguments of a replica's process: the one place that says how a waypoint is started.
///
/// `run waypoint --name <deployment>-<index> --namespace NS --service-account SA --gateway G --address IP
/// --xds-address HOST:PORT --ca-address HOST:PORT --root-cert FILE --token-file FILE --trust-domain NAME
/// --cluster-id NAME`, then what the Gateway adds. With `envoy`, `run agent` with the same and `--envoy FILE --dir DIR --drain-seconds N`.
pub fn waypoint_args(
    options: &DeployOptions,
    waypoint: &DesiredWaypoint,
    replica: &DesiredReplica,
    token_file: &Path,
    envoy: Option<&Path>,
) -> Vec<OsString> {
    let name = format!("{}-{}", waypoint.deployment, replica.index);
    let role = if envoy.is_some() { "agent" } else { "waypoint" };
    let mut args: Vec<OsString> = vec!["run".into(), role.into()];
    let pairs: [(&str, OsString); 11] = [
        ("--name", name.into()),
        ("--namespace", waypoint.namespace.as_str().into()),
        (
            "--service-account",
            waypoint.service_account.as_str().into(),
        ),
        ("--gateway", waypoint.gateway.as_str().into()),
        ("--address", replica.address.to_string().into()),
        ("--xds-address", options.xds_address.as_str().into()),
        ("--ca-address", options.ca_address.as_str().into()),
        ("--root-cert", options.root_cert.as_os_str().into()),
        ("--token-file", token_file.into()),
        ("--trust-domain", options.trust_domain.as_str().into()),
        ("--cluster-id", options.cluster_id.as_str().into()),
    ];
    args.extend(
        pairs
            .into_iter()
            .flat_map(|(flag, value)| [flag.into(), value]),
    );
    if let Some(envoy) = envoy {
        let key = waypoint.key(replica);
        let dir = options.replica_dir(&key).join("agent");
        // It ends Envoy before it would be killed itself.
        let drain = options.drain.as_secs().saturating_sub(1).max(1);
        let pairs: [(&str, OsString); 3] = [
            ("--envoy", envoy.into()),
            ("--dir", dir.into()),
            ("--drain-seconds", drain.to_string().into()),
        ];
        args.extend(
            pairs
                .into_iter()
                .flat_map(|(flag, value)| [flag.into(), value]),
        );
    }
    args.extend(waypoint.args.iter().cloned());
    args
}

/// Starts keeping the waypoints that run and those that should run the same.
///
/// The states are what `status` and the CLI show. The task ends when the drain begins, once the waypoints are drained or
/// left; it holds the drain meanwhile.
pub fn start(
    options: DeployOptions,
    desired: watch::Receiver<Desired>,
    shutdown: Shutdown,
) -> (Task<()>, watch::Receiver<Arc<ReplicaStates>>) {
    let (states, watched) = watch::channel(Arc::new(ReplicaStates::new()));
    let (report, reports) = mpsc::channel(REPORTS);
    let deployer = Deployer {
        options: Arc::new(options),
        targets: HashMap::new(),
        refused: HashMap::new(),
        running: FuturesUnordered::new(),
        report,
        states,
    };
    (
        spawn("deploy", deployer.run(desired, reports, shutdown)),
        watched,
    )
}

struct Deployer {
    options: Arc<DeployOptions>,
    /// What each running replica task is told.
    targets: HashMap<ReplicaKey, watch::Sender<Target>>,
    /// Replicas that cannot be run as they are wanted, and why.
    refused: HashMap<ReplicaKey, String>,
    running: FuturesUnordered<Task<ReplicaKey>>,
    report: mpsc::Sender<Report>,
    states: watch::Sender<Arc<ReplicaStates>>,
}

impl Deployer {
    async fn run(
        mut self,
        mut desired: watch::Receiver<Desired>,
        mut reports: mpsc::Receiver<Report>,
        shutdown: Shutdown,
    ) {
        let _hold = shutdown.hold();
        let mut tokens = interval(TOKENS_EVERY);
        tokens.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut found = false;
        let mut known = true;
        loop {
            let wanted = desired.borrow_and_update().clone();
            if let Some(wanted) = wanted {
                if !std::mem::replace(&mut found, true) {
                    self.find_leftovers(&wanted);
                }
                self.reconcile(&wanted);
            }
            // Until the next change of what is wanted.
            loop {
                tokio::select! {
                    biased;
                    () = shutdown.draining() => return self.end(reports).await,
                    changed = desired.changed(), if known => {
                        // Nobody says any more what is wanted: it stays as it is.
                        known = changed.is_ok();
                        break;
                    }
                    Some(report) = reports.recv() => self.note(report),
                    Some(ended) = self.running.next() => {
                        self.ended(ended.ok());
                        break;
                    }
                    _ = tokens.tick() => self.refresh_tokens(&desired.borrow()),
                }
            }
        }
    }

    /// Tells every replica what it should be.
    fn reconcile(&mut self, wanted: &[DesiredWaypoint]) {
        let mut specs = HashMap::new();
        let mut refused = HashMap::new();
        for waypoint in wanted {
            match self.specs(waypoint) {
                Ok(of_waypoint) => specs.extend(of_waypoint),
                Err(e) => {
                    warn!(
                        namespace = waypoint.namespace,
                        deployment = waypoint.deployment,
                        error = %e,
                        "waypoint cannot be deployed"
                    );
                    let why = e.to_string();
                    let keys = waypoint.replicas.iter().map(|r| waypoint.key(r));
                    refused.extend(keys.map(|key| (key, why.clone())));
                }
            }
        }
        self.refuse(refused);
        for (key, target) in &self.targets {
            // What cannot be run as it is wanted goes on as it was.
            if !specs.contains_key(key) && !self.refused.contains_key(key) {
                target.send_replace(Target::Gone);
            }
        }
        for (key, spec) in specs {
            match self.targets.get(&key) {
                Some(target) => {
                    target.send_if_modified(|old| {
                        std::mem::replace(old, Target::Wanted(Arc::clone(&spec))) != *old
                    });
                }
                None => self.spawn(key, Target::Wanted(spec)),
            }
        }
    }

    /// Shows which replicas cannot be run as they are wanted, those that do not run at all included.
    fn refuse(&mut self, refused: HashMap<ReplicaKey, String>) {
        let before = std::mem::replace(&mut self.refused, refused);
        if before == self.refused {
            return;
        }
        let (refused, targets) = (&self.refused, &self.targets);
        self.states.send_modify(|states| {
            let states = Arc::make_mut(states);
            states.retain(|key, _| targets.contains_key(key));
            for (key, state) in states.iter_mut() {
                state.refused = refused.get(key).cloned();
            }
            for (key, why) in refused {
                states.entry(key.clone()).or_insert_with(|| ReplicaState {
                    phase: Phase::Backoff { why: why.clone() },
                    since: SystemTime::now(),
                    pid: None,
                    restarts: 0,
                    refused: Some(why.clone()),
                });
            }
        });
    }

    fn specs(
        &self,
        waypoint: &DesiredWaypoint,
    ) -> Result<Vec<(ReplicaKey, Arc<Spec>)>, DeployError> {
        let account = ServiceAccountRef::new(&waypoint.namespace, &waypoint.service_account)?;
        let token_file = self.options.tokens.ensure(&account)?;
        let envoy = match waypoint.binary.unwrap_or(self.options.binary) {
            WaypointBinary::Waymark => None,
            WaypointBinary::Envoy => {
                Some(self.options.envoy.as_deref().ok_or(DeployError::NoEnvoy)?)
            }
        };
        let spec = |replica: &DesiredReplica| {
            let command = CommandLine {
                program: self.options.executable.clone(),
                args: waypoint_args(&self.options, waypoint, replica, &token_file, envoy),
                env: waypoint.env.clone(),
            };
            (
                waypoint.key(replica),
                Arc::new(Spec {
                    address: replica.address,
                    command,
                }),
            )
        };
        Ok(waypoint.replicas.iter().map(spec).collect())
    }

    /// Takes over what an earlier control plane left running and nobody wants any more, to drain it.
    fn find_leftovers(&mut self, wanted: &[DesiredWaypoint]) {
        let Ok(dir) = std::fs::read_dir(self.options.dir()) else {
            return;
        };
        for entry in dir.flatten() {
            let name = entry.file_name();
            let Some(key) = name.to_str().and_then(ReplicaKey::from_dir_name) else {
                continue;
            };
            let is_wanted = wanted.iter().any(|w| {
                w.namespace == key.namespace
                    && w.deployment == key.deployment
                    && w.replicas.iter().any(|r| r.index == key.index)
            });
            if !is_wanted && entry.path().join(process::PID_FILE).exists() {
                self.spawn(key, Target::Gone);
            }
        }
    }

    fn spawn(&mut self, key: ReplicaKey, target: Target) {
        let (sender, receiver) = watch::channel(target);
        let replica = Replica {
            dir: self.options.replica_dir(&key),
            key: key.clone(),
            options: Arc::clone(&self.options),
            target: receiver,
            report: self.report.clone(),
        };
        self.running.push(spawn("replica", replica.run()));
        self.targets.insert(key, sender);
    }

    /// A replica task has ended: its replica is gone. If it was wanted again meanwhile, the reconciliation that follows
    /// starts it anew.
    fn ended(&mut self, key: Option<ReplicaKey>) {
        match key {
            Some(key) => {
                self.targets.remove(&key);
                self.note(Report { key, state: None });
            }
            // A panic, which is in the log: which replica it was shows in whose receiver is gone.
            None => self.targets.retain(|_, target| !target.is_closed()),
        }
    }

    fn note(&mut self, report: Report) {
        let refused = self.refused.get(&report.key).cloned();
        self.states.send_modify(|states| {
            let states = Arc::make_mut(states);
            match report.state {
                Some(mut state) => {
                    state.refused = refused;
                    states.insert(report.key, state);
                }
                None => {
                    states.remove(&report.key);
                }
            }
        });
    }

    fn refresh_tokens(&self, desired: &Desired) {
        for waypoint in desired.iter().flat_map(|all| all.iter()) {
            let account = ServiceAccountRef::new(&waypoint.namespace, &waypoint.service_account);
            let ensured = account
                .map_err(DeployError::from)
                .and_then(|a| Ok(self.options.tokens.ensure(&a)?));
            if let Err(e) = ensured {
                warn!(namespace = waypoint.namespace, deployment = waypoint.deployment, error = %e, "token not renewed");
            }
        }
    }

    async fn end(mut self, mut reports: mpsc::Receiver<Report>) {
        let last = match self.options.on_shutdown {
            OnShutdown::Leave => Target::Left,
            OnShutdown::Drain => Target::Gone,
        };
        for target in self.targets.values() {
            target.send_replace(last.clone());
        }
        loop {
            tokio::select! {
                ended = self.running.next() => match ended {
                    Some(ended) => self.ended(ended.ok()),
                    None => return,
                },
                Some(report) = reports.recv() => self.note(report),
            }
        }
    }
}

/// Why a waypoint cannot be deployed at all.
#[derive(Debug, thiserror::Error)]
enum DeployError {
    #[error(transparent)]
    Account(#[from] waymark_identity::SpiffeError),
    #[error(transparent)]
    Token(#[from] crate::token::TokenFilesError),
    #[error(
        "it is to be served by Envoy, and where Envoy is was not said (--envoy or WAYMARK_ENVOY)"
    )]
    NoEnvoy,
}

/// Reports that wait; a replica whose report does not fit waits, which delays only what is shown.
const REPORTS: usize = 64;
/// How often tokens are looked at; they last far longer.
const TOKENS_EVERY: Duration = Duration::from_secs(3600);

#[cfg(test)]
mod tests;
