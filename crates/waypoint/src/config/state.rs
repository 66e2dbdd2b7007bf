//! The state behind [`Config`](super::Config).

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use arc_swap::ArcSwap;
use bytes::Bytes;
use waymark_proto::any::{AnyMessage, type_name};
use waymark_proto::type_url;
use waymark_rt::Clock;
use waymark_xds::discovery::Resource;
use waymark_xds::{NackReason, Rejection, Subscriptions, Update};

use super::Readiness;
use super::clusters::AcceptedCluster;
use super::entry::{Dump, Dumped, Entries, Received};
use super::listeners::AcceptedListener;
use crate::decode::{DecodeError, Ignored};
use crate::program::{EndpointSet, Names, Snapshot, SnapshotCell};
use crate::route::RouteTable;
use crate::telemetry::ServerStats;

/// Endpoints by EDS name, shared by the clusters that use them.
pub(super) type Endpoints = Arc<ArcSwap<EndpointSet>>;

#[derive(Debug)]
pub(super) struct State {
    pub(super) names: Names,
    pub(super) cell: SnapshotCell,
    pub(super) stats: Arc<ServerStats>,
    clock: Arc<dyn Clock>,
    generation: u64,
    pub(super) clusters: Entries<AcceptedCluster>,
    pub(super) listeners: Entries<AcceptedListener>,
    pub(super) routes: Entries<Arc<RouteTable>>,
    pub(super) assignments: Entries<Assignment>,
    /// Also of names whose assignment has not come.
    pub(super) endpoints: HashMap<String, Endpoints>,
    /// The clusters that use an assignment, by its name, as of the last response.
    pub(super) users: BTreeMap<String, Vec<String>>,
    /// Clusters or listeners may refer to something else than they did.
    pub(super) references_changed: bool,
    clusters_version: String,
    listeners_version: String,
    /// Something that the snapshot is made of has changed.
    pub(super) dirty: bool,
}

/// An accepted load assignment; its endpoints are in [`State::endpoints`].
#[derive(Debug)]
pub(super) struct Assignment {
    pub(super) sidecar_mtls: Option<String>,
}

impl State {
    pub(super) fn new(cell: SnapshotCell, stats: Arc<ServerStats>, clock: Arc<dyn Clock>) -> Self {
        Self {
            names: Names::default(),
            cell,
            stats,
            clock,
            generation: 0,
            clusters: Entries::default(),
            listeners: Entries::default(),
            routes: Entries::default(),
            assignments: Entries::default(),
            endpoints: HashMap::new(),
            users: BTreeMap::new(),
            references_changed: false,
            clusters_version: String::new(),
            listeners_version: String::new(),
            dirty: false,
        }
    }

    /// Takes one response.
    pub(super) fn apply(
        &mut self,
        update: Update<'_>,
        subscriptions: &mut Subscriptions,
    ) -> Result<(), NackReason> {
        let Update {
            type_url: kind,
            system_version,
            resources,
            removed,
        } = update;
        let take = match kind {
            type_url::CLUSTER => Self::take_cluster,
            type_url::LISTENER => Self::take_listener,
            type_url::ENDPOINT => Self::take_endpoints,
            type_url::ROUTE => Self::take_routes,
            other => return Err(NackReason::Response(format!("{other} was not asked for"))),
        };
        let mut rejections = Vec::new();
        for resource in resources {
            let (name, received) = match self.receive(kind, resource) {
                Ok(received) => received,
                Err(rejection) => {
                    rejections.push(rejection);
                    continue;
                }
            };
            if let Err(error) = take(self, &name, received) {
                rejections.push(Rejection {
                    name,
                    reason: reason(&error),
                });
            }
        }
        match kind {
            type_url::CLUSTER => self.remove_clusters(removed),
            type_url::LISTENER => self.remove_listeners(removed),
            type_url::ENDPOINT => removed.iter().for_each(|name| self.remove_endpoints(name)),
            // A table in use stays until nothing names it; see `want`.
            _ => {}
        }
        if std::mem::take(&mut self.references_changed) {
            self.want(subscriptions);
        }
        self.warm_listeners();
        self.publish();
        let updates = match kind {
            type_url::CLUSTER => {
                system_version.clone_into(&mut self.clusters_version);
                Some(&self.stats.cds)
            }
            type_url::LISTENER => {
                system_version.clone_into(&mut self.listeners_version);
                Some(&self.stats.lds)
            }
            _ => None,
        };
        if let Some(updates) = updates {
            updates.update_attempt.inc();
            match rejections.is_empty() {
                true => updates.update_success.inc(),
                false => updates.update_rejected.inc(),
            }
        }
        if rejections.is_empty() {
            Ok(())
        } else {
            Err(NackReason::Resources(rejections))
        }
    }

