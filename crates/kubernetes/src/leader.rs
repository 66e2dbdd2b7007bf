//! Leader election by a Lease of `coordination.k8s.io`, with client-go's rules: of the replicas of a control plane one
//! writes, and the others take over when it has gone silent.
//!
//! ```text
//!             the lease is free, over, or ours               renewed
//! follower ------------------------------------> leader <-------------+
//!    ^                                             |  |               |
//!    |   another holds it, or not renewed for      |  +---- every retry period
//!    +---------- the renew deadline ---------------+
//! ```
//! Whether a lease is over is judged by how long *this* process has seen it unchanged: the clocks of others are not
//! believed. Every write names the version that was read, so that of two who want it one gets it.
//! Spec: kubernetes: staging/src/k8s.io/client-go/tools/leaderelection; durations: control-plane.md 14.3.

use std::sync::Arc;
use std::time::{Duration, Instant};

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, ObjectMeta, PostParams};
use kube::{Client, ResourceExt};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};
use waymark_rt::{Clock, Shutdown};

/// Which lease, and how long things last.
#[derive(Debug, Clone)]
pub struct LeaseOptions {
    /// The Lease's namespace.
    pub namespace: String,
    /// The Lease's name.
    pub name: String,
    /// Who this is: the pod's name.
    pub identity: String,
    /// How long a leader that has gone silent is waited for.
    pub duration: Duration,
    /// How long a leader goes on that cannot renew.
    pub renew_deadline: Duration,
    /// How often it is tried.
    pub retry_period: Duration,
}

impl LeaseOptions {
    /// With upstream's durations.
    pub fn new(namespace: &str, name: &str, identity: &str) -> Self {
        Self {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            identity: identity.to_owned(),
            duration: Duration::from_secs(30),
            renew_deadline: Duration::from_secs(15),
            retry_period: Duration::from_millis(7500),
        }
    }
}

/// Whether this replica leads, now and from now on. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Leadership {
    terms: watch::Receiver<Option<Term>>,
}

/// A time as the leader.
#[derive(Debug, Clone)]
pub struct Term {
    over: CancellationToken,
}

impl Term {
    fn begin() -> Self {
        Self {
            over: CancellationToken::new(),
        }
    }

    /// A term that ends when the caller says so, for writers that need no election.
    pub fn until(over: CancellationToken) -> Self {
        Self { over }
    }

    /// Resolves when this replica may write no more.
    ///
    /// # Cancel safety
    /// Can be dropped and called again.
    pub async fn over(&self) {
        self.over.cancelled().await;
    }

    /// Whether this replica may write no more.
    pub fn is_over(&self) -> bool {
        self.over.is_cancelled()
    }
}

impl Leadership {
    /// Whether this replica leads.
    pub fn is_leader(&self) -> bool {
        self.terms.borrow().as_ref().is_some_and(|t| !t.is_over())
    }

    /// Waits until this replica leads. `None` when it never will again.
    ///
    /// # Cancel safety
    /// Can be dropped and called again.
    pub async fn term(&mut self) -> Option<Term> {
        let live = |term: &Option<Term>| term.as_ref().is_some_and(|t| !t.is_over());
        self.terms.wait_for(live).await.ok()?.clone()
    }

    /// Does `work` in every term, from its begin until it ends: whatever it is doing then is dropped.
    pub async fn lead<F: Future<Output = ()>>(mut self, mut work: impl FnMut(Term) -> F) {
        while let Some(term) = self.term().await {
            tokio::select! {
                biased;
                () = term.over() => {}
                () = work(term.clone()) => term.over().await,
            }
        }
    }
}

/// Takes part in the election until the drain begins; then the lease is given back, so that the next leader need not wait.
///
/// The future is the taking part; it has to be polled.
pub fn elect(
    client: Client,
    options: LeaseOptions,
    clock: Arc<dyn Clock>,
    shutdown: Shutdown,
) -> (Leadership, impl Future<Output = ()> + Send) {
    let (terms, watched) = watch::channel(None);
    let api = Api::namespaced(client, &options.namespace);
    let candidate = Candidate {
        api,
        elector: Elector::new(&options),
        options,
        clock,
        terms,
    };
    (Leadership { terms: watched }, candidate.run(shutdown))
}

