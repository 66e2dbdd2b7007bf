//! A waypoint that has nothing but the environment and the files of a pod, as istiod deploys it: under our control plane,
//! and under a replay of what a control plane sent.

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustix::process::Signal;
use waymark_testkit::hbone::{Client, Destination, DialError, Issuer, Opened};
use waymark_testkit::http::{Connection, get};
use waymark_testkit::netns::isolated;
use waymark_testkit::wait::until;

use crate::process::Process;
use crate::{block_on, waymark};

const NODE: &str = "waypoint~127.244.7.9~waypoint-7d4b-x2x.shop~shop.svc.cluster.local";
const LIMIT: Duration = Duration::from_secs(20);

/// The volumes of a pod.
fn volumes(root: &Path, root_cert: &Path, token: &Path) {
    let file = |path: &str| {
        let path = root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        path
    };
    fs::copy(root_cert, file("var/run/secrets/istio/root-cert.pem")).unwrap();
    fs::copy(token, file("var/run/secrets/tokens/istio-token")).unwrap();
    let labels = "gateway.istio.io/managed=\"istio.io-mesh-controller\"\n\
         gateway.networking.k8s.io/gateway-class-name=\"istio-waypoint\"\n\
         gateway.networking.k8s.io/gateway-name=\"waypoint\"\npod-template-hash=\"7d4b\"";
    fs::write(file("etc/istio/pod/labels"), labels).unwrap();
    let annotations = "prometheus.io/port=\"15020\"\nistio.io/rev=\"default\"";
    fs::write(file("etc/istio/pod/annotations"), annotations).unwrap();
}

