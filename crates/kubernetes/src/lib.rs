//! A Kubernetes cluster, as the control plane reads and writes it, and the way of the operator's commands to its pods.
//!
//! - [`connect`]: the way to the API server.
//! - [`port_forward`]: questions to pods over HTTP, through the API server.
//! - [`watch`]: every kind that the mesh reads, as validated types; what they mean is not known here.
//! - [`waypoint`]: from a Gateway to the objects that run its waypoint, without I/O.
//! - [`apply`], [`deployer`]: keeps these objects as they should be.
//! - [`install`]: puts a control plane into a cluster, and takes it out.
//! - [`leader`]: of several replicas, one writes.
//! - [`ca_secret`], [`root_config_map`]: the certificate authority that replicas share, and its roots in every namespace.
//! - [`status`]: what objects say about themselves; [`allocate`]: addresses of ServiceEntries that have none.
//! - [`survey`](mod@survey): everything there is, read once, for a report.
//! - [`token`]: whose service account token it is.
#![forbid(unsafe_code)]

pub mod allocate;
pub mod apply;
pub mod ca_secret;
mod client;
pub mod deployer;
pub mod install;
pub mod leader;
pub mod port_forward;
pub mod root_config_map;
mod source;
pub mod status;
pub mod survey;
pub mod token;
pub mod waypoint;

pub use client::{Access, ConnectError, Operator, connect};
pub use kube::Client;
pub use source::{Batch, Observed, Options, watch};
