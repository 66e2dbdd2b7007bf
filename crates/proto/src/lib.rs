//! Wire messages: our own protos, Envoy's, the type URLs that name them, and protobuf to JSON and back.
//!
//! No logic: what a message means is for the crates that use it.
#![forbid(unsafe_code)]

pub mod any;
pub mod canonical;
pub mod json;
pub mod type_url;

#[expect(
    missing_docs,
    unreachable_pub,
    clippy::large_enum_variant,
    reason = "generated"
)]
mod generated;

/// Envoy's messages and those of the packages that it uses (`envoy::envoy::config::cluster::v3::Cluster`,
/// `envoy::xds`, `envoy::google`).
pub use envoy_types::pb as envoy;
pub use generated::envoy::tcp::metadataexchange::config as metadata_exchange;
/// Configuration of istio-proxy's peer metadata filter.
pub use generated::io::istio::http::peer_metadata;
/// Layer 4 authorization policies for node proxies (WADS).
pub use generated::istio::security;
/// The certificate authority's service.
pub use generated::istio::v1::auth;
/// Workload discovery (WDS).
pub use generated::istio::workload;
/// Configuration of the `istio.stats` filter.
pub use generated::stats;
/// Our additions to workload discovery.
pub use generated::waymark::workload::v1 as extension;
/// `IPMatcher`, which `envoy::xds::r#type::matcher::v3` lacks.
pub use generated::xds::r#type::matcher::v3 as ip_matcher;

/// Messages wrapped as a Struct.
pub mod typed_struct {
    pub use crate::generated::udpa::r#type::v1::TypedStruct as UdpaTypedStruct;
    pub use crate::generated::xds::r#type::v3::TypedStruct as XdsTypedStruct;
}
