//! Our waypoint and Envoy in the same place, alternating in one run.

use std::collections::BTreeMap;
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use clap::Args;

use crate::certs::{Ca, CertError};
use crate::envoy::{Places, bootstrap};
use crate::load::{Inner, LoadArgs, LoadError, Measured, Mode};
use crate::process::{Running, on_core, rss_mib};
use crate::report::Report;

/// The proxy's core, and the one that load and destination share.
const PROXY_CORE: usize = 0;
const LOAD_CORE: usize = 1;
const READY_WITHIN: Duration = Duration::from_secs(20);

#[derive(Debug, Clone, Args)]
pub(crate) struct CompareArgs {
    /// The program `waymark`, a release build.
    #[arg(long, default_value = "target/dist/waymark")]
    waymark: PathBuf,
    /// The program `envoy`; without it only ours is measured.
    #[arg(long, env = "ENVOY")]
    envoy: Option<PathBuf>,
    /// Rounds.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Seconds of each measurement.
    #[arg(long, default_value_t = 3.0)]
    seconds: f64,
    /// Only scenarios whose name contains this.
    #[arg(long, default_value = "")]
    only: String,
    /// Where the numbers go, as JSON.
    #[arg(long, default_value = "target/bench.json")]
    json: PathBuf,
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum CompareError {
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
    #[error("{what} was not ready within {READY_WITHIN:?}; log: {log}")]
    NotReady { what: &'static str, log: PathBuf },
    #[error(transparent)]
    Certs(#[from] CertError),
    #[error("load on {proxy}, {scenario}")]
    Load {
        proxy: &'static str,
        scenario: &'static str,
        source: LoadError,
    },
    #[error("write the report")]
    Report(#[from] std::io::Error),
    #[error("print the report")]
    Json(#[from] serde_json::Error),
}

/// What is measured: name, connections, streams, inner, inner streams, mode, rate, body bytes.
type Scenario = (&'static str, usize, usize, Inner, usize, Mode, u32, usize);

const SCENARIOS: &[Scenario] = &[
    ("h1 1 KiB c4s8", 4, 8, Inner::H1, 1, Mode::Requests, 0, 1024),
    (
        "h1 1 KiB c16s16",
        16,
        16,
        Inner::H1,
        1,
        Mode::Requests,
        0,
        1024,
    ),
    ("h1 1 KiB c1s1", 1, 1, Inner::H1, 1, Mode::Requests, 0, 1024),
    (
        "h1 64 KiB c4s8",
        4,
        8,
        Inner::H1,
        1,
        Mode::Requests,
        0,
        65536,
    ),
    ("h2 64 B c4s4i8", 4, 4, Inner::H2, 8, Mode::Requests, 0, 64),
    (
        "paced 1000/s",
        4,
        8,
        Inner::H1,
        1,
        Mode::Requests,
        1000,
        1024,
    ),
    (
        "paced 4000/s",
        4,
        8,
        Inner::H1,
        1,
        Mode::Requests,
        4000,
        1024,
    ),
    ("new CONNECT", 4, 4, Inner::H1, 1, Mode::Connects, 0, 1024),
    (
        "new mTLS connection",
        1,
        8,
        Inner::H1,
        1,
        Mode::Connections,
        0,
        1024,
    ),
];

const OURS: &str = "waymark";
const ENVOY: &str = "envoy";

pub(crate) async fn run(args: &CompareArgs, out: &mut dyn Write) -> Result<(), CompareError> {
    let bench = Bench::set_up(args)?;
    let mut report = Report {
        rounds: args.rounds,
        load_average: std::fs::read_to_string("/proc/loadavg")
            .unwrap_or_default()
            .trim()
            .to_owned(),
        scenarios: BTreeMap::new(),
        memory_mib: BTreeMap::new(),
    };
    let proxies: Vec<&'static str> = match &args.envoy {
        Some(_) => vec![OURS, ENVOY],
        None => vec![OURS],
    };
    for round in 0..args.rounds {
        for scenario in SCENARIOS.iter().filter(|s| s.0.contains(&args.only)) {
            let _backend = bench.backend(scenario.7)?;
            for &proxy in &proxies {
                let running = bench.proxy(proxy)?;
                let load = bench.load(scenario, args.seconds, running.pid());
                let measured =
                    crate::load::run(&load)
                        .await
                        .map_err(|source| CompareError::Load {
                            proxy,
                            scenario: scenario.0,
                            source,
                        })?;
                let _ = writeln!(
                    std::io::stderr(),
                    "round {} {} {proxy}: {:.1} us, {:.0}/s, {} failed",
                    round + 1,
                    scenario.0,
                    measured.cpu_us.unwrap_or(0.0),
                    measured.per_second,
                    measured.failed
                );
                record(&mut report, scenario.0, proxy, measured);
            }
        }
    }
    if args.only.is_empty() {
        for &proxy in &proxies {
            let memory = bench.memory(proxy).await?;
            report.memory_mib.insert(proxy.to_owned(), memory);
        }
    }
    if let Some(parent) = args.json.parent() {
        std::fs::create_dir_all(parent)?;
    }
    std::fs::write(&args.json, serde_json::to_vec_pretty(&report)?)?;
    write!(out, "{}", report.markdown())?;
    Ok(())
}

fn record(report: &mut Report, scenario: &str, proxy: &str, measured: Measured) {
    report
        .scenarios
        .entry(scenario.to_owned())
        .or_default()
        .entry(proxy.to_owned())
        .or_default()
        .push(measured);
}

/// The places, the control plane that configures our waypoint, and the files.
struct Bench {
    args: CompareArgs,
    directory: tempfile::TempDir,
    places: Places,
    xds: SocketAddr,
    _control: Running,
}

impl Bench {
    fn set_up(args: &CompareArgs) -> Result<Self, CompareError> {
        let directory = tempfile::tempdir()?;
        let address = |last: u8| IpAddr::V4(Ipv4Addr::new(127, 244, 200, last));
        let places = Places {
            waypoint: address(1),
            vip: SocketAddr::new(Ipv4Addr::new(127, 96, 200, 1).into(), 9080),
            pods: [
                SocketAddr::new(address(11), 9080),
                SocketAddr::new(address(12), 9080),
            ],
            admin_port: 15000,
        };
        let mesh = directory.path().join("mesh");
        std::fs::create_dir_all(&mesh)?;
        std::fs::write(mesh.join("bench.yaml"), manifests(&places))?;
        let state = directory.path().join("state");
        let log = directory.path().join("controlplane.log");
        let mut command = Command::new(&args.waymark);
        command.args([
            "run",
            "controlplane",
            "--no-deploy",
            "--xds-address",
            "127.0.0.1:0",
            "--debug-address",
            "127.0.0.1:0",
        ]);
        command
            .arg("--mesh-dir")
            .arg(&mesh)
            .arg("--state-dir")
            .arg(&state);
        let control = start(command, &args.waymark, &log)?;
        let file = state.join("controlplane.json");
        let xds = wait("the control plane", &log, || {
            let value: serde_json::Value =
                serde_json::from_slice(&std::fs::read(&file).ok()?).ok()?;
            value["xds"].as_str()?.parse().ok()
        })?;
        let certs = directory.path().join("certs");
        std::fs::create_dir_all(&certs)?;
        let ca = Ca::load(&state.join("ca"))?;
        let leaf = ca.leaf("spiffe://cluster.local/ns/bench/sa/waypoint")?;
        for (name, text) in [
            ("cert.pem", &leaf.chain_pem),
            ("key.pem", &leaf.key_pem),
            ("root.pem", &ca.root_pem),
        ] {
            std::fs::write(certs.join(name), text)?;
        }
        std::fs::write(
            directory.path().join("envoy.json"),
            serde_json::to_vec_pretty(&bootstrap(&places, &certs))?,
        )?;
        Ok(Self {
            args: args.clone(),
            directory,
            places,
            xds,
            _control: control,
        })
    }

    fn state(&self) -> PathBuf {
        self.directory.path().join("state")
    }

    fn log(&self, name: &str) -> PathBuf {
        self.directory.path().join(format!("{name}.log"))
    }

    fn backend(&self, bytes: usize) -> Result<Running, CompareError> {
        let exe = std::env::current_exe()?;
        let listen: Vec<SocketAddr> = self
            .places
            .pods
            .iter()
            .map(|p| SocketAddr::new(p.ip(), 15008))
            .collect();
        let mut command = on_core(LOAD_CORE, &exe);
        command
            .arg("backend")
            .arg("--ca-dir")
            .arg(self.state().join("ca"));
        command.arg("--bytes").arg(bytes.to_string());
        for address in &listen {
            command.arg("--listen").arg(address.to_string());
        }
        let log = self.log("backend");
        let running = start(command, &exe, &log)?;
        for address in listen {
            wait("the destination", &log, || {
                std::net::TcpStream::connect(address).ok()
            })?;
        }
        Ok(running)
    }

    fn proxy(&self, which: &'static str) -> Result<Running, CompareError> {
        let log = self.log(which);
        let (command, program) = match (which, &self.args.envoy) {
            (ENVOY, Some(envoy)) => {
                let mut command = on_core(PROXY_CORE, envoy);
                command.args(["--concurrency", "1", "-l", "error", "--base-id-path"]);
                command
                    .arg(self.directory.path().join("base-id"))
                    .arg("--use-dynamic-base-id");
                command
                    .arg("-c")
                    .arg(self.directory.path().join("envoy.json"));
                (command, envoy)
            }
            _ => (self.our_waypoint(), &self.args.waymark),
        };
        let running = start(command, program, &log)?;
        let hbone = SocketAddr::new(self.places.waypoint, 15008);
        let admin = SocketAddr::new(self.places.waypoint, self.places.admin_port);
        wait("the proxy", &log, || {
            let _ = std::net::TcpStream::connect(hbone).ok()?;
            ready(admin).then_some(())
        })?;
        Ok(running)
    }

    fn our_waypoint(&self) -> Command {
        let mut command = on_core(PROXY_CORE, &self.args.waymark);
        command.args([
            "run",
            "waypoint",
            "--concurrency",
            "1",
            "--name",
            "waypoint-0",
            "--namespace",
            "bench",
        ]);
        command.args(["--service-account", "waypoint", "--gateway", "waypoint"]);
        command
            .arg("--address")
            .arg(self.places.waypoint.to_string());
        for flag in ["--xds-address", "--ca-address"] {
            command.arg(flag).arg(self.xds.to_string());
        }
        command
            .arg("--root-cert")
            .arg(self.state().join("root-cert.pem"));
        command
            .arg("--token-file")
            .arg(self.state().join("tokens/bench.waypoint"));
        command
    }

    fn load(&self, scenario: &Scenario, seconds: f64, pid: u32) -> LoadArgs {
        let &(_, connections, streams, inner, inner_streams, mode, rate, _) = scenario;
        LoadArgs {
            target: SocketAddr::new(self.places.waypoint, 15008),
            authority: self.places.vip.to_string(),
            ca_dir: self.state().join("ca"),
            identity: "spiffe://cluster.local/ns/bench/sa/client".into(),
            source: None,
            connections,
            streams,
            inner,
            inner_streams,
            mode,
            rate,
            seconds,
            warm_up: 1.0,
            pid: Some(pid),
        }
    }

    /// RSS idle, and with 1,000 connections after requests.
    async fn memory(&self, proxy: &'static str) -> Result<BTreeMap<String, f64>, CompareError> {
        let _backend = self.backend(1024)?;
        let running = self.proxy(proxy)?;
        let mut memory = BTreeMap::new();
        memory.insert("idle".to_owned(), rss_mib(running.pid()));
        let scenario: Scenario = (
            "1,000 connections",
            1000,
            1,
            Inner::H1,
            1,
            Mode::Requests,
            2000,
            1024,
        );
        let load = self.load(&scenario, 3.0, running.pid());
        let measured = crate::load::run(&load)
            .await
            .map_err(|source| CompareError::Load {
                proxy,
                scenario: scenario.0,
                source,
            })?;
        memory.insert(
            "1,000 connections after requests".to_owned(),
            measured.rss_mib.unwrap_or(0.0),
        );
        Ok(memory)
    }
}

fn start(mut command: Command, program: &Path, log: &Path) -> Result<Running, CompareError> {
    let file = std::fs::File::create(log).map_err(|source| CompareError::File {
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
        .map_err(|source| CompareError::Start {
            program: program.to_owned(),
            source,
        })?;
    Ok(Running(child))
}

fn wait<T>(
    what: &'static str,
    log: &Path,
    mut ask: impl FnMut() -> Option<T>,
) -> Result<T, CompareError> {
    let deadline = Instant::now() + READY_WITHIN;
    loop {
        if let Some(value) = ask() {
            return Ok(value);
        }
        if Instant::now() > deadline {
            let text = std::fs::read_to_string(log).unwrap_or_default();
            let _ = writeln!(std::io::stderr(), "{text}");
            return Err(CompareError::NotReady {
                what,
                log: log.to_owned(),
            });
        }
        std::thread::park_timeout(Duration::from_millis(20));
    }
}

fn ready(admin: SocketAddr) -> bool {
    use std::io::Read as _;
    let ask = || -> std::io::Result<String> {
        let mut stream = std::net::TcpStream::connect(admin)?;
        stream.set_read_timeout(Some(Duration::from_secs(1)))?;
        stream.write_all(b"GET /ready HTTP/1.1\r\nhost: admin\r\nconnection: close\r\n\r\n")?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        Ok(text)
    };
    ask().is_ok_and(|text| text.contains(" 200 "))
}

fn manifests(places: &Places) -> String {
    let pod = |version: &str, ip: IpAddr| {
        format!(
            "apiVersion: v1\nkind: Pod\nmetadata:\n  name: backend-{version}\n  namespace: bench\n  labels:\n    app: backend\n    version: {version}\n\
             spec:\n  serviceAccountName: backend\n  containers:\n  - name: backend\n    ports:\n    - containerPort: 9080\nstatus:\n  podIP: {ip}\n---\n"
        )
    };
    format!(
        "apiVersion: v1\nkind: Namespace\nmetadata:\n  name: bench\n  labels:\n    istio.io/dataplane-mode: ambient\n    istio.io/use-waypoint: waypoint\n---\n\
         {}{}apiVersion: v1\nkind: Service\nmetadata:\n  name: backend\n  namespace: bench\nspec:\n  clusterIP: {}\n  selector:\n    app: backend\n  ports:\n  - name: http\n    port: {}\n---\n\
         apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata:\n  name: waypoint\n  namespace: bench\nspec:\n  gatewayClassName: istio-waypoint\n  listeners:\n  - name: mesh\n    port: 15008\n    protocol: HBONE\n---\n\
         apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata:\n  name: backend\n  namespace: bench\nspec:\n  host: backend\n  trafficPolicy:\n    connectionPool:\n      http:\n        useClientProtocol: true\n  subsets:\n  - name: v1\n    labels:\n      version: v1\n  - name: v2\n    labels:\n      version: v2\n---\n\
         apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata:\n  name: backend\n  namespace: bench\nspec:\n  hosts:\n  - backend\n  http:\n  - route:\n    - destination:\n        host: backend\n        subset: v1\n      weight: 90\n    - destination:\n        host: backend\n        subset: v2\n      weight: 10\n",
        pod("v1", places.pods[0].ip()),
        pod("v2", places.pods[1].ip()),
        places.vip.ip(),
        places.vip.port(),
    )
}
