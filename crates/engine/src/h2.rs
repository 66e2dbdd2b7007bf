//! HTTP/2, server and client, as a state machine over byte slices.
//!
//! A [`Connection`] is fed what its peer sent and asked for [`Event`]s; what it has to send is appended to the caller's
//! [`WriteBuf`](crate::WriteBuf):
//!
//! ```
//! # use std::{sync::Arc, time::Instant};
//! # use waymark_engine::{Field, Head, WriteBuf, h2::{Config, Connection, ConnectionError, End, Event}};
//! # fn turn(conn: &mut Connection, mut input: &[u8], out: &mut WriteBuf, now: Instant) -> Result<(), ConnectionError> {
//! while let Some(event) = conn.recv(&mut input, out, now)? {
//!     match event {
//!         Event::Head { stream, .. } if conn.head().method() == Some(b"CONNECT") => {
//!             let ok = Head::response(200);
//!             let _ = conn.send_response(stream, ok.wire_fields(), End::No, out);
//!         }
//!         Event::Data { stream, data, end } => {
//!             // An echo: the peer may send as much more as was taken from it.
//!             let taken = conn.send_data(stream, data, End::from(end), out).unwrap_or(data.len());
//!             conn.consume(stream, taken, out);
//!         }
//!         _ => {}
//!     }
//! }
//! # Ok(())
//! # }
//! ```
//!
//! **Back-pressure.** The peer's windows are given back by what is [consumed](Connection::consume), not by what arrives, so an
//! unread stream holds at most its window. A stream begins with a small one, which grows while its reader keeps up, never
//! beyond what lets the connection's window hold all that all streams may leave unread: so no stream that stands still is
//! felt by its siblings. In the other direction [`send_data`](Connection::send_data) takes what both windows and the output
//! buffer have room for, and [`Event::Writable`] says when there is more.
//!
//! **Abuse.** Whatever a peer can do for free and often has a budget (see [`Limits`]); what is refused is counted
//! ([`Refusals`]).
//!
//! Server push is refused, priorities are read and ignored. Spec: RFC 9113, RFC 8441.

mod abuse;
mod config;
mod connection;
mod error;
mod frame;
mod receive;
mod send;
mod settings;
mod stream;
#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests;

pub use abuse::{Rate, Refusal, Refusals};
pub use config::{Config, Limits};
pub use connection::{Connection, Event, ResetBy};
pub use error::{ConnectionError, ErrorCode};
pub use send::{End, SendError};
pub use settings::PeerSettings;
pub use stream::StreamRef;
