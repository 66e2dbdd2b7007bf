//! Our waypoint under an unmodified istiod on a real Kubernetes API. istiod writes the Deployment of the waypoint; the test
//! does for its pod what controllers and a kubelet do, and nothing else tells the waypoint anything.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::process::Signal;
use serde_json::{Value, json};
use waymark_testkit::hbone::{Client, Destination, Issuer, Opened};
use waymark_testkit::http::get;
use waymark_testkit::kubernetes::{
    ApiServer, Container, Crds, Istiod, Options, Programs, UpstreamCrds, helm, mount_volumes,
    run_pod, set_running,
};
use waymark_testkit::netns::{connect, inside, isolated, make_local};
use waymark_testkit::wait::until;

use crate::process::Process;
use crate::waymark;

pub(crate) const LIMIT: Duration = Duration::from_secs(60);
const POD: &str = "waypoint-7d4b9c-x2x";
const ADDRESS: &str = "10.244.7.9";
/// Where istiod is, and who else is not in a pod of its own.
pub(crate) const NODE: &str = "10.244.0.1";
const REVIEWS: &str = "10.96.7.1:9080";
pub(crate) const PODS: [(&str, &str); 2] = [("v1", "10.244.1.1"), ("v2", "10.244.1.2")];

#[test]
fn an_unmodified_istiod_deploys_and_configures_our_waypoint() {
    // Fetched and built where there is a network.
    let there = Programs::find().is_some() && helm().is_some() && Istiod::find().is_some();
    if !there || UpstreamCrds::find().is_err() {
        return;
    }
    isolated(|| {
        make_local("10.244.0.0/23");
        let options = Options {
            crds: Crds::UpstreamStandard,
            ..Options::default()
        };
        let api = ApiServer::start(options).expect("found before");
        // Certificates that are renewed while the test looks on.
        let ttl = "meshConfig.defaultConfig.proxyMetadata.SECRET_TTL=12s";
        let istiod = Istiod::start(&api, &[ttl]).expect("found before");
        api.apply(include_str!("istiod.yaml"));
        for (version, address) in PODS {
            let name = format!("reviews-{version}");
            set_running(&api, &json!({"name": name, "namespace": "shop"}), address);
        }
        let directory = tempfile::tempdir().unwrap();
        let mut waypoint = deployed(&api, directory.path());
        ready(&istiod);
        let mut shop = Shop::open(&api, directory.path(), waypoint.0.id());

        requests_are_split_and_reach_their_pods(&mut shop);
        a_certificate_is_renewed(&mut shop);
        routes_change(&api, &|| acknowledged(&|| istiod.syncz()), &mut shop);
        endpoints_change(&api, &mut shop);
        acknowledged(&|| istiod.syncz());
        what_concerns_others_costs_nothing(&api, &shop);
        what_is_not_understood_is_refused_by_name(&api, &istiod, &mut shop);

        assert_eq!(
            shop.connections, 1,
            "nothing disturbed the client's connection"
        );
        waypoint.signal(Signal::TERM);
        assert!(waypoint.ended().success());
    });
}

/// Waits for the Deployment that is made for the Gateway, and runs its pod.
pub(crate) fn deployed(api: &ApiServer, directory: &Path) -> Process {
    let (deployment, _) = until("the waypoint is deployed", LIMIT, || {
        let deployment = api.get("deployment", "shop", "waypoint");
        (!deployment.is_null()).then_some(deployment)
    });
    let pod = run_pod(api, &deployment, POD, ADDRESS);
    api.apply(&endpoint_slice(
        "waypoint",
        &[("mesh", 15008), ("status-port", 15021)],
        &[(POD, ADDRESS)],
    ));
    let root = directory.join("root");
    mount_volumes(api, &pod, &root);
    let hosts = directory.join("hosts");
    std::fs::write(
        &hosts,
        format!("127.0.0.1 localhost\n{NODE} istiod.istio-system.svc\n"),
    )
    .unwrap();

    let Container { args, env } = Container::of(&pod);
    let mut command = Command::new("unshare");
    command
        .args(["--mount", "--net", "--", "sh", "-c", CONTAINER, "container"])
        .arg(&hosts)
        .arg(waymark())
        .args(args)
        .env_clear()
        .envs(env)
        .env("PATH", std::env::var_os("PATH").unwrap())
        .env("WAYMARK_POD_ROOT", &root)
        .stdout(Stdio::null());
    // Files that a user without rights can read.
    let readable = Command::new("chmod")
        .arg("-R")
        .arg("a+rX")
        .arg(directory)
        .status();
    assert!(readable.unwrap().success());
    let process = Process::start(&mut command);
    connect(process.0.id(), ADDRESS, NODE);
    process
}

