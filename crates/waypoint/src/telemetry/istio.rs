//! Istio's metrics.
//!
//! A series is a set of label values with its figures. Label text is rendered once, when the series is first seen; a
//! request finds its series by a hash of what the labels are made of, in a map that is read without a lock.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use waymark_identity::SpiffeId;
use xxhash_rust::xxh3::xxh3_64;

use crate::program::{Hashed, ServiceName, WorkloadName};
use crate::telemetry::histogram::Histogram;
use crate::telemetry::{Counter, ResponseFlags};

/// What the labels of a series are made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Labels<'a> {
    pub(crate) service: Option<&'a Hashed<ServiceName>>,
    pub(crate) workload: Option<&'a Hashed<WorkloadName>>,
    pub(crate) peer: Option<&'a Hashed<SpiffeId>>,
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

/// Values by a hash, which is not hashed again.
type ByHash<V> = HashMap<u64, Arc<V>, BuildHasherDefault<AsItIs>>;

/// A hasher of what is a good hash already.
#[derive(Debug, Default, Clone, Copy)]
struct AsItIs(u64);

impl Hasher for AsItIs {
    fn write(&mut self, bytes: &[u8]) {
        self.0 = xxh3_64(bytes);
    }

    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

/// All series of one kind.
#[derive(Debug)]
pub(crate) struct SeriesMap<F> {
    /// By hash of the labels' parts. 64 bits of xxh3 over parts that no client chooses freely: series of different labels
    /// do not meet.
    map: ArcSwap<ByHash<Series<F>>>,
    writing: Mutex<()>,
}

impl<F> Default for SeriesMap<F> {
    fn default() -> Self {
        Self {
            map: ArcSwap::from_pointee(ByHash::default()),
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
        let mut next = ByHash::clone(&known);
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
        let mut flags = 0;
        for flag in self.flags.iter() {
            flags = flags << 8 | (1 + flag as u64);
        }
        let parts = [
            self.service.map_or(0, Hashed::hash),
            self.workload.map_or(0, Hashed::hash),
            self.peer.map_or(0, Hashed::hash),
            u64::from(self.code) << 8 | self.protocol as u64,
            self.grpc_status.map_or(u64::MAX, u64::from),
            flags,
        ];
        let mut bytes = [0; 6 * size_of::<u64>()];
        for (place, part) in bytes.chunks_exact_mut(size_of::<u64>()).zip(parts) {
            place.copy_from_slice(&part.to_ne_bytes());
        }
        xxh3_64(&bytes)
    }

    /// The labels in the order of istio's own.
    fn render(&self) -> String {
        let known = |text: Option<&str>| match text {
            Some(text) if !text.is_empty() => escape(text),
            _ => "unknown".to_owned(),
        };
        let workload =
            |part: fn(&WorkloadName) -> &str| known(self.workload.map(|named| part(named)));
        let service = |part: fn(&ServiceName) -> &str| known(self.service.map(|named| part(named)));
        let peer = self.peer.map(|id| id.as_str());
        let peer_namespace = peer.and_then(|p| p.split_once("/ns/")?.1.split('/').next());
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
        label("source_principal", &known(peer));
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
        // A client of whom nobody can say who it is did not show a certificate.
        label(
            "connection_security_policy",
            if peer.is_some() { "mutual_tls" } else { "none" },
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
        let service = Hashed::from(ServiceName {
            host: "r.d.svc".into(),
            name: "r".into(),
            namespace: "d".into(),
        });
        let workload = Hashed::from(WorkloadName::parse("r-v1;d;r;v1;K"));
        let peer = "spiffe://td/ns/p/sa/front".parse::<SpiffeId>();
        let peer = Hashed::from(peer.expect("an identity"));
        let labels = Labels {
            service: Some(&service),
            workload: Some(&workload),
            peer: Some(&peer),
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

    #[test]
    fn every_part_of_the_labels_tells_series_apart() {
        let service = |host: &str| {
            Hashed::from(ServiceName {
                host: host.into(),
                name: "n".into(),
                namespace: "m".into(),
            })
        };
        let identity = |text: &str| Hashed::from(text.parse::<SpiffeId>().expect("an identity"));
        let (services, peers) = (
            [service("a"), service("b")],
            ["spiffe://td/ns/a/sa/b", "spiffe://td/ns/a/sa/c"].map(identity),
        );
        let workloads = ["a;b", "ab"].map(|text| Hashed::from(WorkloadName::parse(text)));
        let none = Labels {
            service: None,
            workload: None,
            peer: None,
            protocol: Protocol::Http,
            code: 200,
            grpc_status: None,
            flags: ResponseFlags::none(),
        };
        let mut all = vec![none];
        all.extend(services.iter().map(|service| Labels {
            service: Some(service),
            ..none
        }));
        all.extend(workloads.iter().map(|workload| Labels {
            workload: Some(workload),
            ..none
        }));
        all.extend(peers.iter().map(|peer| Labels {
            peer: Some(peer),
            ..none
        }));
        all.extend([Protocol::Grpc, Protocol::Tcp].map(|protocol| Labels { protocol, ..none }));
        all.extend([0, 201].map(|code| Labels { code, ..none }));
        all.extend([0, 14].map(|status| Labels {
            grpc_status: Some(status),
            ..none
        }));
        let flags = [ResponseFlag::UH.into(), ResponseFlag::UF.into()];
        all.extend(flags.map(|flags| Labels { flags, ..none }));
        let hashes: std::collections::HashSet<_> = all.iter().map(Labels::hash).collect();
        assert_eq!(hashes.len(), all.len());
        assert_eq!(all.last().map(Labels::hash), all.last().map(Labels::hash));
    }
}
