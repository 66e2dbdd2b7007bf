//! What the data path tells telemetry.

use std::cell::Cell;
use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, SystemTime};

use waymark_identity::SpiffeId;

use crate::program::{AccessLog, Cluster, Endpoint, Hashed, HttpChain, HttpFilter, TcpChain};
use crate::route::FormatContext;
use crate::telemetry::istio::{Labels, Protocol, RequestSeries, SeriesMap};
use crate::telemetry::logs::Logs;
use crate::telemetry::stats::figures;
use crate::telemetry::{ResponseFlags, ServerStats, TcpSeries};

figures! {
    /// The figures of one HTTP chain (`http.<stat prefix>.<figure>`).
    HttpStats {
        counters {
            downstream_rq_1xx,
            downstream_rq_2xx,
            downstream_rq_3xx,
            downstream_rq_4xx,
            downstream_rq_5xx,
            downstream_rq_completed,
            downstream_rq_total,
        }
        gauges {
        }
    }
}

/// All telemetry of the process. Shared by all workers.
#[derive(Debug)]
pub struct Telemetry {
    /// The figures of the process.
    pub server: Arc<ServerStats>,
    /// When the process started.
    pub started: SystemTime,
    pub(crate) requests: SeriesMap<RequestSeries>,
    pub(crate) tcp: SeriesMap<TcpSeries>,
    pub(crate) http: RwLock<HashMap<Arc<str>, Arc<HttpStats>>>,
    pub(crate) logs: Logs,
}

/// What a request or connection was about, beside what can be formatted.
#[derive(Debug, Clone, Copy, Default)]
pub struct Facts<'a> {
    /// The cluster that it went to, or should have.
    pub cluster: Option<&'a Cluster>,
    /// The endpoint that it went to at last.
    pub endpoint: Option<&'a Endpoint>,
    /// Who the client is.
    pub peer: Option<&'a Hashed<SpiffeId>>,
}

/// What is counted of a request that is over.
#[derive(Debug, Clone, Copy)]
pub struct RequestCounts<'a> {
    /// What it was about.
    pub facts: Facts<'a>,
    /// Response code; 0 when there was none.
    pub code: u16,
    /// Response flags.
    pub flags: ResponseFlags,
    /// Whether it was gRPC's.
    pub grpc: bool,
    /// The gRPC status of the response, where there is one.
    pub grpc_status: Option<u32>,
    /// How long it took.
    pub duration: Duration,
    /// Bytes of its body.
    pub received: u64,
    /// Bytes of the response's body.
    pub sent: u64,
}

/// Counts the bytes of one TCP connection while it lasts.
#[derive(Debug)]
pub struct TcpReport {
    series: Option<Arc<TcpSeries>>,
    every: Option<Duration>,
    received: Cell<u64>,
    sent: Cell<u64>,
}

impl TcpReport {
    /// How often to call [`TcpReport::update`]; `None`: never.
    #[must_use]
    pub fn interval(&self) -> Option<Duration> {
        self.series.as_ref().and(self.every)
    }

    /// The bytes from the client and to it so far.
    pub fn update(&self, received: u64, sent: u64) {
        if let Some(series) = &self.series {
            series
                .received_bytes
                .add(received.saturating_sub(self.received.replace(received)));
            series
                .sent_bytes
                .add(sent.saturating_sub(self.sent.replace(sent)));
        }
    }
}

impl Telemetry {
    /// Telemetry that has seen nothing.
    #[must_use]
    pub fn new(server: Arc<ServerStats>, started: SystemTime) -> Self {
        Self {
            server,
            started,
            requests: SeriesMap::default(),
            tcp: SeriesMap::default(),
            http: RwLock::default(),
            logs: Logs::default(),
        }
    }

    /// A request is over. `stats` are those of the chain's [`stat_prefix`](HttpChain::stat_prefix).
    pub fn request(&self, chain: &HttpChain, stats: &HttpStats, counts: &RequestCounts<'_>) {
        stats.count(counts.code);
        if !reports(chain) {
            return;
        }
        let labels = Labels {
            protocol: match counts.grpc {
                true => Protocol::Grpc,
                false => Protocol::Http,
            },
            code: counts.code,
            grpc_status: counts.grpc_status.filter(|_| counts.grpc),
            ..labels(counts.flags, &counts.facts)
        };
        self.requests.with(&labels, |series| {
            let millis = u64::try_from(counts.duration.as_millis()).unwrap_or(u64::MAX);
            series.requests.inc();
            series.duration_ms.record(millis);
            series.request_bytes.record(counts.received);
            series.response_bytes.record(counts.sent);
        });
    }

    /// The figures that a TCP connection reports to, while it lasts; `None` for a chain that reports nothing.
    #[must_use]
    pub fn tcp_series(
        &self,
        chain: &TcpChain,
        context: &FormatContext<'_>,
        facts: &Facts<'_>,
    ) -> Option<Arc<TcpSeries>> {
        chain.stats.as_ref()?;
        let labels = Labels {
            protocol: Protocol::Tcp,
            ..labels(context.flags, facts)
        };
        Some(self.tcp.with(&labels, Arc::clone))
    }

