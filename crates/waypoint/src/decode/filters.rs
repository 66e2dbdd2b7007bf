//! HTTP filters.

use waymark_proto::any::type_name;
use waymark_proto::envoy::envoy::extensions::filters::common::set_filter_state::v3 as state;
use waymark_proto::envoy::envoy::extensions::filters::http as pb;
use waymark_proto::envoy::envoy::extensions::filters::network::http_connection_manager::v3 as hcm;
use waymark_proto::envoy::google::protobuf as wkt;
use waymark_proto::{stats, type_url};

use super::DecodeError;
use super::at::{At, Notes, unsupported};
use super::headers::mutations;
use super::values::{inline_bytes, inner_type, unpack};
use crate::program::{HttpFilter, StatsOptions};

/// Filter state keys that `connect_terminate` sets, with the only value that each may have here, since the data path
/// knows these things without them.
const TUNNEL_STATE: &[(&str, &str)] = &[
    (
        "envoy.filters.listener.original_dst.local_ip",
        "%REQ(:AUTHORITY)%",
    ),
    ("io.istio.connect_authority", "%REQ(:AUTHORITY)%"),
    (
        "envoy.filters.listener.original_dst.remote_ip",
        "%DOWNSTREAM_REMOTE_ADDRESS%",
    ),
    ("io.istio.peer_principal", "%DOWNSTREAM_PEER_URI_SAN%"),
    ("io.istio.local_principal", "%DOWNSTREAM_LOCAL_URI_SAN%"),
];

/// Filters that decide who may do what. One that is not enforced must not be accepted, whatever else is said about it.
const SECURITY: &[&str] = &[
    "envoy.extensions.filters.http.rbac.v3.RBAC",
    "envoy.extensions.filters.http.jwt_authn.v3.JwtAuthentication",
    "envoy.extensions.filters.http.ext_authz.v3.ExtAuthz",
    "envoy.extensions.filters.network.rbac.v3.RBAC",
    "envoy.extensions.filters.network.ext_authz.v3.ExtAuthz",
];

/// Refuses security filters that are not enforced; for all kinds of chains.
pub(super) fn refuse_security(at: At<'_>, kind: &str) -> Result<(), DecodeError> {
    if SECURITY.contains(&kind) {
        return Err(at.error(format!("{kind} is not enforced yet, so it is refused")));
    }
    Ok(())
}

/// The filters of a chain that routes.
pub(super) struct Filters {
    pub(super) filters: Vec<HttpFilter>,
    pub(super) suppress_envoy_headers: bool,
}

pub(super) fn http_filters(
    notes: &mut Notes,
    at: At<'_>,
    list: Vec<hcm::HttpFilter>,
) -> Result<Filters, DecodeError> {
    let mut out = Filters {
        filters: Vec::with_capacity(list.len()),
        suppress_envoy_headers: false,
    };
    let count = list.len();
    for (i, filter) in list.into_iter().enumerate() {
        let at = at.index("http_filters", i);
        let Some((any, optional)) = envelope(notes, at, filter)? else {
            continue;
        };
        let config_at = at.field("typed_config");
        let kind = inner_type(&any);
        refuse_security(at, &kind)?;
        let filter = match kind.as_str() {
            "envoy.extensions.filters.http.router.v3.Router" => {
                out.suppress_envoy_headers = router(notes, config_at, unpack(config_at, &any)?)?;
                if i + 1 != count {
                    return Err(at.error("must be the last filter"));
                }
                HttpFilter::Router
            }
            "envoy.extensions.filters.http.grpc_stats.v3.FilterConfig" => HttpFilter::GrpcStats,
            "envoy.extensions.filters.http.fault.v3.HTTPFault" => {
                let config: pb::fault::v3::HttpFault = unpack(config_at, &any)?;
                if config != pb::fault::v3::HttpFault::default() {
                    return Err(config_at
                        .error("faults for a whole chain are not supported, only for a route"));
                }
                HttpFilter::Fault
            }
            "envoy.extensions.filters.http.cors.v3.Cors" => HttpFilter::Cors,
            "envoy.extensions.filters.http.header_mutation.v3.HeaderMutation" => {
                header_mutation(config_at, unpack(config_at, &any)?)?
            }
            "io.istio.http.peer_metadata.Config" => {
                notes.add(
                    at,
                    "peers are known from their identity and the endpoint, not from discovery",
                );
                HttpFilter::PeerMetadata
            }
            "stats.PluginConfig" => HttpFilter::IstioStats(istio_stats(notes, config_at, &any)?),
            other if optional => {
                notes.add(at, format!("{other} is not supported, and optional"));
                continue;
            }
            _ => return Err(unknown(at, &any)),
        };
        out.filters.push(filter);
    }
    match out.filters.last() {
        Some(HttpFilter::Router) => Ok(out),
        _ => Err(at.field("http_filters").error("must end with a router")),
    }
}

