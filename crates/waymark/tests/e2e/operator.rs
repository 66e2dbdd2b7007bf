//! The operator's commands on a cluster: a real API server whose one node is the test (`testkit::kubernetes::Forwarder`).

use std::io::ErrorKind;
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use serde_json::{Value, json};
use waymark_testkit::kubernetes::{
    ApiServer, Crds, Forwarder, Options, Programs, UpstreamCrds, set_running,
};
use waymark_testkit::mesh::Mesh;
use waymark_testkit::netns::isolated;
use waymark_testkit::wait::until;

use crate::{WAYPOINT, waymark};

const LIMIT: Duration = Duration::from_secs(60);
const GATEWAY: &str = "bookinfo-reviews";

/// Whether an API server can be had; asked where there is a network.
fn there_is_kubernetes() -> bool {
    Programs::find().is_some() && UpstreamCrds::find().is_ok()
}

fn api_server() -> ApiServer {
    let options = Options {
        crds: Crds::UpstreamStandard,
        ..Options::default()
    };
    ApiServer::start(options).expect("found before")
}

/// The program, as somebody whose home is empty runs it.
fn command(home: &Path, kubeconfig: &Path) -> Command {
    let mut command = Command::new(waymark());
    command
        .env_clear()
        .env("HOME", home)
        .env("PATH", std::env::var_os("PATH").unwrap())
        .arg("--kubeconfig")
        .arg(kubeconfig);
    command
}

fn output_of(output: &Output) -> String {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn error_of(output: &Output) -> String {
    assert!(!output.status.success(), "{output:?}");
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// A Pod of a Node that runs.
fn pod(api: &ApiServer, namespace: &str, name: &str, labels: &Value) {
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "namespace": namespace, "labels": labels},
        "spec": {"nodeName": "node-1", "containers": [{"name": "c", "image": "i"}]},
    });
    api.apply(&pod.to_string());
    set_running(api, &pod["metadata"], "10.244.9.9");
}

/// Puts into the API server what the mesh on this machine consists of: its proxies and control plane as Pods, the Gateway with
/// the status that its own control plane gives it.
fn mirror(api: &ApiServer, mesh: &Mesh) {
    api.apply(
        "apiVersion: v1\nkind: Namespace\nmetadata: { name: istio-system }\n---\n\
         apiVersion: v1\nkind: ServiceAccount\nmetadata: { name: default, namespace: istio-system }\n---\n\
         apiVersion: v1\nkind: ServiceAccount\nmetadata: { name: default, namespace: default }\n",
    );
    pod(
        api,
        "istio-system",
        "waymark",
        &json!({"app": "istiod", "istio.io/rev": "default"}),
    );
    pod(
        api,
        "istio-system",
        "waymark-node",
        &json!({"app": "ztunnel"}),
    );
    pod(
        api,
        "default",
        "productpage-v1",
        &json!({"app": "productpage"}),
    );
    let labels = json!({"gateway.networking.k8s.io/gateway-name": GATEWAY});
    pod(api, "default", &format!("{WAYPOINT}-0"), &labels);
    api.apply(&json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": WAYPOINT, "namespace": "default"},
        "spec": {"selector": {"matchLabels": labels}, "template": {
            "metadata": {"labels": labels}, "spec": {"containers": [{"name": "c", "image": "i"}]}}},
    }).to_string());
    api.apply(&format!(
        "apiVersion: gateway.networking.k8s.io/v1beta1\nkind: Gateway\n\
         metadata: {{ name: {GATEWAY}, namespace: default, annotations: {{ istio.io/for-service-account: {GATEWAY} }} }}\n\
         spec: {{ gatewayClassName: istio-waypoint, listeners: [{{ name: mesh, port: 15008, protocol: HBONE }}] }}\n"
    ));
    let bytes = std::fs::read(mesh.state().join("status.json")).unwrap();
    let statuses: Value = serde_json::from_slice(&bytes).unwrap();
    let of = statuses["gateways"].as_array().unwrap();
    let of = of.iter().find(|g| g["name"] == GATEWAY).unwrap();
    let status = json!({"conditions": of["conditions"], "addresses": of["addresses"]});
    set_status(api, "default", GATEWAY, &status);
}

