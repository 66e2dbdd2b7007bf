//! Names to dense indices.

use std::collections::HashMap;
use std::sync::Arc;

use crate::program::{
    Chain, ChainId, Cluster, ClusterId, ClusterRef, Destinations, HboneServer, Snapshot,
    TunnelClient,
};

/// Gives each name of a chain or cluster its index, the same one for ever.
///
/// A name is never forgotten: a mesh has few, and an index that is used again would make old connections take a
/// stranger's chain for theirs.
#[derive(Debug, Default, Clone)]
pub struct Names {
    chains: HashMap<Arc<str>, ChainId>,
    clusters: Arc<HashMap<Arc<str>, ClusterId>>,
}

impl Names {
    /// The id of the chain of that name.
    pub fn chain(&mut self, name: &str) -> ChainId {
        if let Some(id) = self.chains.get(name) {
            return *id;
        }
        let id = ChainId(index(self.chains.len()));
        self.chains.insert(name.into(), id);
        id
    }

    /// A reference to the cluster of that name.
    pub fn cluster(&mut self, name: &str) -> ClusterRef {
        if let Some((name, id)) = self.clusters.get_key_value(name) {
            return ClusterRef {
                name: Arc::clone(name),
                id: *id,
            };
        }
        let name: Arc<str> = name.into();
        let id = ClusterId(index(self.clusters.len()));
        Arc::make_mut(&mut self.clusters).insert(Arc::clone(&name), id);
        ClusterRef { name, id }
    }
}

fn index(len: usize) -> u32 {
    u32::try_from(len).expect("names fit in memory, so their number fits in 32 bits")
}

/// What a snapshot is put together from.
#[derive(Debug, Default, Clone)]
pub struct SnapshotParts {
    /// The HBONE terminator.
    pub hbone: Option<Arc<HboneServer>>,
    /// How tunnels to endpoints are made.
    pub tunnel: Option<Arc<TunnelClient>>,
    /// Destination to chain.
    pub destinations: Arc<Destinations>,
    /// All chains.
    pub chains: Vec<Arc<Chain>>,
    /// All clusters.
    pub clusters: Vec<Arc<Cluster>>,
}

impl Snapshot {
    /// Puts a snapshot together. Of two chains or clusters of one name the later one counts.
    #[must_use]
    pub fn assemble(generation: u64, names: &mut Names, parts: SnapshotParts) -> Self {
        let mut chains = Vec::new();
        for chain in parts.chains {
            let at = names.chain(chain.name()).index();
            put(&mut chains, at, chain);
        }
        let mut clusters = Vec::new();
        for cluster in parts.clusters {
            let at = names.cluster(&cluster.name).id.index();
            put(&mut clusters, at, cluster);
        }
        Self {
            generation,
            hbone: parts.hbone,
            tunnel: parts.tunnel,
            destinations: parts.destinations,
            chains,
            clusters,
            clusters_by_name: Arc::clone(&names.clusters),
        }
    }
}

fn put<T>(items: &mut Vec<Option<T>>, at: usize, item: T) {
    if items.len() <= at {
        items.resize_with(at + 1, || None);
    }
    items[at] = Some(item);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_keeps_its_index() {
        let mut names = Names::default();
        let a = names.chain("a");
        let b = names.chain("b");
        assert_ne!(a, b);
        assert_eq!(names.chain("a"), a);
        assert_eq!(names.cluster("x"), names.cluster("x"));
        let snapshot = Snapshot::assemble(1, &mut names, SnapshotParts::default());
        assert!(snapshot.chain(b).is_none());
        assert!(snapshot.cluster_by_name("x").is_none());
    }
}
