//! `RouteConfiguration`: virtual hosts, routes and what they match.

use std::collections::HashMap;
use std::sync::Arc;

use http::HeaderValue;
use waymark_proto::any::type_name;
use waymark_proto::envoy::envoy::config::route::v3 as pb;
use waymark_proto::envoy::envoy::extensions::filters::common::fault::v3 as common_fault;
use waymark_proto::envoy::envoy::extensions::filters::http::{
    cors::v3 as cors, fault::v3 as fault,
};
use waymark_proto::envoy::google::protobuf as wkt;
use waymark_proto::type_url;

use super::DecodeError;
use super::at::{At, Notes, unsupported};
use super::headers::Lists;
use super::route_action::{self, Level, Outer};
use super::strings::{pattern, string_match};
use super::values::{flag, fraction, istio_config, positive, runtime_fraction, u32_value, unpack};
use crate::program::{Names, StringMatch};
use crate::route::{
    Action, Cors, Fault, FaultAbort, FaultDelay, Fraction, HeaderKey, HeaderMatch, HeaderTest,
    PathMatch, QueryMatch, Route, RouteMatch, RouteTable, VirtualHost,
};

/// Bodies of direct responses are accepted up to this, whatever (less) the configuration allows: istiod leaves Envoy's
/// limit of 4 KiB in place for routes of a VirtualService, which then are refused by Envoy.
const MAX_DIRECT_BODY_BYTES: u32 = 1 << 20;

pub(super) fn decode(
    names: &mut Names,
    notes: &mut Notes,
    at: At<'_>,
    message: pb::RouteConfiguration,
) -> Result<RouteTable, DecodeError> {
    let pb::RouteConfiguration {
        name,
        virtual_hosts,
        vhds,
        internal_only_headers,
        response_headers_to_add,
        response_headers_to_remove,
        request_headers_to_add,
        request_headers_to_remove,
        most_specific_header_mutations_wins,
        validate_clusters: _, // a cluster may come later
        max_direct_response_body_size_bytes,
        cluster_specifier_plugins,
        request_mirror_policies,
        ignore_port_in_host_matching,
        vhost_header,
        ignore_path_parameters_in_path_matching,
        typed_per_filter_config,
        metadata: _,
        route_specifiers,
    } = message;
    unsupported!(
        at; vhds, internal_only_headers, cluster_specifier_plugins, request_mirror_policies,
        ignore_port_in_host_matching, vhost_header, ignore_path_parameters_in_path_matching, route_specifiers,
    );
    let lists = Lists {
        request_add: request_headers_to_add,
        request_remove: request_headers_to_remove,
        response_add: response_headers_to_add,
        response_remove: response_headers_to_remove,
    };
    let outer = Outer {
        levels: vec![Level::of(lists.decode(at)?)],
        most_specific_wins: most_specific_header_mutations_wins,
        filters: per_filter(at, typed_per_filter_config)?,
        max_direct_body_bytes: u32_value(max_direct_response_body_size_bytes)
            .map_or(MAX_DIRECT_BODY_BYTES, |n| n.max(MAX_DIRECT_BODY_BYTES)),
        ..Outer::default()
    };
    let mut hosts = Vec::with_capacity(virtual_hosts.len());
    for (i, host) in virtual_hosts.into_iter().enumerate() {
        hosts.push(virtual_host(
            names,
            notes,
            at.index("virtual_hosts", i),
            &outer,
            host,
        )?);
    }
    RouteTable::new(name.into(), hosts).map_err(|e| at.field("virtual_hosts").error(e.to_string()))
}