fn set_status(api: &ApiServer, namespace: &str, gateway: &str, status: &Value) {
    let patch = json!({ "status": status }).to_string();
    api.run(&[
        "patch",
        "gateway",
        gateway,
        "--namespace",
        namespace,
        "--subresource=status",
        "--type=merge",
        "--patch",
        &patch,
    ]);
}

#[test]
fn commands_print_of_a_cluster_what_they_print_of_a_machine() {
    if !there_is_kubernetes() {
        return;
    }
    isolated(|| {
        let mesh = Mesh::bookinfo(waymark());
        let _ = mesh.split(Some("productpage-v1"), mesh.service("reviews"), 10);
        let api = api_server();
        mirror(&api, &mesh);
        let address = |text: &Value| text.as_str().unwrap().parse::<SocketAddr>().unwrap();
        let current = mesh.current();
        let ports = [
            (
                format!("{WAYPOINT}-0"),
                15000,
                mesh.waypoint_admin(WAYPOINT),
            ),
            ("waymark".to_owned(), 15014, mesh.debug()),
            (
                "waymark-node".to_owned(),
                15000,
                address(&current["node"]["admin"]),
            ),
        ];
        let _node = Forwarder::start(&api, "node-1", move |_, pod, port| {
            let at = ports
                .iter()
                .find(|(name, of, _)| name == pod && *of == port);
            at.map_or_else(
                || Err(ErrorKind::ConnectionRefused.into()),
                |(_, _, at)| TcpStream::connect(at),
            )
        });
        let home = tempfile::tempdir().unwrap();
        let kubeconfig = api.kubeconfig();
        let target = format!("deploy/{WAYPOINT}");
        let on_cluster = |args: &[&str]| {
            command(home.path(), &kubeconfig)
                .args(args)
                .output()
                .unwrap()
        };

        for line in SAME {
            let args: Vec<&str> = line
                .split(' ')
                .map(|word| {
                    if word == "TARGET" {
                        target.as_str()
                    } else {
                        word
                    }
                })
                .collect();
            let there = output_of(&on_cluster(&args));
            assert_eq!(there, mesh.cli_ok(&args), "{line}");
            assert!(!there.is_empty(), "{line}");
        }

        let error = error_of(&on_cluster(&["proxy-config", "listener", "deploy/none"]));
        assert!(
            error.contains("failed retrieving: deployments.apps \"none\" not found in the \"default\" namespace"),
            "{error}"
        );
        let error = error_of(&on_cluster(&[
            "pc",
            "c",
            &target,
            "--proxy-admin-port",
            "15001",
        ]));
        assert!(
            error.contains("failure running port forward process"),
            "{error}"
        );
        let revision = on_cluster(&["ps", "--revision", "other"]);
        assert!(
            error_of(&revision).contains("no running Istio pods in \"istio-system\""),
            "{revision:?}"
        );
        what_is_missing_is_named(&api, home.path(), &target);
    });
}

/// Commands of the article of 2023 word for word but for the name, and those of today.
const SAME: &[&str] = &[
    "proxy-config listener TARGET --waypoint",
    "proxy-config clusters TARGET",
    "proxy-config cluster TARGET --direction inbound-vip",
    "proxy-config routes TARGET",
    "proxy-config routes TARGET --name inbound-vip|9080|http|reviews.default.svc.cluster.local -o yaml",
    "proxy-config endpoints TARGET",
    "proxy-config secret TARGET",
    "proxy-config bootstrap TARGET",
    "proxy-config listeners gateway/bookinfo-reviews",
    "proxy-config log TARGET",
    "pc all TARGET --with-headers",
    "proxy-status",
    "proxy-status -n default",
    "proxy-status TARGET",
    "experimental proxy-status -o json",
    "version",
    "version -o json",
    "waypoint list -A",
    "waypoint list -o json",
    "waypoint status",
    "experimental waypoint list -A",
    "analyze distribution",
    "ztunnel-config workload",
    "zc workload productpage-v1 -o yaml",
    "zc service",
    "zc service --service-namespace default -o json",
    "zc policy",
    "zc certificate",
    "zc connections --raw",
    "zc log",
];

