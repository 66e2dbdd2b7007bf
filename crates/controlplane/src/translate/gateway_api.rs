//! HTTPRoutes of services, as the virtual services that they amount to.
//!
//! Routes of one namespace that are attached to one service (and, if they say so, to one of its ports) become one
//! virtual service, whose rules are sorted by how much they ask for.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::Arc;

use waymark_api::gateway::{
    BackendKind, BackendRef, HttpBackendRef, HttpRoute, HttpRouteFilters, HttpRouteMatch,
    HttpRouteRedirect, HttpRouteRetry, HttpRouteRule, ParentKind, PathMatch, PathModifier,
    UrlRewrite, ValueMatch,
};
use waymark_api::host::{Host, service_host};
use waymark_api::istio::virtual_service::{
    Destination, DirectResponse, Headers, HttpAction, HttpDestination, HttpMatch, HttpRule, Mirror,
    Redirect, RedirectPort, Retries, RetryCondition, Rewrite, RewritePath,
};
use waymark_api::istio::{ExportTo, VirtualService};
use waymark_api::matcher::{RegexText, StringMatch};
use waymark_api::meta::ObjectMeta;
use waymark_api::names::MESH_GATEWAY;

use super::input::{Semantics, VirtualServiceInput};

/// Marks a redirect whose path replaces the prefix that matched.
pub(super) const PREFIX_REDIRECT: &str = "%PREFIX()%";

/// What routes are attached to.
#[derive(Debug, Clone, Copy)]
pub struct Parent<'a> {
    /// Service or ServiceEntry.
    pub kind: ParentKind,
    /// Its namespace.
    pub namespace: &'a str,
    /// Its name.
    pub name: &'a str,
    /// The host that the rules are for: the service's, or one of the entry's.
    pub host: &'a str,
}

/// The virtual services that `routes` make for a parent; routes of other parents are passed over.
///
/// Which namespaces' routes hold on a waypoint (those of the service's namespace and of its own) is the caller's to say.
#[must_use]
pub fn convert(parent: Parent<'_>, routes: &[Arc<HttpRoute>]) -> Vec<VirtualServiceInput> {
    let mut merged: BTreeMap<(&str, Option<u16>), Vec<&HttpRoute>> = BTreeMap::new();
    for route in routes {
        for port in attachments(route, parent) {
            merged
                .entry((&route.meta.namespace, port))
                .or_default()
                .push(route);
        }
    }
    merged
        .into_iter()
        .filter_map(|((namespace, port), routes)| {
            virtual_service(parent.host, namespace, port, routes)
        })
        .collect()
}

/// The ports for which a route is attached, each once; `None` is all of them.
fn attachments(route: &HttpRoute, parent: Parent<'_>) -> std::collections::BTreeSet<Option<u16>> {
    route
        .parent_refs
        .iter()
        .filter(|reference| {
            reference.kind == parent.kind
                && reference.name == parent.name
                && reference
                    .namespace
                    .as_deref()
                    .unwrap_or(&route.meta.namespace)
                    == parent.namespace
        })
        .map(|reference| reference.port)
        .collect()
}

fn virtual_service(
    host: &str,
    namespace: &str,
    port: Option<u16>,
    mut routes: Vec<&HttpRoute>,
) -> Option<VirtualServiceInput> {
    routes.sort_by(|left, right| left.meta.age_key().cmp(&right.meta.age_key()));
    let oldest = routes.first()?;
    let mut rules: Vec<HttpRule> = routes
        .iter()
        .flat_map(|route| route_rules(route, port))
        .collect();
    rules.sort_by_key(|rule| Reverse(precedence(rule)));
    let name = match port {
        Some(port) => format!("{namespace}~{port}~{host}"),
        None => format!("{namespace}~{host}"),
    };
    let mut meta = ObjectMeta::named(namespace, name);
    meta.creation_timestamp = oldest.meta.creation_timestamp;
    Some(VirtualServiceInput {
        spec: Arc::new(VirtualService {
            meta,
            hosts: Host::parse(host).into_iter().collect(),
            gateways: vec![MESH_GATEWAY.to_owned()],
            http: rules,
            export_to: ExportTo::All,
        }),
        semantics: Semantics::GatewayApi,
    })
}

