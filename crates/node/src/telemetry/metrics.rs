//! The catalogue of metrics, ztunnel's names first, and their text form.
//!
//! Spec: hbone-and-l4.md 17.2, cli-and-admin.md 13.5.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write;
use std::hash::Hash;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use waymark_identity::SpiffeId;

use super::Direction;
use crate::state::ServiceKey;

/// How a connection ended, in one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[expect(missing_docs, reason = "the words of the metric")]
pub enum ResponseFlag {
    None,
    Deny,
    Connect,
    TlsFailure,
    H2HandshakeFailure,
    NetworkPolicy,
    IdentityError,
}

impl ResponseFlag {
    const ALL: [Self; 7] = [
        Self::None,
        Self::Deny,
        Self::Connect,
        Self::TlsFailure,
        Self::H2HandshakeFailure,
        Self::NetworkPolicy,
        Self::IdentityError,
    ];

    fn as_str(self) -> &'static str {
        match self {
            Self::None => "-",
            Self::Deny => "DENY",
            Self::Connect => "CONNECT",
            Self::TlsFailure => "TLS_FAILURE",
            Self::H2HandshakeFailure => "H2_HANDSHAKE_FAILURE",
            Self::NetworkPolicy => "NETWORK_POLICY",
            Self::IdentityError => "IDENTITY_ERROR",
        }
    }
}

/// Who reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Reporter {
    Source,
    Destination,
}

impl Reporter {
    fn as_str(self) -> &'static str {
        match self {
            Self::Source => "source",
            Self::Destination => "destination",
        }
    }
}

/// One side of the traffic.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Party {
    pub(super) workload: Option<Arc<str>>,
    pub(super) canonical_service: Option<Arc<str>>,
    pub(super) canonical_revision: Option<Arc<str>>,
    pub(super) namespace: Option<Arc<str>>,
    pub(super) cluster: Option<Arc<str>>,
    pub(super) region: Option<Arc<str>>,
    pub(super) zone: Option<Arc<str>>,
    pub(super) principal: Option<SpiffeId>,
}

/// The addressed service.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct ServiceLabels {
    pub(super) hostname: Arc<str>,
    pub(super) name: Arc<str>,
    pub(super) namespace: Arc<str>,
}

/// Labels of the traffic metrics.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct TrafficLabels {
    pub(super) reporter: Reporter,
    pub(super) source: Party,
    pub(super) destination: Party,
    pub(super) service: Option<ServiceLabels>,
    pub(super) mutual_tls: bool,
}

/// Counters of one set of labels.
#[derive(Debug, Default)]
pub(super) struct Traffic {
    pub(super) opened: AtomicU64,
    pub(super) sent: AtomicU64,
    pub(super) received: AtomicU64,
    closed: [AtomicU64; ResponseFlag::ALL.len()],
    failed: [AtomicU64; ResponseFlag::ALL.len()],
}

impl Traffic {
    pub(super) fn closed(&self, flag: ResponseFlag) -> &AtomicU64 {
        &self.closed[flag as usize]
    }

    pub(super) fn failed(&self, flag: ResponseFlag) -> &AtomicU64 {
        &self.failed[flag as usize]
    }
}

/// What enforcement did with a connection that did not come from the waypoint in charge.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum EnforcementAction {
    /// Sent through the waypoint as the workload's traffic.
    Hairpin,
    /// Sent through the waypoint as the service's traffic.
    Service,
    /// Refused.
    Refused,
    /// Delivered: enforcement is off.
    Off,
    /// Delivered: a probe's port.
    Probe,
}

impl EnforcementAction {
    /// As metrics and logs have it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Hairpin => "hairpin",
            Self::Service => "service",
            Self::Refused => "refused",
            Self::Off => "off",
            Self::Probe => "probe",
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct EnforcementLabels {
    action: EnforcementAction,
    service: Option<ServiceKey>,
    workload: Arc<str>,
    namespace: Arc<str>,
    mutual_tls: bool,
}

/// All counters. Clones are the same counters.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    inner: Arc<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    traffic: Family<TrafficLabels, Traffic>,
    enforcement: Family<EnforcementLabels, AtomicU64>,
    sockets: [AtomicI64; 2],
    xds_terminations: Family<&'static str, AtomicU64>,
    xds_messages: Family<&'static str, XdsMessages>,
}

