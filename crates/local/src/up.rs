//! `waymark up`: brings the mesh up, keeps it up, takes it down.

use std::collections::BTreeSet;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::{Args, ValueEnum};

use crate::bundle;
use crate::http::{HttpClient, client};
use crate::mesh::{ControlPlaneInfo, Mesh, NodeInfo, WaypointInfo, WorkloadInfo};
use crate::pods::Pods;
use crate::process::{Process, ProcessError, end_all, log_tail};
use crate::progress::Progress;
use crate::roles::{
    ControlPlaneAddresses, NodeAddresses, Role, RoleError, View, controlplane_spec, node_spec, view,
};
use crate::split::{self, Totals};
use crate::state_dir::{StateDir, StateDirError};
use crate::traffic::Traffic;

const TICK: Duration = Duration::from_millis(200);
const READY_WITHIN: Duration = Duration::from_secs(30);
const SPLIT_EVERY: Duration = Duration::from_secs(1);
/// Longer than a waypoint's own drain deadline.
const STOP_GRACE: Duration = Duration::from_secs(15);

/// Form of what `up` prints.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// Progress for a person.
    Text,
    /// One JSON object once everything is ready.
    Json,
}

/// Arguments of `waymark up`.
#[derive(Debug, Clone, Args)]
pub struct UpArgs {
    /// Directory of manifests [default: the bundled bookinfo mesh, unpacked into the state directory].
    pub dir: Option<PathBuf>,
    /// Where the mesh keeps its files [default: $XDG_STATE_HOME/waymark or ~/.local/state/waymark].
    #[arg(long, env = "WAYMARK_STATE_DIR")]
    pub state_dir: Option<PathBuf>,
    /// Return when everything is ready; `waymark down` ends the mesh.
    #[arg(long)]
    pub detach: bool,
    /// Send this many requests a second.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub traffic: u32,
    /// Workload whose identity the traffic has.
    #[arg(long, value_name = "POD", default_value = "productpage")]
    pub traffic_from: String,
    /// Where the traffic goes [default: /reviews/0 of the service reviews].
    #[arg(long, value_name = "URL")]
    pub traffic_to: Option<String>,
    /// Form of the output.
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    pub output: Output,
    /// What serves as a waypoint where its Gateway does not say (annotation waymark.dev/waypoint-binary).
    #[arg(long, value_name = "waymark|envoy=FILE")]
    pub waypoint_binary: Option<String>,
    /// Further arguments for `waymark run controlplane`.
    #[arg(
        long = "controlplane-arg",
        value_name = "ARG",
        allow_hyphen_values = true
    )]
    pub controlplane_args: Vec<String>,
}

impl UpArgs {
    /// What the control plane is started with besides what it always is.
    fn controlplane_args(&self) -> Vec<String> {
        let binary = self.waypoint_binary.iter();
        let binary = binary.flat_map(|binary| ["--waypoint-binary".to_owned(), binary.clone()]);
        binary
            .chain(self.controlplane_args.iter().cloned())
            .collect()
    }
}

