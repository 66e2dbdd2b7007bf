//! One request, from its head to the response's head. Spec: l7-semantics.md 1.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use bytes::Bytes;
use http::header::{CONNECTION, HOST, UPGRADE};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Version};
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;

use super::HttpConnection;
use super::body::{BodyEnd, DownstreamBody, Trailers, Watch};
use super::exchange::{Exchange, Facts, Head, grpc_status, http_of};
use super::filters::{self, Memory};
use super::forward::{Forwarded, Forwarding, UpstreamAnswer, response_edits};
use super::headers::{
    self, DECORATOR, SERVICE_TIME, Upgrade, finish_response, nominates_host, prepare_request,
    remove_from_request, remove_hop_by_hop,
};
use super::in_flight::InFlight;
use super::local_reply::LocalReply;
use super::path::{Normalized, normalize};
use super::upgrade;
use crate::program::{Chain, HttpChain, Underscores};
use crate::route::{Action, DirectResponse, Forward, HeaderOps, Redirect, Route, is_grpc};
use crate::telemetry::ResponseFlags;

/// Serves one request.
pub(super) async fn handle(
    connection: Rc<HttpConnection>,
    request: Request<Incoming>,
) -> Response<DownstreamBody> {
    let (chain, snapshot) = connection.chain();
    let (mut parts, body) = request.into_parts();
    let on_upgrade = parts.extensions.remove::<OnUpgrade>();
    let http2 = parts.version == Version::HTTP_2;
    let wish = if http2 {
        Upgrade::None
    } else {
        headers::upgrade(&parts.headers)
    };
    let admitted = admit(&mut parts, http_of(&chain));
    let mut exchange = begin(&connection, &chain, parts);
    let mut turn = Turn {
        memory: Memory::default(),
        route: None,
        decorator: None,
    };
    if let Err(reply) = admitted {
        return turn.local(exchange, reply, None);
    }

    let facts = exchange.facts();
    let worker = &connection.worker;
    prepare_request(
        &mut facts.head.headers,
        http_of(&chain),
        connection.downstream.local.port(),
        &worker.random,
    );
    let http = http_of(&chain);
    let route = http
        .routes
        .find(&facts.head.as_request(), &mut || worker.random.next());
    facts.route_name = route.map(|r| Arc::clone(&r.name));
    turn.route = route;
    turn.decorator = decorator(http, route, &mut facts.head.headers);
    if let Err(reply) = filters::on_request(facts, route, &mut turn.memory, &worker.random).await {
        return turn.local(exchange, reply, None);
    }
    let Some(route) = route else {
        return turn.local(exchange, LocalReply::no_route(), None);
    };
    let forward = match &route.action {
        Action::Direct(direct) => return turn.direct(exchange, direct),
        Action::Redirect(redirect) => return turn.redirect(exchange, redirect),
        Action::Forward(forward) => forward,
    };
    let upgrade = match allowed_upgrade(wish, on_upgrade, http, forward) {
        Ok(upgrade) => upgrade,
        Err(reply) => return turn.local(exchange, reply, None),
    };
    let asked_for_upgrade = upgrade.is_some();
    let forwarding = Forwarding {
        worker,
        snapshot: &snapshot,
        route,
        forward,
        upgrade,
        downstream_http2: http2,
    };
    let destination = forward.pick(worker.random.next());
    let edits = response_edits(destination, forward).map(|e| &e.response);
    let forwarded = Box::pin(forwarding.run(exchange.facts(), destination, body)).await;
    match forwarded {
        Forwarded::Local(reply) => turn.local(exchange, reply, edits),
        Forwarded::Upstream(answer) => {
            let swallow = asked_for_upgrade && answer.response.status().is_success();
            turn.relay(exchange, *answer, edits, http2, swallow)
        }
        Forwarded::Switched(answer, downstream, upstream) => {
            turn.switch(exchange, *answer, edits, downstream, upstream)
        }
    }
}

