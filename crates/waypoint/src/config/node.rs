//! Who the waypoint says it is to the control plane.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde_json::Value;
use waymark_proto::envoy::envoy::config::core::v3 as core;
use waymark_proto::envoy::envoy::r#type::v3::SemanticVersion;
use waymark_proto::envoy::google::protobuf as wkt;

/// What a waypoint tells about itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeOptions {
    /// Its name: that of the pod.
    pub name: String,
    /// Its namespace.
    pub namespace: String,
    /// Its service account.
    pub service_account: String,
    /// Name of the waypoints that are alike; `None`: `<service account>.<namespace>`.
    pub service_cluster: Option<String>,
    /// Its addresses, the main one first.
    pub addresses: Vec<IpAddr>,
    /// The Gateway that it serves.
    pub gateway: String,
    /// The cluster that it is in.
    pub cluster_id: String,
    /// The network that it is in.
    pub network: Option<String>,
    /// The mesh that it is in.
    pub mesh_id: String,
    /// Domain of the mesh's host names.
    pub domain: String,
    /// Region, zone, sub-zone.
    pub locality: (String, String, String),
    /// More labels, besides those that a waypoint always has.
    pub labels: BTreeMap<String, String>,
    /// The Istio version that it claims to be; `None`: none, which asks our control plane for its own flavour.
    pub istio_version: Option<String>,
    /// More metadata; what is here comes before what the rest says.
    pub metadata: BTreeMap<String, Value>,
}

impl NodeOptions {
    /// The id: `waypoint~<ip>~<name>.<namespace>~<namespace>.svc.<domain>`.
    #[must_use]
    pub fn id(&self) -> String {
        let ip = self
            .addresses
            .first()
            .map(ToString::to_string)
            .unwrap_or_default();
        let Self {
            name,
            namespace,
            domain,
            ..
        } = self;
        format!("waypoint~{ip}~{name}.{namespace}~{namespace}.svc.{domain}")
    }

    /// The message that opens a stream.
    #[must_use]
    pub fn node(&self) -> core::Node {
        let (region, zone, sub_zone) = self.locality.clone();
        core::Node {
            id: self.id(),
            cluster: match &self.service_cluster {
                Some(name) => name.clone(),
                None => format!("{}.{}", self.service_account, self.namespace),
            },
            metadata: Some(self.metadata()),
            locality: Some(core::Locality {
                region,
                zone,
                sub_zone,
            }),
            user_agent_name: "waymark".to_owned(),
            user_agent_version_type: Some(core::node::UserAgentVersionType::UserAgentBuildVersion(
                build_version(),
            )),
            ..core::Node::default()
        }
    }

    fn metadata(&self) -> wkt::Struct {
        let mut labels = BTreeMap::from([
            (
                "gateway.networking.k8s.io/gateway-name".to_owned(),
                self.gateway.clone(),
            ),
            (
                "gateway.networking.k8s.io/gateway-class-name".to_owned(),
                "istio-waypoint".to_owned(),
            ),
            (
                "gateway.istio.io/managed".to_owned(),
                "istio.io-mesh-controller".to_owned(),
            ),
            (
                "service.istio.io/canonical-name".to_owned(),
                self.gateway.clone(),
            ),
            (
                "service.istio.io/canonical-revision".to_owned(),
                "latest".to_owned(),
            ),
        ]);
        labels.extend(self.labels.clone());
        let labels = wkt::Struct {
            fields: labels.into_iter().map(|(k, v)| (k, text(v))).collect(),
        };
        let addresses: Vec<_> = self.addresses.iter().map(ToString::to_string).collect();
        let mut fields = BTreeMap::from([
            ("NAMESPACE", text(&self.namespace)),
            ("SERVICE_ACCOUNT", text(&self.service_account)),
            ("CLUSTER_ID", text(&self.cluster_id)),
            ("INSTANCE_IPS", text(addresses.join(","))),
            ("MESH_ID", text(&self.mesh_id)),
            ("NAME", text(&self.name)),
            ("WORKLOAD_NAME", text(&self.gateway)),
            (
                "LABELS",
                wkt::Value {
                    kind: Some(wkt::value::Kind::StructValue(labels)),
                },
            ),
        ]);
        if let Some(network) = &self.network {
            fields.insert("NETWORK", text(network));
        }
        // A control plane of ours is told the release of ours; one that goes by Istio's gets exactly what it demands.
        match &self.istio_version {
            Some(version) => fields.insert("ISTIO_VERSION", text(version)),
            None => fields.insert("WAYMARK_VERSION", text(env!("CARGO_PKG_VERSION"))),
        };
        let mut fields: std::collections::HashMap<_, _> =
            fields.into_iter().map(|(k, v)| (k.to_owned(), v)).collect();
        fields.extend(self.metadata.iter().map(|(k, v)| (k.clone(), json(v))));
        wkt::Struct { fields }
    }
}

fn text(value: impl Into<String>) -> wkt::Value {
    wkt::Value {
        kind: Some(wkt::value::Kind::StringValue(value.into())),
    }
}

fn json(value: &Value) -> wkt::Value {
    use wkt::value::Kind;
    let kind = match value {
        Value::Null => Kind::NullValue(0),
        Value::Bool(value) => Kind::BoolValue(*value),
        // Every number of JSON is one of JavaScript's in a Struct.
        Value::Number(number) => Kind::NumberValue(number.as_f64().unwrap_or_default()),
        Value::String(text) => Kind::StringValue(text.clone()),
        Value::Array(values) => Kind::ListValue(wkt::ListValue {
            values: values.iter().map(json).collect(),
        }),
        Value::Object(fields) => Kind::StructValue(wkt::Struct {
            fields: fields.iter().map(|(k, v)| (k.clone(), json(v))).collect(),
        }),
    };
    wkt::Value { kind: Some(kind) }
}

/// The version of this program.
pub(crate) fn build_version() -> core::BuildVersion {
    let part = |text: &str| text.parse().unwrap_or_default();
    let metadata = [
        (
            "build.type",
            if cfg!(debug_assertions) {
                "DEBUG"
            } else {
                "RELEASE"
            },
        ),
        ("ssl.version", "aws-lc"),
    ];
    core::BuildVersion {
        version: Some(SemanticVersion {
            major_number: part(env!("CARGO_PKG_VERSION_MAJOR")),
            minor_number: part(env!("CARGO_PKG_VERSION_MINOR")),
            patch: part(env!("CARGO_PKG_VERSION_PATCH")),
        }),
        metadata: Some(wkt::Struct {
            fields: metadata
                .into_iter()
                .map(|(k, v)| (k.to_owned(), text(v)))
                .collect(),
        }),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    pub(crate) fn options() -> NodeOptions {
        NodeOptions {
            name: "reviews-0".into(),
            namespace: "default".into(),
            service_account: "waypoint".into(),
            service_cluster: None,
            addresses: vec!["127.244.0.9".parse().unwrap()],
            gateway: "reviews".into(),
            cluster_id: "Kubernetes".into(),
            network: None,
            mesh_id: "cluster.local".into(),
            domain: "cluster.local".into(),
            locality: Default::default(),
            labels: BTreeMap::new(),
            istio_version: None,
            metadata: BTreeMap::new(),
        }
    }

    #[test]
    fn id_has_four_parts() {
        let id = options().id();
        assert_eq!(
            id,
            "waypoint~127.244.0.9~reviews-0.default~default.svc.cluster.local"
        );
        assert!(id.parse::<waymark_xds::NodeId>().is_ok());
    }
}
