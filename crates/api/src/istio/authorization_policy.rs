//! AuthorizationPolicy: who may do what. Read and checked, not enforced yet: [`crate::support`] refuses it.

use crate::meta::{Map, ObjectMeta};

/// An Istio AuthorizationPolicy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuthorizationPolicy {
    /// Its metadata.
    pub meta: ObjectMeta,
    /// What it holds for.
    pub target: PolicyTarget,
    /// What is done when a rule matches.
    pub action: PolicyAction,
    /// `rules`: any of them; none matches nothing, an empty one everything.
    pub rules: Vec<PolicyRule>,
}

/// What a policy holds for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PolicyTarget {
    /// Its namespace.
    Namespace,
    /// `selector.matchLabels`: workloads with these labels.
    Selector(Map),
    /// `targetRefs`: these objects.
    Refs(Vec<PolicyTargetRef>),
}

/// An object that a policy is attached to.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PolicyTargetRef {
    /// Its kind.
    pub kind: PolicyTargetKind,
    /// Its name, in the policy's namespace.
    pub name: String,
}

/// The kind of an object that a policy is attached to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PolicyTargetKind {
    /// Kubernetes Service.
    Service,
    /// Istio ServiceEntry.
    ServiceEntry,
    /// Gateway.
    Gateway,
    /// GatewayClass.
    GatewayClass,
}

/// What is done when a rule matches. No `Default`: it is read, `ALLOW` when not given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PolicyAction {
    /// `ALLOW`.
    Allow,
    /// `DENY`.
    Deny,
    /// `AUDIT`.
    Audit,
    /// `CUSTOM`, by the provider of this name.
    Custom(String),
}

/// A rule: all of what it has must match.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PolicyRule {
    /// `from`: any of these sources.
    pub from: Vec<PolicySource>,
    /// `to`: any of these operations.
    pub to: Vec<PolicyOperation>,
    /// `when`: all of these conditions.
    pub when: Vec<PolicyCondition>,
}

/// Values of which one must match, and of which none may. A value is exact, `*`, `prefix*` or `*suffix`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Values {
    /// One of these, when there are some.
    pub any: Vec<String>,
    /// None of these.
    pub none: Vec<String>,
}

impl Values {
    /// Whether nothing is asked.
    pub fn is_empty(&self) -> bool {
        self.any.is_empty() && self.none.is_empty()
    }
}

/// Where a request comes from.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PolicySource {
    /// `principals`, `notPrincipals`.
    pub principals: Values,
    /// `requestPrincipals`, `notRequestPrincipals`.
    pub request_principals: Values,
    /// `namespaces`, `notNamespaces`.
    pub namespaces: Values,
    /// `trustDomains`, `notTrustDomains`.
    pub trust_domains: Values,
    /// `serviceAccounts`, `notServiceAccounts`.
    pub service_accounts: Values,
    /// `ipBlocks`, `notIpBlocks`: addresses and networks.
    pub ip_blocks: Values,
    /// `remoteIpBlocks`, `notRemoteIpBlocks`.
    pub remote_ip_blocks: Values,
}

/// What a request asks for.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PolicyOperation {
    /// `hosts`, `notHosts`.
    pub hosts: Values,
    /// `ports`, `notPorts`: numbers.
    pub ports: Values,
    /// `methods`, `notMethods`.
    pub methods: Values,
    /// `paths`, `notPaths`.
    pub paths: Values,
}

/// A condition on an attribute.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PolicyCondition {
    /// The attribute.
    pub key: String,
    /// Its values.
    pub values: Values,
}
