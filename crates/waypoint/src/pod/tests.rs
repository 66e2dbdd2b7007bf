#![expect(clippy::unwrap_used, reason = "tests")]

use serde_json::json;

use super::*;
use crate::args::Settings;

/// What the template makes of a Gateway `waypoint` in namespace `shop`.
fn variables() -> BTreeMap<String, String> {
    [
        ("ISTIO_META_SERVICE_ACCOUNT", "waypoint"),
        ("SERVICE_ACCOUNT", "waypoint"),
        ("ISTIO_META_NODE_NAME", "node-2"),
        ("PILOT_CERT_PROVIDER", "istiod"),
        ("POD_NAME", "waypoint-6c9f-x2x"),
        ("POD_NAMESPACE", "shop"),
        ("INSTANCE_IP", "10.244.2.9"),
        ("HOST_IP", "172.18.0.3"),
        ("ISTIO_CPU_LIMIT", "2"),
        ("CA_ADDR", "istiod.istio-system.svc:15012"),
        ("PROXY_CONFIG", r#"{"terminationDrainDuration":"7s","proxyMetadata":{"ISTIO_META_ENABLE_HBONE":"true"}}"#),
        ("ISTIO_META_ENABLE_HBONE", "true"),
        ("ISTIO_META_CLUSTER_ID", "Kubernetes"),
        ("ISTIO_META_INTERCEPTION_MODE", "REDIRECT"),
        ("ISTIO_META_WORKLOAD_NAME", "waypoint"),
        ("ISTIO_META_OWNER", "kubernetes://apis/apps/v1/namespaces/shop/deployments/waypoint"),
        ("ISTIO_META_MESH_ID", "mesh1"),
        ("TRUST_DOMAIN", "td.example"),
        ("KUBERNETES_SERVICE_HOST", "10.96.0.1"),
    ]
    .map(|(k, v)| (k.to_owned(), v.to_owned()))
    .into()
}

fn file(path: &Path) -> io::Result<String> {
    match path.to_str() {
        Some("/etc/istio/pod/labels") => Ok(
            "gateway.istio.io/managed=\"istio.io-mesh-controller\"\ngateway.networking.k8s.io/gateway-name=\"waypoint\"\npod-template-hash=\"6c9f\"\n"
                .to_owned(),
        ),
        Some("/etc/istio/pod/annotations") => {
            Ok("ambient.istio.io/xfcc-include-client-identity=\"true\"\n".to_owned())
        }
        _ => Err(io::ErrorKind::NotFound.into()),
    }
}

fn given() -> PodArgs {
    PodArgs {
        domain: Some("shop.svc.example.org".to_owned()),
        service_cluster: Some("waypoint.shop".to_owned()),
    }
}

fn layer(change: &[(&str, Option<&str>)]) -> Result<PodLayer, PodError> {
    let mut variables = variables();
    for (name, value) in change {
        match value {
            Some(value) => drop(variables.insert((*name).to_owned(), (*value).to_owned())),
            None => drop(variables.remove(*name)),
        }
    }
    PodLayer::read(&variables, &file, &given())
}

fn settings(change: &[(&str, Option<&str>)]) -> Settings {
    Args::default()
        .settings_on(Some(layer(change).unwrap()))
        .unwrap()
}

#[test]
fn a_pods_environment_is_enough() {
    let settings = settings(&[]);
    let sockets = [
        settings.hbone,
        settings.admin,
        settings.metrics,
        settings.readiness,
    ];
    assert_eq!(
        sockets.map(|s| s.to_string()),
        [
            "0.0.0.0:15008",
            "127.0.0.1:15000",
            "0.0.0.0:15020",
            "0.0.0.0:15021"
        ]
    );
    assert_eq!(settings.prometheus.unwrap().to_string(), "0.0.0.0:15090");
    assert_eq!(settings.source, None);
    assert_eq!(
        settings.identity.as_str(),
        "spiffe://td.example/ns/shop/sa/waypoint"
    );
    assert_eq!(settings.xds_address, "istiod.istio-system.svc:15012");
    assert_eq!(settings.ca_address, "istiod.istio-system.svc:15012");
    assert_eq!(
        settings.root_cert.as_deref(),
        Some(Path::new("/var/run/secrets/istio/root-cert.pem"))
    );
    assert_eq!(
        settings.token_file.as_deref(),
        Some(Path::new("/var/run/secrets/tokens/istio-token"))
    );
    assert_eq!((settings.concurrency, settings.drain.as_secs()), (2, 7));
}

#[test]
fn the_node_is_what_istiod_demands() {
    let node = settings(&[]).node.node();
    assert_eq!(
        node.id,
        "waypoint~10.244.2.9~waypoint-6c9f-x2x.shop~shop.svc.example.org"
    );
    assert_eq!(node.cluster, "waypoint.shop");
    let message =
        waymark_proto::json::to_value(&node, waymark_proto::json::JsonStyle::Snake).unwrap();
    assert_eq!(
        sorted(&message["metadata"]),
        sorted(&json!({
            "NAME": "waypoint-6c9f-x2x",
            "NAMESPACE": "shop",
            "SERVICE_ACCOUNT": "waypoint",
            "INSTANCE_IPS": "10.244.2.9",
            "CLUSTER_ID": "Kubernetes",
            "NODE_NAME": "node-2",
            "MESH_ID": "mesh1",
            "WORKLOAD_NAME": "waypoint",
            "OWNER": "kubernetes://apis/apps/v1/namespaces/shop/deployments/waypoint",
            "INTERCEPTION_MODE": "REDIRECT",
            "ENABLE_HBONE": "true",
            "ISTIO_VERSION": "1.32.0",
            "PROXY_CONFIG": {
                "terminationDrainDuration": "7s",
                "proxyMetadata": {"ISTIO_META_ENABLE_HBONE": "true"},
            },
            "LABELS": {
                "gateway.istio.io/managed": "istio.io-mesh-controller",
                "gateway.networking.k8s.io/gateway-name": "waypoint",
            },
            "ANNOTATIONS": {"ambient.istio.io/xfcc-include-client-identity": "true"},
        }))
    );
}

/// Objects compare by content, whatever the order of their keys.
fn sorted(value: &Value) -> BTreeMap<String, Value> {
    value
        .as_object()
        .unwrap()
        .iter()
        .map(|(k, v)| (k.clone(), v.clone()))
        .collect()
}

#[test]
fn variables_say_more() {
    let config = r#"{"discoveryAddress":"istiod-canary.istio-system.svc:15012","concurrency":3}"#;
    let changed = settings(&[
        ("PROXY_CONFIG", Some(config)),
        ("CA_ADDR", Some("ca.example:443")),
        ("ISTIO_META_NETWORK", Some("net1")),
        ("ISTIO_META_ISTIO_VERSION", Some("1.30.1")),
        ("ISTIO_META_NAMESPACE", Some("other")),
        (
            "ISTIO_METAJSON_EXTRA",
            Some(r#"{"STATIC": {"a": [1, true]}}"#),
        ),
        ("ISTIO_METAJSON_LABELS", Some(r#"{"app": "w"}"#)),
        ("ISTIOD_SAN", Some("istiod.istio-system.svc")),
        ("SECRET_TTL", Some("1h0m0s")),
        ("INSTANCE_IP", Some("fd00::9")),
        ("WAYMARK_POD_ROOT", None),
    ]);
    assert_eq!(changed.xds_address, "istiod-canary.istio-system.svc:15012");
    assert_eq!(changed.ca_address, "ca.example:443");
    assert_eq!((changed.concurrency, changed.cert_ttl.as_secs()), (3, 3600));
    assert!(changed.server_name.is_some());
    assert_eq!(changed.hbone.to_string(), "[::]:15008");
    assert_eq!(changed.node.network.as_deref(), Some("net1"));
    assert_eq!(changed.node.istio_version.as_deref(), Some("1.30.1"));
    assert_eq!(changed.node.namespace, "shop");
    let metadata = changed.node.metadata;
    assert_eq!(metadata["STATIC"], json!({"a": [1, true]}));
    assert_eq!(metadata["LABELS"]["app"], "w");
    assert!(!metadata.contains_key("NAMESPACE"));

    let plain = layer(&[(
        "PROXY_CONFIG",
        Some(r#"{"discoveryAddress":"i:15010","controlPlaneAuthPolicy":"NONE"}"#),
    )]);
    assert_eq!(
        plain.unwrap().args.xds_address.as_deref(),
        Some("http://i:15010")
    );
    let nothing = layer(&[
        ("PROXY_CONFIG", None),
        ("CA_ADDR", None),
        ("TRUST_DOMAIN", None),
        ("ISTIO_CPU_LIMIT", None),
    ]);
    let nothing = Args::default().settings_on(Some(nothing.unwrap())).unwrap();
    assert_eq!(nothing.xds_address, ISTIOD);
    assert_eq!(nothing.node.mesh_id, "mesh1");
    assert!(!nothing.node.metadata.contains_key("PROXY_CONFIG"));
}

#[test]
fn flags_come_before_the_pod() {
    let flags = Args {
        bind: Some("127.0.0.9".parse().unwrap()),
        hbone_port: Some(1),
        ..Args::default()
    };
    let settings = flags.settings_on(Some(layer(&[]).unwrap())).unwrap();
    assert_eq!(settings.hbone.to_string(), "127.0.0.9:1");
    assert_eq!(settings.admin.to_string(), "127.0.0.9:15000");
    assert_eq!(settings.source, Some("127.0.0.9".parse().unwrap()));
}

#[test]
fn what_is_wrong_is_named() {
    for (name, value, want) in [
        ("POD_NAME", None, "environment variable POD_NAME is missing"),
        (
            "POD_NAMESPACE",
            None,
            "environment variable POD_NAMESPACE is missing",
        ),
        (
            "INSTANCE_IP",
            None,
            "environment variable INSTANCE_IP is missing",
        ),
        (
            "INSTANCE_IP",
            Some("x"),
            "environment variable INSTANCE_IP: \"x\": invalid IP address syntax",
        ),
        (
            "ISTIO_CPU_LIMIT",
            Some("2m"),
            "environment variable ISTIO_CPU_LIMIT: \"2m\": invalid digit found in string",
        ),
        (
            "PROXY_CONFIG",
            Some("[]"),
            "environment variable PROXY_CONFIG: not a JSON object",
        ),
        (
            "PROXY_CONFIG",
            Some("{\"terminationDrainDuration\": 5}"),
            "environment variable PROXY_CONFIG: terminationDrainDuration: 5 is not a duration",
        ),
        (
            "ISTIO_METAJSON_X",
            Some("1"),
            "environment variable ISTIO_METAJSON_X: not a JSON object",
        ),
        (
            "SECRET_TTL",
            Some("long"),
            "environment variable SECRET_TTL: not a duration such as 24h",
        ),
        (
            "POD_NAMESPACE",
            Some("other"),
            "--domain \"shop.svc.example.org\" is not other.svc.DOMAIN",
        ),
        (
            "WAYMARK_POD_ROOT",
            Some("/nowhere"),
            "read /nowhere/etc/istio/pod/labels",
        ),
    ] {
        assert_eq!(layer(&[(name, value)]).unwrap_err().to_string(), want);
    }
    let without = layer(&[
        ("SERVICE_ACCOUNT", None),
        ("ISTIO_META_SERVICE_ACCOUNT", None),
    ]);
    assert_eq!(
        without.unwrap_err().to_string(),
        "environment variable SERVICE_ACCOUNT is missing"
    );
    let labels = |text: &'static str| {
        let read = move |path: &Path| match path.ends_with("labels") {
            true => Ok(text.to_owned()),
            false => Err(io::ErrorKind::NotFound.into()),
        };
        PodLayer::read(&variables(), &read, &given())
            .unwrap_err()
            .to_string()
    };
    assert_eq!(
        labels("app=\"w\"\n"),
        "/etc/istio/pod/labels: no label gateway.networking.k8s.io/gateway-name"
    );
    assert_eq!(
        labels("app=w\n"),
        "/etc/istio/pod/labels line 1: not KEY=\"VALUE\""
    );
}
