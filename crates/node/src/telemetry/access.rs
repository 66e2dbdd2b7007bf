//! One line a connection, with ztunnel's field names and order.

use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tracing::{debug, error, info, warn};
use waymark_hbone::CopyCounters;

use super::{Description, Direction, Side, Transport};
use crate::state::model::Workload;

const TARGET: &str = "access";

/// Writes the same fields in the same order at any level; `tracing` wants level and fields fixed at each call.
macro_rules! line {
    ($level:ident, $description:expr, $message:literal, $($more:tt)*) => {{
        let Description { direction, source_address, destination_address, source, destination, service, .. } = $description;
        $level!(
            target: TARGET,
            {
            src.addr = %source_address,
            src.workload = workload(source, |w| &w.name),
            src.namespace = workload(source, |w| &w.namespace),
            src.identity = identity(source, $description),
            src.cluster = workload(source, |w| &w.cluster_id),
            dst.addr = %destination_address,
            dst.hbone_addr = $description.hbone_address.as_deref(),
            dst.service = service.as_deref().map(|service| &*service.key.hostname),
            dst.workload = workload(destination, |w| &w.name),
            dst.namespace = workload(destination, |w| &w.namespace),
            dst.identity = identity(destination, $description),
            dst.cluster = workload(destination, |w| &w.cluster_id),
            direction = direction.as_str(),
            enforcement = $description.enforcement,
            $($more)*
            },
            $message
        );
    }};
}

pub(super) fn opened(description: &Description) {
    line!(debug, description, "connection opened",);
}

pub(super) fn complete(
    description: &Description,
    bytes: &CopyCounters,
    duration: Duration,
    error: Option<&str>,
) {
    let sent = bytes.backward.load(Ordering::Relaxed);
    let received = bytes.forward.load(Ordering::Relaxed);
    let duration = format!("{}ms", duration.as_millis());
    match error {
        None => line!(
            info, description, "connection complete",
            bytes_sent = sent, bytes_recv = received, duration = %duration,
        ),
        Some(error) => line!(
            error, description, "connection complete",
            bytes_sent = sent, bytes_recv = received, duration = %duration, error = %error,
        ),
    }
}

pub(super) fn failed_early(
    direction: Direction,
    source: SocketAddr,
    destination: SocketAddr,
    error: &str,
) {
    warn!(
        target: TARGET,
        { src.addr = %source, dst.addr = %destination, direction = direction.as_str(), error = %error },
        "connection failed"
    );
}

fn workload(side: &Side, field: fn(&Workload) -> &str) -> Option<&str> {
    side.workload
        .as_deref()
        .map(field)
        .filter(|text| !text.is_empty())
}

fn identity<'a>(side: &'a Side, description: &Description) -> Option<&'a str> {
    let proved = description.transport == Transport::Hbone;
    side.identity
        .as_ref()
        .filter(|_| proved)
        .map(|id| id.as_str())
}
