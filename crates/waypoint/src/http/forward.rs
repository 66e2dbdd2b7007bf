//! The router: a request goes to an endpoint of its cluster, and again to another one where the policy says so.

use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::header::{CONNECTION, CONTENT_LENGTH, EXPECT, HOST, UPGRADE};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, Uri, Version as HttpVersion};
use hyper::body::{Body as _, Incoming};
use hyper::upgrade::OnUpgrade;
use smallvec::SmallVec;
use tokio::time::{sleep, timeout};

use super::body::{Activity, Gate, Limit, RequestBody, Trailers, UpstreamBody};
use super::exchange::Facts;
use super::failure::{Failure, response_conditions};
use super::grpc_timeout;
use super::headers::{
    ATTEMPT_TIMEOUT_MS, GRPC_TIMEOUT, ORIGINAL_HOST, ORIGINAL_PATH, needs_zero_length,
};
use super::in_flight::{Counted, InFlight, Retrying};
use super::local_reply::LocalReply;
use super::timers::Timers;
use crate::cluster::{Acquired, ClusterRuntime, SendError, Version};
use crate::program::{Cluster, Endpoint, EndpointKind, Snapshot, Thresholds, UpstreamProtocol};
use crate::route::{Clusters, Destination, Forward, HeaderEdits, RetryPolicy, Route};
use crate::telemetry::ResponseFlag;
use crate::worker::Worker;

/// A request's body is kept for another attempt up to this many bytes. Spec: l7-semantics.md 7.2.
const RETRY_BUFFER_BYTES: usize = 1024 * 1024;
/// How long a client that asked for `100-continue` may be kept waiting by an upstream that says nothing.
const CONTINUE_PATIENCE: Duration = Duration::from_secs(1);
/// Connections that turn out to be closed before anything was sent on them are replaced without counting as attempts.
const MAX_STALE: u32 = 8;

/// Everything that one forwarded request needs.
pub(super) struct Forwarding<'a> {
    pub(super) worker: &'a Rc<Worker>,
    pub(super) snapshot: &'a Arc<Snapshot>,
    pub(super) route: &'a Route,
    pub(super) forward: &'a Forward,
    /// The upgrade that was asked for and allowed.
    pub(super) upgrade: Option<(Box<str>, OnUpgrade)>,
    pub(super) downstream_http2: bool,
}

/// The answer to a forwarded request, before filters have seen it.
pub(super) enum Forwarded {
    /// The upstream's.
    Upstream(Box<UpstreamAnswer>),
    /// The upstream switched protocols.
    Switched(Box<UpstreamAnswer>, OnUpgrade, OnUpgrade),
    /// Our own.
    Local(LocalReply),
}

/// A response with what is in flight behind it.
pub(super) struct UpstreamAnswer {
    pub(super) response: Response<Incoming>,
    pub(super) in_flight: InFlight,
    pub(super) limit: Option<Limit>,
    /// How long the upstream took to answer.
    pub(super) waited: Duration,
    pub(super) activity: Option<Activity>,
}

/// The edits that the route makes to responses, its own ones included.
pub(super) fn response_edits<'a>(
    destination: Option<&'a Destination>,
    forward: &'a Forward,
) -> Option<&'a HeaderEdits> {
    match (destination, &forward.clusters) {
        (Some(destination), _) => Some(&destination.headers),
        (None, Clusters::Header(_, edits)) => Some(edits),
        (None, Clusters::One(_) | Clusters::Weighted(_)) => None,
    }
}

