//! The HBONE terminator: TLS connections in, each of their tunnels to the chain that serves its destination.
//!
//! What Envoy does in `connect_terminate` and in `main_internal`'s matcher.

mod sniff;

use std::future::poll_fn;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures_util::future::BoxFuture;
use waymark_driver::{Io as _, TcpStream, timeout};
use waymark_engine::Field;
use waymark_hbone::{
    AcceptError, Acceptor, Authority, Incoming, ServerSettings, ServerTls, StreamWindow,
    TlsUnavailable, Tunnel,
};
use waymark_identity::roots::PeerNames;

use crate::downstream::Downstream;
use crate::http::{self as http_chain, Wire};
use crate::program::{
    Chain, ChainId, Codec, HboneServer, Snapshot, SnapshotCell, SniffedProtocol, Target,
};
use crate::route::FormatContext;
use crate::tcp;
use crate::telemetry::{ResponseFlag, ResponseFlags, ServerStats};
use crate::worker::Worker;

/// TLS of the terminator: the certificate is the waypoint's, who is admitted is what the configuration says.
pub struct TerminatorTls<T> {
    tls: T,
    snapshot: SnapshotCell,
}

impl<T: ServerTls> TerminatorTls<T> {
    /// `tls` verifies chains; the rule about names comes from `snapshot`.
    pub fn new(tls: T, snapshot: SnapshotCell) -> Self {
        Self { tls, snapshot }
    }
}

impl<T: ServerTls> ServerTls for TerminatorTls<T> {
    fn server_config(
        &self,
        local: SocketAddr,
    ) -> BoxFuture<'_, Result<Arc<rustls::ServerConfig>, TlsUnavailable>> {
        self.tls.server_config(local)
    }

    fn admits(&self, peer: &PeerNames) -> bool {
        let snapshot = self.snapshot.load();
        let rule = snapshot.hbone.as_ref().map(|h| &h.peers);
        rule.is_some_and(|rule| rule.accepts(peer.uris())) && self.tls.admits(peer)
    }
}

/// What the terminator's HTTP/2 is set to.
pub(crate) fn server_settings(hbone: &HboneServer) -> ServerSettings {
    let mut settings = ServerSettings {
        max_concurrent_streams: hbone.max_concurrent_streams,
        idle_timeout: hbone.idle_timeout,
        ..ServerSettings::default()
    };
    if let Some(window) = hbone.initial_stream_window_bytes {
        settings.http2.stream_window = StreamWindow::Fixed(window);
    }
    if let Some(window) = hbone.initial_connection_window_bytes {
        settings.http2.connection_window_bytes = window;
    }
    if let Some(keep_alive) = &hbone.keep_alive {
        settings.http2.ping_interval = keep_alive.interval.unwrap_or(settings.http2.ping_interval);
        settings.http2.ping_timeout = keep_alive.timeout;
    }
    settings
}

/// Serves one accepted connection until it ends.
pub(crate) async fn serve_connection(worker: Rc<Worker>, acceptor: Acceptor, tcp: TcpStream) {
    let drain = worker.shared().drain.clone();
    let stats = Arc::clone(&worker.telemetry().server);
    stats.total_connections.inc();
    let process = &stats;
    let stats = &stats.tunnels;
    stats.downstream_cx_total.inc();
    stats.downstream_cx_active.inc();
    match acceptor.accept(tcp, &drain).await {
        Ok(mut connection) => {
            stats.ssl_handshake.inc();
            while let Some(incoming) = connection.next().await {
                let of_tunnel = Rc::clone(&worker);
                worker.spawn("tunnel", async move {
                    Box::pin(serve_tunnel(of_tunnel, incoming)).await;
                });
            }
        }
        Err(e) => {
            match &e {
                AcceptError::Tls(_) => {
                    stats.ssl_connection_error.inc();
                    stats.ssl_fail_verify_error.inc();
                }
                AcceptError::Peer(_) => stats.ssl_fail_verify_san.inc(),
                AcceptError::TooManyConnections
                | AcceptError::Timeout
                | AcceptError::Certificate(_)
                | AcceptError::Http2(_)
                | AcceptError::Socket(_) => {}
            }
            let cause = std::error::Error::source(&e).map(ToString::to_string);
            tracing::debug!(error = %e, cause, "connection refused");
        }
    }
    process.total_connections.dec();
    stats.downstream_cx_active.dec();
    stats.downstream_cx_destroy.inc();
}

