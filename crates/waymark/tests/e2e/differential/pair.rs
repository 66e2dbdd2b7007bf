//! Our waypoint and Envoy side by side: two replicas of one waypoint, behind one control plane that reads a directory. The
//! client and the pods are the test's own.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;
use waymark_testkit::hbone::{Client, Destination, Issuer, Leaf};
use waymark_testkit::http::get;
use waymark_testkit::wait::{until, until_or};

use super::decision::{self, Decision};
use super::mesh::NAMESPACE;
use crate::envoy::{everything_is_acknowledged_by, stat};
use crate::process::Process;
use crate::waymark;

/// What answers.
pub(super) const NAMES: [&str; 2] = ["waymark", "envoy"];
/// Where.
pub(super) const OWN_ADDRESSES: [Ipv4Addr; 2] = [
    Ipv4Addr::new(127, 244, 7, 9),
    Ipv4Addr::new(127, 244, 7, 10),
];
const DEBUG: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 15014);
const MARKER: &str = "127.96.255.1:80";
const MARKER_REQUEST: &[u8] = b"GET / HTTP/1.1\r\nhost: marker\r\n\r\n";
const LIMIT: Duration = Duration::from_secs(20);

pub(super) struct Pair {
    runtime: tokio::runtime::Runtime,
    directory: tempfile::TempDir,
    leaf: Leaf,
    clients: Option<[Client; 2]>,
    rounds: usize,
    waypoints: [Process; 2],
    plane: Process,
    _pods: Vec<Destination>,
}

impl Pair {
    pub(super) fn start(envoy: &Path) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let (mesh, state) = (
            directory.path().join("mesh"),
            directory.path().join("state"),
        );
        fs::create_dir(&mesh).unwrap();
        fs::write(mesh.join("base.yaml"), base()).unwrap();
        let plane = Process::start(
            Command::new(waymark())
                .args(["run", "controlplane", "--no-deploy", "--log-level", "warn"])
                .arg("--mesh-dir")
                .arg(&mesh)
                .arg("--state-dir")
                .arg(&state),
        );
        let token = state.join("tokens/mesh.waypoint");
        until("token of the waypoint", LIMIT, || {
            token.is_file().then_some(())
        });
        let issuer = Issuer::of_mesh(&state);
        let replica = |role: &str, place: usize| {
            let mut command = Command::new(waymark());
            command
                .args([
                    "run",
                    role,
                    "--log-level",
                    "warn",
                    "--xds-address",
                    "127.0.0.1:15012",
                ])
                .args(["--namespace", NAMESPACE, "--gateway", "waypoint"])
                .args([
                    "--service-account",
                    "waypoint",
                    "--name",
                    &format!("waypoint-{place}"),
                ])
                .args(["--address", &OWN_ADDRESSES[place].to_string()])
                .arg("--token-file")
                .arg(&token)
                .arg("--root-cert")
                .arg(state.join("root-cert.pem"));
            command
        };
        let ours = Process::start(&mut replica("waypoint", 0));
        let theirs = Process::start(
            replica("agent", 1)
                .arg("--envoy")
                .arg(envoy)
                .arg("--dir")
                .arg(directory.path().join("agent")),
        );
        let account = issuer.leaf("spiffe://cluster.local/ns/mesh/sa/echo");
        let pods = pods().map(|(name, address, ..)| {
            Destination::echo(SocketAddr::new(address, 15008), &account, name)
        });
        Self {
            runtime: tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap(),
            leaf: issuer.leaf("spiffe://cluster.local/ns/mesh/sa/client"),
            _pods: pods.collect(),
            waypoints: [ours, theirs],
            clients: None,
            rounds: 0,
            directory,
            plane,
        }
    }

    /// Has both serve these manifests beside the basic ones, and nothing else.
    pub(super) fn apply(&mut self, manifests: &str) {
        self.rounds += 1;
        let round = format!("round {}", self.rounds);
        let marker = MARKER_ROUTE.replace("ROUND", &round);
        let file = self.directory.path().join("mesh/round.yaml");
        let new = self.directory.path().join("round.new");
        fs::write(&new, format!("{marker}{manifests}")).unwrap();
        fs::rename(new, file).unwrap();
        self.clients = None;
        // Routes are sent last: whoever has this one has heard of all the rest.
        let mut answers = [Decision::failed(None), Decision::failed(None)];
        let came = until_or(LIMIT, || {
            answers = self.ask(MARKER, MARKER_REQUEST);
            let refused = self.errors();
            assert!(refused.is_empty(), "refused: {refused:#?}\n{manifests}");
            answers.iter().all(|answer| answer.says(&round))
        });
        let [ours, theirs] = answers;
        assert!(came, "want {round:?} of both:\n{ours}{theirs}{manifests}");
        // And Envoy serves a listener only once what it names is there.
        until("nothing is warming", LIMIT, || {
            let warming = [
                "listener_manager.total_listeners_warming",
                "cluster_manager.warming_clusters",
            ];
            warming
                .iter()
                .all(|name| stat(self.admin(1), name) == 0)
                .then_some(())
        });
        for place in 0..2 {
            everything_is_acknowledged_by(DEBUG, &format!("waypoint-{place}"));
        }
    }

    /// What the control plane has against the manifests.
    fn errors(&self) -> Vec<Value> {
        let status = fs::read(self.directory.path().join("state/status.json")).unwrap();
        let status: Value = serde_json::from_slice(&status).unwrap();
        status["errors"].as_array().unwrap().clone()
    }

    /// Sends the same bytes to an address through both.
    pub(super) fn ask(&mut self, to: &str, bytes: &[u8]) -> [Decision; 2] {
        let Self {
            runtime,
            clients,
            leaf,
            ..
        } = self;
        runtime.block_on(async {
            if clients.is_none() {
                let connect = |place: usize| {
                    Client::connect(
                        None,
                        SocketAddr::new(OWN_ADDRESSES[place].into(), 15008),
                        Some(leaf),
                    )
                };
                match (connect(0).await, connect(1).await) {
                    (Ok(ours), Ok(theirs)) => *clients = Some([ours, theirs]),
                    // Not listening yet.
                    (ours, theirs) => {
                        return [ours, theirs].map(|c| Decision::failed(c.err()));
                    }
                }
            }
            let Some([ours, theirs]) = clients else {
                unreachable!("connected above")
            };
            let (ours, theirs) = tokio::join!(
                ours.exchange_until(to, bytes, decision::is_whole),
                theirs.exchange_until(to, bytes, decision::is_whole)
            );
            if ours.is_err() || theirs.is_err() {
                *clients = None;
            }
            [ours, theirs].map(|answer| {
                answer.map_or_else(|e| Decision::failed(Some(e)), |a| Decision::of(&a))
            })
        })
    }

    pub(super) fn admin(&self, place: usize) -> SocketAddr {
        SocketAddr::new(OWN_ADDRESSES[place].into(), 15000)
    }

    /// A path of both admin interfaces, in a file each.
    pub(super) fn dumps(&self, path: &str) -> [tempfile::NamedTempFile; 2] {
        [0, 1].map(|place| {
            let answer = get(None, self.admin(place), path).unwrap();
            assert_eq!(answer.status, 200, "{} {path}", NAMES[place]);
            let file = tempfile::NamedTempFile::new().unwrap();
            fs::write(file.path(), &answer.body).unwrap();
            file
        })
    }

    /// Ends all of it in good order.
    pub(super) fn stop(mut self) {
        self.clients = None;
        // So that its connections are closed, and nobody waits for them.
        self.runtime.block_on(tokio::task::yield_now());
        for waypoint in &mut self.waypoints {
            waypoint.signal(Signal::TERM);
        }
        for waypoint in &mut self.waypoints {
            assert!(waypoint.ended().success());
        }
        self.plane.signal(Signal::TERM);
        assert!(self.plane.ended().success());
    }
}

