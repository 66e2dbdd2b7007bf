//! What tests of the whole mesh use: network namespaces of their own, a running mesh, a plain HTTP client.
#![forbid(unsafe_code)]

mod cache;
pub mod hbone;
pub mod http;
pub mod kubernetes;
pub mod mesh;
pub mod netns;
pub mod peers;
pub mod scenarios;
pub mod wait;
pub mod way;
