//! One request and its response, as it is told to telemetry when it is over.

use std::borrow::Cow;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use waymark_engine::Head;

use super::HttpConnection;
use super::failure::Failure;
use super::headers::{FORWARDED_PROTO, GRPC_STATUS};
use super::timers::Timer;
use crate::cluster::UpstreamBroke;
use crate::near::Near;
use crate::program::{Chain, Cluster, Endpoint, HttpChain};
use crate::route::{FormatContext, RequestHead, is_grpc};
use crate::telemetry::{self, ResponseFlag, ResponseFlags};

/// The scheme of an inner connection: TLS is the tunnel's business.
const SCHEME: &str = "http";

/// A request that is being served, and its facts. Used again for the next one on its connection. Dropped while a request is
/// open, that is a request that the client gave up.
pub(super) struct Exchange {
    facts: Facts,
    open: bool,
}

/// See [`Exchange`].
pub(super) struct Facts {
    pub(super) connection: Rc<HttpConnection>,
    /// Always [`Chain::Http`].
    pub(super) chain: Near<Chain>,
    pub(super) started: Instant,
    /// The request's head, as it goes on.
    pub(super) head: Head,
    /// The path before it was rewritten.
    pub(super) original_path: Option<String>,
    pub(super) protocol: &'static str,
    pub(super) grpc: bool,
    /// Bytes of the request's body.
    pub(super) received: u64,
    /// Bytes of the response's.
    pub(super) sent: u64,
    /// Set when the response's head is made.
    pub(super) status: Option<u16>,
    /// The response's head, meaningful when there is a status.
    pub(super) response: Head,
    pub(super) flags: ResponseFlags,
    pub(super) details: Option<Cow<'static, str>>,
    pub(super) transport_reason: Option<Arc<str>>,
    pub(super) route_name: Option<Arc<str>>,
    pub(super) cluster: Option<Near<Cluster>>,
    pub(super) endpoint: Option<Near<Endpoint>>,
    pub(super) grpc_status: Option<u32>,
}

/// How a request and its response ended.
#[derive(Debug, Clone, Copy)]
pub(super) enum End<'a> {
    /// Completely, with these trailers.
    Complete(Option<&'a Head>),
    /// The upstream broke off amid the response: closed the connection, or said what is no HTTP.
    Upstream(UpstreamBroke),
    /// A timer cut the response off.
    Timeout(Timer),
    /// The client ended its connection before it had all.
    Downstream,
    /// The client reset the stream, and not its connection.
    Reset,
}

impl Exchange {
    /// Nothing yet.
    pub(super) fn new(connection: &Rc<HttpConnection>, chain: Near<Chain>) -> Self {
        Self {
            facts: Facts {
                connection: Rc::clone(connection),
                chain,
                started: waymark_driver::now(),
                head: Head::new(),
                original_path: None,
                protocol: "HTTP/1.1",
                grpc: false,
                received: 0,
                sent: 0,
                status: None,
                response: Head::new(),
                flags: ResponseFlags::none(),
                details: None,
                transport_reason: None,
                route_name: None,
                cluster: None,
                endpoint: None,
                grpc_status: None,
            },
            open: false,
        }
    }

    /// A request begins. Its head is in [`Facts::head`].
    pub(super) fn begin(&mut self, chain: &Near<Chain>, protocol: &'static str) {
        let facts = &mut self.facts;
        if !Arc::ptr_eq(&facts.chain, chain) {
            facts.chain = chain.clone();
        }
        facts.started = waymark_driver::now();
        facts.original_path = None;
        facts.protocol = protocol;
        facts.grpc = is_grpc(&facts.head);
        facts.received = 0;
        facts.sent = 0;
        facts.status = None;
        facts.response.clear();
        facts.flags = ResponseFlags::none();
        facts.details = None;
        facts.transport_reason = None;
        facts.route_name = None;
        facts.cluster = None;
        facts.endpoint = None;
        facts.grpc_status = None;
        self.open = true;
    }

    /// The facts so far.
    pub(super) fn facts(&mut self) -> &mut Facts {
        &mut self.facts
    }

