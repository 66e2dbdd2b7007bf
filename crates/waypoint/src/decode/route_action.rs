//! What routes do: forward, redirect, answer.

use std::ops::RangeInclusive;
use std::time::Duration;

use http::{HeaderName, HeaderValue, StatusCode};
use waymark_proto::any::type_name;
use waymark_proto::envoy::envoy::config::core::v3 as core;
use waymark_proto::envoy::envoy::config::route::v3 as pb;
use waymark_proto::type_url;

use super::DecodeError;
use super::at::{At, IsSet, unsupported};
use super::headers::Lists;
use super::routes::PerFilter;
use super::strings::regex_rewrite;
use super::values::{duration, flag, inline_bytes, positive, timer, u32_value};
use crate::program::Names;
use crate::route::{
    BackOff, Clusters, Destination, DirectResponse, Forward, ForwardTimeouts, HeaderEdits,
    HeaderOps, PathRewrite, Redirect, RedirectPath, RetryOn, RetryPolicy, Weighted,
};

/// Envoy's default for a route without `timeout`.
const ROUTE_TIMEOUT: Duration = Duration::from_secs(15);

/// Header operations of one level.
#[derive(Default, Clone)]
pub(super) struct Level {
    request: HeaderOps,
    response: HeaderOps,
}

impl Level {
    pub(super) fn of((request, response): (HeaderOps, HeaderOps)) -> Self {
        Self { request, response }
    }
}

/// What the levels around an action say.
#[derive(Default, Clone)]
pub(super) struct Outer {
    /// The most specific first.
    pub(super) levels: Vec<Level>,
    /// The most specific level is applied last, so that it wins.
    pub(super) most_specific_wins: bool,
    pub(super) filters: PerFilter,
    pub(super) retry: Option<RetryPolicy>,
    pub(super) retry_buffer_bytes: Option<u32>,
    pub(super) max_direct_body_bytes: u32,
}

impl Outer {
    /// All levels in the order they are applied, `own` being the most specific one.
    fn edits(&self, own: Level) -> HeaderEdits {
        let mut edits = HeaderEdits {
            request: own.request,
            response: own.response,
        };
        for level in &self.levels {
            edits = if self.most_specific_wins {
                HeaderEdits {
                    request: level.request.then(&edits.request),
                    response: level.response.then(&edits.response),
                }
            } else {
                HeaderEdits {
                    request: edits.request.then(&level.request),
                    response: edits.response.then(&level.response),
                }
            };
        }
        edits
    }
}

pub(super) fn forward(
    names: &mut Names,
    at: At<'_>,
    outer: &Outer,
    message: pb::RouteAction,
) -> Result<Forward, DecodeError> {
    let pb::RouteAction {
        cluster_not_found_response_code,
        metadata_match,
        prefix_rewrite,
        regex_rewrite: regex,
        path_rewrite_policy,
        path_rewrite,
        append_x_forwarded_host,
        timeout,
        idle_timeout,
        flush_timeout,
        early_data_policy: _, // there is no early data
        retry_policy,
        retry_policy_typed_config,
        request_mirror_policies,
        priority,
        rate_limits,
        include_vh_rate_limits: _, // only with rate limits
        hash_policy,
        cors,
        max_grpc_timeout,
        grpc_timeout_offset,
        upgrade_configs,
        internal_redirect_policy,
        internal_redirect_action,
        max_internal_redirects,
        hedge_policy,
        max_stream_duration,
        cluster_specifier,
        host_rewrite_specifier,
    } = message;
    unsupported!(
        at; metadata_match, path_rewrite_policy, path_rewrite, append_x_forwarded_host, flush_timeout,
        retry_policy_typed_config, request_mirror_policies, rate_limits, hash_policy, cors, grpc_timeout_offset,
        internal_redirect_policy, internal_redirect_action, max_internal_redirects, hedge_policy,
    );
    let path_rewrite = match (prefix_rewrite.is_empty(), regex) {
        (true, None) => None,
        (false, None) => Some(PathRewrite::Prefix(prefix_rewrite.into())),
        (true, Some(regex)) => Some(PathRewrite::Regex(regex_rewrite(
            at.field("regex_rewrite"),
            regex,
        )?)),
        (false, Some(_)) => {
            return Err(at
                .field("regex_rewrite")
                .error("is set beside prefix_rewrite"));
        }
    };
    let high_priority = match core::RoutingPriority::try_from(priority) {
        Ok(priority) => priority == core::RoutingPriority::High,
        Err(_) => return Err(at.field("priority").unsupported()),
    };
    Ok(Forward {
        clusters: clusters(names, at, outer, cluster_specifier)?,
        cluster_not_found: cluster_not_found(at, cluster_not_found_response_code)?,
        path_rewrite,
        host_rewrite: host_rewrite(at, host_rewrite_specifier)?,
        timeouts: timeouts(
            at,
            timeout,
            idle_timeout,
            max_grpc_timeout,
            max_stream_duration,
        )?,
        retry: match retry_policy {
            Some(policy) => Some(retry(at.field("retry_policy"), policy)?),
            None => outer.retry.clone(),
        },
        upgrades: upgrades(at, upgrade_configs)?,
        retry_buffer_bytes: outer.retry_buffer_bytes,
        high_priority,
    })
}

