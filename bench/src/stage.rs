//! The places, the control plane that configures ours, and the processes that stand in them.

use std::ffi::OsStr;
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::certs::{Ca, CertError};
use crate::envoy::{Places, bootstrap};
use crate::load::{Inner, Measured, Mode};
use crate::manifests;
use crate::meter::{Meter, MeterError};
use crate::process::Running;
use crate::scenario::{Place, Scenario};

/// The core of the proxy under test, and the one that load and destination share.
const PROXY_CORE: &str = "0";
const LOAD_CORE: &str = "1";
const BOTH_CORES: &str = "0,1";
const READY_WITHIN: Duration = Duration::from_secs(20);
/// Under callgrind everything takes fifty times as long.
const READY_WITHIN_METERED: Duration = Duration::from_secs(180);

/// What is put in a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Proxy {
    /// Ours, with so many workers.
    Waymark(u8),
    /// Ours in the program of all roles, with one worker.
    Whole,
    Envoy,
    Floor,
}

impl Proxy {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Waymark(1) => "waymark",
            Self::Waymark(_) => "waymark, 2 workers",
            Self::Whole => "waymark, all roles",
            Self::Envoy => "envoy",
            Self::Floor => "floor",
        }
    }
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum StageError {
    #[error("{what} {path}")]
    File {
        what: &'static str,
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("start {program}")]
    Start {
        program: PathBuf,
        source: std::io::Error,
    },
    #[error("{what} was not ready in time; its log ends with: {log}")]
    NotReady { what: String, log: String },
    #[error("{what} did not end when it was asked to")]
    NotEnded { what: &'static str },
    #[error(transparent)]
    Certs(#[from] CertError),
    #[error(transparent)]
    Meter(#[from] MeterError),
    #[error("load on {proxy}, {scenario}: {stderr}")]
    Load {
        proxy: &'static str,
        scenario: &'static str,
        stderr: String,
    },
    #[error("files of the bench")]
    Io(#[from] std::io::Error),
    #[error("what the load generator says")]
    Json(#[from] serde_json::Error),
}

/// All that a measurement needs, under one temporary directory.
pub(crate) struct Stage {
    waymark: PathBuf,
    /// The programs of one role, where the roles have one.
    roles: Option<[PathBuf; 2]>,
    envoy: Option<PathBuf>,
    /// This program, for load, destination and floor.
    bench: PathBuf,
    directory: tempfile::TempDir,
    pub(crate) places: Places,
    xds: SocketAddr,
    profiles: Option<PathBuf>,
    _control: Running,
}

impl Stage {
    /// Starts the control plane and writes what the proxies need.
    pub(crate) fn set_up(waymark: &Path, envoy: Option<&Path>) -> Result<Self, StageError> {
        let directory = tempfile::tempdir()?;
        let places = manifests::places();
        let mesh = directory.path().join("mesh");
        std::fs::create_dir_all(&mesh)?;
        std::fs::write(mesh.join("bench.yaml"), manifests::all(&places, 90))?;
        let state = directory.path().join("state");
        let log = directory.path().join("controlplane.log");
        let mut command = Command::new(waymark);
        command.args(["run", "controlplane", "--no-deploy"]);
        command.args(["--xds-address", "127.0.0.1:0"]);
        command.args(["--debug-address", "127.0.0.1:0"]);
        command.arg("--mesh-dir").arg(&mesh);
        command.arg("--state-dir").arg(&state);
        let control = start(command, &log)?;
        let file = state.join("controlplane.json");
        let xds = wait("the control plane", &log, READY_WITHIN, || {
            let value: serde_json::Value =
                serde_json::from_slice(&std::fs::read(&file).ok()?).ok()?;
            value["xds"].as_str()?.parse().ok()
        })?;
        write_certs(&state.join("ca"), &directory.path().join("certs"))?;
        std::fs::write(
            directory.path().join("envoy.json"),
            serde_json::to_vec_pretty(&bootstrap(&places, &directory.path().join("certs")))?,
        )?;
        Ok(Self {
            waymark: waymark.to_owned(),
            roles: None,
            envoy: envoy.map(Path::to_owned),
            bench: std::env::current_exe()?,
            directory,
            places,
            xds,
            profiles: None,
            _control: control,
        })
    }

    /// Keeps what the counting tools write of the longer runs, by scenario, in a directory that exists.
    pub(crate) fn keep_profiles(&mut self, directory: &Path) {
        self.profiles = Some(directory.to_owned());
    }

    /// The proxies are programs of their own.
    pub(crate) fn with_roles(self, waypoint: &Path, node: &Path) -> Self {
        Self {
            roles: Some([waypoint.to_owned(), node.to_owned()]),
            ..self
        }
    }

    /// Whether the proxies are programs of their own.
    pub(crate) fn has_roles(&self) -> bool {
        self.roles.is_some()
    }

    /// Where manifests are read from.
    pub(crate) fn mesh_dir(&self) -> PathBuf {
        self.directory.path().join("mesh")
    }

    /// The destination that belongs to a place, answering with bodies of `bytes`.
    pub(crate) fn backend(&self, place: Place, bytes: usize) -> Result<Running, StageError> {
        let (flag, listen): (_, Vec<SocketAddr>) = match place {
            Place::Waypoint => {
                let hbone = |pod: &SocketAddr| SocketAddr::new(pod.ip(), 15008);
                ("--listen", self.places.pods.iter().map(hbone).collect())
            }
            Place::Node => ("--plain", vec![manifests::L4_APPLICATION]),
        };
        self.backend_on(flag, &listen, bytes)
    }

    /// A destination on some addresses only.
    pub(crate) fn backend_on(
        &self,
        flag: &str,
        listen: &[SocketAddr],
        bytes: usize,
    ) -> Result<Running, StageError> {
        let mut command = on_cores(LOAD_CORE, &self.bench);
        command.arg("backend");
        command.arg("--ca-dir").arg(self.state().join("ca"));
        command.arg("--bytes").arg(bytes.to_string());
        for address in listen {
            command.arg(flag).arg(address.to_string());
        }
        let log = self.log("backend");
        let running = start(command, &log)?;
        for &address in listen {
            wait("the destination", &log, READY_WITHIN, || {
                std::net::TcpStream::connect(address).ok()
            })?;
        }
        Ok(running)
    }

    /// Starts a proxy in a place and waits until it is ready; `meter` counts into a file.
    pub(crate) fn proxy(
        &self,
        proxy: Proxy,
        place: Place,
        meter: Option<(Meter, &Path)>,
    ) -> Result<Running, StageError> {
        let cores = match proxy {
            Proxy::Waymark(workers) if workers > 1 => BOTH_CORES,
            _ => PROXY_CORE,
        };
        let program = match (proxy, &self.envoy, &self.roles) {
            (Proxy::Envoy, Some(envoy), _) => envoy,
            (Proxy::Floor, _, _) => &self.bench,
            (Proxy::Waymark(_), _, Some([waypoint, node])) => match place {
                Place::Waypoint => waypoint,
                Place::Node => node,
            },
            (Proxy::Envoy | Proxy::Waymark(_) | Proxy::Whole, _, _) => &self.waymark,
        };
        let mut command = match meter {
            None => on_cores(cores, program),
            Some((meter, file)) => {
                let prefix = meter.prefix(file);
                let mut command = on_cores(cores, Path::new(&prefix[0]));
                command.args(&prefix[1..]).arg(program);
                command
            }
        };
        match (proxy, place) {
            (Proxy::Envoy, _) => self.envoy_arguments(&mut command),
            (Proxy::Floor, _) => self.floor_arguments(&mut command),
            (Proxy::Waymark(workers), Place::Waypoint) => {
                self.waypoint_arguments(workers, &mut command);
            }
            (Proxy::Waymark(workers), Place::Node) => self.node_arguments(workers, &mut command),
            (Proxy::Whole, Place::Waypoint) => self.waypoint_arguments(1, &mut command),
            (Proxy::Whole, Place::Node) => self.node_arguments(1, &mut command),
        }
        let log = self.log(proxy.name());
        let mut running = start(command, &log)?;
        let within = match meter {
            Some(_) => READY_WITHIN_METERED,
            None => READY_WITHIN,
        };
        let hbone = self.hbone(place);
        wait(proxy.name(), &log, within, || {
            let _ = std::net::TcpStream::connect(hbone).ok()?;
            self.is_ready(proxy, place).then_some(())
        })?;
        if meter.is_some_and(|(meter, _)| meter.forks()) {
            running.is_watched();
        }
        Ok(running)
    }

    /// Runs the load generator against what stands in the scenario's place.
    pub(crate) fn load(
        &self,
        proxy: Proxy,
        scenario: &Scenario,
        pid: u32,
        extent: &Extent,
    ) -> Result<Measured, StageError> {
        let mut command = on_cores(LOAD_CORE, &self.bench);
        command.arg("load");
        let authority = match scenario.place {
            Place::Waypoint => self.places.vip,
            Place::Node => manifests::L4_POD,
        };
        let mut set = |flag: &str, value: &dyn std::fmt::Display| {
            command.arg(flag).arg(value.to_string());
        };
        set("--target", &self.hbone(scenario.place));
        set("--authority", &authority);
        set("--connections", &scenario.connections);
        set("--streams", &scenario.streams);
        set("--inner-streams", &scenario.inner_streams);
        set("--rate", &scenario.rate);
        set("--pid", &pid);
        set(
            "--inner",
            &match scenario.inner {
                Inner::H1 => "h1",
                Inner::H2 => "h2",
            },
        );
        set(
            "--mode",
            &match scenario.mode {
                Mode::Requests => "requests",
                Mode::Connects => "connects",
                Mode::Connections => "connections",
            },
        );
        match *extent {
            Extent::Seconds { warm_up, seconds } => {
                set("--warm-up", &warm_up);
                set("--seconds", &seconds);
            }
            Extent::Requests(requests) => set("--requests", &requests),
            Extent::Soak { seconds, churn } => {
                set("--seconds", &seconds);
                set("--churn", &churn);
            }
        }
        command.arg("--ca-dir").arg(self.state().join("ca"));
        let output = command
            .stdin(Stdio::null())
            .output()
            .map_err(|source| StageError::Start {
                program: self.bench.clone(),
                source,
            })?;
        if !output.status.success() {
            return Err(StageError::Load {
                proxy: proxy.name(),
                scenario: scenario.name,
                stderr: String::from_utf8_lossy(&output.stderr).trim().to_owned(),
            });
        }
        Ok(serde_json::from_slice(&output.stdout)?)
    }

    /// What one request costs by a meter's count.
    pub(crate) fn count(
        &self,
        proxy: Proxy,
        scenario: &Scenario,
        meter: Meter,
    ) -> Result<f64, StageError> {
        let few = scenario.counted;
        let many = 6 * few;
        let _backend = self.backend(scenario.place, scenario.bytes)?;
        let mut totals = [0.0; 2];
        let file = self.directory.path().join("counted");
        for (total, requests) in totals.iter_mut().zip([few, many]) {
            let running = self.proxy(proxy, scenario.place, Some((meter, &file)))?;
            self.load(proxy, scenario, running.pid(), &Extent::Requests(requests))?;
            if !running.end(READY_WITHIN_METERED) {
                return Err(StageError::NotEnded { what: proxy.name() });
            }
            *total = meter.total(&file)?;
        }
        if let Some(profiles) = &self.profiles {
            let name = format!("{}.{}", scenario.name, meter.name());
            std::fs::copy(&file, profiles.join(name))?;
        }
        #[expect(clippy::cast_precision_loss, reason = "counts are small")]
        let requests = (many - few) as f64;
        Ok((totals[1] - totals[0]) / requests)
    }

    fn hbone(&self, place: Place) -> SocketAddr {
        match place {
            Place::Waypoint => SocketAddr::new(self.places.waypoint, 15008),
            Place::Node => SocketAddr::new(manifests::L4_POD.ip(), 15008),
        }
    }

    fn is_ready(&self, proxy: Proxy, place: Place) -> bool {
        match (proxy, place) {
            (Proxy::Floor, _) => true,
            (_, Place::Waypoint) => {
                let admin = SocketAddr::new(self.places.waypoint, self.places.admin_port);
                answers_ok(admin, "/ready")
            }
            (_, Place::Node) => answers_ok(manifests::L4_READINESS, "/healthz/ready"),
        }
    }

    fn envoy_arguments(&self, command: &mut Command) {
        let directory = self.directory.path();
        command.args(["--concurrency", "1", "-l", "error", "--use-dynamic-base-id"]);
        command.arg("--base-id-path").arg(directory.join("base-id"));
        command.arg("-c").arg(directory.join("envoy.json"));
    }

    fn floor_arguments(&self, command: &mut Command) {
        let pod = SocketAddr::new(self.places.pods[0].ip(), 15008);
        command.arg("floor");
        command
            .arg("--listen")
            .arg(self.hbone(Place::Waypoint).to_string());
        command.arg("--upstream").arg(pod.to_string());
        command.arg("--ca-dir").arg(self.state().join("ca"));
    }

    fn waypoint_arguments(&self, workers: u8, command: &mut Command) {
        command.args(["run", "waypoint", "--name", "waypoint-0"]);
        command.args(["--namespace", "bench", "--service-account", "waypoint"]);
        command.args(["--gateway", "waypoint"]);
        command.args(["--concurrency", &workers.to_string()]);
        command
            .arg("--address")
            .arg(self.places.waypoint.to_string());
        self.peer_arguments("bench.waypoint", command);
    }

    fn node_arguments(&self, workers: u8, command: &mut Command) {
        let at = |port| SocketAddr::new(manifests::L4_READINESS.ip(), port).to_string();
        command.args(["run", "node", "--node-name", manifests::L4_NODE]);
        command.args(["--concurrency", &workers.to_string()]);
        command.args(["--admin-address", &at(15000)]);
        command.args(["--readiness-address", &manifests::L4_READINESS.to_string()]);
        command.args(["--metrics-address", &at(15020)]);
        self.peer_arguments("istio-system.waymark-node", command);
    }

    /// How ours reach the control plane.
    fn peer_arguments(&self, token: &str, command: &mut Command) {
        for flag in ["--xds-address", "--ca-address"] {
            command.arg(flag).arg(self.xds.to_string());
        }
        let state = self.state();
        command.arg("--root-cert").arg(state.join("root-cert.pem"));
        let token = state.join("tokens").join(token);
        command.arg("--token-file").arg(token);
    }

    fn state(&self) -> PathBuf {
        self.directory.path().join("state")
    }

    fn log(&self, name: &str) -> PathBuf {
        self.directory.path().join(format!("{name}.log"))
    }
}

/// How long a load lasts.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Extent {
    Seconds { warm_up: f64, seconds: f64 },
    Requests(u64),
    Soak { seconds: f64, churn: u64 },
}

fn write_certs(ca: &Path, certs: &Path) -> Result<(), StageError> {
    std::fs::create_dir_all(certs)?;
    let ca = Ca::load(ca)?;
    let leaf = ca.leaf("spiffe://cluster.local/ns/bench/sa/waypoint")?;
    for (name, text) in [
        ("cert.pem", &leaf.chain_pem),
        ("key.pem", &leaf.key_pem),
        ("root.pem", &ca.root_pem),
    ] {
        std::fs::write(certs.join(name), text)?;
    }
    Ok(())
}

/// A command that runs on some cores.
fn on_cores(cores: &str, program: &Path) -> Command {
    let mut command = Command::new("taskset");
    command.arg("-c").arg(cores).arg(program);
    command
}

fn start(mut command: Command, log: &Path) -> Result<Running, StageError> {
    let file = std::fs::File::create(log).map_err(|source| StageError::File {
        what: "make log",
        path: log.to_owned(),
        source,
    })?;
    let errors = file.try_clone()?;
    let child = command
        .stdin(Stdio::null())
        .stdout(file)
        .stderr(errors)
        .spawn()
        .map_err(|source| StageError::Start {
            program: PathBuf::from(AsRef::<OsStr>::as_ref(command.get_program())),
            source,
        })?;
    Ok(Running::new(child))
}

fn wait<T>(
    what: &str,
    log: &Path,
    within: Duration,
    mut ask: impl FnMut() -> Option<T>,
) -> Result<T, StageError> {
    let deadline = Instant::now() + within;
    loop {
        if let Some(value) = ask() {
            return Ok(value);
        }
        if Instant::now() > deadline {
            let text = std::fs::read_to_string(log).unwrap_or_default();
            let from = text.len().saturating_sub(2000);
            return Err(StageError::NotReady {
                what: what.to_owned(),
                log: text.get(from..).unwrap_or(&text).to_owned(),
            });
        }
        std::thread::park_timeout(Duration::from_millis(20));
    }
}

fn answers_ok(admin: SocketAddr, path: &str) -> bool {
    use std::io::Read as _;
    let ask = || -> std::io::Result<String> {
        let mut stream = std::net::TcpStream::connect(admin)?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        write!(
            stream,
            "GET {path} HTTP/1.1\r\nhost: admin\r\nconnection: close\r\n\r\n"
        )?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        Ok(text)
    };
    ask().is_ok_and(|text| text.contains(" 200 "))
}

/// An address of the bench's own.
pub(crate) const fn address(third: u8, last: u8) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(127, 244, third, last))
}
