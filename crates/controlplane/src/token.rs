//! Bearer tokens that the control plane gives out: HS256 JSON Web Tokens that name a service account.
//!
//! Spec: RFC 7515, RFC 7519; the claims are those of a Kubernetes service account token that count here
//! (`sub` = `system:serviceaccount:<namespace>:<name>`, `aud` = `istio-ca`, `exp`).

mod files;

use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::{hmac, rand};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
use waymark_identity::ServiceAccountRef;
use waymark_rt::Clock;

pub use self::files::{TokenFiles, TokenFilesError};
use crate::file;

/// The key that tokens are signed and verified with. Has no `Debug` that shows it.
pub struct TokenKey {
    key: hmac::Key,
    clock: Arc<dyn Clock>,
}

impl TokenKey {
    /// Reads the key of a state directory, or makes one: 32 random bytes in a file of mode 0600.
    ///
    /// # Errors
    /// When the file cannot be read or written, is open to others, or is no key.
    pub fn load_or_create(path: &Path, clock: Arc<dyn Clock>) -> Result<Self, TokenKeyError> {
        let io = |source| TokenKeyError::Io {
            path: path.to_owned(),
            source,
        };
        match fs::metadata(path) {
            Ok(metadata) => {
                use std::os::unix::fs::PermissionsExt;
                let mode = metadata.permissions().mode() & 0o777;
                if mode & 0o077 != 0 {
                    return Err(TokenKeyError::Exposed {
                        path: path.to_owned(),
                        mode,
                    });
                }
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                let mut bytes = [0; KEY_LEN];
                rand::fill(&mut bytes).map_err(|_| io(io::Error::other("no randomness")))?;
                file::replace_private(path, &bytes).map_err(io)?;
            }
            Err(e) => return Err(io(e)),
        }
        let bytes = fs::read(path).map_err(io)?;
        if bytes.len() != KEY_LEN {
            return Err(TokenKeyError::Length {
                path: path.to_owned(),
                got: bytes.len(),
            });
        }
        Ok(Self {
            key: hmac::Key::new(hmac::HMAC_SHA256, &bytes),
            clock,
        })
    }

    /// A token that says its bearer is a service account, for `ttl`.
    pub fn issue(&self, account: &ServiceAccountRef, ttl: Duration) -> String {
        let now = unix(self.clock.wall());
        let claims = Claims {
            iss: ISSUER,
            sub: format!("{SUBJECT}{}:{}", account.namespace(), account.name()),
            aud: [AUDIENCE],
            iat: now,
            exp: now.saturating_add(ttl.as_secs()),
        };
        let claims = serde_json::to_vec(&claims).expect("strings and numbers become JSON");
        let signed = format!(
            "{}.{}",
            URL_SAFE_NO_PAD.encode(HEADER),
            URL_SAFE_NO_PAD.encode(claims)
        );
        let tag = hmac::sign(&self.key, signed.as_bytes());
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(tag))
    }

    /// Whom a token is for, if it is ours and in force.
    ///
    /// The signature comes first, in constant time: nothing in a token is looked at before it is known to be ours.
    ///
    /// # Errors
    /// See [`TokenError`].
    pub fn verify(&self, token: &str) -> Result<ServiceAccountRef, TokenError> {
        if token.len() > MAX_LEN {
            return Err(TokenError::Malformed);
        }
        let (signed, tag) = token.rsplit_once('.').ok_or(TokenError::Malformed)?;
        let (header, claims) = signed.split_once('.').ok_or(TokenError::Malformed)?;
        let tag = URL_SAFE_NO_PAD
            .decode(tag)
            .map_err(|_| TokenError::Malformed)?;
        hmac::verify(&self.key, signed.as_bytes(), &tag).map_err(|_| TokenError::Signature)?;
        let header: ReadHeader = decode(header)?;
        if header.alg != "HS256" || header.crit.is_some() {
            return Err(TokenError::Algorithm);
        }
        let claims: ReadClaims = decode(claims)?;
        let now = unix(self.clock.wall());
        if claims.exp <= now {
            return Err(TokenError::Expired);
        }
        if claims.nbf.is_some_and(|begin| begin > now) {
            return Err(TokenError::NotYet);
        }
        if !claims.aud.has(AUDIENCE) {
            return Err(TokenError::Audience);
        }
        let account = claims
            .sub
            .strip_prefix(SUBJECT)
            .and_then(|rest| rest.split_once(':'));
        let (namespace, name) = account.ok_or(TokenError::Subject)?;
        ServiceAccountRef::new(namespace, name).map_err(|_| TokenError::Subject)
    }

    /// When a token ends, if it is ours and in force.
    pub(crate) fn remaining(&self, token: &str) -> Option<Duration> {
        self.verify(token).ok()?;
        let claims: ReadClaims = decode(token.split('.').nth(1)?).ok()?;
        claims
            .exp
            .checked_sub(unix(self.clock.wall()))
            .map(Duration::from_secs)
    }
}

