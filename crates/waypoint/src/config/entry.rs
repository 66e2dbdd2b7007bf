//! Resources as received.

use std::time::SystemTime;

use bytes::Bytes;
use indexmap::IndexMap;

use crate::decode::Ignored;

/// A resource as it was sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Received {
    /// The message, encoded.
    pub bytes: Bytes,
    /// The version that the server gave it; may be empty.
    pub version: String,
    /// When it came.
    pub at: SystemTime,
}

/// An update that was refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// The resource.
    pub received: Received,
    /// Why, with the field's path.
    pub why: String,
}

/// A resource in use.
#[derive(Debug)]
pub(super) struct InUse<T> {
    pub(super) received: Received,
    pub(super) value: T,
    pub(super) ignored: Vec<Ignored>,
}

/// All that is known of one name.
#[derive(Debug)]
pub(super) struct Entry<T> {
    /// Serves.
    pub(super) active: Option<InUse<T>>,
    /// Was accepted, and waits for something before it serves.
    pub(super) warming: Option<InUse<T>>,
    /// The last update, if it was refused.
    pub(super) refused: Option<Refused>,
}

impl<T> Default for Entry<T> {
    fn default() -> Self {
        Self {
            active: None,
            warming: None,
            refused: None,
        }
    }
}

impl<T> Entry<T> {
    /// What was accepted last.
    pub(super) fn latest(&self) -> Option<&InUse<T>> {
        self.warming.as_ref().or(self.active.as_ref())
    }

    /// Whether the same bytes were accepted last. The update then only says so again.
    pub(super) fn is_known(&mut self, received: &Received) -> bool {
        let latest = self.warming.as_mut().or(self.active.as_mut());
        match latest {
            Some(in_use) if in_use.received.bytes == received.bytes => {
                in_use.received.version.clone_from(&received.version);
                self.refused = None;
                true
            }
            _ => false,
        }
    }
}

/// Entries by name, in order of first sight.
pub(super) type Entries<T> = IndexMap<String, Entry<T>>;

/// What is known of one name, for admin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dumped {
    /// The name.
    pub name: String,
    /// What serves.
    pub active: Option<Received>,
    /// What waits for something before it serves.
    pub warming: Option<Received>,
    /// The last update, if it was refused.
    pub refused: Option<Refused>,
}

impl Dumped {
    pub(super) fn all<T>(entries: &Entries<T>) -> Vec<Self> {
        let received = |in_use: &Option<InUse<T>>| in_use.as_ref().map(|u| u.received.clone());
        entries
            .iter()
            .map(|(name, entry)| Dumped {
                name: name.clone(),
                active: received(&entry.active),
                warming: received(&entry.warming),
                refused: entry.refused.clone(),
            })
            .collect()
    }
}

/// Everything that was received, in order of first sight.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Dump {
    /// `Cluster`, and the server's name for its state when they came last.
    pub clusters: (Vec<Dumped>, String),
    /// `Listener`, likewise.
    pub listeners: (Vec<Dumped>, String),
    /// `RouteConfiguration`.
    pub routes: Vec<Dumped>,
    /// `ClusterLoadAssignment`.
    pub endpoints: Vec<Dumped>,
    /// Clusters whose only endpoint is an internal listener, and that listener.
    pub hops: Vec<(String, String)>,
    /// Name of the listener that accepts tunnels, if there is one in use.
    pub entrance: Option<String>,
}
