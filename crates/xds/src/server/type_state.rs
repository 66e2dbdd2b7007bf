//! What one client wants and has of one resource type.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::resource::Encoded;
use crate::resource_map::{Change, ResourceMap};

/// One response, not yet encoded; the resources are shared with other clients.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response {
    /// The type of all of them.
    pub type_url: Arc<str>,
    /// Version of the snapshot.
    pub system_version: String,
    /// Unique on the stream.
    pub nonce: String,
    /// New and changed resources.
    pub resources: Vec<Arc<Encoded>>,
    /// Names that are gone, or that were asked for and do not exist.
    pub removed: Vec<String>,
}

/// State of one type on one connection, as the debug endpoints show it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TypeStatus {
    /// Subscribed to everything.
    pub wildcard: bool,
    /// Names that are subscribed to.
    pub names: usize,
    /// Resources that the client has, as far as the server knows.
    pub resources: usize,
    /// Nonce of the last response; empty: none was sent.
    pub nonce_sent: String,
    /// Nonce of the last response that the client accepted.
    pub nonce_acked: String,
    /// Snapshot version of the last response.
    pub version_sent: String,
    /// Snapshot version of the last response that the client accepted.
    pub version_acked: String,
    /// Why the client refused the last response, if it did.
    pub last_error: Option<String>,
    /// Responses sent.
    pub responses: u64,
    /// Resources sent, in all responses.
    pub resources_sent: u64,
    /// Removals sent, in all responses.
    pub removals_sent: u64,
    /// Bytes of all responses, encoded.
    pub bytes_sent: u64,
    /// Responses that the client refused.
    pub nacks: u64,
}

impl TypeStatus {
    /// Whether the client has answered the last response, and accepted it.
    pub fn is_synced(&self) -> bool {
        self.nonce_sent == self.nonce_acked
    }
}

#[derive(Debug)]
pub(super) struct TypeState {
    wildcard: bool,
    /// Explicit subscriptions.
    names: BTreeSet<String>,
    /// The resources that the client has by its wildcard subscription: a copy of the snapshot that it was brought to.
    base: ResourceMap,
    /// What the client has, where that is not what `base` says.
    known: BTreeMap<String, Known>,
    /// Names that are answered whatever the client has: it has just asked for them.
    asked: BTreeSet<String>,
    /// Names that the client may have though it is not known to: it has ended its subscription to them with a response on its
    /// way, or asked for everything again. Should it want everything, those that are gone are told.
    residue: BTreeSet<String>,
    /// An answer is due even if there is nothing to say.
    answer_due: bool,
    in_flight: bool,
    /// The last response was refused, so that something older than the snapshot is in use.
    refused: bool,
    /// The snapshot with which nothing was left to send.
    settled: Option<ResourceMap>,
    pub(super) status: TypeStatus,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Known {
    Version(String),
    /// The client knows that there is none.
    Missing,
}

/// What there is to send.
#[derive(Debug, Default)]
pub(super) struct Pending {
    pub(super) resources: Vec<Arc<Encoded>>,
    /// Names that the client has and that are gone, with what it has in `base`.
    pub(super) gone: Vec<(String, Option<Arc<Encoded>>)>,
    /// Names that were asked for and do not exist.
    pub(super) not_found: Vec<String>,
}

impl Pending {
    pub(super) fn is_empty(&self) -> bool {
        self.resources.is_empty() && self.gone.is_empty() && self.not_found.is_empty()
    }
}

/// What becomes of resources that are gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Removals {
    Send,
    /// Something that the client has may still refer to them.
    Hold,
}

impl TypeState {
    /// The state after the first request of a type.
    ///
    /// `by_name`: an empty subscription means nothing, not everything.
    pub(super) fn first(
        subscribe: Vec<String>,
        unsubscribe: &[String],
        held: impl IntoIterator<Item = (String, String)>,
        by_name: bool,
    ) -> Self {
        let is_star = |name: &String| name == "*";
        let wildcard = (subscribe.iter().any(is_star) || (subscribe.is_empty() && !by_name))
            && !unsubscribe.iter().any(is_star);
        let mut names: BTreeSet<String> = subscribe
            .into_iter()
            .filter(|name| !is_star(name))
            .collect();
        let mut known: BTreeMap<String, Known> = held
            .into_iter()
            .map(|(name, version)| (name, Known::Version(version)))
            .collect();
        if !wildcard {
            names.extend(known.keys().cloned());
        }
        for name in unsubscribe {
            names.remove(name);
            known.remove(name);
        }
        Self {
            wildcard,
            names,
            base: ResourceMap::new(),
            known,
            asked: BTreeSet::new(),
            residue: BTreeSet::new(),
            answer_due: true,
            in_flight: false,
            refused: false,
            settled: None,
            status: TypeStatus::default(),
        }
    }