    fn receive(&self, kind: &str, resource: Resource) -> Result<(String, Received), Rejection> {
        let Resource {
            name,
            version,
            resource,
            ..
        } = resource;
        let Some(any) = resource else {
            return Err(Rejection {
                name,
                reason: "has no contents".to_owned(),
            });
        };
        if type_name(any.type_url()) != type_name(kind) {
            let reason = format!("is a {}", type_name(any.type_url()));
            return Err(Rejection { name, reason });
        }
        Ok((
            name,
            Received {
                bytes: Bytes::from(any.value),
                version,
                at: self.clock.wall(),
            },
        ))
    }

    /// Says which endpoints and route tables are needed, and forgets those that no longer are.
    fn want(&mut self, subscriptions: &mut Subscriptions) {
        self.users.clear();
        for (name, entry) in &self.clusters {
            if let Some(eds_name) = entry.latest().and_then(|c| c.value.eds_name()) {
                let users = self.users.entry(eds_name.to_owned()).or_default();
                users.push(name.clone());
            }
        }
        let users = &self.users;
        self.assignments.retain(|name, _| users.contains_key(name));
        self.endpoints.retain(|name, _| users.contains_key(name));
        let routes: BTreeSet<String> = self
            .listeners
            .values()
            .flat_map(|l| l.active.iter().chain(&l.warming))
            .flat_map(|l| l.value.rds_names())
            .map(str::to_owned)
            .collect();
        self.routes.retain(|name, _| routes.contains(name));
        subscriptions.names(type_url::ENDPOINT, self.users.keys().cloned());
        subscriptions.names(type_url::ROUTE, routes);
    }

    /// Publishes a snapshot, if what it is made of has changed.
    fn publish(&mut self) {
        if !std::mem::take(&mut self.dirty) {
            return;
        }
        let parts = self.link();
        self.stats.active_clusters.set(len(parts.clusters.len()));
        self.stats.warming_clusters.set(len(self
            .clusters
            .values()
            .filter(|c| c.warming.is_some())
            .count()));
        self.stats.total_listeners_active.set(len(self
            .listeners
            .values()
            .filter(|l| l.active.is_some())
            .count()));
        self.stats.total_listeners_warming.set(len(self
            .listeners
            .values()
            .filter(|l| l.warming.is_some())
            .count()));
        self.generation += 1;
        self.stats.config.snapshots_published.inc();
        self.cell.store(Arc::new(Snapshot::assemble(
            self.generation,
            &mut self.names,
            parts,
        )));
    }

    pub(super) fn readiness(&self) -> Readiness {
        let endpoints = self.clusters.values().all(|c| c.warming.is_none());
        let listeners = self.listeners.values().all(|l| l.warming.is_none());
        Readiness {
            clusters: self.clusters.values().any(|c| c.latest().is_some()),
            listeners: self.listeners.values().any(|l| l.latest().is_some()),
            complete: endpoints && listeners && self.cell.load().hbone.is_some(),
        }
    }

    pub(super) fn dump(&self) -> Dump {
        Dump {
            clusters: (Dumped::all(&self.clusters), self.clusters_version.clone()),
            listeners: (Dumped::all(&self.listeners), self.listeners_version.clone()),
            routes: Dumped::all(&self.routes),
            endpoints: Dumped::all(&self.assignments),
            hops: self.hops(),
            entrance: self.entrance_name().map(str::to_owned),
        }
    }

    pub(super) fn ignored(&self) -> Vec<(String, Ignored)> {
        fn of<'e, T>(entries: &'e Entries<T>) -> impl Iterator<Item = (String, Ignored)> + 'e {
            entries.iter().flat_map(|(name, entry)| {
                let notes = entry.latest().map_or(&[][..], |l| &l.ignored);
                notes.iter().map(|n| (name.clone(), n.clone()))
            })
        }
        let mut all: Vec<_> = of(&self.clusters).chain(of(&self.listeners)).collect();
        all.extend(of(&self.routes).chain(of(&self.assignments)));
        all
    }
}

/// Without the resource's name, which a NACK says anyhow.
fn reason(error: &DecodeError) -> String {
    if error.path.is_empty() {
        error.why.clone()
    } else {
        format!("{}: {}", error.path, error.why)
    }
}

pub(super) fn len(n: usize) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}