/// Names are resolved as in the cluster; the network is the pod's own, once it is there; the user is the one of the pod's security context, without capabilities, where the
/// test is somebody who can become another.
const CONTAINER: &str = r#"
mount --bind "$1" /etc/hosts || exit 1
shift
until ip -4 -o address show dev eth0 2>/dev/null | grep -q inet && ip route | grep -q default; do sleep 0.02; done
if [ "$(awk 'NR == 1 { print $3 }' /proc/self/uid_map)" -gt 1337 ]; then
  exec setpriv --reuid=1337 --regid=1337 --clear-groups --bounding-set=-all --inh-caps=-all --no-new-privs -- "$@"
fi
exec "$@"
"#;

/// The probe says so, and everything that istiod sent is acknowledged.
fn ready(istiod: &Istiod) {
    is_ready();
    acknowledged(&|| istiod.syncz());
    assert_eq!(istiod.metric("pilot_total_xds_rejects"), 0.0);
}

/// The probe says so.
pub(crate) fn is_ready() {
    let probe: SocketAddr = SocketAddr::new(ADDRESS.parse().unwrap(), 15021);
    until("waypoint is ready", LIMIT, || {
        let answer = get(None, probe, "/healthz/ready").ok()?;
        (answer.status == 200).then_some(())
    });
}

/// The waypoint has accepted what control planes say that they have sent it.
pub(crate) fn acknowledged(syncz: &dyn Fn() -> Value) {
    until("everything is acknowledged", LIMIT, || {
        let syncz = syncz();
        let proxy = syncz.as_array()?.iter().find(|proxy| {
            let name = proxy["proxy"].as_str().unwrap_or_default();
            name == format!("{POD}.shop")
        })?;
        let same = |kind: &str| {
            let sent = &proxy[format!("{kind}_sent")];
            sent.is_string() && *sent == proxy[format!("{kind}_acked")]
        };
        (same("cluster") && same("listener") && same("endpoint")).then_some(())
    });
}

/// A client of the waypoint and the pods behind it.
pub(crate) struct Shop {
    runtime: tokio::runtime::Runtime,
    issuer: Issuer,
    client: Option<Client>,
    pub(crate) connections: usize,
    pods: Vec<Destination>,
    /// The waypoint's process.
    waypoint: u32,
}

impl Shop {
    /// With the cluster's own CA.
    pub(crate) fn open(api: &ApiServer, directory: &Path, waypoint: u32) -> Self {
        let ca = directory.join("ca");
        std::fs::create_dir_all(&ca).unwrap();
        for file in ["ca-cert.pem", "ca-key.pem"] {
            let template = format!("go-template={{{{index .data \"{file}\" | base64decode}}}}");
            let secret = [
                "get",
                "secret",
                "istio-ca-secret",
                "-n",
                "istio-system",
                "-o",
            ];
            let text = api.run(&[&secret[..], &[&template]].concat());
            std::fs::write(ca.join(file), text).unwrap();
        }
        let issuer = Issuer::of_mesh(directory);
        let account = issuer.leaf("spiffe://cluster.local/ns/shop/sa/reviews");
        let pods = PODS.map(|(version, address)| {
            let at = SocketAddr::new(address.parse().unwrap(), 15008);
            Destination::listen(at, &account, version)
        });
        Self {
            runtime: tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap(),
            pods: pods.into(),
            client: None,
            waypoint,
            connections: 0,
            issuer,
        }
    }

