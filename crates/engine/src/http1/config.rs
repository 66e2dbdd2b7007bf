//! What a connection is allowed.

use super::refusal::RefusalCounts;

/// What is done with fields whose name has an underscore.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Underscores {
    /// They pass.
    Allow,
    /// The request is refused.
    Reject,
    /// They are removed.
    Drop,
}

/// Whether HTTP/1.0 is served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Http10 {
    /// 426.
    Refuse,
    /// It is; a request without Host is for `default_host`, if there is one.
    Accept {
        /// The authority of requests that name none.
        default_host: Option<Box<str>>,
    },
}

/// The limits of heads and bodies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Names, values and target of a head together; those of trailers; empty lines before a request.
    pub head_bytes: usize,
    /// Field lines, Host included.
    pub fields: usize,
    /// Chunk extensions of one body in all, and zeros in front of sizes.
    pub chunk_extension_bytes: u32,
    /// Informational responses before one response.
    pub informational: u8,
}

impl Limits {
    /// What Envoy allows clients.
    pub const DOWNSTREAM: Self = Self {
        head_bytes: 60 * 1024,
        fields: 100,
        chunk_extension_bytes: 16 * 1024,
        informational: 0,
    };
    /// What upstreams are allowed.
    pub const UPSTREAM: Self = Self {
        head_bytes: 256 * 1024,
        fields: 100,
        chunk_extension_bytes: 16 * 1024,
        informational: 32,
    };
}

/// How connections of clients are served. They share it, and count what they refuse in it.
#[derive(Debug)]
pub struct ServerConfig {
    /// The limits.
    pub limits: Limits,
    /// What is done with underscores in names.
    pub underscores: Underscores,
    /// Whether HTTP/1.0 is served.
    pub http10: Http10,
    /// What was refused.
    pub refusals: RefusalCounts,
}

impl Default for ServerConfig {
    /// As istiod configures a waypoint.
    fn default() -> Self {
        Self {
            limits: Limits::DOWNSTREAM,
            underscores: Underscores::Allow,
            http10: Http10::Refuse,
            refusals: RefusalCounts::default(),
        }
    }
}
