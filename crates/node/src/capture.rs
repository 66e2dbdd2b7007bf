//! How connections of the node's workloads come to the proxy.
//!
//! One implementation now: listeners on the addresses themselves, which needs no right ([`listeners`]). Redirection inside
//! a pod's network namespace will be another.

pub mod listeners;
pub mod wanted;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::rc::Rc;

use tokio_util::sync::CancellationToken;
use tokio_util::task::task_tracker::TaskTrackerToken;
use waymark_driver::tcp::Accepted;

use crate::workers::Local;

/// What a captured connection is, by where it was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Entry {
    /// Addressed to a service.
    Outbound,
    /// Addressed to a port of a local workload, in clear.
    InboundPlain,
    /// Addressed to a local workload's HBONE port.
    InboundHbone,
}

/// A captured connection.
#[derive(Debug)]
pub struct Captured {
    /// The connection.
    pub stream: Accepted,
    /// Who connected.
    pub peer: SocketAddr,
    /// What was connected to.
    pub destination: SocketAddr,
    /// What it is.
    pub entry: Entry,
    /// Cancelled when the address is captured no longer: its workload or service is gone, or the proxy is draining.
    pub released: CancellationToken,
}

/// Takes captured connections over.
pub trait Intake: Send + Sync + 'static {
    /// Serves a connection; called on the thread that accepted it, must not block.
    fn take(&self, here: &Rc<Local>, captured: Captured);
    /// Held by whoever may still have connections to hand over.
    fn hold(&self) -> TaskTrackerToken;
}

/// A way of capturing: keeps what is captured in line with the state until it is dropped.
pub trait Capture {
    /// What stands in the way now, in words: `<address>: <cause>`.
    fn obstacles(&self) -> Vec<String>;
    /// Whether everything that the state asked for so far has been tried.
    fn is_settled(&self) -> bool;
    /// Addresses that are captured now, and what connections there are.
    fn captured(&self) -> BTreeMap<SocketAddr, Entry>;
}