    /// The answer to a request for a path of reviews.
    fn get(&mut self, path: &str) -> String {
        let Self {
            runtime,
            issuer,
            client,
            connections,
            ..
        } = self;
        runtime.block_on(async {
            if client.is_none() {
                let leaf = issuer.leaf("spiffe://cluster.local/ns/shop/sa/productpage");
                let to = SocketAddr::new(ADDRESS.parse().unwrap(), 15008);
                *client = Some(Client::connect(None, to, Some(&leaf)).await.unwrap());
                *connections += 1;
            }
            let head =
                format!("GET {path} HTTP/1.1\r\nhost: reviews:9080\r\nconnection: close\r\n\r\n");
            let client = client.as_mut().expect("just made");
            let answer = client
                .exchange(REVIEWS, &[], head.as_bytes())
                .await
                .unwrap();
            String::from_utf8_lossy(&answer).into_owned()
        })
    }

    /// How many of so many requests each version answers.
    pub(crate) fn split(&mut self, n: usize) -> BTreeMap<&'static str, usize> {
        let mut counts = BTreeMap::new();
        for _ in 0..n {
            let answer = self.get("/reviews/0");
            assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
            let version = PODS.iter().find(|(version, _)| answer.ends_with(version));
            *counts.entry(version.expect("a version").0).or_default() += 1;
        }
        counts
    }
}

pub(crate) fn requests_are_split_and_reach_their_pods(shop: &mut Shop) {
    let counts = shop.split(400);
    let v2 = counts.get("v2").copied().unwrap_or_default();
    assert!((15..=70).contains(&v2), "{counts:?}, want about 40 of v2");
    for (pod, (_, address)) in shop.pods.iter().zip(PODS) {
        let want = Opened {
            authority: format!("{address}:8080"),
            peer: "spiffe://cluster.local/ns/shop/sa/waypoint".to_owned(),
        };
        let opened = pod.opened();
        assert!(
            !opened.is_empty() && opened.iter().all(|o| *o == want),
            "{opened:?}"
        );
    }
    // A rule whose subset nobody defines.
    let nowhere = shop.get("/nowhere");
    assert!(nowhere.starts_with("HTTP/1.1 503"), "{nowhere}");
}

/// By the cluster's CA, before the old one ends; no request is lost meanwhile.
pub(crate) fn a_certificate_is_renewed(shop: &mut Shop) {
    let waypoint = shop.waypoint;
    let serial = || {
        let certificates = admin(waypoint, "/certs");
        let chain = &certificates["certificates"][0]["cert_chain"][0];
        chain["serial_number"]
            .as_str()
            .unwrap_or_default()
            .to_owned()
    };
    let first = serial();
    assert!(!first.is_empty());
    until("another certificate", LIMIT, || {
        shop.split(5);
        let now = serial();
        (!now.is_empty() && now != first).then_some(())
    });
}

pub(crate) fn routes_change(api: &ApiServer, acknowledged: &dyn Fn(), shop: &mut Shop) {
    let patch = json!([{"op": "replace", "path": "/spec/http/1/route", "value": [
        {"destination": {"host": "reviews", "subset": "v2"}},
    ]}]);
    api.run(&[
        "patch",
        "virtualservice",
        "reviews",
        "-n",
        "shop",
        "--type=json",
        "--patch",
        &patch.to_string(),
    ]);
    until("the new routes are in force", LIMIT, || {
        let counts = shop.split(20);
        (counts.get("v2") == Some(&20)).then_some(())
    });
    acknowledged();
    // Without rules for the service all pods have a share of it.
    api.run(&["delete", "virtualservice", "reviews", "-n", "shop"]);
    until("both versions are asked", LIMIT, || {
        (shop.split(20).len() == 2).then_some(())
    });
}

fn endpoints_change(api: &ApiServer, shop: &mut Shop) {
    let ports = [("http", 8080)];
    let [v1, v2] = PODS.map(|(version, address)| (format!("reviews-{version}"), address));
    api.apply(&endpoint_slice("reviews", &ports, &[(&v1.0, v1.1)]));
    until("only v1 is asked", LIMIT, || {
        (shop.split(20).get("v1") == Some(&20)).then_some(())
    });
    api.apply(&endpoint_slice("reviews", &ports, &[]));
    until("nobody is left to ask", LIMIT, || {
        shop.get("/").starts_with("HTTP/1.1 503").then_some(())
    });
    api.apply(&endpoint_slice(
        "reviews",
        &ports,
        &[(&v1.0, v1.1), (&v2.0, v2.1)],
    ));
    until("both are back", LIMIT, || {
        let back = shop.get("/").starts_with("HTTP/1.1 200");
        (back && shop.split(20).len() == 2).then_some(())
    });
}

