//! One request and its response, as it is told to telemetry when it is over.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Instant, SystemTime};

use http::{HeaderMap, Method, StatusCode};

use super::HttpConnection;
use super::body::{BodyEnd, RequestBody};
use super::failure::Failure;
use super::headers::GRPC_STATUS;
use crate::program::{Chain, Cluster, Endpoint, HttpChain};
use crate::route::{FormatContext, RequestHead};
use crate::telemetry::{self, ResponseFlag, ResponseFlags};

/// A request's head, as it goes on.
#[derive(Debug)]
pub(super) struct Head {
    /// Method.
    pub(super) method: Method,
    /// Path and query.
    pub(super) path: String,
    /// `:authority` or `Host`.
    pub(super) authority: String,
    /// Everything else, `Host` left out.
    pub(super) headers: HeaderMap,
    /// The path before it was rewritten.
    pub(super) original_path: Option<String>,
}

/// The scheme of an inner connection: TLS is the tunnel's business.
const SCHEME: &str = "http";

impl Head {
    /// What routes and formats look at.
    pub(super) fn as_request(&self) -> RequestHead<'_> {
        let said = self.headers.get(&super::headers::FORWARDED_PROTO);
        RequestHead {
            method: &self.method,
            path: &self.path,
            authority: &self.authority,
            scheme: said.and_then(|v| v.to_str().ok()).unwrap_or(SCHEME),
            headers: &self.headers,
        }
    }
}

/// The facts of one request. Dropped before its response was complete, it is a request that the client gave up.
pub(super) struct Exchange {
    facts: Option<Box<Facts>>,
}

/// See [`Exchange`].
pub(super) struct Facts {
    pub(super) connection: Rc<HttpConnection>,
    /// Always [`Chain::Http`].
    pub(super) chain: Arc<Chain>,
    pub(super) started: Instant,
    pub(super) started_wall: SystemTime,
    pub(super) head: Head,
    pub(super) protocol: &'static str,
    pub(super) grpc: bool,
    pub(super) body: Option<RequestBody>,
    pub(super) status: Option<StatusCode>,
    pub(super) flags: ResponseFlags,
    pub(super) details: Option<String>,
    pub(super) transport_reason: Option<Arc<str>>,
    pub(super) route_name: Option<Arc<str>>,
    pub(super) cluster: Option<Arc<Cluster>>,
    pub(super) endpoint: Option<Arc<Endpoint>>,
    pub(super) bytes_sent: Rc<Cell<u64>>,
    /// Kept only where something formats them.
    pub(super) response_headers: Option<HeaderMap>,
    pub(super) grpc_status: Option<u32>,
}

impl Exchange {
    pub(super) fn new(facts: Facts) -> Self {
        Self {
            facts: Some(Box::new(facts)),
        }
    }

    /// The facts so far.
    pub(super) fn facts(&mut self) -> &mut Facts {
        self.facts
            .as_mut()
            .expect("they are there until the exchange is finished by value")
    }

    /// The request is over.
    pub(super) fn finish(mut self, how: BodyEnd<'_>) {
        let Some(mut facts) = self.facts.take() else {
            return;
        };
        let mut trailers = None;
        match how {
            BodyEnd::Complete(t) => trailers = t,
            BodyEnd::Downstream => {
                let connection = &facts.connection;
                let (flag, why) =
                    if facts.protocol == "HTTP/2" && !connection.gone.load(Ordering::Relaxed) {
                        (ResponseFlag::DR, "http2.remote_reset")
                    } else {
                        (ResponseFlag::DC, "downstream_remote_disconnect")
                    };
                facts.flags.add(flag);
                facts.details = Some(why.to_owned());
            }
            BodyEnd::Upstream(e) => {
                let failure = Failure::of_body(e);
                let why = failure.reason().map_or("", |(_, short)| short);
                facts.flags.add(failure.flag());
                facts.details = Some(format!("upstream_reset_after_response_started{{{why}}}"));
            }
            BodyEnd::Timeout(timer) => {
                if let Some(flag) = timer.flag() {
                    facts.flags.add(flag);
                }
                facts.details = Some(timer.to_string());
            }
        }
        facts.report(trailers);
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        if let Some(facts) = self.facts.take() {
            Exchange { facts: Some(facts) }.finish(BodyEnd::Downstream);
        }
    }
}

impl Facts {
    /// The chain.
    pub(super) fn http(&self) -> &HttpChain {
        http_of(&self.chain)
    }

    /// What header values are formatted from.
    pub(super) fn context(&self) -> FormatContext<'_> {
        let downstream = &self.connection.downstream;
        FormatContext {
            request: Some(self.head.as_request()),
            original_path: self.head.original_path.as_deref(),
            response_headers: self.response_headers.as_ref(),
            start: Some(self.started_wall),
            protocol: Some(self.protocol),
            response_code: self.status.map_or(0, |s| s.as_u16()),
            flags: self.flags,
            response_code_details: self.details.as_deref(),
            upstream_transport_failure_reason: self.transport_reason.as_deref(),
            bytes_received: self.body.as_ref().map_or(0, RequestBody::bytes),
            bytes_sent: self.bytes_sent.get(),
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

    fn report(&self, trailers: Option<&HeaderMap>) {
        let in_trailers = trailers.and_then(grpc_status);
        let context = FormatContext {
            duration: Some(self.started.elapsed()),
            response_trailers: trailers,
            ..self.context()
        };
        let about = telemetry::Facts {
            cluster: self.cluster.as_deref(),
            endpoint: self.endpoint.as_deref(),
            grpc_status: in_trailers.or(self.grpc_status),
        };
        let worker = &self.connection.worker;
        worker.telemetry().request(self.http(), &context, &about);
    }
}

/// The HTTP chain in a chain that is known to be one.
pub(super) fn http_of(chain: &Chain) -> &HttpChain {
    match chain {
        Chain::Http(http) => http,
        Chain::Tcp(_) => unreachable!("a request is only served by an HTTP chain"),
    }
}

/// The gRPC status among headers or trailers.
pub(super) fn grpc_status(headers: &HeaderMap) -> Option<u32> {
    headers.get(&GRPC_STATUS)?.to_str().ok()?.parse().ok()
}