    /// The request is over.
    pub(super) fn finish(&mut self, how: End<'_>) {
        if !std::mem::replace(&mut self.open, false) {
            return;
        }
        let facts = &mut self.facts;
        let mut trailers = None;
        match how {
            End::Complete(t) => trailers = t,
            End::Downstream => {
                facts.flags.add(ResponseFlag::DC);
                facts.details = Some(Cow::Borrowed("downstream_remote_disconnect"));
            }
            End::Reset => {
                facts.flags.add(ResponseFlag::DR);
                facts.details = Some(Cow::Borrowed("http2.remote_reset"));
            }
            End::Upstream(broke) => {
                let failure = Failure::of_body(broke);
                let why = failure.reason().map_or("", |(_, short)| short);
                facts.flags.add(failure.flag());
                let details = format!("upstream_reset_after_response_started{{{why}}}");
                facts.details = Some(Cow::Owned(details));
            }
            End::Timeout(timer) => {
                if let Some(flag) = timer.flag() {
                    facts.flags.add(flag);
                }
                facts.details = Some(Cow::Borrowed(timer.details()));
            }
        }
        facts.report(trailers);
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        self.finish(End::Downstream);
    }
}

impl Facts {
    /// The chain.
    pub(super) fn http(&self) -> &HttpChain {
        http_of(&self.chain)
    }

    /// What routes and formats look at.
    pub(super) fn as_request(&self) -> RequestHead<'_> {
        RequestHead {
            method: text(self.head.method()),
            path: text(self.head.path()),
            authority: text(self.head.authority()),
            scheme: self.head.get_str(FORWARDED_PROTO).unwrap_or(SCHEME),
            headers: &self.head,
        }
    }

    /// What header values are formatted from.
    pub(super) fn context(&self) -> FormatContext<'_> {
        let downstream = &self.connection.downstream;
        FormatContext {
            request: Some(self.as_request()),
            original_path: self.original_path.as_deref(),
            response_headers: self.status.map(|_| &self.response),
            start: Some(SystemTime::now() - self.started.elapsed()),
            protocol: Some(self.protocol),
            response_code: self.status.unwrap_or(0),
            flags: self.flags,
            response_code_details: self.details.as_deref(),
            upstream_transport_failure_reason: self.transport_reason.as_deref(),
            bytes_received: self.received,
            bytes_sent: self.sent,
            upstream_host: self.endpoint.as_ref().map(|e| &*e.text),
            upstream_cluster: self.cluster.as_ref().map(|c| &*c.name),
            downstream_local: Some(downstream.local),
            downstream_remote: Some(downstream.remote),
            route_name: self.route_name.as_deref(),
            peer_principal: downstream.principal.as_ref().map(|p| p.as_str()),
            local_principal: Some(self.connection.worker.local_principal()),
            ..FormatContext::default()
        }
    }

    fn report(&self, trailers: Option<&Head>) {
        let in_trailers = trailers.and_then(grpc_status);
        let duration = self.started.elapsed();
        let (http, telemetry) = (self.http(), self.connection.worker.telemetry());
        if !http.access_logs.is_empty() {
            let context = FormatContext {
                duration: Some(duration),
                response_trailers: trailers,
                ..self.context()
            };
            telemetry.log(&http.access_logs, &context);
        }
        let counts = telemetry::RequestCounts {
            facts: telemetry::Facts {
                cluster: self.cluster.as_deref().map(|cluster| &**cluster),
                endpoint: self.endpoint.as_deref().map(|endpoint| &**endpoint),
                peer: self.connection.downstream.principal.as_ref(),
            },
            code: self.status.unwrap_or(0),
            flags: self.flags,
            grpc: self.grpc,
            grpc_status: in_trailers.or(self.grpc_status),
            duration,
            received: self.received,
            sent: self.sent,
        };
        telemetry.request(http, &self.connection.stats.borrow(), &counts);
    }
}

/// What routes and logs see of a part; no route names one that is no text.
fn text(part: Option<&[u8]>) -> &str {
    part.and_then(|part| std::str::from_utf8(part).ok())
        .unwrap_or_default()
}

/// The HTTP chain in a chain that is known to be one.
pub(super) fn http_of(chain: &Chain) -> &HttpChain {
    match chain {
        Chain::Http(http) => http,
        Chain::Tcp(_) => unreachable!("a request is only served by an HTTP chain"),
    }
}

/// The gRPC status among headers or trailers.
pub(super) fn grpc_status(head: &Head) -> Option<u32> {
    head.get_str(GRPC_STATUS)?.parse().ok()
}
