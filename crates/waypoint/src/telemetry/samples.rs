//! All figures of the process under Envoy's names, for admin and Prometheus.

use std::fmt::Write as _;
use std::sync::{Arc, PoisonError};
use std::time::SystemTime;

use crate::program::Snapshot;
use crate::telemetry::Telemetry;
use crate::telemetry::histogram::{BUCKETS, HistogramValue};
use crate::telemetry::istio::escape;

/// One figure.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    /// As `/stats` names it: `cluster.x.upstream_rq_total`.
    pub name: String,
    /// As Prometheus names it: `envoy_cluster_upstream_rq_total`.
    pub family: String,
    /// Its labels, without braces; may be empty.
    pub labels: String,
    /// Its value.
    pub value: SampleValue,
}

/// A figure's value.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum SampleValue {
    /// Only grows.
    Counter(u64),
    /// Goes up and down.
    Gauge(i64),
    /// A distribution.
    Histogram(HistogramValue),
}

impl Sample {
    /// Whether it was ever touched. (A gauge that is 0 counts as untouched, except for states, whose 0 says something.)
    #[must_use]
    pub fn is_used(&self) -> bool {
        match &self.value {
            SampleValue::Counter(n) => *n != 0,
            SampleValue::Gauge(n) => *n != 0 || self.name == "server.state",
            SampleValue::Histogram(h) => h.count != 0,
        }
    }
}

impl Telemetry {
    /// Every figure, sorted by name. Those of clusters are of the clusters in `snapshot`.
    #[must_use]
    pub fn samples(&self, snapshot: &Snapshot, now: SystemTime) -> Vec<Sample> {
        let mut out = Samples(Vec::new());
        self.server_samples(now, &mut out);
        for cluster in snapshot.clusters() {
            let of = Owner {
                prefix: format!("cluster.{}", cluster.stat_name),
                family: "envoy_cluster",
                label: format!("cluster_name=\"{}\"", escape(&cluster.name)),
            };
            out.figures(&of, cluster.stats.counters(), cluster.stats.gauges());
        }
        let http = self.http.read().unwrap_or_else(PoisonError::into_inner);
        for (prefix, stats) in http.iter() {
            let of = Owner {
                prefix: format!("http.{prefix}"),
                family: "envoy_http",
                label: format!("http_conn_manager_prefix=\"{}\"", escape(prefix)),
            };
            out.figures(&of, stats.counters(), stats.gauges());
        }
        drop(http);
        self.istio_samples(&mut out);
        out.0.sort_by(|a, b| a.name.cmp(&b.name));
        out.0
    }

    fn server_samples(&self, now: SystemTime, out: &mut Samples) {
        let server = &self.server;
        let uptime = now
            .duration_since(self.started)
            .unwrap_or_default()
            .as_secs();
        let usage = waymark_rt::usage::of_this_process();
        let gauge = |n: u64| SampleValue::Gauge(i64::try_from(n).unwrap_or(i64::MAX));
        for (prefix, updates) in [
            ("cluster_manager.cds", &server.cds),
            ("listener_manager.lds", &server.lds),
        ] {
            for (name, counter) in updates.counters() {
                out.plain(
                    &format!("{prefix}.{name}"),
                    SampleValue::Counter(counter.value()),
                );
            }
        }
        for (name, counter) in server.config.counters() {
            out.plain(
                &format!("waymark_config.{name}"),
                SampleValue::Counter(counter.value()),
            );
        }
        for (name, counter) in server.counters() {
            let manager = if name.starts_with("cluster_") {
                "cluster_manager"
            } else {
                "listener_manager"
            };
            out.plain(
                &format!("{manager}.{name}"),
                SampleValue::Counter(counter.value()),
            );
        }
        for (name, figure) in server.gauges() {
            let manager = match name {
                "active_clusters" | "warming_clusters" => "cluster_manager",
                "connected_state" => "control_plane",
                "total_listeners_active"
                | "total_listeners_draining"
                | "total_listeners_warming"
                | "workers_started" => "listener_manager",
                _ => "server",
            };
            out.plain(
                &format!("{manager}.{name}"),
                SampleValue::Gauge(figure.value()),
            );
        }
        let live = i64::from(server.state.value() == 0);
        out.plain("server.live", SampleValue::Gauge(live));
        out.plain("server.uptime", gauge(uptime));
        out.plain("server.memory_allocated", gauge(usage.resident_bytes));
        out.plain("server.memory_physical_size", gauge(usage.resident_bytes));
        out.plain("server.hot_restart_epoch", SampleValue::Gauge(0));
        let connected = server.connected_state.value();
        out.plain(
            "cluster.xds-grpc.upstream_cx_active",
            SampleValue::Gauge(connected),
        );
        for (name, counter) in server.tunnels.counters() {
            out.plain(
                &format!("listener.0.0.0.0_15008.{name}"),
                SampleValue::Counter(counter.value()),
            );
        }
        for (name, figure) in server.tunnels.gauges() {
            out.plain(
                &format!("listener.0.0.0.0_15008.{name}"),
                SampleValue::Gauge(figure.value()),
            );
        }
        out.plain(
            "access_logs.written",
            SampleValue::Counter(self.logs.written.value()),
        );
        out.plain(
            "access_logs.dropped",
            SampleValue::Counter(self.logs.dropped.value()),
        );
    }