fn virtual_host(
    names: &mut Names,
    notes: &mut Notes,
    at: At<'_>,
    outer: &Outer,
    message: pb::VirtualHost,
) -> Result<VirtualHost, DecodeError> {
    let pb::VirtualHost {
        name,
        domains,
        routes,
        matcher,
        require_tls,
        virtual_clusters,
        rate_limits,
        request_headers_to_add,
        request_headers_to_remove,
        response_headers_to_add,
        response_headers_to_remove,
        cors,
        typed_per_filter_config,
        include_request_attempt_count,
        include_attempt_count_in_response,
        retry_policy,
        retry_policy_typed_config,
        hedge_policy,
        include_is_timeout_retry_header,
        per_request_buffer_limit_bytes,
        request_body_buffer_limit,
        request_mirror_policies,
        metadata: _,
        route_specifiers,
    } = message;
    unsupported!(
        at; matcher, require_tls, rate_limits, cors, include_request_attempt_count, include_attempt_count_in_response,
        retry_policy_typed_config, hedge_policy, include_is_timeout_retry_header, request_mirror_policies,
        route_specifiers,
    );
    notes.add_if(
        &virtual_clusters,
        at.field("virtual_clusters"),
        "no statistics of their own",
    );
    let lists = Lists {
        request_add: request_headers_to_add,
        request_remove: request_headers_to_remove,
        response_add: response_headers_to_add,
        response_remove: response_headers_to_remove,
    };
    let mut inner = outer.clone();
    inner.levels.insert(0, Level::of(lists.decode(at)?));
    inner.filters = per_filter(at, typed_per_filter_config)?.or(&outer.filters);
    inner.retry = retry_policy
        .map(|r| route_action::retry(at.field("retry_policy"), r))
        .transpose()?;
    inner.retry_buffer_bytes =
        buffer_limit(per_request_buffer_limit_bytes, request_body_buffer_limit);
    if domains.is_empty() {
        return Err(at.field("domains").missing());
    }
    let mut compiled = Vec::with_capacity(routes.len());
    for (i, route) in routes.into_iter().enumerate() {
        compiled.push(self::route(
            names,
            notes,
            at.index("routes", i),
            &inner,
            route,
        )?);
    }
    let domains = domains.into_iter().map(Into::into).collect();
    Ok(VirtualHost::new(name.into(), domains, compiled))
}

fn buffer_limit(old: Option<wkt::UInt32Value>, new: Option<wkt::UInt64Value>) -> Option<u32> {
    let new = new.map(|v| u32::try_from(v.value).unwrap_or(u32::MAX));
    new.or_else(|| u32_value(old))
}

fn route(
    names: &mut Names,
    notes: &mut Notes,
    at: At<'_>,
    outer: &Outer,
    message: pb::Route,
) -> Result<Route, DecodeError> {
    use pb::route::Action as A;
    let pb::Route {
        name,
        r#match,
        metadata,
        decorator,
        typed_per_filter_config,
        request_headers_to_add,
        request_headers_to_remove,
        response_headers_to_add,
        response_headers_to_remove,
        tracing,
        per_request_buffer_limit_bytes,
        stat_prefix,
        request_body_buffer_limit,
        route_specifiers,
        action,
    } = message;
    unsupported!(at; route_specifiers);
    notes.add_if(&tracing, at.field("tracing"), "no spans are reported");
    let lists = Lists {
        request_add: request_headers_to_add,
        request_remove: request_headers_to_remove,
        response_add: response_headers_to_add,
        response_remove: response_headers_to_remove,
    };
    let mut inner = outer.clone();
    inner.levels.insert(0, Level::of(lists.decode(at)?));
    inner.filters = per_filter(at, typed_per_filter_config)?.or(&outer.filters);
    inner.retry_buffer_bytes =
        buffer_limit(per_request_buffer_limit_bytes, request_body_buffer_limit)
            .or(outer.retry_buffer_bytes);
    let action = match action {
        Some(A::Route(action)) => {
            let forward = route_action::forward(names, at.field("route"), &inner, action)?;
            Action::Forward(Box::new(forward))
        }
        Some(A::Redirect(action)) => Action::Redirect(Box::new(route_action::redirect(
            at.field("redirect"),
            &inner,
            action,
        )?)),
        Some(A::DirectResponse(action)) => Action::Direct(route_action::direct_response(
            at.field("direct_response"),
            &inner,
            action,
        )?),
        Some(A::FilterAction(_)) => return Err(at.field("filter_action").unsupported()),
        Some(A::NonForwardingAction(_)) => {
            return Err(at.field("non_forwarding_action").unsupported());
        }
        None => return Err(at.error("has no action")),
    };
    let text = |s: String| (!s.is_empty()).then(|| Arc::from(s));
    Ok(Route {
        name: name.into(),
        matches: route_match(
            at.field("match"),
            r#match.ok_or_else(|| at.field("match").missing())?,
        )?,
        action,
        fault: inner.filters.fault,
        cors: inner.filters.cors,
        decorator: decorator.and_then(|d| text(d.operation)),
        config: istio_config(metadata.as_ref()),
        stat_prefix: text(stat_prefix),
    })
}