/// Somebody who may read, but not all that a command takes, is told what is missing.
fn what_is_missing_is_named(api: &ApiServer, home: &Path, target: &str) {
    api.apply(
        "apiVersion: v1\nkind: ServiceAccount\nmetadata: { name: reader, namespace: default }\n---\n\
         apiVersion: rbac.authorization.k8s.io/v1\nkind: Role\nmetadata: { name: reader, namespace: default }\n\
         rules: [{ apiGroups: [apps, ''], resources: [deployments, pods], verbs: [get, list] }]\n---\n\
         apiVersion: rbac.authorization.k8s.io/v1\nkind: RoleBinding\nmetadata: { name: reader, namespace: default }\n\
         roleRef: { apiGroup: rbac.authorization.k8s.io, kind: Role, name: reader }\n\
         subjects: [{ kind: ServiceAccount, name: reader, namespace: default }]\n",
    );
    let kubeconfig = api.kubeconfig_of("default", "reader");
    for (args, want) in [
        (
            vec!["proxy-config", "listener", target],
            "no access to pods/portforward in namespace default: the verb get, create is missing",
        ),
        (
            vec!["waypoint", "list"],
            "cannot list resource \"gateways\" in API group \"gateway.networking.k8s.io\" in the namespace \"default\"",
        ),
        (
            vec!["proxy-status"],
            "cannot list resource \"pods\" in API group \"\" in the namespace \"istio-system\"",
        ),
    ] {
        let error = error_of(&command(home, &kubeconfig).args(&args).output().unwrap());
        assert!(error.contains(want), "{args:?}: {error}");
    }
    // Who may act as somebody else may see what that one sees.
    let mut as_reader = command(home, &api.kubeconfig());
    as_reader.args([
        "--as",
        "system:serviceaccount:default:reader",
        "waypoint",
        "list",
    ]);
    let error = error_of(&as_reader.output().unwrap());
    assert!(
        error.contains("system:serviceaccount:default:reader"),
        "{error}"
    );
}

