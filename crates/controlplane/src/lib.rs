//! The control plane: manifests in, configuration for node proxies and waypoints out.
//!
//! Stages, each of which only marks what the next one has to look at again:
//! [`store`] and [`facts`] (with [`ipam`]) -> [`index`] -> [`wds`] and [`translate`].
#![forbid(unsafe_code)]

pub mod ca;
pub mod deploy;
pub mod facts;
pub mod file;
pub mod index;
pub mod ipam;
pub mod store;
pub mod token;
pub mod translate;
pub mod wds;