    /// A later change of the subscription.
    pub(super) fn change(&mut self, subscribe: Vec<String>, unsubscribe: Vec<String>) {
        if subscribe.is_empty() && unsubscribe.is_empty() {
            return;
        }
        self.settled = None;
        if !unsubscribe.is_empty() {
            // What was refused may be what is no longer wanted.
            self.refused = false;
        }
        for name in subscribe {
            if name != "*" {
                self.names.insert(name.clone());
                self.asked.insert(name);
                continue;
            }
            if self.wildcard {
                // Asked for all once more, it wants all once more.
                self.forget_all();
            }
            self.wildcard = true;
            self.answer_due = true;
        }
        for name in unsubscribe {
            if name == "*" {
                self.end_wildcard();
            } else if self.names.remove(&name) {
                self.asked.remove(&name);
                if self.wildcard {
                    // The client has dropped it, and by its wildcard it wants it all the same.
                    self.asked.insert(name);
                } else {
                    self.known.remove(&name);
                    if self.in_flight {
                        self.residue.insert(name);
                    }
                }
            }
        }
    }

    /// How many names are subscribed to.
    pub(super) fn names(&self) -> usize {
        self.names.len()
    }

    /// Asks for a name once more on the client's behalf. `false`: it does not want it.
    pub(super) fn ask(&mut self, name: &str) -> bool {
        let wanted = self.wildcard || self.names.contains(name);
        if wanted {
            self.asked.insert(name.to_owned());
            self.settled = None;
        }
        wanted
    }

    pub(super) fn is_in_flight(&self) -> bool {
        self.in_flight
    }

    /// Whether there is something to send, if it may be.
    pub(super) fn is_due(&self, snapshot: &ResourceMap) -> bool {
        self.answer_due || !self.pending(snapshot).is_empty()
    }

    /// Whether the client may not be where the snapshot wants it: something is pending, not acknowledged or refused.
    pub(super) fn is_unsettled(&self, snapshot: &ResourceMap) -> bool {
        self.in_flight || self.refused || !self.pending(snapshot).is_empty()
    }

    /// What the client lacks.
    pub(super) fn pending(&self, snapshot: &ResourceMap) -> Pending {
        if self.asked.is_empty()
            && self
                .settled
                .as_ref()
                .is_some_and(|settled| settled.is_same(snapshot))
        {
            return Pending::default();
        }
        let mut pending = if !self.wildcard {
            self.pending_names(snapshot)
        } else if self.known.is_empty() {
            self.pending_changes(snapshot)
        } else {
            self.pending_all(snapshot)
        };
        for name in &self.asked {
            match snapshot.get(name) {
                Some(resource) => pending.resources.push(resource.clone()),
                None => pending.not_found.push(name.clone()),
            }
        }
        if self.wildcard {
            let is_left = |name: &&String| {
                snapshot.get(name).is_none()
                    && self.version(name).is_none()
                    && !self.asked.contains(*name)
            };
            pending
                .not_found
                .extend(self.residue.iter().filter(is_left).cloned());
        }
        pending
    }

    /// The response that is due, if one is. From now on the client is taken to have what it says.
    pub(super) fn take(
        &mut self,
        snapshot: &ResourceMap,
        removals: Removals,
    ) -> Option<(Vec<Arc<Encoded>>, Vec<String>)> {
        if self.in_flight {
            return None;
        }
        let pending = self.pending(snapshot);
        let (gone, held) = match removals {
            Removals::Send => (pending.gone, Vec::new()),
            Removals::Hold => (Vec::new(), pending.gone),
        };
        let nothing =
            pending.resources.is_empty() && gone.is_empty() && pending.not_found.is_empty();
        if nothing && !self.answer_due {
            if held.is_empty() {
                self.settled = Some(snapshot.clone());
            }
            return None;
        }

        self.settled = held.is_empty().then(|| snapshot.clone());
        if self.wildcard {
            self.base = snapshot.clone();
            self.known.clear();
            self.residue.clear();
            for (name, resource) in held {
                match resource {
                    Some(resource) => self.base.insert(resource),
                    // Claimed by the client in a version that is not at hand.
                    None => {
                        self.known.insert(name, Known::Version(String::new()));
                    }
                }
            }
        } else {
            for resource in &pending.resources {
                self.known.insert(
                    resource.name().to_owned(),
                    Known::Version(resource.version().to_owned()),
                );
            }
            for name in pending
                .not_found
                .iter()
                .chain(gone.iter().map(|(name, _)| name))
            {
                self.known.insert(name.clone(), Known::Missing);
            }
        }
        self.asked.clear();
        self.answer_due = false;
        self.in_flight = true;

        let mut removed = pending.not_found;
        removed.extend(gone.into_iter().map(|(name, _)| name));
        Some((pending.resources, removed))
    }

