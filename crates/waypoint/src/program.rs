//! The compiled configuration: immutable flat tables that the data path walks without interpretation.
//!
//! A [`Snapshot`] is swapped whole through a [`SnapshotCell`]; a request loads it once, so that its chain, routes,
//! clusters and endpoints agree. What changes often is an `Arc` of its own inside it, so that publishing a change costs
//! what changed: a chain (with its route table) is looked up by [`ChainId`], a cluster by [`ClusterRef`], both dense
//! indices that keep their meaning for the life of the process. A connection remembers its [`ChainId`] and asks each new
//! snapshot again: it sees new routes at once, and a chain that is gone ([`Snapshot::chain`] gives `None`) tells it to
//! drain.
//!
//! Envoy's internal listeners are not here: `connect_terminate -> main_internal -> connect_originate` is compiled into
//! [`HboneServer`] -> [`Destinations`] -> [`Chain`] -> [`Cluster`] -> [`EndpointKind::Tunnel`] -> [`TunnelClient`].

mod chain;
mod cluster;
mod destinations;
mod hashed;
mod hbone;
mod names;
mod string_match;

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use arc_swap::ArcSwap;

pub use self::chain::{
    AccessLog, AccessLogFilter, Chain, Codec, EscapedSlashes, Http1Options, Http2Options,
    HttpChain, HttpFilter, HttpTimeouts, KeepAlive, LogTarget, PathOptions, RequestIdOptions,
    ServerHeader, StatsOptions, TcpChain, TcpDestination, Underscores,
};
pub use self::cluster::{
    Breakers, Cluster, Discovery, DnsHost, DnsSettings, Endpoint, EndpointHealth, EndpointKind,
    EndpointSet, LbPolicy, LocalityEndpoints, LocalityName, Priority, ServiceName, SlowStart,
    Thresholds, UpstreamHttp, UpstreamHttp2, UpstreamProtocol, WorkloadName,
};
pub use self::destinations::{Destinations, DestinationsBuilder, SniffedProtocol, Target};
pub use self::hashed::Hashed;
pub use self::hbone::{HboneServer, PeerRule, TunnelClient};
pub use self::names::{Names, SnapshotParts};
pub(crate) use self::string_match::starts_with;
pub use self::string_match::{Pattern, PatternError, StringMatch};

/// Where the current [`Snapshot`] is published; workers keep an [`arc_swap::Cache`] of it.
pub type SnapshotCell = Arc<ArcSwap<Snapshot>>;

/// A filter chain's index in every snapshot of this process. The same chain name has the same id for ever.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ChainId(pub(crate) u32);

impl ChainId {
    /// The dense index, for per-worker tables.
    #[must_use]
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// A cluster's index in every snapshot of this process. The same cluster name has the same id for ever.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ClusterId(pub(crate) u32);

impl ClusterId {
    /// The dense index, for per-worker tables.
    #[must_use]
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// A cluster named by a route or a chain. It may not exist (yet): that is 503 with flag `NC`, not an error.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct ClusterRef {
    /// The cluster's name, as configured.
    pub name: Arc<str>,
    /// Where it is in a snapshot, if it is there.
    pub id: ClusterId,
}

impl fmt::Display for ClusterRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

/// Everything that the data path needs to know, at one moment.
#[derive(Debug, Default)]
pub struct Snapshot {
    /// Counts publications, from 1; 0 is the empty snapshot before any configuration.
    pub generation: u64,
    /// The HBONE terminator (`connect_terminate`); `None` until it is received.
    pub hbone: Option<Arc<HboneServer>>,
    /// How tunnels to endpoints are made (`connect_originate`); `None` until it is received.
    pub tunnel: Option<Arc<TunnelClient>>,
    /// `(IP, port)` of a CONNECT authority to chain.
    pub destinations: Arc<Destinations>,
    pub(crate) chains: Vec<Option<Arc<Chain>>>,
    pub(crate) clusters: Vec<Option<Arc<Cluster>>>,
    pub(crate) clusters_by_name: Arc<HashMap<Arc<str>, ClusterId>>,
}

impl Snapshot {
    /// An empty snapshot in a cell, for the process to start with.
    #[must_use]
    pub fn cell() -> SnapshotCell {
        Arc::new(ArcSwap::from_pointee(Snapshot::default()))
    }

    /// The chain of that id as it is now; `None` when it was removed.
    #[must_use]
    pub fn chain(&self, id: ChainId) -> Option<&Arc<Chain>> {
        self.chains.get(id.index())?.as_ref()
    }

    /// The cluster of that id as it is now; `None` when there is none of that name.
    #[must_use]
    pub fn cluster(&self, id: ClusterId) -> Option<&Arc<Cluster>> {
        self.clusters.get(id.index())?.as_ref()
    }

    /// A cluster by name (`cluster_header` routes, admin).
    #[must_use]
    pub fn cluster_by_name(&self, name: &str) -> Option<&Arc<Cluster>> {
        self.cluster(*self.clusters_by_name.get(name)?)
    }

    /// All clusters, in order of first sight.
    pub fn clusters(&self) -> impl Iterator<Item = &Arc<Cluster>> {
        self.clusters.iter().flatten()
    }

    /// All chains, in order of first sight.
    pub fn chains(&self) -> impl Iterator<Item = (ChainId, &Arc<Chain>)> {
        self.chains
            .iter()
            .enumerate()
            .filter_map(|(i, chain)| Some((ChainId(u32::try_from(i).ok()?), chain.as_ref()?)))
    }
}
