//! A waypoint that the control plane deploys, with traffic from a pod whose node proxy speaks HBONE.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::Value;
use waymark_testkit::http::get;
use waymark_testkit::kubernetes::{ApiServer, Cluster};
use waymark_testkit::netns::inside;
use waymark_testkit::wait::{until, until_or};

use crate::bookinfo::{address, manifests};
use crate::{IMAGE, LIMIT, cluster};

const GATEWAY: &str = "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\n\
    metadata: { name: waypoint, namespace: shop }\n\
    spec: { gatewayClassName: istio-waypoint, listeners: [{ name: mesh, port: 15008, protocol: HBONE }] }\n";

#[test]
fn a_gateway_becomes_a_waypoint_that_splits_and_outlives_a_control_plane() {
    let Some(cluster) = cluster() else { return };
    let api = cluster.api();
    if !install(api) {
        return;
    }
    api.apply(&manifests("shop").replace("redirection: enabled", "redirection: disabled"));
    api.apply(
        &include_str!("../../../../examples/bookinfo/reviews-routing.yaml")
            .replace("default", "shop"),
    );
    api.run(&[
        "label",
        "namespace",
        "shop",
        "istio.io/use-waypoint=waypoint",
    ]);
    cluster.wait(
        "istio-system",
        &["deployment/istiod"],
        "condition=Available",
    );
    api.apply(GATEWAY);
    cluster.wait("shop", &["gateway/waypoint"], "condition=Programmed");
    cluster.wait("shop", &["deployment/waypoint"], "condition=Available");
    is_as_specified(api);

    let page = client(cluster);
    let counts = split(page, 300);
    let v2 = counts.get("reviews-v2").copied().unwrap_or(0);
    let v1 = counts.get("reviews-v1").copied().unwrap_or(0);
    assert_eq!(v1 + v2, 300, "{counts:?}");
    // 30 of 300 are expected, with a standard deviation of 5.2.
    assert!((9..=52).contains(&v2), "{counts:?}");

    a_replica_is_killed(cluster, page);

    api.run(&["delete", "gateway", "waypoint", "--namespace", "shop"]);
    cluster.wait(
        "shop",
        &[
            "deployment/waypoint",
            "service/waypoint",
            "serviceaccount/waypoint",
        ],
        "delete",
    );
}

/// Installs the chart, with two replicas of the control plane, which believe the client pod's node proxy; whether there is a
/// helm to do it with.
fn install(api: &ApiServer) -> bool {
    let Some(mut helm) = api.helm() else {
        return false;
    };
    let chart = concat!(env!("CARGO_MANIFEST_DIR"), "/../../deploy/helm/waymark");
    let (repository, tag) = IMAGE.rsplit_once(':').unwrap();
    helm.args(["install", "waymark", chart, "--skip-crds"])
        .args(["--namespace", "istio-system", "--create-namespace"])
        .args([
            "--set",
            &format!("image.repository={repository},image.tag={tag}"),
        ])
        .args([
            "--set",
            "controlPlane.env[0].name=WAYMARK_CONTROLPLANE_NODE_ACCOUNTS",
        ])
        .args([
            "--set",
            "controlPlane.env[0].value=shop/bookinfo-productpage",
        ]);
    let output = helm.output().unwrap();
    let why = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{why}");
    true
}

/// What was made for the Gateway is its own, and its pod has no rights.
fn is_as_specified(api: &ApiServer) {
    let gateway = api.get("gateway", "shop", "waypoint");
    for kind in ["deployment", "service", "serviceaccount"] {
        let object = api.get(kind, "shop", "waypoint");
        let owner = &object["metadata"]["ownerReferences"][0];
        assert_eq!(owner["uid"], gateway["metadata"]["uid"], "{kind}");
    }
    let pods: Value = serde_json::from_str(&api.run(&[
        "get",
        "pods",
        "--namespace",
        "shop",
        "-o",
        "json",
        "--selector",
        "gateway.networking.k8s.io/gateway-name=waypoint",
    ]))
    .unwrap();
    let context = &pods["items"][0]["spec"]["containers"][0]["securityContext"];
    assert_eq!(context["runAsNonRoot"], true);
    assert_eq!(context["readOnlyRootFilesystem"], true);
    assert_eq!(context["capabilities"]["drop"][0], "ALL");
}

/// Starts the pod that calls reviews, and has what it sends there taken by its node proxy; where the page is.
fn client(cluster: &Cluster) -> SocketAddr {
    let api = cluster.api();
    api.apply(&include_str!("client.yaml").replace("IMAGE", IMAGE));
    cluster.wait("shop", &["pod/client"], "condition=Ready");
    let reviews = address(api, "shop", "reviews").ip();
    let mut local = inside(cluster.process_of("shop", "client"));
    local.args([
        "ip",
        "address",
        "add",
        &format!("{reviews}/32"),
        "dev",
        "lo",
    ]);
    assert!(local.status().unwrap().success());
    let ip = api.get("pod", "shop", "client")["status"]["podIP"].clone();
    let page = format!("{}:9080", ip.as_str().unwrap()).parse().unwrap();
    let answers = until_or(LIMIT, || reviewed(page).is_ok());
    assert!(
        answers,
        "{:?}\n{}",
        reviewed(page),
        cluster.state_of("shop")
    );
    page
}

/// Ends one replica without warning while requests go on: none is lost, and a change still arrives.
fn a_replica_is_killed(cluster: &Cluster, page: SocketAddr) {
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let load = scope.spawn(|| {
            let mut sent = 0;
            while !over.load(Ordering::Relaxed) {
                reviewed(page).unwrap();
                sent += 1;
            }
            sent
        });
        let api = cluster.api();
        let holder = api.get("lease", "istio-system", "waymark-leader-default");
        let leader = holder["spec"]["holderIdentity"].as_str().unwrap();
        let pods = api.run(&["get", "pods", "--namespace", "istio-system", "-o", "name"]);
        let leader = pods
            .lines()
            .find(|pod| leader.contains(pod.trim_start_matches("pod/")))
            .expect("a replica leads");
        api.run(&[
            "delete",
            leader,
            "--namespace",
            "istio-system",
            "--grace-period=0",
            "--force",
        ]);
        api.run(&[
            "patch",
            "virtualservice",
            "reviews",
            "--namespace",
            "shop",
            "--type=json",
            "--patch",
            r#"[{"op": "replace", "path": "/spec/http/0/route/0/weight", "value": 0},
                {"op": "replace", "path": "/spec/http/0/route/1/weight", "value": 100}]"#,
        ]);
        until("only v2", LIMIT, || {
            let counts = split(page, 20);
            (counts.get("reviews-v2") == Some(&20)).then_some(())
        });
        over.store(true, Ordering::Relaxed);
        assert!(load.join().unwrap() > 0);
    });
}

fn split(page: SocketAddr, n: usize) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for _ in 0..n {
        *counts.entry(reviewed(page).unwrap()).or_default() += 1;
    }
    counts
}

/// Which pod answered for reviews.
fn reviewed(page: SocketAddr) -> Result<String, String> {
    let answer = get(None, page, "/api/v1/products/0/reviews").map_err(|e| e.to_string())?;
    let by = answer.json()["podname"].as_str().map(str::to_owned);
    by.ok_or_else(|| format!("{} {}", answer.status, answer.json()))
}
