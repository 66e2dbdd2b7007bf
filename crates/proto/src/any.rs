//! `google.protobuf.Any`, of which there are two Rust types: `prost_types::Any` in our own messages, and Envoy's.

use prost::Name;

use crate::envoy::google::protobuf::Any as EnvoyAny;

/// Why an Any could not be unpacked.
#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    /// It holds a message of another type.
    #[error("Any holds {got}, want {want}")]
    OtherType {
        /// Type URL in the Any.
        got: String,
        /// Full name of the type that was asked for.
        want: String,
    },
    /// Its bytes are no message of that type.
    #[error("decode {type_name}")]
    Decode {
        /// Full name of the type.
        type_name: String,
        /// The decoder's reason.
        source: prost::DecodeError,
    },
}

/// Either Rust type of `google.protobuf.Any`.
pub trait AnyMessage {
    /// An Any of these parts.
    fn from_parts(type_url: String, value: Vec<u8>) -> Self;
    /// Says what `value` is.
    fn type_url(&self) -> &str;
    /// The encoded message.
    fn value(&self) -> &[u8];
}

impl AnyMessage for prost_types::Any {
    fn from_parts(type_url: String, value: Vec<u8>) -> Self {
        Self { type_url, value }
    }

    fn type_url(&self) -> &str {
        &self.type_url
    }

    fn value(&self) -> &[u8] {
        &self.value
    }
}

impl AnyMessage for EnvoyAny {
    fn from_parts(type_url: String, value: Vec<u8>) -> Self {
        Self { type_url, value }
    }

    fn type_url(&self) -> &str {
        &self.type_url
    }

    fn value(&self) -> &[u8] {
        &self.value
    }
}

/// Packs a message into the kind of Any that the place it goes to needs.
///
/// Envoy's messages hold maps whose order differs each time they are encoded; where bytes are compared,
/// [`crate::canonical`] makes them equal.
pub fn pack<M: Name, A: AnyMessage>(message: &M) -> A {
    A::from_parts(M::type_url(), message.encode_to_vec())
}

/// Unpacks a message of a type that the caller expects.
///
/// # Errors
///
/// The Any is of another type, or its bytes are malformed.
pub fn unpack<M: Name + Default>(any: &impl AnyMessage) -> Result<M, UnpackError> {
    if !is::<M>(any) {
        return Err(UnpackError::OtherType {
            got: any.type_url().to_owned(),
            want: M::full_name(),
        });
    }
    M::decode(any.value()).map_err(|source| UnpackError::Decode {
        type_name: M::full_name(),
        source,
    })
}

/// Whether the Any says that it holds an `M`.
pub fn is<M: Name>(any: &impl AnyMessage) -> bool {
    type_name(any.type_url()) == M::full_name()
}

/// The full name in a type URL: what follows the last slash.
pub fn type_name(type_url: &str) -> &str {
    type_url.rsplit_once('/').map_or(type_url, |(_, name)| name)
}

/// Turns one Rust type of Any into the other.
pub fn convert<A: AnyMessage>(any: &impl AnyMessage) -> A {
    A::from_parts(any.type_url().to_owned(), any.value().to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::envoy::envoy::config::cluster::v3::Cluster;
    use crate::workload::Workload;

    #[test]
    fn packs_into_either_kind_and_unpacks() {
        let cluster = Cluster {
            name: "a".to_owned(),
            ..Cluster::default()
        };
        let ours: prost_types::Any = pack(&cluster);
        let envoys: EnvoyAny = convert(&ours);
        assert_eq!(ours.type_url, crate::type_url::CLUSTER);
        assert_eq!(unpack::<Cluster>(&envoys).expect("a cluster"), cluster);
    }

    #[test]
    fn refuses_another_type() {
        let any: prost_types::Any = pack(&Workload::default());
        let error = unpack::<Cluster>(&any).expect_err("no cluster");
        assert_eq!(
            error.to_string(),
            "Any holds type.googleapis.com/istio.workload.Workload, want envoy.config.cluster.v3.Cluster"
        );
    }
}
