#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod connections;
mod hyper_peers;
