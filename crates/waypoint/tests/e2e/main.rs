//! The data path between a source node and destination nodes, all over real mTLS HBONE on loopback, with programs made by
//! hand.
#![expect(clippy::unwrap_used, reason = "tests")]

mod balancing;
mod headers;
mod http2;
mod life;
mod mesh;
mod program;
mod replies;
mod retries;
mod routing;
mod tcp;
mod timers;
mod upgrades;
