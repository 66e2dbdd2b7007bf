//! Statuses of objects: what of them is to be written, and the writer that writes what is different, and no more.
//!
//! The writer watches the objects whose statuses are ours, so it knows what is there; the mesh says what should be there
//! ([`MeshStatus`]). Both wake it; then it compares, and writes what differs: some at a time, at a bounded rate, each write
//! bound to what was seen. Only the leader runs it. Spec: control-plane.md 9, 10.

mod condition;
mod gateway;
mod object;
mod route;
mod writer;

use std::fmt;
use std::net::IpAddr;

use tokio::sync::watch;
use waymark_api::ObjectRef;

pub use self::condition::{Condition, ConditionStatus};
pub use self::gateway::{GatewayFacts, programmed};
pub use self::object::{StatusKey, StatusKind};
pub use self::route::{ParentStatus, RouteStatus};
pub use self::writer::{WriterOptions, write};

/// What the mesh knows and statuses tell.
pub trait MeshStatus: Send + Sync + fmt::Debug {
    /// Changes whenever a status may have.
    fn changes(&self) -> watch::Receiver<u64>;

    /// How the Service that a Gateway is reached at is, by its host name.
    fn service(&self, host: &str, port: u16) -> ServiceFinding;

    /// Services and ServiceEntries with something to say, by name. Those that are not among them have nothing to say.
    fn conditions(&self) -> Vec<(StatusKey, Vec<Condition>)>;

    /// The routes that are ours to tell about.
    fn routes(&self) -> Vec<(StatusKey, RouteStatus)>;

    /// What is wrong with objects that were refused.
    fn refused(&self) -> Vec<(ObjectRef, String)>;
}

/// How a Service is that a Gateway is reached at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ServiceFinding {
    /// There is none.
    NotFound,
    /// Nothing of it is ready.
    NoEndpoints,
    /// It has no such port.
    NoPort,
    /// It takes traffic there.
    Ready {
        /// Its addresses inside of the cluster.
        vips: Vec<IpAddr>,
    },
}
