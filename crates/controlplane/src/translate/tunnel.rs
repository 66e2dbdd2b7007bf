//! What every waypoint has, whatever it serves: the ends of the HBONE tunnels and what ties them together.

use super::Named;
use super::access_log::{Which, access_logs};
use super::input::{Context, Flavour, IpFamily, MeshSettings, Proxy};
use super::wire::{
    self, ORIGINAL_DST, any, bool_value, cluster, core, duration, endpoint, ext, hcm,
    internal_address, listener, listener_filter, network_filter, route, seconds, socket_address,
    tcp_proxy, tls, transport_socket, u32_value, upstream_http,
};

/// Port of the tunnels on every node and waypoint.
const HBONE_PORT: u16 = 15008;
/// Cluster of the bootstrap that certificates come from.
const SDS_CLUSTER: &str = "sds-grpc";

pub(super) const CONNECT_TERMINATE: &str = "connect_terminate";
pub(super) const MAIN_INTERNAL: &str = "main_internal";
pub(super) const CONNECT_ORIGINATE: &str = "connect_originate";
pub(super) const ENCAP: &str = "encap";
const INNER_CONNECT_ORIGINATE: &str = "inner_connect_originate";
const OUTER_CONNECT_ORIGINATE: &str = "outer_connect_originate";

/// The clusters and listeners of the tunnels, `main_internal`'s listener aside.
pub(super) fn base(ctx: Context<'_>) -> Vec<Named> {
    let mut resources = vec![
        Named::cluster(&to_listener(MAIN_INTERNAL, MAIN_INTERNAL)),
        Named::cluster(&to_listener(ENCAP, CONNECT_ORIGINATE)),
        Named::cluster(&connect_originate_cluster(ctx)),
        Named::listener(&connect_terminate(ctx)),
        Named::listener(&connect_originate_listener(ctx.mesh)),
    ];
    if ctx.proxy.flavour == Flavour::IstioProxy {
        resources.extend([
            Named::cluster(&inner_cluster(ctx)),
            Named::cluster(&outer_cluster(ctx)),
            Named::listener(&inner_listener(ctx)),
            Named::listener(&outer_listener(ctx.mesh)),
        ]);
    }
    resources
}

/// The filter-state factory whose objects take part in the hash of an upstream connection pool.
fn hashable_string(proxy: &Proxy) -> &'static str {
    match proxy.flavour {
        Flavour::Stock => "envoy.hashable_string",
        Flavour::IstioProxy if proxy.istio_version.at_least(1, 29, 2) => "istio.hashable_string",
        Flavour::IstioProxy => "envoy.string",
    }
}

// ---- clusters ----

/// Thresholds that never trip.
pub(super) fn no_limits() -> cluster::circuit_breakers::Thresholds {
    cluster::circuit_breakers::Thresholds {
        max_connections: Some(u32_value(u32::MAX)),
        max_pending_requests: Some(u32_value(u32::MAX)),
        max_requests: Some(u32_value(u32::MAX)),
        max_retries: Some(u32_value(u32::MAX)),
        ..Default::default()
    }
}

/// What all clusters share.
pub(super) fn named_cluster(name: &str, kind: cluster::cluster::DiscoveryType) -> cluster::Cluster {
    cluster::Cluster {
        name: name.to_owned(),
        alt_stat_name: format!("{name};"),
        cluster_discovery_type: Some(cluster::cluster::ClusterDiscoveryType::Type(kind as i32)),
        circuit_breakers: Some(cluster::CircuitBreakers {
            thresholds: vec![no_limits()],
            ..Default::default()
        }),
        ..Default::default()
    }
}

