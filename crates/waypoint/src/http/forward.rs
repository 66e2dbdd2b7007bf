//! The router: a request goes to an endpoint of its cluster, and again to another one where the policy says so.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use smallvec::SmallVec;
use waymark_driver::http1::Received;
use waymark_driver::{now, sleep};
use waymark_engine::http1::BodyLength;

use super::client::{Client, ClientBroke};
use super::exchange::Facts;
use super::failure::{Failure, response_conditions};
use super::in_flight::{Counted, InFlight, Retrying};
use super::local_reply::LocalReply;
use super::timers::{Running, Timer};
use super::upload::{Stuck, Upload};
use crate::cluster::{self as lease, Acquired, ClusterRuntime, Version};
use crate::near::Near;
use crate::program::{Cluster, Endpoint, EndpointKind, Snapshot, Thresholds, UpstreamProtocol};
use crate::route::{Forward, RetryPolicy};
use crate::telemetry::ResponseFlag;
use crate::worker::Worker;

/// Connections that turn out to be closed before anything was sent on them are replaced without counting as attempts.
const MAX_STALE: u32 = 8;

/// Everything that one forwarded request needs.
pub(super) struct Forwarding<'a, 'c> {
    pub(super) worker: &'a Rc<Worker>,
    pub(super) snapshot: &'a Snapshot,
    pub(super) forward: &'a Forward,
    pub(super) cluster: &'a ClusterRuntime,
    pub(super) config: &'a Near<Cluster>,
    pub(super) limits: Thresholds,
    /// The request is for an upgrade that is allowed.
    pub(super) upgrades: bool,
    pub(super) client: &'a mut Client<'c>,
    pub(super) facts: &'a mut Facts,
    pub(super) upload: &'a mut Upload,
    pub(super) running: &'a mut Running,
}

/// The answer to a forwarded request.
pub(super) enum Forwarded {
    /// The upstream's: its head is in the facts, before filters have seen it.
    Upstream(Answer),
    /// Our own.
    Local(LocalReply),
    /// Nobody is there any more who could be answered.
    ClientLeft,
}

/// An upstream's answer with what is in flight behind it.
pub(super) struct Answer {
    pub(super) in_flight: InFlight,
    /// How the response's body is framed.
    pub(super) length: BodyLength,
    /// How long the upstream took to answer.
    pub(super) waited: Duration,
}

/// What ends an attempt.
enum Ended {
    /// Response headers.
    Response(InFlight, Instant),
    /// No response; another attempt may fare better.
    Failed(Failure),
    /// There will be no other attempt.
    Stopped(Stop),
}

/// Why a request goes no further.
#[derive(Debug, Clone, Copy)]
enum Stop {
    Timer(Timer),
    Client(ClientBroke),
}

impl Forwarding<'_, '_> {
    /// Sends the request on its way until there is an answer.
    pub(super) async fn run(mut self) -> Forwarded {
        let policy = self.forward.retry.as_ref();
        let original = self.facts.connection.downstream.local;
        let mut tried: SmallVec<[EndpointKind; 4]> = SmallVec::new();
        let mut retries = 0;
        let mut retrying: Option<Retrying> = None;
        loop {
            let avoid = policy.filter(|p| p.avoid_previous_hosts);
            let (avoided, reselections) = match avoid {
                Some(policy) => (&tried[..], policy.host_selection_attempts.max(1)),
                None => (&[][..], 0),
            };
            let picked = self
                .cluster
                .pick(original, avoided, reselections, &self.worker.random);
            let Some(endpoint) = picked else {
                self.config.stats.upstream_cx_none_healthy.inc();
                return Forwarded::Local(LocalReply::no_healthy_upstream());
            };
            tried.push(endpoint.kind);
            self.facts.endpoint = Some(endpoint.clone());
            let ended = self.attempt(&endpoint, policy).await;
            self.facts.received = self.upload.bytes();
            let conditions = match &ended {
                Ended::Response(in_flight, _) => {
                    let codes = policy.map_or(&[][..], |p| &p.status_codes);
                    let head = in_flight.head();
                    response_conditions(head.status().unwrap_or(0), head, codes)
                }
                Ended::Failed(failure) => failure.conditions(),
                Ended::Stopped(stop) => return self.stopped(*stop),
            };
            let wanted = policy.filter(|p| p.on.intersects(conditions) && self.upload.can_repeat());
            let Some(policy) = wanted else {
                if retries > 0 && matches!(ended, Ended::Response(..)) {
                    self.config.stats.upstream_rq_retry_success.inc();
                }
                drop(retrying);
                return self.answer(ended, retries);
            };
            if retries >= policy.num_retries {
                if retries > 0 {
                    self.config.stats.upstream_rq_retry_limit_exceeded.inc();
                    self.facts.flags.add(ResponseFlag::URX);
                }
                return self.answer(ended, retries);
            }
            if retrying.is_none() {
                retrying = Retrying::begin(self.config, &self.limits);
                if retrying.is_none() {
                    self.config.stats.upstream_rq_retry_overflow.inc();
                    self.facts.flags.add(ResponseFlag::UO);
                    return self.answer(ended, retries);
                }
            }
            if let Ended::Response(in_flight, _) = ended {
                in_flight.unwanted();
            }
            retries += 1;
            self.config.stats.upstream_rq_retry.inc();
            self.config
                .stats
                .upstream_rq_retry_backoff_exponential
                .inc();
            let wait = policy.back_off.wait(retries, self.worker.random.next());
            self.running.attempt(None);
            if let Err(stop) = self.guarded(sleep(wait)).await {
                return self.stopped(stop);
            }
        }
    }