fn clusters(
    names: &mut Names,
    at: At<'_>,
    outer: &Outer,
    specifier: Option<pb::route_action::ClusterSpecifier>,
) -> Result<Clusters, DecodeError> {
    use pb::route_action::ClusterSpecifier as C;
    match specifier {
        Some(C::Cluster(name)) => {
            if name.is_empty() {
                return Err(at.field("cluster").missing());
            }
            let headers = outer.edits(Level::default());
            Ok(Clusters::One(Destination {
                cluster: names.cluster(&name),
                headers,
                host_rewrite: None,
            }))
        }
        Some(C::ClusterHeader(name)) => {
            let header = HeaderName::from_bytes(name.as_bytes());
            let header =
                header.map_err(|_| at.field("cluster_header").error("is not a header name"))?;
            Ok(Clusters::Header(header, outer.edits(Level::default())))
        }
        Some(C::WeightedClusters(weighted)) => {
            self::weighted(names, at.field("weighted_clusters"), outer, weighted)
        }
        Some(C::ClusterSpecifierPlugin(_)) => {
            Err(at.field("cluster_specifier_plugin").unsupported())
        }
        Some(C::InlineClusterSpecifierPlugin(_)) => {
            Err(at.field("inline_cluster_specifier_plugin").unsupported())
        }
        None => Err(at.error("names no cluster")),
    }
}

fn weighted(
    names: &mut Names,
    at: At<'_>,
    outer: &Outer,
    message: pb::WeightedCluster,
) -> Result<Clusters, DecodeError> {
    let pb::WeightedCluster {
        clusters,
        total_weight,
        runtime_key_prefix: _,
        random_value_specifier,
    } = message;
    unsupported!(at; random_value_specifier);
    let mut items = Vec::with_capacity(clusters.len());
    let mut sum = 0u64;
    for (i, cluster) in clusters.into_iter().enumerate() {
        let (weight, destination) =
            weighted_cluster(names, at.index("clusters", i), outer, cluster)?;
        sum += u64::from(weight);
        items.push((weight, destination));
    }
    if sum > u64::from(u32::MAX) {
        return Err(at
            .field("clusters")
            .error("weights sum up to more than 4294967295"));
    }
    if u32_value(total_weight).is_some_and(|total| u64::from(total) != sum) {
        return Err(at
            .field("total_weight")
            .error(format!("is not the sum of the weights, {sum}")));
    }
    let items =
        Weighted::new(items).ok_or_else(|| at.field("clusters").error("weights sum up to 0"))?;
    Ok(Clusters::Weighted(items))
}

