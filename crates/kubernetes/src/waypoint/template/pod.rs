//! A waypoint's pod: the container of upstream's template, so that either program runs in it.

use serde_json::{Value, json};
use waymark_api::meta::Map;

use super::Template;
use crate::waypoint::gateway::GatewayView;
use crate::waypoint::service::STATUS_PORT;

/// The pod template of the Deployment.
pub(super) fn template(template: &Template, gateway: &GatewayView) -> Value {
    let mut annotations: Map = gateway.infrastructure().passed_annotations();
    let own = [
        ("istio.io/rev", template.revision.as_str()),
        ("prometheus.io/path", "/stats/prometheus"),
        ("prometheus.io/port", "15020"),
        ("prometheus.io/scrape", "true"),
    ];
    annotations.extend(own.map(|(name, value)| (name.to_owned(), value.to_owned())));
    let mut spec = json!({
        "serviceAccountName": gateway.service_account_name(),
        "containers": [container(template, gateway)],
        "volumes": volumes(),
    });
    let pod = &template.pod;
    let optional = [
        ("affinity", &pod.affinity),
        (
            "topologySpreadConstraints",
            &pod.topology_spread_constraints,
        ),
        ("nodeSelector", &pod.node_selector),
        ("tolerations", &pod.tolerations),
    ];
    for (field, value) in optional {
        if let Some(value) = value {
            spec[field] = value.clone();
        }
    }
    if !template.images.pull_secrets.is_empty() {
        let secrets = template.images.pull_secrets.iter();
        spec["imagePullSecrets"] = secrets.map(|name| json!({"name": name})).collect();
    }
    json!({
        "metadata": {"labels": template.pod_labels(gateway), "annotations": annotations},
        "spec": spec,
    })
}

fn container(template: &Template, gateway: &GatewayView) -> Value {
    let mut security = json!({
        "privileged": false,
        "runAsUser": 1337,
        "runAsGroup": 1337,
        "allowPrivilegeEscalation": false,
        "readOnlyRootFilesystem": true,
        "runAsNonRoot": true,
        "capabilities": {"drop": ["ALL"]},
    });
    if let Some(profile) = &template.pod.seccomp_profile {
        security["seccompProfile"] = profile.clone();
    }
    let port =
        |name: &str, number: u16| json!({"name": name, "containerPort": number, "protocol": "TCP"});
    let mut container = json!({
        "name": "istio-proxy",
        "image": template.image(gateway),
        "args": arguments(template, gateway),
        "ports": [
            port("metrics", 15020),
            port("status-port", STATUS_PORT),
            port("http-envoy-prom", 15090),
        ],
        "env": environment(template, gateway),
        "resources": template.pod.resources,
        "startupProbe": probe(1, 1, 30),
        "readinessProbe": probe(0, 15, 4),
        "securityContext": security,
        "volumeMounts": mounts(),
    });
    if let Some(policy) = &template.images.pull_policy {
        container["imagePullPolicy"] = policy.as_str().into();
    }
    container
}

fn arguments(template: &Template, gateway: &GatewayView) -> Vec<String> {
    let level = |annotation: &str, default: &str| {
        gateway.annotation(annotation).unwrap_or(default).to_owned()
    };
    let account = gateway.service_account_name();
    let mut arguments = vec![
        "proxy".to_owned(),
        "waypoint".to_owned(),
        "--domain".to_owned(),
        format!("$(POD_NAMESPACE).svc.{}", template.cluster_domain),
        "--serviceCluster".to_owned(),
        format!("{account}.$(POD_NAMESPACE)"),
        "--proxyLogLevel".to_owned(),
        level("sidecar.istio.io/logLevel", "warning"),
        "--proxyComponentLogLevel".to_owned(),
        level("sidecar.istio.io/componentLogLevel", "misc:error"),
        "--log_output_level".to_owned(),
        level("sidecar.istio.io/agentLogLevel", "default:info"),
    ];
    if template.pod.log_as_json {
        arguments.push("--log_as_json".to_owned());
    }
    arguments
}