/// What is refused before anything else looks at it, and what the path becomes.
fn admit(parts: &mut Parts, chain: &HttpChain) -> Result<(), LocalReply> {
    let codec_error = |status: StatusCode, details| {
        let body = status.canonical_reason().unwrap_or_default();
        let reply = LocalReply::new(status, details).body(body);
        Err(reply.flag(crate::telemetry::ResponseFlag::DPE).close())
    };
    let plain = |status, details| Err(LocalReply::new(status, details).close());
    if matches!(parts.version, Version::HTTP_09 | Version::HTTP_10) && !chain.http1.accept_http10 {
        return codec_error(StatusCode::UPGRADE_REQUIRED, "low_version");
    }
    if parts.method == Method::CONNECT {
        return Err(LocalReply::no_route().close());
    }
    if nominates_host(&parts.headers) {
        return plain(StatusCode::BAD_REQUEST, "missing_host_header");
    }
    let mut hosts = parts.headers.get_all(HOST).iter();
    let (host, second) = (hosts.next().cloned(), hosts.next().is_some());
    if second {
        // Envoy joins them, and nobody downstream of it can know which one was meant.
        return codec_error(StatusCode::BAD_REQUEST, "http.invalid_authority");
    }
    if host.is_none() && parts.uri.authority().is_none() && parts.version != Version::HTTP_10 {
        return plain(StatusCode::BAD_REQUEST, "missing_host_header");
    }
    if host
        .as_ref()
        .is_some_and(|h| !is_valid_authority(h.as_bytes()))
    {
        return codec_error(StatusCode::BAD_REQUEST, "http.invalid_authority");
    }
    if parts.headers.len() > chain.max_headers as usize {
        return codec_error(
            StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            "http1.too_many_headers",
        );
    }
    match chain.underscores {
        Underscores::Allow => {}
        Underscores::Reject => {
            if parts.headers.keys().any(|name| name.as_str().contains('_')) {
                return codec_error(StatusCode::BAD_REQUEST, "http1.unexpected_underscore");
            }
        }
        Underscores::Drop => {
            let named: Vec<_> = parts
                .headers
                .keys()
                .filter(|n| n.as_str().contains('_'))
                .cloned()
                .collect();
            for name in named {
                parts.headers.remove(name);
            }
        }
    }
    let target = parts.uri.path_and_query().map_or("/", |p| p.as_str());
    if !target.starts_with('/') {
        return Err(LocalReply::new(
            StatusCode::NOT_FOUND,
            "absolute_path_rejected",
        ));
    }
    match normalize(target, &chain.path) {
        Normalized::Path(std::borrow::Cow::Borrowed(_)) => Ok(()),
        Normalized::Path(std::borrow::Cow::Owned(path)) => match path.parse() {
            Ok(path) => {
                let mut uri = std::mem::take(&mut parts.uri).into_parts();
                uri.path_and_query = Some(path);
                match http::Uri::from_parts(uri) {
                    Ok(uri) => {
                        parts.uri = uri;
                        Ok(())
                    }
                    Err(_) => plain(StatusCode::BAD_REQUEST, "path_normalization_failed"),
                }
            }
            Err(_) => plain(StatusCode::BAD_REQUEST, "path_normalization_failed"),
        },
        Normalized::Reject => plain(StatusCode::BAD_REQUEST, "path_normalization_failed"),
        Normalized::Redirect(path) => {
            let mut reply =
                LocalReply::new(StatusCode::TEMPORARY_REDIRECT, "path_normalization_failed");
            reply.location = HeaderValue::from_str(&path).ok();
            Err(reply)
        }
    }
}

fn is_valid_authority(host: &[u8]) -> bool {
    host.iter()
        .all(|b| b.is_ascii_alphanumeric() || b"-._~%!$&'()*+,;=:[]".contains(b))
}

fn begin(connection: &Rc<HttpConnection>, chain: &Arc<Chain>, parts: Parts) -> Exchange {
    let Parts {
        method,
        uri,
        version,
        mut headers,
        ..
    } = parts;
    let host = headers.get(HOST).cloned();
    let authority = match (uri.authority(), host) {
        (Some(authority), _) => authority.as_str().to_owned(),
        (None, Some(host)) => String::from_utf8_lossy(host.as_bytes()).into_owned(),
        (None, None) => String::new(),
    };
    remove_from_request(&mut headers, http_of(chain));
    let head = Head {
        method,
        path: uri.path_and_query().map_or("/", |p| p.as_str()).to_owned(),
        authority,
        headers,
        original_path: None,
    };
    Exchange::new(Facts {
        connection: Rc::clone(connection),
        chain: Arc::clone(chain),
        started: Instant::now(),
        started_wall: SystemTime::now(),
        grpc: is_grpc(&head.as_request()),
        head,
        protocol: match version {
            Version::HTTP_2 => "HTTP/2",
            Version::HTTP_10 => "HTTP/1.0",
            _ => "HTTP/1.1",
        },
        body: None,
        status: None,
        flags: ResponseFlags::none(),
        details: None,
        transport_reason: None,
        route_name: None,
        cluster: None,
        endpoint: None,
        bytes_sent: Rc::new(Cell::new(0)),
        response_headers: None,
        grpc_status: None,
    })
}