/// Kind and length of the path, a method, number of headers, number of query parameters; the greatest comes first.
fn precedence(rule: &HttpRule) -> (u8, usize, bool, usize, usize) {
    let Some(condition) = rule.matches.first() else {
        return (0, 0, false, 0, 0);
    };
    let (kind, length) = match &condition.uri {
        Some(StringMatch::Exact(path)) => (3, path.len()),
        Some(StringMatch::Prefix(path)) => (2, path.len()),
        Some(StringMatch::Regex(path)) => (1, path.as_str().len()),
        Some(StringMatch::Present) | None => (0, 0),
    };
    (
        kind,
        length,
        condition.method.is_some(),
        condition.headers.len(),
        condition.query_params.len(),
    )
}

/// One rule for each match of each rule.
fn route_rules(route: &HttpRoute, port: Option<u16>) -> impl Iterator<Item = HttpRule> {
    route
        .rules
        .iter()
        .enumerate()
        .flat_map(move |(index, rule)| {
            let name = rule
                .name
                .clone()
                .unwrap_or_else(|| format!("{}.{}.{index}", route.meta.namespace, route.meta.name));
            let converted = http_rule(route, rule, name);
            let everything = rule.matches.is_empty().then(|| http_match(None, port));
            let conditions = rule
                .matches
                .iter()
                .map(move |condition| http_match(Some(condition), port));
            everything
                .into_iter()
                .chain(conditions)
                .map(move |condition| HttpRule {
                    matches: vec![condition],
                    ..converted.clone()
                })
                .collect::<Vec<_>>()
        })
}

fn http_match(condition: Option<&HttpRouteMatch>, port: Option<u16>) -> HttpMatch {
    let Some(condition) = condition else {
        return HttpMatch {
            uri: Some(StringMatch::Prefix("/".to_owned())),
            port,
            ..HttpMatch::default()
        };
    };
    let value = |value: &ValueMatch| match value {
        ValueMatch::Exact(text) => StringMatch::Exact(text.clone()),
        ValueMatch::Regex(regex) => StringMatch::Regex(regex.clone()),
    };
    HttpMatch {
        uri: Some(match &condition.path {
            PathMatch::Exact(path) => StringMatch::Exact(path.clone()),
            PathMatch::Prefix(path) => StringMatch::Prefix(path.clone()),
            PathMatch::Regex(regex) => StringMatch::Regex(regex.clone()),
        }),
        method: condition.method.clone().map(StringMatch::Exact),
        headers: condition
            .headers
            .iter()
            .map(|(name, of)| (name.clone(), value(of)))
            .collect(),
        query_params: condition
            .query_params
            .iter()
            .map(|(name, of)| (name.clone(), value(of)))
            .collect(),
        port,
        ..HttpMatch::default()
    }
}

fn http_rule(route: &HttpRoute, rule: &HttpRouteRule, name: String) -> HttpRule {
    let HttpRouteFilters {
        request_headers,
        response_headers,
        redirect,
        rewrite,
        mirrors,
    } = &rule.filters;
    let some = |timeout: Option<std::time::Duration>| timeout.filter(|timeout| !timeout.is_zero());
    let (request, backend) = (
        some(rule.request_timeout),
        some(rule.backend_request_timeout),
    );
    HttpRule {
        name: Some(name),
        matches: Vec::new(),
        action: match redirect {
            Some(redirect) => HttpAction::Redirect(redirect_action(redirect)),
            None => backends(route, &rule.backend_refs),
        },
        rewrite: rewrite.as_ref().map(url_rewrite),
        // Without retries there is one try, and its timeout takes the place of the request's.
        timeout: if rule.retry.is_some() {
            request
        } else {
            backend.or(request)
        },
        retries: rule.retry.as_ref().map(|retry| retries(retry, backend)),
        headers: Headers {
            request: request_headers.clone(),
            response: response_headers.clone(),
        },
        fault: None,
        cors: None,
        mirrors: mirrors
            .iter()
            .filter_map(|mirror| {
                Some(Mirror {
                    destination: destination(route, &mirror.backend)?,
                    fraction: mirror.fraction,
                })
            })
            .collect(),
    }
}

