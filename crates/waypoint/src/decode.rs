//! Envoy's resources to the compiled [`program`](crate::program).
//!
//! The only place of this crate, admin aside, that names Envoy's messages. It reads Envoy's general language (listeners,
//! matcher trees, filter chains) as far as it can be compiled faithfully. Anything else is refused with the path of the
//! field ([`DecodeError`]), so that the last good configuration keeps serving:
//! - Every message is taken apart field by field, without `..`, so that a field which upstream adds has to be looked at.
//! - A security filter that is not enforced (RBAC, JWT, external authorization) is refused.
//! - Traffic behaviour that does not exist here is refused.
//! - Observability that does not exist here is accepted, does nothing, and is listed ([`Ignored`]).
//! - An extension of unknown type is refused, unless the sender says that it is optional.
#![allow(deprecated, reason = "what upstream deprecates is still sent")]

mod access_log;
mod at;
mod cluster;
mod endpoints;
mod filters;
mod headers;
mod http_chain;
mod http_options;
mod listener;
mod matcher;
mod network;
mod route_action;
mod routes;
mod strings;
mod tls;
mod values;

use std::sync::Arc;

use prost::Message;
use waymark_proto::envoy::envoy::config as pb;

use self::at::{At, Notes};
pub use self::at::{DecodeError, Ignored};
pub use self::cluster::{DecodedCluster, Hop};
pub use self::endpoints::DecodedEndpoints;
pub use self::listener::{DecodedChain, DecodedListener, Listener, Originate, Router, Terminate};
use crate::program::Names;
use crate::route::RouteTable;

/// Decodes resources of one process; hands out ids for the names they mention.
#[derive(Debug)]
pub struct Decoder<'n> {
    names: &'n mut Names,
}

/// A decoded resource, and what of it does nothing here.
#[derive(Debug)]
pub struct Decoded<T> {
    /// The resource.
    pub value: T,
    /// Fields that were accepted and do nothing.
    pub ignored: Vec<Ignored>,
}

impl<'n> Decoder<'n> {
    /// A decoder that takes ids from `names`.
    pub fn new(names: &'n mut Names) -> Self {
        Self { names }
    }

    /// Decodes a `Cluster`.
    ///
    /// # Errors
    /// When something in it cannot be compiled.
    pub fn cluster(&mut self, bytes: &[u8]) -> Result<Decoded<DecodedCluster>, DecodeError> {
        let message: pb::cluster::v3::Cluster = message(bytes)?;
        let name = message.name.clone();
        self.run(&name, |names, notes| {
            cluster::decode(names, notes, At::root(), message)
        })
    }

    /// Decodes a `ClusterLoadAssignment` of the EDS service `name`.
    ///
    /// # Errors
    /// When something in it cannot be compiled.
    pub fn endpoints(&mut self, bytes: &[u8]) -> Result<Decoded<DecodedEndpoints>, DecodeError> {
        let message: pb::endpoint::v3::ClusterLoadAssignment = message(bytes)?;
        let name = message.cluster_name.clone();
        self.run(&name, |_, notes| {
            endpoints::decode(notes, At::root(), message)
        })
    }

    /// Decodes a `Listener`.
    ///
    /// # Errors
    /// When something in it cannot be compiled.
    pub fn listener(&mut self, bytes: &[u8]) -> Result<Decoded<DecodedListener>, DecodeError> {
        let message: pb::listener::v3::Listener = message(bytes)?;
        let name = message.name.clone();
        self.run(&name, |names, notes| {
            listener::decode(names, notes, At::root(), message)
        })
    }

    /// Decodes a `RouteConfiguration`.
    ///
    /// # Errors
    /// When something in it cannot be compiled.
    pub fn route_configuration(
        &mut self,
        bytes: &[u8],
    ) -> Result<Decoded<Arc<RouteTable>>, DecodeError> {
        let message: pb::route::v3::RouteConfiguration = message(bytes)?;
        let name = message.name.clone();
        self.run(&name, |names, notes| {
            routes::decode(names, notes, At::root(), message).map(Arc::new)
        })
    }

    fn run<T>(
        &mut self,
        name: &str,
        decode: impl FnOnce(&mut Names, &mut Notes) -> Result<T, DecodeError>,
    ) -> Result<Decoded<T>, DecodeError> {
        let mut notes = Notes::default();
        match decode(self.names, &mut notes) {
            Ok(value) => Ok(Decoded {
                value,
                ignored: notes.into_inner(),
            }),
            Err(error) => Err(error.of(name)),
        }
    }
}

fn message<M: Message + Default>(bytes: &[u8]) -> Result<M, DecodeError> {
    M::decode(bytes).map_err(|e| At::root().error(format!("is not the message it says it is: {e}")))
}

#[cfg(test)]
mod tests;
