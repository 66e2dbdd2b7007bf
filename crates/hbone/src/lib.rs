//! HBONE: byte streams as HTTP/2 CONNECT over mutual TLS, the way ztunnel and Envoy waypoints speak it.
//!
//! - [`Acceptor`] and [`ServerConnection`] are the accepting side: a TCP connection in, CONNECT requests out.
//! - [`Pool`] is the dialling side: tunnels over few, shared connections.
//! - [`Tunnel`] is an open tunnel, an [`Io`](waymark_driver::Io); [`copy_bidirectional`] joins two byte streams.
//!
//! Nothing here decides who may talk to whom. Everything runs on a [`waymark_driver::Executor`], and stays on its thread.
#![forbid(unsafe_code)]

mod authority;
mod certificates;
mod copy;
mod drain;
mod peer;
mod pool;
mod server;
mod settings;
mod tunnel;

pub use authority::{Authority, AuthorityError};
pub use certificates::ServeAs;
pub use copy::{CopyCounters, CopyOutcome, Side, copy_bidirectional};
pub use drain::Drain;
pub use peer::{ExpectedPeer, PeerRule};
pub use pool::{ClientTls, ConnectError, Connected, Lease, Pool, PoolKey, PoolStats};
pub use server::{
    AcceptError, Acceptor, ConnectionInfo, Incoming, ServerConnection, ServerStats, ServerTls,
    TlsUnavailable,
};
pub use settings::{Http2Settings, PoolSettings, ServerSettings, StreamWindow};
pub use tunnel::{H2Failure, Tunnel};
pub use waymark_driver::h2::{ConnectionEnd, StreamEnd};
pub use waymark_engine::h2::ErrorCode;

/// The port that HBONE is spoken on.
pub const HBONE_PORT: u16 = 15008;
/// What HBONE peers agree on by ALPN.
pub const ALPN_H2: &[u8] = b"h2";
