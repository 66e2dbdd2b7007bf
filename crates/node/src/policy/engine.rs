use tracing::debug;

use super::{Clause, Connection, Match, Policy, PolicyAction, PolicyKey, Rule, StringMatch};
use crate::state::{Store, Workload};

/// The answer to a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It may pass.
    Allowed,
    /// A DENY policy matched.
    DeniedBy(PolicyKey),
    /// ALLOW policies apply and none matched.
    NotAllowed,
    /// The workload names a policy that has not arrived; until it has, nobody knows what it denies.
    ///
    /// Upstream passes such connections. That is a hole for as long as a DENY policy is on its way, so here the connection
    /// is refused, and the caller waits a little before it asks (policies follow their workloads within milliseconds).
    Unknown(PolicyKey),
}

/// Judges a connection to `workload` by all policies that apply to it.
pub fn check(store: &Store, workload: &Workload, connection: &Connection) -> Verdict {
    match check_deny(store, workload, connection) {
        Verdict::Allowed => {}
        refused @ (Verdict::DeniedBy(_) | Verdict::NotAllowed | Verdict::Unknown(_)) => {
            return refused;
        }
    }
    let facts = Facts::of(connection);
    let mut exists = false;
    for policy in applicable(store, workload).filter(|policy| policy.action == PolicyAction::Allow)
    {
        let matched = policy.matches(&facts);
        if policy.dry_run {
            debug!(policy = %policy.key, matched, "dry-run ALLOW policy");
            continue;
        }
        if matched {
            return Verdict::Allowed;
        }
        exists = true;
    }
    if exists {
        Verdict::NotAllowed
    } else {
        Verdict::Allowed
    }
}

/// Judges by the DENY policies alone: for a connection that is not delivered, but sent through the waypoint.
pub fn check_deny(store: &Store, workload: &Workload, connection: &Connection) -> Verdict {
    let missing = workload
        .authorization_policies
        .iter()
        .find(|key| !store.has_policy(key));
    if let Some(key) = missing {
        return Verdict::Unknown(PolicyKey::new(key.clone()));
    }
    let facts = Facts::of(connection);
    for policy in applicable(store, workload).filter(|policy| policy.action == PolicyAction::Deny) {
        if !policy.matches(&facts) {
            continue;
        }
        if policy.dry_run {
            debug!(policy = %policy.key, "dry-run DENY policy matched");
        } else {
            return Verdict::DeniedBy(policy.key.clone());
        }
    }
    Verdict::Allowed
}

/// Policies of the mesh, of the workload's namespace, and those that it names. A policy that is named but not
/// selector-scoped applies by its scope alone, so that none is judged twice.
fn applicable<'a>(store: &'a Store, workload: &'a Workload) -> impl Iterator<Item = &'a Policy> {
    let named = workload
        .authorization_policies
        .iter()
        .filter_map(|key| store.selector_policy(key));
    let wide = store
        .wide_policies(None)
        .iter()
        .chain(store.wide_policies(Some(&workload.namespace)));
    wide.chain(named).map(AsRef::as_ref)
}

/// A connection in the form in which policies speak of it.
struct Facts<'a> {
    connection: &'a Connection,
    /// SPIFFE ID without its scheme; empty when there is none.
    principal: &'a str,
    namespace: &'a str,
}

impl<'a> Facts<'a> {
    fn of(connection: &'a Connection) -> Self {
        let identity = connection.identity.as_ref();
        Self {
            connection,
            principal: identity.map_or("", |id| id.principal()),
            namespace: identity.map_or("", |id| id.namespace()),
        }
    }
}

impl Policy {
    fn matches(&self, facts: &Facts<'_>) -> bool {
        self.rules.iter().any(|rule| rule.matches(facts))
    }
}

impl Rule {
    fn matches(&self, facts: &Facts<'_>) -> bool {
        self.clauses.iter().all(|clause| clause.matches(facts))
    }
}

impl Clause {
    fn matches(&self, facts: &Facts<'_>) -> bool {
        self.matches.is_empty() || self.matches.iter().any(|m| m.matches(facts))
    }
}

impl Match {
    fn matches(&self, facts: &Facts<'_>) -> bool {
        let text =
            |values: &[StringMatch], text: &str| values.iter().any(|value| value.matches(text));
        let account = |values: &[super::ServiceAccountMatch]| {
            facts.connection.identity.as_ref().is_some_and(|id| {
                values.iter().any(|value| {
                    *value.namespace == *id.namespace()
                        && *value.service_account == *id.service_account()
                })
            })
        };
        let within = |nets: &[ipnet::IpNet], ip: std::net::IpAddr| {
            nets.iter().any(|net| net.contains(&ip.to_canonical()))
        };
        let (source, destination) = (facts.connection.source, facts.connection.destination);
        let port = destination.port();

        !self.is_empty()
            && holds(&self.namespaces, |values| text(values, facts.namespace))
            && holds_not(&self.not_namespaces, |values| text(values, facts.namespace))
            && holds(&self.principals, |values| text(values, facts.principal))
            && holds_not(&self.not_principals, |values| text(values, facts.principal))
            && holds(&self.source_ips, |nets| within(nets, source))
            && holds_not(&self.not_source_ips, |nets| within(nets, source))
            && holds(&self.destination_ips, |nets| within(nets, destination.ip()))
            && holds_not(&self.not_destination_ips, |nets| {
                within(nets, destination.ip())
            })
            && holds(&self.destination_ports, |ports| ports.contains(&port))
            && holds_not(&self.not_destination_ports, |ports| ports.contains(&port))
            && holds(&self.service_accounts, account)
            && holds_not(&self.not_service_accounts, account)
    }
}

fn holds<T>(values: &[T], any: impl Fn(&[T]) -> bool) -> bool {
    values.is_empty() || any(values)
}

fn holds_not<T>(values: &[T], any: impl Fn(&[T]) -> bool) -> bool {
    values.is_empty() || !any(values)
}

impl StringMatch {
    /// Nothing but `Exact("")` matches the empty text of a peer without identity: not even the empty prefix.
    fn matches(&self, text: &str) -> bool {
        match self {
            Self::Exact(value) => **value == *text,
            Self::Prefix(value) => !text.is_empty() && text.starts_with(&**value),
            Self::Suffix(value) => !text.is_empty() && text.ends_with(&**value),
            Self::Presence => !text.is_empty(),
        }
    }
}

#[cfg(test)]
mod tests;
