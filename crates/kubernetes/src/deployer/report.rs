//! What is wrong with Gateways: kept for their status, and told as events when it is new.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use kube::api::DynamicObject;
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use kube::{Client, Resource, ResourceExt};
use tokio::sync::watch;
use tracing::{debug, warn};

use super::gateway_resource;
use crate::apply::Owner;
use crate::waypoint::OwnedKind;

/// What is wrong with a Gateway.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The reason, as conditions and events have it: `InvalidParameters`, `ForeignObject`.
    pub reason: &'static str,
    /// All of it, in words.
    pub message: String,
}

impl Problem {
    /// What the Gateway says cannot be followed.
    pub(super) fn invalid(error: &dyn std::error::Error) -> Self {
        let mut message = error.to_string();
        let mut source = error.source();
        while let Some(cause) = source {
            message.push_str(": ");
            message.push_str(&cause.to_string());
            source = cause.source();
        }
        Self {
            reason: INVALID_PARAMETERS,
            message,
        }
    }

    /// Objects of others are in the way.
    pub(super) fn foreign(objects: &[(OwnedKind, String)]) -> Option<Self> {
        if objects.is_empty() {
            return None;
        }
        let objects: Vec<String> = objects
            .iter()
            .map(|(kind, name)| format!("{} {name}", kind.as_str()))
            .collect();
        Some(Self {
            reason: FOREIGN_OBJECT,
            message: format!(
                "not made for this Gateway, and left alone: {}; delete it, or choose another name with the annotation {}",
                objects.join(", "),
                waymark_api::names::GATEWAY_NAME_OVERRIDE
            ),
        })
    }
}

/// The Gateways that are ours, by namespace and name, and what is wrong with them.
pub type Verdicts = BTreeMap<(String, String), Option<Problem>>;

/// Where the controller tells what is wrong.
#[derive(Clone)]
pub struct Report {
    verdicts: watch::Sender<Arc<Verdicts>>,
    recorder: Recorder,
}

impl fmt::Debug for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Report")
            .field("verdicts", &self.verdicts)
            .finish_non_exhaustive()
    }
}

impl Report {
    /// A report; the receiver is for whoever writes statuses. `instance` is the pod's name.
    pub fn new(client: Client, instance: &str) -> (Self, watch::Receiver<Arc<Verdicts>>) {
        let (verdicts, watched) = watch::channel(Arc::default());
        let reporter = Reporter {
            controller: REPORTER.to_owned(),
            instance: Some(instance.to_owned()),
        };
        let recorder = Recorder::new(client, reporter);
        (Self { verdicts, recorder }, watched)
    }

    /// Notes what is wrong with a Gateway of ours; the first time it is an event too.
    pub(super) async fn tell(&self, gateway: &DynamicObject, problem: Problem) {
        let key = (gateway.namespace().unwrap_or_default(), gateway.name_any());
        if !self.note(key.clone(), Some(problem.clone())) {
            return;
        }
        let (namespace, gateway_name) = &key;
        warn!(
            namespace,
            gateway = gateway_name,
            reason = problem.reason,
            message = problem.message,
            "waypoint is not as its Gateway says"
        );
        let event = Event {
            type_: EventType::Warning,
            reason: problem.reason.to_owned(),
            note: Some(cut(&problem.message)),
            action: "Deploy".to_owned(),
            secondary: None,
        };
        let reference = gateway.object_ref(&gateway_resource());
        if let Err(error) = self.recorder.publish(&event, &reference).await {
            debug!(%error, "event is not written");
        }
    }

    /// Notes that a Gateway is ours, and nothing wrong with it.
    pub(super) fn clear(&self, gateway: &Owner) {
        self.note((gateway.namespace.clone(), gateway.name.clone()), None);
    }

    /// Notes that a Gateway is not ours.
    pub(super) fn forget(&self, gateway: &(String, String)) {
        self.verdicts.send_if_modified(|verdicts| {
            verdicts.contains_key(gateway) && Arc::make_mut(verdicts).remove(gateway).is_some()
        });
    }

    fn note(&self, key: (String, String), verdict: Option<Problem>) -> bool {
        self.verdicts.send_if_modified(|verdicts| {
            let new = verdicts.get(&key) != Some(&verdict);
            if new {
                Arc::make_mut(verdicts).insert(key, verdict);
            }
            new
        })
    }
}

/// An event's note has at most 1024 bytes.
pub(crate) fn cut(message: &str) -> String {
    let mut end = message.len().min(MAX_NOTE);
    while !message.is_char_boundary(end) {
        end -= 1;
    }
    message.get(..end).unwrap_or_default().to_owned()
}

/// As upstream calls it.
pub(super) const INVALID_PARAMETERS: &str = "InvalidParameters";
/// Ours: upstream is silent about it.
pub(super) const FOREIGN_OBJECT: &str = "ForeignObject";
/// Who events are from.
pub(crate) const REPORTER: &str = "waymark.dev/controlplane";
const MAX_NOTE: usize = 1024;
