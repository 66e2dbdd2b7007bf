//! The filter chain of an HTTP port.

use waymark_api::protocol::Protocol;

use super::access_log::{Which, access_logs};
use super::input::{Context, Flavour, PortInput, Resolution, ServiceInput};
use super::names::{self, Family};
use super::tunnel;
use super::wire::{
    ads, any, bool_value, core, ext, hcm, http_filter, listener, network_filter, route, seconds,
};
use super::{routes, telemetry};

/// Name of the filter that everything HTTP sits in.
pub(super) const HCM: &str = "envoy.filters.network.http_connection_manager";
/// Chain of HTTP that is addressed to a pod.
pub(super) const DIRECT_HTTP: &str = "direct-http";

/// The chain of one HTTP port of a service.
pub(super) fn chain(
    ctx: Context<'_>,
    service: &ServiceInput,
    port: &PortInput,
) -> listener::FilterChain {
    let name = names::inbound_vip(port.number, Family::Http, &service.host);
    let mut hcm = connection_manager(ctx, port.number, service_routes(ctx, service, port, &name));
    if port.protocol.is_http2() {
        hcm.http2_protocol_options = Some(core::Http2ProtocolOptions::default());
    }
    hcm.http_filters = http_filters(ctx, Some((service, port)));
    listener::FilterChain {
        name,
        filters: vec![network_filter(HCM, any(&hcm))],
        ..Default::default()
    }
}

/// The chain of HTTP that is addressed to a pod: no service's routes, straight on to where it was going.
pub(super) fn direct(ctx: Context<'_>) -> listener::FilterChain {
    let routes = hcm::http_connection_manager::RouteSpecifier::RouteConfig(routes::direct(ctx));
    let mut hcm = connection_manager(ctx, 0, routes);
    hcm.http_filters = http_filters(ctx, None);
    listener::FilterChain {
        name: DIRECT_HTTP.to_owned(),
        filters: vec![keep_destination(), network_filter(HCM, any(&hcm))],
        ..Default::default()
    }
}

/// Shares the destination of the incoming tunnel with the outgoing one.
pub(super) fn keep_destination() -> listener::Filter {
    use ext::filters::common::set_filter_state::v3::filter_state_value::SharedWithUpstream;
    const KEY: &str = "envoy.filters.listener.original_dst.local_ip";
    let config = ext::filters::network::set_filter_state::v3::Config {
        on_new_connection: vec![tunnel::filter_state(
            KEY,
            &format!("%FILTER_STATE({KEY}:PLAIN)%"),
            "",
            SharedWithUpstream::Once,
        )],
        ..Default::default()
    };
    network_filter("connect_authority", any(&config))
}

/// The last HTTP filter of every chain.
pub(super) fn router() -> hcm::HttpFilter {
    http_filter(
        "envoy.filters.http.router",
        any(&ext::filters::http::router::v3::Router::default()),
    )
}

fn service_routes(
    ctx: Context<'_>,
    service: &ServiceInput,
    port: &PortInput,
    name: &str,
) -> hcm::http_connection_manager::RouteSpecifier {
    use hcm::http_connection_manager::RouteSpecifier;
    match ctx.proxy.flavour {
        Flavour::IstioProxy => RouteSpecifier::RouteConfig(routes::service(ctx, service, port)),
        Flavour::Stock => RouteSpecifier::Rds(hcm::Rds {
            config_source: Some(ads()),
            route_config_name: name.to_owned(),
        }),
    }
}

fn connection_manager(
    ctx: Context<'_>,
    port: u16,
    routes: hcm::http_connection_manager::RouteSpecifier,
) -> hcm::HttpConnectionManager {
    use hcm::http_connection_manager::{PathWithEscapedSlashesAction, UpgradeConfig};
    let request_id = ext::request_id::uuid::v3::UuidRequestIdConfig {
        use_request_id_for_trace_sampling: Some(bool_value(true)),
        ..Default::default()
    };
    hcm::HttpConnectionManager {
        stat_prefix: format!("inbound_0.0.0.0_{port};"),
        access_log: access_logs(ctx.mesh, Which::All),
        route_specifier: Some(routes),
        server_name: "istio-envoy".to_owned(),
        use_remote_address: Some(bool_value(false)),
        normalize_path: Some(bool_value(true)),
        path_with_escaped_slashes_action: PathWithEscapedSlashesAction::KeepUnchanged as i32,
        proxy_100_continue: true,
        stream_idle_timeout: Some(seconds(0)),
        upgrade_configs: vec![UpgradeConfig {
            upgrade_type: "websocket".to_owned(),
            ..Default::default()
        }],
        request_id_extension: Some(hcm::RequestIdExtension {
            typed_config: Some(any(&request_id)),
        }),
        tracing: match ctx.proxy.flavour {
            // Every tag of the block is made by an extension of istio-proxy's, and there is no provider.
            Flavour::Stock => None,
            Flavour::IstioProxy => telemetry::tracing(ctx),
        },
        ..Default::default()
    }
}

/// The filters in their order. `fault` and `cors` are always there, so that a route can use them without a change
/// of the listener.
fn http_filters(ctx: Context<'_>, of: Option<(&ServiceInput, &PortInput)>) -> Vec<hcm::HttpFilter> {
    let mut filters = Vec::new();
    if of.is_some_and(|(_, port)| port.protocol == Protocol::GrpcWeb) {
        filters.push(http_filter(
            "envoy.filters.http.grpc_web",
            any(&ext::filters::http::grpc_web::v3::GrpcWeb {}),
        ));
    }
    filters.push(http_filter(
        "envoy.filters.http.grpc_stats",
        any(&ext::filters::http::grpc_stats::v3::FilterConfig {
            emit_filter_state: true,
            per_method_stat_specifier: Some(
                ext::filters::http::grpc_stats::v3::filter_config::PerMethodStatSpecifier::StatsForAllMethods(
                    bool_value(false),
                ),
            ),
            ..Default::default()
        }),
    ));
    filters.push(http_filter(
        "envoy.filters.http.fault",
        any(&ext::filters::http::fault::v3::HttpFault::default()),
    ));
    filters.push(http_filter(
        "envoy.filters.http.cors",
        any(&ext::filters::http::cors::v3::Cors {}),
    ));
    if let Some((service, _)) =
        of.filter(|(service, _)| service.resolution == Resolution::DynamicDns)
    {
        filters.push(http_filter(
            "envoy.filters.http.dynamic_forward_proxy",
            any(&super::clusters::forward_proxy_filter(ctx, service)),
        ));
    }
    if ctx.proxy.flavour == Flavour::IstioProxy {
        filters.push(telemetry::upstream_peer_metadata());
        filters.push(telemetry::http_stats());
    }
    filters.push(router());
    filters
}

/// The route configurations that the chains of a service refer to by name.
pub(super) fn route_configurations(
    ctx: Context<'_>,
    service: &ServiceInput,
) -> Vec<route::RouteConfiguration> {
    match ctx.proxy.flavour {
        Flavour::IstioProxy => Vec::new(),
        Flavour::Stock => super::ports(service)
            .filter(|port| super::families(port).contains(&Family::Http))
            .map(|port| routes::service(ctx, service, port))
            .collect(),
    }
}
