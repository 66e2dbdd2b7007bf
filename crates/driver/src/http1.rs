//! HTTP/1.1 connections over an [`Io`](crate::Io): the cores of `waymark_engine::http1`, driven by whoever polls.
//!
//! A connection has no task of its own. Its owner polls it for heads and for pieces of bodies, which are slices of what the
//! [`Io`](crate::Io) holds and are consumed as far as they could be passed on: until then the peer gets no room for more. What is
//! written goes into the `Io` at once; only heads, and what frames chunks, wait in a small buffer while the `Io` is full.

mod client;
mod outbox;
mod server;

#[cfg(test)]
mod tests;

pub use client::{ClientConnection, ReceiveError, Received};
pub use server::{BodyError, Incoming, ServerConnection};

/// A piece of a body.
#[derive(Debug, PartialEq, Eq)]
pub enum Piece<'a> {
    /// Some bytes, at least one. They stay until they are consumed.
    Data(&'a [u8]),
    /// The trailers; the end is next.
    Trailers,
    /// The body is over.
    End,
}
