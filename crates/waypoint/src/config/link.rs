//! Listeners and clusters to one program: the hops between internal listeners are followed here, and gone after it.

use std::sync::Arc;

use tracing::warn;

use super::listeners::AcceptedListener;
use super::state::State;
use crate::decode::{Hop, Listener, Router};
use crate::program::{HboneServer, SnapshotParts, TunnelClient};

impl State {
    /// What the snapshot is made of.
    pub(super) fn link(&self) -> SnapshotParts {
        let mut parts = SnapshotParts {
            clusters: self
                .active_clusters()
                .map(|(_, c)| Arc::clone(&c.cluster))
                .collect(),
            tunnel: self.tunnel().map(Arc::new),
            ..SnapshotParts::default()
        };
        if let Some((server, router, listener)) = self.entrance() {
            parts.hbone = Some(Arc::new(server.clone()));
            parts.destinations = Arc::new(router.destinations.clone());
            parts.chains.clone_from(&listener.chains);
        }
        parts
    }

    /// The listener that accepts tunnels, and the router that its cluster leads to.
    fn entrance(&self) -> Option<(&HboneServer, &Router, &AcceptedListener)> {
        for (name, listener) in self.active_listeners() {
            let Listener::Terminate(terminate) = &listener.listener.kind else {
                continue;
            };
            let Some(Hop::ToListener(next)) = self.hop(&terminate.cluster) else {
                warn!(
                    listener = name,
                    cluster = &*terminate.cluster,
                    "tunnels lead to no internal listener"
                );
                continue;
            };
            let router = self.active_listeners().find(|(name, _)| **name == **next);
            if let Some((_, listener)) = router
                && let Listener::Router(router) = &listener.listener.kind
            {
                return Some((&terminate.server, router, listener));
            }
            // One whose routes are on their way is complete in a moment.
            let coming = self.listeners.get(&**next);
            if !coming.is_some_and(|entry| entry.active.is_none() && entry.warming.is_some()) {
                warn!(
                    listener = name,
                    internal_listener = &**next,
                    "tunnels lead to a listener that routes nothing"
                );
            }
        }
        None
    }

    /// How tunnels are made: by the cluster of the listener that makes them.
    fn tunnel(&self) -> Option<TunnelClient> {
        for (name, listener) in self.active_listeners() {
            let Listener::Originate(originate) = &listener.listener.kind else {
                continue;
            };
            match self.hop(&originate.cluster) {
                Some(Hop::Tunnel(client)) => {
                    return Some(client.clone());
                }
                _ => warn!(
                    listener = name,
                    cluster = &*originate.cluster,
                    "the cluster makes no tunnels"
                ),
            }
        }
        None
    }

    /// Name of the listener that accepts tunnels.
    pub(super) fn entrance_name(&self) -> Option<&str> {
        let terminates = |l: &AcceptedListener| matches!(l.listener.kind, Listener::Terminate(_));
        self.active_listeners()
            .find(|(_, l)| terminates(l))
            .map(|(name, _)| name)
    }

    /// Clusters whose only endpoint is an internal listener, and that listener.
    pub(super) fn hops(&self) -> Vec<(String, String)> {
        let to = |hop: &Hop| match hop {
            Hop::ToListener(listener) | Hop::DoubleTunnel(listener) => Some(listener.to_string()),
            Hop::No | Hop::Tunnel(_) => None,
        };
        self.active_clusters()
            .filter_map(|(name, c)| Some((name.to_owned(), to(&c.hop)?)))
            .collect()
    }

    fn hop(&self, cluster: &str) -> Option<&Hop> {
        Some(&self.clusters.get(cluster)?.active.as_ref()?.value.hop)
    }

    fn active_clusters(&self) -> impl Iterator<Item = (&str, &super::clusters::AcceptedCluster)> {
        self.clusters
            .iter()
            .filter_map(|(name, entry)| Some((name.as_str(), &entry.active.as_ref()?.value)))
    }

    fn active_listeners(&self) -> impl Iterator<Item = (&str, &AcceptedListener)> {
        self.listeners
            .iter()
            .filter_map(|(name, entry)| Some((name.as_str(), &entry.active.as_ref()?.value)))
    }
}
