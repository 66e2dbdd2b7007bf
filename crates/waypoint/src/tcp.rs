//! TCP chains: a client's tunnel spliced to an endpoint's, each direction with its own end.

use std::convert::Infallible;
use std::future::{Future as _, poll_fn};
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Poll;
use std::time::{Duration, Instant, SystemTime};

use smallvec::SmallVec;
use waymark_driver::{now, sleep};
use waymark_hbone::{CopyCounters, Tunnel, copy_bidirectional};

use crate::cluster::ClusterRuntime;
use crate::downstream::Downstream;
use crate::near::Near;
use crate::originate::{DialError, Upstream};
use crate::program::{Chain, Cluster, Endpoint, EndpointKind, TcpChain};
use crate::route::FormatContext;
use crate::telemetry::{Facts, ResponseFlag, ResponseFlags, TcpReport};
use crate::worker::Worker;

/// Serves one tunnel by a TCP chain.
pub(crate) async fn serve(
    worker: Rc<Worker>,
    tunnel: Tunnel,
    downstream: Downstream,
    chain: Arc<Chain>,
) {
    let Chain::Tcp(tcp) = &*chain else {
        unreachable!("only TCP chains are served here");
    };
    let mut session = Session {
        worker: &worker,
        tcp,
        downstream: &downstream,
        started: Instant::now(),
        started_wall: SystemTime::now(),
        flags: ResponseFlags::none(),
        ended_because: None,
        transport_reason: None,
        cluster: None,
        endpoint: None,
        counters: CopyCounters::default(),
        report: None,
    };
    session.run(tunnel).await;
    worker.telemetry().tcp_closed(
        tcp,
        &session.context(),
        &session.facts(),
        session.report.as_ref(),
    );
}

struct Session<'a> {
    worker: &'a Rc<Worker>,
    tcp: &'a TcpChain,
    downstream: &'a Downstream,
    started: Instant,
    started_wall: SystemTime,
    flags: ResponseFlags,
    ended_because: Option<&'static str>,
    transport_reason: Option<Arc<str>>,
    cluster: Option<Arc<Cluster>>,
    endpoint: Option<Arc<Endpoint>>,
    counters: CopyCounters,
    report: Option<TcpReport>,
}

