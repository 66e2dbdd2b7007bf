//! Who a service account token belongs to: the API server is asked (TokenReview), and its answer is remembered for a while.
//!
//! Spec: control-plane.md 11.3. An answer is kept by the token's hash, never with the token, for [`REMEMBERED`] and not
//! beyond the token's own end; a refusal for [`REFUSED`], so that a broken client does not cost a review with each attempt.
//! Errors are not kept. Several callers with one token wait for one review.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, UNIX_EPOCH};

use aws_lc_rs::digest;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec, UserInfo};
use kube::Client;
use kube::api::{Api, PostParams};
use tokio::sync::OnceCell;
use tokio::time::timeout;
use waymark_rt::Clock;

/// Reviews tokens.
pub struct TokenReviewer {
    api: Api<TokenReview>,
    audiences: Vec<String>,
    clock: Arc<dyn Clock>,
    answers: Mutex<HashMap<Hash, Entry>>,
}

/// Whose a token is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenOwner {
    /// The service account's namespace.
    pub namespace: String,
    /// The service account.
    pub service_account: String,
    /// The pod that the token is bound to.
    pub pod: Option<BoundPod>,
}

/// The pod that a token is bound to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BoundPod {
    /// Its name, in the account's namespace.
    pub name: String,
    /// Its UID.
    pub uid: String,
}

/// Why a token says nothing. Never shows the token.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ReviewError {
    /// The API server does not take it for one of ours: forged, over, of another audience, of a pod that is gone.
    #[error("the API server does not accept the token: {0}")]
    Refused(String),
    /// It belongs to somebody who is not a service account.
    #[error("the token belongs to {0:?}, which is no service account")]
    NotAnAccount(String),
    /// Too long to be one.
    #[error("not a token")]
    Malformed,
    /// The API server could not be asked.
    #[error("ask the API server whose the token is")]
    Api(#[source] Arc<kube::Error>),
    /// The API server did not answer in time.
    #[error("the API server did not say in time whose the token is")]
    TimedOut,
}

type Answer = Result<TokenOwner, ReviewError>;
type Hash = [u8; 32];

struct Entry {
    answer: Arc<OnceCell<Answer>>,
    until: std::time::Instant,
}

impl TokenReviewer {
    /// Takes tokens for any of `audiences`.
    pub fn new(client: Client, audiences: Vec<String>, clock: Arc<dyn Clock>) -> Self {
        Self {
            api: Api::all(client),
            audiences,
            clock,
            answers: Mutex::default(),
        }
    }

    /// Whose a token is.
    ///
    /// # Errors
    /// See [`ReviewError`].
    pub async fn review(&self, token: &str) -> Answer {
        if token.is_empty() || token.len() > MAX_LEN {
            return Err(ReviewError::Malformed);
        }
        let key = hash(token);
        let cell = self.cell(key);
        let answer = cell.get_or_init(|| self.ask(token)).await.clone();
        self.note(key, &cell, &answer, token);
        answer
    }

    fn cell(&self, key: Hash) -> Arc<OnceCell<Answer>> {
        let now = self.clock.now();
        let mut answers = self.lock();
        if let Some(entry) = answers.get(&key).filter(|entry| now < entry.until) {
            return entry.answer.clone();
        }
        if answers.len() >= MAX_ANSWERS {
            answers.retain(|_, entry| now < entry.until);
            if answers.len() >= MAX_ANSWERS {
                // More tokens than pods at once: asking again is better than holding on to more.
                answers.clear();
            }
        }
        let answer = Arc::new(OnceCell::new());
        let until = now + ASKING;
        answers.insert(
            key,
            Entry {
                answer: answer.clone(),
                until,
            },
        );
        answer
    }

    /// Decides, once, how long an answer is kept.
    fn note(&self, key: Hash, cell: &Arc<OnceCell<Answer>>, answer: &Answer, token: &str) {
        let mut answers = self.lock();
        let Some(entry) = answers
            .get_mut(&key)
            .filter(|entry| Arc::ptr_eq(&entry.answer, cell))
        else {
            return;
        };
        let keep = match answer {
            Ok(_) => REMEMBERED.min(self.left(token)),
            Err(ReviewError::Refused(_) | ReviewError::NotAnAccount(_)) => REFUSED,
            Err(ReviewError::Malformed | ReviewError::Api(_) | ReviewError::TimedOut) => {
                Duration::ZERO
            }
        };
        let until = self.clock.now() + keep;
        if until < entry.until {
            entry.until = until;
        }
    }

