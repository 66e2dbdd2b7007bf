//! One identity's certificate, as everybody who needs it holds it.

use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use arc_swap::ArcSwapOption;
use serde::Serialize;
use tokio::sync::{Notify, watch};

use super::FetchError;
use crate::credentials::{CertInfo, Credentials};
use crate::spiffe::SpiffeId;

/// Always has the current certificate of one identity (or of one server of ours). Cheap to clone.
#[derive(Clone)]
pub struct CertHandle {
    cell: Arc<Cell>,
}

struct Cell {
    identity: Option<SpiffeId>,
    /// What handshakes read.
    current: ArcSwapOption<Credentials>,
    /// What people and tasks that wait look at. Written after `current`.
    state: watch::Sender<CertState>,
    renew: Notify,
}

/// Where one identity stands.
#[derive(Clone)]
pub enum CertState {
    /// Nothing was tried to the end yet.
    Initializing,
    /// There is a valid certificate.
    Available {
        /// The certificate.
        credentials: Arc<Credentials>,
        /// When it is renewed, if somebody does that.
        renew_at: Option<SystemTime>,
        /// What the last attempt to renew it failed with, and when.
        failure: Option<(SystemTime, Arc<FetchError>)>,
    },
    /// There is none.
    Unavailable {
        /// Since when.
        since: SystemTime,
        /// Why.
        why: Arc<FetchError>,
        /// When it is tried again, if it is.
        retry_at: Option<SystemTime>,
    },
}

impl CertState {
    /// As the admin endpoints of ztunnel name it.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Initializing => "Initializing",
            Self::Available { .. } => "Available",
            Self::Unavailable { .. } => "Unavailable",
        }
    }
}

impl CertHandle {
    /// A certificate that nobody renews.
    pub fn fixed(credentials: Credentials) -> Self {
        let handle = Self::initializing(credentials.identity());
        handle.publish(Arc::new(credentials), None);
        handle
    }

    /// A handle without a certificate yet, for an owner that publishes it itself.
    pub fn initializing(identity: Option<SpiffeId>) -> Self {
        let state = watch::Sender::new(CertState::Initializing);
        Self {
            cell: Arc::new(Cell {
                identity,
                current: ArcSwapOption::empty(),
                state,
                renew: Notify::new(),
            }),
        }
    }

    /// Whose certificate it is; `None` for a server that has host names instead.
    pub fn identity(&self) -> Option<&SpiffeId> {
        self.cell.identity.as_ref()
    }

    /// The certificate now, if there is one.
    pub fn current(&self) -> Option<Arc<Credentials>> {
        self.cell.current.load_full()
    }

    /// Where it stands now.
    pub fn state(&self) -> CertState {
        self.cell.state.borrow().clone()
    }

    /// Sees every change from now on.
    pub fn subscribe(&self) -> watch::Receiver<CertState> {
        self.cell.state.subscribe()
    }

    /// The certificate, waiting for the first attempt if none has ended.
    ///
    /// # Errors
    /// When there is none and the last attempt failed. It is tried again in the background.
    ///
    /// # Cancel safety
    /// Can be dropped and called again.
    pub async fn ready(&self) -> Result<Arc<Credentials>, Unavailable> {
        let mut state = self.subscribe();
        // The sender lives in our own cell, so it cannot be gone.
        let state = state
            .wait_for(|s| !matches!(s, CertState::Initializing))
            .await;
        match state.as_deref() {
            Ok(CertState::Available { credentials, .. }) => Ok(Arc::clone(credentials)),
            Ok(CertState::Unavailable { why, .. }) => Err(self.unavailable(Arc::clone(why))),
            Ok(CertState::Initializing) | Err(_) => {
                Err(self.unavailable(Arc::new(FetchError::Forgotten)))
            }
        }
    }

