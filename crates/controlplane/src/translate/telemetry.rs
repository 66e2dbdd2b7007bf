//! What istio-proxy's own extensions need for metrics and traces. Stock Envoy knows none of it.

use prost_types::value::Kind;
use prost_types::{ListValue, Struct, Value};
use waymark_proto::stats;

use super::input::{Context, Proxy};
use super::wire::{
    Any, any, cluster, envoy_type, hcm, http_filter, listener, network_filter, typed_struct,
};

const PEER_METADATA: &str = "io.istio.http.peer_metadata.Config";
const STATS: &str = "istio.stats";
const METADATA_EXCHANGE: &str = "istio.metadata_exchange";

/// Finds out who the peer of a tunnel is.
pub(super) fn downstream_peer_metadata() -> hcm::HttpFilter {
    let value = fields([
        ("downstream_discovery", workload_discovery()),
        ("shared_with_upstream", Kind::BoolValue(true)),
    ]);
    http_filter(
        "waypoint_downstream_peer_metadata",
        typed_struct(PEER_METADATA, value),
    )
}

/// Finds out who the chosen endpoint is.
pub(super) fn upstream_peer_metadata() -> hcm::HttpFilter {
    let value = fields([("upstream_discovery", workload_discovery())]);
    http_filter(
        "waypoint_upstream_peer_metadata",
        typed_struct(PEER_METADATA, value),
    )
}

/// The same for TCP.
pub(super) fn metadata_exchange() -> listener::Filter {
    network_filter(METADATA_EXCHANGE, metadata_exchange_config())
}

/// The same on the way to the endpoints of a cluster.
pub(super) fn upstream_metadata_exchange() -> cluster::Filter {
    cluster::Filter {
        name: METADATA_EXCHANGE.to_owned(),
        typed_config: Some(metadata_exchange_config()),
        ..Default::default()
    }
}

fn metadata_exchange_config() -> Any {
    let value = fields([
        (
            "protocol",
            Kind::StringValue("istio-peer-exchange".to_owned()),
        ),
        ("enable_discovery", Kind::BoolValue(true)),
    ]);
    typed_struct("envoy.tcp.metadataexchange.config.MetadataExchange", value)
}

/// `[{workload_discovery: {}}]`
fn workload_discovery() -> Kind {
    let method = fields([("workload_discovery", Kind::StructValue(Struct::default()))]);
    let values = vec![Value {
        kind: Some(Kind::StructValue(method)),
    }];
    Kind::ListValue(ListValue { values })
}

fn fields<const N: usize>(fields: [(&str, Kind); N]) -> Struct {
    let fields = fields
        .into_iter()
        .map(|(name, kind)| (name.to_owned(), Value { kind: Some(kind) }));
    Struct {
        fields: fields.collect(),
    }
}

/// `istio_requests_total` and its kin.
pub(super) fn http_stats() -> hcm::HttpFilter {
    http_filter(STATS, stats_config())
}

/// `istio_tcp_connections_opened_total` and its kin.
pub(super) fn tcp_stats() -> listener::Filter {
    network_filter(STATS, stats_config())
}

fn stats_config() -> Any {
    any(&stats::PluginConfig {
        disable_host_header_fallback: true,
        reporter: stats::Reporter::ServerGateway as i32,
        ..Default::default()
    })
}

/// The tracing block of an HTTP chain, sent even when no provider is configured.
pub(super) fn tracing(ctx: Context<'_>) -> Option<hcm::http_connection_manager::Tracing> {
    let sampling = ctx.mesh.tracing_sampling?;
    let percent = |value| Some(envoy_type::v3::Percent { value });
    Some(hcm::http_connection_manager::Tracing {
        client_sampling: percent(100.0),
        random_sampling: percent(sampling),
        overall_sampling: percent(100.0),
        custom_tags: custom_tags(ctx.proxy),
        ..Default::default()
    })
}

/// Sorted by tag.
fn custom_tags(proxy: &Proxy) -> Vec<envoy_type::tracing::v3::CustomTag> {
    use envoy_type::tracing::v3::{CustomTag, custom_tag};
    let mut tags: Vec<(String, custom_tag::Type)> = Vec::new();
    for policy in ["allow", "deny"] {
        for (name, key) in [
            ("name", "shadow_effective_policy_id"),
            ("result", "shadow_engine_result"),
        ] {
            tags.push((
                format!("istio.authorization.dry_run.{policy}_policy.{name}"),
                rbac_metadata(&format!("istio_dry_run_{policy}_{key}")),
            ));
        }
    }
    for (tag, value) in [
        ("istio.canonical_revision", proxy.canonical_revision()),
        ("istio.canonical_service", proxy.canonical_name()),
        ("istio.cluster_id", &proxy.cluster_id),
        ("istio.mesh_id", &proxy.mesh_id),
        ("istio.namespace", &proxy.namespace),
    ] {
        let literal = custom_tag::Literal {
            value: value.to_owned(),
        };
        tags.push((tag.to_owned(), custom_tag::Type::Literal(literal)));
    }
    for (side, object) in [
        ("destination", "upstream_peer_obj"),
        ("source", "downstream_peer_obj"),
    ] {
        for (tag, field) in PEER_FIELDS {
            tags.push((
                format!("istio.{side}_{tag}"),
                custom_tag::Type::Value(format!("%FILTER_STATE({object}:FIELD:{field})%")),
            ));
        }
    }
    tags.sort_by(|(left, _), (right, _)| left.cmp(right));
    tags.into_iter()
        .map(|(tag, kind)| CustomTag {
            tag,
            r#type: Some(kind),
        })
        .collect()
}

/// Tag and the field of the peer object it shows.
const PEER_FIELDS: [(&str, &str); 9] = [
    ("app", "app"),
    ("app_version", "version"),
    ("canonical_revision", "revision"),
    ("canonical_service", "service"),
    ("cluster_id", "cluster"),
    ("instance_name", "name"),
    ("namespace", "namespace"),
    ("workload", "workload"),
    ("workload_type", "type"),
];

fn rbac_metadata(key: &str) -> envoy_type::tracing::v3::custom_tag::Type {
    use envoy_type::metadata::v3::{MetadataKey, MetadataKind, metadata_key, metadata_kind};
    use envoy_type::tracing::v3::custom_tag;
    custom_tag::Type::Metadata(custom_tag::Metadata {
        kind: Some(MetadataKind {
            kind: Some(metadata_kind::Kind::Request(metadata_kind::Request {})),
        }),
        metadata_key: Some(MetadataKey {
            key: "envoy.filters.http.rbac".to_owned(),
            path: vec![metadata_key::PathSegment {
                segment: Some(metadata_key::path_segment::Segment::Key(key.to_owned())),
            }],
        }),
        ..Default::default()
    })
}
