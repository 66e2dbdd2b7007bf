//! A node proxy and its surroundings, in one process and on real sockets: applications, a waypoint, clients inside and
//! outside the mesh. Every test has addresses of its own in 127.0.0.0/8.
#![expect(clippy::unwrap_used, reason = "tests")]

mod capture;
mod control_plane;
mod enforcement;
mod harness;
mod traffic;