#[derive(Debug, Default)]
struct XdsMessages {
    count: AtomicU64,
    bytes: AtomicU64,
}

/// Counters by labels. The lock is held to find the counter, never to count.
#[derive(Debug)]
struct Family<L, C> {
    by_labels: Mutex<HashMap<L, Arc<C>>>,
}

impl<L, C> Default for Family<L, C> {
    fn default() -> Self {
        Self {
            by_labels: Mutex::default(),
        }
    }
}

impl<L: Eq + Hash + Ord + Clone, C: Default> Family<L, C> {
    fn with(&self, labels: L) -> Arc<C> {
        let mut map = self
            .by_labels
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        Arc::clone(map.entry(labels).or_default())
    }

    /// As [`Family::with`], but once there are [`MOST_LABEL_SETS`], counts what is new under `instead`: peers have a say in
    /// some labels, and must not have one in how much memory they take.
    fn with_bounded(&self, labels: L, instead: impl FnOnce(L) -> L) -> Arc<C> {
        let full = {
            let map = self
                .by_labels
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            map.len() >= MOST_LABEL_SETS && !map.contains_key(&labels)
        };
        self.with(if full { instead(labels) } else { labels })
    }

    fn sorted(&self) -> BTreeMap<L, Arc<C>> {
        let map = self
            .by_labels
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        map.iter()
            .map(|(labels, counters)| (labels.clone(), Arc::clone(counters)))
            .collect()
    }
}

impl Metrics {
    pub(super) fn traffic(&self, labels: TrafficLabels) -> Arc<Traffic> {
        self.inner
            .traffic
            .with_bounded(labels, |labels| TrafficLabels {
                source: Party::default(),
                destination: Party::default(),
                ..labels
            })
    }