    /// How long the token is in force by its own word; the API server has said that it is genuine.
    fn left(&self, token: &str) -> Duration {
        let end = token
            .split('.')
            .nth(1)
            .and_then(|claims| URL_SAFE_NO_PAD.decode(claims).ok())
            .and_then(|claims| serde_json::from_slice::<serde_json::Value>(&claims).ok())
            .and_then(|claims| claims.get("exp")?.as_u64());
        let now = self
            .clock
            .wall()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        match end {
            Some(end) => Duration::from_secs(end).saturating_sub(now),
            // One without an end is asked about each time.
            None => Duration::ZERO,
        }
    }

    async fn ask(&self, token: &str) -> Answer {
        let review = TokenReview {
            spec: TokenReviewSpec {
                token: token.to_owned(),
                audiences: Some(self.audiences.clone()),
            },
            ..TokenReview::default()
        };
        let params = PostParams::default();
        let reviewed = timeout(TIMEOUT, self.api.create(&params, &review))
            .await
            .map_err(|_| ReviewError::TimedOut)?
            .map_err(|error| ReviewError::Api(Arc::new(error)))?;
        let status = reviewed.status.unwrap_or_default();
        if let Some(error) = status.error.filter(|error| !error.is_empty()) {
            return Err(ReviewError::Refused(error));
        }
        if status.authenticated != Some(true) {
            return Err(ReviewError::Refused("not authenticated".to_owned()));
        }
        // A server that knows nothing of audiences says none, and would take a token for anybody.
        let accepted = status.audiences.unwrap_or_default();
        if !accepted
            .iter()
            .any(|audience| self.audiences.contains(audience))
        {
            return Err(ReviewError::Refused(format!(
                "it is not for the audience {}",
                self.audiences.join(", ")
            )));
        }
        owner(status.user.unwrap_or_default())
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Hash, Entry>> {
        self.answers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for TokenReviewer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenReviewer")
            .field("audiences", &self.audiences)
            .finish_non_exhaustive()
    }
}

fn owner(user: UserInfo) -> Answer {
    let name = user.username.unwrap_or_default();
    let groups = user.groups.unwrap_or_default();
    let account = name
        .strip_prefix("system:serviceaccount:")
        .and_then(|rest| rest.split_once(':'))
        .filter(|_| groups.iter().any(|group| group == "system:serviceaccounts"));
    let Some((namespace, service_account)) = account else {
        return Err(ReviewError::NotAnAccount(name));
    };
    let extra = user.extra.unwrap_or_default();
    let first = |key: &str| extra.get(key).and_then(|values| values.first()).cloned();
    let pod = first("authentication.kubernetes.io/pod-name")
        .zip(first("authentication.kubernetes.io/pod-uid"))
        .map(|(name, uid)| BoundPod { name, uid });
    Ok(TokenOwner {
        namespace: namespace.to_owned(),
        service_account: service_account.to_owned(),
        pod,
    })
}

fn hash(token: &str) -> Hash {
    let mut hash = [0; 32];
    hash.copy_from_slice(digest::digest(&digest::SHA256, token.as_bytes()).as_ref());
    hash
}

/// How long a good answer is believed: as long a deleted pod's token may go on.
pub const REMEMBERED: Duration = Duration::from_secs(60);
/// How long a refusal is believed.
pub const REFUSED: Duration = Duration::from_secs(10);
/// Answers at once; far more than pods that come within a minute.
const MAX_ANSWERS: usize = 16_384;
/// Longest token; those of Kubernetes have about 1 KiB.
const MAX_LEN: usize = 16 << 10;
/// Longest that one entry lives whatever comes of it, the asking included.
const ASKING: Duration = Duration::from_secs(120);
const TIMEOUT: Duration = Duration::from_secs(10);