    /// A TCP connection was begun. What is given back counts its bytes while it lasts.
    #[must_use]
    pub fn tcp_opened(
        &self,
        chain: &TcpChain,
        context: &FormatContext<'_>,
        facts: &Facts<'_>,
    ) -> TcpReport {
        let series = self.tcp_series(chain, context, facts);
        if let Some(series) = &series {
            series.opened.inc();
        }
        let every = chain.stats.as_ref().and_then(|s| s.tcp_reporting);
        TcpReport {
            series,
            every,
            received: Cell::new(0),
            sent: Cell::new(0),
        }
    }

    /// A TCP connection is over; the bytes that `report` has not counted are counted now.
    pub fn tcp_closed(
        &self,
        chain: &TcpChain,
        context: &FormatContext<'_>,
        facts: &Facts<'_>,
        report: Option<&TcpReport>,
    ) {
        self.logs.write(&chain.access_logs, context);
        if let Some(series) = self.tcp_series(chain, context, facts) {
            series.closed.inc();
            let before = report.map_or((0, 0), |r| (r.received.get(), r.sent.get()));
            series
                .received_bytes
                .add(context.bytes_received.saturating_sub(before.0));
            series
                .sent_bytes
                .add(context.bytes_sent.saturating_sub(before.1));
        }
    }

    /// A line for logs that are no chain's: refused tunnels, failed tunnels.
    pub fn log(&self, logs: &[AccessLog], context: &FormatContext<'_>) {
        self.logs.write(logs, context);
    }

    /// The figures of an HTTP chain, by the prefix of its statistics.
    #[must_use]
    pub fn http(&self, stat_prefix: &Arc<str>) -> Arc<HttpStats> {
        if let Some(known) = self
            .http
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .get(stat_prefix)
        {
            return Arc::clone(known);
        }
        let mut all = self.http.write().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(all.entry(Arc::clone(stat_prefix)).or_default())
    }
}

impl HttpStats {
    fn count(&self, code: u16) {
        self.downstream_rq_total.inc();
        self.downstream_rq_completed.inc();
        match code / 100 {
            1 => self.downstream_rq_1xx.inc(),
            2 => self.downstream_rq_2xx.inc(),
            3 => self.downstream_rq_3xx.inc(),
            4 => self.downstream_rq_4xx.inc(),
            5 => self.downstream_rq_5xx.inc(),
            _ => {}
        }
    }
}

/// Whether a chain reports istio's metrics: it has the filter for it, or comes from a control plane that sends no such
/// filters at all. A chain with istio's other filters but not this one was told to be silent.
fn reports(chain: &HttpChain) -> bool {
    let mut istio = false;
    for filter in &chain.filters {
        match filter {
            HttpFilter::IstioStats(_) => return true,
            HttpFilter::PeerMetadata => istio = true,
            HttpFilter::HeaderMutation { .. }
            | HttpFilter::GrpcStats
            | HttpFilter::Fault
            | HttpFilter::Cors
            | HttpFilter::Router => {}
        }
    }
    !istio
}

fn labels<'a>(flags: ResponseFlags, facts: &Facts<'a>) -> Labels<'a> {
    Labels {
        service: facts.cluster.and_then(|c| c.service.as_ref()),
        workload: facts.endpoint.and_then(|e| e.workload.as_deref()),
        peer: facts.peer,
        protocol: Protocol::Http,
        code: 0,
        grpc_status: None,
        flags,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::program::{Names, StatsOptions, TcpDestination};

    #[test]
    fn bytes_of_a_connection_are_counted_once() {
        let telemetry = Telemetry::new(Arc::default(), SystemTime::UNIX_EPOCH);
        let chain = TcpChain {
            name: "c".into(),
            stat_prefix: "c".into(),
            to: TcpDestination::One(Names::default().cluster("c")),
            idle_timeout: None,
            max_duration: None,
            max_connect_attempts: 1,
            stats: Some(StatsOptions {
                tcp_reporting: Some(Duration::from_secs(5)),
            }),
            access_logs: Vec::new(),
        };
        let (context, facts) = (FormatContext::default(), Facts::default());
        let report = telemetry.tcp_opened(&chain, &context, &facts);
        assert_eq!(report.interval(), Some(Duration::from_secs(5)));
        report.update(3, 10);
        report.update(3, 30);
        let end = FormatContext {
            bytes_received: 5,
            bytes_sent: 31,
            ..context
        };
        telemetry.tcp_closed(&chain, &end, &facts, Some(&report));
        let all = telemetry.tcp.all();
        let [series] = all.as_slice() else {
            panic!("one series")
        };
        let f = &series.figures;
        let values = [&f.opened, &f.closed, &f.received_bytes, &f.sent_bytes]
            .map(crate::telemetry::Counter::value);
        assert_eq!(values, [1, 1, 5, 31]);
        let silent = TcpChain {
            stats: None,
            ..chain
        };
        assert_eq!(
            telemetry.tcp_opened(&silent, &context, &facts).interval(),
            None
        );
    }
}