/// The upgrade that is passed on; one that is not allowed is refused.
fn allowed_upgrade(
    wish: Upgrade,
    on_upgrade: Option<OnUpgrade>,
    chain: &HttpChain,
    forward: &Forward,
) -> Result<Option<(Box<str>, OnUpgrade)>, LocalReply> {
    let Upgrade::To(protocol) = wish else {
        return Ok(None);
    };
    let of_chain = chain.upgrades.contains(&protocol);
    match on_upgrade {
        Some(on_upgrade) if forward.allows_upgrade(&protocol, of_chain) => {
            Ok(Some((protocol, on_upgrade)))
        }
        Some(_) | None => Err(LocalReply::new(StatusCode::FORBIDDEN, "upgrade_failed").close()),
    }
}

/// The name of the operation for the response, where there is tracing. A client that names it itself gets none.
fn decorator(
    chain: &HttpChain,
    route: Option<&Route>,
    request: &mut HeaderMap,
) -> Option<HeaderValue> {
    if !chain.tracing {
        return None;
    }
    if request.remove(&DECORATOR).is_some() {
        return None;
    }
    route
        .and_then(|r| r.decorator.as_deref())
        .and_then(|name| HeaderValue::from_str(name).ok())
}

/// What is known of a request when its response is made.
struct Turn<'a> {
    memory: Memory,
    route: Option<&'a Route>,
    decorator: Option<HeaderValue>,
}

