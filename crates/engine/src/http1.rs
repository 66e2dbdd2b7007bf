//! HTTP/1.1 (RFC 9112), server and client.
//!
//! [`Server`] and [`Client`] are fed what came ([`Server::recv`]) and append what is to be sent to a buffer of the caller's.
//! They take [`Head`]s apart and put them together, frame bodies, and decide what becomes of the connection; heads are kept in
//! one buffer each that is used again, and body is never copied: events name ranges of the input.
//!
//! - What frames or routes a request must be beyond doubt, else the request is refused: l7-semantics.md 3.1, and stricter where
//!   the tables in the tests say so. Nobody behind us shall read other messages out of the same bytes.
//! - A head that comes out of here has nothing in it that belongs to the connection it came by, and `host` is `:authority`: it
//!   may be written to HTTP/1.1 or HTTP/2 as it is. An upgrade keeps `connection` and `upgrade`.
//! - What goes out is framed from its [`BodyLength`], never from the head.

mod chars;
mod chunked;
mod client;
mod config;
mod convert;
mod fields;
pub mod fuzz;
mod hop;
mod lines;
mod reason;
mod refusal;
mod request_line;
mod server;
mod sniff;
mod write;

#[cfg(test)]
mod tests;

use crate::head::Head;

pub use client::{Client, ClientEvent, ResponseInfo};
pub use config::{Http10, Limits, ServerConfig, Underscores};
pub use convert::{
    request_to_http1, request_to_http2, response_to_http1, response_to_http2, upgrade_response,
    upgrade_to_connect,
};
pub use fields::BodyLength;
pub use reason::reason;
pub use refusal::{Refusal, RefusalCounts, ReplyKind, ResponseError};
pub use request_line::Version;
pub use server::{After, RequestInfo, Server, ServerEof, ServerEvent};
pub use sniff::{PREFACE, Sniffed, is_http2, sniff};
pub use write::WriteError;

/// What some bytes came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Received<E> {
    /// How many bytes of the input are done with. What an event's range names is among them.
    pub consumed: usize,
    /// What they came to.
    pub event: E,
}

/// Gives the memory of a head back.
fn release(head: &mut Head) {
    *head = Head::new();
}
