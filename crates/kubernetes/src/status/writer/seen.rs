//! What is there: the objects whose statuses are ours, trimmed to what the writer looks at.

use std::collections::{BTreeMap, BTreeSet};

use futures_util::stream::{self, BoxStream};
use futures_util::{FutureExt, StreamExt};
use kube::api::{Api, DynamicObject};
use kube::runtime::watcher::{self, Event};
use kube::runtime::{WatchStreamExt, watcher as watch};
use kube::{Client, ResourceExt};
use serde_json::Value;
use tracing::{debug, warn};

use crate::status::object::{StatusKey, StatusKind};
use crate::waypoint::GatewayView;

/// An object as it was last seen.
#[derive(Debug, Clone)]
pub(super) struct Seen {
    pub(super) uid: String,
    pub(super) version: String,
    pub(super) generation: i64,
    /// Of its status, what is ours to write.
    pub(super) status: Value,
    /// A class's `controllerName`, a route's `parentRefs`.
    pub(super) detail: Value,
    /// A Gateway, if it is of a waypoint.
    pub(super) gateway: Option<GatewayView>,
}

type Events = BoxStream<'static, (StatusKind, watcher::Result<Event<DynamicObject>>)>;

/// The watches and what they have brought.
pub(super) struct Watches {
    events: stream::SelectAll<Events>,
    seen: BTreeMap<StatusKey, Seen>,
    listed: BTreeMap<StatusKind, BTreeSet<StatusKey>>,
    synced: BTreeSet<StatusKind>,
    /// Kinds that the cluster does not have.
    absent: BTreeSet<StatusKind>,
}

impl Watches {
    pub(super) fn new(client: &Client) -> Self {
        let of_kind = |kind: StatusKind| -> Events {
            let api: Api<DynamicObject> = Api::all_with(client.clone(), &kind.resource());
            watch(api, watcher::Config::default())
                .default_backoff()
                .map(move |event| (kind, event))
                .boxed()
        };
        Self {
            events: stream::select_all(StatusKind::ALL.map(of_kind)),
            seen: BTreeMap::new(),
            listed: BTreeMap::new(),
            synced: BTreeSet::new(),
            absent: BTreeSet::new(),
        }
    }

    /// Whether every kind has been listed, or is known not to be there: before that, nothing is compared.
    pub(super) fn is_synced(&self) -> bool {
        StatusKind::ALL
            .iter()
            .all(|kind| self.synced.contains(kind) || self.absent.contains(kind))
    }

    /// Whether the cluster has a kind.
    pub(super) fn has(&self, kind: StatusKind) -> bool {
        self.synced.contains(&kind)
    }

    /// Waits for news, and takes in all that have come.
    ///
    /// # Cancel safety
    /// Can be dropped and called again.
    pub(super) async fn next(&mut self) {
        let mut next = self.events.next().await;
        while let Some((kind, event)) = next {
            self.take(kind, event);
            next = self.events.next().now_or_never().flatten();
        }
    }

    pub(super) fn seen(&self) -> impl Iterator<Item = (&StatusKey, &Seen)> {
        self.seen.iter()
    }

    pub(super) fn find(&self, key: &StatusKey) -> Option<&Seen> {
        self.seen.get(key)
    }

    /// Takes in an object as it is.
    pub(super) fn put(&mut self, kind: StatusKind, object: DynamicObject) {
        let key = key(kind, &object);
        self.seen.insert(key, trimmed(kind, object));
    }

    fn take(&mut self, kind: StatusKind, event: watcher::Result<Event<DynamicObject>>) {
        match event {
            Ok(Event::Apply(object)) => {
                // Versions are numbers by rule since 1.35; what we wrote ourselves may be known already.
                self.put(kind, object);
            }
            Ok(Event::InitApply(object)) => {
                self.listed
                    .entry(kind)
                    .or_default()
                    .insert(key(kind, &object));
                self.put(kind, object);
            }
            Ok(Event::Delete(object)) => {
                self.seen.remove(&key(kind, &object));
            }
            Ok(Event::Init) => {
                self.listed.remove(&kind);
            }
            Ok(Event::InitDone) => {
                let listed = self.listed.remove(&kind).unwrap_or_default();
                self.seen
                    .retain(|key, _| key.kind != kind || listed.contains(key));
                self.synced.insert(kind);
                self.absent.remove(&kind);
            }
            Err(
                watcher::Error::InitialListFailed(kube::Error::Api(status))
                | watcher::Error::WatchStartFailed(kube::Error::Api(status)),
            ) if status.code == 404 => {
                debug!(kind = kind.as_str(), "not served by this cluster");
                self.absent.insert(kind);
                self.synced.remove(&kind);
            }
            Err(error) => warn!(kind = kind.as_str(), %error, "watched again"),
        }
    }
}

fn key(kind: StatusKind, object: &DynamicObject) -> StatusKey {
    StatusKey::new(
        kind,
        object.namespace().unwrap_or_default(),
        object.name_any(),
    )
}

fn trimmed(kind: StatusKind, mut object: DynamicObject) -> Seen {
    let mut status = object.data["status"].take();
    if let (StatusKind::Service | StatusKind::ServiceEntry, Some(fields)) =
        (kind, status.as_object_mut())
    {
        fields.retain(|field, _| field == "conditions");
    }
    let detail = match kind {
        StatusKind::GatewayClass => object.data["spec"]["controllerName"].take(),
        StatusKind::HttpRoute => object.data["spec"]["parentRefs"].take(),
        StatusKind::Gateway | StatusKind::Service | StatusKind::ServiceEntry => Value::Null,
    };
    let gateway = match kind {
        StatusKind::Gateway => serde_json::to_value(&object)
            .ok()
            .and_then(|object| GatewayView::read(&object).ok()),
        StatusKind::GatewayClass
        | StatusKind::HttpRoute
        | StatusKind::Service
        | StatusKind::ServiceEntry => None,
    };
    Seen {
        uid: object.uid().unwrap_or_default(),
        version: object.resource_version().unwrap_or_default(),
        generation: object.metadata.generation.unwrap_or_default(),
        status,
        detail,
        gateway,
    }
}
