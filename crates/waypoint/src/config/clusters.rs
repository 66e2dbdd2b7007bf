//! Clusters and their endpoints.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use arc_swap::ArcSwap;
use waymark_proto::envoy::envoy::config;

use super::entry::{Entries, InUse, Received, Refused};
use super::state::{Assignment, Endpoints, State, len};
use crate::decode::{DecodeError, Decoder, Hop};
use crate::program::{
    Cluster, Discovery, Endpoint, EndpointKind, EndpointSet, LocalityEndpoints, Priority,
};
use crate::telemetry::EndpointStats;

/// A cluster that was accepted.
#[derive(Debug)]
pub(super) struct AcceptedCluster {
    pub(super) cluster: Arc<Cluster>,
    pub(super) hop: Hop,
    sidecar_mtls: bool,
}

impl AcceptedCluster {
    /// Name of its load assignment, if that comes over EDS.
    pub(super) fn eds_name(&self) -> Option<&str> {
        match &self.cluster.discovery {
            Discovery::Eds { service_name } => Some(service_name),
            Discovery::Static
            | Discovery::Dns(_)
            | Discovery::OriginalDstTunnel
            | Discovery::OriginalDst { .. } => None,
        }
    }

    /// Whether it can serve: over EDS, once its endpoints have come.
    fn is_warm(&self) -> bool {
        self.eds_name().is_none() || self.cluster.endpoints.load().received
    }
}

impl State {
    pub(super) fn take_cluster(
        &mut self,
        name: &str,
        received: Received,
    ) -> Result<(), DecodeError> {
        let entry = self.clusters.entry(name.to_owned()).or_default();
        if entry.is_known::<config::cluster::v3::Cluster>(&received) {
            self.stats.config.unchanged.inc();
            return Ok(());
        }
        self.stats.config.clusters_decoded.inc();
        let decoded = Decoder::new(&mut self.names)
            .cluster(&received.bytes)
            .and_then(|decoded| {
                same_name(name, &decoded.value.cluster.name)?;
                Ok(decoded)
            });
        let decoded = match decoded {
            Ok(decoded) => decoded,
            Err(error) => {
                entry.refused = Some(Refused {
                    received,
                    why: error.to_string(),
                });
                return Err(error);
            }
        };
        entry.refused = None;
        let mut cluster = decoded.value.cluster;
        let before = entry.latest().map(|b| Arc::clone(&b.value.cluster));
        match &before {
            Some(before) => {
                cluster.stats = Arc::clone(&before.stats);
                self.stats.cluster_modified.inc();
            }
            None => self.stats.cluster_added.inc(),
        }
        match &cluster.discovery {
            Discovery::Eds { service_name } => {
                cluster.endpoints =
                    Arc::clone(self.endpoints.entry(service_name.to_string()).or_default());
            }
            Discovery::Static => {
                let set = Arc::into_inner(cluster.endpoints)
                    .and_then(|s| Arc::into_inner(s.into_inner()));
                cluster.endpoints = match &before {
                    Some(before) => Arc::clone(&before.endpoints),
                    None => Endpoints::default(),
                };
                replace(&cluster.endpoints, set.unwrap_or_default());
            }
            Discovery::Dns(settings) => {
                // Who resolves keeps what it has for names that have not changed.
                if let Some(before) =
                    before.filter(|b| b.discovery == Discovery::Dns(settings.clone()))
                {
                    cluster.endpoints = Arc::clone(&before.endpoints);
                }
            }
            Discovery::OriginalDstTunnel | Discovery::OriginalDst { .. } => {}
        }
        membership(&cluster);
        let value = AcceptedCluster {
            cluster: Arc::new(cluster),
            hop: decoded.value.hop,
            sidecar_mtls: decoded.value.sidecar_mtls,
        };
        let warm = value.is_warm();
        let in_use = InUse {
            received,
            value,
            ignored: decoded.ignored,
        };
        if warm {
            (entry.active, entry.warming) = (Some(in_use), None);
        } else {
            entry.warming = Some(in_use);
        }
        self.dirty = true;
        self.references_changed = true;
        Ok(())
    }

    pub(super) fn remove_clusters(&mut self, names: Vec<String>) {
        let gone = remove(&mut self.clusters, names);
        if gone > 0 {
            self.stats.cluster_removed.add(gone);
            self.dirty = true;
            self.references_changed = true;
        }
    }