/// No backend at all, or none with a weight, is the server's fault.
fn backends(route: &HttpRoute, backends: &[HttpBackendRef]) -> HttpAction {
    let destinations: Vec<HttpDestination> = backends
        .iter()
        .filter(|backend| backend.weight > 0)
        .filter_map(|backend| {
            Some(HttpDestination {
                destination: destination(route, &backend.backend)?,
                weight: backend.weight,
                headers: Headers {
                    request: backend.filters.request_headers.clone(),
                    response: backend.filters.response_headers.clone(),
                },
            })
        })
        .collect();
    if destinations.is_empty() {
        return HttpAction::DirectResponse(DirectResponse {
            status: 500,
            body: None,
        });
    }
    HttpAction::Route(destinations)
}

fn destination(route: &HttpRoute, backend: &BackendRef) -> Option<Destination> {
    let namespace = backend
        .namespace
        .as_deref()
        .unwrap_or(&route.meta.namespace);
    let host = match backend.kind {
        BackendKind::Service => Host::parse(&service_host(&backend.name, namespace)),
        BackendKind::Hostname => Host::parse(&backend.name),
    };
    // The API admits only names that are hosts.
    Some(Destination {
        host: host.ok()?,
        subset: None,
        port: Some(backend.port),
    })
}

fn redirect_action(redirect: &HttpRouteRedirect) -> Redirect {
    Redirect {
        uri: redirect.path.as_ref().map(|path| match path {
            PathModifier::Full(path) => path.clone(),
            PathModifier::Prefix(prefix) => format!("{PREFIX_REDIRECT}{prefix}"),
        }),
        authority: redirect
            .hostname
            .as_ref()
            .map(|host| host.as_str().to_owned()),
        port: match (redirect.port, redirect.scheme) {
            (Some(port), _) => RedirectPort::Number(port),
            (None, Some(_)) => RedirectPort::FromProtocolDefault,
            (None, None) => RedirectPort::FromRequestPort,
        },
        scheme: redirect.scheme,
        code: redirect.status,
    }
}

fn url_rewrite(rewrite: &UrlRewrite) -> Rewrite {
    Rewrite {
        path: rewrite.path.as_ref().and_then(|path| match path {
            PathModifier::Prefix(prefix) => {
                let prefix = prefix.strip_suffix('/').unwrap_or(prefix);
                Some(RewritePath::Uri(if prefix.is_empty() {
                    "/".to_owned()
                } else {
                    prefix.to_owned()
                }))
            }
            PathModifier::Full(path) => Some(RewritePath::Regex {
                pattern: RegexText::new("/.*").ok()?,
                substitution: path.replace('\\', r"\\"),
            }),
        }),
        authority: rewrite
            .hostname
            .as_ref()
            .map(|host| host.as_str().to_owned()),
    }
}

fn retries(retry: &HttpRouteRetry, per_try_timeout: Option<std::time::Duration>) -> Retries {
    let conditions = vec![
        RetryCondition::ConnectFailure,
        RetryCondition::RefusedStream,
        RetryCondition::Unavailable,
        RetryCondition::Cancelled,
    ];
    let text = conditions
        .iter()
        .map(|condition| condition.as_str().to_owned());
    let codes = retry.codes.iter().map(ToString::to_string);
    Retries {
        attempts: retry.attempts.unwrap_or(DEFAULT_ATTEMPTS),
        per_try_timeout,
        retry_on: Some(text.chain(codes).collect::<Vec<_>>().join(",")),
        conditions,
        codes: retry.codes.clone(),
        retry_remote_localities: false,
        ignore_previous_hosts: true,
        backoff: retry.backoff,
    }
}

/// Of a retry stanza that gives no number.
const DEFAULT_ATTEMPTS: u32 = 2;
