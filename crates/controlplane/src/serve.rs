//! Who connects, whether they may, and which set of resources they are given.
//!
//! Spec: control-plane.md 2.2 and 2.3, waypoint-xds.md 2.2.

mod node;

use std::net::IpAddr;
use std::sync::Arc;

use http::HeaderMap;
use tonic::Extensions;
use tracing::debug;
use waymark_identity::SpiffeId;
use waymark_identity::grpc::PeerInfo;
use waymark_proto::envoy::envoy::config::core::v3::Node;
use waymark_xds::server::{Client, ClientSummary, Refusal, Source, View};
use waymark_xds::{NodeId, NodeKind, ResourceSet};

use self::node::Metadata;
use crate::ca::{Authenticator, Caller, NodeAuthorizer, Shown};
use crate::core::{Core, Inner};
use crate::generate::ProxyKey;
use crate::index::Index;
use crate::index::key::WaypointKey;
use crate::index::workload::Tunnel;

/// What the xDS server asks.
#[derive(Debug)]
pub struct XdsSource {
    core: Arc<Core>,
    authenticator: Arc<Authenticator>,
}

impl XdsSource {
    /// Serves what `core` knows to whom `authenticator` lets in.
    pub fn new(core: Arc<Core>, authenticator: Arc<Authenticator>) -> Self {
        Self {
            core,
            authenticator,
        }
    }

    fn open_waypoint(
        &self,
        client: &Client,
        id: &NodeId,
        metadata: &Metadata,
    ) -> Result<View, Refusal> {
        let proxy = self
            .core
            .read(|inner| node::proxy(&inner.index, &client.node, id, metadata))
            .map_err(|error| Refusal::InvalidArgument(error.to_string()))?;
        let (sets, lease) = self
            .core
            .open_waypoint(ProxyKey::new(proxy))
            .ok_or_else(not_ready)?;
        Ok(View {
            sets,
            guard: Some(Box::new(lease)),
        })
    }
}

impl Source for XdsSource {
    async fn authenticate(
        &self,
        headers: &HeaderMap,
        extensions: &Extensions,
    ) -> Result<Option<String>, Refusal> {
        let peer = extensions.get::<PeerInfo>();
        if peer.is_some_and(|peer| !peer.tls) {
            // The plain-text port knows nobody, and is only there where the operator asked for it.
            return Ok(None);
        }
        let shown = Shown::of_headers(peer, headers);
        match self.authenticator.authenticate_shown(shown).await {
            Ok(caller) => Ok(Some(caller.identity.to_string())),
            Err(error) => {
                debug!(%error, "xds client is nobody we know");
                Err(Refusal::Unauthenticated(
                    "authentication failure".to_owned(),
                ))
            }
        }
    }

    fn open(&self, client: &Client) -> Result<View, Refusal> {
        if !self.core.is_ready() {
            return Err(not_ready());
        }
        let id: NodeId = client
            .node
            .id
            .parse()
            .map_err(|error: waymark_xds::NodeIdError| {
                Refusal::InvalidArgument(error.to_string())
            })?;
        let metadata = Metadata::new(client.node.metadata.as_ref());
        check_identity(client.identity.as_deref(), &id, &metadata)?;
        match id.kind {
            NodeKind::Waypoint => self.open_waypoint(client, &id, &metadata),
            NodeKind::Ztunnel => Ok(View::new(self.core.open_node().ok_or_else(not_ready)?)),
            NodeKind::Sidecar | NodeKind::Router | NodeKind::AgentGateway => {
                Err(Refusal::InvalidArgument(format!(
                    "nodes of type {} are not served, only waypoint and ztunnel",
                    id.kind.as_str()
                )))
            }
        }
    }
}

/// Whether a client is who it says it is.
pub(crate) fn check_client(client: &Client) -> Result<(), Refusal> {
    let id: NodeId = client
        .node
        .id
        .parse()
        .map_err(|error: waymark_xds::NodeIdError| Refusal::InvalidArgument(error.to_string()))?;
    let metadata = Metadata::new(client.node.metadata.as_ref());
    check_identity(client.identity.as_deref(), &id, &metadata)
}

/// A client may only say that it is in the namespace, and has the service account, that it was authenticated as.
fn check_identity(identity: Option<&str>, id: &NodeId, metadata: &Metadata) -> Result<(), Refusal> {
    let Some(identity) = identity else {
        return Ok(());
    };
    let denied = |text: String| Err(Refusal::PermissionDenied(text));
    let Ok(identity) = identity.parse::<SpiffeId>() else {
        return denied(format!("{identity} is no identity of the mesh"));
    };
    let namespace = metadata.namespace().unwrap_or(id.namespace());
    if identity.namespace() != namespace {
        return denied(format!(
            "{identity} may not be a proxy of namespace {namespace}"
        ));
    }
    match metadata.text("SERVICE_ACCOUNT") {
        Some(account) if account != identity.service_account() => denied(format!(
            "{identity} may not be a proxy of service account {account}"
        )),
        Some(_) | None => Ok(()),
    }
}

/// The waypoint that a connection is of, by what it says of itself.
pub fn gateway_of(index: &Index, client: &ClientSummary) -> Option<WaypointKey> {
    let id: NodeId = client
        .node_id
        .parse()
        .ok()
        .filter(|id: &NodeId| id.kind == NodeKind::Waypoint)?;
    node::gateway(index, &id, &Metadata::new(client.metadata.as_ref())).ok()
}

/// What a connected waypoint is to have now.
pub fn resources_of<'a>(inner: &'a Inner, client: &ClientSummary) -> Option<&'a ResourceSet> {
    let id: NodeId = client.node_id.parse().ok()?;
    let metadata = Metadata::new(client.metadata.as_ref());
    // Where it runs is not kept of a connection; its waypoint has the same configuration everywhere but for priorities.
    let proxy = node::proxy(&inner.index, &Node::default(), &id, &metadata).ok()?;
    inner.generator.resources_like(&proxy)
}

/// A connected waypoint as a replica: of which waypoint, its name, its address.
pub fn replica_of(
    index: &Index,
    client: &ClientSummary,
) -> Option<(WaypointKey, Arc<str>, IpAddr)> {
    let id: NodeId = client.node_id.parse().ok()?;
    let metadata = Metadata::new(client.metadata.as_ref());
    let address = node::addresses(&id, &metadata).first().copied()?;
    Some((gateway_of(index, client)?, id.pod().into(), address))
}

/// The namespace that a connection claims.
pub fn namespace_of(client: &ClientSummary, id: &NodeId) -> String {
    let metadata = Metadata::new(client.metadata.as_ref());
    metadata.namespace().unwrap_or(id.namespace()).to_owned()
}

/// A text of a connection's metadata.
pub fn metadata_text(client: &ClientSummary, key: &str) -> Option<String> {
    Metadata::new(client.metadata.as_ref())
        .text(key)
        .map(str::to_owned)
}

fn not_ready() -> Refusal {
    Refusal::Unavailable("the mesh has not been read yet".to_owned())
}

/// Node proxies may have certificates for the workloads that they capture, and for no others: a waypoint keeps its own.
#[derive(Debug)]
pub struct CapturedWorkloads(pub Arc<Core>);

impl NodeAuthorizer for CapturedWorkloads {
    fn may_impersonate(&self, _caller: &Caller, identity: &SpiffeId) -> bool {
        self.0.read(|inner| {
            inner
                .index
                .workloads_of_account(identity.namespace(), identity.service_account())
                .any(|workload| workload.tunnel == Tunnel::Hbone)
        })
    }
}

#[cfg(test)]
mod tests;
