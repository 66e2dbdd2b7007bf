//! The protocol cores of the data path: plain state machines over byte slices.
//!
//! No socket, no clock, no task, no channel, and in the steady state no allocation: bytes and the time go in, events come
//! out, and what is to be sent is appended to a [`WriteBuf`] of the caller's. So one wake-up can drain a socket, run every
//! stream that can move and flush each touched connection once, and decoded tunnel payload goes from one connection's input
//! buffer straight into another's output.
//!
//! - [`h2`] is HTTP/2, server and client, for requests and for CONNECT tunnels.
//! - [`hpack`] is its header compression.
//! - [`http1`] is HTTP/1.1, server and client.
//! - [`Head`] is a decoded head: request, response or trailers.
#![forbid(unsafe_code)]

mod buf;
pub mod fuzz;
pub mod h2;
mod head;
pub mod hpack;
pub mod http1;

pub use buf::WriteBuf;
pub use head::{Field, Head, Malformed};