fn weighted_cluster(
    names: &mut Names,
    at: At<'_>,
    outer: &Outer,
    message: pb::weighted_cluster::ClusterWeight,
) -> Result<(u32, Destination), DecodeError> {
    use pb::weighted_cluster::cluster_weight::HostRewriteSpecifier as H;
    let pb::weighted_cluster::ClusterWeight {
        name,
        cluster_header,
        weight,
        metadata_match,
        request_headers_to_add,
        request_headers_to_remove,
        response_headers_to_add,
        response_headers_to_remove,
        typed_per_filter_config,
        host_rewrite_specifier,
    } = message;
    unsupported!(at; cluster_header, metadata_match, typed_per_filter_config);
    if name.is_empty() {
        return Err(at.field("name").missing());
    }
    let lists = Lists {
        request_add: request_headers_to_add,
        request_remove: request_headers_to_remove,
        response_add: response_headers_to_add,
        response_remove: response_headers_to_remove,
    };
    let headers = outer.edits(Level::of(lists.decode(at)?));
    let host_rewrite = match host_rewrite_specifier {
        None => None,
        Some(H::HostRewriteLiteral(host)) => {
            Some(authority(at.field("host_rewrite_literal"), host)?)
        }
    };
    let weight = u32_value(weight).ok_or_else(|| at.field("weight").missing())?;
    Ok((
        weight,
        Destination {
            cluster: names.cluster(&name),
            headers,
            host_rewrite,
        },
    ))
}

fn cluster_not_found(at: At<'_>, code: i32) -> Result<StatusCode, DecodeError> {
    use pb::route_action::ClusterNotFoundResponseCode as C;
    match C::try_from(code) {
        Ok(C::ServiceUnavailable) => Ok(StatusCode::SERVICE_UNAVAILABLE),
        Ok(C::NotFound) => Ok(StatusCode::NOT_FOUND),
        Ok(C::InternalServerError) => Ok(StatusCode::INTERNAL_SERVER_ERROR),
        Err(_) => Err(at.field("cluster_not_found_response_code").unsupported()),
    }
}

fn host_rewrite(
    at: At<'_>,
    specifier: Option<pb::route_action::HostRewriteSpecifier>,
) -> Result<Option<HeaderValue>, DecodeError> {
    use pb::route_action::HostRewriteSpecifier as H;
    match specifier {
        None => Ok(None),
        Some(H::HostRewriteLiteral(host)) => {
            authority(at.field("host_rewrite_literal"), host).map(Some)
        }
        Some(H::AutoHostRewrite(auto)) if !auto.value => Ok(None),
        Some(H::AutoHostRewrite(_)) => Err(at.field("auto_host_rewrite").unsupported()),
        Some(H::HostRewriteHeader(_)) => Err(at.field("host_rewrite_header").unsupported()),
        Some(H::HostRewritePathRegex(_)) => Err(at.field("host_rewrite_path_regex").unsupported()),
        Some(H::HostRewrite(_)) => Err(at.field("host_rewrite").unsupported()),
    }
}

fn authority(at: At<'_>, host: String) -> Result<HeaderValue, DecodeError> {
    HeaderValue::try_from(host).map_err(|_| at.error("is not a header value"))
}

fn timeouts(
    at: At<'_>,
    timeout: Option<waymark_proto::envoy::google::protobuf::Duration>,
    idle: Option<waymark_proto::envoy::google::protobuf::Duration>,
    max_grpc: Option<waymark_proto::envoy::google::protobuf::Duration>,
    max_stream: Option<pb::route_action::MaxStreamDuration>,
) -> Result<ForwardTimeouts, DecodeError> {
    let given = |name: &'static str, value: Option<_>| match value {
        None => Ok(None),
        Some(value) => timer(at.field(name), Some(&value), None).map(Some),
    };
    let mut out = ForwardTimeouts {
        route: timer(at.field("timeout"), timeout.as_ref(), Some(ROUTE_TIMEOUT))?,
        idle: given("idle_timeout", idle)?,
        max_stream: None,
        grpc_max: given("max_grpc_timeout", max_grpc)?,
        grpc_max_stream: None,
    };
    if let Some(max) = max_stream {
        // Envoy leaves both out of account then.
        (out.route, out.grpc_max) = (None, None);
        let at = at.field("max_stream_duration");
        let pb::route_action::MaxStreamDuration {
            max_stream_duration,
            grpc_timeout_header_max,
            grpc_timeout_header_offset,
        } = max;
        unsupported!(at; grpc_timeout_header_offset);
        if let Some(max) = max_stream_duration {
            out.max_stream = Some(timer(at.field("max_stream_duration"), Some(&max), None)?);
        }
        if let Some(max) = grpc_timeout_header_max {
            out.grpc_max_stream = Some(timer(
                at.field("grpc_timeout_header_max"),
                Some(&max),
                None,
            )?);
        }
    }
    Ok(out)
}

