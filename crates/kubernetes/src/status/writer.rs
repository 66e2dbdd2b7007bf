//! The writer: compares what is with what should be, and writes the difference.

mod compare;
mod events;
mod seen;

use std::collections::{BTreeMap, HashMap};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use futures_util::{StreamExt, stream};
use kube::Client;
use kube::api::{Api, DynamicObject, Patch, PatchParams};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout};
use tracing::{debug, warn};
use waymark_api::waypoint::WaypointClass;
use waymark_rt::Clock;

use self::compare::covers;
use self::events::Announcer;
use self::seen::{Seen, Watches};
use super::condition::{Condition, conditions};
use super::gateway::{self, GatewayFacts};
use super::object::{StatusKey, StatusKind};
use super::{MeshStatus, RouteStatus, route};
use crate::deployer::Verdicts;
use crate::leader::is_conflict;

/// Whose statuses are written, and how.
#[derive(Debug, Clone)]
pub struct WriterOptions {
    /// The classes that are ours; missing GatewayClasses are made.
    pub classes: Vec<WaypointClass>,
    /// The cluster's DNS domain.
    pub cluster_domain: String,
    /// `controllerName` in the entries of routes.
    pub route_controller: String,
    /// The pod's name, for events.
    pub instance: String,
}

impl WriterOptions {
    /// The `controllerName` of routes' entries: upstream's when its class is ours too, so that there is one entry whichever
    /// control plane writes it.
    pub fn route_controller_of(classes: &[WaypointClass]) -> &'static str {
        if classes.contains(&WaypointClass::Istio) {
            "istio.io/gateway-controller"
        } else {
            "waymark.dev/gateway-controller"
        }
    }
}

/// Writes statuses until it is dropped. `verdicts` are the Gateways that the deployer has taken, and what is wrong with them.
pub async fn write(
    client: Client,
    options: WriterOptions,
    mesh: Arc<dyn MeshStatus>,
    mut verdicts: watch::Receiver<Arc<Verdicts>>,
    clock: Arc<dyn Clock>,
) {
    let mut changes = mesh.changes();
    let mut watches = Watches::new(&client);
    let mut writer = Writer {
        announcer: Announcer::new(client.clone(), &options.instance),
        client,
        options,
        mesh,
        clock,
        attempted: HashMap::new(),
        failed: HashMap::new(),
    };
    let mut pass_at = Some(Instant::now());
    loop {
        tokio::select! {
            biased;
            () = sleep_until(pass_at.unwrap_or_else(Instant::now)), if pass_at.is_some() && watches.is_synced() => {
                changes.borrow_and_update();
                let taken = verdicts.borrow_and_update().clone();
                pass_at = writer.pass(&mut watches, &taken).await;
                continue;
            }
            () = watches.next() => {}
            Ok(()) = changes.changed() => {}
            Ok(()) = verdicts.changed() => {}
        }
        let soon = Instant::now() + GATHER;
        pass_at = Some(pass_at.map_or(soon, |at| at.min(soon)));
    }
}

struct Writer {
    client: Client,
    options: WriterOptions,
    mesh: Arc<dyn MeshStatus>,
    clock: Arc<dyn Clock>,
    announcer: Announcer,
    /// What was written last, and the version that came of it: what has no effect is not written again.
    attempted: HashMap<StatusKey, (u64, String)>,
    /// Failures in a row, and when it is tried again.
    failed: HashMap<StatusKey, (u32, Instant)>,
}

/// What is to be written to one object.
#[derive(Debug)]
struct Write {
    key: StatusKey,
    status: Value,
    /// The version that it replaces, where it replaces what others wrote too.
    version: Option<String>,
    hash: u64,
}

impl Writer {
    /// Writes what differs, as much as may be written at a time. When to look again.
    async fn pass(&mut self, watches: &mut Watches, taken: &Verdicts) -> Option<Instant> {
        let now = Instant::now();
        self.make_classes(watches).await;
        let mut writes = self.differences(watches, taken);
        writes.retain(|write| {
            let retry = self.failed.get(&write.key).map(|(_, at)| *at);
            retry.is_none_or(|at| at <= now)
        });
        let more = writes.len() > AT_ONCE;
        writes.truncate(AT_ONCE);
        let client = &self.client;
        let results: Vec<(Write, Result<DynamicObject, WriteError>)> = stream::iter(writes)
            .map(|write| async move {
                let result = put(client, &write).await;
                (write, result)
            })
            .buffer_unordered(CONCURRENCY)
            .collect()
            .await;
        for (write, result) in results {
            self.written(write, result, watches).await;
        }
        self.announcer.refused(self.mesh.refused()).await;
        if more {
            return Some(now + GATHER);
        }
        self.failed
            .values()
            .map(|(_, at)| *at)
            .filter(|at| *at > now)
            .min()
    }