/// The container of a waypoint: nothing of the test's own environment.
fn container(root: &Path, istiod: &str) -> Command {
    let mut command = Command::new(waymark());
    command.env_clear().envs([
        ("CA_ADDR", istiod),
        ("ISTIOD_SAN", "istiod.istio-system.svc"),
        ("PILOT_CERT_PROVIDER", "istiod"),
        ("PROXY_CONFIG", r#"{"terminationDrainDuration":"1s"}"#),
        ("POD_NAME", "waypoint-7d4b-x2x"),
        ("POD_NAMESPACE", "shop"),
        ("INSTANCE_IP", "127.244.7.9"),
        ("SERVICE_ACCOUNT", "waypoint"),
        ("TRUST_DOMAIN", "cluster.local"),
        ("ISTIO_CPU_LIMIT", "1"),
        ("ISTIO_META_SERVICE_ACCOUNT", "waypoint"),
        ("ISTIO_META_NODE_NAME", "node-2"),
        ("ISTIO_META_CLUSTER_ID", "Kubernetes"),
        ("ISTIO_META_INTERCEPTION_MODE", "REDIRECT"),
        ("ISTIO_META_WORKLOAD_NAME", "waypoint"),
        ("ISTIO_META_MESH_ID", "cluster.local"),
        (
            "ISTIO_META_OWNER",
            "kubernetes://apis/apps/v1/namespaces/shop/deployments/waypoint",
        ),
    ]);
    command.env("WAYMARK_POD_ROOT", root);
    command
}

fn at(address: &str) -> SocketAddr {
    address.parse().unwrap()
}

fn ready(readiness: &str) {
    let ask = || (get(None, at(readiness), "/healthz/ready").ok()?.status == 200).then_some(());
    until("waypoint is ready", LIMIT, ask);
}

fn post(to: &str, path: &str) -> (u16, String) {
    let answer = Connection::open(None, at(to))
        .unwrap()
        .request("POST", path, &[], b"")
        .unwrap();
    (answer.status, String::from_utf8(answer.body).unwrap())
}

/// Under our control plane, as istio-proxy: returns what it was sent, as a capture.
fn captured(dir: &Path, state: &Path) -> serde_json::Value {
    let manifests = dir.join("mesh");
    fs::create_dir(&manifests).unwrap();
    fs::write(manifests.join("shop.yaml"), include_str!("pod.yaml")).unwrap();
    let mut plane = Process::start(
        Command::new(waymark())
            .args(["run", "controlplane", "--no-deploy", "--log-level", "warn"])
            .arg("--mesh-dir")
            .arg(&manifests)
            .arg("--state-dir")
            .arg(state),
    );
    let token = state.join("tokens/shop.waypoint");
    until("token of the waypoint", LIMIT, || {
        token.is_file().then_some(())
    });
    let root = dir.join("pod");
    volumes(&root, &state.join("root-cert.pem"), &token);
    let mut waypoint = Process::start(container(&root, "127.0.0.1:15012").args([
        "proxy",
        "waypoint",
        "--domain",
        "shop.svc.cluster.local",
        "--serviceCluster",
        "waypoint.shop",
        "--proxyLogLevel",
        "warning",
        "--proxyComponentLogLevel",
        "misc:error",
        "--log_output_level",
        "default:warn",
    ]));
    ready("127.244.7.9:15021");

    // Admin is for the pod alone; metrics are on every address.
    assert!(get(None, at("127.244.7.9:15000"), "/").is_err());
    assert_eq!(
        get(None, at("127.0.0.1:15000"), "/ready").unwrap().status,
        200
    );
    for port in [15020, 15090] {
        let to = SocketAddr::new("127.244.7.9".parse().unwrap(), port);
        assert_eq!(get(None, to, "/stats/prometheus").unwrap().status, 200);
    }
    let path = "/debug/config_dump?include_eds&proxyID=waypoint-7d4b-x2x.shop";
    let dump = get(None, at("127.0.0.1:15014"), path).unwrap();
    assert_eq!(dump.status, 200);
    let dump = dump.json();

    assert_eq!(
        get(None, at("127.0.0.1:15020"), "/quitquitquit")
            .unwrap()
            .status,
        405
    );
    assert_eq!(
        post("127.0.0.1:15020", "/quitquitquit"),
        (200, "OK".to_owned())
    );
    assert!(waypoint.ended().success());
    plane.signal(Signal::TERM);
    assert!(plane.ended().success());
    capture(&dump)
}

/// A control plane's dump, as a capture.
fn capture(dump: &serde_json::Value) -> serde_json::Value {
    let mut node = serde_json::json!({
        "node": {"metadata": {"NAMESPACE": "shop", "SERVICE_ACCOUNT": "waypoint"}},
    });
    for (list, wrapped, kind, name) in [
        ("dynamic_active_clusters", "/cluster", "Cluster", "name"),
        (
            "dynamic_listeners",
            "/active_state/listener",
            "Listener",
            "name",
        ),
        (
            "dynamic_endpoint_configs",
            "/endpoint_config",
            "ClusterLoadAssignment",
            "cluster_name",
        ),
    ] {
        let sections = dump["configs"].as_array().unwrap();
        for entry in sections.iter().filter_map(|s| s[list].as_array()).flatten() {
            let resource = entry.pointer(wrapped).unwrap().clone();
            let name = resource[name].as_str().unwrap().to_owned();
            node[kind][name] = resource;
        }
    }
    // What istiod sends besides: clusters that nothing refers to, some without an assignment.
    let orphan = node["Cluster"]["inbound-vip|80|http|idle.shop.svc.cluster.local"].clone();
    assert!(orphan.is_object());
    for name in [
        "outbound|80||orphan.shop.svc.cluster.local",
        "outbound|81||orphan.shop.svc.cluster.local",
    ] {
        let mut cluster = orphan.clone();
        cluster["name"] = name.into();
        cluster["eds_cluster_config"]["service_name"] = name.into();
        node["Cluster"][name] = cluster;
    }
    serde_json::json!({"nodes": {NODE: node}})
}

/// Serves a capture; the lines that it prints.
fn replay(file: &Path, ca: &Path) -> (Process, Arc<Mutex<Vec<String>>>) {
    let mut process = Process::start(
        Command::new(waymark())
            .args(["x", "serve-capture", "--repeat", "1"])
            .arg(file)
            .arg("--ca-dir")
            .arg(ca)
            .stdout(Stdio::piped()),
    );
    let lines = Arc::new(Mutex::new(Vec::new()));
    let (told, output) = (Arc::clone(&lines), process.0.stdout.take().unwrap());
    std::thread::spawn(move || {
        for line in BufReader::new(output).lines().map_while(Result::ok) {
            told.lock().unwrap().push(line);
        }
    });
    (process, lines)
}

/// What configuration has cost so far, and how many resources were recognised as unchanged.
fn cost(admin: &str) -> (String, u64) {
    let answer = get(None, at(admin), "/stats?filter=waymark_config").unwrap();
    let text = String::from_utf8(answer.body).unwrap();
    let (unchanged, cost): (Vec<&str>, Vec<&str>) =
        text.lines().partition(|line| line.contains(".unchanged"));
    let unchanged = unchanged[0].rsplit(' ').next().unwrap().parse().unwrap();
    (cost.join("\n"), unchanged)
}

async fn request(client: &mut Client, path: &str) -> Result<String, DialError> {
    let head = format!("GET {path} HTTP/1.1\r\nhost: reviews:9080\r\nconnection: close\r\n\r\n");
    let answer = client
        .exchange("127.96.7.1:9080", &[], head.as_bytes())
        .await?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

#[test]
fn a_pods_waypoint_serves_what_a_control_plane_replays() {
    isolated(|| {
        let dir = tempfile::tempdir().unwrap();
        let state = dir.path().join("state");
        let file = dir.path().join("shop.json");
        fs::write(&file, captured(dir.path(), &state).to_string()).unwrap();

        let ca = state.join("ca");
        let (mut plane, lines) = replay(&file, &ca);
        let count = |what: &str| {
            lines
                .lock()
                .unwrap()
                .iter()
                .filter(|l| l.starts_with(what))
                .count()
        };
        until("replay listens", LIMIT, || {
            (count("listening") == 1).then_some(())
        });
        let token: PathBuf = ca.join("tokens/shop.waypoint");
        let root = dir.path().join("pod");
        volumes(&root, &ca.join("root-cert.pem"), &token);
        // Destinations are on this machine's 15008 too, so this one listens on its own address only.
        let mut waypoint = Process::start(container(&root, "127.0.0.1:15012").args([
            "run",
            "waypoint",
            "--bind",
            "127.244.7.9",
            "--log-level",
            "warn",
        ]));
        ready("127.244.7.9:15021");

        let issuer = Issuer::of_mesh(&state);
        let reviews = issuer.leaf("spiffe://cluster.local/ns/shop/sa/reviews");
        let pods = [("127.244.7.1", "v1"), ("127.244.7.2", "v2")].map(|(address, name)| {
            let address: IpAddr = address.parse().unwrap();
            (
                address,
                Destination::listen(SocketAddr::new(address, 15008), &reviews, name),
            )
        });
        let leaf = issuer.leaf("spiffe://cluster.local/ns/shop/sa/productpage");
        block_on(async {
            let mut client = Client::connect(None, at("127.244.7.9:15008"), Some(&leaf))
                .await
                .unwrap();
            let mut v2 = 0;
            for _ in 0..200 {
                let answer = request(&mut client, "/reviews/0").await.unwrap();
                assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
                v2 += usize::from(answer.ends_with("v2"));
            }
            assert!((5..=40).contains(&v2), "{v2} of 200 to v2, want about 20");
            // A subset that is not there.
            let nowhere = request(&mut client, "/nowhere").await.unwrap();
            assert!(nowhere.starts_with("HTTP/1.1 503"), "{nowhere}");

            // The same once more, and once more: nothing is refused, no connection is disturbed, and nothing is done.
            let (cost, unchanged) = cost("127.244.7.9:15000");
            assert!(
                cost.contains("waymark_config.listeners_decoded: "),
                "{cost}"
            );
            let before = count("accepted: Listener");
            until("pushed twice more", LIMIT, || {
                (count("accepted: Listener") >= before + 2).then_some(())
            });
            let (cost_now, unchanged_now) = self::cost("127.244.7.9:15000");
            assert_eq!(cost_now, cost);
            assert!(
                unchanged_now >= unchanged + 2 * 5,
                "{unchanged_now} of {unchanged}"
            );
            assert!(
                request(&mut client, "/reviews/0")
                    .await
                    .unwrap()
                    .starts_with("HTTP/1.1 200")
            );
        });
        for (address, pod) in &pods {
            let opened = pod.opened();
            assert!(!opened.is_empty());
            let want = Opened {
                authority: format!("{address}:8080"),
                peer: "spiffe://cluster.local/ns/shop/sa/waypoint".to_owned(),
            };
            assert!(opened.iter().all(|o| *o == want), "{opened:?}");
        }
        let told = lines.lock().unwrap().clone();
        assert!(
            told.iter()
                .any(|l| *l == format!("connected: {NODE}, as {NODE}")),
            "{told:?}"
        );
        assert!(!told.iter().any(|l| l.starts_with("refused")), "{told:?}");
        let ignored = get(None, at("127.244.7.9:15000"), "/x/ignored").unwrap();
        assert_eq!(ignored.status, 200);

        waypoint.signal(Signal::TERM);
        assert!(waypoint.ended().success());
        plane.signal(Signal::INT);
        assert!(plane.ended().success());
    });
}