/// Metadata that is copied into an internal connection.
#[derive(Debug, Clone, Copy)]
pub(super) enum Passthrough {
    /// Of the endpoint, under this name.
    Host(&'static str),
    /// Of the cluster, under this name.
    Cluster(&'static str),
}

/// A socket that goes to an internal listener and takes metadata along.
pub(super) fn internal_upstream(
    name: &str,
    passthrough: &[Passthrough],
    inner: core::TransportSocket,
) -> core::TransportSocket {
    use ext::transport_sockets::internal_upstream::v3::{
        InternalUpstreamTransport, internal_upstream_transport::MetadataValueSource,
    };
    use wire::envoy_type::metadata::v3::{
        MetadataKind,
        metadata_kind::{Cluster, Host, Kind},
    };
    let source = |passthrough: &Passthrough| {
        let (kind, name) = match passthrough {
            Passthrough::Host(name) => (Kind::Host(Host {}), *name),
            Passthrough::Cluster(name) => (Kind::Cluster(Cluster {}), *name),
        };
        MetadataValueSource {
            kind: Some(MetadataKind { kind: Some(kind) }),
            name: name.to_owned(),
        }
    };
    transport_socket(
        name,
        any(&InternalUpstreamTransport {
            passthrough_metadata: passthrough.iter().map(source).collect(),
            transport_socket: Some(inner),
        }),
    )
}

/// Bytes as they are.
pub(super) fn raw_buffer(name: &str) -> core::TransportSocket {
    transport_socket(
        name,
        any(&ext::transport_sockets::raw_buffer::v3::RawBuffer {}),
    )
}

/// Adds the HTTP options of a cluster.
pub(super) fn set_http_options(
    cluster: &mut cluster::Cluster,
    options: &upstream_http::HttpProtocolOptions,
) {
    const KEY: &str = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";
    cluster
        .typed_extension_protocol_options
        .insert(KEY.to_owned(), any(options));
}

/// Upstream speaks what downstream spoke.
pub(super) fn use_downstream_protocol()
-> upstream_http::http_protocol_options::UpstreamProtocolOptions {
    upstream_http::http_protocol_options::UpstreamProtocolOptions::UseDownstreamProtocolConfig(
        upstream_http::http_protocol_options::UseDownstreamHttpConfig {
            http_protocol_options: Some(core::Http1ProtocolOptions::default()),
            http2_protocol_options: Some(core::Http2ProtocolOptions::default()),
            ..Default::default()
        },
    )
}

/// Upstream speaks HTTP/2.
pub(super) fn explicit_http2(
    options: core::Http2ProtocolOptions,
) -> upstream_http::http_protocol_options::UpstreamProtocolOptions {
    use upstream_http::http_protocol_options::{
        ExplicitHttpConfig, UpstreamProtocolOptions, explicit_http_config::ProtocolConfig,
    };
    UpstreamProtocolOptions::ExplicitHttpConfig(ExplicitHttpConfig {
        protocol_config: Some(ProtocolConfig::Http2ProtocolOptions(options)),
    })
}

/// One endpoint: an internal listener.
fn to_listener(name: &str, target: &str) -> cluster::Cluster {
    let mut cluster = named_cluster(name, cluster::cluster::DiscoveryType::Static);
    cluster.load_assignment = Some(single_endpoint(name, internal_address(target, "")));
    cluster.transport_socket = Some(internal_upstream(
        "internal_upstream",
        &[],
        raw_buffer("raw_buffer"),
    ));
    set_http_options(
        &mut cluster,
        &upstream_http::HttpProtocolOptions {
            common_http_protocol_options: Some(core::HttpProtocolOptions {
                idle_timeout: Some(seconds(300)),
                ..Default::default()
            }),
            upstream_protocol_options: Some(use_downstream_protocol()),
            ..Default::default()
        },
    );
    cluster
}

fn single_endpoint(cluster: &str, address: core::Address) -> endpoint::ClusterLoadAssignment {
    endpoint::ClusterLoadAssignment {
        cluster_name: cluster.to_owned(),
        endpoints: vec![endpoint::LocalityLbEndpoints {
            lb_endpoints: vec![endpoint::LbEndpoint {
                host_identifier: Some(endpoint::lb_endpoint::HostIdentifier::Endpoint(
                    endpoint::Endpoint {
                        address: Some(address),
                        ..Default::default()
                    },
                )),
                ..Default::default()
            }],
            ..Default::default()
        }],
        ..Default::default()
    }
}

/// The tunnel to wherever the internal connection was going, on the port of the tunnels.
fn original_dst_cluster(ctx: Context<'_>, name: &str) -> cluster::Cluster {
    let mut cluster = named_cluster(name, cluster::cluster::DiscoveryType::OriginalDst);
    cluster.lb_policy = cluster::cluster::LbPolicy::ClusterProvided as i32;
    cluster.connect_timeout = Some(duration(ctx.mesh.connect_timeout));
    cluster.cleanup_interval = Some(seconds(60));
    cluster.lb_config = Some(cluster::cluster::LbConfig::OriginalDstLbConfig(
        cluster::cluster::OriginalDstLbConfig {
            upstream_port_override: Some(u32_value(u32::from(HBONE_PORT))),
            ..Default::default()
        },
    ));
    cluster
}

fn connect_originate_cluster(ctx: Context<'_>) -> cluster::Cluster {
    use wire::envoy_type::metadata::v3::{MetadataKey, metadata_key};
    let mut cluster = original_dst_cluster(ctx, CONNECT_ORIGINATE);
    if let Some(cluster::cluster::LbConfig::OriginalDstLbConfig(config)) = &mut cluster.lb_config {
        config.metadata_key = Some(MetadataKey {
            key: ORIGINAL_DST.to_owned(),
            path: vec![metadata_key::PathSegment {
                segment: Some(metadata_key::path_segment::Segment::Key(
                    "waypoint".to_owned(),
                )),
            }],
        });
    }
    set_http_options(&mut cluster, &tunnel_options(ctx.mesh, None));
    let own_namespace = format!(
        "spiffe://{}/ns/{}/sa/",
        ctx.mesh.trust_domain(),
        ctx.proxy.namespace
    );
    cluster.transport_socket = Some(upstream_tls(ctx.mesh, Some(own_namespace)));
    cluster
}

fn inner_cluster(ctx: Context<'_>) -> cluster::Cluster {
    let mut cluster = named_cluster(
        INNER_CONNECT_ORIGINATE,
        cluster::cluster::DiscoveryType::Static,
    );
    cluster.load_assignment = Some(single_endpoint(
        INNER_CONNECT_ORIGINATE,
        internal_address(OUTER_CONNECT_ORIGINATE, ""),
    ));
    cluster.transport_socket = Some(internal_upstream(
        "internal_upstream_with_tls",
        &[],
        upstream_tls(ctx.mesh, None),
    ));
    set_http_options(&mut cluster, &tunnel_options(ctx.mesh, Some(1)));
    cluster
}

fn outer_cluster(ctx: Context<'_>) -> cluster::Cluster {
    let mut cluster = original_dst_cluster(ctx, OUTER_CONNECT_ORIGINATE);
    cluster.transport_socket = Some(upstream_tls(ctx.mesh, None));
    set_http_options(&mut cluster, &tunnel_options(ctx.mesh, Some(1)));
    cluster
}

fn tunnel_options(
    mesh: &MeshSettings,
    max_requests: Option<u32>,
) -> upstream_http::HttpProtocolOptions {
    upstream_http::HttpProtocolOptions {
        common_http_protocol_options: Some(core::HttpProtocolOptions {
            idle_timeout: Some(duration(mesh.hbone_idle_timeout)),
            max_requests_per_connection: max_requests.map(u32_value),
            ..Default::default()
        }),
        upstream_protocol_options: Some(explicit_http2(core::Http2ProtocolOptions {
            allow_connect: true,
            ..Default::default()
        })),
        ..Default::default()
    }
}

// ---- TLS ----

/// Certificates from the proxy's own agent.
fn sds(name: &str) -> tls::SdsSecretConfig {
    tls::SdsSecretConfig {
        name: name.to_owned(),
        sds_config: Some(core::ConfigSource {
            config_source_specifier: Some(
                core::config_source::ConfigSourceSpecifier::ApiConfigSource(
                    core::ApiConfigSource {
                        api_type: core::api_config_source::ApiType::Grpc as i32,
                        transport_api_version: core::ApiVersion::V3 as i32,
                        set_node_on_first_message_only: true,
                        grpc_services: vec![core::GrpcService {
                            target_specifier: Some(core::grpc_service::TargetSpecifier::EnvoyGrpc(
                                core::grpc_service::EnvoyGrpc {
                                    cluster_name: SDS_CLUSTER.to_owned(),
                                    ..Default::default()
                                },
                            )),
                            ..Default::default()
                        }],
                        ..Default::default()
                    },
                ),
            ),
            initial_fetch_timeout: Some(seconds(0)),
            resource_api_version: core::ApiVersion::V3 as i32,
            ..Default::default()
        }),
    }
}

/// Both ends of a tunnel: TLS 1.3, h2, a SPIFFE ID of one of the mesh's trust domains.
fn common_tls(mesh: &MeshSettings, also: Option<String>) -> tls::CommonTlsContext {
    use tls::common_tls_context::{CombinedCertificateValidationContext, ValidationContextType};
    use wire::envoy_type::matcher::v3::{StringMatcher, string_matcher::MatchPattern};
    let version = tls::tls_parameters::TlsProtocol::TlSv13 as i32;
    let prefixes = mesh
        .trust_domains
        .iter()
        .map(|domain| format!("spiffe://{domain}/"))
        .chain(also);
    tls::CommonTlsContext {
        tls_params: Some(tls::TlsParameters {
            tls_minimum_protocol_version: version,
            tls_maximum_protocol_version: version,
            ..Default::default()
        }),
        alpn_protocols: vec!["h2".to_owned()],
        tls_certificate_sds_secret_configs: vec![sds("default")],
        validation_context_type: Some(ValidationContextType::CombinedValidationContext(
            CombinedCertificateValidationContext {
                default_validation_context: Some(tls::CertificateValidationContext {
                    match_typed_subject_alt_names: prefixes
                        .map(|prefix| tls::SubjectAltNameMatcher {
                            san_type: tls::subject_alt_name_matcher::SanType::Uri as i32,
                            matcher: Some(StringMatcher {
                                match_pattern: Some(MatchPattern::Prefix(prefix)),
                                ..Default::default()
                            }),
                            ..Default::default()
                        })
                        .collect(),
                    ..Default::default()
                }),
                validation_context_sds_secret_config: Some(sds("ROOTCA")),
                ..Default::default()
            },
        )),
        ..Default::default()
    }
}

fn upstream_tls(mesh: &MeshSettings, also: Option<String>) -> core::TransportSocket {
    let context = tls::UpstreamTlsContext {
        common_tls_context: Some(common_tls(mesh, also)),
        ..Default::default()
    };
    transport_socket("tls", any(&context))
}

/// Mutual TLS with a sidecar.
pub(super) fn sidecar_tls(sni: String, http2: bool) -> core::TransportSocket {
    use tls::common_tls_context::{CombinedCertificateValidationContext, ValidationContextType};
    let alpn = ["istio-peer-exchange", "istio"]
        .into_iter()
        .chain(http2.then_some("h2"));
    let context = tls::CommonTlsContext {
        tls_params: Some(tls::TlsParameters {
            tls_minimum_protocol_version: tls::tls_parameters::TlsProtocol::TlSv12 as i32,
            tls_maximum_protocol_version: tls::tls_parameters::TlsProtocol::TlSv13 as i32,
            ..Default::default()
        }),
        alpn_protocols: alpn.map(str::to_owned).collect(),
        tls_certificate_sds_secret_configs: vec![sds("default")],
        validation_context_type: Some(ValidationContextType::CombinedValidationContext(
            CombinedCertificateValidationContext {
                default_validation_context: Some(tls::CertificateValidationContext::default()),
                validation_context_sds_secret_config: Some(sds("ROOTCA")),
                ..Default::default()
            },
        )),
        ..Default::default()
    };
    let context = tls::UpstreamTlsContext {
        common_tls_context: Some(context),
        sni,
        ..Default::default()
    };
    transport_socket("envoy.transport_sockets.tls", any(&context))
}

// ---- listeners ----

fn connect_terminate(ctx: Context<'_>) -> listener::Listener {
    let (address, additional) = match (ctx.proxy.bind, ctx.proxy.ip_family) {
        (Some(address), _) => (address.to_string(), None),
        (None, IpFamily::V4) => ("0.0.0.0".to_owned(), None),
        (None, IpFamily::V6) => ("::".to_owned(), None),
        (None, IpFamily::Dual) => ("0.0.0.0".to_owned(), Some("::")),
    };
    let context = tls::DownstreamTlsContext {
        common_tls_context: Some(common_tls(ctx.mesh, None)),
        require_client_certificate: Some(bool_value(true)),
        ..Default::default()
    };
    listener::Listener {
        name: CONNECT_TERMINATE.to_owned(),
        access_log: access_logs(ctx.mesh, Which::Flag("NR")),
        address: Some(socket_address(address, HBONE_PORT)),
        additional_addresses: additional
            .map(|address| listener::AdditionalAddress {
                address: Some(socket_address(address, HBONE_PORT)),
                ..Default::default()
            })
            .into_iter()
            .collect(),
        connection_balance_config: Some(listener::listener::ConnectionBalanceConfig {
            balance_type: Some(
                listener::listener::connection_balance_config::BalanceType::ExactBalance(
                    listener::listener::connection_balance_config::ExactBalance {},
                ),
            ),
        }),
        filter_chains: vec![listener::FilterChain {
            name: "default".to_owned(),
            transport_socket: Some(transport_socket("tls", any(&context))),
            filters: vec![network_filter(
                super::http_chain::HCM,
                any(&connect_terminate_hcm(ctx)),
            )],
            ..Default::default()
        }],
        ..Default::default()
    }
}

fn connect_terminate_hcm(ctx: Context<'_>) -> hcm::HttpConnectionManager {
    use hcm::http_connection_manager::{
        ForwardClientCertDetails, RouteSpecifier, SetCurrentClientCertDetails, UpgradeConfig,
    };
    let mut http_filters = Vec::new();
    if ctx.proxy.flavour == Flavour::IstioProxy {
        http_filters.push(super::telemetry::downstream_peer_metadata());
    }
    http_filters.push(connect_authority(ctx.proxy));
    http_filters.push(super::http_chain::router());
    hcm::HttpConnectionManager {
        stat_prefix: CONNECT_TERMINATE.to_owned(),
        access_log: access_logs(ctx.mesh, Which::Refused),
        route_specifier: Some(RouteSpecifier::RouteConfig(connect_route(
            ctx.proxy.flavour,
        ))),
        forward_client_cert_details: ForwardClientCertDetails::AppendForward as i32,
        set_current_client_cert_details: Some(SetCurrentClientCertDetails {
            subject: Some(bool_value(true)),
            uri: true,
            dns: true,
            ..Default::default()
        }),
        server_name: "istio-envoy".to_owned(),
        use_remote_address: Some(bool_value(false)),
        stream_idle_timeout: Some(seconds(0)),
        upgrade_configs: vec![UpgradeConfig {
            upgrade_type: "CONNECT".to_owned(),
            ..Default::default()
        }],
        http2_protocol_options: Some(core::Http2ProtocolOptions {
            allow_connect: true,
            max_concurrent_streams: Some(u32_value(100)),
            connection_keepalive: Some(core::KeepaliveSettings {
                interval: Some(seconds(10)),
                timeout: Some(seconds(20)),
                ..Default::default()
            }),
            ..Default::default()
        }),
        http_filters,
        ..Default::default()
    }
}

/// Every CONNECT goes to `main_internal`.
///
/// Upstream leaves the route's timeout at Envoy's 15 s, which resets a tunnel 15 s after its client half-closed,
/// whatever the server still sends. The stock flavour turns it off.
fn connect_route(flavour: Flavour) -> route::RouteConfiguration {
    let action = route::RouteAction {
        cluster_specifier: Some(route::route_action::ClusterSpecifier::Cluster(
            MAIN_INTERNAL.to_owned(),
        )),
        timeout: match flavour {
            Flavour::Stock => Some(seconds(0)),
            Flavour::IstioProxy => None,
        },
        upgrade_configs: vec![route::route_action::UpgradeConfig {
            upgrade_type: "CONNECT".to_owned(),
            connect_config: Some(route::route_action::upgrade_config::ConnectConfig::default()),
            ..Default::default()
        }],
        ..Default::default()
    };
    route::RouteConfiguration {
        name: "default".to_owned(),
        virtual_hosts: vec![route::VirtualHost {
            name: "default".to_owned(),
            domains: vec!["*".to_owned()],
            routes: vec![route::Route {
                r#match: Some(route::RouteMatch {
                    path_specifier: Some(route::route_match::PathSpecifier::ConnectMatcher(
                        route::route_match::ConnectMatcher {},
                    )),
                    ..Default::default()
                }),
                action: Some(route::route::Action::Route(action)),
                ..Default::default()
            }],
            ..Default::default()
        }],
        ..Default::default()
    }
}

