#![expect(clippy::unwrap_used, reason = "tests")]

mod connections;
mod conversions;
mod corpus;
mod peers;
mod requests;
mod responses;
