//! What the data path tells telemetry, once for each request, connection and refused tunnel.

use std::sync::Arc;

use crate::downstream::Downstream;
use crate::program::{Cluster, Endpoint, HttpChain, TcpChain};
use crate::route::FormatContext;

/// Takes note of what happened. Called on the worker's thread at the end of the matter, so it has to be quick.
pub trait Observer: Send + Sync + 'static {
    /// A request is over, its response sent or given up.
    fn request(&self, chain: &HttpChain, context: &FormatContext<'_>, about: &About<'_>);

    /// A TCP connection was begun.
    fn tcp_opened(&self, chain: &TcpChain, about: &About<'_>);

    /// A TCP connection is over.
    fn tcp_closed(&self, chain: &TcpChain, context: &FormatContext<'_>, about: &About<'_>);

    /// A CONNECT led nowhere: no chain for its destination.
    fn tunnel_refused(&self, context: &FormatContext<'_>, about: &About<'_>);
}

/// What a request or connection was about, beside what can be formatted.
#[derive(Debug, Clone, Copy)]
pub struct About<'a> {
    /// The client.
    pub downstream: &'a Downstream,
    /// The cluster that it went to, or should have.
    pub cluster: Option<&'a Arc<Cluster>>,
    /// The endpoint that it went to at last.
    pub endpoint: Option<&'a Arc<Endpoint>>,
    /// The gRPC status of the response, where there is one.
    pub grpc_status: Option<u32>,
}

/// Takes note of nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct Unobserved;

impl Observer for Unobserved {
    fn request(&self, _: &HttpChain, _: &FormatContext<'_>, _: &About<'_>) {}
    fn tcp_opened(&self, _: &TcpChain, _: &About<'_>) {}
    fn tcp_closed(&self, _: &TcpChain, _: &FormatContext<'_>, _: &About<'_>) {}
    fn tunnel_refused(&self, _: &FormatContext<'_>, _: &About<'_>) {}
}