#[test]
fn waypoints_are_written_through_the_api_server() {
    let Some(api) = ApiServer::shared() else {
        return;
    };
    let (namespace, other) = (api.namespace(), api.namespace());
    let home = tempfile::tempdir().unwrap();
    let kubeconfig = api.kubeconfig();
    let run = |args: &[&str]| {
        let mut command = command(home.path(), &kubeconfig);
        command.args(["-n", &namespace]).args(args);
        command
    };
    let ok = |args: &[&str]| output_of(&run(args).output().unwrap());

    // Two warnings, an object, a wait, a label.
    let mut applying = run(&[
        "waypoint",
        "apply",
        "--enroll-namespace",
        "--wait",
        "--for",
        "all",
    ]);
    let applying = applying.stdout(Stdio::piped()).spawn().unwrap();
    let (gateway, _) = until("the Gateway", LIMIT, || {
        let gateway = api.get("gateway", &namespace, "waypoint");
        (!gateway.is_null()).then_some(gateway)
    });
    let managers = api.run(&[
        "get",
        "gateway",
        "waypoint",
        "--namespace",
        &namespace,
        "--show-managed-fields",
        "-o",
        "jsonpath={.metadata.managedFields[*].manager} {.metadata.managedFields[*].operation}",
    ]);
    assert_eq!(managers, "istioctl Apply");
    assert_eq!(
        gateway["metadata"]["labels"],
        json!({"istio.io/waypoint-for": "all"})
    );
    assert_eq!(gateway["spec"]["gatewayClassName"], "istio-waypoint");
    let programmed = json!({"conditions": [{
        "type": "Programmed", "status": "True", "reason": "Programmed", "message": "there",
        "lastTransitionTime": "2026-01-01T00:00:00Z"}]});
    set_status(api, &namespace, "waypoint", &programmed);
    let said = output_of(&applying.wait_with_output().unwrap());
    assert_eq!(
        said,
        format!(
            "\u{26a0}\u{fe0f} Warning: namespace is not enrolled in ambient. Consider running\t`kubectl label namespace {namespace} istio.io/dataplane-mode=ambient`\n\
             ✅ waypoint {namespace}/waypoint applied\n\
             ✅ waypoint {namespace}/waypoint is ready!\n\
             ✅ namespace {namespace} labeled with \"istio.io/use-waypoint: waypoint\"\n"
        )
    );
    let labels = api.get("namespace", "", &namespace)["metadata"]["labels"].clone();
    assert_eq!(labels["istio.io/use-waypoint"], "waypoint");
    assert!(
        ok(&["waypoint", "apply", "--enroll-namespace"]).contains(&format!(
            "namespace ({namespace}) already has an enrolled Waypoint"
        ))
    );

    ok(&[
        "waypoint",
        "apply",
        "--name",
        "canary",
        "--revision",
        "next",
        "--class",
        "waymark-waypoint",
    ]);
    assert_eq!(
        ok(&["waypoint", "list"]),
        "NAME         REVISION     TRAFFIC TYPE     PROGRAMMED\n\
         canary       next         service          Unknown\n\
         waypoint     default      all              True\n"
    );
    let status = ok(&["waypoint", "status", "--wait=false"]);
    assert!(status.contains("Waiting for controller"), "{status}");
    let all = ok(&["waypoint", "list", "-A", "-o", "json"]);
    assert!(all.contains(&namespace) && !all.contains(&other), "{all}");

    // What is no waypoint stays.
    api.apply(&format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {{ name: ingress, namespace: {namespace} }}\n\
         spec: {{ gatewayClassName: istio, listeners: [{{ name: http, port: 80, protocol: HTTP }}] }}\n"
    ));
    assert_eq!(
        ok(&["waypoint", "delete", "ingress", "nobody"]),
        format!("waypoint {namespace}/ingress not found\nwaypoint {namespace}/nobody not found\n")
    );
    assert_eq!(
        ok(&["waypoint", "delete", "--revision", "next"]),
        format!("waypoint {namespace}/canary deleted\n")
    );
    assert_eq!(
        ok(&["waypoint", "delete", "--all"]),
        format!("waypoint {namespace}/waypoint deleted\n")
    );
    assert!(!api.get("gateway", &namespace, "ingress").is_null());

    // What somebody else has set is theirs.
    api.apply(&format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\n\
         metadata: {{ name: waypoint, namespace: {namespace}, labels: {{ istio.io/waypoint-for: service }} }}\n\
         spec: {{ gatewayClassName: istio-waypoint, listeners: [{{ name: mesh, port: 15008, protocol: HBONE }}] }}\n"
    ));
    let error = error_of(
        &run(&["waypoint", "apply", "--for", "workload"])
            .output()
            .unwrap(),
    );
    assert!(error.contains("conflict with \"kubectl\""), "{error}");
    let mut nowhere = command(home.path(), &kubeconfig);
    nowhere.args(["-n", "nowhere", "waypoint", "apply"]);
    let error = error_of(&nowhere.output().unwrap());
    assert!(error.contains("namespace: nowhere not found"), "{error}");
}

