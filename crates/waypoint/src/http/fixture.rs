//! Chains for tests.

use http::HeaderValue;

use crate::program::{
    Codec, HttpChain, HttpFilter, HttpTimeouts, PathOptions, RequestIdOptions, ServerHeader,
    Underscores,
};

/// A chain as istiod configures it, without routes.
pub(crate) fn chain() -> HttpChain {
    HttpChain {
        name: "inbound-vip|9080|http|reviews".into(),
        stat_prefix: "inbound_0.0.0.0_9080".into(),
        codec: Codec::Auto,
        http1: Default::default(),
        http2: Default::default(),
        max_request_headers_bytes: 60 * 1024,
        max_headers: 100,
        max_requests_per_connection: None,
        underscores: Underscores::Allow,
        path: PathOptions {
            normalize: true,
            ..PathOptions::default()
        },
        server_name: HeaderValue::from_static("istio-envoy"),
        server_header: ServerHeader::Overwrite,
        request_id: RequestIdOptions {
            generate: true,
            in_response: false,
        },
        relay_100_continue: true,
        append_x_forwarded_port: false,
        suppress_envoy_headers: false,
        forward_client_cert: false,
        upgrades: vec!["websocket".into()],
        timeouts: HttpTimeouts::default(),
        filters: vec![HttpFilter::Router],
        routes: Default::default(),
        access_logs: Vec::new(),
        tracing: true,
    }
}