    fn istio_samples(&self, out: &mut Samples) {
        for series in self.requests.all() {
            let f = &series.figures;
            out.istio(
                "istio_requests_total",
                &series.labels,
                SampleValue::Counter(f.requests.value()),
            );
            for (name, histogram) in [
                ("istio_request_duration_milliseconds", &f.duration_ms),
                ("istio_request_bytes", &f.request_bytes),
                ("istio_response_bytes", &f.response_bytes),
            ] {
                out.istio(
                    name,
                    &series.labels,
                    SampleValue::Histogram(histogram.read()),
                );
            }
        }
        for series in self.tcp.all() {
            let f = &series.figures;
            for (name, counter) in [
                ("istio_tcp_connections_opened_total", &f.opened),
                ("istio_tcp_connections_closed_total", &f.closed),
                ("istio_tcp_sent_bytes_total", &f.sent_bytes),
                ("istio_tcp_received_bytes_total", &f.received_bytes),
            ] {
                out.istio(name, &series.labels, SampleValue::Counter(counter.value()));
            }
        }
        let tag = format!("component=\"proxy\",tag=\"{}\"", env!("CARGO_PKG_VERSION"));
        out.istio("istio_build", &tag, SampleValue::Gauge(1));
    }

    /// Starts all counters again at 0.
    pub fn reset_counters(&self, snapshot: &Snapshot) {
        let server = &self.server;
        let own = server
            .counters()
            .chain(server.cds.counters())
            .chain(server.lds.counters())
            .chain(server.config.counters());
        own.chain(server.tunnels.counters())
            .for_each(|(_, c)| c.reset());
        for cluster in snapshot.clusters() {
            cluster.stats.counters().for_each(|(_, c)| c.reset());
        }
        let http: Vec<Arc<_>> = self
            .http
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .values()
            .cloned()
            .collect();
        http.iter()
            .flat_map(|s| s.counters())
            .for_each(|(_, c)| c.reset());
    }
}

/// What figures belong to.
struct Owner {
    prefix: String,
    family: &'static str,
    label: String,
}

struct Samples(Vec<Sample>);

impl Samples {
    fn plain(&mut self, name: &str, value: SampleValue) {
        let family = format!("envoy_{}", name.replace(['.', '-'], "_"));
        self.0.push(Sample {
            name: name.to_owned(),
            family,
            labels: String::new(),
            value,
        });
    }

    fn istio(&mut self, family: &str, labels: &str, value: SampleValue) {
        let name = format!("istiocustom.{family}{{{labels}}}");
        self.0.push(Sample {
            name,
            family: family.to_owned(),
            labels: labels.to_owned(),
            value,
        });
    }

    fn figures<'a>(
        &mut self,
        of: &Owner,
        counters: impl Iterator<Item = (&'static str, &'a crate::telemetry::Counter)>,
        gauges: impl Iterator<Item = (&'static str, &'a crate::telemetry::Gauge)>,
    ) {
        let counters = counters.map(|(name, c)| (name, SampleValue::Counter(c.value())));
        for (name, value) in
            counters.chain(gauges.map(|(name, g)| (name, SampleValue::Gauge(g.value()))))
        {
            let (short, class) = code_class(name);
            let mut labels = of.label.clone();
            if let Some(class) = class {
                labels = format!("response_code_class=\"{class}\",{labels}");
            }
            self.0.push(Sample {
                name: format!("{}.{name}", of.prefix),
                family: format!("{}_{short}", of.family),
                labels,
                value,
            });
        }
    }
}

