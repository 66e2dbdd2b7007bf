//! Resources as received.

use std::time::SystemTime;

use bytes::Bytes;
use indexmap::IndexMap;
use prost::Message;

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

    /// Whether the same message was accepted last, as `M` in whatever encoding. The update then only says so again.
    pub(super) fn is_known<M: Message + Default + PartialEq>(
        &mut self,
        received: &Received,
    ) -> bool {
        let latest = self.warming.as_mut().or(self.active.as_mut());
        match latest {
            Some(in_use) if is_same::<M>(&in_use.received.bytes, &received.bytes) => {
                in_use.received.version.clone_from(&received.version);
                self.refused = None;
                true
            }
            _ => false,
        }
    }
}

/// Whether two encodings are of one message. istiod writes the entries of a map in another order each time, which is as long.
fn is_same<M: Message + Default + PartialEq>(one: &Bytes, other: &Bytes) -> bool {
    one == other
        || one.len() == other.len()
            && matches!((M::decode(&**one), M::decode(&**other)), (Ok(one), Ok(other)) if one == other)
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

#[cfg(test)]
mod tests {
    use waymark_proto::envoy::envoy::config::cluster::v3::Cluster;
    use waymark_proto::envoy::envoy::config::core::v3::Metadata;

    use super::*;

    #[test]
    fn a_message_is_known_in_whatever_order_its_maps_are_written() {
        let cluster = Cluster {
            name: "a".to_owned(),
            metadata: Some(Metadata {
                filter_metadata: ('a'..='h')
                    .map(|c| (c.to_string(), <_>::default()))
                    .collect(),
                ..Metadata::default()
            }),
            ..Cluster::default()
        };
        let bytes = cluster.encode_to_vec();
        // A map that is read anew has an order of its own.
        let other = (0..100)
            .map(|_| Cluster::decode(&*bytes).expect("a cluster").encode_to_vec())
            .find(|other| *other != bytes)
            .expect("some other order");
        let renamed = Cluster {
            name: "b".to_owned(),
            ..cluster
        };
        let received = |bytes: Vec<u8>, version: &str| Received {
            bytes: bytes.into(),
            version: version.to_owned(),
            at: SystemTime::UNIX_EPOCH,
        };
        let mut entry = Entry {
            active: Some(InUse {
                received: received(bytes, "1"),
                value: (),
                ignored: Vec::new(),
            }),
            ..Entry::default()
        };
        assert!(entry.is_known::<Cluster>(&received(other, "2")));
        let latest = entry.latest().expect("what was accepted");
        assert_eq!(latest.received.version, "2");
        assert!(!entry.is_known::<Cluster>(&received(renamed.encode_to_vec(), "3")));
    }
}