/// istiod pushes all clusters and listeners to every waypoint whatever changes in whatever namespace: what is the same is
/// recognised, and nothing is done.
fn what_concerns_others_costs_nothing(api: &ApiServer, shop: &Shop) {
    let figures = || -> BTreeMap<String, u64> {
        let filter = "/stats?format=json&filter=^waymark_config|lds.update_success";
        let stats = admin(shop.waypoint, filter);
        let stats = stats["stats"].as_array().unwrap().iter();
        stats
            .map(|s| {
                (
                    s["name"].as_str().unwrap().to_owned(),
                    s["value"].as_u64().unwrap(),
                )
            })
            .collect()
    };
    let (pushes, unchanged) = (
        "listener_manager.lds.update_success",
        "waymark_config.unchanged",
    );
    let before = figures();
    assert!(
        before["waymark_config.listeners_decoded"] >= 5,
        "{before:?}"
    );
    api.apply(ELSEWHERE);
    let (mut after, _) = until("istiod pushes all listeners", LIMIT, || {
        let now = figures();
        (now[pushes] > before[pushes]).then_some(now)
    });
    assert!(
        after[unchanged] >= before[unchanged] + 10,
        "{before:?} {after:?}"
    );
    for name in [pushes, unchanged] {
        after.insert(name.to_owned(), before[name]);
    }
    assert_eq!(after, before);
}

/// What a policy would do is not done, and istiod is told which field it is; what was there before keeps serving.
fn what_is_not_understood_is_refused_by_name(api: &ApiServer, istiod: &Istiod, shop: &mut Shop) {
    api.apply(HASH_POLICY);
    until("istiod is refused", LIMIT, || {
        (istiod.metric("pilot_total_xds_rejects") > 0.0).then_some(())
    });
    let listeners = admin(shop.waypoint, "/config_dump?resource=dynamic_listeners");
    let states = listeners["configs"].as_array().unwrap();
    let error = states
        .iter()
        .find_map(|state| state["error_state"]["details"].as_str());
    let error = error.expect("an error state");
    assert!(error.contains("hash_policy"), "{error}");
    shop.split(20);
    api.run(&["delete", "destinationrule", "ratings", "-n", "shop"]);
    acknowledged(&|| istiod.syncz());
}

/// What the waypoint's admin interface says, inside the pod.
fn admin(waypoint: u32, path: &str) -> Value {
    let url = format!("http://127.0.0.1:15000{path}");
    let output = inside(waypoint)
        .args(["curl", "-sf", &url])
        .output()
        .unwrap();
    assert!(output.status.success(), "{url}");
    serde_json::from_slice(&output.stdout).unwrap()
}

fn endpoint_slice(service: &str, ports: &[(&str, u16)], pods: &[(&str, &str)]) -> String {
    let port = |(name, port): &(&str, u16)| json!({"name": name, "port": port, "protocol": "TCP"});
    let endpoint = |(name, address): &(&str, &str)| {
        assert!(address.parse::<IpAddr>().is_ok());
        json!({
            "addresses": [address],
            "conditions": {"ready": true},
            "nodeName": "node-1",
            "targetRef": {"kind": "Pod", "name": name, "namespace": "shop"},
        })
    };
    json!({
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": format!("{service}-1"),
            "namespace": "shop",
            "labels": {"kubernetes.io/service-name": service},
        },
        "addressType": "IPv4",
        "ports": ports.iter().map(port).collect::<Vec<_>>(),
        "endpoints": pods.iter().map(endpoint).collect::<Vec<_>>(),
    })
    .to_string()
}

const ELSEWHERE: &str = "apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: elsewhere, namespace: default}
spec:
  hosts: [elsewhere.example]
  http:
  - route: [{destination: {host: elsewhere.example}}]
";

const HASH_POLICY: &str = "apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: ratings, namespace: shop}
spec:
  host: ratings
  trafficPolicy:
    loadBalancer: {consistentHash: {httpHeaderName: x-user}}
";
