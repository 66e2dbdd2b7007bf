//! Counters, Istio's metrics, access log lines.

mod flags;
mod histogram;
mod istio;
mod logs;
mod recorder;
mod samples;
mod server;
mod stats;

pub use self::flags::{ResponseFlag, ResponseFlags};
pub use self::histogram::{BUCKETS, Histogram, HistogramValue};
pub use self::istio::TcpSeries;
pub use self::recorder::{Facts, HttpStats, RequestCounts, TcpReport, Telemetry};
pub use self::samples::{Sample, SampleValue, prometheus};
pub use self::server::{ServerFigures, ServerStats, TunnelStats, UpdateStats};
pub use self::stats::{ClusterStats, Counter, EndpointStats, Gauge};