fn environment(template: &Template, gateway: &GatewayView) -> Vec<Value> {
    let field = |name: &str, path: &str| json!({"name": name, "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": path}}});
    let resource = |name: &str, resource: &str| json!({"name": name, "valueFrom": {"resourceFieldRef": {"resource": resource, "divisor": "1"}}});
    let literal = |name: &str, value: &str| json!({"name": name, "value": value});
    let mut environment = vec![
        field("ISTIO_META_SERVICE_ACCOUNT", "spec.serviceAccountName"),
        field("ISTIO_META_NODE_NAME", "spec.nodeName"),
        literal("PILOT_CERT_PROVIDER", "istiod"),
        literal("CA_ADDR", &template.discovery_address),
        field("POD_NAME", "metadata.name"),
        field("POD_NAMESPACE", "metadata.namespace"),
        field("INSTANCE_IP", "status.podIP"),
        field("SERVICE_ACCOUNT", "spec.serviceAccountName"),
        field("HOST_IP", "status.hostIP"),
        resource("ISTIO_CPU_LIMIT", "limits.cpu"),
        literal("PROXY_CONFIG", &proxy_config(template)),
        resource("GOMEMLIMIT", "limits.memory"),
    ];
    for (name, value) in &template.proxy_metadata {
        environment.push(literal(name, value));
    }
    environment.push(literal("ISTIO_META_CLUSTER_ID", &template.cluster_id));
    if let Some(network) = template.network(gateway) {
        environment.push(literal("ISTIO_META_NETWORK", network));
    }
    let (namespace, deployment) = (&gateway.namespace, gateway.deployment_name());
    let owner =
        format!("kubernetes://apis/apps/v1/namespaces/{namespace}/deployments/{deployment}");
    let mesh = template.mesh_id.as_ref().unwrap_or(&template.trust_domain);
    environment.extend([
        literal("ISTIO_META_INTERCEPTION_MODE", "REDIRECT"),
        literal("ISTIO_META_WORKLOAD_NAME", &deployment),
        literal("ISTIO_META_OWNER", &owner),
        literal("ISTIO_META_MESH_ID", mesh),
        literal("TRUST_DOMAIN", &template.trust_domain),
    ]);
    environment
}

/// `PROXY_CONFIG`: what of the mesh's ProxyConfig is not its default.
fn proxy_config(template: &Template) -> String {
    let mut config = json!({"discoveryAddress": template.discovery_address});
    if !template.proxy_metadata.is_empty() {
        config["proxyMetadata"] = json!(template.proxy_metadata);
    }
    config.to_string()
}

fn probe(initial_delay: u32, period: u32, failures: u32) -> Value {
    json!({
        "httpGet": {"path": "/healthz/ready", "port": STATUS_PORT, "scheme": "HTTP"},
        "initialDelaySeconds": initial_delay,
        "periodSeconds": period,
        "timeoutSeconds": 1,
        "successThreshold": 1,
        "failureThreshold": failures,
    })
}

fn mounts() -> Value {
    let mount = |path: &str, name: &str| json!({"mountPath": path, "name": name});
    json!([
        mount("/var/run/secrets/workload-spiffe-uds", "workload-socket"),
        mount("/var/run/secrets/istio", "istiod-ca-cert"),
        mount("/var/lib/istio/data", "istio-data"),
        mount("/etc/istio/proxy", "istio-envoy"),
        mount("/var/run/secrets/tokens", "istio-token"),
        mount("/etc/istio/pod", "istio-podinfo"),
    ])
}

/// Upstream's two volumes that nothing mounts (`go-proxy-envoy`, `go-proxy-data`) are left out.
fn volumes() -> Value {
    let item = |path: &str| json!({"path": path, "fieldRef": {"apiVersion": "v1", "fieldPath": format!("metadata.{path}")}});
    json!([
        {"name": "workload-socket", "emptyDir": {}},
        {"name": "istio-envoy", "emptyDir": {"medium": "Memory"}},
        {"name": "istio-data", "emptyDir": {}},
        {"name": "istio-podinfo", "downwardAPI": {"items": [item("labels"), item("annotations")]}},
        {"name": "istio-token", "projected": {"sources": [{"serviceAccountToken": {
            "audience": "istio-ca",
            "expirationSeconds": 43200,
            "path": "istio-token",
        }}]}},
        {"name": "istiod-ca-cert", "configMap": {"name": "istio-ca-root-cert"}},
    ])
}
