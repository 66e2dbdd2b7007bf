//! The node proxy: every connection of the mesh's workloads on this node goes through it, wrapped in HBONE where the other
//! side speaks it, and through a waypoint where one is bound.
#![forbid(unsafe_code)]
#![cfg_attr(test, expect(clippy::unwrap_used, reason = "tests"))]

pub mod admin;
pub mod args;
pub mod capture;
pub mod certificates;
pub mod decision;
pub mod destination;
pub mod enforcement;
#[cfg(test)]
mod fixture;
pub mod headers;
pub mod policy;
pub mod proxy;
pub mod proxy_header;
pub mod readiness;
pub mod resources;
pub mod run;
pub mod state;
pub mod telemetry;
pub mod waypoint;
pub mod workers;
pub mod xds;

pub use args::Args;
pub use run::{RunError, run};
