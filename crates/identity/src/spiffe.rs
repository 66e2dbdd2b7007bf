//! Names of workloads: `spiffe://<trust domain>/ns/<namespace>/sa/<service account>`.

use std::borrow::Borrow;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A workload's identity; only what parses is one.
///
/// Cheap to clone; compares and hashes as its text.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SpiffeId {
    text: Arc<str>,
    // Where in `text` the parts are; a valid text is shorter than 2 KiB. After `text`, so that order is the text's.
    trust_domain_end: u16,
    namespace_end: u16,
}

impl SpiffeId {
    /// The identity of a service account.
    pub fn new(trust_domain: &TrustDomain, account: &ServiceAccountRef) -> Self {
        let text = format!(
            "{SCHEME}{trust_domain}/ns/{}/sa/{}",
            account.namespace, account.name
        );
        let trust_domain_end = SCHEME.len() + trust_domain.0.len();
        let namespace_end = trust_domain_end + "/ns/".len() + account.namespace.len();
        Self::from_parts(text.into(), trust_domain_end, namespace_end)
    }

    /// The whole URI.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The trust domain's name.
    pub fn trust_domain(&self) -> &str {
        &self.text[SCHEME.len()..usize::from(self.trust_domain_end)]
    }

    /// The namespace.
    pub fn namespace(&self) -> &str {
        &self.text
            [usize::from(self.trust_domain_end) + "/ns/".len()..usize::from(self.namespace_end)]
    }

    /// The service account.
    pub fn service_account(&self) -> &str {
        &self.text[usize::from(self.namespace_end) + "/sa/".len()..]
    }

    /// Namespace and service account.
    pub fn account(&self) -> ServiceAccountRef {
        ServiceAccountRef {
            namespace: self.namespace().into(),
            name: self.service_account().into(),
        }
    }

    /// What Istio's policies call a principal: the URI without its scheme.
    pub fn principal(&self) -> &str {
        &self.text[SCHEME.len()..]
    }

    /// Whether it is of the trust domain.
    pub fn is_of(&self, trust_domain: &TrustDomain) -> bool {
        self.trust_domain() == trust_domain.as_str()
    }

    fn from_parts(text: Arc<str>, trust_domain_end: usize, namespace_end: usize) -> Self {
        let offset = |n: usize| u16::try_from(n).expect("a validated name is at most MAX_LEN long");
        Self {
            text,
            trust_domain_end: offset(trust_domain_end),
            namespace_end: offset(namespace_end),
        }
    }
}

impl FromStr for SpiffeId {
    type Err = SpiffeError;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        let shape = || SpiffeError::Shape(s.chars().take(MAX_LEN).collect());
        if s.len() > MAX_LEN {
            return Err(shape());
        }
        let path = s.strip_prefix(SCHEME).ok_or_else(shape)?;
        let mut segments = path.split('/');
        let (Some(trust_domain), Some("ns"), Some(namespace), Some("sa"), Some(account), None) = (
            segments.next(),
            segments.next(),
            segments.next(),
            segments.next(),
            segments.next(),
            segments.next(),
        ) else {
            return Err(shape());
        };
        check_trust_domain(trust_domain)?;
        check_segment("namespace", namespace)?;
        check_segment("service account", account)?;
        let trust_domain_end = SCHEME.len() + trust_domain.len();
        Ok(Self::from_parts(
            s.into(),
            trust_domain_end,
            trust_domain_end + "/ns/".len() + namespace.len(),
        ))
    }
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Serialize for SpiffeId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.text)
    }
}

impl<'de> Deserialize<'de> for SpiffeId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}

/// The realm of one root of trust, such as `cluster.local`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TrustDomain(Arc<str>);

impl TrustDomain {
    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Default for TrustDomain {
    /// `cluster.local`.
    fn default() -> Self {
        Self("cluster.local".into())
    }
}

impl FromStr for TrustDomain {
    type Err = SpiffeError;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        check_trust_domain(s)?;
        Ok(Self(s.into()))
    }
}

impl Borrow<str> for TrustDomain {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A service account, written `<namespace>/<name>`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServiceAccountRef {
    namespace: Arc<str>,
    name: Arc<str>,
}

impl ServiceAccountRef {
    /// A service account of a namespace.
    ///
    /// # Errors
    /// When one of them cannot be part of an identity.
    pub fn new(namespace: &str, name: &str) -> Result<Self, SpiffeError> {
        check_segment("namespace", namespace)?;
        check_segment("service account", name)?;
        Ok(Self {
            namespace: namespace.into(),
            name: name.into(),
        })
    }

    /// The namespace.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// The account's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its identity in a trust domain.
    pub fn identity(&self, trust_domain: &TrustDomain) -> SpiffeId {
        SpiffeId::new(trust_domain, self)
    }
}

impl FromStr for ServiceAccountRef {
    type Err = SpiffeError;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        let (namespace, name) = s
            .split_once('/')
            .ok_or_else(|| SpiffeError::Account(s.to_owned()))?;
        Self::new(namespace, name)
    }
}

impl fmt::Display for ServiceAccountRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

impl fmt::Debug for ServiceAccountRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// Why a text is no identity.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SpiffeError {
    /// Not the five segments.
    #[error(
        "identity {0:?}: not of the form spiffe://<trust domain>/ns/<namespace>/sa/<service account>"
    )]
    Shape(String),
    /// Not `<namespace>/<name>`.
    #[error("service account {0:?}: not of the form <namespace>/<name>")]
    Account(String),
    /// A part with characters that it cannot have.
    #[error("{part} {text:?}: 1 to {max} characters of {allowed}")]
    Part {
        /// Which part.
        part: &'static str,
        /// What it is.
        text: String,
        /// Longest allowed.
        max: usize,
        /// What it may consist of.
        allowed: &'static str,
    },
}