    /// What is made of the last attempt.
    fn answer(self, ended: Ended, retries: u32) -> Forwarded {
        match ended {
            Ended::Response(mut in_flight, sent_at) => {
                let length = in_flight.swap_head(&mut self.facts.response);
                // From when the request was complete, if that was later.
                let from = self
                    .running
                    .completed()
                    .map_or(sent_at, |complete| complete.max(sent_at));
                self.running.attempt(None);
                Forwarded::Upstream(Answer {
                    in_flight,
                    length,
                    waited: now() - from,
                })
            }
            Ended::Failed(failure) => {
                self.facts.transport_reason = failure.transport_reason();
                Forwarded::Local(failure.reply(retries))
            }
            Ended::Stopped(stop) => self.stopped(stop),
        }
    }

    fn stopped(&self, stop: Stop) -> Forwarded {
        match stop {
            Stop::Timer(timer) => {
                if timer == Timer::Route {
                    self.config.stats.upstream_rq_timeout.inc();
                }
                Forwarded::Local(timer.reply(self.upload.is_complete()))
            }
            Stop::Client(ClientBroke::Refused(refusal)) => {
                Forwarded::Local(LocalReply::refused(refusal))
            }
            Stop::Client(ClientBroke::Gone) => Forwarded::ClientLeft,
        }
    }

    async fn attempt(&mut self, endpoint: &Near<Endpoint>, policy: Option<&RetryPolicy>) -> Ended {
        let stats = &self.config.stats;
        if stats.upstream_rq_active.value() >= i64::from(self.limits.max_requests) {
            stats.upstream_rq_pending_overflow.inc();
            return Ended::Failed(Failure::Overflow);
        }
        let mut counted = Counted::begin(self.config, endpoint);
        self.running.attempt(policy.and_then(|p| p.per_try_timeout));
        let sent_at = now();
        let failure = match self.send(endpoint).await {
            Ok(acquired) => {
                counted.note_status(acquired.head().status().unwrap_or(0));
                return Ended::Response(InFlight::new(counted, acquired), sent_at);
            }
            Err(Unanswered::Failed(failure)) => failure,
            Err(Unanswered::Stopped(Stop::Timer(Timer::PerTry))) => {
                self.config.stats.upstream_rq_per_try_timeout.inc();
                endpoint.stats.rq_timeout.inc();
                Failure::PerTryTimeout
            }
            Err(Unanswered::Stopped(stop)) => return Ended::Stopped(stop),
        };
        counted.note_failure(&failure);
        Ended::Failed(failure)
    }

