//! The one place that facts, index and views live in: changes go in, sets of resources come out.
//!
//! A lock holds it together: changes and new clients take turns, and neither waits for a peer while it has it. What others
//! read all the time (statuses, what waypoints should run) is published and read without it.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::sync::watch;
use tracing::{error, info, warn};
use waymark_api::meta::{Kind, ObjectKey};
use waymark_api::{DocumentError, ErrorClass, Resource};
use waymark_proto::type_url;
use waymark_xds::{ResourceMap, ResourceSet};

use crate::deploy::{
    Desired, DesiredReplica, DesiredWaypoint, Phase, ReplicaKey, ReplicaState, ReplicaStates,
};
use crate::facts::{Facts, Refused};
use crate::generate::{Generator, ProxyKey};
use crate::index::key::WaypointKey;
use crate::index::waypoint::Replica;
use crate::index::{Fact, Index};
use crate::metrics::Metrics;
use crate::source::Batch;
use crate::source::catalog::{Place, object_ref};
use crate::store::Change;

/// The state of the control plane. Shared behind an `Arc`.
#[derive(Debug)]
pub struct Core {
    inner: Mutex<Inner>,
    desired: watch::Sender<Desired>,
    /// Counts what changed, for whoever writes statuses.
    revision: watch::Sender<u64>,
    metrics: Arc<Metrics>,
}

/// What the lock protects.
#[derive(Debug)]
pub struct Inner {
    /// The objects in force and what they come to.
    pub facts: Facts,
    /// Who is bound to whom.
    pub index: Index,
    /// What waypoints are to have.
    pub generator: Generator,
    /// Errors of documents, as the source last told them.
    errors: Vec<DocumentError>,
    /// Where objects are written.
    places: HashMap<ObjectKey, Place>,
    /// Objects that cannot be had beside the others, to be tried again when these change.
    refused: BTreeMap<ObjectKey, (Resource, Refused)>,
    replicas: Arc<ReplicaStates>,
    /// Processes that were ready when the last control plane ended, until they were asked.
    remembered: HashMap<(WaypointKey, Arc<str>), u32>,
    views: HashMap<Arc<ProxyKey>, watch::Sender<ResourceSet>>,
    nodes: watch::Sender<ResourceSet>,
    /// Changes so far; with the time of the last one the version that clients are told.
    pushes: u64,
    version: Arc<str>,
    /// Until the first full look at the source nobody is served.
    ready: bool,
    /// Hosts whose endpoints a status depends on: of those that were asked for since statuses were last said to change.
    asked: HashSet<String>,
}

/// A client's view of its set, until it is dropped.
#[derive(Debug)]
pub struct Lease {
    core: Arc<Core>,
    proxy: Arc<ProxyKey>,
}

impl Core {
    /// A control plane that knows of nothing yet.
    pub fn new(facts: Facts, index: Index, generator: Generator, metrics: Arc<Metrics>) -> Self {
        let mut nodes = ResourceSet::new("");
        for type_url in [
            type_url::ADDRESS,
            type_url::WORKLOAD,
            type_url::AUTHORIZATION,
        ] {
            nodes.set(type_url, ResourceMap::new());
        }
        let inner = Inner {
            facts,
            index,
            generator,
            errors: Vec::new(),
            places: HashMap::new(),
            refused: BTreeMap::new(),
            replicas: Arc::default(),
            remembered: HashMap::new(),
            views: HashMap::new(),
            nodes: watch::Sender::new(nodes),
            pushes: 0,
            version: "".into(),
            ready: false,
            asked: HashSet::new(),
        };
        Self {
            inner: Mutex::new(inner),
            desired: watch::Sender::new(None),
            revision: watch::Sender::new(0),
            metrics,
        }
    }

    /// What waypoints should run.
    pub fn desired(&self) -> watch::Receiver<Desired> {
        self.desired.subscribe()
    }

    /// Changes whenever statuses may have.
    pub fn revision(&self) -> watch::Receiver<u64> {
        self.revision.subscribe()
    }

    /// Its counters.
    pub fn metrics(&self) -> &Arc<Metrics> {
        &self.metrics
    }

    /// Whether the first full look at the source is done.
    pub fn is_ready(&self) -> bool {
        self.lock().ready
    }

