//! The control plane's side of a Kubernetes cluster: what it writes there.
//!
//! - [`waypoint`]: from a Gateway to the objects that run its waypoint, without I/O.
//! - [`apply`], [`deployer`]: keeps these objects as they should be.
//! - [`leader`]: of several replicas, one writes.
//! - [`ca_secret`], [`root_config_map`]: the certificate authority that replicas share, and its roots in every namespace.
//! - [`status`]: what objects say about themselves.
//! - [`token`]: whose service account token it is.
#![forbid(unsafe_code)]

pub mod apply;
pub mod ca_secret;
pub mod deployer;
pub mod leader;
pub mod root_config_map;
pub mod status;
pub mod token;
pub mod waypoint;