/// Why the mesh did not come up.
#[derive(Debug, thiserror::Error)]
pub enum UpError {
    /// The state directory can't be used.
    #[error(transparent)]
    StateDir(#[from] StateDirError),
    /// The mesh directory is not one.
    #[error("read mesh directory {path}")]
    MeshDirectory {
        /// The directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A role did not come up.
    #[error(transparent)]
    Role(#[from] RoleError),
    /// Something was not ready in time.
    #[error("not ready within {READY_WITHIN:?}: {}", waiting_for.join(", "))]
    NotReady {
        /// What was missing, each with where to look.
        waiting_for: Vec<String>,
    },
    /// The manifests have errors, and a mesh does not start from a broken file.
    #[error("the mesh directory has errors:\n{}", errors.join("\n"))]
    Manifests {
        /// One line each.
        errors: Vec<String>,
    },
    /// `--traffic` has nowhere to come from or go to.
    #[error("--traffic: {0}")]
    Traffic(String),
    /// A file could not be written.
    #[error("write {path}")]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The detached supervisor failed.
    #[error("the mesh did not come up:\n{log}")]
    Detached {
        /// What it said.
        log: String,
    },
}

impl UpError {
    /// What the user can do about it.
    #[must_use]
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::StateDir(StateDirError::Busy { .. }) => {
                Some("end it with `waymark down`, or give this one another --state-dir")
            }
            Self::StateDir(_) => Some("give a directory that you may write with --state-dir"),
            Self::MeshDirectory { .. } => {
                Some("give a directory of YAML manifests, or none for bookinfo")
            }
            Self::Role(
                RoleError::Ended { tail: said, .. }
                | RoleError::NotReady {
                    waiting_for: said, ..
                },
            ) if said.contains("in use") => Some(
                "another program listens there; another mesh on this machine uses the same addresses",
            ),
            Self::NotReady { .. } => {
                Some("the logs are in the state directory, below logs/ and waypoints/")
            }
            Self::Manifests { .. } => {
                Some("correct the files; `waymark up` starts nothing until they are whole")
            }
            Self::Role(_) | Self::Traffic(_) | Self::Write { .. } | Self::Detached { .. } => None,
        }
    }
}

/// Brings the mesh up and keeps it until `stop` completes; then drains and ends everything that it started.
///
/// `exe` is this program; `terminal`: whether `out` is one.
///
/// # Errors
/// When something can't be started or is not ready in time; then nothing is left running.
pub async fn up(
    args: UpArgs,
    exe: &Path,
    terminal: bool,
    out: &mut dyn Write,
    stop: impl Future<Output = ()>,
) -> Result<(), UpError> {
    let state = StateDir::resolve(args.state_dir.as_deref())?;
    state.create()?;
    if args.detach {
        return detach(&args, &state, exe, out).await;
    }
    let _lock = state.lock()?;
    let _ = std::fs::remove_file(state.mesh_file());
    let quiet = args.output == Output::Json;
    let mut progress = Progress::new(out, terminal, quiet);
    let mut stop = std::pin::pin!(stop);
    let result = {
        let run = Supervisor::run(&args, &state, exe, &mut progress);
        tokio::select! {
            biased;
            () = &mut stop => Ok(()),
            result = run => result,
        }
    };
    progress.end_live();
    if result.is_ok() {
        progress.say("stopping ...");
    }
    end_all(state.path(), STOP_GRACE).await;
    let _ = std::fs::remove_file(state.mesh_file());
    if result.is_ok() {
        progress.say("stopped; nothing is left running");
    }
    result
}

struct Supervisor<'a, 'p> {
    args: &'a UpArgs,
    state: &'a StateDir,
    exe: &'a Path,
    mesh_dir: PathBuf,
    http: HttpClient,
    progress: &'a mut Progress<'p>,
    control: Role,
    control_addresses: ControlPlaneAddresses,
    node: Role,
    node_addresses: NodeAddresses,
    pods: Pods,
    view: View,
    told: BTreeSet<String>,
    told_not_read: BTreeSet<String>,
}

impl<'a, 'p> Supervisor<'a, 'p> {
    async fn run(
        args: &'a UpArgs,
        state: &'a StateDir,
        exe: &'a Path,
        progress: &'a mut Progress<'p>,
    ) -> Result<(), UpError> {
        let left = end_all(state.path(), Duration::from_secs(5)).await;
        if left > 0 {
            progress.say(&format!("ended {left} processes of a mesh that was killed"));
        }
        progress.say("Waymark: a mesh on this machine");
        let mesh_dir = mesh_directory(args, state, progress)?;
        let mut supervisor = Self::start_roles(args, state, exe, mesh_dir, progress).await?;
        let mesh = supervisor.wait_ready().await?;
        let traffic = supervisor.start_traffic(&mesh)?;
        let path = state.mesh_file();
        mesh.write(&path)
            .map_err(|source| UpError::Write { path, source })?;
        supervisor.announce(&mesh);
        supervisor.keep(traffic).await
    }

