//! Envoy's xDS, delta form: server and client, each a state machine without I/O and a tonic driver around it.
//!
//! What the resources mean is for others: here they are names, versions and bytes.
//!
//! A server gives each client a [`ResourceSet`], an immutable value that is cheap to copy and to compare; a change is a new
//! set. [`ServerStream`] works out what a client lacks and answers its requests. [`AdsClient`] keeps what a client wants
//! and has.
#![forbid(unsafe_code)]

pub mod client;
mod node_id;
mod resource;
mod resource_map;
mod resource_set;
pub mod server;
mod subscription;

pub use client::{AdsClient, Handler, NackReason, Rejection, Subscriptions, Update};
pub use node_id::{NodeId, NodeIdError, NodeKind};
pub use resource::Encoded;
pub use resource_map::{Change, ResourceMap};
pub use resource_set::ResourceSet;
pub use server::{ServerStream, Source};

/// Envoy's discovery messages.
pub use waymark_proto::envoy::envoy::service::discovery::v3 as discovery;