/// The filters of the HBONE terminator: they set what the data path knows anyhow.
pub(super) fn terminate_filters(
    notes: &mut Notes,
    at: At<'_>,
    list: Vec<hcm::HttpFilter>,
) -> Result<(), DecodeError> {
    let mut local_ip = false;
    for (i, filter) in list.into_iter().enumerate() {
        let at = at.index("http_filters", i);
        let Some((any, optional)) = envelope(notes, at, filter)? else {
            continue;
        };
        let config_at = at.field("typed_config");
        let kind = inner_type(&any);
        refuse_security(at, &kind)?;
        match kind.as_str() {
            "envoy.extensions.filters.http.set_filter_state.v3.Config" => {
                let pb::set_filter_state::v3::Config {
                    on_request_headers,
                    clear_route_cache: _,
                } = unpack(config_at, &any)?;
                for (i, value) in on_request_headers.into_iter().enumerate() {
                    let at = config_at.index("on_request_headers", i);
                    let (key, format) = filter_state(at, value)?;
                    if !TUNNEL_STATE.contains(&(key.as_str(), format.as_str())) {
                        return Err(at.error(format!(
                            "filter state {key:?} = {format:?} is not supported"
                        )));
                    }
                    local_ip |= key == TUNNEL_STATE[0].0;
                }
            }
            "io.istio.http.peer_metadata.Config" => {
                notes.add(
                    at,
                    "peers are known from their identity and the endpoint, not from discovery",
                );
            }
            "envoy.extensions.filters.http.router.v3.Router" => {
                router(notes, config_at, unpack(config_at, &any)?)?;
            }
            other if optional => notes.add(at, format!("{other} is not supported, and optional")),
            _ => return Err(unknown(at, &any)),
        }
    }
    if local_ip {
        Ok(())
    } else {
        Err(at
            .field("http_filters")
            .error(format!("nothing sets filter state {:?}", TUNNEL_STATE[0].0)))
    }
}

/// Key and format of one filter state value.
pub(super) fn filter_state(
    at: At<'_>,
    value: state::FilterStateValue,
) -> Result<(String, String), DecodeError> {
    use waymark_proto::envoy::envoy::config::core::v3::substitution_format_string::Format;
    let state::FilterStateValue {
        factory_key: _, // the type of the object, which nobody else reads
        read_only: _,
        shared_with_upstream: _,
        skip_if_empty: _,
        key,
        value,
    } = value;
    let Some(state::filter_state_value::Key::ObjectKey(key)) = key else {
        return Err(at.field("object_key").missing());
    };
    let Some(state::filter_state_value::Value::FormatString(format)) = value else {
        return Err(at.field("format_string").missing());
    };
    let at = at.field("format_string");
    let text = match format.format {
        Some(Format::TextFormat(text)) => text,
        Some(Format::TextFormatSource(source)) => {
            let bytes = inline_bytes(at.field("text_format_source"), source)?;
            String::from_utf8(bytes)
                .map_err(|_| at.field("text_format_source").error("is not UTF-8"))?
        }
        Some(Format::JsonFormat(_)) => return Err(at.field("json_format").unsupported()),
        None => return Err(at.error("has no format")),
    };
    Ok((key, text))
}