struct Candidate {
    api: Api<Lease>,
    elector: Elector,
    options: LeaseOptions,
    clock: Arc<dyn Clock>,
    terms: watch::Sender<Option<Term>>,
}

impl Candidate {
    async fn run(mut self, shutdown: Shutdown) {
        let mut renewed = self.clock.now();
        loop {
            // Bounds a request that hangs: a leader must know in time that it is none any more.
            let budget = self.left(renewed);
            let attempt = timeout(budget, self.attempt());
            let held = tokio::select! {
                biased;
                () = shutdown.draining() => break,
                held = attempt => held.unwrap_or(Held::Unknown),
            };
            let now = self.clock.now();
            match held {
                Held::ByUs => {
                    renewed = now;
                    self.begin();
                }
                Held::ByAnother => self.end("another replica holds the lease"),
                Held::Unknown if now.duration_since(renewed) >= self.options.renew_deadline => {
                    self.end("the lease could not be renewed in time");
                }
                Held::Unknown => {}
            }
            let wait = self.pause(renewed);
            tokio::select! {
                biased;
                () = shutdown.draining() => break,
                () = sleep(wait) => {}
            }
        }
        self.end("this replica ends");
        self.release().await;
    }

    /// Until the next attempt; a leader in trouble does not sleep past its deadline.
    fn pause(&self, renewed: Instant) -> Duration {
        if self.leads() {
            self.options.retry_period.min(self.left(renewed))
        } else {
            // Spread, so that the followers do not all ask at once.
            self.options
                .retry_period
                .mul_f64(1.0 + JITTER * rand::random::<f64>())
        }
    }

    /// How long a leader has until it must have renewed; for followers, how long an attempt may take.
    fn left(&self, renewed: Instant) -> Duration {
        if !self.leads() {
            return self.options.renew_deadline;
        }
        (renewed + self.options.renew_deadline)
            .saturating_duration_since(self.clock.now())
            .max(MIN_PAUSE)
    }

    fn leads(&self) -> bool {
        self.terms.borrow().as_ref().is_some_and(|t| !t.is_over())
    }

    fn begin(&self) {
        if !self.leads() {
            info!(
                lease = self.options.name,
                identity = self.options.identity,
                "leads"
            );
            self.terms.send_replace(Some(Term::begin()));
        }
    }

    fn end(&self, why: &'static str) {
        if let Some(term) = self.terms.borrow().as_ref().filter(|t| !t.is_over()) {
            warn!(lease = self.options.name, why, "leads no more");
            term.over.cancel();
        }
        self.terms.send_replace(None);
    }

    async fn attempt(&mut self) -> Held {
        match self.try_attempt().await {
            Ok(held) => held,
            Err(error) if is_conflict(&error) => {
                debug!(lease = self.options.name, "another replica was quicker");
                Held::Unknown
            }
            Err(error) => {
                warn!(lease = self.options.name, %error, "lease cannot be read or written");
                Held::Unknown
            }
        }
    }

    async fn try_attempt(&mut self) -> Result<Held, kube::Error> {
        let found = self.api.get_opt(&self.options.name).await?;
        let record = found.as_ref().and_then(|lease| lease.spec.clone());
        let Some(spec) = self.elector.decide(record.as_ref(), self.clock.now()) else {
            return Ok(Held::ByAnother);
        };
        let mut lease = found.unwrap_or_else(|| Lease {
            metadata: ObjectMeta {
                name: Some(self.options.name.clone()),
                namespace: Some(self.options.namespace.clone()),
                ..ObjectMeta::default()
            },
            spec: None,
        });
        lease.spec = Some(spec);
        let written = if lease.resource_version().is_some() {
            let name = &self.options.name;
            self.api
                .replace(name, &PostParams::default(), &lease)
                .await?
        } else {
            self.api.create(&PostParams::default(), &lease).await?
        };
        self.elector
            .observe(written.spec.as_ref(), self.clock.now());
        Ok(Held::ByUs)
    }

