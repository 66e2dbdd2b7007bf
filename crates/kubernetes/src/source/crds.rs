//! Which custom resource definitions there are.

use std::collections::BTreeSet;

use futures_util::{StreamExt, pin_mut};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::core::PartialObjectMeta;
use kube::runtime::watcher::{Config, Event, watcher};
use kube::{Api, Client};
use tokio::sync::watch;
use tracing::{debug, warn};

use crate::source::backoff::Backoff;

/// What is known of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Crds {
    /// Nothing yet.
    Unread,
    /// They may not be read, or could not be so far.
    Unreadable,
    /// Their names.
    Named(BTreeSet<String>),
}

impl Crds {
    /// Whether a definition is there; `None` when nobody knows.
    pub(crate) fn has(&self, name: &str) -> Option<bool> {
        match self {
            Self::Unread | Self::Unreadable => None,
            Self::Named(names) => Some(names.contains(name)),
        }
    }

    fn change(&mut self, change: impl FnOnce(&mut BTreeSet<String>) -> bool) {
        if let Self::Named(names) = self {
            change(names);
        }
    }
}

/// Watches them for ever. Where that is not allowed, kinds are looked for from time to time all the same.
pub(crate) async fn follow(client: Client, crds: watch::Sender<Crds>) {
    let api: Api<PartialObjectMeta<CustomResourceDefinition>> = Api::all(client);
    let events = watcher(api, Config::default());
    pin_mut!(events);
    let mut backoff = Backoff::default();
    let mut listed = BTreeSet::new();
    while let Some(event) = events.next().await {
        let name = |object: PartialObjectMeta<CustomResourceDefinition>| {
            object.metadata.name.unwrap_or_default()
        };
        match event {
            Ok(Event::Init) => listed.clear(),
            Ok(Event::InitApply(object)) => {
                listed.insert(name(object));
            }
            Ok(Event::InitDone) => {
                backoff.reset();
                crds.send_replace(Crds::Named(std::mem::take(&mut listed)));
            }
            // Told even when it is known: it may serve another version now.
            Ok(Event::Apply(object)) => crds.send_modify(|crds| {
                crds.change(|names| names.insert(name(object)));
            }),
            Ok(Event::Delete(object)) => crds.send_modify(|crds| {
                crds.change(|names| names.remove(&name(object)));
            }),
            Err(error) => {
                let wait = backoff.next();
                // A cut connection is nothing to talk about.
                if backoff.failures() == NOTEWORTHY {
                    warn!(%error, "custom resource definitions are not watched");
                } else {
                    debug!(%error, "custom resource definitions are not watched");
                }
                crds.send_if_modified(|crds| {
                    let unread = *crds == Crds::Unread;
                    if unread {
                        *crds = Crds::Unreadable;
                    }
                    unread
                });
                tokio::time::sleep(wait).await;
            }
        }
    }
}

/// How many failures in a row are worth a warning.
pub(crate) const NOTEWORTHY: u32 = 2;