    /// Sends the request over a connection to the endpoint; response headers come back.
    async fn send(&mut self, endpoint: &Near<Endpoint>) -> Result<Acquired, Unanswered> {
        let pool = self.cluster.pool(endpoint);
        let version = self.version();
        let mut stale = 0;
        loop {
            let mut acquired = match pool.ready(self.config, version) {
                Some(ready) => ready,
                None => {
                    let (tunnel, limits) = (self.snapshot.tunnel.as_ref(), self.limits);
                    let originator = &self.worker.originator;
                    let acquiring = pool.acquire(self.config, version, &limits, tunnel, originator);
                    match self.guarded(acquiring).await {
                        Ok(acquired) => acquired.map_err(|e| Unanswered::Failed(e.into()))?,
                        Err(stop) => return Err(Unanswered::Stopped(stop)),
                    }
                }
            };
            let from_http2 = self.client.is_http2();
            let length = self.upload.length();
            let answered = match acquired.send(&mut self.facts.head, length, from_http2) {
                Ok(told) => {
                    self.upload.begin_attempt(told);
                    poll_fn(|cx| self.poll_response(&mut acquired, cx)).await
                }
                Err(lease::Unsent::Stale) => Err(Unsent::Stale),
                Err(lease::Unsent::Unwritable) => {
                    return Err(Unanswered::Failed(Failure::Protocol));
                }
            };
            match answered {
                Ok(()) => return Ok(acquired),
                Err(Unsent::Stale) if stale < MAX_STALE => stale += 1,
                Err(Unsent::Stale) => return Err(Unanswered::Failed(Failure::Closed)),
                Err(Unsent::Unanswered(unanswered)) => return Err(unanswered),
            }
        }
    }

    /// Passes the request on and waits for the response's headers; informational ones are passed on meanwhile.
    fn poll_response(
        &mut self,
        upstream: &mut Acquired,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), Unsent>> {
        let stopped = |stop| Poll::Ready(Err(Unsent::Unanswered(Unanswered::Stopped(stop))));
        if !self.upload.is_finished() {
            match self.upload.poll(self.client, upstream, self.running, cx) {
                Poll::Ready(Err(Stuck::NothingSent)) => return Poll::Ready(Err(Unsent::Stale)),
                Poll::Ready(Err(Stuck::Client(broke))) => return stopped(Stop::Client(broke)),
                Poll::Ready(Ok(())) | Poll::Pending => {}
            }
        }
        loop {
            match upstream.poll_response(cx) {
                Poll::Ready(Ok(Received::Response)) => return self.check_switch(upstream),
                Poll::Ready(Ok(Received::Informational)) => {
                    self.client.inform(upstream.head());
                    self.running.touch();
                }
                Poll::Ready(Err(broke)) => {
                    let failed = Unanswered::Failed(broke.into());
                    return Poll::Ready(Err(Unsent::Unanswered(failed)));
                }
                Poll::Pending => break,
            }
        }
        // If it fails, the client has left.
        if let Poll::Ready(Err(_)) = self.client.poll_drain(cx) {
            return stopped(Stop::Client(ClientBroke::Gone));
        }
        if self.upload.is_complete() && self.client.poll_left(cx).is_ready() {
            return stopped(Stop::Client(ClientBroke::Gone));
        }
        match self.running.poll(cx) {
            Poll::Ready(timer) => stopped(Stop::Timer(timer)),
            Poll::Pending => Poll::Pending,
        }
    }

    /// A switch of protocols amid the request is nothing that could be relayed.
    fn check_switch(&mut self, upstream: &Acquired) -> Poll<Result<(), Unsent>> {
        self.running.touch();
        let switches = upstream.head().status() == Some(101);
        if switches && !(self.upgrades && self.upload.is_finished()) {
            let failed = Unanswered::Failed(Failure::Protocol);
            return Poll::Ready(Err(Unsent::Unanswered(failed)));
        }
        Poll::Ready(Ok(()))
    }

    fn version(&self) -> Version {
        match (self.config.protocol, self.client.is_http2()) {
            _ if self.upgrades => Version::Http1,
            (UpstreamProtocol::Http1, _) | (UpstreamProtocol::Downstream, false) => Version::Http1,
            (UpstreamProtocol::Http2, _) | (UpstreamProtocol::Downstream, true) => Version::Http2,
        }
    }

    /// Waits for something, unless the client leaves or a timer runs out.
    async fn guarded<F: Future>(&mut self, what: F) -> Result<F::Output, Stop> {
        let mut what = pin!(what);
        let Self {
            client,
            running,
            upload,
            ..
        } = self;
        poll_fn(|cx| {
            if let Poll::Ready(output) = what.as_mut().poll(cx) {
                return Poll::Ready(Ok(output));
            }
            if client.is_complete() {
                running.complete();
            }
            let watched = upload.is_complete() || client.is_complete();
            if watched && client.poll_left(cx).is_ready() {
                return Poll::Ready(Err(Stop::Client(ClientBroke::Gone)));
            }
            running.poll(cx).map(|timer| Err(Stop::Timer(timer)))
        })
        .await
    }
}

/// Why there are no response headers.
enum Unanswered {
    Failed(Failure),
    Stopped(Stop),
}

/// As [`Unanswered`], or nothing of the request has left yet.
enum Unsent {
    Stale,
    Unanswered(Unanswered),
}