/// The typed configuration and whether the filter is optional; `None` for one that is switched off.
fn envelope(
    notes: &mut Notes,
    at: At<'_>,
    filter: hcm::HttpFilter,
) -> Result<Option<(wkt::Any, bool)>, DecodeError> {
    use hcm::http_filter::ConfigType as C;
    let hcm::HttpFilter {
        name,
        is_optional,
        disabled,
        config_type,
    } = filter;
    if disabled {
        notes.add(
            at,
            format!("{name} is disabled, and nothing here enables it for a route"),
        );
        return Ok(None);
    }
    match config_type {
        Some(C::TypedConfig(any)) => Ok(Some((any, is_optional))),
        Some(C::ConfigDiscovery(_)) => Err(at.field("config_discovery").unsupported()),
        None => Err(at.field("typed_config").missing()),
    }
}

pub(super) fn unknown(at: At<'_>, any: &wkt::Any) -> DecodeError {
    let (outer, inner) = (type_name(&any.type_url), inner_type(any));
    let wrapped = if outer == inner {
        String::new()
    } else {
        format!(" (in a {outer})")
    };
    at.error(format!(
        "extension of type {inner}{wrapped} is not supported"
    ))
}

/// Whether `suppress_envoy_headers` is set.
fn router(
    notes: &mut Notes,
    at: At<'_>,
    config: pb::router::v3::Router,
) -> Result<bool, DecodeError> {
    let pb::router::v3::Router {
        dynamic_stats: _,
        start_child_span,
        upstream_log,
        upstream_log_options: _,
        suppress_envoy_headers,
        strict_check_headers,
        respect_expected_rq_timeout,
        suppress_grpc_request_failure_code_stats: _,
        upstream_http_filters,
        reject_connect_request_early_data: _, // there is no early data
    } = config;
    notes.add_if(&start_child_span, at.field("start_child_span"), "no spans");
    notes.add_if(
        &upstream_log,
        at.field("upstream_log"),
        "attempts are not logged",
    );
    unsupported!(at; strict_check_headers, respect_expected_rq_timeout, upstream_http_filters);
    Ok(suppress_envoy_headers)
}

fn header_mutation(
    at: At<'_>,
    config: pb::header_mutation::v3::HeaderMutation,
) -> Result<HttpFilter, DecodeError> {
    let pb::header_mutation::v3::HeaderMutation {
        mutations: list,
        most_specific_header_mutations_wins: _,
    } = config;
    let at = at.field("mutations");
    let pb::header_mutation::v3::Mutations {
        request_mutations,
        query_parameter_mutations,
        response_mutations,
        response_trailers_mutations,
        request_trailers_mutations,
    } = list.unwrap_or_default();
    unsupported!(at; query_parameter_mutations, response_trailers_mutations, request_trailers_mutations);
    Ok(HttpFilter::HeaderMutation {
        request: mutations(at, "request_mutations", request_mutations)?,
        response: mutations(at, "response_mutations", response_mutations)?,
    })
}

/// `stats.PluginConfig`, in chains of either kind.
pub(super) fn istio_stats(
    notes: &mut Notes,
    at: At<'_>,
    any: &wkt::Any,
) -> Result<StatsOptions, DecodeError> {
    if any.type_url != type_url::ISTIO_STATS {
        return Err(at.error("must not be in a TypedStruct"));
    }
    let config: stats::PluginConfig = unpack(at, any)?;
    let stats::PluginConfig {
        disable_host_header_fallback,
        tcp_reporting_duration,
        metrics,
        definitions,
        reporter: _, // a waypoint reports as what it is
        rotation_interval: _,
        graceful_deletion_interval: _,
    } = config;
    if !disable_host_header_fallback {
        notes.add(
            at.field("disable_host_header_fallback"),
            "services are never named by the Host header",
        );
    }
    notes.add_if(
        &metrics,
        at.field("metrics"),
        "metrics have their default labels",
    );
    notes.add_if(
        &definitions,
        at.field("definitions"),
        "no metrics besides istio's",
    );
    let reporting = tcp_reporting_duration
        .map(|d| {
            super::values::duration(
                at.field("tcp_reporting_duration"),
                &wkt::Duration {
                    seconds: d.seconds,
                    nanos: d.nanos,
                },
            )
        })
        .transpose()?;
    let tcp_reporting = reporting.unwrap_or(std::time::Duration::from_secs(5));
    Ok(StatsOptions {
        tcp_reporting: Some(tcp_reporting).filter(|d| !d.is_zero()),
    })
}
