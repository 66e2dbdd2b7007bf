//! L4 authorization policies and how they are judged.
//!
//! Pure: a connection, a workload and the store go in, a verdict comes out.
//! Spec: hbone-and-l4.md 13.2.

pub mod decode;
mod engine;

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use ipnet::IpNet;
use waymark_identity::SpiffeId;

pub use engine::{Verdict, check, check_deny};

/// Names a policy: `namespace/name`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PolicyKey(Arc<str>);

impl PolicyKey {
    /// Takes `namespace/name`.
    pub fn new(key: impl Into<Arc<str>>) -> Self {
        Self(key.into())
    }

    /// Namespace part; empty when there is no slash.
    pub fn namespace(&self) -> &str {
        self.0
            .split_once('/')
            .map_or("", |(namespace, _)| namespace)
    }

    /// Name part.
    pub fn name(&self) -> &str {
        self.0.split_once('/').map_or(&*self.0, |(_, name)| name)
    }

    /// The key as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::borrow::Borrow<str> for PolicyKey {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for PolicyKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Which workloads a policy is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PolicyScope {
    /// Every workload.
    Global,
    /// Those of the policy's namespace.
    Namespace,
    /// Those that name it.
    WorkloadSelector,
}

/// What a match means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PolicyAction {
    /// Allowed.
    Allow,
    /// Denied.
    Deny,
}

/// A policy: matches when any of its rules does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Key.
    pub key: PolicyKey,
    /// For whom.
    pub scope: PolicyScope,
    /// What a match means.
    pub action: PolicyAction,
    /// Alternatives; none: never matches.
    pub rules: Vec<Rule>,
    /// Only logged.
    pub dry_run: bool,
}

/// Matches when all its clauses do; no clause matches everything.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// All of these.
    pub clauses: Vec<Clause>,
}

/// Matches when any of its matches does. A clause without any match matches; one whose matches are all empty never does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Clause {
    /// Any of these.
    pub matches: Vec<Match>,
}

/// Every populated attribute has to match.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "the words of the wire")]
pub struct Match {
    pub namespaces: Vec<StringMatch>,
    pub not_namespaces: Vec<StringMatch>,
    pub principals: Vec<StringMatch>,
    pub not_principals: Vec<StringMatch>,
    pub source_ips: Vec<IpNet>,
    pub not_source_ips: Vec<IpNet>,
    pub destination_ips: Vec<IpNet>,
    pub not_destination_ips: Vec<IpNet>,
    pub destination_ports: Vec<u16>,
    pub not_destination_ports: Vec<u16>,
    pub service_accounts: Vec<ServiceAccountMatch>,
    pub not_service_accounts: Vec<ServiceAccountMatch>,
}

impl Match {
    /// Whether no attribute is populated.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// How a text is compared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StringMatch {
    /// Equal.
    Exact(Arc<str>),
    /// Begins so.
    Prefix(Arc<str>),
    /// Ends so.
    Suffix(Arc<str>),
    /// Is there at all.
    Presence,
}

/// A service account, in any trust domain.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the words of the wire")]
pub struct ServiceAccountMatch {
    pub namespace: Arc<str>,
    pub service_account: Arc<str>,
}

/// What is judged: one connection to one port of a workload.
#[derive(Clone, Debug)]
pub struct Connection {
    /// TCP peer.
    pub source: IpAddr,
    /// Who the peer proved to be; `None` in clear.
    pub identity: Option<SpiffeId>,
    /// The workload's address and the real target port.
    pub destination: SocketAddr,
}