#[test]
fn the_mesh_is_chosen_by_flags_then_by_what_there_is() {
    let Some(api) = ApiServer::shared() else {
        return;
    };
    let namespace = api.namespace();
    let home = tempfile::tempdir().unwrap();
    let plain = || {
        let mut command = Command::new(waymark());
        command.env_clear().env("HOME", home.path());
        command.args(["-n", &namespace, "waypoint", "list"]);
        command
    };
    let none = "No waypoints found.\n";

    let neither = plain().output().unwrap();
    let error = error_of(&neither);
    assert!(
        error.contains("no mesh is running from")
            && error.contains("--kubeconfig")
            && error.contains("waymark up"),
        "{error}"
    );
    let by_environment = plain()
        .env("KUBECONFIG", api.kubeconfig())
        .output()
        .unwrap();
    assert_eq!(output_of(&by_environment), none);
    std::fs::create_dir(home.path().join(".kube")).unwrap();
    std::fs::copy(api.kubeconfig(), home.path().join(".kube/config")).unwrap();
    assert_eq!(output_of(&plain().output().unwrap()), none);
    let context = plain().args(["--context", "nobody"]).output().unwrap();
    assert!(error_of(&context).contains("nobody"), "{context:?}");

    // A state directory that is named is meant, whatever else there is.
    let state = home.path().join("state");
    let named = plain().arg("--state-dir").arg(&state).output().unwrap();
    let want = format!("no mesh is running from {}", state.display());
    assert!(error_of(&named).contains(&want), "{named:?}");

    // One that a machine left behind when it went down is no mesh.
    let left = home.path().join(".local/state/waymark");
    std::fs::create_dir_all(&left).unwrap();
    let free = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let mesh = json!({"stateDir": left, "meshDirectory": left, "controlPlane": {"debug": free}});
    std::fs::write(left.join("mesh.json"), mesh.to_string()).unwrap();
    assert_eq!(output_of(&plain().output().unwrap()), none);
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let mesh = json!({"stateDir": left, "meshDirectory": left,
        "controlPlane": {"debug": listener.local_addr().unwrap()}});
    std::fs::write(left.join("mesh.json"), mesh.to_string()).unwrap();
    let here = plain().output().unwrap();
    assert_eq!(output_of(&here), none);
    let said = String::from_utf8_lossy(&here.stderr);
    assert!(
        said.contains("The mesh is the one of this machine"),
        "{said}"
    );
}

#[test]
fn kubectl_runs_it_as_a_plugin() {
    let Some(api) = ApiServer::shared() else {
        return;
    };
    let namespace = api.namespace();
    let directory = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink(waymark(), directory.path().join("kubectl-waymark")).unwrap();
    let kubectl = |args: &[&str]| {
        api.kubectl()
            .env("PATH", directory.path())
            .env("HOME", directory.path())
            .env_remove("XDG_STATE_HOME")
            .arg("waymark")
            .args(args)
            .output()
            .unwrap()
    };
    let list = kubectl(&["waypoint", "list", "-n", &namespace]);
    assert_eq!(output_of(&list), "No waypoints found.\n");
    let help = output_of(&kubectl(&["waypoint", "apply", "--help"]));
    assert!(
        help.contains("Usage: kubectl waymark waypoint apply"),
        "{help}"
    );
}

