//! The multiplexer over sockets, against a peer that nobody here wrote.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod h2spec;