fn upgrades(
    at: At<'_>,
    configs: Vec<pb::route_action::UpgradeConfig>,
) -> Result<Vec<(Box<str>, bool)>, DecodeError> {
    let mut out = Vec::with_capacity(configs.len());
    for (i, config) in configs.into_iter().enumerate() {
        let at = at.index("upgrade_configs", i);
        let pb::route_action::UpgradeConfig {
            upgrade_type,
            enabled,
            connect_config,
        } = config;
        unsupported!(at; connect_config);
        let name = upgrade_type.to_ascii_lowercase();
        let enabled = flag(enabled, true);
        if enabled && name == "connect" {
            return Err(at
                .field("upgrade_type")
                .error("CONNECT is not supported here"));
        }
        out.push((name.into(), enabled));
    }
    Ok(out)
}

pub(super) fn retry(at: At<'_>, message: pb::RetryPolicy) -> Result<RetryPolicy, DecodeError> {
    let pb::RetryPolicy {
        retry_on,
        num_retries,
        per_try_timeout,
        per_try_idle_timeout,
        retry_priority,
        retry_host_predicate,
        retry_options_predicates,
        host_selection_retry_max_attempts,
        retriable_status_codes,
        retry_back_off,
        rate_limited_retry_back_off,
        retriable_headers,
        retriable_request_headers,
        refresh_cluster_on_retry,
    } = message;
    unsupported!(
        at; per_try_idle_timeout, retry_priority, retry_options_predicates, rate_limited_retry_back_off, retriable_headers,
        retriable_request_headers, refresh_cluster_on_retry,
    );
    let on = RetryOn::parse(&retry_on).map_err(|unknown| {
        at.field("retry_on")
            .error(format!("condition {unknown:?} is not supported"))
    })?;
    let mut avoid_previous_hosts = false;
    for (i, predicate) in retry_host_predicate.into_iter().enumerate() {
        let at = at.index("retry_host_predicate", i);
        let pb::retry_policy::RetryHostPredicate { name, config_type } = predicate;
        let kind = config_type.map(
            |pb::retry_policy::retry_host_predicate::ConfigType::TypedConfig(any)| any.type_url,
        );
        match kind.as_deref() {
            Some(type_url::PREVIOUS_HOSTS) => avoid_previous_hosts = true,
            Some(other) => return Err(at.error(format!("{} is not supported", type_name(other)))),
            None => return Err(at.error(format!("{name} has no typed_config"))),
        }
    }
    let mut status_codes = Vec::with_capacity(retriable_status_codes.len());
    for (i, code) in retriable_status_codes.into_iter().enumerate() {
        status_codes.push(status(
            at.index("retriable_status_codes", i),
            code,
            100..=999,
        )?);
    }
    let attempts = match host_selection_retry_max_attempts {
        0 => 1,
        n => u32::try_from(n).map_err(|_| {
            at.field("host_selection_retry_max_attempts")
                .error("is negative")
        })?,
    };
    Ok(RetryPolicy {
        on,
        status_codes,
        num_retries: u32_value(num_retries).unwrap_or(1),
        per_try_timeout: timer(at.field("per_try_timeout"), per_try_timeout.as_ref(), None)?,
        back_off: back_off(at.field("retry_back_off"), retry_back_off)?,
        host_selection_attempts: attempts,
        avoid_previous_hosts,
    })
}

fn back_off(
    at: At<'_>,
    value: Option<pb::retry_policy::RetryBackOff>,
) -> Result<BackOff, DecodeError> {
    let Some(pb::retry_policy::RetryBackOff {
        base_interval,
        max_interval,
    }) = value
    else {
        return Ok(BackOff::DEFAULT);
    };
    let base_at = at.field("base_interval");
    let base = positive(base_at, &base_interval.ok_or_else(|| base_at.missing())?)?;
    let max = match max_interval {
        None => base.saturating_mul(10),
        Some(max) => duration(at.field("max_interval"), &max)?,
    };
    if max < base {
        return Err(at.field("max_interval").error("is below base_interval"));
    }
    Ok(BackOff { base, max })
}

