//! AuthorizationPolicy.

use std::net::IpAddr;
use std::str::FromStr;

use ipnet::IpNet;

use crate::decode::meta::{NameRule, Scope, meta};
use crate::decode::object::{Field, Object};
use crate::istio::AuthorizationPolicy;
use crate::istio::authorization_policy::{
    PolicyAction, PolicyCondition, PolicyOperation, PolicyRule, PolicySource, PolicyTarget,
    PolicyTargetKind, PolicyTargetRef, Values,
};
use crate::tree::quoted;

pub(super) fn authorization_policy(root: &Field<'_>) -> Option<AuthorizationPolicy> {
    let mut object = root.object()?;
    let meta = meta(&mut object, NameRule::Subdomain, Scope::Namespaced);
    let Some(mut spec) = object.opt("spec").and_then(|f| f.object()) else {
        // No rules: nothing is allowed.
        return Some(AuthorizationPolicy {
            meta,
            target: PolicyTarget::Namespace,
            action: PolicyAction::Allow,
            rules: Vec::new(),
        });
    };
    let target = target(&mut spec);
    let action = action(&mut spec);
    let rule_fields = spec.list("rules");
    let rules: Vec<PolicyRule> = rule_fields.iter().filter_map(rule).collect();
    if action == Some(PolicyAction::Deny) && rule_fields.is_empty() {
        spec.field().invalid(
            "DENY without rules denies nothing",
            "an empty rule, - {}, denies everything".to_owned(),
        );
    }
    Some(AuthorizationPolicy {
        meta,
        target,
        action: action?,
        rules,
    })
}

fn target(spec: &mut Object<'_>) -> PolicyTarget {
    let selector = spec
        .opt("selector")
        .and_then(|f| f.object())
        .map(|mut selector| {
            selector
                .opt("matchLabels")
                .map(|f| f.labels())
                .unwrap_or_default()
        });
    let mut fields = spec.list("targetRefs");
    fields.extend(spec.opt("targetRef"));
    let refs: Vec<PolicyTargetRef> = fields.iter().filter_map(target_ref).collect();
    match (selector, fields.is_empty()) {
        (None, true) => PolicyTarget::Namespace,
        (Some(labels), true) if labels.is_empty() => PolicyTarget::Namespace,
        (Some(labels), true) => PolicyTarget::Selector(labels),
        (None, false) => PolicyTarget::Refs(refs),
        (Some(_), false) => {
            spec.field().invalid(
                "selector and targetRefs exclude each other",
                "give one of them".to_owned(),
            );
            PolicyTarget::Refs(refs)
        }
    }
}

fn target_ref(field: &Field<'_>) -> Option<PolicyTargetRef> {
    let mut object = field.object()?;
    if object.has("namespace") {
        field.invalid(
            "a policy holds for objects of its own namespace",
            "leave namespace out".to_owned(),
        );
    }
    object.skip("namespace");
    let (group, kind) = (
        object.text("group").unwrap_or_default(),
        object.required_name("kind"),
    );
    let name = object.required_name("name");
    let kind = match (group.as_str(), kind.as_str()) {
        ("" | "core", "Service") => PolicyTargetKind::Service,
        ("networking.istio.io", "ServiceEntry") => PolicyTargetKind::ServiceEntry,
        ("gateway.networking.k8s.io", "Gateway") => PolicyTargetKind::Gateway,
        ("gateway.networking.k8s.io", "GatewayClass") => PolicyTargetKind::GatewayClass,
        _ => {
            field.invalid(
                format!(
                    "{} of group {} cannot have a policy",
                    quoted(&kind),
                    quoted(&group)
                ),
                "allowed: Service, ServiceEntry, Gateway, GatewayClass, each with its group"
                    .to_owned(),
            );
            return None;
        }
    };
    Some(PolicyTargetRef { kind, name })
}