    pub(super) fn socket_opened(&self, direction: Direction) {
        self.inner.sockets[direction as usize].fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn socket_closed(&self, direction: Direction) {
        self.inner.sockets[direction as usize].fetch_sub(1, Ordering::Relaxed);
    }

    /// Counts what enforcement did for a workload's port, by the bound service that owns it.
    pub fn enforced(
        &self,
        action: EnforcementAction,
        service: Option<&ServiceKey>,
        workload: &crate::state::Workload,
        mutual_tls: bool,
    ) {
        let labels = EnforcementLabels {
            action,
            service: service.cloned(),
            workload: workload.workload_name.clone(),
            namespace: workload.namespace.clone(),
            mutual_tls,
        };
        self.inner
            .enforcement
            .with(labels)
            .fetch_add(1, Ordering::Relaxed);
    }

    /// Counts one response of the control plane.
    pub fn xds_message(&self, type_url: &'static str, bytes: u64) {
        let counters = self.inner.xds_messages.with(type_url);
        counters.count.fetch_add(1, Ordering::Relaxed);
        counters.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Counts one end of the stream to the control plane.
    pub fn xds_terminated(&self, reason: &'static str) {
        self.inner
            .xds_terminations
            .with(reason)
            .fetch_add(1, Ordering::Relaxed);
    }

    /// The text form.
    pub fn render(&self, extra: &[Gauge]) -> String {
        let mut out = Exposition::default();
        self.render_traffic(&mut out);
        let enforcement = self.inner.enforcement.sorted();
        out.family(
            "waymark_enforcement",
            Kind::Counter,
            "connections for a workload with a waypoint that did not come from it",
        );
        for (labels, count) in &enforcement {
            out.sample(
                "waymark_enforcement_total",
                &labels.pairs(),
                count.load(Ordering::Relaxed),
            );
        }
        out.family("istio_build", Kind::Gauge, "version of the program");
        out.sample(
            "istio_build",
            &[("component", "ztunnel"), ("tag", env!("CARGO_PKG_VERSION"))],
            1,
        );
        out.family("istio_tcp_sockets_open", Kind::Gauge, "open connections");
        for (direction, reporter) in [
            (Direction::Outbound, Reporter::Source),
            (Direction::Inbound, Reporter::Destination),
        ] {
            let open = self.inner.sockets[direction as usize].load(Ordering::Relaxed);
            out.sample(
                "istio_tcp_sockets_open",
                &[("reporter", reporter.as_str())],
                open.max(0).unsigned_abs(),
            );
        }
        out.family(
            "istio_xds_connection_terminations",
            Kind::Counter,
            "ends of the stream to the control plane",
        );
        for (reason, count) in self.inner.xds_terminations.sorted() {
            out.sample(
                "istio_xds_connection_terminations_total",
                &[("reason", reason)],
                count.load(Ordering::Relaxed),
            );
        }
        let messages = self.inner.xds_messages.sorted();
        out.family(
            "istio_xds_message",
            Kind::Counter,
            "responses of the control plane",
        );
        for (url, counters) in &messages {
            out.sample(
                "istio_xds_message_total",
                &[("url", url)],
                counters.count.load(Ordering::Relaxed),
            );
        }
        out.family(
            "istio_xds_message_bytes",
            Kind::Counter,
            "bytes of those responses",
        );
        for (url, counters) in &messages {
            out.sample(
                "istio_xds_message_bytes_total",
                &[("url", url)],
                counters.bytes.load(Ordering::Relaxed),
            );
        }
        for gauge in extra {
            out.family(gauge.name, Kind::Gauge, gauge.help);
            out.sample(gauge.name, &[], gauge.value);
        }
        out.finish()
    }

    fn render_traffic(&self, out: &mut Exposition) {
        let traffic = self.inner.traffic.sorted();
        let labels: Vec<_> = traffic.keys().map(TrafficLabels::pairs).collect();
        let rows = || labels.iter().zip(traffic.values());
        let plain: [PlainCounter; 3] = [
            ("istio_tcp_connections_opened", "connections opened", |t| {
                &t.opened
            }),
            (
                "istio_tcp_received_bytes",
                "bytes received from clients",
                |t| &t.received,
            ),
            ("istio_tcp_sent_bytes", "bytes sent to clients", |t| &t.sent),
        ];
        for (name, help, counter) in plain {
            out.family(name, Kind::Counter, help);
            for (labels, traffic) in rows() {
                out.traffic(
                    name,
                    labels,
                    ResponseFlag::None,
                    counter(traffic).load(Ordering::Relaxed),
                );
            }
        }
        let by_flag: [FlaggedCounter; 2] = [
            (
                "istio_tcp_connections_closed",
                "connections closed",
                Traffic::closed,
            ),
            (
                "istio_tcp_connections_failed",
                "connections that could not be made",
                Traffic::failed,
            ),
        ];
        for (name, help, counter) in by_flag {
            out.family(name, Kind::Counter, help);
            for (labels, traffic) in rows() {
                for flag in ResponseFlag::ALL {
                    let count = counter(traffic, flag).load(Ordering::Relaxed);
                    if count > 0 {
                        out.traffic(name, labels, flag, count);
                    }
                }
            }
        }
    }
}

/// A value that is read when asked for.
#[derive(Clone, Copy, Debug)]
pub struct Gauge {
    /// Full name.
    pub name: &'static str,
    /// What it is.
    pub help: &'static str,
    /// Now.
    pub value: u64,
}

impl EnforcementLabels {
    fn pairs(&self) -> Vec<(&'static str, &str)> {
        vec![
            ("action", self.action.as_str()),
            (
                "destination_service",
                self.service.as_ref().map_or("unknown", |key| &key.hostname),
            ),
            (
                "destination_service_namespace",
                self.service
                    .as_ref()
                    .map_or("unknown", |key| &key.namespace),
            ),
            ("destination_workload", known(Some(&self.workload))),
            (
                "destination_workload_namespace",
                known(Some(&self.namespace)),
            ),
            ("connection_security_policy", security(self.mutual_tls)),
        ]
    }
}

/// Name, help, and where the count is.
type PlainCounter = (&'static str, &'static str, fn(&Traffic) -> &AtomicU64);
type FlaggedCounter = (
    &'static str,
    &'static str,
    fn(&Traffic, ResponseFlag) -> &AtomicU64,
);

/// Labels before `response_flags`, and after.
type TrafficPairs<'a> = (Vec<(&'static str, &'a str)>, Vec<(&'static str, &'a str)>);

impl TrafficLabels {
    fn pairs(&self) -> TrafficPairs<'_> {
        let (source, destination) = (&self.source, &self.destination);
        let service =
            |part: fn(&ServiceLabels) -> &Arc<str>| known(self.service.as_ref().map(part));
        let before = vec![
            ("reporter", self.reporter.as_str()),
            ("source_workload", known(source.workload.as_ref())),
            (
                "source_canonical_service",
                known(source.canonical_service.as_ref()),
            ),
            (
                "source_canonical_revision",
                known(source.canonical_revision.as_ref()),
            ),
            (
                "source_workload_namespace",
                known(source.namespace.as_ref()),
            ),
            (
                "source_principal",
                source.principal.as_ref().map_or(UNKNOWN, |id| id.as_str()),
            ),
            ("source_app", known(source.canonical_service.as_ref())),
            ("source_version", known(source.canonical_revision.as_ref())),
            ("source_cluster", known(source.cluster.as_ref())),
            ("destination_service", service(|s| &s.hostname)),
            ("destination_service_namespace", service(|s| &s.namespace)),
            ("destination_service_name", service(|s| &s.name)),
            ("destination_workload", known(destination.workload.as_ref())),
            (
                "destination_canonical_service",
                known(destination.canonical_service.as_ref()),
            ),
            (
                "destination_canonical_revision",
                known(destination.canonical_revision.as_ref()),
            ),
            (
                "destination_workload_namespace",
                known(destination.namespace.as_ref()),
            ),
            (
                "destination_principal",
                destination
                    .principal
                    .as_ref()
                    .map_or(UNKNOWN, |id| id.as_str()),
            ),
            (
                "destination_app",
                known(destination.canonical_service.as_ref()),
            ),
            (
                "destination_version",
                known(destination.canonical_revision.as_ref()),
            ),
            ("destination_cluster", known(destination.cluster.as_ref())),
            ("request_protocol", "tcp"),
        ];
        let after = vec![
            ("connection_security_policy", security(self.mutual_tls)),
            ("source_region", known(source.region.as_ref())),
            ("source_zone", known(source.zone.as_ref())),
            ("destination_region", known(destination.region.as_ref())),
            ("destination_zone", known(destination.zone.as_ref())),
        ];
        (before, after)
    }
}

/// About 100 MB of label sets; a node has a few hundred.
const MOST_LABEL_SETS: usize = 50_000;
const UNKNOWN: &str = "unknown";

fn known(text: Option<&Arc<str>>) -> &str {
    text.map(|text| &**text)
        .filter(|text| !text.is_empty())
        .unwrap_or(UNKNOWN)
}

fn security(mutual_tls: bool) -> &'static str {
    if mutual_tls { "mutual_tls" } else { UNKNOWN }
}

