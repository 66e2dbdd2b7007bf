//! Whole outputs, and what must not happen.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::*;

/// A Gateway with this specification, of upstream's class unless it says otherwise.
pub(super) fn gateway(spec: &str) -> GatewayView {
    let mut spec: Value = serde_json::from_str(spec).unwrap();
    if spec["gatewayClassName"].is_null() {
        spec["gatewayClassName"] = "istio-waypoint".into();
    }
    GatewayView::read(&json!({
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": "Gateway",
        "metadata": {
            "name": "waypoint",
            "namespace": "bookinfo",
            "uid": "0b3a",
            "generation": 2,
            "labels": {"istio.io/waypoint-for": "service"},
            "annotations": {
                "kubectl.kubernetes.io/last-applied-configuration": "{}",
                "gateway.istio.io/controller-version": "5",
                "team": "shop",
            },
        },
        "spec": spec,
    }))
    .unwrap()
}

fn template() -> Template {
    Template {
        images: ContainerImages {
            waymark: "example.org/waymark:1".to_owned(),
            istio: "docker.io/istio/proxyv2:1.32.0".to_owned(),
            pull_policy: None,
            pull_secrets: Vec::new(),
        },
        revision: "default".to_owned(),
        cluster_domain: "cluster.local".to_owned(),
        cluster_id: "Kubernetes".to_owned(),
        network: None,
        trust_domain: "cluster.local".to_owned(),
        mesh_id: None,
        discovery_address: "istiod.istio-system.svc:15012".to_owned(),
        proxy_metadata: BTreeMap::from([("ISTIO_META_ENABLE_HBONE".to_owned(), "true".to_owned())]),
        pod: PodSettings::default(),
    }
}

const MESH: &str = r#""listeners": [{"name": "mesh", "port": 15008, "protocol": "HBONE"}]"#;

fn overlay(key: &str, text: &str) -> Overlay {
    Overlay::read(
        "bookinfo/p",
        &BTreeMap::from([(key.to_owned(), text.to_owned())]),
    )
    .unwrap()
}

fn objects(gateway: &GatewayView, template: &Template, overlays: &[Overlay]) -> Vec<Value> {
    render(gateway, template, overlays)
        .unwrap()
        .into_iter()
        .map(|rendered| rendered.object)
        .collect()
}

#[test]
fn a_plain_waypoint() {
    let gateway = gateway(&format!("{{{MESH}}}"));
    insta::assert_json_snapshot!(objects(&gateway, &template(), &[]));
}

#[test]
fn a_waypoint_that_says_everything_itself() {
    let mut gateway = gateway(&format!(
        r#"{{{MESH},
            "gatewayClassName": "waymark-waypoint",
            "addresses": [{{"value": "10.96.0.77"}}],
            "infrastructure": {{
                "labels": {{"a": "b", "gateway.networking.k8s.io/gateway-name": "forged"}},
                "annotations": {{"networking.istio.io/traffic-distribution": "PreferSameNode"}}
            }}}}"#
    ));
    for (name, value) in [
        ("gateway.istio.io/name-override", "front"),
        ("gateway.istio.io/service-account", "runner"),
        ("networking.istio.io/service-type", "LoadBalancer"),
        ("sidecar.istio.io/proxyImage", "example.org/mine:2"),
        ("sidecar.istio.io/logLevel", "debug"),
    ] {
        gateway
            .annotations
            .insert(name.to_owned(), value.to_owned());
    }
    gateway
        .labels
        .insert("topology.istio.io/network".to_owned(), "n1".to_owned());
    let mut template = template();
    template.images.pull_policy = Some("Always".to_owned());
    template.images.pull_secrets = vec!["pull".to_owned()];
    template.pod.tolerations = Some(json!([{"operator": "Exists"}]));
    template.pod.log_as_json = true;
    let overlays = [
        overlay(
            "horizontalPodAutoscaler",
            "spec: {minReplicas: 2, maxReplicas: 5}",
        ),
        overlay("podDisruptionBudget", "spec:\n  minAvailable: 1\n"),
        overlay(
            "deployment",
            "spec: {template: {spec: {containers: [{name: istio-proxy, resources: {limits: {cpu: '4'}}, env: [{name: EXTRA, value: x}]}]}}}",
        ),
    ];
    insta::assert_json_snapshot!(objects(&gateway, &template, &overlays));
}

#[test]
fn the_2023_form_is_named_after_its_class() {
    let mut gateway = gateway(&format!("{{{MESH}}}"));
    gateway.annotations.insert(
        "istio.io/for-service-account".to_owned(),
        "reviews".to_owned(),
    );
    assert_eq!(gateway.deployment_name(), "waypoint-istio-waypoint");
    assert_eq!(gateway.service_account_name(), "waypoint-istio-waypoint");
}

#[test]
fn a_host_or_several_addresses_are_somebody_elses() {
    for (addresses, managed) in [
        ("[]", true),
        (r#"[{"value": "10.0.0.1"}]"#, true),
        (r#"[{"type": "Hostname", "value": "a.b"}]"#, false),
        (r#"[{"value": "10.0.0.1"}, {"value": "10.0.0.2"}]"#, false),
        (r#"[{"type": "example.org/x", "value": "y"}]"#, false),
    ] {
        let gateway = gateway(&format!(r#"{{{MESH}, "addresses": {addresses}}}"#));
        assert_eq!(gateway.is_managed(), managed, "{addresses}");
    }
}

#[test]
fn parameters_are_refused_by_key_and_field() {
    let gateway = gateway(&format!("{{{MESH}}}"));
    let errors: Vec<String> = [
        ("deployments", "{}"),
        ("deployment", "spec: [\n"),
        ("deployment", "- a"),
        ("deployment", "metadata: {name: other}"),
        (
            "deployment",
            "metadata: {ownerReferences: [{uid: x, name: n}]}",
        ),
        ("service", "spec: {ports: [{name: x}]}"),
    ]
    .into_iter()
    .map(|(key, text)| {
        let data = BTreeMap::from([(key.to_owned(), text.to_owned())]);
        let error = Overlay::read("bookinfo/p", &data)
            .and_then(|overlay| render(&gateway, &template(), &[overlay]))
            .unwrap_err();
        match std::error::Error::source(&error) {
            Some(source) => format!("{error}: {source}"),
            None => error.to_string(),
        }
    })
    .collect();
    insta::assert_json_snapshot!(errors);
}

#[test]
fn an_unreadable_controller_version_is_newer_than_ours() {
    let mut gateway = gateway(&format!("{{{MESH}}}"));
    assert_eq!(gateway.controller_version(), Some(5));
    gateway.annotations.insert(
        "gateway.istio.io/controller-version".to_owned(),
        "x".to_owned(),
    );
    assert_eq!(gateway.controller_version(), Some(u64::MAX));
}