    /// Waits for the first full look at the source.
    pub async fn until_ready(&self) {
        let mut revision = self.revision.subscribe();
        while !self.is_ready() {
            if revision.changed().await.is_err() {
                return;
            }
        }
    }

    /// Reads what is there, between two changes.
    pub fn read<T>(&self, look: impl FnOnce(&Inner) -> T) -> T {
        look(&self.lock())
    }

    /// As [`Core::read`], for a status that tells how the services of a host are: statuses may change with their endpoints.
    pub fn read_host<T>(&self, host: &str, look: impl FnOnce(&Inner) -> T) -> T {
        let mut inner = self.lock();
        inner.asked.insert(host.to_owned());
        look(&inner)
    }

    /// Takes in what a look at the source brought. The first one makes the control plane ready.
    pub fn take(&self, batch: Batch) {
        let started = Instant::now();
        let mut inner = self.lock();
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        inner
            .facts
            .set_now(i64::try_from(now.as_secs()).unwrap_or(i64::MAX));
        for change in &batch.changes {
            self.metrics.count_change(change, inner.facts.store());
        }
        if batch.errors != inner.errors {
            log_new(&batch.errors, &inner.errors);
        }
        let before = inner.document_errors();
        inner.errors = batch.errors;
        inner.places.extend(batch.places);
        let routes = batch.changes.iter().any(|change| match change {
            Change::Upsert(object) => object.key().kind == Kind::HttpRoute,
            Change::Delete(key) => key.kind == Kind::HttpRoute,
        });
        let facts = inner.admit(batch.changes);
        let first = !std::mem::replace(&mut inner.ready, true);
        self.apply(&mut inner, facts, started);
        // Statuses show documents' errors too, which may be all that changed; and a route may concern nobody but have one.
        if first || routes || before != inner.document_errors() {
            self.revision.send_modify(|revision| *revision += 1);
        }
    }

    /// Takes up which processes of waypoints were ready when the last control plane ended. For the time before the first
    /// look at the source.
    pub fn remember(&self, replicas: impl IntoIterator<Item = (WaypointKey, Arc<str>, u32)>) {
        let mut inner = self.lock();
        for (waypoint, name, pid) in replicas {
            inner.facts.remember(&waypoint, &name);
            inner.remembered.insert((waypoint, name), pid);
        }
    }

    /// Forgets those that nobody has said anything about since: they are as their states say.
    pub fn forget_remembered(&self) {
        let mut inner = self.lock();
        let forgotten: Vec<(WaypointKey, Arc<str>)> =
            inner.remembered.drain().map(|(key, _)| key).collect();
        let facts: Vec<Fact> = forgotten
            .iter()
            .flat_map(|(waypoint, name)| inner.facts.replica(waypoint, name, false))
            .collect();
        self.apply(&mut inner, facts, Instant::now());
        drop(inner);
        self.revision.send_modify(|revision| *revision += 1);
    }

    /// Takes in how the replicas of waypoints are.
    pub fn replicas(&self, states: Arc<ReplicaStates>) {
        let started = Instant::now();
        let mut inner = self.lock();
        let replicas: Vec<(WaypointKey, Arc<str>, Arc<str>)> = inner
            .index
            .waypoints()
            .iter()
            .filter_map(|waypoint| Some((&waypoint.key, waypoint.deployment()?)))
            .flat_map(|(key, deployment)| {
                let of = move |replica: &Replica| {
                    (key.clone(), deployment.name.clone(), replica.name.clone())
                };
                deployment.replicas.iter().map(of)
            })
            .collect();
        let mut facts = Vec::new();
        for (key, deployment, name) in replicas {
            let of = |replica: &ReplicaKey| {
                replica.namespace == key.namespace
                    && replica.deployment == *deployment
                    && replica.name() == *name
            };
            let state = states
                .iter()
                .find(|(replica, _)| of(replica))
                .map(|(_, state)| state);
            if let Some(ready) = inner.is_ready(&key, &name, state) {
                facts.extend(inner.facts.replica(&key, &name, ready));
            }
        }
        inner.replicas = states;
        self.apply(&mut inner, facts, started);
        self.revision.send_modify(|revision| *revision += 1);
    }

    /// Takes in which waypoints' proxies are connected and have their configuration, where nobody deploys them.
    pub fn connected(&self, replicas: BTreeMap<WaypointKey, BTreeMap<Arc<str>, IpAddr>>) {
        let started = Instant::now();
        let mut inner = self.lock();
        let facts = inner.facts.connected(replicas);
        if !facts.is_empty() {
            self.apply(&mut inner, facts, started);
        }
    }

