//! TLS 1.3 over TCP.
//!
//! rustls makes the handshake and keeps the key schedule. The records are protected here, with the keys that it hands over
//! for exactly that (`rustls::kernel`): what is received is decrypted where it was read, and what is sent is copied once,
//! into the output buffer, and encrypted there. rustls' own record layer copies both once or twice more and allocates for
//! each record.
//!
//! TLS 1.2 is not spoken here; a configuration has to exclude it, and to allow that secrets are extracted.

mod error;
#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
pub(crate) mod fixture;
mod handshake;
mod message;
mod record;
mod session;

pub use error::{RecordError, TlsError};
pub use handshake::{Peer, accept, connect};
pub(crate) use session::{Opened, Session};
