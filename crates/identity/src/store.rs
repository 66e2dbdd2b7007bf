//! The certificates that this process speaks with: fetched when they are first asked for, renewed before they end.
//!
//! ```text
//! Initializing --fetched--> Available --half of the lifetime--> (fetch) --fetched--> Available
//!      |                        |                                  | failed: the old one stays, retry with back-off
//!      | failed                 +-- ended without a new one --> Unavailable --fetched--> Available
//!      +--> Unavailable (retry with back-off)
//! ```

mod handle;

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, SystemTime};

use futures_util::future::BoxFuture;
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio::task::AbortHandle;
use tracing::{debug, info, warn};
use waymark_rt::{Clock, SystemClock, Tasks};

pub use self::handle::{CertHandle, CertState, CertStatus, CertSummary, Unavailable, rfc3339};
use crate::ca::{Ca, SignError};
use crate::credentials::{Credentials, KeyExport};
use crate::csr::{Csr, CsrError};
use crate::roots::Roots;
use crate::spiffe::SpiffeId;

/// Who signs certificate requests: the control plane's CA over the wire, or a [`Ca`] in this process.
pub trait CertSource: Send + Sync + fmt::Debug {
    /// Has a PEM request signed for an identity.
    ///
    /// The answer is the list that the CA's API gives: leaf, intermediates, all roots in the last element.
    fn sign<'a>(
        &'a self,
        identity: &'a SpiffeId,
        csr_pem: &'a str,
    ) -> BoxFuture<'a, Result<Vec<String>, FetchError>>;
}

/// Certificates of many identities. Dropping it ends the renewals; handles keep what they have.
pub struct CertStore {
    shared: Arc<Shared>,
    entries: RwLock<HashMap<SpiffeId, Entered>>,
    tasks: Tasks,
    /// Where the tasks run: who asks for a certificate may be on a thread without a runtime.
    runtime: Handle,
}

struct Entered {
    handle: CertHandle,
    renewal: AbortHandle,
}

impl CertStore {
    /// A store without certificates.
    ///
    /// # Panics
    /// Outside a tokio runtime: certificates are fetched there.
    pub fn new(source: Arc<dyn CertSource>, options: StoreOptions) -> Self {
        let shared = Shared {
            source,
            roots: Mutex::default(),
            first: Semaphore::new(CONCURRENT_FIRST),
            renewals: Semaphore::new(CONCURRENT_RENEWALS),
            options,
        };
        Self {
            shared: Arc::new(shared),
            entries: RwLock::default(),
            tasks: Tasks::new(),
            runtime: Handle::current(),
        }
    }

    /// The handle of an identity. The first call starts fetching its certificate; however many ask, it is fetched once.
    pub fn handle(&self, identity: &SpiffeId) -> CertHandle {
        if let Some(known) = self.known(identity) {
            return known;
        }
        match self
            .entries
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .entry(identity.clone())
        {
            Entry::Occupied(entry) => entry.get().handle.clone(),
            Entry::Vacant(entry) => {
                let handle = CertHandle::initializing(Some(identity.clone()));
                let renew = Renewal {
                    shared: Arc::clone(&self.shared),
                    handle: handle.clone(),
                    identity: identity.clone(),
                };
                let _runtime = self.runtime.enter();
                let renewal = self.tasks.spawn("certificate", renew.run());
                entry.insert(Entered {
                    handle: handle.clone(),
                    renewal,
                });
                handle
            }
        }
    }

    /// The handle of an identity that was asked for before.
    pub fn known(&self, identity: &SpiffeId) -> Option<CertHandle> {
        let entries = self.entries.read().unwrap_or_else(PoisonError::into_inner);
        entries.get(identity).map(|entered| entered.handle.clone())
    }

    /// Stops renewing an identity's certificate; who waits for it is told. Handles keep what they have.
    pub fn forget(&self, identity: &SpiffeId) {
        let gone = self
            .entries
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(identity);
        if let Some(gone) = gone {
            gone.renewal.abort();
            if gone.handle.current().is_none() {
                gone.handle.fail(
                    Arc::new(FetchError::Forgotten),
                    self.shared.options.clock.wall(),
                    None,
                );
            }
        }
    }

    /// What is held for each identity, sorted by identity.
    pub fn status(&self) -> Vec<CertStatus> {
        let entries = self.entries.read().unwrap_or_else(PoisonError::into_inner);
        let mut all: Vec<_> = entries
            .values()
            .map(|entered| entered.handle.status())
            .collect();
        all.sort_by(|a, b| a.identity.cmp(&b.identity));
        all
    }
}

impl fmt::Debug for CertStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CertStore")
            .field("identities", &self.tasks.len())
            .finish_non_exhaustive()
    }
}

/// How certificates are fetched.
#[derive(Debug, Clone)]
pub struct StoreOptions {
    /// The calendar that validity is measured with.
    pub clock: Arc<dyn Clock>,
    /// The pause after the first failure; it doubles with each further one.
    pub retry_min: Duration,
    /// The longest pause.
    pub retry_max: Duration,
    /// For one request.
    pub timeout: Duration,
    /// Whether the private keys can be read from the credentials.
    pub export: KeyExport,
}

impl Default for StoreOptions {
    fn default() -> Self {
        Self {
            clock: Arc::new(SystemClock),
            retry_min: Duration::from_millis(250),
            retry_max: Duration::from_secs(60),
            timeout: Duration::from_secs(10),
            export: KeyExport::Never,
        }
    }
}

