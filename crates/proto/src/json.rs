//! Protobuf to JSON and back, by descriptors.
//!
//! The rules are those of protobuf's JSON mapping, with one addition: an `Any` whose type is not known, or whose bytes are
//! not of that type, is `{"@type": url, "value": base64}`, at any depth, so that whatever was received can be shown.
//!
//! The descriptors are read when they are first needed.

use serde_json::Value;

use crate::any::{AnyMessage, type_name};

pub(crate) mod pool;
mod read;
mod structs;
mod well_known;
mod write;

pub use structs::StructMessage;

/// How fields are named and ordered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JsonStyle {
    /// Names as in the `.proto` file, in the order of field numbers: Envoy's admin interface.
    Snake,
    /// lowerCamelCase names, in the order of declaration: istioctl.
    Camel,
}

/// What is done with a field, enum value or `Any` type that the descriptors lack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unknown {
    /// An error.
    Refuse,
    /// Left out; of an `Any`, the contents.
    Ignore,
}

/// Why JSON is no message, or bytes are none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum JsonError {
    /// No descriptor.
    #[error("unknown message type {type_name}")]
    UnknownType {
        /// Full name of the type.
        type_name: String,
    },
    /// The bytes are malformed.
    #[error("decode {type_name}")]
    Decode {
        /// Full name of the type.
        type_name: String,
        /// The decoder's reason.
        source: prost::DecodeError,
    },
    /// Something in the JSON does not fit.
    #[error("{}{reason}", location(path))]
    Value {
        /// Field names and indices from the outermost message: `filter_chains[0].name`.
        path: String,
        /// What was expected.
        reason: String,
    },
}

/// An `Any` as JSON, with `@type` first.
pub fn any_to_value(any: &impl AnyMessage, style: JsonStyle) -> Value {
    write::any(any.type_url(), any.value(), style, 0)
}

/// An encoded message of the type `full_name` as JSON.
///
/// # Errors
///
/// The type is not known, or the bytes are malformed.
pub fn message_to_value(
    full_name: &str,
    bytes: &[u8],
    style: JsonStyle,
) -> Result<Value, JsonError> {
    write::message(&pool::descriptor(full_name)?, bytes, style)
}

/// A message as JSON.
///
/// # Errors
///
/// The type is not known.
pub fn to_value<M: prost::Name>(message: &M, style: JsonStyle) -> Result<Value, JsonError> {
    message_to_value(&M::full_name(), &message.encode_to_vec(), style)
}

/// The `Any` that a JSON object with `@type` says. Field names may be in either style; nothing unknown is allowed.
///
/// # Errors
///
/// See [`JsonError`].
pub fn value_to_any<A: AnyMessage>(value: &Value) -> Result<A, JsonError> {
    value_to_any_with(value, Unknown::Refuse)
}

/// [`value_to_any`] with a choice about what is unknown.
///
/// # Errors
///
/// See [`JsonError`].
pub fn value_to_any_with<A: AnyMessage>(value: &Value, unknown: Unknown) -> Result<A, JsonError> {
    let (type_url, bytes) = read::any(value, unknown)?;
    let bytes = crate::canonical::message(type_name(&type_url), bytes);
    Ok(A::from_parts(type_url, bytes))
}

/// The encoded message of the type `full_name` that the JSON says. Equal JSON gives equal bytes.
///
/// # Errors
///
/// See [`JsonError`].
pub fn value_to_message(full_name: &str, value: &Value) -> Result<Vec<u8>, JsonError> {
    value_to_message_with(full_name, value, Unknown::Refuse)
}

/// [`value_to_message`] with a choice about what is unknown.
///
/// # Errors
///
/// See [`JsonError`].
pub fn value_to_message_with(
    full_name: &str,
    value: &Value,
    unknown: Unknown,
) -> Result<Vec<u8>, JsonError> {
    let bytes = read::message(&pool::descriptor(full_name)?, value, unknown)?;
    Ok(crate::canonical::message(full_name, bytes))
}

/// The message that the JSON says.
///
/// # Errors
///
/// See [`JsonError`].
pub fn from_value<M: prost::Name + Default>(
    value: &Value,
    unknown: Unknown,
) -> Result<M, JsonError> {
    let bytes = value_to_message_with(&M::full_name(), value, unknown)?;
    M::decode(bytes.as_slice()).map_err(|source| JsonError::Decode {
        type_name: M::full_name(),
        source,
    })
}

fn location(path: &str) -> String {
    if path.is_empty() {
        String::new()
    } else {
        format!("{path}: ")
    }
}

/// Messages within messages, `Any`s included, beyond which JSON is not followed.
///
/// prost stops at 100 within one message; an `Any` starts again, so it is stopped here.
const MAX_DEPTH: usize = 100;

#[cfg(test)]
mod tests;
