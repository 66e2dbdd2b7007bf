//! HTTP/2 connections with many streams over one byte stream: a socket, a TLS session, or a stream of another connection.
//!
//! [`ServerConnection`] yields the streams that the peer opens, [`ClientConnection`] opens them. A [`Stream`] is an
//! [`Io`](crate::Io), with heads and trailers beside the bytes. What is sent is framed into one buffer at once, and handed to
//! the transport by a task that runs once a turn; what is received is read by another task and lies in a buffer of the
//! stream until it is consumed.
//!
//! **Memory.** A stream that waits holds no buffer. One that isn't read holds its window at most; windows are such that
//! streams that aren't read don't keep others waiting (see [`waymark_engine::h2`]). All streams share the output, which takes
//! no more data while it is full.
//!
//! **Ends.** When the transport ends, or the peer breaks the protocol, or answers no PING, every stream that has not ended
//! fails, once what it had received is read. A connection that leaves (GOAWAY of either side) ends with its last stream, a
//! client's also with its last handle.

mod connection;
mod end;
mod state;
mod stream;
mod tasks;
#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests;
mod waiter;

pub use connection::{
    ClientConnection, KeepAlive, OpenError, Options, Request, ServerConnection, Watch,
};
pub use end::{ConnectionEnd, StreamEnd};
pub use stream::{Response, Stream};