    /// The client has answered the response in flight.
    pub(super) fn answered(&mut self, error: Option<String>) {
        self.in_flight = false;
        self.refused = error.is_some();
        if !self.wildcard {
            // It was read by a client that did not want them.
            self.residue.clear();
        }
        match error {
            None => {
                self.status.nonce_acked.clone_from(&self.status.nonce_sent);
                self.status
                    .version_acked
                    .clone_from(&self.status.version_sent);
                self.status.last_error = None;
            }
            Some(error) => {
                self.status.nacks += 1;
                self.status.last_error = Some(error);
            }
        }
    }

    /// The status with what is counted on demand.
    pub(super) fn status(&self) -> TypeStatus {
        let known = self
            .known
            .values()
            .filter(|known| matches!(known, Known::Version(_)))
            .count();
        TypeStatus {
            wildcard: self.wildcard,
            names: self.names.len(),
            resources: if self.wildcard {
                self.base.len().max(known)
            } else {
                known
            },
            ..self.status.clone()
        }
    }

    fn end_wildcard(&mut self) {
        if !std::mem::replace(&mut self.wildcard, false) {
            return;
        }
        let mut kept = BTreeMap::new();
        for name in &self.names {
            if let Some(known) = self.known.get(name) {
                kept.insert(name.clone(), known.clone());
            } else if let Some(resource) = self.base.get(name) {
                kept.insert(name.clone(), Known::Version(resource.version().to_owned()));
            }
        }
        self.forget_all();
        self.known = kept;
        if !self.in_flight {
            self.residue.clear();
        }
        self.asked.retain(|name| self.names.contains(name));
    }

    fn forget_all(&mut self) {
        let base = std::mem::take(&mut self.base);
        self.residue
            .extend(base.iter().map(|resource| resource.name().to_owned()));
        self.residue
            .extend(std::mem::take(&mut self.known).into_keys());
    }

    /// The difference to what the client was brought to.
    fn pending_changes(&self, snapshot: &ResourceMap) -> Pending {
        let mut pending = Pending::default();
        for change in snapshot.changes_since(&self.base) {
            match change {
                Change::Set(resource) if self.asked.contains(resource.name()) => {}
                Change::Removed(resource) if self.asked.contains(resource.name()) => {}
                Change::Set(resource) => pending.resources.push(resource.clone()),
                Change::Removed(resource) => pending
                    .gone
                    .push((resource.name().to_owned(), Some(resource.clone()))),
            }
        }
        pending
    }

    /// The whole snapshot against what the client says that it has.
    fn pending_all(&self, snapshot: &ResourceMap) -> Pending {
        let mut pending = Pending::default();
        let lacks = |resource: &&Arc<Encoded>| {
            !self.asked.contains(resource.name())
                && self.version(resource.name()) != Some(resource.version())
        };
        pending
            .resources
            .extend(snapshot.iter().filter(lacks).cloned());
        let is_gone = |name: &str| !self.asked.contains(name) && snapshot.get(name).is_none();
        for (name, known) in &self.known {
            if matches!(known, Known::Version(_)) && is_gone(name) {
                pending.gone.push((name.clone(), None));
            }
        }
        for resource in self.base.iter() {
            if !self.known.contains_key(resource.name()) && is_gone(resource.name()) {
                pending
                    .gone
                    .push((resource.name().to_owned(), Some(resource.clone())));
            }
        }
        pending
    }

    fn pending_names(&self, snapshot: &ResourceMap) -> Pending {
        let mut pending = Pending::default();
        for name in self.names.iter().filter(|name| !self.asked.contains(*name)) {
            match (snapshot.get(name), self.known.get(name)) {
                (Some(resource), Some(Known::Version(version)))
                    if version == resource.version() => {}
                (Some(resource), _) => pending.resources.push(resource.clone()),
                (None, Some(Known::Missing)) => {}
                (None, Some(Known::Version(_))) => pending.gone.push((name.clone(), None)),
                (None, None) => pending.not_found.push(name.clone()),
            }
        }
        pending
    }

    fn version(&self, name: &str) -> Option<&str> {
        match self.known.get(name) {
            Some(Known::Version(version)) => Some(version),
            Some(Known::Missing) => None,
            None => self.base.get(name).map(|resource| resource.version()),
        }
    }
}