    /// Gives the lease back, if it is ours.
    async fn release(&self) {
        let release = async {
            let Some(mut lease) = self.api.get_opt(&self.options.name).await? else {
                return Ok(());
            };
            let Some(spec) = lease.spec.as_mut() else {
                return Ok(());
            };
            if spec.holder_identity.as_deref() != Some(&self.options.identity) {
                return Ok(());
            }
            spec.holder_identity = Some(String::new());
            spec.lease_duration_seconds = Some(1);
            spec.renew_time = Some(MicroTime(Timestamp::now()));
            let name = &self.options.name;
            self.api
                .replace(name, &PostParams::default(), &lease)
                .await
                .map(drop)
        };
        match timeout(RELEASE, release).await {
            Ok(Ok(())) => debug!(lease = self.options.name, "lease given back"),
            Ok(Err(error)) => debug!(%error, "lease is not given back"),
            Err(_) => debug!("lease is not given back in time"),
        }
    }
}

/// Who holds the lease after an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Held {
    ByUs,
    ByAnother,
    Unknown,
}

/// The decision, without I/O.
#[derive(Debug)]
struct Elector {
    identity: String,
    duration: Duration,
    /// The last record that was different, and when it was first seen.
    observed: Option<(LeaseSpec, Instant)>,
}

impl Elector {
    fn new(options: &LeaseOptions) -> Self {
        Self {
            identity: options.identity.clone(),
            duration: options.duration,
            observed: None,
        }
    }

    fn observe(&mut self, record: Option<&LeaseSpec>, now: Instant) {
        let seen = self.observed.as_ref().map(|(record, _)| record);
        if seen != record {
            self.observed = record.map(|record| (record.clone(), now));
        }
    }

    /// What is to be written to have the lease; `None` while another has it.
    fn decide(&mut self, record: Option<&LeaseSpec>, now: Instant) -> Option<LeaseSpec> {
        self.observe(record, now);
        let holder = record.and_then(|record| record.holder_identity.as_deref());
        let ours = holder == Some(&self.identity);
        let free = holder.is_none_or(str::is_empty);
        let over = self
            .observed
            .as_ref()
            .is_none_or(|(record, since)| now.duration_since(*since) >= self.lasts(record));
        if !ours && !free && !over {
            return None;
        }
        let time = MicroTime(Timestamp::now());
        let transitions = record.and_then(|r| r.lease_transitions).unwrap_or(0);
        let seconds = self.duration.as_secs_f64().ceil();
        Some(LeaseSpec {
            holder_identity: Some(self.identity.clone()),
            // At least a second, the unit of the field.
            lease_duration_seconds: Some((seconds as i32).max(1)),
            acquire_time: if ours {
                record.and_then(|record| record.acquire_time.clone())
            } else {
                Some(time.clone())
            },
            renew_time: Some(time),
            lease_transitions: Some(if ours || record.is_none() {
                transitions
            } else {
                transitions.saturating_add(1)
            }),
            ..LeaseSpec::default()
        })
    }

    /// How long a record is in force: what its holder promised, if that is longer than what we would wait.
    fn lasts(&self, record: &LeaseSpec) -> Duration {
        let promised = record
            .lease_duration_seconds
            .and_then(|seconds| u64::try_from(seconds).ok())
            .map_or(Duration::ZERO, Duration::from_secs);
        self.duration.max(promised)
    }
}

pub(crate) fn is_conflict(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 409)
}

/// Spec: client-go, `JitterFactor`.
const JITTER: f64 = 1.2;
const MIN_PAUSE: Duration = Duration::from_millis(50);
/// How long the end of a replica waits for its last word.
const RELEASE: Duration = Duration::from_secs(2);

#[cfg(test)]
mod tests;
