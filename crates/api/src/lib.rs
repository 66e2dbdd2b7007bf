//! The objects that a mesh is described by: Kubernetes core, Gateway API and Istio kinds.
//!
//! YAML documents go in ([`yaml::parse_documents`]), validated types ([`Resource`]) or precise errors ([`DocumentError`]) come
//! out. Everything is parsed once: a value of these types is valid. Unknown fields of Gateway API and Istio kinds are errors, and
//! so is what upstream has but Waymark does not enforce yet ([`support`]): nothing is accepted and then ignored.
//! No I/O here.
#![forbid(unsafe_code)]

pub mod ambient;
pub mod crd;
mod decode;
pub mod duration;
pub mod error;
pub mod gateway;
pub mod host;
pub mod istio;
pub mod k8s;
pub mod matcher;
pub mod meta;
pub mod names;
pub mod protocol;
pub mod resource;
pub mod selector;
pub mod support;
mod tree;
pub mod waypoint;
pub mod yaml;

pub use error::{DocumentError, ErrorClass, ObjectRef};
pub use meta::{Kind, NamespacedName, ObjectKey, ObjectMeta, Timestamp};
pub use resource::Resource;