pub(super) fn redirect(
    at: At<'_>,
    outer: &Outer,
    message: pb::RedirectAction,
) -> Result<Redirect, DecodeError> {
    use pb::redirect_action::{
        PathRewriteSpecifier as P, RedirectResponseCode as R, SchemeRewriteSpecifier as S,
    };
    let pb::RedirectAction {
        host_redirect,
        port_redirect,
        response_code,
        strip_query,
        scheme_rewrite_specifier,
        path_rewrite_specifier,
    } = message;
    let status = match R::try_from(response_code) {
        Ok(R::MovedPermanently) => StatusCode::MOVED_PERMANENTLY,
        Ok(R::Found) => StatusCode::FOUND,
        Ok(R::SeeOther) => StatusCode::SEE_OTHER,
        Ok(R::TemporaryRedirect) => StatusCode::TEMPORARY_REDIRECT,
        Ok(R::PermanentRedirect) => StatusCode::PERMANENT_REDIRECT,
        Err(_) => return Err(at.field("response_code").unsupported()),
    };
    let scheme = match scheme_rewrite_specifier {
        None | Some(S::HttpsRedirect(false)) => None,
        Some(S::HttpsRedirect(true)) => Some("https".into()),
        Some(S::SchemeRedirect(scheme)) => {
            scheme.is_set().then(|| scheme.to_ascii_lowercase().into())
        }
    };
    let path = match path_rewrite_specifier {
        None => RedirectPath::Same,
        // Written so by istiod where there is no new path.
        Some(P::PathRedirect(path) | P::PrefixRewrite(path)) if path.is_empty() => {
            RedirectPath::Same
        }
        Some(P::PathRedirect(path)) => RedirectPath::Full(path.into()),
        Some(P::PrefixRewrite(prefix)) => RedirectPath::Prefix(prefix.into()),
        Some(P::RegexRewrite(regex)) => {
            RedirectPath::Regex(regex_rewrite(at.field("regex_rewrite"), regex)?)
        }
        Some(P::PathRewrite(_)) => return Err(at.field("path_rewrite").unsupported()),
    };
    let port = match port_redirect {
        0 => None,
        port => Some(
            u16::try_from(port).map_err(|_| at.field("port_redirect").error("is not a port"))?,
        ),
    };
    Ok(Redirect {
        status,
        scheme,
        host: host_redirect.is_set().then(|| host_redirect.into()),
        port,
        path,
        strip_query,
        response_headers: outer.edits(Level::default()).response,
    })
}

pub(super) fn direct_response(
    at: At<'_>,
    outer: &Outer,
    message: pb::DirectResponseAction,
) -> Result<DirectResponse, DecodeError> {
    let pb::DirectResponseAction {
        status: code,
        body,
        body_format,
    } = message;
    unsupported!(at; body_format);
    let body = body.map_or(Ok(Vec::new()), |b| inline_bytes(at.field("body"), b))?;
    if body.len() > outer.max_direct_body_bytes as usize {
        let why = format!(
            "has {} bytes; at most {} are allowed",
            body.len(),
            outer.max_direct_body_bytes
        );
        return Err(at.field("body").error(why));
    }
    Ok(DirectResponse {
        status: status(at.field("status"), code, 200..=599)?,
        body: body.into(),
        response_headers: outer.edits(Level::default()).response,
    })
}

/// A status code in a range.
pub(super) fn status(
    at: At<'_>,
    code: u32,
    range: RangeInclusive<u16>,
) -> Result<StatusCode, DecodeError> {
    let code16 = u16::try_from(code)
        .ok()
        .filter(|c| range.contains(c))
        .and_then(|c| StatusCode::from_u16(c).ok());
    code16.ok_or_else(|| {
        at.error(format!(
            "{code} is not a status code from {} to {}",
            range.start(),
            range.end()
        ))
    })
}