impl fmt::Debug for TokenKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenKey(..)")
    }
}

/// Why there is no key.
#[derive(Debug, thiserror::Error)]
pub enum TokenKeyError {
    /// The file.
    #[error("token key {path}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Others than the owner can read it.
    #[error(
        "token key {path} is open to others (mode {mode:03o}): set it to 600, or remove it to have a new one made"
    )]
    Exposed {
        /// The file.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// Not a key.
    #[error(
        "token key {path} has {got} bytes instead of {KEY_LEN}: remove it to have a new one made"
    )]
    Length {
        /// The file.
        path: PathBuf,
        /// Its length.
        got: usize,
    },
}

/// Why a token is not accepted. Never says what was in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// Not a token at all.
    #[error("not a JSON Web Token")]
    Malformed,
    /// Signed with another key.
    #[error("the token is not signed by this control plane")]
    Signature,
    /// Signed in another way than ours are.
    #[error("the token is not an HS256 token")]
    Algorithm,
    /// Over.
    #[error("the token has expired")]
    Expired,
    /// Begins later.
    #[error("the token is not valid yet")]
    NotYet,
    /// For somebody else to accept.
    #[error("the token is not for the audience istio-ca")]
    Audience,
    /// Names no service account.
    #[error("the token's subject is not a service account")]
    Subject,
}

const KEY_LEN: usize = 32;
/// Longest token that is looked at.
const MAX_LEN: usize = 8 << 10;
const ISSUER: &str = "waymark";
const AUDIENCE: &str = "istio-ca";
const SUBJECT: &str = "system:serviceaccount:";
const HEADER: &str = r#"{"alg":"HS256","typ":"JWT"}"#;

#[derive(Serialize)]
struct Claims<'a> {
    iss: &'a str,
    sub: String,
    aud: [&'a str; 1],
    iat: u64,
    exp: u64,
}

#[derive(Deserialize)]
struct ReadHeader {
    alg: String,
    crit: Option<serde_json::Value>,
}

#[derive(Deserialize)]
struct ReadClaims {
    sub: String,
    aud: Audience,
    exp: u64,
    nbf: Option<u64>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Audience {
    One(String),
    Many(Vec<String>),
}

impl Audience {
    fn has(&self, wanted: &str) -> bool {
        match self {
            Self::One(one) => one == wanted,
            Self::Many(many) => many.iter().any(|one| one == wanted),
        }
    }
}

fn decode<T: for<'de> Deserialize<'de>>(part: &str) -> Result<T, TokenError> {
    let bytes = URL_SAFE_NO_PAD
        .decode(part)
        .map_err(|_| TokenError::Malformed)?;
    serde_json::from_slice(&bytes).map_err(|_| TokenError::Malformed)
}

fn unix(at: SystemTime) -> u64 {
    at.duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs())
}

#[cfg(test)]
mod tests;
