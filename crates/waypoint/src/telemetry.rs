//! Counters, Istio's metrics, access log lines.

mod flags;
mod server;
mod stats;

pub use self::flags::{ResponseFlag, ResponseFlags};
pub use self::server::{ServerFigures, ServerStats, UpdateStats};
pub use self::stats::{ClusterStats, Counter, EndpointStats, Gauge};