fn action(spec: &mut Object<'_>) -> Option<PolicyAction> {
    let provider = spec
        .opt("provider")
        .and_then(|f| f.object())
        .map(|mut o| o.required_name("name"));
    let word = spec.opt("action").map_or(Some("ALLOW"), |f| {
        f.one_of(&[
            ("ALLOW", "ALLOW"),
            ("DENY", "DENY"),
            ("AUDIT", "AUDIT"),
            ("CUSTOM", "CUSTOM"),
        ])
    })?;
    match (word, provider) {
        ("CUSTOM", Some(provider)) => Some(PolicyAction::Custom(provider)),
        ("CUSTOM", None) => {
            spec.missing("provider");
            None
        }
        (_, Some(_)) => {
            spec.field()
                .invalid("provider has a meaning only with action CUSTOM", None);
            None
        }
        ("DENY", None) => Some(PolicyAction::Deny),
        ("AUDIT", None) => Some(PolicyAction::Audit),
        (_, None) => Some(PolicyAction::Allow),
    }
}

fn rule(field: &Field<'_>) -> Option<PolicyRule> {
    let mut object = field.object()?;
    for name in ["from", "to", "when"] {
        let empty = object
            .field()
            .node()
            .entry(name)
            .is_some_and(|e| e.node.is_blank());
        if empty {
            field.invalid(
                format!("{name} is empty"),
                "leave it out to match everything".to_owned(),
            );
        }
    }
    let source = |f: &Field<'_>| f.object().and_then(|mut o| source(&o.required("source")?));
    let operation = |f: &Field<'_>| {
        f.object()
            .and_then(|mut o| operation(&o.required("operation")?))
    };
    Some(PolicyRule {
        from: object.list("from").iter().filter_map(source).collect(),
        to: object.list("to").iter().filter_map(operation).collect(),
        when: object.list("when").iter().filter_map(condition).collect(),
    })
}

fn source(field: &Field<'_>) -> Option<PolicySource> {
    let mut object = field.object()?;
    let source = PolicySource {
        principals: values(&mut object, "principals", "notPrincipals", any_text),
        request_principals: values(
            &mut object,
            "requestPrincipals",
            "notRequestPrincipals",
            any_text,
        ),
        namespaces: values(&mut object, "namespaces", "notNamespaces", any_text),
        trust_domains: values(&mut object, "trustDomains", "notTrustDomains", any_text),
        service_accounts: values(
            &mut object,
            "serviceAccounts",
            "notServiceAccounts",
            service_account,
        ),
        ip_blocks: values(&mut object, "ipBlocks", "notIpBlocks", ip_block),
        remote_ip_blocks: values(&mut object, "remoteIpBlocks", "notRemoteIpBlocks", ip_block),
    };
    if source == PolicySource::default() {
        field.invalid(
            "says nothing",
            "it needs principals, namespaces, ipBlocks or the like".to_owned(),
        );
    }
    let named = !source.principals.is_empty() || !source.namespaces.is_empty();
    if named && !source.service_accounts.is_empty() {
        field.invalid("serviceAccounts exclude principals and namespaces", None);
    }
    Some(source)
}

fn operation(field: &Field<'_>) -> Option<PolicyOperation> {
    let mut object = field.object()?;
    let operation = PolicyOperation {
        hosts: values(&mut object, "hosts", "notHosts", any_text),
        ports: values(&mut object, "ports", "notPorts", port),
        methods: values(&mut object, "methods", "notMethods", any_text),
        paths: values(&mut object, "paths", "notPaths", path),
    };
    if operation == PolicyOperation::default() {
        field.invalid(
            "says nothing",
            "it needs hosts, ports, methods or paths".to_owned(),
        );
    }
    Some(operation)
}

