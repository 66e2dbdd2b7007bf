//! The filter chain of a TCP port.

use waymark_api::istio::destination_rule::HashKey;
use waymark_api::protocol::Protocol;

use super::access_log::{Which, access_logs};
use super::input::{Context, Flavour, PortInput, ServiceInput};
use super::names::{self, Family};
use super::traffic_policy::Effective;
use super::wire::{any, duration, envoy_type, ext, listener, network_filter, tcp_proxy};
use super::{telemetry, tunnel};

/// Name of the filter that ends every TCP chain.
pub(super) const TCP_PROXY: &str = "envoy.filters.network.tcp_proxy";
/// Chain of TCP that is addressed to a pod.
pub(super) const DIRECT_TCP: &str = "direct-tcp";

/// The chain of one TCP port of a service.
pub(super) fn chain(
    ctx: Context<'_>,
    service: &ServiceInput,
    port: &PortInput,
) -> listener::FilterChain {
    let name = names::inbound_vip(port.number, Family::Tcp, &service.host);
    let mut filters = telemetry_filters(ctx);
    if port.protocol == Protocol::Mongo && ctx.proxy.flavour == Flavour::IstioProxy {
        filters.push(mongo_statistics(&name));
    }
    filters.push(network_filter(
        TCP_PROXY,
        any(&proxy(ctx, service, port, &name)),
    ));
    listener::FilterChain {
        name,
        filters,
        ..Default::default()
    }
}

/// Counts what MongoDB is asked; the bytes pass as they are.
fn mongo_statistics(name: &str) -> listener::Filter {
    let config = ext::filters::network::mongo_proxy::v3::MongoProxy {
        stat_prefix: name.to_owned(),
        ..Default::default()
    };
    network_filter("envoy.filters.network.mongo_proxy", any(&config))
}

/// The chain of TCP that is addressed to a pod: straight on to where it was going.
pub(super) fn direct(ctx: Context<'_>) -> listener::FilterChain {
    let mut filters = vec![super::http_chain::keep_destination()];
    filters.extend(telemetry_filters(ctx));
    let config = tcp_proxy::TcpProxy {
        stat_prefix: tunnel::ENCAP.to_owned(),
        access_log: access_logs(ctx.mesh, Which::All),
        cluster_specifier: Some(tcp_proxy::tcp_proxy::ClusterSpecifier::Cluster(
            tunnel::ENCAP.to_owned(),
        )),
        ..Default::default()
    };
    filters.push(network_filter(TCP_PROXY, any(&config)));
    listener::FilterChain {
        name: DIRECT_TCP.to_owned(),
        filters,
        ..Default::default()
    }
}

fn telemetry_filters(ctx: Context<'_>) -> Vec<listener::Filter> {
    match ctx.proxy.flavour {
        Flavour::Stock => Vec::new(),
        Flavour::IstioProxy => vec![telemetry::metadata_exchange(), telemetry::tcp_stats()],
    }
}

fn proxy(
    ctx: Context<'_>,
    service: &ServiceInput,
    port: &PortInput,
    name: &str,
) -> tcp_proxy::TcpProxy {
    // Virtual services with TCP or TLS rules are refused: the destination is always the service.
    let policy = Effective::of(service.destination_rule.as_deref(), None, port.number);
    let pool = policy.connection_pool();
    tcp_proxy::TcpProxy {
        stat_prefix: name.to_owned(),
        access_log: access_logs(ctx.mesh, Which::All),
        cluster_specifier: Some(tcp_proxy::tcp_proxy::ClusterSpecifier::Cluster(
            name.to_owned(),
        )),
        idle_timeout: pool.and_then(|pool| pool.tcp_idle_timeout).map(duration),
        max_downstream_connection_duration: pool
            .and_then(|pool| pool.max_connection_duration)
            .map(duration),
        hash_policy: matches!(policy.hash_key(), Some(HashKey::SourceIp))
            .then(source_ip_hash)
            .into_iter()
            .collect(),
        ..Default::default()
    }
}

fn source_ip_hash() -> envoy_type::v3::HashPolicy {
    use envoy_type::v3::hash_policy::{PolicySpecifier, SourceIp};
    envoy_type::v3::HashPolicy {
        policy_specifier: Some(PolicySpecifier::SourceIp(SourceIp {})),
    }
}