    /// What a waypoint's proxy is to have, now and from now on. `None` until the control plane is ready.
    pub fn open_waypoint(
        self: &Arc<Self>,
        proxy: ProxyKey,
    ) -> Option<(watch::Receiver<ResourceSet>, Lease)> {
        let mut inner = self.lock();
        if !inner.ready {
            return None;
        }
        let proxy = Arc::new(proxy);
        let Inner {
            index,
            generator,
            version,
            ..
        } = &mut *inner;
        let mut set = generator.connect(index, &proxy);
        set.set_version(version.clone());
        let sets = inner
            .views
            .entry(proxy.clone())
            .or_insert_with(|| watch::Sender::new(set))
            .subscribe();
        Some((
            sets,
            Lease {
                core: self.clone(),
                proxy,
            },
        ))
    }

    /// What a node proxy is to have, now and from now on. `None` until the control plane is ready.
    pub fn open_node(&self) -> Option<watch::Receiver<ResourceSet>> {
        let inner = self.lock();
        inner.ready.then(|| inner.nodes.subscribe())
    }

    /// Brings the index, the views and everything published up to date.
    fn apply(&self, inner: &mut Inner, facts: Vec<Fact>, started: Instant) {
        let effects = inner.index.apply(facts);
        let concerns_statuses = effects.statuses
            || effects.waypoints.values().any(|waypoint| waypoint.itself)
            || effects.services.iter().any(|(service, aspects)| {
                aspects.shape || aspects.endpoints && inner.asked.contains(&*service.host)
            });
        if concerns_statuses {
            inner.asked.clear();
            self.revision.send_modify(|revision| *revision += 1);
        }
        if let Err(error) = inner.facts.ipam().save() {
            error!(error = %error, cause = ?std::error::Error::source(&error).map(ToString::to_string), "allocated addresses are not kept");
        }
        if !effects.is_empty() {
            inner.pushes += 1;
            inner.version = version(inner.pushes).into();
        }
        let Inner {
            index, generator, ..
        } = inner;
        let changed = generator.apply(index, &effects);
        let pushed = changed.len();
        for (proxy, mut set) in changed {
            set.set_version(inner.version.clone());
            if let Some(sets) = inner.views.get(&proxy) {
                sets.send_replace(set);
            }
        }
        if !effects.addresses.is_empty() {
            let (addresses, workloads) = (
                inner.index.addresses().clone(),
                inner.index.workload_resources().clone(),
            );
            let version = inner.version.clone();
            inner.nodes.send_modify(|set| {
                set.set(type_url::ADDRESS, addresses);
                set.set(type_url::WORKLOAD, workloads);
                set.set_version(version);
            });
        }
        let desired = inner.ready.then(|| Arc::new(desired(&inner.index)));
        self.desired.send_if_modified(|old| {
            let changed = *old != desired;
            if changed {
                *old = desired;
            }
            changed
        });
        if !effects.is_empty() {
            let (addresses, took) = (effects.addresses.len(), started.elapsed());
            self.metrics.pushed(inner.index.service_count(), took);
            info!(
                addresses,
                waypoint_views = pushed,
                took_us = micros(took),
                version = &*inner.version,
                "configuration changed"
            );
        }
    }

    fn close(&self, proxy: &Arc<ProxyKey>) {
        let mut inner = self.lock();
        inner.generator.disconnect(proxy);
        if inner.generator.resources(proxy).is_none() {
            inner.views.remove(proxy);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // A panic under the lock is a bug of ours; what it leaves is what the next full change repairs.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.core.close(&self.proxy);
    }
}

impl Inner {
    /// Whether a replica is ready by its state; `None` when that does not say.
    ///
    /// A replica that was ready when the last control plane ended, and whose process is the same, is still ready before it
    /// has been asked: node proxies must not be told otherwise just because the control plane was started anew.
    fn is_ready(
        &mut self,
        waypoint: &WaypointKey,
        name: &Arc<str>,
        state: Option<&ReplicaState>,
    ) -> Option<bool> {
        let key = (waypoint.clone(), name.clone());
        match (state?, self.remembered.get(&key)) {
            (
                ReplicaState {
                    phase: Phase::Starting,
                    pid: Some(pid),
                    ..
                },
                Some(remembered),
            ) if pid == remembered => None,
            (state, _) => {
                self.remembered.remove(&key);
                Some(state.phase == Phase::Ready)
            }
        }
    }