#[derive(Clone, Copy)]
enum Kind {
    Counter,
    Gauge,
}

/// OpenMetrics text: HELP and TYPE lines carry a counter's name without `_total`; ends with `# EOF`.
#[derive(Default)]
struct Exposition {
    text: String,
}

impl Exposition {
    fn family(&mut self, name: &str, kind: Kind, help: &str) {
        let kind = match kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
        };
        // Writing to a String does not fail.
        let _ = writeln!(self.text, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: u64) {
        self.text.push_str(name);
        let mut separator = '{';
        for label in labels {
            self.label(&mut separator, label);
        }
        let close = if separator == ',' { "}" } else { "" };
        let _ = writeln!(self.text, "{close} {value}");
    }

    fn traffic(
        &mut self,
        family: &str,
        (before, after): &TrafficPairs<'_>,
        flag: ResponseFlag,
        value: u64,
    ) {
        let _ = write!(self.text, "{family}_total");
        let mut separator = '{';
        for label in before
            .iter()
            .chain([&("response_flags", flag.as_str())])
            .chain(after)
        {
            self.label(&mut separator, label);
        }
        let _ = writeln!(self.text, "}} {value}");
    }

    fn label(&mut self, separator: &mut char, (name, value): &(&str, &str)) {
        let _ = write!(self.text, "{separator}{name}=\"");
        for c in value.chars() {
            match c {
                '\\' => self.text.push_str("\\\\"),
                '"' => self.text.push_str("\\\""),
                '\n' => self.text.push_str("\\n"),
                c => self.text.push(c),
            }
        }
        self.text.push('"');
        *separator = ',';
    }

