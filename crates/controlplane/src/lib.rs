//! The control plane: manifests in, configuration for node proxies and waypoints out.
//!
//! Stages, each of which only marks what the next one has to look at again:
//! [`source`] -> [`store`] and [`facts`] (with [`ipam`]) -> [`index`] -> [`wds`] and [`generate`] (with
//! [`inputs`] and [`translate`]).
#![forbid(unsafe_code)]

pub mod ca;
pub mod core;
pub mod debug;
pub mod deploy;
pub mod distribution;
pub mod facts;
pub mod file;
#[cfg(test)]
mod fixture;
pub mod generate;
pub mod index;
pub mod inputs;
pub mod ipam;
pub mod metrics;
pub mod replay;
pub mod role;
pub mod serve;
pub mod source;
pub mod status;
pub mod store;
pub mod token;
pub mod translate;
pub mod view;
pub mod wds;

pub use role::{Args, RunError, run};