/// `upstream_rq_2xx` is `upstream_rq_xx` of class `2xx`.
fn code_class(name: &str) -> (String, Option<&str>) {
    match name.rsplit_once('_') {
        Some((rest, class)) if class.len() == 3 && class.ends_with("xx") => {
            (format!("{rest}_xx"), Some(class))
        }
        _ => (name.to_owned(), None),
    }
}

/// The Prometheus text format: families sorted by name, each with its type.
#[must_use]
pub fn prometheus(samples: &[Sample]) -> String {
    let mut sorted: Vec<&Sample> = samples.iter().collect();
    sorted.sort_by(|a, b| (&a.family, &a.labels).cmp(&(&b.family, &b.labels)));
    let mut out = String::new();
    let mut family = "";
    for sample in sorted {
        let kind = match sample.value {
            SampleValue::Counter(_) => "counter",
            SampleValue::Gauge(_) => "gauge",
            SampleValue::Histogram(_) => "histogram",
        };
        if family != sample.family {
            family = &sample.family;
            let _ = writeln!(out, "# TYPE {family} {kind}");
        }
        let braces = |labels: &str| {
            if labels.is_empty() {
                String::new()
            } else {
                format!("{{{labels}}}")
            }
        };
        let _ = match &sample.value {
            SampleValue::Counter(n) => writeln!(out, "{family}{} {n}", braces(&sample.labels)),
            SampleValue::Gauge(n) => writeln!(out, "{family}{} {n}", braces(&sample.labels)),
            SampleValue::Histogram(h) => prometheus_histogram(&mut out, family, &sample.labels, h),
        };
    }
    out
}

fn prometheus_histogram(
    out: &mut String,
    family: &str,
    labels: &str,
    h: &HistogramValue,
) -> std::fmt::Result {
    let comma = if labels.is_empty() { "" } else { "," };
    for (bound, count) in BUCKETS.iter().zip(h.cumulative) {
        writeln!(
            out,
            "{family}_bucket{{{labels}{comma}le=\"{bound}\"}} {count}"
        )?;
    }
    writeln!(
        out,
        "{family}_bucket{{{labels}{comma}le=\"+Inf\"}} {}",
        h.count
    )?;
    let braced = if labels.is_empty() {
        String::new()
    } else {
        format!("{{{labels}}}")
    };
    writeln!(out, "{family}_sum{braced} {}", h.sum)?;
    writeln!(out, "{family}_count{braced} {}", h.count)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::histogram::Histogram;

    #[test]
    fn prometheus_text() {
        let h = Histogram::default();
        h.record(3);
        let sample = |family: &str, labels: &str, value| Sample {
            name: String::new(),
            family: family.into(),
            labels: labels.into(),
            value,
        };
        let text = prometheus(&[
            sample("b_total", "x=\"2\"", SampleValue::Counter(2)),
            sample("a", "", SampleValue::Gauge(-1)),
            sample("b_total", "x=\"1\"", SampleValue::Counter(1)),
            sample("h", "l=\"v\"", SampleValue::Histogram(h.read())),
        ]);
        assert!(text.starts_with(
            "# TYPE a gauge\na -1\n# TYPE b_total counter\nb_total{x=\"1\"} 1\nb_total{x=\"2\"} 2\n"
        ));
        assert!(text.contains("h_bucket{l=\"v\",le=\"1\"} 0\nh_bucket{l=\"v\",le=\"5\"} 1\n"));
        assert!(
            text.ends_with(
                "h_bucket{l=\"v\",le=\"+Inf\"} 1\nh_sum{l=\"v\"} 3\nh_count{l=\"v\"} 1\n"
            )
        );
        assert_eq!(
            code_class("upstream_rq_2xx"),
            ("upstream_rq_xx".into(), Some("2xx"))
        );
    }
}