    fn finish(mut self) -> String {
        self.text.push_str("# EOF\n");
        self.text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_form_is_upstreams() {
        let metrics = Metrics::default();
        let party = |name: &str| Party {
            workload: Some(name.into()),
            canonical_service: Some(name.into()),
            namespace: Some("default".into()),
            cluster: Some("Kubernetes".into()),
            principal: Some(
                format!("spiffe://cluster.local/ns/default/sa/{name}")
                    .parse()
                    .unwrap(),
            ),
            ..Party::default()
        };
        let traffic = metrics.traffic(TrafficLabels {
            reporter: Reporter::Source,
            source: party("productpage"),
            destination: Party {
                workload: Some("re\"views".into()),
                ..party("reviews")
            },
            service: Some(ServiceLabels {
                hostname: "reviews.default.svc.cluster.local".into(),
                name: "reviews".into(),
                namespace: "default".into(),
            }),
            mutual_tls: true,
        });
        traffic.opened.fetch_add(3, Ordering::Relaxed);
        traffic.sent.fetch_add(10, Ordering::Relaxed);
        traffic
            .closed(ResponseFlag::None)
            .fetch_add(1, Ordering::Relaxed);
        traffic
            .closed(ResponseFlag::Connect)
            .fetch_add(2, Ordering::Relaxed);
        traffic
            .failed(ResponseFlag::Connect)
            .fetch_add(2, Ordering::Relaxed);
        let workload = crate::fixture::pod("reviews", "127.244.0.2");
        let service = crate::fixture::key("reviews.default.svc.cluster.local");
        metrics.enforced(EnforcementAction::Hairpin, Some(&service), &workload, false);
        metrics.xds_message("type.googleapis.com/istio.workload.Address", 100);
        metrics.xds_terminated("error");
        metrics.socket_opened(Direction::Inbound);
        let gauge = Gauge {
            name: "process_open_fds",
            help: "open descriptors",
            value: 7,
        };
        let text = metrics
            .render(&[gauge])
            .replace(env!("CARGO_PKG_VERSION"), "VERSION");
        insta::assert_snapshot!(text);
    }

    #[test]
    fn label_sets_are_bounded() {
        let family = Family::<usize, AtomicU64>::default();
        for n in 0..MOST_LABEL_SETS + 10 {
            family
                .with_bounded(n, |_| usize::MAX)
                .fetch_add(1, Ordering::Relaxed);
        }
        let counted = family.sorted();
        assert_eq!(counted.len(), MOST_LABEL_SETS + 1);
        assert_eq!(counted[&usize::MAX].load(Ordering::Relaxed), 10);
        assert_eq!(
            family
                .with_bounded(3, |_| usize::MAX)
                .load(Ordering::Relaxed),
            1
        );
    }
}
