//! What the deployer reads of a Gateway. It is lenient where upstream is: a listener that no waypoint has is told in the
//! Gateway's status, and does not take down a waypoint that runs.

use std::net::IpAddr;

use serde::Deserialize;
use serde_json::Value;
use waymark_api::meta::Map;
use waymark_api::names;
use waymark_api::waypoint::{Infrastructure, WaypointClass};

/// A Gateway of a class of waypoints.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GatewayView {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its UID, for the owner references of what is made for it.
    pub uid: String,
    /// `metadata.generation`: counts the changes of its specification.
    pub generation: i64,
    /// Its class.
    pub class: WaypointClass,
    /// Its labels.
    pub labels: Map,
    /// Its annotations.
    pub annotations: Map,
    /// `spec.infrastructure.labels`.
    pub infrastructure_labels: Map,
    /// `spec.infrastructure.annotations`.
    pub infrastructure_annotations: Map,
    /// `spec.infrastructure.parametersRef`.
    pub parameters: Option<Parameters>,
    /// `spec.addresses`.
    pub addresses: Vec<GatewayAddress>,
    /// `spec.listeners`: name, port, protocol.
    pub listeners: Vec<GatewayListener>,
}

/// A listener of a Gateway.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct GatewayListener {
    /// Its name.
    pub name: String,
    /// Its port.
    pub port: u16,
    /// Its protocol, of whatever name.
    pub protocol: String,
}

/// What `parametersRef` refers to.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Parameters {
    /// Its group; empty for ConfigMaps.
    #[serde(default)]
    pub group: String,
    /// Its kind.
    pub kind: String,
    /// Its name, in the Gateway's namespace.
    pub name: String,
}

/// An address that a Gateway asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GatewayAddress {
    /// `IPAddress`, as written.
    Ip(IpAddr),
    /// `Hostname`: the host of a Service that somebody else runs.
    Hostname(String),
    /// A type of somebody else's.
    Other(String),
}

/// Why something is no Gateway of a waypoint.
#[derive(Debug, thiserror::Error)]
pub enum GatewayError {
    /// Its class is not one of waypoints.
    #[error("class {0:?} is not one of waypoints")]
    Class(String),
    /// It is not made as a Gateway.
    #[error("read the Gateway")]
    Shape(#[source] serde_json::Error),
}

impl GatewayView {
    /// Reads a Gateway as the API server gives it.
    ///
    /// # Errors
    /// See [`GatewayError`].
    pub fn read(object: &Value) -> Result<Self, GatewayError> {
        let read = ReadGateway::deserialize(object).map_err(GatewayError::Shape)?;
        let Some(class) = WaypointClass::of_name(&read.spec.class_name) else {
            return Err(GatewayError::Class(read.spec.class_name));
        };
        let infrastructure = read.spec.infrastructure.unwrap_or_default();
        Ok(Self {
            namespace: read.metadata.namespace,
            name: read.metadata.name,
            uid: read.metadata.uid,
            generation: read.metadata.generation,
            class,
            labels: read.metadata.labels,
            annotations: read.metadata.annotations,
            infrastructure_labels: infrastructure.labels,
            infrastructure_annotations: infrastructure.annotations,
            parameters: infrastructure.parameters_ref,
            addresses: read.spec.addresses.into_iter().map(Into::into).collect(),
            listeners: read.spec.listeners,
        })
    }

    /// Whether a waypoint is to be run for it. An address of type Hostname, or several, say that somebody else does.
    pub fn is_managed(&self) -> bool {
        matches!(self.addresses.as_slice(), [] | [GatewayAddress::Ip(_)])
    }

    /// The name of Deployment, Service, autoscaler and budget: `gateway.istio.io/name-override`, else its own, with the
    /// class in the form of 2023.
    pub fn deployment_name(&self) -> String {
        if let Some(name) = self.annotation(names::GATEWAY_NAME_OVERRIDE) {
            name.to_owned()
        } else {
            self.default_name()
        }
    }

    /// The name of the account that the waypoint runs as.
    pub fn service_account_name(&self) -> String {
        self.annotation(names::GATEWAY_SERVICE_ACCOUNT)
            .map_or_else(|| self.default_name(), str::to_owned)
    }

    /// The host name of the Service in front of the waypoint.
    pub fn host(&self, cluster_domain: &str) -> String {
        format!(
            "{}.{}.svc.{cluster_domain}",
            self.deployment_name(),
            self.namespace
        )
    }

    /// An annotation's value.
    pub fn annotation(&self, name: &str) -> Option<&str> {
        self.annotations.get(name).map(String::as_str)
    }

    /// A label's value.
    pub fn label(&self, name: &str) -> Option<&str> {
        self.labels.get(name).map(String::as_str)
    }

    /// What it says about the metadata of what is made for it.
    pub fn infrastructure(&self) -> Infrastructure<'_> {
        Infrastructure {
            gateway: &self.name,
            class: self.class,
            own_labels: &self.labels,
            own_annotations: &self.annotations,
            labels: &self.infrastructure_labels,
            annotations: &self.infrastructure_annotations,
        }
    }

    /// The version of the controller that keeps it, as annotated: what is unreadable counts as newer than every one.
    pub fn controller_version(&self) -> Option<u64> {
        self.annotation(names::GATEWAY_CONTROLLER_VERSION)
            .map(|text| text.parse().unwrap_or(u64::MAX))
    }

    /// The address that it asks for.
    pub(super) fn requested_address(&self) -> Option<IpAddr> {
        match self.addresses.as_slice() {
            [GatewayAddress::Ip(ip)] => Some(*ip),
            _ => None,
        }
    }

    fn default_name(&self) -> String {
        if self.annotations.contains_key(names::FOR_SERVICE_ACCOUNT) {
            format!("{}-{}", self.name, self.class.name())
        } else {
            self.name.clone()
        }
    }
}

#[derive(Deserialize)]
struct ReadGateway {
    metadata: ReadMeta,
    spec: ReadSpec,
}

#[derive(Deserialize)]
struct ReadMeta {
    namespace: String,
    name: String,
    #[serde(default)]
    uid: String,
    #[serde(default)]
    generation: i64,
    #[serde(default)]
    labels: Map,
    #[serde(default)]
    annotations: Map,
}

#[derive(Deserialize)]
struct ReadSpec {
    #[serde(rename = "gatewayClassName")]
    class_name: String,
    #[serde(default)]
    listeners: Vec<GatewayListener>,
    #[serde(default)]
    addresses: Vec<ReadAddress>,
    infrastructure: Option<ReadInfrastructure>,
}

#[derive(Deserialize)]
struct ReadAddress {
    #[serde(rename = "type")]
    kind: Option<String>,
    #[serde(default)]
    value: String,
}

#[derive(Default, Deserialize)]
struct ReadInfrastructure {
    #[serde(default)]
    labels: Map,
    #[serde(default)]
    annotations: Map,
    #[serde(rename = "parametersRef")]
    parameters_ref: Option<Parameters>,
}

impl From<ReadAddress> for GatewayAddress {
    fn from(read: ReadAddress) -> Self {
        match (read.kind.as_deref(), read.value.parse()) {
            (None | Some("IPAddress"), Ok(ip)) => Self::Ip(ip),
            (Some("Hostname"), _) => Self::Hostname(read.value),
            // One that is left to be chosen, which nobody here can do, is somebody else's too.
            (None | Some(_), _) => Self::Other(read.value),
        }
    }
}
