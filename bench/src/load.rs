//! The load generator: a source node proxy without the application.

mod generator;
mod lane;

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use clap::{Args, ValueEnum};
use serde::{Deserialize, Serialize};

use crate::certs::{Ca, CertError};
use crate::hub::LinkError;

/// What is spoken inside a tunnel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Inner {
    H1,
    H2,
}

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Mode {
    /// Requests on open tunnels, as fast as answers come, or at `--rate`.
    Requests,
    /// A new CONNECT on a live connection for each request.
    Connects,
    /// A new mTLS connection for each request.
    Connections,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct LoadArgs {
    /// Where the proxy accepts HBONE.
    #[arg(long)]
    pub(crate) target: SocketAddr,
    /// What is asked for: CONNECT to this.
    #[arg(long)]
    pub(crate) authority: String,
    /// Directory with ca-cert.pem, ca-key.pem, root-cert.pem.
    #[arg(long)]
    pub(crate) ca_dir: PathBuf,
    /// Own identity.
    #[arg(long, default_value = "spiffe://cluster.local/ns/bench/sa/client")]
    pub(crate) identity: String,
    /// Address to connect from.
    #[arg(long)]
    pub(crate) source: Option<IpAddr>,
    /// TLS connections.
    #[arg(long, default_value_t = 4)]
    pub(crate) connections: usize,
    /// Tunnels on each connection.
    #[arg(long, default_value_t = 8)]
    pub(crate) streams: usize,
    /// What is spoken inside.
    #[arg(long, value_enum, default_value = "h1")]
    pub(crate) inner: Inner,
    /// Inner HTTP/2 streams in each tunnel.
    #[arg(long, default_value_t = 1)]
    pub(crate) inner_streams: usize,
    /// What is measured.
    #[arg(long, value_enum, default_value = "requests")]
    pub(crate) mode: Mode,
    /// Requests per second over all, evenly paced; 0: closed loop.
    #[arg(long, default_value_t = 0)]
    pub(crate) rate: u32,
    /// How long to measure.
    #[arg(long, default_value_t = 5.0)]
    pub(crate) seconds: f64,
    /// How long to run before measuring.
    #[arg(long, default_value_t = 1.0)]
    pub(crate) warm_up: f64,
    /// Send exactly so many requests instead, and measure from the first.
    #[arg(long)]
    pub(crate) requests: Option<u64>,
    /// End each connection or tunnel after about so many requests and open another.
    #[arg(long)]
    pub(crate) churn: Option<u64>,
    /// Process whose CPU time is taken.
    #[arg(long)]
    pub(crate) pid: Option<u32>,
}

/// What was measured.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Measured {
    pub(crate) requests: u64,
    pub(crate) failed: u64,
    /// Why the first of them failed.
    pub(crate) first_failure: Option<String>,
    pub(crate) per_second: f64,
    /// Microseconds of the proxy's CPU for each request, if a process was named.
    pub(crate) cpu_us: Option<f64>,
    /// The same of each of its threads, the busiest first.
    pub(crate) threads_us: Vec<f64>,
    pub(crate) p50_ms: f64,
    pub(crate) p99_ms: f64,
    pub(crate) max_ms: f64,
    /// Resident set of the proxy at the end, with all connections open, if a process was named.
    pub(crate) rss_mib: Option<f64>,
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum LoadError {
    #[error(transparent)]
    Certs(#[from] CertError),
    #[error("connect to the proxy")]
    Connect(#[from] LinkError),
    #[error("the generator's sockets")]
    Io(#[from] io::Error),
    #[error("a histogram can't be made")]
    Histogram(#[from] hdrhistogram::CreationError),
    #[error("no request was answered for long; the first failure was: {0:?}")]
    Stuck(String),
}

/// Drives the proxy and says how it went.
pub(crate) fn run(args: &LoadArgs) -> Result<Measured, LoadError> {
    let tls = Ca::load(&args.ca_dir)?.client(&args.identity)?;
    generator::run(args, tls)
}
