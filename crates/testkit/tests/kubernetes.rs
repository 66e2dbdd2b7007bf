//! The Kubernetes that tests are given is what its documentation says.
#![forbid(unsafe_code)]

use std::time::Duration;

use waymark_testkit::kubernetes::{ApiServer, Crds, Options};
use waymark_testkit::wait::until;

const NODE: &str = "apiVersion: v1\nkind: Node\nmetadata: { name: node-1 }\n";

#[test]
fn an_api_server_keeps_objects_over_a_restart_and_has_the_crds_it_was_given() {
    let options = Options {
        crds: Crds::UpstreamStandard,
        ..Options::default()
    };
    let Some(mut api) = ApiServer::start(options) else {
        return;
    };
    let namespace = api.namespace();
    api.apply(&format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\n\
         metadata: {{ name: waypoint, namespace: {namespace} }}\n\
         spec: {{ gatewayClassName: istio-waypoint, listeners: [{{ name: mesh, port: 15008, protocol: HBONE }}] }}\n"
    ));
    let (accepted, said) = api.try_apply(
        &format!(
            "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\n\
             metadata: {{ name: e, namespace: {namespace} }}\nspec: {{ hosts: [] }}\n"
        ),
        &["--dry-run=server"],
    );
    assert!(!accepted && said.contains("spec.hosts"), "{said}");

    api.compact();
    api.shut_down_api_server();
    api.start_api_server();
    let gateway = api.get("gateway", &namespace, "waypoint");
    assert_eq!(gateway["spec"]["gatewayClassName"], "istio-waypoint");
    assert!(api.get("gateway", &namespace, "another").is_null());
}

#[test]
fn controllers_write_endpoint_slices_and_empty_namespaces() {
    let options = Options {
        controllers: true,
        ..Options::default()
    };
    let Some(api) = ApiServer::start(options) else {
        return;
    };
    let namespace = api.namespace();
    api.apply(NODE);
    until("a default service account", LIMIT, || {
        let account = api.get("serviceaccount", &namespace, "default");
        (!account.is_null()).then_some(())
    });
    api.apply(&format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{ name: s, namespace: {namespace} }}\n\
         spec: {{ selector: {{ app: a }}, ports: [{{ port: 80 }}] }}\n---\n\
         apiVersion: v1\nkind: Pod\nmetadata: {{ name: p, namespace: {namespace}, labels: {{ app: a }} }}\n\
         spec: {{ nodeName: node-1, containers: [{{ name: c, image: none }}] }}\n"
    ));
    api.run(&[
        "patch",
        "pod",
        "p",
        "--namespace",
        &namespace,
        "--subresource=status",
        "--type=merge",
        "--patch",
        r#"{"status":{"phase":"Running","podIP":"10.244.0.9","podIPs":[{"ip":"10.244.0.9"}],"conditions":[{"type":"Ready","status":"True"}]}}"#,
    ]);
    until("the pod's address in a slice", LIMIT, || {
        let slices = api.run(&[
            "get",
            "endpointslices",
            "--namespace",
            &namespace,
            "-o",
            "json",
        ]);
        slices.contains("10.244.0.9").then_some(())
    });

    // Writes wait while etcd does not answer, and go on.
    api.pause_etcd();
    let (accepted, _) = api.try_apply(NODE, &["--request-timeout=1s", "--field-manager=x"]);
    api.resume_etcd();
    assert!(!accepted, "etcd is paused");

    // A service account is who its token says, and may what it is allowed.
    let kubeconfig = api.kubeconfig_of(&namespace, "default");
    let who = api
        .kubectl()
        .env("KUBECONFIG", kubeconfig)
        .args(["auth", "whoami", "-o", "json"])
        .output()
        .expect("run kubectl");
    let who = String::from_utf8_lossy(&who.stdout).into_owned();
    assert!(
        who.contains(&format!("system:serviceaccount:{namespace}:default")),
        "{who}"
    );
    assert!(
        !api.token(&namespace, "default", Some("istio-ca"))
            .is_empty()
    );

    // No kubelet says that the pod has ended.
    api.run(&[
        "delete",
        "pod",
        "p",
        "--namespace",
        &namespace,
        "--force",
        "--grace-period=0",
    ]);
    api.run(&["delete", "namespace", &namespace, "--timeout=60s"]);
}

const LIMIT: Duration = Duration::from_secs(60);
