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

/// What is wrong with which Gateway, by namespace and name.
pub type Problems = BTreeMap<(String, String), Problem>;

/// Where the controller tells what is wrong.
#[derive(Clone)]
pub struct Report {
    problems: watch::Sender<Arc<Problems>>,
    recorder: Recorder,
}

impl fmt::Debug for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Report")
            .field("problems", &self.problems)
            .finish_non_exhaustive()
    }
}

impl Report {
    /// A report; the receiver is for whoever writes statuses. `instance` is the pod's name.
    pub fn new(client: Client, instance: &str) -> (Self, watch::Receiver<Arc<Problems>>) {
        let (problems, watched) = watch::channel(Arc::default());
        let reporter = Reporter {
            controller: REPORTER.to_owned(),
            instance: Some(instance.to_owned()),
        };
        let recorder = Recorder::new(client, reporter);
        (Self { problems, recorder }, watched)
    }

    /// Notes what is wrong; the first time it is an event too.
    pub(super) async fn tell(&self, gateway: &DynamicObject, problem: Problem) {
        let key = (gateway.namespace().unwrap_or_default(), gateway.name_any());
        let new = self.problems.send_if_modified(|problems| {
            let new = problems.get(&key) != Some(&problem);
            if new {
                Arc::make_mut(problems).insert(key.clone(), problem.clone());
            }
            new
        });
        if !new {
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

    /// Notes that nothing is wrong.
    pub(super) fn clear(&self, gateway: &Owner) {
        let key = (gateway.namespace.clone(), gateway.name.clone());
        self.problems.send_if_modified(|problems| {
            problems.contains_key(&key) && Arc::make_mut(problems).remove(&key).is_some()
        });
    }
}

/// An event's note has at most 1024 bytes.
fn cut(message: &str) -> String {
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
const REPORTER: &str = "waymark.dev/controlplane";
const MAX_NOTE: usize = 1024;
