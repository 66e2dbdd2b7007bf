//! HBONE over loopback: both ends are ours, TLS and HTTP/2 are real.
#![expect(clippy::unwrap_used, reason = "tests")]

mod abuse;
mod mesh;
mod pooling;
mod tunnels;