    async fn start_roles(
        args: &'a UpArgs,
        state: &'a StateDir,
        exe: &'a Path,
        mesh_dir: PathBuf,
        progress: &'a mut Progress<'p>,
    ) -> Result<Self, UpError> {
        let http = client(None);
        let control_args = args.controlplane_args();
        let spec = controlplane_spec(state, exe, &mesh_dir, None, &control_args);
        let mut control = Role::start("control plane", spec)?;
        let addresses: ControlPlaneAddresses = control
            .ready(
                &http,
                &state.controlplane_file(),
                |a: &ControlPlaneAddresses| a.pid,
                |a| format!("http://{}/ready", a.debug),
            )
            .await?;
        // Started again, it must be where the others look for it.
        control.respecify(|spec| {
            *spec = controlplane_spec(state, exe, &mesh_dir, Some(&addresses), &control_args);
        });
        let found = view(&http, addresses.debug).await.unwrap_or_default();
        if !found.errors.is_empty() {
            return Err(UpError::Manifests {
                errors: found.errors,
            });
        }
        progress.done("control plane", &format!("xDS and CA on {}", addresses.xds));
        let node = Role::start("node proxy", node_spec(state, exe, &addresses))?;
        let node_addresses: NodeAddresses = node
            .ready(
                &http,
                &state.path().join("node.json"),
                |a: &NodeAddresses| a.pid,
                |a| format!("http://{}/healthz/ready", a.readiness),
            )
            .await?;
        progress.done(
            "node proxy",
            &format!("{} services captured", found.services.len()),
        );
        Ok(Self {
            args,
            state,
            exe,
            mesh_dir,
            http,
            progress,
            control,
            control_addresses: addresses,
            node,
            node_addresses,
            pods: Pods::default(),
            view: found,
            told: BTreeSet::new(),
            told_not_read: BTreeSet::new(),
        })
    }