    /// Every status that is not as it should be.
    fn differences(&self, watches: &Watches, taken: &Verdicts) -> Vec<Write> {
        let now = time_text(&*self.clock);
        let told: BTreeMap<StatusKey, Vec<Condition>> =
            self.mesh.conditions().into_iter().collect();
        let routes: BTreeMap<StatusKey, RouteStatus> = self.mesh.routes().into_iter().collect();
        let refused: BTreeMap<String, String> = self
            .mesh
            .refused()
            .into_iter()
            .filter(|(object, _)| object.kind == "Gateway")
            .map(|(object, why)| {
                (
                    format!("{}/{}", object.namespace.unwrap_or_default(), object.name),
                    why,
                )
            })
            .collect();
        let mut writes = Vec::new();
        for (key, seen) in watches.seen() {
            let status = match key.kind {
                StatusKind::GatewayClass => self.class(key, seen, &now),
                StatusKind::Gateway => self.gateway(key, seen, taken, &refused, &now),
                StatusKind::HttpRoute => self.route(seen, routes.get(key), &now),
                StatusKind::Service | StatusKind::ServiceEntry => {
                    let wanted = told.get(key).map_or(&[][..], Vec::as_slice);
                    conditions_of(key.kind, wanted, seen, &now)
                }
            };
            let Some(status) = status else { continue };
            if covers(key.kind, &seen.status, &status) {
                continue;
            }
            let hash = hash(&status);
            if self.attempted.get(key) == Some(&(hash, seen.version.clone())) {
                continue;
            }
            writes.push(Write {
                key: key.clone(),
                version: (!key.kind.is_applied()).then(|| seen.version.clone()),
                status,
                hash,
            });
        }
        writes
    }

    fn class(&self, key: &StatusKey, seen: &Seen, now: &str) -> Option<Value> {
        let class = self
            .options
            .classes
            .iter()
            .find(|class| class.name() == key.name)?;
        // One of that name may be somebody else's.
        let ours = seen.detail == class.controller_name();
        ours.then(|| gateway::class_status(seen.generation, &seen.status, now))
    }

    fn gateway(
        &self,
        key: &StatusKey,
        seen: &Seen,
        taken: &Verdicts,
        refused: &BTreeMap<String, String>,
        now: &str,
    ) -> Option<Value> {
        let problem = taken.get(&(key.namespace.clone(), key.name.clone()))?;
        let view = seen.gateway.as_ref()?;
        let services: Vec<_> = gateway::hosts(view, &self.options.cluster_domain)
            .into_iter()
            .map(|host| {
                let finding = self.mesh.service(&host, waymark_api::names::HBONE_PORT);
                (host, finding)
            })
            .collect();
        let facts = GatewayFacts {
            gateway: view,
            refused: refused
                .get(&format!("{}/{}", key.namespace, key.name))
                .map(String::as_str),
            problem: problem.as_ref(),
            services: &services,
        };
        Some(gateway::status(&facts, &seen.status, now))
    }

    fn route(&self, seen: &Seen, wanted: Option<&RouteStatus>, now: &str) -> Option<Value> {
        let controller = &self.options.route_controller;
        match wanted {
            Some(wanted) => route::status(
                wanted,
                controller,
                &seen.detail,
                seen.generation,
                &seen.status,
                now,
            ),
            None => route::without_ours(controller, &seen.status),
        }
    }

    async fn written(
        &mut self,
        write: Write,
        result: Result<DynamicObject, WriteError>,
        watches: &mut Watches,
    ) {
        let key = &write.key;
        match result {
            Ok(object) => {
                debug!(object = %key, "status written");
                self.failed.remove(key);
                let before = watches.find(key).map(|seen| seen.status.clone());
                watches.put(key.kind, object);
                if let Some(seen) = watches.find(key) {
                    self.attempted
                        .insert(key.clone(), (write.hash, seen.version.clone()));
                    self.announcer.conditions(key, seen, before.as_ref()).await;
                }
            }
            // Gone, or changed: the watch says so in a moment.
            Err(WriteError::Api(kube::Error::Api(status))) if status.code == 404 => {}
            Err(error) => {
                let failures = self.failed.get(key).map_or(0, |(failures, _)| *failures);
                // Of several that write one object each has its turn in the end; what is there meanwhile is told by the watch.
                let wait = match &error {
                    WriteError::Api(error) if is_conflict(error) => FIRST_RETRY,
                    _ => FIRST_RETRY
                        .saturating_mul(1 << failures.min(10))
                        .min(LAST_RETRY),
                };
                match &error {
                    WriteError::Api(kube::Error::Api(status)) if status.code == 409 => {
                        debug!(object = %key, "status was changed by another meanwhile");
                    }
                    _ => {
                        warn!(object = %key, %error, cause = std::error::Error::source(&error).map(tracing::field::display), retry_ms = wait.as_millis(), "status is not written")
                    }
                }
                self.failed
                    .insert(key.clone(), (failures + 1, Instant::now() + wait));
            }
        }
    }