fn route_match(at: At<'_>, message: pb::RouteMatch) -> Result<RouteMatch, DecodeError> {
    let pb::RouteMatch {
        case_sensitive,
        runtime_fraction: share,
        headers,
        query_parameters,
        cookies,
        grpc,
        tls_context,
        dynamic_metadata,
        filter_state,
        path_specifier,
    } = message;
    unsupported!(at; cookies, tls_context, dynamic_metadata, filter_state);
    let ignore_case = !flag(case_sensitive, true);
    let path = path(at, path_specifier, ignore_case)?;
    let mut out = RouteMatch {
        path,
        headers: Vec::with_capacity(headers.len()),
        query: Vec::with_capacity(query_parameters.len()),
        grpc: grpc.is_some(),
        share: share
            .map(|s| runtime_fraction(at.field("runtime_fraction"), s))
            .transpose()?,
    };
    for (i, header) in headers.into_iter().enumerate() {
        out.headers
            .push(header_match(at.index("headers", i), header)?);
    }
    for (i, parameter) in query_parameters.into_iter().enumerate() {
        out.query
            .push(query_match(at.index("query_parameters", i), parameter)?);
    }
    Ok(out)
}

fn path(
    at: At<'_>,
    specifier: Option<pb::route_match::PathSpecifier>,
    ignore_case: bool,
) -> Result<PathMatch, DecodeError> {
    use pb::route_match::PathSpecifier as P;
    Ok(match specifier {
        Some(P::Prefix(prefix)) => PathMatch::Prefix {
            prefix: prefix.into(),
            ignore_case,
        },
        Some(P::Path(path)) => PathMatch::Exact {
            path: path.into(),
            ignore_case,
        },
        Some(P::SafeRegex(regex)) => PathMatch::Regex(pattern(at.field("safe_regex"), regex)?),
        Some(P::PathSeparatedPrefix(prefix)) => {
            if !prefix.starts_with('/')
                || prefix.len() < 2
                || prefix.ends_with('/')
                || prefix.contains(['?', '#'])
            {
                let why = "must begin with /, and have neither ? nor # nor / at its end";
                return Err(at.field("path_separated_prefix").error(why));
            }
            PathMatch::SeparatedPrefix {
                prefix: prefix.into(),
                ignore_case,
            }
        }
        Some(P::ConnectMatcher(_)) => return Err(at.field("connect_matcher").unsupported()),
        Some(P::PathMatchPolicy(_)) => return Err(at.field("path_match_policy").unsupported()),
        None => return Err(at.error("has no path specifier")),
    })
}