    /// Waits for pods and waypoints.
    async fn wait_ready(&mut self) -> Result<Mesh, UpError> {
        let deadline = Instant::now() + READY_WITHIN;
        let mut said_pods = false;
        let mut said_waypoints = BTreeSet::new();
        loop {
            self.tend().await;
            let mut waiting_for: Vec<String> = Vec::new();
            for key in self.pods.pending().await {
                let log = self
                    .pods
                    .log(&key)
                    .map(|p| p.display().to_string())
                    .unwrap_or_default();
                waiting_for.push(format!("pod {key} (log: {log})"));
            }
            if waiting_for.is_empty() && !said_pods {
                said_pods = true;
                self.progress
                    .done("pods", &format!("{} started", self.pods.len()));
            }
            for waypoint in &self.view.waypoints {
                let name = format!("{}/{}", waypoint.namespace, waypoint.deployment);
                let ready =
                    !waypoint.replicas.is_empty() && waypoint.replicas.iter().all(|r| r.ready);
                if !ready {
                    waiting_for.push(format!("waypoint {name}"));
                } else if said_waypoints.insert(name.clone()) {
                    let addresses: Vec<String> = waypoint
                        .replicas
                        .iter()
                        .map(|r| r.address.to_string())
                        .collect();
                    self.progress
                        .done("waypoint", &format!("{name} on {}", addresses.join(", ")));
                }
            }
            if waiting_for.is_empty() {
                return Ok(self.mesh());
            }
            if Instant::now() > deadline {
                return Err(UpError::NotReady { waiting_for });
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Looks after everything once.
    async fn tend(&mut self) {
        let now = Instant::now();
        for note in [self.control.tend(now), self.node.tend(now)]
            .into_iter()
            .flatten()
        {
            self.progress.say(&note);
        }
        // Without a control plane the last view stands.
        if let Ok(found) = view(&self.http, self.control_addresses.debug).await {
            self.view = found;
        }
        let errors: BTreeSet<String> = self.view.errors.iter().cloned().collect();
        for error in errors.difference(&self.told) {
            self.progress.say(&format!(
                "error: {error}\n  the last good version keeps serving"
            ));
        }
        for mended in self.told.difference(&errors) {
            self.progress.say(&format!("mended: {mended}"));
        }
        self.told = errors;
        // No error: other tools' documents may lie there. A typo in `kind` is here too.
        for document in &self.view.not_read {
            if self.told_not_read.insert(document.clone()) {
                self.progress.say(&format!("not read: {document}"));
            }
        }
        let notes = self
            .pods
            .reconcile(self.state, self.exe, &self.view.pods, &self.view.services)
            .await;
        for note in notes {
            self.progress.say(&note);
        }
    }

    fn mesh(&self) -> Mesh {
        let mut mesh = Mesh {
            state_dir: self.state.path().to_owned(),
            productpage_url: None,
            mesh_directory: self.mesh_dir.clone(),
            pid: std::process::id(),
            control_plane: ControlPlaneInfo {
                pid: self.control.process.pid,
                xds: self.control_addresses.xds,
                debug: self.control_addresses.debug,
            },
            node: NodeInfo {
                pid: self.node.process.pid,
                admin: self.node_addresses.admin,
            },
            waypoints: self
                .view
                .waypoints
                .iter()
                .flat_map(|w| w.replicas.iter().map(move |r| (w, r)))
                .filter_map(|(w, r)| {
                    Some(WaypointInfo {
                        namespace: w.namespace.clone(),
                        name: w.deployment.clone(),
                        address: r.address,
                        admin: r.admin,
                        pid: r.pid?,
                    })
                })
                .collect(),
            workloads: self
                .view
                .pods
                .iter()
                .map(|p| WorkloadInfo {
                    namespace: p.namespace.clone(),
                    name: p.name.clone(),
                    service_account: p.service_account.clone(),
                    ip: p.ip,
                })
                .collect(),
            services: self.view.services.clone(),
        };
        mesh.productpage_url = mesh
            .service_url("productpage")
            .map(|url| format!("{url}/productpage"));
        mesh
    }

    fn start_traffic(&self, mesh: &Mesh) -> Result<Option<Traffic>, UpError> {
        if self.args.traffic == 0 {
            return Ok(None);
        }
        let from = &self.args.traffic_from;
        let source = mesh
            .workload(from)
            .ok_or_else(|| UpError::Traffic(format!("no workload {from} (see --traffic-from)")))?;
        let url = match &self.args.traffic_to {
            Some(url) => url.clone(),
            None => mesh
                .service_url("reviews")
                .map(|url| format!("{url}/reviews/0"))
                .ok_or_else(|| UpError::Traffic("no service reviews (see --traffic-to)".into()))?,
        };
        Ok(Some(Traffic::start(source.ip, url, self.args.traffic)))
    }

    fn announce(&mut self, mesh: &Mesh) {
        if self.args.output == Output::Json {
            let text = serde_json::to_string_pretty(mesh).unwrap_or_default();
            self.progress.result(&text);
            return;
        }
        self.progress.say("");
        if let Some(url) = &mesh.productpage_url {
            self.progress.say(&format!("Product page: {url}"));
        }
        self.progress.say("Try, in another terminal:");
        for line in self.suggestions(mesh) {
            self.progress.say(&format!("  {line}"));
        }
        self.progress.say("");
        self.progress.say(&format!(
            "Edit the manifests in {} and the mesh follows. Ctrl-C ends it.",
            mesh.mesh_directory.display()
        ));
    }

    fn suggestions(&self, mesh: &Mesh) -> Vec<String> {
        let program = self.exe.display();
        let flag = match &self.args.state_dir {
            Some(dir) => format!(" --state-dir {}", dir.display()),
            None => String::new(),
        };
        let mut lines = Vec::new();
        if let Some(url) = mesh.service_url("reviews") {
            lines.push(format!("for i in $(seq 20); do curl -s {url}/reviews/0 | grep -o 'reviews-v.'; done | sort | uniq -c"));
        }
        if let Some(waypoint) = mesh.waypoints.first() {
            let target = format!("deploy/{}", waypoint.name);
            lines.push(format!(
                "{program}{flag} proxy-config listener {target} --waypoint"
            ));
        }
        lines.push(format!("{program}{flag} proxy-status"));
        lines
    }

    async fn keep(&mut self, traffic: Option<Traffic>) -> Result<(), UpError> {
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut last: Option<(Instant, Totals)> = None;
        let mut published = self.mesh();
        loop {
            tick.tick().await;
            self.tend().await;
            let mesh = self.mesh();
            if mesh != published {
                let path = self.state.mesh_file();
                if let Err(source) = mesh.write(&path) {
                    self.progress
                        .say(&UpError::Write { path, source }.to_string());
                }
                published = mesh;
            }
            let now = Instant::now();
            if last
                .as_ref()
                .is_some_and(|(at, _)| now.duration_since(*at) < SPLIT_EVERY)
            {
                continue;
            }
            let admins: Vec<SocketAddr> = published.waypoints.iter().map(|w| w.admin).collect();
            let totals = split::totals(&self.http, admins.into_iter(), &self.view.pods).await;
            if let Some((at, before)) = &last {
                let seconds = now.duration_since(*at).as_secs_f64();
                let mut line = split::line(before, &totals, seconds)
                    .unwrap_or_else(|| "no traffic through a waypoint".into());
                if let Some(traffic) = &traffic {
                    let failed = traffic
                        .counters
                        .failed
                        .load(std::sync::atomic::Ordering::Relaxed);
                    let skipped = traffic
                        .counters
                        .skipped
                        .load(std::sync::atomic::Ordering::Relaxed);
                    let sent = traffic
                        .counters
                        .sent
                        .load(std::sync::atomic::Ordering::Relaxed);
                    line.push_str(&format!(
                        "   (driver: {sent} sent, {failed} failed, {skipped} skipped)"
                    ));
                }
                self.progress.live_line(&line);
            }
            last = Some((now, totals));
        }
    }
}

fn mesh_directory(
    args: &UpArgs,
    state: &StateDir,
    progress: &mut Progress<'_>,
) -> Result<PathBuf, UpError> {
    let error = |path: &Path| {
        let path = path.to_owned();
        move |source| UpError::MeshDirectory { path, source }
    };
    match &args.dir {
        Some(dir) => {
            let path = std::fs::canonicalize(dir).map_err(error(dir))?;
            std::fs::read_dir(&path).map_err(error(&path))?;
            Ok(path)
        }
        None => {
            let path = state.bundled_mesh();
            if bundle::unpack(&path).map_err(error(&path))? {
                progress.say(&format!(
                    "  manifests of the last time: {} (remove it to start afresh)",
                    path.display()
                ));
            }
            Ok(path)
        }
    }
}

/// Starts this program again in the background and waits until it is ready or has failed.
async fn detach(
    args: &UpArgs,
    state: &StateDir,
    exe: &Path,
    out: &mut dyn Write,
) -> Result<(), UpError> {
    if let Some(pid) = state.holder() {
        let path = state.path().to_owned();
        return Err(StateDirError::Busy {
            path,
            pid: pid.to_string(),
        }
        .into());
    }
    let _ = std::fs::remove_file(state.mesh_file());
    let mut spec = crate::process::Spec {
        name: "up".into(),
        program: exe.to_owned(),
        args: vec!["up".into(), "--state-dir".into(), state.path().into()],
        env: Vec::new(),
        log: state.log("up"),
    };
    if let Some(dir) = &args.dir {
        spec.args.push(
            std::path::absolute(dir)
                .unwrap_or_else(|_| dir.clone())
                .into(),
        );
    }
    if args.traffic > 0 {
        spec.args
            .extend(["--traffic".into(), args.traffic.to_string().into()]);
        spec.args
            .extend(["--traffic-from".into(), (&args.traffic_from).into()]);
    }
    if let Some(to) = &args.traffic_to {
        spec.args.extend(["--traffic-to".into(), to.into()]);
    }
    for argument in &args.controlplane_args() {
        spec.args
            .push(format!("--controlplane-arg={argument}").into());
    }
    let process = Process::spawn(&spec).map_err(|error| match error {
        ProcessError::Log { path, source } => UpError::Write { path, source },
        ProcessError::Spawn {
            source, program, ..
        } => UpError::Write {
            path: program,
            source,
        },
    })?;
    let pid = process.pid;
    let deadline = Instant::now() + READY_WITHIN * 3;
    loop {
        if let Ok(mesh) = Mesh::read(&state.mesh_file())
            && mesh.pid == pid
        {
            let _ = match (args.output, &mesh.productpage_url) {
                (Output::Json, _) => writeln!(
                    out,
                    "{}",
                    serde_json::to_string_pretty(&mesh).unwrap_or_default()
                ),
                (Output::Text, Some(url)) => writeln!(
                    out,
                    "mesh is up (pid {pid}); product page: {url}\nend it with `waymark down`"
                ),
                (Output::Text, None) => {
                    writeln!(out, "mesh is up (pid {pid})\nend it with `waymark down`")
                }
            };
            return Ok(());
        }
        if process.exited().is_some() || Instant::now() > deadline {
            let log = log_tail(&spec.log, 20);
            process.stop(STOP_GRACE).await;
            end_all(state.path(), STOP_GRACE).await;
            return Err(UpError::Detached { log });
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
