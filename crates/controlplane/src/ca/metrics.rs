//! What the certificate authority counts. Names: control-plane.md 11.9.

use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use super::SharedCa;

/// Counters of the certificate authority, and when its certificates end.
#[derive(Debug)]
pub struct CaMetrics {
    ca: SharedCa,
    pub(super) requests: Counter,
    pub(super) authentication_failures: Counter,
    pub(super) parse_errors: Counter,
    pub(super) id_errors: Counter,
    pub(super) sign_errors: Counter,
    pub(super) issued: Counter,
}

/// A number that only grows.
#[derive(Debug, Default)]
pub(super) struct Counter(AtomicU64);

impl Counter {
    pub(super) fn add(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl CaMetrics {
    pub(super) fn new(ca: SharedCa) -> Self {
        Self {
            ca,
            requests: Counter::default(),
            authentication_failures: Counter::default(),
            parse_errors: Counter::default(),
            id_errors: Counter::default(),
            sign_errors: Counter::default(),
            issued: Counter::default(),
        }
    }

    /// Appends them in the text format of Prometheus.
    pub fn write(&self, out: &mut String, now: SystemTime) {
        let counters = [
            (
                "citadel_server_csr_count",
                "Certificate requests received.",
                &self.requests,
            ),
            (
                "citadel_server_authentication_failure_count",
                "Certificate requests whose caller was not known or not allowed.",
                &self.authentication_failures,
            ),
            (
                "citadel_server_csr_parsing_err_count",
                "Certificate requests that could not be read.",
                &self.parse_errors,
            ),
            (
                "citadel_server_id_extraction_err_count",
                "Certificate requests for no identity of ours.",
                &self.id_errors,
            ),
            (
                "citadel_server_csr_sign_err_count",
                "Certificates that could not be signed.",
                &self.sign_errors,
            ),
            (
                "citadel_server_success_cert_issuance_count",
                "Certificates signed.",
                &self.issued,
            ),
        ];
        for (name, help, counter) in counters {
            // Writing to a String does not fail, here and below.
            let _ = write!(
                out,
                "# HELP {name} {help}\n# TYPE {name} counter\n{name} {}\n",
                counter.value()
            );
        }
        let ca = self.ca.load();
        let roots = ca
            .roots()
            .infos()
            .into_iter()
            .map(|info| info.not_after)
            .min()
            .unwrap_or(UNIX_EPOCH);
        for (what, end) in [("root_cert", roots), ("cert_chain", ca.chain_not_after())] {
            let at = seconds(end);
            let left = at - seconds(now);
            let name = format!("citadel_server_{what}_expiry");
            let _ = write!(
                out,
                "# HELP {name}_timestamp When it ends, in seconds since 1970.\n# TYPE {name}_timestamp gauge\n\
                 {name}_timestamp {at}\n\
                 # HELP {name}_seconds Seconds until it ends.\n# TYPE {name}_seconds gauge\n{name}_seconds {left}\n"
            );
        }
    }
}

fn seconds(at: SystemTime) -> i64 {
    at.duration_since(UNIX_EPOCH)
        .map_or(0, |d| i64::try_from(d.as_secs()).unwrap_or(i64::MAX))
}