fn condition(field: &Field<'_>) -> Option<PolicyCondition> {
    let mut object = field.object()?;
    let key_field = object.required("key");
    let key = key_field.as_ref().and_then(|f| f.name());
    if let (Some(field), Some(key)) = (&key_field, &key)
        && !is_condition_key(key)
    {
        field.not_one_of(key, CONDITION_KEYS.iter().copied());
    }
    let check = match key.as_deref() {
        Some("source.ip" | "remote.ip" | "destination.ip") => ip_block,
        Some("destination.port") => port,
        _ => any_text,
    };
    let values = values(&mut object, "values", "notValues", check);
    if values.is_empty() {
        object.missing("values");
    }
    Some(PolicyCondition { key: key?, values })
}

fn is_condition_key(key: &str) -> bool {
    let bracketed = |prefix: &str| {
        key.strip_prefix(prefix)
            .is_some_and(|rest| rest.len() > 2 && rest.starts_with('[') && rest.ends_with(']'))
    };
    CONDITION_KEYS.contains(&key)
        || ["request.headers", "request.auth.claims"]
            .into_iter()
            .any(bracketed)
        || key.starts_with("experimental.envoy.filters.")
}

fn values(
    object: &mut Object<'_>,
    any: &'static str,
    none: &'static str,
    check: fn(&Field<'_>) -> Option<String>,
) -> Values {
    let mut read = |name| -> Vec<String> {
        let given = object.opt(name);
        let items = given.as_ref().map(|f| f.items()).unwrap_or_default();
        if let Some(field) = given.filter(|f| f.node().is_blank()) {
            field.invalid("is empty", "leave it out".to_owned());
        }
        items.iter().filter_map(check).collect()
    };
    Values {
        any: read(any),
        none: read(none),
    }
}

fn any_text(field: &Field<'_>) -> Option<String> {
    field.name()
}

fn service_account(field: &Field<'_>) -> Option<String> {
    let text = field.name()?;
    if text.matches('/').count() > 1 || text.contains('*') || text.len() > 320 {
        field.invalid(
            format!("{} is not a service account", quoted(&text)),
            "a name, or namespace/name; no wildcards".to_owned(),
        );
    }
    Some(text)
}

fn ip_block(field: &Field<'_>) -> Option<String> {
    let text = field.name()?;
    if IpAddr::from_str(&text).is_err() && IpNet::from_str(&text).is_err() {
        field.invalid(
            format!("{} is not an address", quoted(&text)),
            "an IP address, or a network like 10.0.0.0/8".to_owned(),
        );
    }
    Some(text)
}

fn port(field: &Field<'_>) -> Option<String> {
    let text = field.name()?;
    if text.parse::<u16>().map_or(true, |n| n == 0) {
        field.invalid(
            format!("{} is not a port", quoted(&text)),
            "a number between 1 and 65535, in quotes".to_owned(),
        );
    }
    Some(text)
}

/// A path, or a template with `{*}` and `{**}`.
fn path(field: &Field<'_>) -> Option<String> {
    let text = field.name()?;
    if text.contains(['{', '}']) {
        let segment = |s: &str| !s.contains(['{', '}']) || s == "{*}" || s == "{**}";
        let twice = text.matches("{**}").count() > 1;
        let last = text
            .split_once("{**}")
            .is_some_and(|(_, after)| after.contains("{*}"));
        if !text.split('/').all(segment)
            || twice
            || last
            || text.contains("*}") && text.replace("{*}", "").replace("{**}", "").contains('*')
        {
            field.invalid(
                format!("{} is not a path template", quoted(&text)),
                "{*} for one segment, {**} once for any number of them, each between slashes"
                    .to_owned(),
            );
        }
    }
    Some(text)
}

const CONDITION_KEYS: &[&str] = &[
    "request.headers",
    "source.ip",
    "remote.ip",
    "source.namespace",
    "source.principal",
    "source.serviceAccount",
    "source.trustDomain",
    "request.auth.principal",
    "request.auth.audiences",
    "request.auth.presenter",
    "request.auth.claims",
    "destination.ip",
    "destination.port",
    "connection.sni",
];
