//! Network filters of `main_internal`'s chains: what comes before the connection manager or the TCP proxy, and the proxy.

use std::sync::Arc;
use std::time::Duration;

use waymark_proto::envoy::envoy::config::listener::v3 as listener;
use waymark_proto::envoy::envoy::extensions::filters::network as pb;
use waymark_proto::envoy::google::protobuf as wkt;

use super::DecodeError;
use super::access_log::access_logs;
use super::at::{At, Notes, unsupported};
use super::filters::{filter_state, istio_stats, refuse_security, unknown};
use super::http_chain;
use super::values::{flag, inner_type, positive, timer, u32_value, unpack};
use crate::program::{Chain, Names, StatsOptions, TcpChain, TcpDestination};
use crate::route::Weighted;

/// Envoy's default for a silent TCP connection.
const TCP_IDLE_TIMEOUT: Duration = Duration::from_secs(3600);
/// What a chain reports where nothing else is said.
const REPORTING: StatsOptions = StatsOptions {
    tcp_reporting: Some(Duration::from_secs(5)),
};
/// Carries the CONNECT's authority on to the next internal connection, of which there is none here.
const AUTHORITY_STATE: (&str, &str) = (
    "envoy.filters.listener.original_dst.local_ip",
    "%FILTER_STATE(envoy.filters.listener.original_dst.local_ip:PLAIN)%",
);

/// A chain, and the name of its route table where that comes over RDS.
pub(super) fn chain(
    names: &mut Names,
    notes: &mut Notes,
    at: At<'_>,
    name: Arc<str>,
    filters: Vec<listener::Filter>,
) -> Result<(Chain, Option<Arc<str>>), DecodeError> {
    let (mut stats, mut istio) = (None, false);
    let last = filters
        .len()
        .checked_sub(1)
        .ok_or_else(|| at.field("filters").missing())?;
    for (i, filter) in filters.into_iter().enumerate() {
        let at = at.index("filters", i);
        let any = typed_config(at, filter)?;
        let config_at = at.field("typed_config");
        let kind = inner_type(&any);
        refuse_security(at, &kind)?;
        match kind.as_str() {
            "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
                if i == last =>
            {
                let (http, rds) =
                    http_chain::chain(names, notes, config_at, name, unpack(config_at, &any)?)?;
                return Ok((Chain::Http(Box::new(http)), rds));
            }
            "envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy" if i == last => {
                // A control plane that sends no filters of istio's at all has not said that this chain be silent.
                let stats = stats.or_else(|| (!istio).then_some(REPORTING));
                let tcp = tcp_proxy(
                    names,
                    notes,
                    config_at,
                    name,
                    stats,
                    unpack(config_at, &any)?,
                )?;
                return Ok((Chain::Tcp(tcp), None));
            }
            "envoy.extensions.filters.network.set_filter_state.v3.Config" => {
                carried_on(config_at, unpack(config_at, &any)?)?;
            }
            "envoy.tcp.metadataexchange.config.MetadataExchange" => {
                istio = true;
                notes.add(at, "peers are not asked for metadata");
            }
            "stats.PluginConfig" => stats = Some(istio_stats(notes, config_at, &any)?),
            "envoy.extensions.filters.network.mongo_proxy.v3.MongoProxy" => {
                // Sent for every port that is declared to speak MongoDB.
                let pb::mongo_proxy::v3::MongoProxy {
                    stat_prefix: _,
                    access_log,
                    delay,
                    emit_dynamic_metadata: _, // which nobody reads
                    commands: _,              // only says which are counted
                    max_bson_depth: _,        // nothing is parsed
                } = unpack(config_at, &any)?;
                unsupported!(config_at; access_log, delay);
                notes.add(at, "MongoDB's messages are not counted");
            }
            _ => return Err(unknown(at, &any)),
        }
    }
    Err(at
        .index("filters", last)
        .error("must be an HTTP connection manager or a TCP proxy"))
}

pub(super) fn typed_config(at: At<'_>, filter: listener::Filter) -> Result<wkt::Any, DecodeError> {
    use listener::filter::ConfigType as C;
    let listener::Filter {
        name: _,
        config_type,
    } = filter;
    match config_type {
        Some(C::TypedConfig(any)) => Ok(any),
        Some(C::ConfigDiscovery(_)) => Err(at.field("config_discovery").unsupported()),
        None => Err(at.field("typed_config").missing()),
    }
}

fn carried_on(at: At<'_>, config: pb::set_filter_state::v3::Config) -> Result<(), DecodeError> {
    let pb::set_filter_state::v3::Config {
        on_new_connection,
        on_downstream_tls_handshake,
        on_downstream_data,
    } = config;
    unsupported!(at; on_downstream_tls_handshake, on_downstream_data);
    for (i, value) in on_new_connection.into_iter().enumerate() {
        let at = at.index("on_new_connection", i);
        let (key, format) = filter_state(at, value)?;
        if (key.as_str(), format.as_str()) != AUTHORITY_STATE {
            return Err(at.error(format!(
                "filter state {key:?} = {format:?} is not supported"
            )));
        }
    }
    Ok(())
}

