//! Istio's metrics.
//!
//! A series is a set of label values with its figures. Label text is rendered once, when the series is first seen; a
//! request finds its series by a hash of what the labels are made of, in a map that is read without a lock.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use xxhash_rust::xxh3::Xxh3;

use crate::program::{ServiceName, WorkloadName};
use crate::telemetry::histogram::Histogram;
use crate::telemetry::{Counter, ResponseFlags};

/// What the labels of a series are made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Labels<'a> {
    pub(crate) service: Option<&'a ServiceName>,
    pub(crate) workload: Option<&'a WorkloadName>,
    pub(crate) peer: Option<&'a str>,
    pub(crate) local: Option<&'a str>,
    pub(crate) protocol: Protocol,
    /// 0 when there was none.
    pub(crate) code: u16,
    pub(crate) grpc_status: Option<u32>,
    pub(crate) flags: ResponseFlags,
}

/// `request_protocol`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Protocol {
    Http,
    Grpc,
    Tcp,
}

/// The figures of one series of requests.
#[derive(Debug, Default)]
pub(crate) struct RequestSeries {
    pub(crate) requests: Counter,
    pub(crate) duration_ms: Histogram,
    pub(crate) request_bytes: Histogram,
    pub(crate) response_bytes: Histogram,
}

/// The figures of one series of TCP connections.
#[derive(Debug, Default)]
pub struct TcpSeries {
    /// `istio_tcp_connections_opened_total`
    pub opened: Counter,
    /// `istio_tcp_connections_closed_total`
    pub closed: Counter,
    /// `istio_tcp_sent_bytes_total`: towards the client.
    pub sent_bytes: Counter,
    /// `istio_tcp_received_bytes_total`: from the client.
    pub received_bytes: Counter,
}

/// A series' labels as text, and its figures.
#[derive(Debug)]
pub(crate) struct Series<F> {
    /// `reporter="waypoint",source_workload="unknown",...`
    pub(crate) labels: Box<str>,
    pub(crate) figures: Arc<F>,
}

/// All series of one kind.
#[derive(Debug)]
pub(crate) struct SeriesMap<F> {
    /// By hash of the labels' parts. 64 bits of xxh3 over parts that no client chooses freely: series of different labels
    /// do not meet.
    map: ArcSwap<HashMap<u64, Arc<Series<F>>>>,
    writing: Mutex<()>,
}

impl<F> Default for SeriesMap<F> {
    fn default() -> Self {
        Self {
            map: ArcSwap::from_pointee(HashMap::new()),
            writing: Mutex::new(()),
        }
    }
}

impl<F: Default> SeriesMap<F> {
    /// Does something with the figures of a series.
    pub(crate) fn with<R>(&self, labels: &Labels<'_>, what: impl FnOnce(&Arc<F>) -> R) -> R {
        let hash = labels.hash();
        if let Some(series) = self.map.load().get(&hash) {
            return what(&series.figures);
        }
        what(&self.insert(hash, labels).figures)
    }

    fn insert(&self, hash: u64, labels: &Labels<'_>) -> Arc<Series<F>> {
        let _one = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let known = self.map.load();
        if let Some(series) = known.get(&hash) {
            return Arc::clone(series);
        }
        let series = Arc::new(Series {
            labels: labels.render().into(),
            figures: Arc::default(),
        });
        let mut next = HashMap::clone(&known);
        next.insert(hash, Arc::clone(&series));
        self.map.store(Arc::new(next));
        series
    }

    /// Every series, sorted by labels.
    pub(crate) fn all(&self) -> Vec<Arc<Series<F>>> {
        let mut all: Vec<_> = self.map.load().values().cloned().collect();
        all.sort_by(|a, b| a.labels.cmp(&b.labels));
        all
    }
}

