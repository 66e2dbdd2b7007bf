//! `--traffic N`: N requests a second, evenly paced, from a workload's address.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;
use waymark_rt::task::{Task, spawn};

use crate::http::{client, get};

/// Requests under way at once; when all are taken the pace is missed, and said so by `skipped`.
const MAX_IN_FLIGHT: usize = 512;

/// What the driver has counted.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) sent: AtomicU64,
    pub(crate) failed: AtomicU64,
    pub(crate) skipped: AtomicU64,
}

/// A running driver; ends when dropped.
#[derive(Debug)]
pub(crate) struct Traffic {
    pub(crate) counters: Arc<Counters>,
    task: Task<()>,
}

impl Traffic {
    /// `per_second` must not be 0.
    pub(crate) fn start(source: IpAddr, url: String, per_second: u32) -> Self {
        let counters = Arc::new(Counters::default());
        let task = spawn(
            "traffic",
            drive(source, url, per_second, Arc::clone(&counters)),
        );
        Self { counters, task }
    }
}

impl Drop for Traffic {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn drive(source: IpAddr, url: String, per_second: u32, counters: Arc<Counters>) {
    let http = client(Some(source));
    let url: Arc<str> = url.into();
    let mut pace = tokio::time::interval(Duration::from_secs(1) / per_second);
    pace.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let mut in_flight = JoinSet::new();
    loop {
        pace.tick().await;
        while in_flight.try_join_next().is_some() {}
        if in_flight.len() >= MAX_IN_FLIGHT {
            counters.skipped.fetch_add(1, Ordering::Relaxed);
            continue;
        }
        let (http, url, counters) = (http.clone(), Arc::clone(&url), Arc::clone(&counters));
        in_flight.spawn(async move {
            counters.sent.fetch_add(1, Ordering::Relaxed);
            if get(&http, &url).await.is_err() {
                counters.failed.fetch_add(1, Ordering::Relaxed);
            }
        });
    }
}