    pub(super) fn take_endpoints(
        &mut self,
        name: &str,
        received: Received,
    ) -> Result<(), DecodeError> {
        let entry = self.assignments.entry(name.to_owned()).or_default();
        if entry.is_known::<config::endpoint::v3::ClusterLoadAssignment>(&received) {
            self.stats.config.unchanged.inc();
            self.warm_clusters(name);
            return Ok(());
        }
        self.stats.config.endpoints_decoded.inc();
        let users = self.users.get(name).map_or(&[][..], Vec::as_slice);
        let offers_mtls = users.iter().any(|user| {
            let cluster = self.clusters.get(user).and_then(|c| c.latest());
            cluster.is_some_and(|c| c.value.sidecar_mtls)
        });
        let decoded = Decoder::new(&mut self.names)
            .endpoints(&received.bytes)
            .and_then(|decoded| match &decoded.value.sidecar_mtls {
                Some(path) if offers_mtls => Err(DecodeError {
                    resource: name.to_owned(),
                    path: path.clone(),
                    why: "mutual TLS with a sidecar is not supported".to_owned(),
                }),
                _ => Ok(decoded),
            });
        let decoded = match decoded {
            Ok(decoded) => decoded,
            Err(error) => {
                entry.refused = Some(Refused {
                    received,
                    why: error.to_string(),
                });
                return Err(error);
            }
        };
        let value = Assignment {
            sidecar_mtls: decoded.value.sidecar_mtls,
        };
        debug_assert!(value.sidecar_mtls.is_none() || !offers_mtls);
        entry.refused = None;
        entry.active = Some(InUse {
            received,
            value,
            ignored: decoded.ignored,
        });
        let endpoints = self.endpoints.entry(name.to_owned()).or_default();
        replace(endpoints, decoded.value.set);
        self.warm_clusters(name);
        let users = self.users.get(name).into_iter().flatten();
        for cluster in users.filter_map(|user| self.clusters.get(user)?.latest()) {
            cluster.value.cluster.stats.update_success.inc();
            membership(&cluster.value.cluster);
        }
        Ok(())
    }

    /// The server has no endpoints of that name. What was there stays, as Envoy has it; what waits has waited enough.
    pub(super) fn remove_endpoints(&mut self, name: &str) {
        let Some(endpoints) = self.endpoints.get(name) else {
            return;
        };
        if !endpoints.load().received {
            replace(
                endpoints,
                EndpointSet {
                    received: true,
                    overprovisioning_percent: 140,
                    ..EndpointSet::default()
                },
            );
            self.warm_clusters(name);
        }
    }

    /// Puts to use the clusters that have waited for these endpoints.
    fn warm_clusters(&mut self, eds_name: &str) {
        for user in self.users.get(eds_name).into_iter().flatten() {
            let Some(entry) = self.clusters.get_mut(user) else {
                continue;
            };
            let waits = entry
                .warming
                .as_ref()
                .is_some_and(|w| w.value.eds_name() == Some(eds_name) && w.value.is_warm());
            if waits {
                entry.active = entry.warming.take();
                self.dirty = true;
            }
        }
    }
}

/// Removes entries, keeping the order of the others; how many were there.
pub(super) fn remove<T>(entries: &mut Entries<T>, names: Vec<String>) -> u64 {
    if names.is_empty() {
        return 0;
    }
    let (names, before) = (HashSet::<String>::from_iter(names), entries.len());
    entries.retain(|name, _| !names.contains(name));
    (before - entries.len()) as u64
}

fn same_name(asked: &str, said: &str) -> Result<(), DecodeError> {
    if asked == said {
        return Ok(());
    }
    Err(DecodeError {
        resource: asked.to_owned(),
        path: "name".to_owned(),
        why: format!("is {said:?}, but the resource is called {asked:?}"),
    })
}

/// Replaces a set of endpoints. Those that stay keep their figures.
fn replace(endpoints: &ArcSwap<EndpointSet>, next: EndpointSet) {
    let before = endpoints.load_full();
    let known: HashMap<EndpointKind, &Arc<EndpointStats>> =
        before.iter().map(|e| (e.kind, &e.stats)).collect();
    let keep = |endpoint: Arc<Endpoint>| match known.get(&endpoint.kind) {
        Some(stats) => {
            let mut endpoint = Arc::unwrap_or_clone(endpoint);
            endpoint.stats = Arc::clone(stats);
            Arc::new(endpoint)
        }
        None => endpoint,
    };
    let locality = |l: LocalityEndpoints| LocalityEndpoints {
        endpoints: l.endpoints.into_iter().map(keep).collect(),
        ..l
    };
    let priorities = next
        .priorities
        .into_iter()
        .map(|p| Priority {
            localities: p.localities.into_iter().map(locality).collect(),
        })
        .collect();
    endpoints.store(Arc::new(EndpointSet {
        generation: before.generation + 1,
        received: true,
        priorities,
        overprovisioning_percent: next.overprovisioning_percent,
    }));
}

/// Counts a cluster's endpoints.
fn membership(cluster: &Cluster) {
    let set = cluster.endpoints.load();
    let total = len(set.len());
    if cluster.stats.membership_total.value() != total {
        cluster.stats.membership_change.inc();
    }
    cluster.stats.membership_total.set(total);
    cluster
        .stats
        .membership_healthy
        .set(len(set.iter().filter(|e| e.health.is_available()).count()));
}