impl Labels<'_> {
    fn hash(&self) -> u64 {
        let mut h = Xxh3::new();
        let mut text = |t: Option<&str>| {
            // A length before each text keeps neighbours apart.
            let t = t.unwrap_or("\u{0}");
            h.update(&t.len().to_le_bytes());
            h.update(t.as_bytes());
        };
        let service = self.service;
        text(service.map(|s| &*s.host));
        text(service.map(|s| &*s.name));
        text(service.map(|s| &*s.namespace));
        let workload = self.workload;
        text(workload.map(|w| &*w.workload));
        text(workload.map(|w| &*w.namespace));
        text(workload.map(|w| &*w.canonical_name));
        text(workload.map(|w| &*w.canonical_revision));
        text(workload.map(|w| &*w.cluster));
        text(self.peer);
        text(self.local);
        h.update(&[self.protocol as u8]);
        h.update(&self.code.to_le_bytes());
        h.update(&self.grpc_status.map_or(u64::MAX, u64::from).to_le_bytes());
        for flag in self.flags.iter() {
            h.update(&[flag as u8]);
        }
        h.digest()
    }

    /// The labels in the order of istio's own.
    fn render(&self) -> String {
        let known = |text: Option<&str>| match text {
            Some(text) if !text.is_empty() => escape(text),
            _ => "unknown".to_owned(),
        };
        let workload = |part: fn(&WorkloadName) -> &str| known(self.workload.map(part));
        let service = |part: fn(&ServiceName) -> &str| known(self.service.map(part));
        let peer_namespace = self
            .peer
            .and_then(|p| p.split_once("/ns/")?.1.split('/').next());
        let mut out = String::new();
        let mut label = |name: &str, value: &str| {
            let comma = if out.is_empty() { "" } else { "," };
            // Writing to a String does not fail.
            let _ = write!(out, "{comma}{name}=\"{value}\"");
        };
        label("reporter", "waypoint");
        label("source_workload", "unknown");
        label("source_canonical_service", "unknown");
        label("source_canonical_revision", "latest");
        label("source_workload_namespace", &known(peer_namespace));
        label("source_principal", &known(self.peer));
        label("source_app", "unknown");
        label("source_version", "unknown");
        label("source_cluster", "unknown");
        label("destination_workload", &workload(|w| &w.workload));
        label(
            "destination_workload_namespace",
            &workload(|w| &w.namespace),
        );
        label("destination_principal", "unknown");
        label("destination_app", &workload(|w| &w.canonical_name));
        label("destination_version", &workload(|w| &w.canonical_revision));
        label("destination_service", &service(|s| &s.host));
        label(
            "destination_canonical_service",
            &workload(|w| &w.canonical_name),
        );
        label(
            "destination_canonical_revision",
            &workload(|w| &w.canonical_revision),
        );
        label("destination_service_name", &service(|s| &s.name));
        label("destination_service_namespace", &service(|s| &s.namespace));
        label("destination_cluster", &workload(|w| &w.cluster));
        let protocol = match self.protocol {
            Protocol::Http => "http",
            Protocol::Grpc => "grpc",
            Protocol::Tcp => "tcp",
        };
        label("request_protocol", protocol);
        if self.protocol != Protocol::Tcp {
            label("response_code", &self.code.to_string());
            label(
                "grpc_response_status",
                &self.grpc_status.map(|s| s.to_string()).unwrap_or_default(),
            );
        }
        label("response_flags", &self.flags.to_string());
        let mutual = self.peer.is_some() && self.local.is_some();
        label(
            "connection_security_policy",
            if mutual { "mutual_tls" } else { "none" },
        );
        out
    }
}

/// As a label value of the Prometheus text format.
pub(crate) fn escape(text: &str) -> String {
    if !text.contains(['\\', '"', '\n']) {
        return text.to_owned();
    }
    text.replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::ResponseFlag;

    #[test]
    fn labels_of_a_request() {
        let service = ServiceName {
            host: "r.d.svc".into(),
            name: "r".into(),
            namespace: "d".into(),
        };
        let workload = WorkloadName::parse("r-v1;d;r;v1;K");
        let labels = Labels {
            service: Some(&service),
            workload: Some(&workload),
            peer: Some("spiffe://td/ns/p/sa/front"),
            local: Some("spiffe://td/ns/d/sa/waypoint"),
            protocol: Protocol::Http,
            code: 200,
            grpc_status: None,
            flags: ResponseFlags::none(),
        };
        assert_eq!(
            labels.render(),
            "reporter=\"waypoint\",source_workload=\"unknown\",source_canonical_service=\"unknown\",\
             source_canonical_revision=\"latest\",source_workload_namespace=\"p\",\
             source_principal=\"spiffe://td/ns/p/sa/front\",source_app=\"unknown\",source_version=\"unknown\",\
             source_cluster=\"unknown\",destination_workload=\"r-v1\",destination_workload_namespace=\"d\",\
             destination_principal=\"unknown\",destination_app=\"r\",destination_version=\"v1\",\
             destination_service=\"r.d.svc\",destination_canonical_service=\"r\",destination_canonical_revision=\"v1\",\
             destination_service_name=\"r\",destination_service_namespace=\"d\",destination_cluster=\"K\",\
             request_protocol=\"http\",response_code=\"200\",grpc_response_status=\"\",response_flags=\"-\",\
             connection_security_policy=\"mutual_tls\""
        );
        let map = SeriesMap::<RequestSeries>::default();
        map.with(&labels, |f| f.requests.inc());
        map.with(&labels, |f| f.requests.inc());
        let failed = Labels {
            code: 503,
            flags: ResponseFlag::UH.into(),
            ..labels
        };
        map.with(&failed, |f| f.requests.inc());
        let all: Vec<_> = map
            .all()
            .iter()
            .map(|s| s.figures.requests.value())
            .collect();
        assert_eq!(all, [2, 1]);
    }
}