/// Name, address, labels `app` and `version` of each pod.
fn pods() -> impl Iterator<Item = (&'static str, IpAddr, &'static str, &'static str)> {
    let pod = |(place, name): (u8, &'static str)| {
        let (app, version) = name.split_once('-').expect("app-version");
        (
            name,
            Ipv4Addr::new(127, 244, 10, place).into(),
            app,
            version,
        )
    };
    (1..)
        .zip(["a-v1", "a-v2", "b-v1", "b-v2", "c-v1", "c-v2"])
        .map(pod)
}

fn base() -> String {
    let mut text = BASE.to_owned();
    for (name, address, app, version) in pods() {
        text.push_str(&format!(
            "---
apiVersion: v1
kind: Pod
metadata:
  name: {name}
  namespace: mesh
  labels: {{app: {app}, version: {version}}}
spec:
  serviceAccountName: echo
  containers:
  - {{name: echo, image: echo}}
status: {{podIP: {address}}}
"
        ));
    }
    text
}

const BASE: &str = "apiVersion: v1
kind: Namespace
metadata:
  name: mesh
  labels: {istio.io/dataplane-mode: ambient, istio.io/use-waypoint: waypoint}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: waypoint, namespace: mesh}
spec:
  gatewayClassName: istio-waypoint
  listeners:
  - {name: mesh, port: 15008, protocol: HBONE}
---
apiVersion: v1
kind: Service
metadata: {name: marker, namespace: mesh}
spec:
  clusterIP: 127.96.255.1
  selector: {app: a}
  ports:
  - {name: http, port: 80, targetPort: 8080}
";

const MARKER_ROUTE: &str = "apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: marker, namespace: mesh}
spec:
  hosts: [marker]
  http:
  - directResponse: {status: 200, body: {string: ROUND}}
";
