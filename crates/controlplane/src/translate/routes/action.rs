//! What a route does with a request.

use std::time::Duration;

use waymark_api::istio::destination_rule::HashKey;
use waymark_api::istio::virtual_service::{
    DirectResponse, HttpDestination, HttpMatch, HttpRule, Mirror, Redirect, RedirectPort,
    RewritePath,
};
use waymark_api::matcher::{Fraction, Scheme, StringMatch};

use super::super::gateway_api::PREFIX_REDIRECT;
use super::super::input::{Context, Flavour, Semantics};
use super::super::wire::{bool_value, core, duration, envoy_type, route, u32_value};
use super::destination::{self, Resolved};
use super::retry::{self, PreviousHosts};
use super::{Scope, headers, matches};
use route::route_action::{
    ClusterSpecifier, HashPolicy, HostRewriteSpecifier, RequestMirrorPolicy,
};
use route::{RouteAction, weighted_cluster::ClusterWeight};

/// Timeouts, and what is answered where the cluster does not exist.
pub(super) fn to_cluster(
    ctx: Context<'_>,
    timeout: Option<Duration>,
    semantics: Semantics,
) -> RouteAction {
    use route::route_action::ClusterNotFoundResponseCode;
    let timeout = duration(timeout.unwrap_or_default());
    let mut action = RouteAction {
        timeout: Some(timeout),
        cluster_not_found_response_code: match semantics {
            Semantics::VirtualService => ClusterNotFoundResponseCode::ServiceUnavailable,
            Semantics::GatewayApi => ClusterNotFoundResponseCode::InternalServerError,
        } as i32,
        ..Default::default()
    };
    set_grpc_timeout(&mut action, ctx.proxy.flavour, timeout);
    action
}

/// A gRPC client's own deadline holds, up to the route's timeout.
///
/// istiod says so with a field that Envoy has deprecated. Its successor counts from the start of the stream, not from the
/// end of the request, and ends it with DEADLINE_EXCEEDED instead of UNAVAILABLE: what gRPC itself would do. But Envoy
/// then leaves the route's own `timeout` out of account, for all requests (measured on 1.40), so that the stock flavour
/// uses it where there is none.
#[expect(deprecated, reason = "istiod sends it")]
fn set_grpc_timeout(
    action: &mut RouteAction,
    flavour: Flavour,
    timeout: super::super::wire::protobuf::Duration,
) {
    match flavour {
        Flavour::Stock if timeout.seconds == 0 && timeout.nanos == 0 => {
            action.max_stream_duration = Some(route::route_action::MaxStreamDuration {
                grpc_timeout_header_max: Some(timeout),
                ..Default::default()
            });
        }
        Flavour::Stock | Flavour::IstioProxy => action.max_grpc_timeout = Some(timeout),
    }
}

/// The action of a rule with destinations and, if all requests go to one cluster, its host and port.
pub(super) fn forward(
    scope: Scope<'_>,
    rule: &HttpRule,
    condition: Option<&HttpMatch>,
    destinations: &[HttpDestination],
    route: &mut route::Route,
) -> (RouteAction, Option<(String, u16)>) {
    let mut action = to_cluster(scope.ctx, rule.timeout, scope.semantics());
    let mut host = rule.headers.request.host.clone();
    if let Some(rewrite) = &rule.rewrite {
        if let Some(path) = &rewrite.path {
            rewrite_path(&mut action, path, condition, scope.semantics());
        }
        host = rewrite.authority.clone().or(host);
    }
    action.request_mirror_policies = rule
        .mirrors
        .iter()
        .filter_map(|mirror| mirror_policy(scope, mirror))
        .collect();
    let mut previous_hosts = PreviousHosts::Avoid;
    let mut only = None;
    if let [single] = destinations {
        let Resolved {
            cluster,
            host: name,
            port,
            hash_key,
        } = destination::resolve(scope, &single.destination);
        headers::apply_to_route(route, &single.headers);
        host = host.or_else(|| single.headers.request.host.clone());
        action.cluster_specifier = Some(ClusterSpecifier::Cluster(cluster));
        action.hash_policy = hash_key.map(hash_policy).into_iter().collect();
        if hash_key.is_some() {
            previous_hosts = PreviousHosts::Allow;
        }
        only = Some((name, port));
    } else {
        let mut clusters = Vec::new();
        for weighted in destinations.iter().filter(|weighted| weighted.weight > 0) {
            let resolved = destination::resolve(scope, &weighted.destination);
            let mut cluster = ClusterWeight {
                name: resolved.cluster,
                weight: Some(u32_value(weighted.weight)),
                ..Default::default()
            };
            headers::apply_to_destination(&mut cluster, &weighted.headers);
            clusters.push(cluster);
            action
                .hash_policy
                .extend(resolved.hash_key.map(hash_policy));
        }
        action.cluster_specifier =
            Some(ClusterSpecifier::WeightedClusters(route::WeightedCluster {
                clusters,
                ..Default::default()
            }));
    }
    action.host_rewrite_specifier = host.map(HostRewriteSpecifier::HostRewriteLiteral);
    action.retry_policy = retry::policy(scope.ctx.mesh, rule.retries.as_ref(), previous_hosts);
    (action, only)
}