    /// The certificate, however many attempts it takes.
    ///
    /// # Cancel safety
    /// Can be dropped and called again.
    pub async fn available(&self) -> Arc<Credentials> {
        let mut states = self.subscribe();
        loop {
            if let CertState::Available { credentials, .. } = &*states.borrow_and_update() {
                return Arc::clone(credentials);
            }
            if states.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// Puts another certificate in force, from the next handshake on.
    pub fn publish(&self, credentials: Arc<Credentials>, renew_at: Option<SystemTime>) {
        self.cell.current.store(Some(Arc::clone(&credentials)));
        self.cell.state.send_replace(CertState::Available {
            credentials,
            renew_at,
            failure: None,
        });
    }

    /// Asks for a renewal before its time.
    pub fn renew_now(&self) {
        self.cell.renew.notify_one();
    }

    /// What people want to know about it.
    pub fn status(&self) -> CertStatus {
        CertStatus {
            identity: self.cell.identity.clone(),
            state: self.state(),
        }
    }

    /// Notes a failure. A certificate that is there stays.
    pub(super) fn fail(&self, why: Arc<FetchError>, now: SystemTime, retry_at: Option<SystemTime>) {
        self.cell.state.send_modify(|state| match state {
            CertState::Available {
                failure, renew_at, ..
            } => {
                *failure = Some((now, why));
                *renew_at = retry_at;
            }
            CertState::Initializing => {
                *state = CertState::Unavailable {
                    since: now,
                    why,
                    retry_at,
                }
            }
            CertState::Unavailable {
                why: old,
                retry_at: old_retry,
                ..
            } => {
                *old = why;
                *old_retry = retry_at;
            }
        });
    }

    /// Takes a certificate that is over out of use.
    pub(super) fn end(&self, why: Arc<FetchError>, now: SystemTime) {
        self.cell.current.store(None);
        self.cell.state.send_modify(|state| {
            let (why, retry_at) = match state {
                CertState::Available {
                    failure: Some((_, failure)),
                    renew_at,
                    ..
                } => (Arc::clone(failure), *renew_at),
                CertState::Available { .. }
                | CertState::Initializing
                | CertState::Unavailable { .. } => (why, None),
            };
            *state = CertState::Unavailable {
                since: now,
                why,
                retry_at,
            };
        });
    }

    pub(super) async fn renewal_asked(&self) {
        self.cell.renew.notified().await;
    }

    fn unavailable(&self, why: Arc<FetchError>) -> Unavailable {
        Unavailable {
            identity: self.cell.identity.clone(),
            why,
        }
    }
}

impl fmt::Debug for CertHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CertHandle")
            .field("identity", &self.cell.identity)
            .field("state", &self.cell.state.borrow().name())
            .finish()
    }
}

impl fmt::Debug for CertState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// There is no certificate.
#[derive(Debug, Clone, thiserror::Error)]
#[error("no certificate for {}", identity.as_ref().map_or("this server", SpiffeId::as_str))]
pub struct Unavailable {
    /// Whose.
    pub identity: Option<SpiffeId>,
    #[source]
    why: Arc<FetchError>,
}

/// What people want to know about one identity's certificate.
#[derive(Debug, Clone)]
pub struct CertStatus {
    /// Whose it is.
    pub identity: Option<SpiffeId>,
    /// Where it stands.
    pub state: CertState,
}

/// The summary that admin endpoints show as it is; the certificates themselves are in [`CertState`].
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct CertSummary {
    /// Whose it is.
    pub identity: Option<SpiffeId>,
    /// `Initializing`, `Available` or `Unavailable`.
    pub state: &'static str,
    /// Why there is none, or why it was not renewed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// The leaf's serial number.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub serial: Option<String>,
    /// RFC 3339.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub valid_from: Option<String>,
    /// RFC 3339.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expiration_time: Option<String>,
}

impl CertStatus {
    /// The certificates of the chain, leaf first; empty when there is none.
    pub fn chain(&self) -> Vec<CertInfo> {
        self.credentials()
            .map(|c| c.chain_infos())
            .unwrap_or_default()
    }

    /// The roots that came with it; empty when there is none.
    pub fn roots(&self) -> Vec<CertInfo> {
        self.credentials()
            .map(|c| c.roots().infos())
            .unwrap_or_default()
    }

    /// In few words.
    pub fn summary(&self) -> CertSummary {
        let failure = match &self.state {
            CertState::Initializing => None,
            CertState::Available { failure, .. } => failure.as_ref().map(|(_, why)| why),
            CertState::Unavailable { why, .. } => Some(why),
        };
        let info = self.credentials().map(|c| c.info());
        CertSummary {
            identity: self.identity.clone(),
            state: self.state.name(),
            error: failure.map(|why| super::chain_of(why.as_ref())),
            serial: info.map(|i| i.serial.clone()),
            valid_from: info.map(|i| rfc3339(i.not_before)),
            expiration_time: info.map(|i| rfc3339(i.not_after)),
        }
    }

    fn credentials(&self) -> Option<&Arc<Credentials>> {
        match &self.state {
            CertState::Available { credentials, .. } => Some(credentials),
            CertState::Initializing | CertState::Unavailable { .. } => None,
        }
    }
}

/// A time as admin endpoints print it.
pub fn rfc3339(at: SystemTime) -> String {
    let format = &time::format_description::well_known::Rfc3339;
    time::OffsetDateTime::from(at)
        .format(format)
        .unwrap_or_default()
}