/// Serves one CONNECT. The answer is 200 before it is known whether anything serves the destination, as it is with Envoy:
/// a destination that nothing serves ends the tunnel at once.
async fn serve_tunnel(worker: Rc<Worker>, incoming: Incoming) {
    let snapshot = worker.snapshot();
    let active = ActiveTunnel::begin(&worker);
    let unknown = SocketAddr::from(([0, 0, 0, 0], incoming.authority.port()));
    let local = incoming.authority.as_address().unwrap_or(unknown);
    let downstream = Downstream::new(&incoming, local, &worker.shared().node_account);
    let target = match &incoming.authority {
        Authority::Address(address) => snapshot.destinations.find(*address),
        // Host names reach waypoints from other networks only, and there is no table of them.
        Authority::Host { .. } => None,
    };
    let name = snapshot.hbone.as_ref().map(|h| h.server_name.as_bytes());
    let server = Field::new(b"server", name.unwrap_or(b"istio-envoy"));
    let Ok(mut tunnel) = incoming.accept([server]) else {
        return;
    };
    let found = match target {
        None => None,
        Some(target) => choose(&snapshot, target, &mut tunnel).await,
    };
    let Some((id, sniffed)) = found else {
        refuse(&worker, &downstream, tunnel).await;
        return;
    };
    // The chain may have changed while the client took its time.
    let snapshot = if sniffed.is_some() {
        worker.snapshot()
    } else {
        snapshot
    };
    let Some(chain) = snapshot.chain(id).cloned() else {
        refuse(&worker, &downstream, tunnel).await;
        return;
    };
    drop(snapshot);
    match &*chain {
        Chain::Tcp(_) => tcp::serve(worker, tunnel, downstream, chain).await,
        Chain::Http(http) => {
            let wire = match (http.codec, sniffed) {
                (Codec::Http1, _) => Some(Wire::Http1),
                (Codec::Http2, _) => Some(Wire::Http2),
                (Codec::Auto, Some(SniffedProtocol::Http2)) => Some(Wire::Http2),
                (Codec::Auto, Some(_)) => Some(Wire::Http1),
                (Codec::Auto, None) => by_preface(&mut tunnel).await,
            };
            if let Some(wire) = wire {
                http_chain::serve(worker, tunnel, downstream, id, chain, wire).await;
            }
        }
    }
    drop(active);
}

/// The chain for a tunnel. Looks at its first bytes only where they decide.
async fn choose(
    snapshot: &Snapshot,
    target: Target,
    tunnel: &mut Tunnel,
) -> Option<(ChainId, Option<SniffedProtocol>)> {
    if let Target::Chain(id) = target {
        return Some((id, None));
    }
    let sniffed = inspect(tunnel, snapshot.destinations.inspection_timeout).await;
    target.chain_for(sniffed).map(|id| (id, Some(sniffed)))
}

/// Waits for as many bytes as tell the protocol. A client that says nothing in time is taken for one of a protocol in
/// which the server speaks first, which Envoy cuts off instead.
async fn inspect(tunnel: &mut Tunnel, limit: Option<Duration>) -> SniffedProtocol {
    let told = tell(tunnel, |seen, ended| match sniff::protocol(seen) {
        None if ended => Some(SniffedProtocol::Other),
        told => told,
    });
    let told = match limit {
        None => told.await,
        Some(limit) => timeout(limit, told).await.ok().flatten(),
    };
    told.unwrap_or(SniffedProtocol::Other)
}

/// HTTP/2 when the preface comes, else HTTP/1. `None` when nothing comes at all.
async fn by_preface(tunnel: &mut Tunnel) -> Option<Wire> {
    let told = tell(tunnel, |seen, ended| {
        if seen.len() >= sniff::PREFACE.len() || !sniff::PREFACE.starts_with(seen) {
            let http2 = seen.starts_with(sniff::PREFACE);
            return Some(Some(if http2 { Wire::Http2 } else { Wire::Http1 }));
        }
        ended.then(|| (!seen.is_empty()).then_some(Wire::Http1))
    });
    told.await.flatten()
}

/// Shows what has come, and whether that is all, until it tells something. `None` when the tunnel breaks before.
async fn tell<T>(tunnel: &mut Tunnel, look: impl Fn(&[u8], bool) -> Option<T>) -> Option<T> {
    let mut have = 0;
    loop {
        let told = poll_fn(|cx| {
            tunnel.poll_fill_more(have, cx).map_ok(|seen| {
                let ended = seen.len() <= have;
                have = seen.len();
                (look(seen, ended), ended)
            })
        });
        match told.await {
            Ok((Some(told), _)) => return Some(told),
            Ok((None, false)) => {}
            Ok((None, true)) | Err(_) => return None,
        }
    }
}

/// Ends a tunnel that nothing serves.
async fn refuse(worker: &Worker, downstream: &Downstream, mut tunnel: Tunnel) {
    let context = FormatContext {
        start: Some(SystemTime::now()),
        duration: Some(Duration::ZERO),
        flags: ResponseFlags::from(ResponseFlag::NR),
        response_code_details: Some("filter_chain_not_found"),
        downstream_local: Some(downstream.local),
        downstream_remote: Some(downstream.remote),
        peer_principal: downstream.principal.as_ref().map(|p| p.as_str()),
        local_principal: Some(worker.local_principal()),
        ..FormatContext::default()
    };
    let telemetry = worker.telemetry();
    telemetry.server.tunnels.no_filter_chain_match.inc();
    telemetry.log(&worker.snapshot().destinations.access_logs, &context);
    // Whether it gets there is the client's concern.
    let _ = waymark_driver::io::finish(&mut tunnel).await;
}

/// Counts a tunnel for as long as it is served.
struct ActiveTunnel(Arc<ServerStats>);

impl ActiveTunnel {
    fn begin(worker: &Worker) -> Self {
        let stats = Arc::clone(&worker.telemetry().server);
        stats.tunnels.downstream_rq_total.inc();
        stats.tunnels.downstream_rq_active.inc();
        Self(stats)
    }
}

impl Drop for ActiveTunnel {
    fn drop(&mut self) {
        self.0.tunnels.downstream_rq_active.dec();
    }
}
