//! HBONE on tokio, for roles that don't run on `waymark-driver` yet; new code uses `waymark-hbone`.
//!
//! - [`Acceptor`] and [`ServerConnection`] are the accepting side: a TCP connection in, CONNECT requests out.
//! - [`Pool`] is the dialling side: tunnels over few, shared connections.
//! - [`Tunnel`] is an open tunnel, [`copy_bidirectional`] joins two byte streams.
//!
//! Nothing here decides who may talk to whom. Everything runs on whatever tokio runtime polls it, one thread or many.
//! The h2 crate stays behind this interface.
#![forbid(unsafe_code)]

mod authority;
mod certificates;
mod copy;
mod drain;
mod keepalive;
mod peer;
mod pool;
mod server;
mod settings;
mod tunnel;

pub use authority::{Authority, AuthorityError};
pub use certificates::ServeAs;
pub use copy::{ByteStream, CopyCounters, CopyOutcome, ReadState, copy_bidirectional};
pub use drain::Drain;
pub use peer::{ExpectedPeer, PeerRule};
pub use pool::{ClientTls, ConnectError, Connected, Lease, Pool, PoolKey, PoolStats};
pub use server::{
    AcceptError, Acceptor, ConnectionInfo, Incoming, ServerConnection, ServerStats, ServerTls,
    TlsUnavailable,
};
pub use settings::{Http2Settings, PoolSettings, ServerSettings};
pub use tunnel::{H2Failure, Tunnel};

/// The port that HBONE is spoken on.
pub const HBONE_PORT: u16 = 15008;
/// What HBONE peers agree on by ALPN.
pub const ALPN_H2: &[u8] = b"h2";