pub(super) fn header_match(
    at: At<'_>,
    message: pb::HeaderMatcher,
) -> Result<HeaderMatch, DecodeError> {
    use pb::header_matcher::HeaderMatchSpecifier as H;
    let pb::HeaderMatcher {
        name,
        invert_match,
        treat_missing_header_as_empty,
        header_match_specifier,
    } = message;
    let plain = |value: String, make: fn(Box<str>, bool) -> StringMatch| {
        HeaderTest::String(make(value.into(), false))
    };
    let test = match header_match_specifier {
        None | Some(H::PresentMatch(true)) => HeaderTest::Present,
        Some(H::PresentMatch(false)) => HeaderTest::Absent,
        Some(H::StringMatch(value)) => {
            HeaderTest::String(string_match(at.field("string_match"), value)?)
        }
        Some(H::RangeMatch(range)) => HeaderTest::Range {
            start: range.start,
            end: range.end,
        },
        Some(H::SafeRegexMatch(regex)) => HeaderTest::String(StringMatch::Regex(pattern(
            at.field("safe_regex_match"),
            regex,
        )?)),
        Some(H::ExactMatch(value)) => plain(value, |value, ignore_case| StringMatch::Exact {
            value,
            ignore_case,
        }),
        Some(H::PrefixMatch(value)) => plain(value, |value, ignore_case| StringMatch::Prefix {
            value,
            ignore_case,
        }),
        Some(H::SuffixMatch(value)) => plain(value, |value, ignore_case| StringMatch::Suffix {
            value,
            ignore_case,
        }),
        Some(H::ContainsMatch(value)) => plain(value, |value, ignore_case| StringMatch::Contains {
            value,
            ignore_case,
        }),
    };
    Ok(HeaderMatch {
        name: HeaderKey::parse(&name).map_err(|e| at.field("name").error(e))?,
        test,
        invert: invert_match,
        missing_is_empty: treat_missing_header_as_empty,
    })
}

fn query_match(at: At<'_>, message: pb::QueryParameterMatcher) -> Result<QueryMatch, DecodeError> {
    use pb::query_parameter_matcher::QueryParameterMatchSpecifier as Q;
    let pb::QueryParameterMatcher {
        name,
        query_parameter_match_specifier,
    } = message;
    if name.is_empty() {
        return Err(at.field("name").missing());
    }
    let value = match query_parameter_match_specifier {
        None | Some(Q::PresentMatch(true)) => None,
        Some(Q::PresentMatch(false)) => {
            return Err(at.field("present_match").error("false is not supported"));
        }
        Some(Q::StringMatch(value)) => Some(string_match(at.field("string_match"), value)?),
    };
    Ok(QueryMatch {
        name: name.into(),
        value,
    })
}

/// What filters are told about one route, virtual host or route configuration.
#[derive(Default, Clone)]
pub(super) struct PerFilter {
    pub(super) fault: Option<Fault>,
    pub(super) cors: Option<Cors>,
}

impl PerFilter {
    /// What is not said here is said by the level above.
    fn or(self, above: &PerFilter) -> PerFilter {
        PerFilter {
            fault: self.fault.or_else(|| above.fault.clone()),
            cors: self.cors.or_else(|| above.cors.clone()),
        }
    }
}

fn per_filter(at: At<'_>, configs: HashMap<String, wkt::Any>) -> Result<PerFilter, DecodeError> {
    let mut out = PerFilter::default();
    for (key, any) in &configs {
        let at = at.key("typed_per_filter_config", key);
        match any.type_url.as_str() {
            type_url::FAULT => out.fault = Some(fault(at, unpack(at, any)?)?),
            type_url::CORS_POLICY => out.cors = Some(cors(at, unpack(at, any)?)?),
            other => return Err(at.error(format!("{} is not supported", type_name(other)))),
        }
    }
    Ok(out)
}

fn fault(at: At<'_>, message: fault::HttpFault) -> Result<Fault, DecodeError> {
    let fault::HttpFault {
        delay,
        abort,
        upstream_cluster,
        headers,
        downstream_nodes,
        max_active_faults,
        response_rate_limit,
        delay_percent_runtime: _, // there is no runtime that overrides
        abort_percent_runtime: _,
        delay_duration_runtime: _,
        abort_http_status_runtime: _,
        max_active_faults_runtime: _,
        response_rate_limit_percent_runtime: _,
        abort_grpc_status_runtime: _,
        disable_downstream_cluster_stats: _,
        filter_metadata: _,
    } = message;
    unsupported!(at; upstream_cluster, headers, downstream_nodes, max_active_faults, response_rate_limit);
    let delay = delay
        .map(|d| fault_delay(at.field("delay"), d))
        .transpose()?;
    let abort = abort
        .map(|a| fault_abort(at.field("abort"), a))
        .transpose()?;
    Ok(Fault { delay, abort })
}

