//! Counters, Istio's metrics, access log lines.

mod flags;
mod stats;

pub use self::flags::{ResponseFlag, ResponseFlags};
pub use self::stats::{ClusterStats, Counter, EndpointStats, Gauge};
