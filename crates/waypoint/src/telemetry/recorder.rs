//! What the data path tells telemetry.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::SystemTime;

use crate::program::{AccessLog, Cluster, Endpoint, HttpChain, HttpFilter, TcpChain};
use crate::route::{FormatContext, is_grpc};
use crate::telemetry::istio::{Labels, Protocol, RequestSeries, SeriesMap};
use crate::telemetry::logs::Logs;
use crate::telemetry::stats::figures;
use crate::telemetry::{ServerStats, TcpSeries};

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
    /// The gRPC status of the response, where there is one.
    pub grpc_status: Option<u32>,
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

    /// A request is over. Byte counts of `context` are those on the wire, where the data path knows them.
    pub fn request(&self, chain: &HttpChain, context: &FormatContext<'_>, facts: &Facts<'_>) {
        self.logs.write(&chain.access_logs, context);
        self.count(&chain.stat_prefix, context.response_code);
        if !reports(chain) {
            return;
        }
        let grpc = context.request.as_ref().is_some_and(is_grpc);
        let labels = Labels {
            protocol: if grpc { Protocol::Grpc } else { Protocol::Http },
            grpc_status: facts.grpc_status.filter(|_| grpc),
            ..labels(context, facts)
        };
        self.requests.with(&labels, |series| {
            series.requests.inc();
            if let Some(duration) = context.duration {
                series
                    .duration_ms
                    .record(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX));
            }
            series.request_bytes.record(context.bytes_received);
            series.response_bytes.record(context.bytes_sent);
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
            code: 0,
            ..labels(context, facts)
        };
        Some(self.tcp.with(&labels, Arc::clone))
    }

    /// A TCP connection was begun.
    pub fn tcp_opened(&self, chain: &TcpChain, context: &FormatContext<'_>, facts: &Facts<'_>) {
        if let Some(series) = self.tcp_series(chain, context, facts) {
            series.opened.inc();
        }
    }

    /// A TCP connection is over; its bytes are counted now.
    pub fn tcp_closed(&self, chain: &TcpChain, context: &FormatContext<'_>, facts: &Facts<'_>) {
        self.logs.write(&chain.access_logs, context);
        if let Some(series) = self.tcp_series(chain, context, facts) {
            series.closed.inc();
            series.received_bytes.add(context.bytes_received);
            series.sent_bytes.add(context.bytes_sent);
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

    fn count(&self, stat_prefix: &Arc<str>, code: u16) {
        let stats = self.http(stat_prefix);
        stats.downstream_rq_total.inc();
        stats.downstream_rq_completed.inc();
        match code / 100 {
            1 => stats.downstream_rq_1xx.inc(),
            2 => stats.downstream_rq_2xx.inc(),
            3 => stats.downstream_rq_3xx.inc(),
            4 => stats.downstream_rq_4xx.inc(),
            5 => stats.downstream_rq_5xx.inc(),
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

fn labels<'a>(context: &FormatContext<'a>, facts: &Facts<'a>) -> Labels<'a> {
    Labels {
        service: facts.cluster.and_then(|c| c.service.as_ref()),
        workload: facts.endpoint.and_then(|e| e.workload.as_deref()),
        peer: context.peer_principal,
        local: context.local_principal,
        protocol: Protocol::Http,
        code: context.response_code,
        grpc_status: None,
        flags: context.flags,
    }
}
