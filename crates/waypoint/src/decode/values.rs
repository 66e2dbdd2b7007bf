//! Small values: durations, percentages, addresses, metadata, Any.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use prost::Message;
use waymark_proto::any::type_name;
use waymark_proto::envoy::envoy::config::core::v3 as core;
use waymark_proto::envoy::envoy::r#type::v3 as kind;
use waymark_proto::envoy::google::protobuf as wkt;
use waymark_proto::{envoy, typed_struct};

use super::DecodeError;
use super::at::{At, unsupported};
use crate::route::Fraction;

/// A duration that may be 0.
pub(super) fn duration(at: At<'_>, value: &wkt::Duration) -> Result<Duration, DecodeError> {
    let seconds = u64::try_from(value.seconds).map_err(|_| at.error("is negative"))?;
    let nanos = u32::try_from(value.nanos)
        .ok()
        .filter(|n| *n < 1_000_000_000);
    Ok(Duration::new(
        seconds,
        nanos.ok_or_else(|| at.error("is not a duration"))?,
    ))
}

/// An optional timer: unset is `unset`, 0 is off.
pub(super) fn timer(
    at: At<'_>,
    value: Option<&wkt::Duration>,
    unset: Option<Duration>,
) -> Result<Option<Duration>, DecodeError> {
    match value {
        None => Ok(unset),
        Some(value) => Ok(Some(duration(at, value)?).filter(|d| !d.is_zero())),
    }
}

/// A duration above 0.
pub(super) fn positive(at: At<'_>, value: &wkt::Duration) -> Result<Duration, DecodeError> {
    let value = duration(at, value)?;
    if value.is_zero() {
        Err(at.error("must be above 0"))
    } else {
        Ok(value)
    }
}

pub(super) fn u32_value(value: Option<wkt::UInt32Value>) -> Option<u32> {
    value.map(|v| v.value)
}

pub(super) fn flag(value: Option<wkt::BoolValue>, unset: bool) -> bool {
    value.map_or(unset, |v| v.value)
}

pub(super) fn fraction(
    at: At<'_>,
    value: kind::FractionalPercent,
) -> Result<Fraction, DecodeError> {
    use kind::fractional_percent::DenominatorType as D;
    let denominator = match D::try_from(value.denominator) {
        Ok(D::Hundred) => 100,
        Ok(D::TenThousand) => 10_000,
        Ok(D::Million) => 1_000_000,
        Err(_) => return Err(at.field("denominator").unsupported()),
    };
    Ok(Fraction {
        numerator: value.numerator,
        denominator,
    })
}

/// A fraction whose runtime key nothing overrides.
pub(super) fn runtime_fraction(
    at: At<'_>,
    value: core::RuntimeFractionalPercent,
) -> Result<Fraction, DecodeError> {
    let core::RuntimeFractionalPercent {
        default_value,
        runtime_key: _,
    } = value;
    fraction(
        at.field("default_value"),
        default_value.ok_or_else(|| at.field("default_value").missing())?,
    )
}

/// An IP address and port.
pub(super) fn socket_address(
    at: At<'_>,
    value: &core::SocketAddress,
) -> Result<SocketAddr, DecodeError> {
    let (host, port) = host_and_port(at, value)?;
    let ip: IpAddr = host.parse().map_err(|_| {
        at.field("address")
            .error(format!("{host:?} is not an IP address"))
    })?;
    Ok(SocketAddr::new(ip, port))
}

/// A host and port.
pub(super) fn host_and_port<'v>(
    at: At<'_>,
    value: &'v core::SocketAddress,
) -> Result<(&'v str, u16), DecodeError> {
    use core::socket_address::{PortSpecifier, Protocol};
    let core::SocketAddress {
        protocol,
        address,
        resolver_name,
        ipv4_compat,
        network_namespace_filepath,
        port_specifier,
    } = value;
    unsupported!(at; resolver_name, ipv4_compat, network_namespace_filepath);
    if *protocol != Protocol::Tcp as i32 {
        return Err(at.field("protocol").unsupported());
    }
    match port_specifier {
        Some(PortSpecifier::PortValue(port)) => {
            let port = u16::try_from(*port).map_err(|_| {
                at.field("port_value")
                    .error(format!("{port} is not a port"))
            })?;
            Ok((address, port))
        }
        Some(PortSpecifier::NamedPort(_)) => Err(at.field("named_port").unsupported()),
        None => Err(at.field("port_value").missing()),
    }
}