/// Who calls whom, handed to `main_internal`.
fn connect_authority(proxy: &Proxy) -> hcm::HttpFilter {
    use ext::filters::common::set_filter_state::v3::filter_state_value::SharedWithUpstream::Once;
    let hashable = hashable_string(proxy);
    let state = [
        (
            "envoy.filters.listener.original_dst.local_ip",
            "%REQ(:AUTHORITY)%",
            "",
        ),
        ("io.istio.connect_authority", "%REQ(:AUTHORITY)%", hashable),
        (
            "envoy.filters.listener.original_dst.remote_ip",
            "%DOWNSTREAM_REMOTE_ADDRESS%",
            "",
        ),
        (
            "io.istio.peer_principal",
            "%DOWNSTREAM_PEER_URI_SAN%",
            hashable,
        ),
        (
            "io.istio.local_principal",
            "%DOWNSTREAM_LOCAL_URI_SAN%",
            hashable,
        ),
    ];
    let config = ext::filters::http::set_filter_state::v3::Config {
        on_request_headers: state
            .into_iter()
            .map(|(key, format, factory)| filter_state(key, format, factory, Once))
            .collect(),
        ..Default::default()
    };
    wire::http_filter("connect_authority", any(&config))
}

/// One filter-state object made of a `%...%` text.
pub(super) fn filter_state(
    key: &str,
    format: &str,
    factory: &str,
    shared: ext::filters::common::set_filter_state::v3::filter_state_value::SharedWithUpstream,
) -> ext::filters::common::set_filter_state::v3::FilterStateValue {
    use ext::filters::common::set_filter_state::v3::{FilterStateValue, filter_state_value};
    FilterStateValue {
        key: Some(filter_state_value::Key::ObjectKey(key.to_owned())),
        value: Some(filter_state_value::Value::FormatString(
            wire::format_string(format),
        )),
        factory_key: factory.to_owned(),
        shared_with_upstream: shared as i32,
        ..Default::default()
    }
}

