//! The generated types by short names, and the few shapes that are written everywhere.

use std::time::Duration;

use prost::{Message, Name};
use waymark_proto::envoy as pb;
use waymark_proto::typed_struct::UdpaTypedStruct;

pub(super) use pb::envoy::config::cluster::v3 as cluster;
pub(super) use pb::envoy::config::core::v3 as core;
pub(super) use pb::envoy::config::endpoint::v3 as endpoint;
pub(super) use pb::envoy::config::listener::v3 as listener;
pub(super) use pb::envoy::config::route::v3 as route;
pub(super) use pb::envoy::extensions as ext;
pub(super) use pb::envoy::extensions::filters::network::http_connection_manager::v3 as hcm;
pub(super) use pb::envoy::extensions::filters::network::tcp_proxy::v3 as tcp_proxy;
pub(super) use pb::envoy::extensions::transport_sockets::tls::v3 as tls;
pub(super) use pb::envoy::extensions::upstreams::http::v3 as upstream_http;
pub(super) use pb::envoy::r#type as envoy_type;
pub(super) use pb::google::protobuf;
pub(super) use pb::google::protobuf::Any;
pub(super) use pb::xds;

/// Name of the listener filter and of the metadata that carry the destination of a tunnel.
pub(super) const ORIGINAL_DST: &str = "envoy.filters.listener.original_dst";

/// Wraps a message with its type URL.
pub(super) fn any<M: Message + Name>(message: &M) -> Any {
    Any {
        type_url: M::type_url(),
        value: message.encode_to_vec(),
    }
}

/// A named extension, as the `xds` packages have it.
pub(super) fn xds_extension<M: Message + Name>(
    name: &str,
    message: &M,
) -> xds::core::v3::TypedExtensionConfig {
    xds::core::v3::TypedExtensionConfig {
        name: name.to_owned(),
        typed_config: Some(any(message)),
    }
}

/// A duration on the wire. One that does not fit is the longest that does.
pub(super) fn duration(value: Duration) -> protobuf::Duration {
    protobuf::Duration {
        seconds: i64::try_from(value.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(value.subsec_nanos()).unwrap_or(i32::MAX),
    }
}

/// `seconds` as a duration on the wire.
pub(super) fn seconds(seconds: u32) -> protobuf::Duration {
    duration(Duration::from_secs(u64::from(seconds)))
}

/// A number that may be absent.
pub(super) fn u32_value(value: u32) -> protobuf::UInt32Value {
    protobuf::UInt32Value { value }
}

/// A truth value that may be absent.
pub(super) fn bool_value(value: bool) -> protobuf::BoolValue {
    protobuf::BoolValue { value }
}

/// A string inside a `Struct`.
pub(super) fn string(value: impl Into<String>) -> protobuf::Value {
    protobuf::Value {
        kind: Some(protobuf::value::Kind::StringValue(value.into())),
    }
}

/// A truth value inside a `Struct`.
pub(super) fn boolean(value: bool) -> protobuf::Value {
    protobuf::Value {
        kind: Some(protobuf::value::Kind::BoolValue(value)),
    }
}

/// A list inside a `Struct`.
pub(super) fn list(values: Vec<protobuf::Value>) -> protobuf::Value {
    protobuf::Value {
        kind: Some(protobuf::value::Kind::ListValue(protobuf::ListValue {
            values,
        })),
    }
}

/// A `Struct` inside a `Struct`.
pub(super) fn object<'a>(
    fields: impl IntoIterator<Item = (&'a str, protobuf::Value)>,
) -> protobuf::Value {
    protobuf::Value {
        kind: Some(protobuf::value::Kind::StructValue(structure(fields))),
    }
}

/// A `Struct`.
pub(super) fn structure<'a>(
    fields: impl IntoIterator<Item = (&'a str, protobuf::Value)>,
) -> protobuf::Struct {
    protobuf::Struct {
        fields: fields
            .into_iter()
            .map(|(key, value)| (key.to_owned(), value))
            .collect(),
    }
}

/// Metadata of the given filters.
pub(super) fn metadata<'a>(
    filters: impl IntoIterator<Item = (&'a str, protobuf::Struct)>,
) -> core::Metadata {
    core::Metadata {
        filter_metadata: filters
            .into_iter()
            .map(|(key, value)| (key.to_owned(), value))
            .collect(),
        ..Default::default()
    }
}

/// A configuration that only its `type_url` names: what istio-proxy's own extensions are sent as.
pub(super) fn typed_struct(type_name: &str, value: prost_types::Struct) -> Any {
    any(&UdpaTypedStruct {
        type_url: format!("type.googleapis.com/{type_name}"),
        value: Some(value),
    })
}

/// A `%...%` text.
pub(super) fn format_string(text: &str) -> core::SubstitutionFormatString {
    core::SubstitutionFormatString {
        format: Some(core::substitution_format_string::Format::TextFormatSource(
            core::DataSource {
                specifier: Some(core::data_source::Specifier::InlineString(text.to_owned())),
                ..Default::default()
            },
        )),
        ..Default::default()
    }
}

/// Configuration comes over the stream that the resource came on.
pub(super) fn ads() -> core::ConfigSource {
    core::ConfigSource {
        config_source_specifier: Some(core::config_source::ConfigSourceSpecifier::Ads(
            core::AggregatedConfigSource::default(),
        )),
        initial_fetch_timeout: Some(seconds(0)),
        resource_api_version: core::ApiVersion::V3 as i32,
        ..Default::default()
    }
}

/// An internal listener as an address.
pub(super) fn internal_address(listener: &str, endpoint_id: &str) -> core::Address {
    core::Address {
        address: Some(core::address::Address::EnvoyInternalAddress(
            core::EnvoyInternalAddress {
                endpoint_id: endpoint_id.to_owned(),
                address_name_specifier: Some(
                    core::envoy_internal_address::AddressNameSpecifier::ServerListenerName(
                        listener.to_owned(),
                    ),
                ),
            },
        )),
    }
}

/// A TCP socket as an address.
pub(super) fn socket_address(host: impl Into<String>, port: u16) -> core::Address {
    core::Address {
        address: Some(core::address::Address::SocketAddress(core::SocketAddress {
            address: host.into(),
            port_specifier: Some(core::socket_address::PortSpecifier::PortValue(u32::from(
                port,
            ))),
            ..Default::default()
        })),
    }
}

/// A network filter with its configuration.
pub(super) fn network_filter(name: &str, config: Any) -> listener::Filter {
    listener::Filter {
        name: name.to_owned(),
        config_type: Some(listener::filter::ConfigType::TypedConfig(config)),
    }
}

/// A listener filter with its configuration.
pub(super) fn listener_filter(name: &str, config: Any) -> listener::ListenerFilter {
    listener::ListenerFilter {
        name: name.to_owned(),
        filter_disabled: None,
        config_type: Some(listener::listener_filter::ConfigType::TypedConfig(config)),
    }
}

/// An HTTP filter with its configuration.
pub(super) fn http_filter(name: &str, config: Any) -> hcm::HttpFilter {
    hcm::HttpFilter {
        name: name.to_owned(),
        config_type: Some(hcm::http_filter::ConfigType::TypedConfig(config)),
        ..Default::default()
    }
}

/// A transport socket with its configuration.
pub(super) fn transport_socket(name: &str, config: Any) -> core::TransportSocket {
    core::TransportSocket {
        name: name.to_owned(),
        config_type: Some(core::transport_socket::ConfigType::TypedConfig(config)),
    }
}
