//! The figures of clusters and endpoints, which the data path writes and admin reads.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

/// A number that only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds one.
    pub fn inc(&self) {
        self.add(1);
    }

    /// Adds `n`.
    pub fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    /// The value.
    #[must_use]
    pub fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    /// Starts again at 0 (`/reset_counters`).
    pub fn reset(&self) {
        self.0.store(0, Ordering::Relaxed);
    }
}

/// A number that goes up and down.
#[derive(Debug, Default)]
pub struct Gauge(AtomicI64);

impl Gauge {
    /// Adds one.
    pub fn inc(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    /// Takes one away.
    pub fn dec(&self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }

    /// Sets it.
    pub fn set(&self, value: i64) {
        self.0.store(value, Ordering::Relaxed);
    }

    /// The value.
    #[must_use]
    pub fn value(&self) -> i64 {
        self.0.load(Ordering::Relaxed)
    }
}

macro_rules! figures {
    ($(#[$doc:meta])* $name:ident { counters { $($counter:ident,)* } gauges { $($gauge:ident,)* } }) => {
        $(#[$doc])*
        #[derive(Debug, Default)]
        pub struct $name {
            $(
                #[doc = concat!("Envoy's counter `", stringify!($counter), "`.")]
                pub $counter: $crate::telemetry::Counter,
            )*
            $(
                #[doc = concat!("Envoy's gauge `", stringify!($gauge), "`.")]
                pub $gauge: $crate::telemetry::Gauge,
            )*
        }

        impl $name {
            /// Every counter with its name, sorted by name.
            pub fn counters(&self) -> impl Iterator<Item = (&'static str, &$crate::telemetry::Counter)> {
                [$((stringify!($counter), &self.$counter),)*].into_iter()
            }

            /// Every gauge with its name, sorted by name.
            pub fn gauges(&self) -> impl Iterator<Item = (&'static str, &$crate::telemetry::Gauge)> {
                [$((stringify!($gauge), &self.$gauge),)*].into_iter()
            }
        }
    };
}

pub(crate) use figures;

figures! {
    /// The figures of one cluster, under the names that Envoy gives them (`cluster.<name>.<figure>`).
    ClusterStats {
        counters {
            bind_errors,
            lb_healthy_panic,
            membership_change,
            update_success,
            upstream_cx_connect_fail,
            upstream_cx_connect_timeout,
            upstream_cx_destroy,
            upstream_cx_http1_total,
            upstream_cx_http2_total,
            upstream_cx_idle_timeout,
            upstream_cx_max_requests,
            upstream_cx_none_healthy,
            upstream_cx_overflow,
            upstream_cx_protocol_error,
            upstream_cx_rx_bytes_total,
            upstream_cx_total,
            upstream_cx_tx_bytes_total,
            upstream_rq_1xx,
            upstream_rq_2xx,
            upstream_rq_3xx,
            upstream_rq_4xx,
            upstream_rq_5xx,
            upstream_rq_cancelled,
            upstream_rq_completed,
            upstream_rq_pending_failure_eject,
            upstream_rq_pending_overflow,
            upstream_rq_pending_total,
            upstream_rq_per_try_timeout,
            upstream_rq_retry,
            upstream_rq_retry_backoff_exponential,
            upstream_rq_retry_limit_exceeded,
            upstream_rq_retry_overflow,
            upstream_rq_retry_success,
            upstream_rq_rx_reset,
            upstream_rq_timeout,
            upstream_rq_total,
            upstream_rq_tx_reset,
        }
        gauges {
            membership_healthy,
            membership_total,
            upstream_cx_active,
            upstream_rq_active,
            upstream_rq_pending_active,
            upstream_rq_retry_active,
        }
    }
}

figures! {
    /// The figures of one endpoint, as `/clusters` shows them.
    EndpointStats {
        counters {
            cx_connect_fail,
            cx_total,
            rq_error,
            rq_success,
            rq_timeout,
            rq_total,
        }
        gauges {
            cx_active,
            rq_active,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_sorted_by_name() {
        let stats = ClusterStats::default();
        assert!(stats.counters().map(|(n, _)| n).is_sorted());
        assert!(stats.gauges().map(|(n, _)| n).is_sorted());
        let stats = EndpointStats::default();
        assert!(stats.counters().map(|(n, _)| n).is_sorted());
        assert!(stats.gauges().map(|(n, _)| n).is_sorted());
    }
}
