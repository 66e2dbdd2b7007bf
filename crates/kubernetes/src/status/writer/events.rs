//! Events: what a user has to act on, told once where they look (`kubectl describe`, `kubectl events`).

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::ObjectReference;
use kube::api::{Api, ApiResource, DynamicObject};
use kube::core::GroupVersionKind;
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use kube::{Client, ResourceExt};
use serde_json::Value;
use tracing::debug;
use waymark_api::{Kind, ObjectRef};

use super::seen::Seen;
use crate::deployer::{REPORTER, cut};
use crate::status::object::StatusKey;

/// Tells events.
pub(super) struct Announcer {
    client: Client,
    recorder: Recorder,
    /// Refused objects that were told of, and why.
    told: BTreeMap<ObjectRef, String>,
}

impl Announcer {
    pub(super) fn new(client: Client, instance: &str) -> Self {
        let reporter = Reporter {
            controller: REPORTER.to_owned(),
            instance: Some(instance.to_owned()),
        };
        Self {
            recorder: Recorder::new(client.clone(), reporter),
            client,
            told: BTreeMap::new(),
        }
    }

    /// Tells of objects that were refused, each reason once.
    pub(super) async fn refused(&mut self, refused: Vec<(ObjectRef, String)>) {
        let now: BTreeMap<ObjectRef, String> = refused.into_iter().collect();
        let new: Vec<(ObjectRef, String)> = now
            .iter()
            .filter(|(object, why)| self.told.get(*object) != Some(*why))
            .map(|(object, why)| (object.clone(), why.clone()))
            .take(AT_ONCE)
            .collect();
        self.told.retain(|object, _| now.contains_key(object));
        for (object, why) in new {
            if let Some(reference) = self.reference(&object).await {
                self.tell("Invalid", why.clone(), &reference).await;
            }
            self.told.insert(object, why);
        }
    }

    /// Tells of a condition that has become bad for a reason that does not pass by itself.
    pub(super) async fn conditions(&self, key: &StatusKey, seen: &Seen, before: Option<&Value>) {
        let conditions =
            |status: &Value| status["conditions"].as_array().cloned().unwrap_or_default();
        let old = before.map(conditions).unwrap_or_default();
        for condition in conditions(&seen.status) {
            let ours = key
                .kind
                .condition_types()
                .iter()
                .any(|of| condition["type"] == *of);
            let reason = condition["reason"].as_str().unwrap_or_default();
            let bad = condition["status"] == "False" && reason != "WaypointIsNotReady";
            let known = old.iter().any(|old| {
                old["type"] == condition["type"] && old["reason"] == condition["reason"]
            });
            if !ours || !bad || known {
                continue;
            }
            let resource = key.kind.resource();
            let reference = ObjectReference {
                api_version: Some(resource.api_version),
                kind: Some(resource.kind),
                namespace: Some(key.namespace.clone()),
                name: Some(key.name.clone()),
                uid: Some(seen.uid.clone()),
                ..ObjectReference::default()
            };
            let message = condition["message"].as_str().unwrap_or_default();
            self.tell(reason, message.to_owned(), &reference).await;
        }
    }

    async fn tell(&self, reason: &str, note: String, reference: &ObjectReference) {
        let event = Event {
            type_: EventType::Warning,
            reason: reason.to_owned(),
            note: Some(cut(&note)),
            action: "Configure".to_owned(),
            secondary: None,
        };
        if let Err(error) = self.recorder.publish(&event, reference).await {
            debug!(%error, "event is not written");
        }
    }

    /// An object as events refer to it: with its UID, which is what `kubectl describe` looks for.
    async fn reference(&self, object: &ObjectRef) -> Option<ObjectReference> {
        let kind = Kind::ALL
            .into_iter()
            .find(|kind| kind.as_str() == object.kind && kind.group() == object.group);
        let version = kind.map_or("v1", |kind| {
            kind.versions().first().copied().unwrap_or("v1")
        });
        let resource =
            ApiResource::from_gvk(&GroupVersionKind::gvk(&object.group, version, &object.kind));
        let api: Api<DynamicObject> = match &object.namespace {
            Some(namespace) => Api::namespaced_with(self.client.clone(), namespace, &resource),
            None => Api::all_with(self.client.clone(), &resource),
        };
        let found = api.get_metadata_opt(&object.name).await.ok().flatten()?;
        Some(ObjectReference {
            api_version: Some(resource.api_version),
            kind: Some(resource.kind),
            namespace: object.namespace.clone(),
            name: Some(object.name.clone()),
            uid: found.uid(),
            ..ObjectReference::default()
        })
    }
}

/// Events in one look.
const AT_ONCE: usize = 10;
