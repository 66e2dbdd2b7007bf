//! What a control plane gives the server.

use std::net::SocketAddr;

use tokio::sync::watch;
use tonic::{Extensions, Status};

use crate::resource_set::ResourceSet;
use waymark_proto::envoy::envoy::config::core::v3::Node;

/// The control plane, as the server sees it.
pub trait Source: Send + Sync + 'static {
    /// Says whose stream this is, before anything is read from it: by the bearer token in the headers, or by what the
    /// transport left in the extensions. `None`: nobody in particular, as on a plain-text connection.
    ///
    /// # Errors
    ///
    /// The caller is nobody who may talk to this server.
    fn authenticate(
        &self,
        headers: &http::HeaderMap,
        extensions: &Extensions,
    ) -> impl Future<Output = Result<Option<String>, Refusal>> + Send;

    /// Opens the view of a client that has said who it is: what it is to have, now and from now on.
    ///
    /// # Errors
    ///
    /// The client is refused, for example because its identity is not of the namespace that it claims.
    fn open(&self, client: &Client) -> Result<View, Refusal>;
}

/// Who has opened a stream.
#[derive(Debug, Clone)]
pub struct Client {
    /// What it says of itself in its first request. The id is not empty.
    pub node: Node,
    /// Who it was authenticated as.
    pub identity: Option<String>,
    /// Its address, where the transport knows it.
    pub peer: Option<SocketAddr>,
}

/// What one client is to have.
#[derive(Debug)]
pub struct View {
    /// The current set, and each new one. When the sender is dropped, the stream ends and the client reconnects.
    pub sets: watch::Receiver<ResourceSet>,
    /// Dropped when the stream ends.
    pub guard: Option<Box<dyn std::fmt::Debug + Send>>,
}

impl View {
    /// A view that ends without a word.
    pub fn new(sets: watch::Receiver<ResourceSet>) -> Self {
        Self { sets, guard: None }
    }
}

/// Why a client is refused. The text goes to the client.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// What it says of itself is malformed.
    #[error("{0}")]
    InvalidArgument(String),
    /// Nobody vouches for it.
    #[error("{0}")]
    Unauthenticated(String),
    /// It is not who it would have to be.
    #[error("{0}")]
    PermissionDenied(String),
    /// Not ready.
    #[error("{0}")]
    Unavailable(String),
    /// Too many streams, or too often.
    #[error("{0}")]
    ResourceExhausted(String),
}

impl From<Refusal> for Status {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::InvalidArgument(text) => Self::invalid_argument(text),
            Refusal::Unauthenticated(text) => Self::unauthenticated(text),
            Refusal::PermissionDenied(text) => Self::permission_denied(text),
            Refusal::Unavailable(text) => Self::unavailable(text),
            Refusal::ResourceExhausted(text) => Self::resource_exhausted(text),
        }
    }
}
