//! What the control plane counts, by upstream's names where upstream has them. Spec: control-plane.md 15.3.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use waymark_api::meta::Kind;
use waymark_proto::type_url;
use waymark_xds::server::{Registry, Totals};

use crate::store::{Change, Store};

/// Counters of the core. What connections count is in their registry.
#[derive(Debug)]
pub struct Metrics {
    started: SystemTime,
    inner: Mutex<Counters>,
}

#[derive(Debug, Default)]
struct Counters {
    /// By kind and event.
    changes: BTreeMap<(&'static str, &'static str), u64>,
    services: usize,
    convergence: Histogram,
}

#[derive(Debug, Default)]
struct Histogram {
    buckets: [u64; CONVERGENCE_SECONDS.len()],
    count: u64,
    sum: Duration,
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            started: SystemTime::now(),
            inner: Mutex::default(),
        }
    }
}

impl Metrics {
    /// Counts a change of an object.
    pub fn count_change(&self, change: &Change, store: &Store) {
        let (kind, event) = match change {
            Change::Upsert(object) if store.find(&object.key()).is_some() => {
                (object.kind(), "update")
            }
            Change::Upsert(object) => (object.kind(), "add"),
            Change::Delete(key) => (key.kind, "delete"),
        };
        *self
            .lock()
            .changes
            .entry((kind.as_str(), event))
            .or_default() += 1;
    }

    /// Counts a change that was carried through to what clients are to have.
    pub fn pushed(&self, services: usize, took: Duration) {
        let mut counters = self.lock();
        counters.services = services;
        counters.convergence.add(took);
    }

    /// Writes everything in the text format of Prometheus.
    pub fn write(&self, out: &mut String, registry: &Registry) {
        let version = env!("CARGO_PKG_VERSION");
        family(out, "pilot_info", "gauge", "Version of the control plane.");
        line(out, "pilot_info", &[("version", version)], 1.0);
        family(
            out,
            "istiod_uptime_seconds",
            "gauge",
            "Seconds since the control plane started.",
        );
        let uptime = self.started.elapsed().unwrap_or_default();
        line(out, "istiod_uptime_seconds", &[], uptime.as_secs_f64());
        write_connections(out, registry, version);

        let counters = self.lock();
        family(out, "pilot_services", "gauge", "Services of the mesh.");
        line(out, "pilot_services", &[], as_f64(counters.services as u64));
        for (name, core) in [
            ("pilot_k8s_reg_events", true),
            ("pilot_k8s_cfg_events", false),
        ] {
            family(
                out,
                name,
                "counter",
                "Changes of objects, by kind and event.",
            );
            for ((kind, event), count) in &counters.changes {
                if is_registry(kind) == core {
                    line(
                        out,
                        name,
                        &[("type", kind), ("event", event)],
                        as_f64(*count),
                    );
                }
            }
        }
        let name = "pilot_proxy_convergence_time";
        family(
            out,
            name,
            "histogram",
            "Seconds from a change until clients' sets are up to date.",
        );
        counters.convergence.write(out, name);
    }

    fn lock(&self) -> MutexGuard<'_, Counters> {
        // Counting leaves nothing half done.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Histogram {
    fn add(&mut self, value: Duration) {
        let seconds = value.as_secs_f64();
        for (bucket, bound) in self.buckets.iter_mut().zip(CONVERGENCE_SECONDS) {
            *bucket += u64::from(seconds <= bound);
        }
        self.count += 1;
        self.sum += value;
    }

    fn write(&self, out: &mut String, name: &str) {
        let bucket = format!("{name}_bucket");
        for (count, bound) in self.buckets.iter().zip(CONVERGENCE_SECONDS) {
            line(out, &bucket, &[("le", &bound.to_string())], as_f64(*count));
        }
        line(out, &bucket, &[("le", "+Inf")], as_f64(self.count));
        line(out, &format!("{name}_sum"), &[], self.sum.as_secs_f64());
        line(out, &format!("{name}_count"), &[], as_f64(self.count));
    }
}

fn write_connections(out: &mut String, registry: &Registry, version: &str) {
    family(out, "pilot_xds", "gauge", "Connected clients.");
    line(
        out,
        "pilot_xds",
        &[("version", version)],
        as_f64(registry.len() as u64),
    );
    let totals = registry.totals();
    let table: [(&str, &str, Figure); 4] = [
        ("pilot_xds_pushes", "Responses sent.", |totals| {
            totals.responses
        }),
        (
            "waymark_xds_resources_sent_total",
            "Resources sent.",
            |totals| totals.resources,
        ),
        (
            "waymark_xds_bytes_sent_total",
            "Bytes of responses sent.",
            |totals| totals.bytes,
        ),
        (
            "pilot_total_xds_rejects",
            "Responses that clients refused.",
            |totals| totals.nacks,
        ),
    ];
    for (name, help, value) in table {
        family(out, name, "counter", help);
        for (type_url, totals) in &totals {
            line(
                out,
                name,
                &[("type", short_type(type_url))],
                as_f64(value(totals)),
            );
        }
    }
    family(
        out,
        "pilot_xds_expired_nonce",
        "counter",
        "Requests that answered a superseded response.",
    );
    line(
        out,
        "pilot_xds_expired_nonce",
        &[],
        as_f64(registry.stale_requests()),
    );
}

/// One figure of what was sent.
type Figure = fn(&Totals) -> u64;

/// Types as upstream's metrics name them; others by their URL.
fn short_type(type_url: &str) -> &str {
    match type_url {
        type_url::CLUSTER => "cds",
        type_url::ENDPOINT => "eds",
        type_url::LISTENER => "lds",
        type_url::ROUTE => "rds",
        type_url::SECRET => "sds",
        type_url::EXTENSION_CONFIG => "ecds",
        type_url::ADDRESS | type_url::WORKLOAD => "wds",
        type_url::AUTHORIZATION => "wads",
        other => other,
    }
}

/// Upstream counts what it reads of Kubernetes apart from its own configuration.
fn is_registry(kind: &str) -> bool {
    [
        Kind::Namespace,
        Kind::Node,
        Kind::Service,
        Kind::Pod,
        Kind::EndpointSlice,
        Kind::ServiceAccount,
    ]
    .iter()
    .any(|registry| registry.as_str() == kind)
}

fn family(out: &mut String, name: &str, kind: &str, help: &str) {
    let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}");
}

fn line(out: &mut String, name: &str, labels: &[(&str, &str)], value: f64) {
    out.push_str(name);
    if !labels.is_empty() {
        let pairs: Vec<String> = labels
            .iter()
            .map(|(label, value)| format!("{label}=\"{value}\""))
            .collect();
        let _ = write!(out, "{{{}}}", pairs.join(","));
    }
    let _ = writeln!(out, " {value}");
}

#[expect(
    clippy::cast_precision_loss,
    reason = "metrics are floating point numbers"
)]
fn as_f64(count: u64) -> f64 {
    count as f64
}

/// Upstream's buckets, and finer ones below: here a change takes milliseconds.
const CONVERGENCE_SECONDS: [f64; 12] = [
    0.0001, 0.0005, 0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 3.0, 5.0, 10.0,
];