impl Forwarding<'_> {
    /// Sends the request on its way.
    pub(super) async fn run(
        self,
        facts: &mut Facts,
        destination: Option<&Destination>,
        source: Incoming,
    ) -> Forwarded {
        let Some(cluster) = self.cluster(facts, destination) else {
            return Forwarded::Local(LocalReply::no_cluster(self.forward.cluster_not_found));
        };
        let config = cluster.config();
        facts.cluster = Some(Arc::clone(&config));
        let timers = self.timers(facts);
        self.edit_request(facts, destination, &timers);

        let activity = timers.activity();
        let keep = match &self.forward.retry {
            Some(policy) if policy.num_retries > 0 => self
                .forward
                .retry_buffer_bytes
                .map_or(RETRY_BUFFER_BYTES, |n| n as usize),
            Some(_) | None => 0,
        };
        let body = RequestBody::new(source, keep, activity.clone());
        facts.body = Some(body.clone());
        let mut limit = timers.start(&body, activity.as_ref());
        let attempts = Box::pin(self.attempts(facts, &cluster, &config, &body));
        let outcome = match &mut limit {
            None => attempts.await,
            Some(limit) => tokio::select! {
                biased;
                timer = limit => Err(Stopped::Reply(timer.reply(body.ended_at().is_some()))),
                outcome = attempts => outcome,
            },
        };
        match outcome {
            Err(Stopped::Reply(reply)) => {
                if reply.details == "response_timeout" {
                    config.stats.upstream_rq_timeout.inc();
                }
                Forwarded::Local(reply)
            }
            Err(Stopped::Failed(failure, retries)) => {
                facts.transport_reason = failure.transport_reason();
                Forwarded::Local(failure.reply(retries))
            }
            Ok(attempt) => self.answer(attempt, limit, body, activity),
        }
    }

    fn answer(
        mut self,
        attempt: Attempt,
        limit: Option<Limit>,
        body: RequestBody,
        activity: Option<Activity>,
    ) -> Forwarded {
        let Attempt {
            mut response,
            in_flight,
            sent_at,
        } = attempt;
        let switched = match self.upgrade.take() {
            Some((_, downstream)) if response.status() == StatusCode::SWITCHING_PROTOCOLS => {
                Some((downstream, hyper::upgrade::on(&mut response)))
            }
            Some(_) | None => None,
        };
        let answer = Box::new(UpstreamAnswer {
            response,
            in_flight,
            limit,
            // From when the request was complete, if that was later.
            waited: body
                .ended_at()
                .map_or(sent_at, |ended| ended.max(sent_at))
                .elapsed(),
            activity,
        });
        match switched {
            Some((downstream, upstream)) => Forwarded::Switched(answer, downstream, upstream),
            None => Forwarded::Upstream(answer),
        }
    }

    fn cluster(
        &self,
        facts: &Facts,
        destination: Option<&Destination>,
    ) -> Option<Rc<ClusterRuntime>> {
        let id = match (destination, &self.forward.clusters) {
            (Some(destination), _) => destination.cluster.id,
            (None, Clusters::Header(name, _)) => {
                let named = facts.head.headers.get(name)?.to_str().ok()?;
                self.snapshot.cluster_by_name(named)?.id
            }
            (None, Clusters::One(_) | Clusters::Weighted(_)) => return None,
        };
        self.worker
            .clusters
            .of(self.snapshot, id, &self.worker.random)
    }

    fn timers(&self, facts: &Facts) -> Timers {
        let of_route = &self.forward.timeouts;
        let of_chain = &facts.http().timeouts;
        let asked = facts.head.headers.get(&GRPC_TIMEOUT);
        let asked = asked.and_then(grpc_timeout::parse);
        let asked = asked.filter(|t| facts.grpc && !t.is_zero());
        let up_to = |max: Option<Duration>| match (asked, max) {
            (Some(asked), Some(max)) => Some(asked.min(max)),
            (asked, max) => asked.or(max),
        };
        let route = match of_route.grpc_max {
            Some(max) if facts.grpc => up_to(max),
            Some(_) | None => of_route.route,
        };
        let max_stream = match of_route.grpc_max_stream {
            Some(max) if asked.is_some() => up_to(max),
            Some(_) | None => of_route.max_stream.unwrap_or(of_chain.max_stream),
        };
        Timers {
            route: route.filter(|t| !t.is_zero()),
            max_stream,
            idle: of_route.idle.unwrap_or(of_chain.stream_idle),
            request: of_chain.request,
        }
    }

    /// Header operations, then path and host; they are the same for all attempts.
    fn edit_request(&self, facts: &mut Facts, destination: Option<&Destination>, timers: &Timers) {
        let suppress = facts.http().suppress_envoy_headers;
        if let Some(edits) = response_edits(destination, self.forward)
            && !edits.request.is_empty()
        {
            let mut headers = facts.head.headers.clone();
            edits.request.apply(&mut headers, &facts.context());
            facts.head.headers = headers;
        }
        let per_try = self.forward.retry.as_ref().and_then(|r| r.per_try_timeout);
        if let Some(expected) = per_try.or(timers.route) {
            if !suppress {
                let millis =
                    HeaderValue::from(u64::try_from(expected.as_millis()).unwrap_or(u64::MAX));
                facts
                    .head
                    .headers
                    .insert(ATTEMPT_TIMEOUT_MS.clone(), millis);
            }
            if facts.grpc {
                facts
                    .head
                    .headers
                    .insert(GRPC_TIMEOUT.clone(), grpc_timeout::format(expected));
            }
        }
        if self.forward.timeouts.grpc_max_stream.is_some()
            && facts.grpc
            && let (Some(max), Some(asked)) =
                (timers.max_stream, facts.head.headers.get_mut(&GRPC_TIMEOUT))
        {
            *asked = grpc_timeout::format(max);
        }
        if let Some(rewrite) = &self.forward.path_rewrite {
            let path = rewrite.apply(&self.route.matches.path, &facts.head.path);
            let old = std::mem::replace(&mut facts.head.path, path);
            if !suppress && let Ok(value) = HeaderValue::from_str(&old) {
                facts.head.headers.insert(ORIGINAL_PATH.clone(), value);
            }
            facts.head.original_path = Some(old);
        }
        let of_destination = destination.and_then(|d| d.host_rewrite.as_ref());
        for rewrite in [of_destination, self.forward.host_rewrite.as_ref()]
            .into_iter()
            .flatten()
        {
            if let Ok(host) = rewrite.to_str() {
                let old = std::mem::replace(&mut facts.head.authority, host.to_owned());
                if !suppress && let Ok(value) = HeaderValue::from_str(&old) {
                    facts.head.headers.insert(ORIGINAL_HOST.clone(), value);
                }
            }
        }
    }

    async fn attempts(
        &self,
        facts: &mut Facts,
        cluster: &ClusterRuntime,
        config: &Arc<Cluster>,
        body: &RequestBody,
    ) -> Result<Attempt, Stopped> {
        let policy = self.forward.retry.as_ref();
        let limits = cluster.thresholds(self.forward.high_priority);
        let original = facts.connection.downstream.local;
        let mut tried: SmallVec<[EndpointKind; 4]> = SmallVec::new();
        let mut retries = 0;
        let mut retrying: Option<Retrying> = None;
        loop {
            let avoid = policy.filter(|p| p.avoid_previous_hosts);
            let (avoided, reselections) = match avoid {
                Some(policy) => (&tried[..], policy.host_selection_attempts.max(1)),
                None => (&[][..], 0),
            };
            let Some(endpoint) = cluster.pick(original, avoided, reselections, &self.worker.random)
            else {
                config.stats.upstream_cx_none_healthy.inc();
                return Err(Stopped::Reply(LocalReply::no_healthy_upstream()));
            };
            tried.push(endpoint.kind);
            facts.endpoint = Some(Arc::clone(&endpoint));
            let outcome = self
                .attempt(facts, cluster, config, &limits, &endpoint, body, policy)
                .await;
            let conditions = match &outcome {
                Ok(attempt) => {
                    let codes = policy.map_or(&[][..], |p| &p.status_codes);
                    response_conditions(
                        attempt.response.status(),
                        attempt.response.headers(),
                        codes,
                    )
                }
                Err(failure) => failure.conditions(),
            };
            let Some(policy) = policy.filter(|p| p.on.intersects(conditions) && body.can_repeat())
            else {
                if retries > 0 && outcome.is_ok() {
                    config.stats.upstream_rq_retry_success.inc();
                }
                drop(retrying);
                return outcome.map_err(|failure| stopped(facts, failure, retries));
            };
            if retries >= policy.num_retries {
                if retries > 0 {
                    config.stats.upstream_rq_retry_limit_exceeded.inc();
                    facts.flags.add(ResponseFlag::URX);
                }
                return outcome.map_err(|failure| stopped(facts, failure, retries));
            }
            if retrying.is_none() {
                retrying = Retrying::begin(config, &limits);
                if retrying.is_none() {
                    config.stats.upstream_rq_retry_overflow.inc();
                    facts.flags.add(ResponseFlag::UO);
                    return outcome.map_err(|failure| stopped(facts, failure, retries));
                }
            }
            if let Ok(attempt) = outcome
                && attempt.response.body().is_end_stream()
            {
                attempt.in_flight.complete();
            } // else the response is not wanted: it is reset
            retries += 1;
            config.stats.upstream_rq_retry.inc();
            config.stats.upstream_rq_retry_backoff_exponential.inc();
            sleep(policy.back_off.wait(retries, self.worker.random.next())).await;
        }
    }

    #[expect(
        clippy::too_many_arguments,
        reason = "one attempt needs all that its request has"
    )]
    async fn attempt(
        &self,
        facts: &Facts,
        cluster: &ClusterRuntime,
        config: &Arc<Cluster>,
        limits: &Thresholds,
        endpoint: &Arc<Endpoint>,
        body: &RequestBody,
        policy: Option<&RetryPolicy>,
    ) -> Result<Attempt, Failure> {
        if config.stats.upstream_rq_active.value() >= i64::from(limits.max_requests) {
            config.stats.upstream_rq_pending_overflow.inc();
            return Err(Failure::Overflow);
        }
        let version = match (config.protocol, self.downstream_http2) {
            _ if self.upgrade.is_some() => Version::Http1,
            (UpstreamProtocol::Http1, _) | (UpstreamProtocol::Downstream, false) => Version::Http1,
            (UpstreamProtocol::Http2, _) | (UpstreamProtocol::Downstream, true) => Version::Http2,
        };
        let mut counted = Counted::begin(config, endpoint);
        let sent_at = Instant::now();
        let send = self.send(facts, cluster, config, limits, endpoint, body, version);
        let sent = match policy.and_then(|p| p.per_try_timeout) {
            None => send.await,
            Some(limit) => {
                let ended = body.ended();
                tokio::select! {
                    biased;
                    sent = send => sent,
                    () = async { ended.await; sleep(limit).await; } => {
                        config.stats.upstream_rq_per_try_timeout.inc();
                        endpoint.stats.rq_timeout.inc();
                        Err(Failure::PerTryTimeout)
                    }
                }
            }
        };
        match sent {
            Ok((response, acquired)) => {
                counted.note_status(response.status());
                let in_flight = InFlight::new(counted, acquired);
                Ok(Attempt {
                    response,
                    in_flight,
                    sent_at,
                })
            }
            Err(failure) => {
                counted.note_failure(&failure);
                Err(failure)
            }
        }
    }

    #[expect(clippy::too_many_arguments, reason = "as `attempt`")]
    async fn send(
        &self,
        facts: &Facts,
        cluster: &ClusterRuntime,
        config: &Arc<Cluster>,
        limits: &Thresholds,
        endpoint: &Arc<Endpoint>,
        body: &RequestBody,
        version: Version,
    ) -> Result<(Response<Incoming>, Acquired), Failure> {
        let pool = cluster.pool(endpoint);
        let tunnel = self.snapshot.tunnel.as_ref();
        let gate = self.gate(facts, version, body);
        let mut request = self.request(facts, body, version, gate.clone())?;
        let mut stale = 0;
        loop {
            let mut acquired = pool
                .acquire(config, version, limits, tunnel, &self.worker.means)
                .await?;
            let result = match &gate {
                None => acquired.send(request).await,
                Some(gate) => {
                    let sending = acquired.send(request);
                    tokio::pin!(sending);
                    match timeout(CONTINUE_PATIENCE, &mut sending).await {
                        Ok(result) => result,
                        Err(_) => {
                            gate.open();
                            sending.await
                        }
                    }
                }
            };
            match result {
                Ok(response) => return Ok((response, acquired)),
                Err(SendError::NotSent(unsent)) if stale < MAX_STALE => {
                    stale += 1;
                    request = *unsent;
                }
                Err(SendError::NotSent(_)) => return Err(Failure::Closed),
                Err(SendError::Failed(e)) => return Err(Failure::of_sent(&e, body.is_broken())),
            }
        }
    }

    /// Where the client waits for a 100, the body waits for the upstream's.
    fn gate(&self, facts: &Facts, version: Version, body: &RequestBody) -> Option<Arc<Gate>> {
        let expects = facts.head.headers.get(EXPECT)?;
        let asked = expects.as_bytes().eq_ignore_ascii_case(b"100-continue");
        let relays =
            facts.http().relay_100_continue && version == Version::Http1 && !body.is_empty();
        (asked && relays).then(Arc::default)
    }

    fn request(
        &self,
        facts: &Facts,
        body: &RequestBody,
        version: Version,
        gate: Option<Arc<Gate>>,
    ) -> Result<Request<UpstreamBody>, Failure> {
        let head = &facts.head;
        let bad = |_| Failure::Protocol;
        let trailers = match version {
            Version::Http1 => Trailers::Drop,
            Version::Http2 => Trailers::Forward,
        };
        let informational = gate.clone();
        let mut request = Request::new(body.attempt(trailers, gate));
        *request.method_mut() = head.method.clone();
        let mut headers;
        match version {
            Version::Http1 => {
                *request.uri_mut() = head.path.parse::<Uri>().map_err(bad)?;
                headers = HeaderMap::with_capacity(head.headers.len() + 4);
                if !head.authority.is_empty() {
                    let host =
                        HeaderValue::from_str(&head.authority).map_err(|_| Failure::Protocol)?;
                    headers.insert(HOST, host); // first, where everybody expects it
                }
                for (name, value) in &head.headers {
                    headers.append(name, value.clone());
                }
                if body.is_empty() && needs_zero_length(&head.method, &headers) {
                    headers.insert(CONTENT_LENGTH, HeaderValue::from_static("0"));
                }
                if let Some((to, _)) = &self.upgrade
                    && let Ok(to) = HeaderValue::from_str(to)
                {
                    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
                    headers.insert(UPGRADE, to);
                }
            }
            Version::Http2 => {
                headers = head.headers.clone();
                let uri = Uri::builder()
                    .scheme("http")
                    .authority(head.authority.as_str())
                    .path_and_query(head.path.as_str());
                *request.uri_mut() = uri.build().map_err(|_| Failure::Protocol)?;
                *request.version_mut() = HttpVersion::HTTP_2;
            }
        }
        *request.headers_mut() = headers;
        if let Some(gate) = informational {
            hyper::ext::on_informational(&mut request, move |response| {
                if response.status() == StatusCode::CONTINUE {
                    gate.open();
                }
            });
        }
        Ok(request)
    }
}

fn stopped(facts: &mut Facts, failure: Failure, retries: u32) -> Stopped {
    facts.transport_reason = failure.transport_reason();
    Stopped::Failed(failure, retries)
}

enum Stopped {
    Reply(LocalReply),
    Failed(Failure, u32),
}

struct Attempt {
    response: Response<Incoming>,
    in_flight: InFlight,
    sent_at: Instant,
}