impl Session<'_> {
    async fn run(&mut self, mut tunnel: Tunnel) {
        let snapshot = self.worker.snapshot();
        let reference = self.tcp.to.pick(self.worker.random.next());
        let cluster = self
            .worker
            .clusters
            .of(&snapshot, reference.id, &self.worker.random);
        let Some(cluster) = cluster else {
            self.flags.add(ResponseFlag::NC);
            return;
        };
        let config = cluster.config();
        self.cluster = Some(Arc::clone(&config));
        let limits = cluster.thresholds(false);
        if config.stats.upstream_cx_active.value() >= i64::from(limits.max_connections) {
            config.stats.upstream_cx_overflow.inc();
            self.flags.add(ResponseFlag::UO);
            return;
        }
        let tunnel_client = snapshot.tunnel.clone();
        drop(snapshot); // a connection may outlive many configurations
        let Some((mut upstream, endpoint)) = self
            .connect(&cluster, &config, tunnel_client.as_ref())
            .await
        else {
            return;
        };
        let report = self
            .worker
            .telemetry()
            .tcp_opened(self.tcp, &self.context(), &self.facts());
        let report = &*self.report.insert(report);
        let _open = Open::begin(&config, &endpoint);
        let (idle, duration) = (self.tcp.idle_timeout, self.tcp.max_duration);
        let counters = &self.counters;
        let ended = {
            let mut copying = pin!(copy_bidirectional(&mut tunnel, &mut upstream, counters));
            let mut idle = pin!(idle_for(counters, idle));
            let mut reporting = pin!(keep_reporting(report, counters));
            let mut too_old = pin!(older_than(duration));
            poll_fn(|cx| {
                if let Poll::Ready(outcome) = copying.as_mut().poll(cx) {
                    if let Some(e) = outcome.error {
                        tracing::debug!(dst.addr = %self.downstream.local, error = %e, "tcp connection broke");
                    }
                    return Poll::Ready(None);
                }
                if idle.as_mut().poll(cx).is_ready() {
                    return Poll::Ready(Some((None, "idle_timeout")));
                }
                if let Poll::Ready(never) = reporting.as_mut().poll(cx) {
                    match never {}
                }
                let old = Some((Some(ResponseFlag::DT), "max_connection_duration"));
                too_old.as_mut().poll(cx).map(|()| old)
            })
            .await
        };
        config
            .stats
            .upstream_cx_tx_bytes_total
            .add(counters.forward.load(Ordering::Relaxed));
        config
            .stats
            .upstream_cx_rx_bytes_total
            .add(counters.backward.load(Ordering::Relaxed));
        if let Some((flag, why)) = ended {
            if let Some(flag) = flag {
                self.flags.add(flag);
            }
            self.ended_because = Some(why);
            // Whether it gets there is the client's concern.
            let _ = waymark_driver::io::finish(&mut tunnel).await;
        }
    }

    async fn connect(
        &mut self,
        cluster: &ClusterRuntime,
        config: &Arc<Cluster>,
        tunnel: Option<&Arc<crate::program::TunnelClient>>,
    ) -> Option<(Upstream, Near<Endpoint>)> {
        let mut tried: SmallVec<[EndpointKind; 4]> = SmallVec::new();
        let attempts = self.tcp.max_connect_attempts.max(1);
        for _ in 0..attempts {
            let Some(endpoint) =
                cluster.pick(self.downstream.local, &tried, 5, &self.worker.random)
            else {
                config.stats.upstream_cx_none_healthy.inc();
                self.flags.add(ResponseFlag::UH);
                return None;
            };
            tried.push(endpoint.kind);
            self.endpoint = Some(Arc::clone(&endpoint));
            let originator = &self.worker.originator;
            match originator
                .dial(tunnel, &endpoint, config.connect_timeout)
                .await
            {
                Ok(upstream) => return Some((upstream, endpoint)),
                Err(e) => {
                    config.stats.upstream_cx_connect_fail.inc();
                    endpoint.stats.cx_connect_fail.inc();
                    if matches!(e, DialError::Timeout) {
                        config.stats.upstream_cx_connect_timeout.inc();
                    }
                    self.transport_reason = Some(e.to_string().into());
                    if matches!(e, DialError::Denied(_)) {
                        break;
                    }
                }
            }
        }
        self.flags.add(ResponseFlag::UF);
        self.flags.add(ResponseFlag::URX);
        None
    }

    fn context(&self) -> FormatContext<'_> {
        FormatContext {
            start: Some(self.started_wall),
            duration: Some(self.started.elapsed()),
            flags: self.flags,
            connection_termination_details: self.ended_because,
            upstream_transport_failure_reason: self.transport_reason.as_deref(),
            bytes_received: self.counters.forward.load(Ordering::Relaxed),
            bytes_sent: self.counters.backward.load(Ordering::Relaxed),
            upstream_host: self.endpoint.as_ref().map(|e| &*e.text),
            upstream_cluster: self.cluster.as_ref().map(|c| &*c.name),
            downstream_local: Some(self.downstream.local),
            downstream_remote: Some(self.downstream.remote),
            peer_principal: self.downstream.principal.as_ref().map(|p| p.as_str()),
            local_principal: Some(self.worker.local_principal()),
            ..FormatContext::default()
        }
    }

    fn facts(&self) -> Facts<'_> {
        Facts {
            cluster: self.cluster.as_deref(),
            endpoint: self.endpoint.as_deref(),
            peer: self.downstream.principal.as_ref(),
        }
    }
}

/// Resolves when nothing was copied for `limit`.
async fn idle_for(counters: &CopyCounters, limit: Option<Duration>) {
    let Some(limit) = limit else {
        return std::future::pending().await;
    };
    let total =
        || counters.forward.load(Ordering::Relaxed) + counters.backward.load(Ordering::Relaxed);
    // Looked at now and then, so that a byte costs no timer: the limit is kept to an eighth of itself.
    let pause = (limit / 8).max(Duration::from_millis(1));
    let (mut seen, mut since) = (total(), now());
    loop {
        sleep(pause).await;
        let copied = total();
        if copied != seen {
            (seen, since) = (copied, now());
        } else if now() - since >= limit {
            return;
        }
    }
}

/// Reports the bytes that were copied, now and then.
async fn keep_reporting(report: &TcpReport, counters: &CopyCounters) -> Infallible {
    let Some(every) = report.interval() else {
        return std::future::pending().await;
    };
    loop {
        sleep(every).await;
        report.update(
            counters.forward.load(Ordering::Relaxed),
            counters.backward.load(Ordering::Relaxed),
        );
    }
}

async fn older_than(limit: Option<Duration>) {
    match limit {
        Some(limit) => sleep(limit).await,
        None => std::future::pending().await,
    }
}

/// Counts an upstream connection for as long as it is open.
struct Open {
    cluster: Arc<Cluster>,
    endpoint: Arc<Endpoint>,
}

impl Open {
    fn begin(cluster: &Arc<Cluster>, endpoint: &Arc<Endpoint>) -> Self {
        cluster.stats.upstream_cx_total.inc();
        cluster.stats.upstream_cx_active.inc();
        endpoint.stats.cx_total.inc();
        endpoint.stats.cx_active.inc();
        // Least request balances TCP by connections, as Envoy does.
        endpoint.stats.rq_active.inc();
        Self {
            cluster: Arc::clone(cluster),
            endpoint: Arc::clone(endpoint),
        }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.cluster.stats.upstream_cx_active.dec();
        self.cluster.stats.upstream_cx_destroy.inc();
        self.endpoint.stats.cx_active.dec();
        self.endpoint.stats.rq_active.dec();
    }
}
