//! One resource, encoded once for all clients.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use prost::Name;
use waymark_proto::any::AnyMessage;
use waymark_proto::canonical;

/// A resource as it goes over the wire: a name, the encoded message, and a version that is a hash of it.
///
/// The version depends on nothing but the bytes, so every replica gives the same one, and a client that reconnects is sent
/// only what has changed.
#[derive(Clone, PartialEq, Eq)]
pub struct Encoded {
    name: String,
    version: String,
    type_url: Arc<str>,
    value: Bytes,
    aliases: Vec<String>,
}

impl Encoded {
    /// A resource from encoded bytes, which must be the same for equal messages (see [`Encoded::pack`]).
    pub fn new(
        name: impl Into<String>,
        type_url: impl Into<Arc<str>>,
        value: impl Into<Bytes>,
    ) -> Self {
        let value = value.into();
        let version = format!("{:016x}", xxhash_rust::xxh3::xxh3_64(&value));
        Self {
            name: name.into(),
            version,
            type_url: type_url.into(),
            value,
            aliases: Vec::new(),
        }
    }

    /// A resource from a message; equal messages give equal bytes.
    pub fn pack<M: Name>(name: impl Into<String>, message: &M) -> Self {
        let value = canonical::message(&M::full_name(), message.encode_to_vec());
        Self::new(name, M::type_url(), value)
    }

    /// The resource with further names that it answers to.
    #[must_use]
    pub fn with_aliases(mut self, aliases: Vec<String>) -> Self {
        self.aliases = aliases;
        self
    }

    /// Its name, unique among those of its type.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Content hash: 16 hexadecimal digits.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// The type URL of its message.
    pub fn type_url(&self) -> &str {
        &self.type_url
    }

    /// The encoded message.
    pub fn value(&self) -> &Bytes {
        &self.value
    }

    /// Further names that it answers to.
    pub fn aliases(&self) -> &[String] {
        &self.aliases
    }

    /// The message as an Any; copies the bytes.
    pub fn to_any<A: AnyMessage>(&self) -> A {
        A::from_parts(self.type_url.to_string(), self.value.to_vec())
    }
}

impl fmt::Debug for Encoded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}@{} ({} bytes)",
            self.name,
            self.version,
            self.value.len()
        )
    }
}
