//! The waypoint proxy: Envoy resources in, flat tables out, requests through.
//!
//! ```text
//! xDS -> config (received, accepted, rejected) -> decode (what is not understood is refused) -> program (flat tables)
//!     -> Snapshot, swapped whole -> the data path, which loads it once per request
//! ```
//! Wire types stop at [`decode`]; the data path reads [`program`], [`route`] and [`telemetry`] only.
#![forbid(unsafe_code)]

mod accept;
pub mod admin;
mod args;
pub mod config;
pub mod decode;
pub mod pod;
pub mod program;
pub mod route;
pub mod telemetry;

mod cluster;
mod dns;
mod downstream;
mod http;
mod listener;
mod near;
mod originate;
mod random;
mod run;
mod signal;
mod tcp;
mod worker;
mod workers;

#[cfg(test)]
mod fixture;

pub use args::{Args, Settings, SettingsError};
pub use downstream::{Downstream, NodeAccount, NodeAccountError};
pub use listener::TerminatorTls;
pub use run::{RunError, run};
pub use worker::Shared;
pub use workers::Workers;