impl Turn<'_> {
    fn local(
        &self,
        exchange: Exchange,
        reply: LocalReply,
        edits: Option<&HeaderOps>,
    ) -> Response<DownstreamBody> {
        self.own(exchange, reply, edits, HeaderMap::new(), None)
    }

    fn direct(&self, exchange: Exchange, direct: &DirectResponse) -> Response<DownstreamBody> {
        let reply = LocalReply::new(direct.status, "direct_response");
        let body = direct.body.clone();
        self.own(
            exchange,
            reply,
            Some(&direct.response_headers),
            HeaderMap::new(),
            Some(body),
        )
    }

    fn redirect(&self, mut exchange: Exchange, redirect: &Redirect) -> Response<DownstreamBody> {
        let mut reply = LocalReply::new(redirect.status, "direct_response");
        if let Some(route) = self.route {
            let location =
                redirect.location(&route.matches.path, &exchange.facts().head.as_request());
            reply.location = HeaderValue::from_str(&location).ok();
        }
        self.own(
            exchange,
            reply,
            Some(&redirect.response_headers),
            HeaderMap::new(),
            None,
        )
    }

    /// A response of our own: first the route's header operations, then ours.
    fn own(
        &self,
        mut exchange: Exchange,
        reply: LocalReply,
        edits: Option<&HeaderOps>,
        mut head: HeaderMap,
        body: Option<Bytes>,
    ) -> Response<DownstreamBody> {
        let facts = exchange.facts();
        if let Some(flag) = reply.flag {
            facts.flags.add(flag);
        }
        facts.details = Some(reply.details.to_string());
        let (mut response, own_body) = reply.response(facts.grpc, body);
        facts.status = Some(response.status());
        facts.grpc_status = grpc_status(response.headers());
        if let Some(edits) = edits {
            edits.apply(&mut head, &facts.context());
        }
        // What an operation says about a header of ours counts: ours are there only where it says nothing.
        for (name, value) in response.headers() {
            if !head.contains_key(name) {
                head.insert(name, value.clone());
            }
        }
        *response.headers_mut() = head;
        if reply.close {
            facts.connection.close_after_response();
        }
        self.finish(facts, response.headers_mut());
        let is_head = facts.head.method == Method::HEAD;
        facts
            .bytes_sent
            .set(if is_head { 0 } else { own_body.len() as u64 });
        exchange.finish(BodyEnd::Complete(None));
        response.map(|()| DownstreamBody::own(if is_head { Bytes::new() } else { own_body }))
    }

    fn relay(
        &self,
        mut exchange: Exchange,
        answer: UpstreamAnswer,
        edits: Option<&HeaderOps>,
        http2: bool,
        swallow: bool,
    ) -> Response<DownstreamBody> {
        let facts = exchange.facts();
        let UpstreamAnswer {
            response,
            in_flight,
            limit,
            waited,
            activity,
        } = answer;
        let (mut parts, body) = response.into_parts();
        remove_hop_by_hop(&mut parts.headers);
        self.upstream_headers(facts, &mut parts.headers, parts.status, waited, edits);
        let mut response = Response::new(());
        *response.status_mut() = parts.status;
        *response.headers_mut() = parts.headers;
        if swallow {
            // The client asked for an upgrade and the upstream did not switch: what it sent instead is not HTTP's any more.
            facts.details = Some("websocket_handshake_unsuccessful".to_owned());
            response.headers_mut().remove(http::header::CONTENT_LENGTH);
            exchange.finish(BodyEnd::Complete(None));
            return response.map(|()| DownstreamBody::own(Bytes::new()));
        }
        let bytes = Rc::clone(&facts.bytes_sent);
        let trailers = if http2 {
            Trailers::Forward
        } else {
            Trailers::Drop
        };
        let watch = Box::new(InFlightExchange {
            exchange,
            in_flight,
        });
        response.map(|()| DownstreamBody::relayed(body, trailers, limit, watch, bytes, activity))
    }

    fn switch(
        &self,
        mut exchange: Exchange,
        answer: UpstreamAnswer,
        edits: Option<&HeaderOps>,
        downstream: OnUpgrade,
        upstream: OnUpgrade,
    ) -> Response<DownstreamBody> {
        let facts = exchange.facts();
        let (mut parts, _) = answer.response.into_parts();
        let protocol = parts.headers.get(UPGRADE).cloned();
        remove_hop_by_hop(&mut parts.headers);
        self.upstream_headers(
            facts,
            &mut parts.headers,
            parts.status,
            answer.waited,
            edits,
        );
        parts
            .headers
            .insert(CONNECTION, HeaderValue::from_static("upgrade"));
        if let Some(protocol) = protocol {
            parts.headers.insert(UPGRADE, protocol);
        }
        let mut response = Response::new(());
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        *response.headers_mut() = parts.headers;
        let bytes = Rc::clone(&facts.bytes_sent);
        let worker = Rc::clone(&facts.connection.worker);
        worker.spawn(
            "upgraded",
            upgrade::relay(downstream, upstream, bytes, exchange, answer.in_flight),
        );
        response.map(|()| DownstreamBody::own(Bytes::new()))
    }

    fn upstream_headers(
        &self,
        facts: &mut Facts,
        headers: &mut HeaderMap,
        status: StatusCode,
        waited: std::time::Duration,
        edits: Option<&HeaderOps>,
    ) {
        facts.status = Some(status);
        facts.details = Some("via_upstream".to_owned());
        facts.grpc_status = grpc_status(headers);
        if !facts.http().suppress_envoy_headers {
            let millis = u64::try_from(waited.as_millis()).unwrap_or(u64::MAX);
            headers.insert(SERVICE_TIME.clone(), HeaderValue::from(millis));
        }
        if !facts.http().access_logs.is_empty() {
            facts.response_headers = Some(headers.clone());
        }
        if let Some(edits) = edits.filter(|e| !e.is_empty()) {
            facts.response_headers = Some(headers.clone());
            edits.apply(headers, &facts.context());
        }
        self.finish(facts, headers);
    }

    /// What is done to every response: filters in reverse, then the headers that a proxy always writes.
    fn finish(&self, facts: &mut Facts, headers: &mut HeaderMap) {
        filters::on_response(facts, self.route, &self.memory, headers);
        if let Some(decorator) = &self.decorator {
            headers.insert(DECORATOR.clone(), decorator.clone());
        }
        if facts.http().request_id.in_response
            && let Some(id) = facts.head.headers.get(&headers::REQUEST_ID)
        {
            headers.insert(headers::REQUEST_ID.clone(), id.clone());
        }
        if facts.protocol != "HTTP/2" && facts.connection.is_ending() {
            headers.insert(CONNECTION, HeaderValue::from_static("close"));
        }
        finish_response(headers, facts.http());
        if !facts.http().access_logs.is_empty() {
            facts.response_headers = Some(headers.clone());
        }
    }
}

/// A response on its way, and what is released at its end.
struct InFlightExchange {
    exchange: Exchange,
    in_flight: InFlight,
}

impl Watch for InFlightExchange {
    fn ended(self: Box<Self>, how: BodyEnd<'_>) {
        let Self {
            exchange,
            in_flight,
        } = *self;
        if matches!(how, BodyEnd::Complete(_)) {
            in_flight.complete();
        }
        exchange.finish(how);
    }
}
