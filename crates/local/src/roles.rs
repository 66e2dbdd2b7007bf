//! The control plane and the node proxy as processes: how they are started, when they are ready, and starting them again.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::Deserialize;

use crate::http::{AskError, HttpClient, get, get_json};
use crate::process::{MARKER, Process, ProcessError, Spec, describe, log_tail};
use crate::state_dir::StateDir;

const POLL: Duration = Duration::from_millis(25);
const READY_WITHIN: Duration = Duration::from_secs(20);
/// An address that another program holds for this long is not coming free.
const HOPELESS_AFTER: Duration = Duration::from_secs(2);
const BACKOFF_MIN: Duration = Duration::from_millis(100);
const BACKOFF_MAX: Duration = Duration::from_secs(10);
/// A role that ran this long starts again without delay.
const HEALTHY_AFTER: Duration = Duration::from_secs(10);

/// Why a role did not come up.
#[derive(Debug, thiserror::Error)]
pub enum RoleError {
    /// The process could not be started.
    #[error("start the {role}")]
    Start {
        /// Which role.
        role: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// It ended before it was ready.
    #[error("the {role} ended with {status}; its log ({log}) closes with:\n{tail}")]
    Ended {
        /// Which role.
        role: &'static str,
        /// How it ended.
        status: String,
        /// Its log.
        log: PathBuf,
        /// The last lines of the log.
        tail: String,
    },
    /// It was not ready in time, or says that it can't be.
    #[error("the {role} is not ready: {waiting_for}; its log is {log}")]
    NotReady {
        /// Which role.
        role: &'static str,
        /// What was still missing.
        waiting_for: String,
        /// Its log.
        log: PathBuf,
    },
}

impl RoleError {
    fn start(role: &'static str, error: ProcessError) -> Self {
        let source = match error {
            ProcessError::Log { source, .. } | ProcessError::Spawn { source, .. } => source,
        };
        Self::Start { role, source }
    }
}

/// `controlplane.json`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub(crate) struct ControlPlaneAddresses {
    pub(crate) xds: SocketAddr,
    pub(crate) debug: SocketAddr,
    pub(crate) pid: u32,
}

/// `node.json`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub(crate) struct NodeAddresses {
    pub(crate) admin: SocketAddr,
    pub(crate) readiness: SocketAddr,
    pub(crate) pid: u32,
}

/// A role with the process that plays it now.
#[derive(Debug)]
pub(crate) struct Role {
    name: &'static str,
    spec: Spec,
    pub(crate) process: Process,
    backoff: Duration,
    restart_at: Option<Instant>,
}

impl Role {
    pub(crate) fn start(name: &'static str, spec: Spec) -> Result<Self, RoleError> {
        let process = Process::spawn(&spec).map_err(|e| RoleError::start(name, e))?;
        Ok(Self {
            name,
            spec,
            process,
            backoff: BACKOFF_MIN,
            restart_at: None,
        })
    }

    /// Starts an ended process again, after a growing delay. Returns what to tell the user.
    pub(crate) fn tend(&mut self, now: Instant) -> Option<String> {
        let status = self.process.exited()?;
        let Some(at) = self.restart_at else {
            if now.duration_since(self.process.started) > HEALTHY_AFTER {
                self.backoff = BACKOFF_MIN;
            }
            self.restart_at = Some(now + self.backoff);
            self.backoff = (self.backoff * 2).min(BACKOFF_MAX);
            return Some(format!(
                "the {} ended with {}; starting it again (log: {})",
                self.name,
                describe(status),
                self.spec.log.display()
            ));
        };
        if now < at {
            return None;
        }
        match Process::spawn(&self.spec) {
            Ok(process) => {
                self.process = process;
                self.restart_at = None;
                None
            }
            Err(error) => {
                self.restart_at = Some(now + self.backoff);
                Some(format!("start the {}: {error}", self.name))
            }
        }
    }

    /// From now on it is started with these arguments.
    pub(crate) fn respecify(&mut self, change: impl FnOnce(&mut Spec)) {
        change(&mut self.spec);
    }