const SCHEME: &str = "spiffe://";
/// Longest SPIFFE ID. Spec: SPIFFE-ID 2.3.
const MAX_LEN: usize = 2048;
const MAX_TRUST_DOMAIN: usize = 255;
const MAX_SEGMENT: usize = 253;

/// Spec: SPIFFE-ID 2.1.
fn check_trust_domain(text: &str) -> Result<(), SpiffeError> {
    let allowed =
        |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'-' | b'_');
    if (1..=MAX_TRUST_DOMAIN).contains(&text.len()) && text.bytes().all(allowed) {
        return Ok(());
    }
    Err(SpiffeError::Part {
        part: "trust domain",
        text: text.to_owned(),
        max: MAX_TRUST_DOMAIN,
        allowed: "a-z, 0-9, '.', '-', '_'",
    })
}

/// Spec: SPIFFE-ID 2.2; Kubernetes names are a subset.
fn check_segment(part: &'static str, text: &str) -> Result<(), SpiffeError> {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_');
    let relative = text == "." || text == "..";
    if (1..=MAX_SEGMENT).contains(&text.len()) && text.bytes().all(allowed) && !relative {
        return Ok(());
    }
    Err(SpiffeError::Part {
        part,
        text: text.to_owned(),
        max: MAX_SEGMENT,
        allowed: "letters, digits, '.', '-', '_', but not \".\" or \"..\"",
    })
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn takes_an_identity_apart() {
        let id: SpiffeId = "spiffe://cluster.local/ns/default/sa/bookinfo-reviews"
            .parse()
            .unwrap();
        assert_eq!(id.trust_domain(), "cluster.local");
        assert_eq!(id.namespace(), "default");
        assert_eq!(id.service_account(), "bookinfo-reviews");
        assert_eq!(
            id.principal(),
            "cluster.local/ns/default/sa/bookinfo-reviews"
        );
        assert_eq!(id.account().to_string(), "default/bookinfo-reviews");
        assert_eq!(id.account().identity(&TrustDomain::default()), id);
        assert!(id.is_of(&TrustDomain::default()));
        assert_eq!(serde_json::to_value(&id).unwrap(), id.as_str());
    }

    #[test]
    fn refuses_what_is_not_exactly_five_segments() {
        for bad in [
            "",
            "spiffe://",
            "spiffe://td",
            "spiffe://td/ns/a/sa",
            "spiffe://td/ns/a/sa/",
            "spiffe://td/ns//sa/b",
            "spiffe:///ns/a/sa/b",
            "spiffe://td/ns/a/sa/b/",
            "spiffe://td/ns/a/sa/b/c",
            "spiffe://td/sa/a/ns/b",
            "SPIFFE://td/ns/a/sa/b",
            "https://td/ns/a/sa/b",
            " spiffe://td/ns/a/sa/b",
            "spiffe://td/ns/a/sa/b?x",
            "spiffe://td/ns/a/sa/b#x",
            "spiffe://td/ns/../sa/b",
            "spiffe://td/ns/a/sa/%62",
            "spiffe://t d/ns/a/sa/b",
            "spiffe://TD/ns/a/sa/b",
            "spiffe://user@td/ns/a/sa/b",
            "spiffe://td:8080/ns/a/sa/b",
            "spiffe://td/ns/a/sa/b\0",
            "spiffe://td/ns/ä/sa/b",
        ] {
            assert!(bad.parse::<SpiffeId>().is_err(), "{bad:?}");
        }
        let long = format!("spiffe://td/ns/a/sa/{}", "b".repeat(3000));
        assert!(long.parse::<SpiffeId>().is_err());
    }

    #[test]
    fn service_accounts_parse_and_print() {
        let account: ServiceAccountRef = "istio-system/waymark-node".parse().unwrap();
        assert_eq!(
            (account.namespace(), account.name()),
            ("istio-system", "waymark-node")
        );
        for bad in ["", "a", "/a", "a/", "a/b/c"] {
            assert!(bad.parse::<ServiceAccountRef>().is_err(), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn parsing_gives_back_the_parts(td in "[a-z0-9._-]{1,40}", ns in "[a-z0-9][a-z0-9-]{0,40}", sa in "[a-zA-Z0-9][a-zA-Z0-9._-]{0,60}") {
            let text = format!("spiffe://{td}/ns/{ns}/sa/{sa}");
            let id: SpiffeId = text.parse().unwrap();
            prop_assert_eq!(id.as_str(), &text);
            prop_assert_eq!((id.trust_domain(), id.namespace(), id.service_account()), (&*td, &*ns, &*sa));
            prop_assert_eq!(SpiffeId::new(&td.parse().unwrap(), &ServiceAccountRef::new(&ns, &sa).unwrap()), id);
        }

        #[test]
        fn whatever_parses_prints_as_it_was(text in "(spiffe://)?[a-z./]{0,12}(/ns/)?[ -~]{0,12}(/sa/)?[ -~]{0,12}") {
            if let Ok(id) = text.parse::<SpiffeId>() {
                prop_assert_eq!(id.to_string(), text);
                prop_assert!(!id.namespace().contains('/') && !id.service_account().contains('/'));
            }
        }

        #[test]
        fn no_text_panics(text in any::<String>()) {
            let _ = text.parse::<SpiffeId>();
            let _ = text.parse::<TrustDomain>();
            let _ = text.parse::<ServiceAccountRef>();
        }
    }
}