/// An absent percentage is never.
fn share(
    at: At<'_>,
    value: Option<waymark_proto::envoy::envoy::r#type::v3::FractionalPercent>,
) -> Result<Fraction, DecodeError> {
    value.map_or(
        Ok(Fraction {
            numerator: 0,
            denominator: 100,
        }),
        |p| fraction(at, p),
    )
}

fn fault_delay(at: At<'_>, message: common_fault::FaultDelay) -> Result<FaultDelay, DecodeError> {
    use common_fault::fault_delay::FaultDelaySecifier as D;
    let common_fault::FaultDelay {
        percentage,
        fault_delay_secifier,
    } = message;
    let fixed = match fault_delay_secifier {
        Some(D::FixedDelay(d)) => positive(at.field("fixed_delay"), &d)?,
        Some(D::HeaderDelay(_)) => return Err(at.field("header_delay").unsupported()),
        None => return Err(at.field("fixed_delay").missing()),
    };
    Ok(FaultDelay {
        fixed,
        share: share(at.field("percentage"), percentage)?,
    })
}

fn fault_abort(at: At<'_>, message: fault::FaultAbort) -> Result<FaultAbort, DecodeError> {
    use fault::fault_abort::ErrorType as E;
    let fault::FaultAbort {
        percentage,
        response_body,
        error_type,
    } = message;
    unsupported!(at; response_body);
    let share = share(at.field("percentage"), percentage)?;
    match error_type {
        Some(E::HttpStatus(status)) => {
            let status = route_action::status(at.field("http_status"), status, 200..=599)?;
            Ok(FaultAbort::Http { status, share })
        }
        Some(E::GrpcStatus(status)) => Ok(FaultAbort::Grpc { status, share }),
        Some(E::HeaderAbort(_)) => Err(at.field("header_abort").unsupported()),
        None => Err(at.error("has no status")),
    }
}

fn cors(at: At<'_>, message: cors::CorsPolicy) -> Result<Cors, DecodeError> {
    let cors::CorsPolicy {
        allow_origin_string_match,
        allow_methods,
        allow_headers,
        expose_headers,
        max_age,
        allow_credentials,
        filter_enabled,
        shadow_enabled: _, // only counts
        allow_private_network_access,
        forward_not_matching_preflights,
    } = message;
    if flag(allow_private_network_access, false) {
        return Err(at.field("allow_private_network_access").unsupported());
    }
    let mut allow_origins = Vec::with_capacity(allow_origin_string_match.len());
    for (i, origin) in allow_origin_string_match.into_iter().enumerate() {
        allow_origins.push(string_match(
            at.index("allow_origin_string_match", i),
            origin,
        )?);
    }
    let value = |name: &'static str, text: String| match text.is_empty() {
        true => Ok(None),
        false => match HeaderValue::try_from(text) {
            Ok(value) => Ok(Some(value)),
            Err(_) => Err(at.field(name).error("is not a header value")),
        },
    };
    Ok(Cors {
        allow_origins,
        allow_methods: value("allow_methods", allow_methods)?,
        allow_headers: value("allow_headers", allow_headers)?,
        expose_headers: value("expose_headers", expose_headers)?,
        max_age: value("max_age", max_age)?,
        allow_credentials: flag(allow_credentials, false),
        enabled: filter_enabled.map_or(Ok(Fraction::ALL), |f| {
            runtime_fraction(at.field("filter_enabled"), f)
        })?,
        forward_not_matching_preflights: flag(forward_not_matching_preflights, true),
    })
}
