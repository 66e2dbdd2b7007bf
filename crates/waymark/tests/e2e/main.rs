//! The whole mesh, end to end: real processes, sockets, TLS and xDS, each test in a network namespace of its own.
#![forbid(unsafe_code)]
#![expect(clippy::unwrap_used, reason = "tests")]

mod bookinfo;
mod chart;
mod commands;
mod config;
mod differential;
mod enforcement;
mod envoy;
mod faults;
mod guides;
mod hostile;
mod image;
mod install;
mod istiod;
mod operator;
mod pod;
mod process;
mod replicas;
mod rights;
mod scenarios;
mod start;

use std::path::Path;

/// The program under test.
fn waymark() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_waymark"))
}

/// Deployment of the sample's waypoint.
const WAYPOINT: &str = "bookinfo-reviews-istio-waypoint";

/// Share of v2, in percent.
fn percent_v2(counts: &std::collections::BTreeMap<String, usize>) -> f64 {
    let total: usize = counts.values().sum();
    let v2 = counts.get("reviews-v2").copied().unwrap_or(0);
    #[expect(clippy::cast_precision_loss, reason = "small numbers")]
    {
        v2 as f64 * 100.0 / total as f64
    }
}

/// A runtime for the HBONE client.
fn block_on<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
        .block_on(work)
}