fn internal_listener(
    mesh: &MeshSettings,
    name: &str,
    filters: Vec<listener::Filter>,
) -> listener::Listener {
    listener::Listener {
        name: name.to_owned(),
        access_log: access_logs(mesh, Which::Flag("NR")),
        listener_specifier: Some(listener::listener::ListenerSpecifier::InternalListener(
            listener::listener::InternalListenerConfig {},
        )),
        use_original_dst: Some(bool_value(false)),
        filter_chains: vec![listener::FilterChain {
            filters,
            ..Default::default()
        }],
        ..Default::default()
    }
}

/// Restores the destination that a tunnel was opened for.
pub(super) fn original_dst_filter() -> listener::ListenerFilter {
    listener_filter(
        ORIGINAL_DST,
        any(&ext::filters::listener::original_dst::v3::OriginalDst::default()),
    )
}

fn tunneling_proxy(
    mesh: &MeshSettings,
    name: &str,
    hostname: &str,
    header: Option<(&str, &str)>,
) -> listener::Filter {
    use core::header_value_option::HeaderAppendAction;
    let config = tcp_proxy::TcpProxy {
        stat_prefix: name.to_owned(),
        access_log: access_logs(mesh, Which::Flag("UF")),
        cluster_specifier: Some(tcp_proxy::tcp_proxy::ClusterSpecifier::Cluster(
            name.to_owned(),
        )),
        tunneling_config: Some(tcp_proxy::tcp_proxy::TunnelingConfig {
            hostname: hostname.to_owned(),
            headers_to_add: header
                .map(|(key, value)| core::HeaderValueOption {
                    header: Some(core::HeaderValue {
                        key: key.to_owned(),
                        value: value.to_owned(),
                        ..Default::default()
                    }),
                    append_action: HeaderAppendAction::OverwriteIfExistsOrAdd as i32,
                    ..Default::default()
                })
                .into_iter()
                .collect(),
            ..Default::default()
        }),
        ..Default::default()
    };
    network_filter(super::tcp_chain::TCP_PROXY, any(&config))
}

