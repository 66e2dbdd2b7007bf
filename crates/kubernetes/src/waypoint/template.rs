//! The objects of a waypoint, but for its Service. Spec: control-plane.md 8.3, 8.4.

mod pod;

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::{Value, json};
use waymark_api::meta::Map;
use waymark_api::names;
use waymark_api::waypoint::WaypointClass;

use super::gateway::GatewayView;

/// What all waypoints of a control plane have in common.
#[derive(Debug, Clone, PartialEq)]
pub struct Template {
    /// What runs in the containers.
    pub images: ContainerImages,
    /// The control plane's revision, `default` when it has none of its own.
    pub revision: String,
    /// The cluster's DNS domain.
    pub cluster_domain: String,
    /// The cluster's name.
    pub cluster_id: String,
    /// The network that the cluster is in, when it has a name.
    pub network: Option<String>,
    /// The trust domain of identities.
    pub trust_domain: String,
    /// The mesh's name; the trust domain when it has none.
    pub mesh_id: Option<String>,
    /// Where xDS and certificates are, as `host:port`.
    pub discovery_address: String,
    /// `proxyMetadata`: variables of the container, and node metadata where their names begin with `ISTIO_META_`.
    pub proxy_metadata: BTreeMap<String, String>,
    /// What pods are scheduled and bounded by.
    pub pod: PodSettings,
}

/// What runs in a waypoint's container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerImages {
    /// The image of Gateways of our class.
    pub waymark: String,
    /// The image of Gateways of upstream's class: whatever takes the arguments and the environment of upstream's.
    pub istio: String,
    /// `imagePullPolicy`.
    pub pull_policy: Option<String>,
    /// Names of `imagePullSecrets`.
    pub pull_secrets: Vec<String>,
}

/// What pods are scheduled and bounded by; each as a pod's specification has it.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct PodSettings {
    /// Requests and limits of the container.
    pub resources: Value,
    /// `affinity`.
    pub affinity: Option<Value>,
    /// `topologySpreadConstraints`.
    pub topology_spread_constraints: Option<Value>,
    /// `nodeSelector`.
    pub node_selector: Option<Value>,
    /// `tolerations`.
    pub tolerations: Option<Value>,
    /// `securityContext.seccompProfile` of the container.
    pub seccomp_profile: Option<Value>,
    /// Whether log lines are JSON objects.
    pub log_as_json: bool,
}

impl Default for PodSettings {
    fn default() -> Self {
        Self {
            resources: json!({
                "requests": {"cpu": "100m", "memory": "128Mi"},
                "limits": {"cpu": "2", "memory": "1Gi"},
            }),
            affinity: None,
            topology_spread_constraints: None,
            node_selector: None,
            tolerations: None,
            seccomp_profile: Some(json!({"type": "RuntimeDefault"})),
            log_as_json: false,
        }
    }
}

impl Template {
    pub(super) fn service_account(&self, gateway: &GatewayView) -> Value {
        let infrastructure = gateway.infrastructure();
        json!({
            "apiVersion": "v1",
            "kind": "ServiceAccount",
            "metadata": self.metadata(
                gateway,
                &gateway.service_account_name(),
                &self.labels(gateway),
                &infrastructure.passed_annotations(),
            ),
        })
    }

    /// The Deployment. It names no number of replicas: that is the autoscaler's or the user's.
    pub(super) fn deployment(&self, gateway: &GatewayView) -> Value {
        let infrastructure = gateway.infrastructure();
        json!({
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": self.metadata(
                gateway,
                &gateway.deployment_name(),
                &self.labels(gateway),
                &infrastructure.passed_annotations(),
            ),
            "spec": {
                "selector": {"matchLabels": selector(gateway)},
                "template": pod::template(self, gateway),
            },
        })
    }

    pub(super) fn autoscaler(&self, gateway: &GatewayView) -> Value {
        let name = gateway.deployment_name();
        json!({
            "apiVersion": "autoscaling/v2",
            "kind": "HorizontalPodAutoscaler",
            "metadata": self.metadata(
                gateway,
                &name,
                &self.labels(gateway),
                &gateway.infrastructure().passed_annotations(),
            ),
            "spec": {
                "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": name},
                // The API server wants a number; overlays give the real one.
                "maxReplicas": 1,
            },
        })
    }

    pub(super) fn disruption_budget(&self, gateway: &GatewayView) -> Value {
        json!({
            "apiVersion": "policy/v1",
            "kind": "PodDisruptionBudget",
            "metadata": self.metadata(
                gateway,
                &gateway.deployment_name(),
                &self.labels(gateway),
                &gateway.infrastructure().passed_annotations(),
            ),
            "spec": {"selector": {"matchLabels": selector(gateway)}},
        })
    }

    /// The labels of every object.
    pub(super) fn labels(&self, gateway: &GatewayView) -> Map {
        self.with_network(gateway, gateway.infrastructure().object_labels())
    }

    /// The labels of the pods.
    fn pod_labels(&self, gateway: &GatewayView) -> Map {
        let mut labels = gateway
            .infrastructure()
            .pod_labels(&gateway.deployment_name());
        labels.insert("sidecar.istio.io/inject".to_owned(), "false".to_owned());
        self.with_network(gateway, labels)
    }

    pub(super) fn metadata(
        &self,
        gateway: &GatewayView,
        name: &str,
        labels: &Map,
        annotations: &Map,
    ) -> Value {
        let mut metadata = json!({
            "name": name,
            "namespace": gateway.namespace,
            "labels": labels,
            "ownerReferences": [{
                "apiVersion": "gateway.networking.k8s.io/v1",
                "kind": "Gateway",
                "name": gateway.name,
                "uid": gateway.uid,
            }],
        });
        if !annotations.is_empty() {
            metadata["annotations"] = json!(annotations);
        }
        metadata
    }

    fn network<'a>(&'a self, gateway: &'a GatewayView) -> Option<&'a str> {
        gateway.label(names::NETWORK).or(self.network.as_deref())
    }

    fn with_network(&self, gateway: &GatewayView, mut labels: Map) -> Map {
        if let Some(network) = self.network(gateway) {
            labels
                .entry(names::NETWORK.to_owned())
                .or_insert_with(|| network.to_owned());
        }
        labels
    }

    fn image<'a>(&'a self, gateway: &'a GatewayView) -> &'a str {
        gateway
            .annotation(PROXY_IMAGE)
            .unwrap_or(match gateway.class {
                WaypointClass::Istio => &self.images.istio,
                WaypointClass::Waymark => &self.images.waymark,
            })
    }
}

fn selector(gateway: &GatewayView) -> Map {
    Map::from([(names::GATEWAY_NAME.to_owned(), gateway.name.clone())])
}

/// Annotation: the image of the container.
const PROXY_IMAGE: &str = "sidecar.istio.io/proxyImage";