/// Why a certificate was not fetched.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// The request or the answer.
    #[error("certificate")]
    Csr(#[from] CsrError),
    /// The authority said no, or could not be reached.
    #[error("the certificate authority refused: {} ({:?})", .0.message(), .0.code())]
    Refused(Box<tonic::Status>),
    /// The bearer token.
    #[error("bearer token")]
    Token(#[source] crate::client::TokenError),
    /// The authority in this process said no.
    #[error("the certificate authority refused")]
    Sign(#[from] SignError),
    /// No answer in time.
    #[error("no answer from the certificate authority within {0:?}")]
    Timeout(Duration),
    /// Nobody needs it any more.
    #[error("the identity is no longer needed")]
    Forgotten,
    /// The certificate ended before there was a new one.
    #[error("the certificate ended before it could be renewed")]
    Ended,
}

/// An authority in this process.
impl CertSource for Ca {
    fn sign<'a>(
        &'a self,
        identity: &'a SpiffeId,
        csr_pem: &'a str,
    ) -> BoxFuture<'a, Result<Vec<String>, FetchError>> {
        let issued = Ca::sign(self, csr_pem, identity, None);
        Box::pin(async move { Ok(issued?.chain) })
    }
}

struct Shared {
    source: Arc<dyn CertSource>,
    /// The roots that came last: nearly always those that come next, and then they are held once for all identities.
    roots: Mutex<Option<Arc<Roots>>>,
    /// First certificates do not wait for renewals.
    first: Semaphore,
    renewals: Semaphore,
    options: StoreOptions,
}

impl Shared {
    async fn fetch(&self, identity: &SpiffeId) -> Result<Credentials, FetchError> {
        let csr = Csr::with_export(identity, self.options.export)?;
        let timeout = self.options.timeout;
        let answer = tokio::time::timeout(timeout, self.source.sign(identity, csr.pem()));
        let chain = answer.await.map_err(|_| FetchError::Timeout(timeout))??;
        let credentials = csr.certify(&chain, self.options.clock.wall())?;
        let mut last = self.roots.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(match &*last {
            Some(same) if same.same_as(credentials.roots()) => credentials.share_roots(same),
            _ => {
                *last = Some(Arc::clone(credentials.roots()));
                credentials
            }
        })
    }
}

/// Keeps one identity's certificate fresh.
struct Renewal {
    shared: Arc<Shared>,
    handle: CertHandle,
    identity: SpiffeId,
}

impl Renewal {
    async fn run(self) {
        let options = &self.shared.options;
        let mut pause = options.retry_min;
        loop {
            let limit = if self.handle.current().is_none() {
                &self.shared.first
            } else {
                &self.shared.renewals
            };
            let fetched = {
                let _permit = limit.acquire().await;
                self.shared.fetch(&self.identity).await
            };
            let now = options.clock.wall();
            match fetched {
                Ok(credentials) => {
                    pause = options.retry_min;
                    let left = credentials.info().remaining(now);
                    let renew_at = now + renew_after(left);
                    info!(identity = %self.identity, serial = %credentials.info().serial, valid_s = left.as_secs(), "certificate received");
                    self.handle.publish(Arc::new(credentials), Some(renew_at));
                    self.sleep_until(renew_at).await;
                }
                Err(e) => {
                    warn!(identity = %self.identity, error = %chain_of(&e), retry_in = ?pause, "no certificate");
                    let retry_at = now + jitter(pause);
                    pause = (pause * 2).min(options.retry_max);
                    self.failed(e, now, retry_at).await;
                }
            }
        }
    }

    /// Keeps the old certificate as long as it lasts, and waits for the retry.
    async fn failed(&self, error: FetchError, now: SystemTime, retry_at: SystemTime) {
        let end = self
            .handle
            .current()
            .map(|credentials| credentials.info().not_after);
        self.handle.fail(Arc::new(error), now, Some(retry_at));
        if let Some(end) = end.filter(|end| *end <= retry_at) {
            self.sleep_until(end).await;
            debug!(identity = %self.identity, "certificate ended");
            self.handle.end(Arc::new(FetchError::Ended), end);
        }
        self.sleep_until(retry_at).await;
    }

    async fn sleep_until(&self, until: SystemTime) {
        tokio::select! {
            biased;
            () = self.handle.renewal_asked() => {}
            () = sleep_until_wall(&*self.shared.options.clock, until) => {}
        }
    }
}

/// Waits for a time of the calendar, which may be set, or stand still while the machine sleeps.
pub(crate) async fn sleep_until_wall(clock: &dyn Clock, until: SystemTime) {
    while let Ok(left) = until.duration_since(clock.wall()) {
        if left.is_zero() {
            return;
        }
        tokio::time::sleep(left.min(LOOK_AT_CLOCK)).await;
    }
}

/// Half of what is left, up to a tenth earlier by chance, so that certificates made together are not renewed together.
pub(crate) fn renew_after(left: Duration) -> Duration {
    (left / 2)
        .mul_f64(rand::random_range(0.9..=1.0))
        .max(RENEW_AT_MOST_EVERY)
}

/// Up to a fifth more or less.
fn jitter(pause: Duration) -> Duration {
    pause.mul_f64(rand::random_range(0.8..=1.2))
}

/// An error and its causes, in one line.
fn chain_of(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(e) = cause {
        text.push_str(": ");
        text.push_str(&e.to_string());
        cause = e.source();
    }
    text
}

/// Requests under way for identities that have no certificate. Spec: ztunnel has 8 in flight.
const CONCURRENT_FIRST: usize = 8;
/// Renewals under way.
const CONCURRENT_RENEWALS: usize = 2;
/// However short certificates are.
const RENEW_AT_MOST_EVERY: Duration = Duration::from_millis(100);
/// How often a long wait looks at the calendar.
const LOOK_AT_CLOCK: Duration = Duration::from_secs(30);

#[cfg(test)]
mod tests;
