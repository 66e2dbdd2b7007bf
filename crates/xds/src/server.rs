//! The server: [`ServerStream`] is the protocol without I/O, [`Service`] drives it over tonic.

mod codec;
mod registry;
mod service;
mod source;
mod stream;
mod type_state;

pub use registry::{ClientSummary, ConnectionStatus, Registry, Totals};
pub use service::{Options, Service};
pub use source::{Client, Refusal, Source, View};
pub use stream::{Handled, PUSH_ORDER, RequestError, ServerStream, Warming};
pub use type_state::{Response, TypeStatus};

#[cfg(test)]
mod tests;