    /// Takes changes into the objects in force. Addresses are given back first and taken by name second, so that what is
    /// allocated makes way for what manifests say.
    fn admit(&mut self, changes: Vec<Change>) -> Vec<Fact> {
        let mut facts = Vec::new();
        let mut upserts = Vec::new();
        for change in changes {
            match change {
                Change::Delete(key) => {
                    self.refused.remove(&key);
                    self.places.remove(&key);
                    facts.extend(self.facts.remove(&key));
                }
                Change::Upsert(object) => upserts.push(object),
            }
        }
        let superseded: Vec<ObjectKey> = upserts.iter().map(Resource::key).collect();
        for key in &superseded {
            self.refused.remove(key);
        }
        let again = std::mem::take(&mut self.refused)
            .into_values()
            .map(|(object, _)| object);
        let (named, unnamed): (Vec<_>, Vec<_>) = upserts
            .into_iter()
            .chain(again)
            .partition(crate::facts::names_addresses);
        for object in named.into_iter().chain(unnamed) {
            match self.facts.upsert(object.clone()) {
                Ok(more) => facts.extend(more),
                Err(refused) => {
                    warn!(object = %object.key(), reason = %refused, "object refused; the last good version stays in force");
                    self.refused.insert(object.key(), (object, refused));
                }
            }
        }
        facts
    }

    /// How the replicas of waypoints are.
    pub fn replica_states(&self) -> &ReplicaStates {
        &self.replicas
    }

    /// Where an object is written.
    pub fn place(&self, key: &ObjectKey) -> Option<&Place> {
        self.places.get(key)
    }

    /// Everything that is wrong with documents, be it by themselves or beside others.
    pub fn document_errors(&self) -> Vec<DocumentError> {
        let mut errors = self.errors.clone();
        for (key, (_, refused)) in &self.refused {
            let place = self.places.get(key);
            errors.push(DocumentError {
                file: place.map(|place| place.file.clone()).unwrap_or_default(),
                line: place.map_or(1, |place| place.line),
                column: 1,
                object: Some(object_ref(key)),
                field: refused.field().map(str::to_owned),
                class: ErrorClass::Invalid,
                message: refused.message(),
                allowed: Some("an address that no other object has".to_owned()),
            });
        }
        errors
    }

    /// The version of the last change.
    pub fn version(&self) -> &str {
        &self.version
    }
}

/// Says what is wrong that was not before.
fn log_new(errors: &[DocumentError], before: &[DocumentError]) {
    let before: HashSet<&DocumentError> = before.iter().collect();
    for error in errors.iter().filter(|error| !before.contains(error)) {
        match error.class {
            ErrorClass::NotRead => info!(%error, "document is not read"),
            ErrorClass::Syntax | ErrorClass::Invalid | ErrorClass::Unsupported => {
                warn!(%error, "document refused; the last good version stays in force");
            }
        }
    }
}

/// What waypoints should run.
fn desired(index: &Index) -> Vec<DesiredWaypoint> {
    index
        .waypoints()
        .iter()
        .filter_map(|waypoint| Some((waypoint, waypoint.deployment()?)))
        .map(|(waypoint, deployment)| DesiredWaypoint {
            namespace: waypoint.key.namespace.clone(),
            gateway: waypoint.key.name.clone(),
            deployment: deployment.name.as_ref().to_owned(),
            service_account: deployment.service_account.as_ref().to_owned(),
            replicas: (0..)
                .zip(&deployment.replicas)
                .map(|(index, replica)| DesiredReplica {
                    index,
                    address: replica.address,
                })
                .collect(),
            binary: deployment.binary,
            args: Vec::new(),
            env: Vec::new(),
        })
        .collect()
}

/// `<RFC 3339 time>/<counter>`, as upstream writes it.
fn version(counter: u64) -> String {
    let now = OffsetDateTime::now_utc()
        .replace_nanosecond(0)
        .unwrap_or(OffsetDateTime::UNIX_EPOCH);
    format!("{}/{counter}", now.format(&Rfc3339).unwrap_or_default())
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