pub(super) fn range(at: At<'_>, prefix: &str, len: Option<u32>) -> Result<IpNet, DecodeError> {
    let ip: IpAddr = prefix.parse().map_err(|_| {
        at.field("address_prefix")
            .error(format!("{prefix:?} is not an IP address"))
    })?;
    // Unset is 0, as Envoy has it.
    let len = u8::try_from(len.unwrap_or(0)).ok();
    let net = len.and_then(|len| IpNet::new(ip, len).ok());
    net.ok_or_else(|| at.field("prefix_len").error("is longer than the address"))
}

/// An Any that holds an `M`.
pub(super) fn unpack<M: Message + prost::Name + Default>(
    at: At<'_>,
    any: &wkt::Any,
) -> Result<M, DecodeError> {
    if type_name(&any.type_url) != M::full_name() {
        return Err(at.error(format!(
            "is of type {}, not {}",
            type_name(&any.type_url),
            M::full_name()
        )));
    }
    M::decode(any.value.as_slice())
        .map_err(|e| at.error(format!("is not the message it says it is: {e}")))
}

/// The full name of the message that an Any holds, inside a TypedStruct too.
pub(super) fn inner_type(any: &wkt::Any) -> String {
    let outer = type_name(&any.type_url);
    let inner = match outer {
        "udpa.type.v1.TypedStruct" => typed_struct::UdpaTypedStruct::decode(any.value.as_slice())
            .ok()
            .map(|t| t.type_url),
        "xds.type.v3.TypedStruct" => typed_struct::XdsTypedStruct::decode(any.value.as_slice())
            .ok()
            .map(|t| t.type_url),
        _ => None,
    };
    type_name(inner.as_deref().unwrap_or(outer)).to_owned()
}

/// A string at `path` in `filter_metadata[namespace]`.
pub(super) fn metadata_text<'m>(
    metadata: Option<&'m core::Metadata>,
    namespace: &str,
    path: &[&str],
) -> Option<&'m str> {
    let (last, parents) = path.split_last()?;
    let mut fields = metadata?.filter_metadata.get(namespace)?;
    for parent in parents {
        match fields.fields.get(*parent)?.kind.as_ref()? {
            wkt::value::Kind::StructValue(inner) => fields = inner,
            _ => return None,
        }
    }
    match fields.fields.get(*last)?.kind.as_ref()? {
        wkt::value::Kind::StringValue(text) => Some(text),
        _ => None,
    }
}

/// Where a route or cluster was written: `metadata.filter_metadata.istio.config`.
pub(super) fn istio_config(metadata: Option<&core::Metadata>) -> Option<Arc<str>> {
    metadata_text(metadata, "istio", &["config"]).map(Arc::from)
}

/// The text of a data source that has it inside.
pub(super) fn inline_bytes(at: At<'_>, source: core::DataSource) -> Result<Vec<u8>, DecodeError> {
    use core::data_source::Specifier;
    let core::DataSource {
        watched_directory,
        specifier,
    } = source;
    unsupported!(at; watched_directory);
    match specifier {
        Some(Specifier::InlineString(text)) => Ok(text.into_bytes()),
        Some(Specifier::InlineBytes(bytes)) => Ok(bytes),
        Some(Specifier::Filename(_)) => Err(at.field("filename").unsupported()),
        Some(Specifier::EnvironmentVariable(_)) => {
            Err(at.field("environment_variable").unsupported())
        }
        None => Ok(Vec::new()),
    }
}

/// That something is discovered over the same ADS stream.
pub(super) fn ads(at: At<'_>, source: Option<&core::ConfigSource>) -> Result<(), DecodeError> {
    use core::config_source::ConfigSourceSpecifier as S;
    let source = source.ok_or_else(|| at.missing())?;
    let core::ConfigSource {
        authorities,
        initial_fetch_timeout: _, // Resources are awaited; nothing serves without them.
        resource_api_version: _,
        config_source_specifier,
    } = source;
    unsupported!(at; authorities);
    match config_source_specifier {
        Some(S::Ads(core::AggregatedConfigSource {})) => Ok(()),
        Some(S::Path(_)) => Err(at.field("path").unsupported()),
        Some(S::PathConfigSource(_)) => Err(at.field("path_config_source").unsupported()),
        Some(S::ApiConfigSource(_)) => Err(at.field("api_config_source").unsupported()),
        Some(S::Self_(_)) => Err(at.field("self").unsupported()),
        None => Err(at.missing()),
    }
}

pub(super) type RegexMatcher = envoy::envoy::r#type::matcher::v3::RegexMatcher;