    /// Makes the GatewayClasses that are missing; those that are there are the user's.
    async fn make_classes(&mut self, watches: &mut Watches) {
        if !watches.has(StatusKind::GatewayClass) {
            return;
        }
        for class in self.options.classes.clone() {
            let key = StatusKey::new(StatusKind::GatewayClass, "", class.name());
            let waits = self
                .failed
                .get(&key)
                .is_some_and(|(_, at)| *at > Instant::now());
            if watches.find(&key).is_some() || waits {
                continue;
            }
            let object = json!({
                "apiVersion": "gateway.networking.k8s.io/v1",
                "kind": "GatewayClass",
                "metadata": {"name": class.name()},
                "spec": {"controllerName": class.controller_name(), "description": "The waypoint of an ambient mesh"},
            });
            let api: Api<DynamicObject> =
                Api::all_with(self.client.clone(), &StatusKind::GatewayClass.resource());
            let made = match serde_json::from_value(object) {
                Ok(object) => api.create(&kube::api::PostParams::default(), &object).await,
                Err(_) => return,
            };
            match made {
                Ok(object) => watches.put(StatusKind::GatewayClass, object),
                Err(error) if is_conflict(&error) => {}
                Err(error) => {
                    warn!(class = class.name(), %error, "GatewayClass is not made");
                    self.failed.insert(key, (1, Instant::now() + LAST_RETRY));
                }
            }
        }
    }
}

/// The conditions of ours on an object, with those of others where the list is replaced whole. `None` when nothing is to
/// be told and nothing of ours is there.
fn conditions_of(kind: StatusKind, wanted: &[Condition], seen: &Seen, now: &str) -> Option<Value> {
    let ours = |condition: &&Value| {
        kind.condition_types()
            .iter()
            .any(|of| condition["type"] == *of)
    };
    let before = || seen.status["conditions"].as_array().into_iter().flatten();
    if wanted.is_empty() && !before().any(|condition| ours(&condition)) {
        return None;
    }
    let generation = seen.generation;
    let mut all = conditions(
        wanted,
        &seen.status["conditions"],
        generation,
        kind.style(),
        now,
    );
    if !kind.is_applied() {
        let others = before().filter(|condition| !ours(condition)).cloned();
        all = others.chain(all).collect();
    }
    Some(json!({"conditions": all}))
}

async fn put(client: &Client, write: &Write) -> Result<DynamicObject, WriteError> {
    let (kind, resource) = (write.key.kind, write.key.kind.resource());
    let api: Api<DynamicObject> = if write.key.namespace.is_empty() {
        Api::all_with(client.clone(), &resource)
    } else {
        Api::namespaced_with(client.clone(), &write.key.namespace, &resource)
    };
    let name = &write.key.name;
    let mut metadata = json!({"name": name});
    if !write.key.namespace.is_empty() {
        metadata["namespace"] = write.key.namespace.as_str().into();
    }
    let written = match &write.version {
        None => {
            let patch = json!({
                "apiVersion": resource.api_version,
                "kind": resource.kind,
                "metadata": metadata,
                "status": write.status,
            });
            let params = PatchParams::apply(kind.manager()).force();
            timeout(
                TIMEOUT,
                api.patch_status(name, &params, &Patch::Apply(&patch)),
            )
            .await
        }
        Some(version) => {
            let patch = json!({"metadata": {"resourceVersion": version}, "status": write.status});
            let params = PatchParams {
                field_manager: Some(kind.manager().to_owned()),
                ..PatchParams::default()
            };
            timeout(
                TIMEOUT,
                api.patch_status(name, &params, &Patch::Merge(&patch)),
            )
            .await
        }
    };
    written
        .map_err(|_| WriteError::TimedOut)?
        .map_err(WriteError::Api)
}

#[derive(Debug, thiserror::Error)]
enum WriteError {
    #[error("write a status")]
    Api(#[source] kube::Error),
    #[error("the API server did not answer in time")]
    TimedOut,
}

fn hash(status: &Value) -> u64 {
    let mut hasher = DefaultHasher::new();
    status.to_string().hash(&mut hasher);
    hasher.finish()
}

fn time_text(clock: &dyn Clock) -> String {
    k8s_openapi::jiff::Timestamp::try_from(clock.wall())
        .ok()
        .and_then(|now| now.round(k8s_openapi::jiff::Unit::Second).ok())
        .unwrap_or(k8s_openapi::jiff::Timestamp::UNIX_EPOCH)
        .to_string()
}

/// Changes that come within it are looked at together.
const GATHER: Duration = Duration::from_millis(100);
/// Writes in one look: with the time between two, the bound on their rate.
const AT_ONCE: usize = 20;
const CONCURRENCY: usize = 8;
const TIMEOUT: Duration = Duration::from_secs(10);
const FIRST_RETRY: Duration = Duration::from_millis(200);
const LAST_RETRY: Duration = Duration::from_secs(60);
