//! Who is connected, and what was sent to whom.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use super::source::Client;
use super::stream::Handled;
use super::type_state::TypeStatus;

/// The connections of a server. Copies are of the same registry.
#[derive(Debug, Clone, Default)]
pub struct Registry {
    inner: Arc<Mutex<Inner>>,
}

#[derive(Debug, Default)]
struct Inner {
    opened: u64,
    connections: BTreeMap<u64, ConnectionStatus>,
    /// Of connections that are gone.
    past: BTreeMap<String, Totals>,
    stale: u64,
}

/// One connection.
#[derive(Debug, Clone, PartialEq)]
pub struct ConnectionStatus {
    /// `<node id>-<counter>`.
    pub id: String,
    /// What the client says of itself.
    pub client: ClientSummary,
    /// When it opened its stream.
    pub connected_at: SystemTime,
    /// By type URL.
    pub types: BTreeMap<Arc<str>, TypeStatus>,
}

/// What a connection is known by.
#[derive(Debug, Clone, PartialEq)]
pub struct ClientSummary {
    /// `node.id`.
    pub node_id: String,
    /// `node.cluster`.
    pub cluster: String,
    /// `node.user_agent_name`.
    pub user_agent: String,
    /// Who it was authenticated as.
    pub identity: Option<String>,
    /// Its address.
    pub peer: Option<SocketAddr>,
    /// `node.metadata`, as it was sent.
    pub metadata: Option<waymark_proto::envoy::google::protobuf::Struct>,
}

/// What was sent of one type.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Totals {
    /// Responses.
    pub responses: u64,
    /// Resources in them.
    pub resources: u64,
    /// Removals in them.
    pub removals: u64,
    /// Their encoded size.
    pub bytes: u64,
    /// Responses that were refused.
    pub nacks: u64,
}

impl Registry {
    /// The connections, oldest first.
    pub fn connections(&self) -> Vec<ConnectionStatus> {
        self.lock().connections.values().cloned().collect()
    }

    /// How many connections there are.
    pub fn len(&self) -> usize {
        self.lock().connections.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What was sent since the server started, by type URL, to clients that are gone too.
    pub fn totals(&self) -> BTreeMap<String, Totals> {
        let inner = self.lock();
        let mut totals = inner.past.clone();
        for connection in inner.connections.values() {
            for (type_url, status) in &connection.types {
                totals.entry(type_url.to_string()).or_default().add(status);
            }
        }
        totals
    }

    /// Requests that answered a response that was not in flight.
    pub fn stale_requests(&self) -> u64 {
        self.lock().stale
    }

    pub(super) fn open(&self, client: &Client) -> Connection {
        let mut inner = self.lock();
        inner.opened += 1;
        let key = inner.opened;
        let node = &client.node;
        let status = ConnectionStatus {
            id: format!("{}-{key}", node.id),
            client: ClientSummary {
                node_id: node.id.clone(),
                cluster: node.cluster.clone(),
                user_agent: node.user_agent_name.clone(),
                identity: client.identity.clone(),
                peer: client.peer,
                metadata: node.metadata.clone(),
            },
            connected_at: SystemTime::now(),
            types: BTreeMap::new(),
        };
        let id = status.id.clone();
        inner.connections.insert(key, status);
        Connection {
            registry: self.clone(),
            key,
            id,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Nothing that is done under the lock leaves it half done.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Totals {
    fn add(&mut self, status: &TypeStatus) {
        self.responses += status.responses;
        self.resources += status.resources_sent;
        self.removals += status.removals_sent;
        self.bytes += status.bytes_sent;
        self.nacks += status.nacks;
    }
}

/// The entry of one connection, which ends with it.
#[derive(Debug)]
pub(super) struct Connection {
    registry: Registry,
    key: u64,
    id: String,
}

impl Connection {
    pub(super) fn id(&self) -> &str {
        &self.id
    }

    pub(super) fn update(&self, types: Vec<(Arc<str>, TypeStatus)>) {
        if let Some(connection) = self.registry.lock().connections.get_mut(&self.key) {
            connection.types.extend(types);
        }
    }

    pub(super) fn count(&self, handled: &Handled) {
        if *handled == Handled::Stale {
            self.registry.lock().stale += 1;
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        let mut inner = self.registry.lock();
        if let Some(connection) = inner.connections.remove(&self.key) {
            for (type_url, status) in &connection.types {
                inner
                    .past
                    .entry(type_url.to_string())
                    .or_default()
                    .add(status);
            }
        }
    }
}
