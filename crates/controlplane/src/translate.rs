//! From the index to Envoy resources: pure functions, same input, same bytes.

pub mod input;

/// One resource as it is sent.
#[derive(Debug, Clone, PartialEq)]
pub struct Named {
    /// Its name, unique within its type.
    pub name: String,
    /// Type URL and encoded message; equal resources have equal bytes.
    pub any: prost_types::Any,
}
