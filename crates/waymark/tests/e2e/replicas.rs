//! Our waypoint under our control plane, in two replicas, on a real Kubernetes API: what the controllers and the kubelet of a
//! cluster do for the waypoint's pod is done by the test, and nothing else tells the waypoint anything.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::process::{Command, Stdio};

use rustix::process::Signal;
use serde_json::{Value, json};
use waymark_testkit::http::get;
use waymark_testkit::kubernetes::{ApiServer, Crds, Options, Programs, UpstreamCrds, set_running};
use waymark_testkit::netns::{isolated, make_local};
use waymark_testkit::wait::until;
use waymark_testkit::way::Way;

use crate::istiod::{
    LIMIT, NODE, PODS, Shop, a_certificate_is_renewed, acknowledged, deployed, is_ready,
    requests_are_split_and_reach_their_pods, routes_change,
};
use crate::process::Process;
use crate::waymark;

/// A replica, at an address of its own.
struct Replica {
    process: Process,
    debug: SocketAddr,
}

impl Replica {
    fn start(api: &ApiServer, directory: &Path, name: &str, address: &str, debug: u16) -> Self {
        let state = directory.join(format!("controlplane-{name}"));
        let process = Process::start(
            Command::new(waymark())
                .args(["run", "controlplane", "--pod-name", name, "--kubeconfig"])
                .arg(api.kubeconfig())
                .arg("--state-dir")
                .arg(&state)
                .args(["--xds-address", &format!("{address}:15012")])
                .args(["--debug-address", &format!("127.0.0.1:{debug}")])
                .args(["--waypoint-image", "none", "--lease-seconds", "2"])
                // Certificates that are renewed while the test looks on.
                .args(["--waypoint-template", TEMPLATE])
                .stdout(Stdio::null()),
        );
        let debug = SocketAddr::from(([127, 0, 0, 1], debug));
        let replica = Self { process, debug };
        until("the control plane is ready", LIMIT, || {
            let answer = get(None, debug, "/ready").ok()?;
            (answer.status == 200).then_some(())
        });
        replica
    }

    /// What it knows of the proxies that it has; nothing when it is gone.
    fn syncz(&self) -> Vec<Value> {
        let answer = get(None, self.debug, "/debug/syncz").ok();
        let syncz = answer.and_then(|answer| serde_json::from_slice(answer.body.as_ref()).ok());
        syncz
            .as_ref()
            .and_then(Value::as_array)
            .cloned()
            .unwrap_or_default()
    }
}

#[test]
fn our_control_plane_deploys_and_configures_our_waypoint_and_its_replicas_come_and_go() {
    // Fetched and built where there is a network.
    if Programs::find().is_none() || UpstreamCrds::find().is_err() {
        return;
    }
    isolated(|| {
        make_local("10.244.0.0/23");
        let options = Options {
            crds: Crds::UpstreamStandard,
            ..Options::default()
        };
        let api = ApiServer::start(options).expect("found before");
        api.run(&["create", "namespace", "istio-system"]);
        let directory = tempfile::tempdir().unwrap();
        let at = |address: &str| SocketAddr::new(address.parse::<IpAddr>().unwrap(), 15012);
        let service = Way::at(at(NODE), &[at(A), at(B)]);
        let mut a = Replica::start(&api, directory.path(), "a", A, 15014);
        let mut b = Replica::start(&api, directory.path(), "b", B, 15114);
        api.apply(include_str!("istiod.yaml"));
        for (version, address) in PODS {
            let name = format!("reviews-{version}");
            set_running(&api, &json!({"name": name, "namespace": "shop"}), address);
        }
        let mut waypoint = deployed(&api, directory.path());
        is_ready();
        acknowledged(&|| Value::Array([a.syncz(), b.syncz()].concat()));
        let mut shop = Shop::open(&api, directory.path(), waypoint.0.id());

        requests_are_split_and_reach_their_pods(&mut shop);
        a_certificate_is_renewed(&mut shop);
        routes_change(
            &api,
            &|| acknowledged(&|| Value::Array([a.syncz(), b.syncz()].concat())),
            &mut shop,
        );

        // One is told to end, as in a rollout; the other has all clients then.
        service.lead(&[at(B)]);
        a.process.signal(Signal::TERM);
        until("the first replica ends", LIMIT, || {
            shop.split(5);
            a.process.0.try_wait().unwrap()
        });
        only_v1_is_asked(&api, &mut shop);

        // Another takes its place, and the second is killed.
        a = Replica::start(&api, directory.path(), "c", A, 15014);
        service.lead(&[at(A)]);
        b.process.signal(Signal::KILL);
        assert!(!b.process.ended().success());
        both_are_asked(&api, &mut shop);
        acknowledged(&|| Value::Array(a.syncz()));

        assert_eq!(
            shop.connections, 1,
            "nothing disturbed the client's connection"
        );
        waypoint.signal(Signal::TERM);
        assert!(waypoint.ended().success());
    });
}

fn only_v1_is_asked(api: &ApiServer, shop: &mut Shop) {
    set_ready(api, "False");
    until("only v1 is asked", LIMIT, || {
        (shop.split(20).get("v1") == Some(&20)).then_some(())
    });
}

fn both_are_asked(api: &ApiServer, shop: &mut Shop) {
    set_ready(api, "True");
    until("both are asked", LIMIT, || {
        (shop.split(20).len() == 2).then_some(())
    });
}

/// Says whether the pod of v2 is.
fn set_ready(api: &ApiServer, status: &str) {
    let patch = json!({"status": {"conditions": [{"type": "Ready", "status": status}]}});
    api.run(&[
        "patch",
        "pod",
        "reviews-v2",
        "--namespace=shop",
        "--subresource=status",
        "--patch",
        &patch.to_string(),
    ]);
}

const A: &str = "10.244.0.2";
const B: &str = "10.244.0.3";
const TEMPLATE: &str = r#"{"proxyMetadata": {"SECRET_TTL": "12s"}}"#;