    /// Waits for the file in which the role tells its addresses, then for its readiness endpoint.
    pub(crate) async fn ready<A: for<'de> Deserialize<'de>>(
        &self,
        client: &HttpClient,
        file: &Path,
        pid_of: impl Fn(&A) -> u32,
        ready_url: impl Fn(&A) -> String,
    ) -> Result<A, RoleError> {
        let started = Instant::now();
        let deadline = started + READY_WITHIN;
        let mut waiting_for = format!("{} not written", file.display());
        loop {
            if let Some(status) = self.process.exited() {
                return Err(RoleError::Ended {
                    role: self.name,
                    status: describe(status),
                    log: self.spec.log.clone(),
                    tail: log_tail(&self.spec.log, 12),
                });
            }
            let addresses = std::fs::read(file)
                .ok()
                .and_then(|bytes| serde_json::from_slice::<A>(&bytes).ok())
                .filter(|a| pid_of(a) == self.process.pid);
            if let Some(addresses) = addresses {
                match get(client, &ready_url(&addresses)).await {
                    Ok(_) => return Ok(addresses),
                    Err(error) => waiting_for = error.to_string(),
                }
            }
            let hopeless = waiting_for.contains("in use") && started.elapsed() > HOPELESS_AFTER;
            if hopeless || Instant::now() > deadline {
                return Err(RoleError::NotReady {
                    role: self.name,
                    waiting_for,
                    log: self.spec.log.clone(),
                });
            }
            tokio::time::sleep(POLL).await;
        }
    }
}

fn spec(state: &StateDir, exe: &Path, role: &str, args: Vec<std::ffi::OsString>) -> Spec {
    Spec {
        name: role.to_owned(),
        program: exe.to_owned(),
        args: ["run".into(), role.into()]
            .into_iter()
            .chain(args)
            .collect(),
        env: vec![
            (MARKER.into(), state.path().into()),
            ("WAYMARK_STATE_DIR".into(), state.path().into()),
        ],
        log: state.log(role),
    }
}

pub(crate) fn controlplane_spec(
    state: &StateDir,
    exe: &Path,
    mesh_dir: &Path,
    addresses: Option<&ControlPlaneAddresses>,
    extra: &[String],
) -> Spec {
    let any = "127.0.0.1:0".to_owned();
    let (xds, debug) = addresses.map_or((any.clone(), any), |a| {
        (a.xds.to_string(), a.debug.to_string())
    });
    let mut args = vec![
        "--mesh-dir".into(),
        mesh_dir.into(),
        "--state-dir".into(),
        state.path().into(),
        "--xds-address".into(),
        xds.into(),
        "--debug-address".into(),
        debug.into(),
    ];
    args.extend(extra.iter().map(Into::into));
    spec(state, exe, "controlplane", args)
}

pub(crate) fn node_spec(state: &StateDir, exe: &Path, control: &ControlPlaneAddresses) -> Spec {
    let any = || "127.0.0.1:0".into();
    let args = vec![
        "--node-name".into(),
        "local".into(),
        "--xds-address".into(),
        control.xds.to_string().into(),
        "--ca-address".into(),
        control.xds.to_string().into(),
        "--root-cert".into(),
        state.root_cert().into(),
        "--token-file".into(),
        state.node_token().into(),
        "--admin-address".into(),
        any(),
        "--readiness-address".into(),
        any(),
        "--metrics-address".into(),
        any(),
        "--addresses-file".into(),
        state.path().join("node.json").into(),
    ];
    spec(state, exe, "node", args)
}

/// `/debug/mesh` of the control plane: what the directory holds, with the addresses that were given.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct View {
    #[serde(default)]
    pub(crate) pods: Vec<PodView>,
    #[serde(default)]
    pub(crate) services: Vec<crate::mesh::ServiceInfo>,
    #[serde(default)]
    pub(crate) waypoints: Vec<WaypointView>,
    #[serde(default)]
    pub(crate) errors: Vec<String>,
    /// Documents of kinds that the mesh has no use for.
    #[serde(default)]
    pub(crate) not_read: Vec<String>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct PodView {
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) service_account: String,
    pub(crate) ip: std::net::IpAddr,
    pub(crate) app_address: std::net::IpAddr,
    #[serde(default)]
    pub(crate) command: Option<String>,
    #[serde(default)]
    pub(crate) labels: std::collections::BTreeMap<String, String>,
    #[serde(default)]
    pub(crate) ports: Vec<u16>,
    #[serde(default)]
    pub(crate) env: std::collections::BTreeMap<String, String>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct WaypointView {
    pub(crate) namespace: String,
    /// What the replicas are named after.
    pub(crate) deployment: String,
    #[serde(default)]
    pub(crate) replicas: Vec<ReplicaView>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ReplicaView {
    pub(crate) address: std::net::IpAddr,
    pub(crate) admin: SocketAddr,
    #[serde(default)]
    pub(crate) pid: Option<u32>,
    pub(crate) ready: bool,
}

pub(crate) async fn view(client: &HttpClient, debug: SocketAddr) -> Result<View, AskError> {
    get_json(client, debug, "/debug/mesh").await
}