fn rewrite_path(
    action: &mut RouteAction,
    path: &RewritePath,
    condition: Option<&HttpMatch>,
    semantics: Semantics,
) {
    match path {
        RewritePath::Uri(uri) => match (
            semantics,
            condition.and_then(|condition| condition.uri.as_ref()),
        ) {
            // Replacing a prefix by nothing would leave the slash behind it twice, or none at all.
            (Semantics::GatewayApi, Some(StringMatch::Prefix(prefix))) if uri == "/" => {
                let prefix = regex::escape(prefix.strip_suffix('/').unwrap_or(prefix));
                action.regex_rewrite = Some(substitution(&format!("^{prefix}(/?)(.*)"), r"/\2"));
            }
            _ => action.prefix_rewrite.clone_from(uri),
        },
        RewritePath::Regex {
            pattern,
            substitution: by,
        } => {
            action.regex_rewrite = Some(substitution(pattern.as_str(), by));
        }
    }
}

fn substitution(pattern: &str, by: &str) -> envoy_type::matcher::v3::RegexMatchAndSubstitute {
    envoy_type::matcher::v3::RegexMatchAndSubstitute {
        pattern: Some(matches::safe_regex(pattern)),
        substitution: by.to_owned(),
    }
}

fn mirror_policy(scope: Scope<'_>, mirror: &Mirror) -> Option<RequestMirrorPolicy> {
    if mirror.fraction.millionths() == 0 {
        return None;
    }
    Some(RequestMirrorPolicy {
        cluster: destination::resolve(scope, &mirror.destination).cluster,
        runtime_fraction: Some(core::RuntimeFractionalPercent {
            default_value: Some(percent(mirror.fraction)),
            ..Default::default()
        }),
        trace_sampled: Some(bool_value(false)),
        disable_shadow_host_suffix_append: true,
        ..Default::default()
    })
}

/// `numerator 100` (of a hundred) for everything, else millionths.
pub(super) fn percent(fraction: Fraction) -> envoy_type::v3::FractionalPercent {
    if fraction == Fraction::ALL {
        return envoy_type::v3::FractionalPercent {
            numerator: 100,
            ..Default::default()
        };
    }
    millionths(fraction)
}

/// Always millionths.
pub(super) fn millionths(fraction: Fraction) -> envoy_type::v3::FractionalPercent {
    use envoy_type::v3::fractional_percent::DenominatorType;
    envoy_type::v3::FractionalPercent {
        numerator: fraction.millionths(),
        denominator: DenominatorType::Million as i32,
    }
}

