//! `waymark up`: the whole mesh on this machine, without root and without a cluster.
//!
//! A supervisor that starts the roles as processes (control plane, node proxy; the control plane starts the waypoints),
//! starts the pods of the mesh directory that name a command, says what is ready, and ends all of it. It speaks to the
//! roles by what they publish: files in the state directory and HTTP on their debug and admin addresses.
#![forbid(unsafe_code)]

mod bundle;
mod down;
mod http;
mod mesh;
mod pods;
mod process;
mod progress;
mod roles;
mod split;
mod state_dir;
mod traffic;
mod up;

pub use crate::down::{DownArgs, DownError, down};
pub use crate::mesh::{
    ControlPlaneInfo, Mesh, NodeInfo, ServiceInfo, ServicePortInfo, WaypointInfo, WorkloadInfo,
};
pub use crate::state_dir::{StateDir, StateDirError};
pub use crate::up::{Output, UpArgs, UpError, up};
