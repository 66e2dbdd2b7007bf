//! `istio.security.Authorization` from the wire.
//!
//! Stricter than upstream in one point: an address or a port that is malformed refuses the policy, where upstream drops the
//! value; a list that loses its only value would match everybody.

use std::sync::Arc;

use ipnet::IpNet;
use prost::Message;
use waymark_proto::security as wire;

use super::{
    Clause, Match, Policy, PolicyAction, PolicyKey, PolicyScope, Rule, ServiceAccountMatch,
    StringMatch,
};
use crate::state::decode::{DecodeError, ip, known, port, range};

/// Reads an Authorization from its serialized form.
///
/// # Errors
/// See [`DecodeError`].
pub fn policy(bytes: &[u8]) -> Result<Arc<Policy>, DecodeError> {
    let message = wire::Authorization::decode(bytes).map_err(|source| DecodeError::Bytes {
        field: "istio.security.Authorization",
        source,
    })?;
    if message.name.is_empty() {
        return Err(DecodeError::Missing { field: "name" });
    }
    let scope = match known("scope", message.scope)? {
        wire::Scope::Global => PolicyScope::Global,
        wire::Scope::Namespace => PolicyScope::Namespace,
        wire::Scope::WorkloadSelector => PolicyScope::WorkloadSelector,
    };
    let action = match known("action", message.action)? {
        wire::Action::Allow => PolicyAction::Allow,
        wire::Action::Deny => PolicyAction::Deny,
    };
    let rules = message
        .groups
        .into_iter()
        .map(rule)
        .collect::<Result<_, _>>()?;
    let key = PolicyKey::new(format!("{}/{}", message.namespace, message.name));
    Ok(Arc::new(Policy {
        key,
        scope,
        action,
        rules,
        dry_run: message.dry_run,
    }))
}

fn rule(group: wire::Group) -> Result<Rule, DecodeError> {
    Ok(Rule {
        clauses: group
            .rules
            .into_iter()
            .map(clause)
            .collect::<Result<_, _>>()?,
    })
}

fn clause(rules: wire::Rules) -> Result<Clause, DecodeError> {
    Ok(Clause {
        matches: rules
            .matches
            .into_iter()
            .map(match_)
            .collect::<Result<_, _>>()?,
    })
}

fn match_(message: wire::Match) -> Result<Match, DecodeError> {
    Ok(Match {
        namespaces: strings("namespaces", message.namespaces)?,
        not_namespaces: strings("not_namespaces", message.not_namespaces)?,
        principals: strings("principals", message.principals)?,
        not_principals: strings("not_principals", message.not_principals)?,
        source_ips: ranges("source_ips", &message.source_ips)?,
        not_source_ips: ranges("not_source_ips", &message.not_source_ips)?,
        destination_ips: ranges("destination_ips", &message.destination_ips)?,
        not_destination_ips: ranges("not_destination_ips", &message.not_destination_ips)?,
        destination_ports: ports("destination_ports", &message.destination_ports)?,
        not_destination_ports: ports("not_destination_ports", &message.not_destination_ports)?,
        service_accounts: accounts(message.service_accounts),
        not_service_accounts: accounts(message.not_service_accounts),
    })
}

fn strings(
    field: &'static str,
    list: Vec<wire::StringMatch>,
) -> Result<Vec<StringMatch>, DecodeError> {
    use wire::string_match::MatchType;
    list.into_iter()
        .map(|message| {
            Ok(
                match message.match_type.ok_or(DecodeError::Missing { field })? {
                    MatchType::Exact(text) => StringMatch::Exact(text.into()),
                    MatchType::Prefix(text) => StringMatch::Prefix(text.into()),
                    MatchType::Suffix(text) => StringMatch::Suffix(text.into()),
                    MatchType::Presence(_) => StringMatch::Presence,
                },
            )
        })
        .collect()
}

fn ranges(field: &'static str, list: &[wire::Address]) -> Result<Vec<IpNet>, DecodeError> {
    list.iter()
        .map(|address| range(field, ip(field, &address.address)?, address.length))
        .collect()
}

fn ports(field: &'static str, list: &[u32]) -> Result<Vec<u16>, DecodeError> {
    list.iter().map(|value| port(field, *value)).collect()
}

fn accounts(list: Vec<wire::ServiceAccountMatch>) -> Vec<ServiceAccountMatch> {
    let convert = |m: wire::ServiceAccountMatch| ServiceAccountMatch {
        namespace: m.namespace.into(),
        service_account: m.service_account.into(),
    };
    list.into_iter().map(convert).collect()
}