fn connect_originate_listener(mesh: &MeshSettings) -> listener::Listener {
    let mut listener = internal_listener(
        mesh,
        CONNECT_ORIGINATE,
        vec![tunneling_proxy(
            mesh,
            CONNECT_ORIGINATE,
            "%DOWNSTREAM_LOCAL_ADDRESS%",
            None,
        )],
    );
    listener.listener_filters = vec![original_dst_filter()];
    listener
}

/// Key of the filter state that names the target of a tunnel in a tunnel.
const DOUBLE_HBONE_TARGET: &str = "istio.double_hbone.hbone_target_address";
/// What the tunnels of multi-network mode ask for.
const DOUBLE_HBONE_HOSTNAME: &str = "%FILTER_STATE(istio.double_hbone.hbone_target_address:PLAIN)%";

fn inner_listener(ctx: Context<'_>) -> listener::Listener {
    use ext::filters::common::set_filter_state::v3::filter_state_value::SharedWithUpstream::Transitive;
    let propagate = ext::filters::network::set_filter_state::v3::Config {
        on_new_connection: vec![
            filter_state(
                "envoy.filters.listener.original_dst.local_ip",
                "%DYNAMIC_METADATA(envoy.filters.listener.original_dst:local)%",
                "",
                Transitive,
            ),
            filter_state(
                DOUBLE_HBONE_TARGET,
                "%DYNAMIC_METADATA(istio:double_hbone:hbone_target_address)%",
                hashable_string(ctx.proxy),
                Transitive,
            ),
        ],
        ..Default::default()
    };
    let network = ctx.proxy.network.as_deref().unwrap_or_default();
    internal_listener(
        ctx.mesh,
        INNER_CONNECT_ORIGINATE,
        vec![
            network_filter("propagate_endpoint_metadata", any(&propagate)),
            tunneling_proxy(
                ctx.mesh,
                INNER_CONNECT_ORIGINATE,
                DOUBLE_HBONE_HOSTNAME,
                Some(("x-forwarded-network", network)),
            ),
        ],
    )
}

fn outer_listener(mesh: &MeshSettings) -> listener::Listener {
    let header = Some(("x-istio-source", "waypoint"));
    let mut listener = internal_listener(
        mesh,
        OUTER_CONNECT_ORIGINATE,
        vec![tunneling_proxy(
            mesh,
            OUTER_CONNECT_ORIGINATE,
            DOUBLE_HBONE_HOSTNAME,
            header,
        )],
    );
    listener.listener_filters = vec![original_dst_filter()];
    listener
}