/// What requests are spread by.
pub(super) fn hash_policy(key: &HashKey) -> HashPolicy {
    use route::route_action::hash_policy::{
        ConnectionProperties, Cookie, Header, PolicySpecifier, QueryParameter,
    };
    let specifier = match key {
        HashKey::Header(name) => PolicySpecifier::Header(Header {
            header_name: name.clone(),
            ..Default::default()
        }),
        HashKey::Cookie { name, path, ttl } => PolicySpecifier::Cookie(Cookie {
            name: name.clone(),
            path: path.clone().unwrap_or_default(),
            ttl: ttl.map(duration),
            ..Default::default()
        }),
        HashKey::SourceIp => {
            PolicySpecifier::ConnectionProperties(ConnectionProperties { source_ip: true })
        }
        HashKey::QueryParameter(name) => {
            PolicySpecifier::QueryParameter(QueryParameter { name: name.clone() })
        }
    };
    HashPolicy {
        policy_specifier: Some(specifier),
        ..Default::default()
    }
}

// ---- answers without an endpoint ----

/// A redirect. `port` is that of the service.
pub(super) fn redirect(
    redirect: &Redirect,
    port: u16,
    semantics: Semantics,
) -> route::RedirectAction {
    use route::redirect_action::{PathRewriteSpecifier, SchemeRewriteSpecifier};
    let uri = redirect.uri.as_deref().unwrap_or_default();
    let path = match (semantics, uri.strip_prefix(PREFIX_REDIRECT)) {
        (Semantics::GatewayApi, Some(prefix)) => {
            PathRewriteSpecifier::PrefixRewrite(prefix.to_owned())
        }
        _ => PathRewriteSpecifier::PathRedirect(uri.to_owned()),
    };
    route::RedirectAction {
        host_redirect: redirect.authority.clone().unwrap_or_default(),
        path_rewrite_specifier: Some(path),
        scheme_rewrite_specifier: redirect
            .scheme
            .map(|scheme| SchemeRewriteSpecifier::SchemeRedirect(scheme.as_str().to_owned())),
        port_redirect: redirect_port(redirect, port),
        response_code: response_code(redirect.code) as i32,
        ..Default::default()
    }
}

/// The port of a scheme is not written.
fn redirect_port(redirect: &Redirect, port: u16) -> u32 {
    let port = match redirect.port {
        RedirectPort::Unset | RedirectPort::FromProtocolDefault => return 0,
        RedirectPort::Number(number) => number,
        RedirectPort::FromRequestPort => port,
    };
    if port == redirect.scheme.unwrap_or(Scheme::Http).default_port() {
        0
    } else {
        u32::from(port)
    }
}

fn response_code(code: u16) -> route::redirect_action::RedirectResponseCode {
    use route::redirect_action::RedirectResponseCode;
    match code {
        302 => RedirectResponseCode::Found,
        303 => RedirectResponseCode::SeeOther,
        307 => RedirectResponseCode::TemporaryRedirect,
        308 => RedirectResponseCode::PermanentRedirect,
        // The only other one that the API admits, and Istio's default.
        _ => RedirectResponseCode::MovedPermanently,
    }
}

/// An answer of the waypoint's own.
pub(super) fn direct_response(response: &DirectResponse) -> route::DirectResponseAction {
    use core::data_source::Specifier;
    let body = response
        .body
        .as_ref()
        .map(|body| match std::str::from_utf8(body) {
            Ok(text) => Specifier::InlineString(text.to_owned()),
            Err(_) => Specifier::InlineBytes(body.clone()),
        });
    route::DirectResponseAction {
        status: u32::from(response.status),
        body: body.map(|specifier| core::DataSource {
            specifier: Some(specifier),
            ..Default::default()
        }),
        ..Default::default()
    }
}

/// How long the body of a route's own answer is.
pub(super) fn direct_response_length(route: &route::Route) -> usize {
    use core::data_source::Specifier;
    let Some(route::route::Action::DirectResponse(response)) = &route.action else {
        return 0;
    };
    match response
        .body
        .as_ref()
        .and_then(|body| body.specifier.as_ref())
    {
        Some(Specifier::InlineString(text)) => text.len(),
        Some(Specifier::InlineBytes(bytes)) => bytes.len(),
        Some(_) | None => 0,
    }
}
