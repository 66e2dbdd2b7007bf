//! What a waypoint's proxy says of itself.

use std::collections::BTreeMap;
use std::net::IpAddr;

use waymark_api::ambient::Locality;
use waymark_api::names;
use waymark_proto::envoy::envoy::config::core::v3::Node;
use waymark_proto::envoy::google::protobuf::{Struct, value::Kind};
use waymark_xds::NodeId;

use crate::index::Index;
use crate::index::key::WaypointKey;
use crate::index::workload::Workload;
use crate::translate::input::{Flavour, IpFamily, IstioVersion, Proxy};

/// A node's metadata.
#[derive(Clone, Debug, Default)]
pub(super) struct Metadata(Option<Struct>);

/// A node says too little of itself, or something that makes no sense.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum NodeError {
    /// It is not said which Gateway the proxy is of.
    #[error(
        "node metadata LABELS has no {}, and no replica of a waypoint has the address {address}",
        names::GATEWAY_NAME
    )]
    NoGateway {
        /// The proxy's address, as it says it.
        address: String,
    },
    /// No address.
    #[error("neither node metadata INSTANCE_IPS nor the node id has an IP address")]
    NoAddress,
    /// Not a flavour.
    #[error("node metadata WAYMARK_FLAVOUR is {0:?}, want stock or istio-proxy")]
    Flavour(String),
    /// Not an address.
    #[error("node metadata WAYMARK_BIND_ADDRESS is {0:?}, want an IP address")]
    BindAddress(String),
}

impl Metadata {
    pub(super) fn new(metadata: Option<&Struct>) -> Self {
        Self(metadata.cloned())
    }

    /// A text that is not empty.
    pub(super) fn text(&self, key: &str) -> Option<&str> {
        match &self.0.as_ref()?.fields.get(key)?.kind {
            Some(Kind::StringValue(text)) if !text.is_empty() => Some(text),
            _ => None,
        }
    }

    /// The namespace that is claimed.
    pub(super) fn namespace(&self) -> Option<&str> {
        self.text("NAMESPACE")
    }

    fn map(&self, key: &str) -> BTreeMap<String, String> {
        match self
            .0
            .as_ref()
            .and_then(|fields| fields.fields.get(key))
            .and_then(|value| value.kind.as_ref())
        {
            Some(Kind::StructValue(map)) => map
                .fields
                .iter()
                .filter_map(|(name, value)| match &value.kind {
                    Some(Kind::StringValue(text)) => Some((name.clone(), text.clone())),
                    _ => None,
                })
                .collect(),
            _ => BTreeMap::new(),
        }
    }
}

/// The proxy that a waypoint's node describes.
pub(super) fn proxy(
    index: &Index,
    node: &Node,
    id: &NodeId,
    metadata: &Metadata,
) -> Result<Proxy, NodeError> {
    let addresses = addresses(id, metadata);
    let ip_family = ip_family(&addresses).ok_or(NodeError::NoAddress)?;
    let pod = pod(index, &addresses);
    let key = gateway(index, id, metadata)?;
    let (namespace, gateway) = (key.namespace.clone(), key.name.clone());
    let deployment = index
        .waypoints()
        .find(&key)
        .and_then(|waypoint| waypoint.deployment());
    let account = metadata.text("SERVICE_ACCOUNT").map(str::to_owned);
    let bind = metadata
        .text("WAYMARK_BIND_ADDRESS")
        .map(|address| {
            address
                .parse()
                .map_err(|_| NodeError::BindAddress(address.to_owned()))
        })
        .transpose()?;
    Ok(Proxy {
        deployment: deployment.map_or_else(
            || gateway.clone(),
            |deployment| deployment.name.as_ref().to_owned(),
        ),
        service_account: account
            .or_else(|| deployment.map(|deployment| deployment.service_account.as_ref().to_owned()))
            .unwrap_or_else(|| gateway.clone()),
        cluster_id: metadata
            .text("CLUSTER_ID")
            .unwrap_or(&index.mesh().cluster_id)
            .to_owned(),
        network: metadata.text("NETWORK").map(str::to_owned),
        locality: locality(index, pod, node),
        node_name: metadata.text("NODE_NAME").map(str::to_owned),
        ip_family,
        bind,
        flavour: flavour(metadata)?,
        istio_version: metadata
            .text("ISTIO_VERSION")
            .map_or(IstioVersion::NEWEST, IstioVersion::parse),
        mesh_id: metadata
            .text("MESH_ID")
            .unwrap_or(&index.mesh().trust_domain)
            .to_owned(),
        namespace,
        gateway,
        labels: metadata.map("LABELS"),
    })
}

/// The waypoint that a node is of: by its labels, else by the pod that has its address.
pub(super) fn gateway(
    index: &Index,
    id: &NodeId,
    metadata: &Metadata,
) -> Result<WaypointKey, NodeError> {
    let namespace = metadata.namespace().unwrap_or(id.namespace());
    let by_label = metadata.map("LABELS").remove(names::GATEWAY_NAME);
    let by_address = || {
        let gateway = pod(index, &addresses(id, metadata))?.gateway()?;
        (gateway.namespace == namespace).then(|| gateway.name.clone())
    };
    let name = by_label
        .or_else(by_address)
        .ok_or_else(|| NodeError::NoGateway {
            address: id.ip.clone(),
        })?;
    Ok(WaypointKey::new(namespace, name))
}

fn pod<'a>(index: &'a Index, addresses: &[IpAddr]) -> Option<&'a Workload> {
    addresses
        .iter()
        .find_map(|address| index.workload_of_address(*address))
}

fn flavour(metadata: &Metadata) -> Result<Flavour, NodeError> {
    match (
        metadata.text("WAYMARK_FLAVOUR"),
        metadata.text("ISTIO_VERSION"),
    ) {
        (Some("stock"), _) | (None, None) => Ok(Flavour::Stock),
        (Some("istio-proxy"), _) | (None, Some(_)) => Ok(Flavour::IstioProxy),
        (Some(other), _) => Err(NodeError::Flavour(other.to_owned())),
    }
}

/// `INSTANCE_IPS`, where it has any, else the id's.
pub(super) fn addresses(id: &NodeId, metadata: &Metadata) -> Vec<IpAddr> {
    let instance = metadata.text("INSTANCE_IPS").unwrap_or_default();
    let addresses: Vec<IpAddr> = instance
        .split(',')
        .filter_map(|address| address.trim().parse().ok())
        .collect();
    if addresses.is_empty() {
        id.ip.parse().ok().into_iter().collect()
    } else {
        addresses
    }
}

fn ip_family(addresses: &[IpAddr]) -> Option<IpFamily> {
    match (
        addresses.iter().any(IpAddr::is_ipv4),
        addresses.iter().any(IpAddr::is_ipv6),
    ) {
        (true, true) => Some(IpFamily::Dual),
        (true, false) => Some(IpFamily::V4),
        (false, true) => Some(IpFamily::V6),
        (false, false) => None,
    }
}

/// What is known of the proxy's pod comes before what the proxy says.
fn locality(index: &Index, pod: Option<&Workload>, node: &Node) -> Locality {
    let said = node.locality.as_ref().map(|locality| Locality {
        region: locality.region.clone(),
        zone: locality.zone.clone(),
        subzone: locality.sub_zone.clone(),
    });
    pod.and_then(|pod| index.locality(pod))
        .cloned()
        .or(said)
        .unwrap_or_default()
}