/// A TCP proxy's fields, its tunnel aside.
pub(super) struct Proxy {
    pub(super) chain: TcpChain,
    pub(super) tunnel: Option<pb::tcp_proxy::v3::tcp_proxy::TunnelingConfig>,
}

fn tcp_proxy(
    names: &mut Names,
    notes: &mut Notes,
    at: At<'_>,
    name: Arc<str>,
    stats: Option<StatsOptions>,
    message: pb::tcp_proxy::v3::TcpProxy,
) -> Result<TcpChain, DecodeError> {
    let Proxy { chain, tunnel } = proxy(names, notes, at, name, stats, message)?;
    if tunnel.is_some() {
        return Err(at.field("tunneling_config").unsupported());
    }
    Ok(chain)
}

/// Reads a TCP proxy.
pub(super) fn proxy(
    names: &mut Names,
    notes: &mut Notes,
    at: At<'_>,
    name: Arc<str>,
    stats: Option<StatsOptions>,
    message: pb::tcp_proxy::v3::TcpProxy,
) -> Result<Proxy, DecodeError> {
    use pb::tcp_proxy::v3::tcp_proxy::ClusterSpecifier as C;
    let pb::tcp_proxy::v3::TcpProxy {
        stat_prefix,
        on_demand,
        metadata_match,
        idle_timeout,
        downstream_idle_timeout,
        upstream_idle_timeout,
        access_log,
        max_connect_attempts,
        backoff_options,
        hash_policy,
        tunneling_config,
        max_downstream_connection_duration,
        max_downstream_connection_duration_jitter_percentage,
        access_log_flush_interval,
        flush_access_log_on_connected,
        access_log_options,
        proxy_protocol_tlvs,
        proxy_protocol_tlv_merge_policy,
        upstream_connect_mode,
        max_early_data_bytes,
        check_drain_close,
        cluster_specifier,
    } = message;
    unsupported!(
        at; on_demand, metadata_match, downstream_idle_timeout, upstream_idle_timeout, backoff_options, hash_policy,
        proxy_protocol_tlvs, proxy_protocol_tlv_merge_policy, upstream_connect_mode, max_early_data_bytes,
    );
    if flag(check_drain_close, false) {
        return Err(at.field("check_drain_close").unsupported());
    }
    let jitter = "max_downstream_connection_duration_jitter_percentage";
    notes.add_if(
        &max_downstream_connection_duration_jitter_percentage,
        at.field(jitter),
        "no jitter",
    );
    let at_the_end = "connections are logged when they end";
    notes.add_if(
        &access_log_flush_interval,
        at.field("access_log_flush_interval"),
        at_the_end,
    );
    notes.add_if(
        &flush_access_log_on_connected,
        at.field("flush_access_log_on_connected"),
        at_the_end,
    );
    notes.add_if(
        &access_log_options,
        at.field("access_log_options"),
        at_the_end,
    );
    let to = match cluster_specifier {
        Some(C::Cluster(cluster)) => TcpDestination::One(names.cluster(&cluster)),
        Some(C::WeightedClusters(weighted)) => {
            self::weighted(names, at.field("weighted_clusters"), weighted)?
        }
        None => return Err(at.error("names no cluster")),
    };
    let max_connect_attempts = u32_value(max_connect_attempts).unwrap_or(1);
    if max_connect_attempts == 0 {
        return Err(at.field("max_connect_attempts").error("must be above 0"));
    }
    let chain = TcpChain {
        name,
        stat_prefix: stat_prefix.into(),
        to,
        idle_timeout: timer(
            at.field("idle_timeout"),
            idle_timeout.as_ref(),
            Some(TCP_IDLE_TIMEOUT),
        )?,
        max_duration: max_downstream_connection_duration
            .map(|d| positive(at.field("max_downstream_connection_duration"), &d))
            .transpose()?,
        max_connect_attempts,
        stats,
        access_logs: access_logs(notes, at, access_log)?,
    };
    Ok(Proxy {
        chain,
        tunnel: tunneling_config,
    })
}

fn weighted(
    names: &mut Names,
    at: At<'_>,
    message: pb::tcp_proxy::v3::tcp_proxy::WeightedCluster,
) -> Result<TcpDestination, DecodeError> {
    let mut items = Vec::with_capacity(message.clusters.len());
    for (i, cluster) in message.clusters.into_iter().enumerate() {
        let at = at.index("clusters", i);
        let pb::tcp_proxy::v3::tcp_proxy::weighted_cluster::ClusterWeight {
            name,
            weight,
            metadata_match,
        } = cluster;
        unsupported!(at; metadata_match);
        if weight == 0 {
            return Err(at.field("weight").error("must be above 0"));
        }
        items.push((weight, names.cluster(&name)));
    }
    let items = Weighted::new(items).ok_or_else(|| at.field("clusters").missing())?;
    Ok(TcpDestination::Weighted(items))
}