#[test]
fn analysis_tells_what_would_change_and_what_is_refused() {
    if !there_is_kubernetes() {
        return;
    }
    isolated(|| {
        let api = api_server();
        let home = tempfile::tempdir().unwrap();
        let kubeconfig = api.kubeconfig();
        let run = |args: &[&str]| {
            command(home.path(), &kubeconfig)
                .args(args)
                .output()
                .unwrap()
        };
        api.apply(include_str!("operator.yaml"));
        // As istiod writes it, and then somebody by hand.
        let deployment = json!({
            "apiVersion": "apps/v1", "kind": "Deployment",
            "metadata": {"name": "waypoint", "namespace": "shop", "labels": {
                "gateway.networking.k8s.io/gateway-name": "waypoint", "gateway.istio.io/managed": "istio.io-mesh-controller"}},
            "spec": {"selector": {"matchLabels": {"a": "b"}}, "template": {"metadata": {"labels": {"a": "b"}},
                "spec": {"containers": [{"name": "istio-proxy", "image": "docker.io/istio/proxyv2:1.31.4"}]}}},
        });
        let (applied, said) = api.try_apply(
            &deployment.to_string(),
            &["--field-manager=istio.io/gateway-controller"],
        );
        assert!(applied, "{said}");
        api.run(&[
            "patch",
            "deployment",
            "waypoint",
            "--namespace",
            "shop",
            "--field-manager=by-hand",
            "--patch",
            r#"{"spec":{"replicas":3}}"#,
        ]);

        let everything = run(&["analyze", "-A"]);
        let text = String::from_utf8_lossy(&everything.stdout).into_owned();
        for want in [
            "Info [WM0201] (Gateway waypoint.shop) is taken by Waymark of revision default",
            "Deployment waypoint is rolled over from image docker.io/istio/proxyv2:1.31.4 to Waymark's",
            "Warning [WM0204] (Deployment waypoint.shop) has fields of by-hand, which stay unless Waymark sets them: spec.replicas",
            "Info [WM0202] (Gateway canary.shop) stays with the control plane of revision 1-31",
            "Error [WM0101] (EnvoyFilter tweak.shop) Waymark refuses this object",
            "Error [WM0101] (VirtualService cart.shop) Waymark refuses this object until it enforces what it asks for: spec.tcp",
            "Warning [WM0103] (Service lost.shop) label istio.io/use-waypoint names a waypoint that does not exist: shop/nobody",
        ] {
            assert!(text.contains(want), "{want}:\n{text}");
        }
        // Objects of another revision, Gateways of other classes are none of our business.
        assert!(
            !text.contains("theirs") && !text.contains("ingress"),
            "{text}"
        );
        assert_eq!(everything.status.code(), Some(79));
        let error = error_of(&everything);
        assert!(
            error.contains("Analyzers found issues when analyzing all namespaces."),
            "{error}"
        );

        // As the other revision it is the other waypoint.
        let other = run(&[
            "analyze",
            "-n",
            "shop",
            "--revision",
            "1-31",
            "--failure-threshold",
            "Info",
        ]);
        let text = String::from_utf8_lossy(&other.stdout).into_owned();
        assert!(
            text.contains("(Gateway canary.shop) is taken by Waymark of revision 1-31"),
            "{text}"
        );

        // What is not to be heard of, and what is quiet.
        let quiet = run(&[
            "analyze",
            "-n",
            "shop",
            "-S",
            "WM0101=*.shop",
            "--output-threshold",
            "Error",
        ]);
        assert_eq!(output_of(&quiet), "");
        let said = String::from_utf8_lossy(&quiet.stderr).into_owned();
        assert_eq!(
            said,
            "\u{2714} No validation issues found when analyzing namespace: shop.\n"
        );
        assert_eq!(output_of(&run(&["analyze", "-n", "default"])), "");

        // Files alone, and files in place of what is there.
        let good = home.path().join("good.yaml");
        let cart = "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: { name: cart, namespace: shop }\n\
                    spec: { hosts: [cart], http: [{ route: [{ destination: { host: cart } }] }] }\n";
        std::fs::write(&good, cart).unwrap();
        let together = run(&["analyze", "-n", "shop", good.to_str().unwrap()]);
        let text = String::from_utf8_lossy(&together.stdout).into_owned();
        assert!(
            text.contains("EnvoyFilter tweak.shop") && !text.contains("cart"),
            "{text}"
        );
        let alone = run(&["analyze", "--use-kube=false", good.to_str().unwrap()]);
        assert_eq!(output_of(&alone), "");
        let typo = home.path().join("typo.yaml");
        std::fs::write(&typo, cart.replace("VirtualService", "VirtualServce")).unwrap();
        let alone = output_of(&run(&[
            "analyze",
            "--use-kube=false",
            typo.to_str().unwrap(),
        ]));
        assert!(
            alone.starts_with("Warning [WM0102] (VirtualServce cart.shop ")
                && alone.contains("VirtualServce is a kind that is not read"),
            "{alone}"
        );
        std::fs::write(&typo, "a: [").unwrap();
        let broken = run(&["analyze", "--use-kube=false", typo.to_str().unwrap()]);
        assert_eq!(broken.status.code(), Some(65), "{broken:?}");

        // Who may not read everything is told so, and not that all is well.
        api.apply(
            "apiVersion: v1\nkind: ServiceAccount\nmetadata: { name: nobody, namespace: shop }\n",
        );
        let nobody = api.kubeconfig_of("shop", "nobody");
        let blind = command(home.path(), &nobody)
            .args(["analyze", "-n", "shop"])
            .output()
            .unwrap();
        assert_eq!(blind.status.code(), Some(1));
        let error = error_of(&blind);
        assert!(
            error.contains("not everything could be analyzed")
                && error.contains("cannot list resource \"virtualservices\""),
            "{error}"
        );
    });
}
