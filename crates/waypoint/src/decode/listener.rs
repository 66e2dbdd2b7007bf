//! `Listener`: the three that make a waypoint, told apart by what they are, not by their names.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use waymark_proto::envoy::envoy::config::core::v3 as core;
use waymark_proto::envoy::envoy::config::listener::v3 as pb;
use waymark_proto::envoy::envoy::extensions::filters::network as network_pb;
use waymark_proto::type_url;

use super::DecodeError;
use super::access_log::access_logs;
use super::at::{At, Notes, unsupported};
use super::filters::unknown;
use super::matcher::{Inspection, Tree};
use super::values::{flag, inner_type, socket_address, timer, unpack};
use super::{http_chain, network, tls};
use crate::program::{AccessLog, Chain, ChainId, Destinations, HboneServer, Names};

/// Envoy's default.
const INSPECTION_TIMEOUT: Duration = Duration::from_secs(15);

/// A decoded listener.
#[derive(Debug)]
pub struct DecodedListener {
    /// Its name.
    pub name: Arc<str>,
    /// What it is.
    pub kind: Listener,
}

/// What a listener is to a waypoint.
#[derive(Debug)]
pub enum Listener {
    /// Accepts tunnels (`connect_terminate`).
    Terminate(Terminate),
    /// Takes what is in them apart (`main_internal`).
    Router(Router),
    /// Makes tunnels (`connect_originate`).
    Originate(Originate),
    /// Makes tunnels within tunnels (`inner_connect_originate`, `outer_connect_originate`); nothing here goes there.
    DoubleTunnel,
}

/// Accepts tunnels.
#[derive(Debug)]
pub struct Terminate {
    /// How.
    pub server: HboneServer,
    /// The cluster that tunnels go to; its endpoint has to be the router's listener.
    pub cluster: Arc<str>,
}

/// Takes what is in tunnels apart.
#[derive(Debug)]
pub struct Router {
    /// Destination to chain.
    pub destinations: Destinations,
    /// The chains.
    pub chains: Vec<DecodedChain>,
}

/// A decoded chain.
#[derive(Debug)]
pub struct DecodedChain {
    /// Its id.
    pub id: ChainId,
    /// The chain; with an empty route table if that comes over RDS.
    pub chain: Chain,
    /// Name of the route table that comes over RDS.
    pub rds: Option<Arc<str>>,
}

/// Makes tunnels.
#[derive(Debug)]
pub struct Originate {
    /// The cluster that makes them.
    pub cluster: Arc<str>,
}

/// What all listeners have.
struct Common {
    name: String,
    addresses: Vec<SocketAddr>,
    internal: bool,
    chains: Vec<pb::FilterChain>,
    matcher: Option<waymark_proto::envoy::xds::r#type::matcher::v3::Matcher>,
    filters: Vec<pb::ListenerFilter>,
    inspection_timeout: Option<Duration>,
    access_logs: Vec<AccessLog>,
}

pub(super) fn decode(
    names: &mut Names,
    notes: &mut Notes,
    at: At<'_>,
    message: pb::Listener,
) -> Result<DecodedListener, DecodeError> {
    let listener = common(notes, at, message)?;
    let name = Arc::from(listener.name.as_str());
    let kind = if !listener.internal {
        Listener::Terminate(terminate(notes, at, listener)?)
    } else if listener.matcher.is_some() {
        Listener::Router(router(names, notes, at, listener)?)
    } else {
        originate(names, notes, at, listener)?
    };
    Ok(DecodedListener { name, kind })
}

fn common(notes: &mut Notes, at: At<'_>, message: pb::Listener) -> Result<Common, DecodeError> {
    let pb::Listener {
        name,
        address,
        additional_addresses,
        stat_prefix,
        stats_matcher,
        filter_chains,
        fcds_config,
        filter_chain_matcher,
        use_original_dst,
        default_filter_chain,
        per_connection_buffer_limit_bytes,
        per_connection_buffer_high_watermark_timeout,
        metadata: _,
        deprecated_v1,
        drain_type: _, // listeners are replaced without draining
        listener_filters,
        listener_filters_timeout,
        continue_on_listener_filters_timeout: _, // see `Destinations::inspection_timeout`
        transparent,
        freebind,
        socket_options,
        tcp_fast_open_queue_length,
        traffic_direction: _,
        udp_listener_config,
        api_listener,
        connection_balance_config: _, // the kernel balances
        reuse_port: _,
        enable_reuse_port: _,
        access_log,
        tcp_backlog_size: _,
        max_connections_to_accept_per_socket_event: _,
        bind_to_port,
        enable_mptcp,
        ignore_global_conn_limit: _, // there is none
        bypass_overload_manager: _,  // there is none
        tcp_keepalive,
        listener_specifier,
    } = message;
    if name.is_empty() {
        return Err(at.field("name").missing());
    }
    for (field, value) in [
        ("use_original_dst", use_original_dst),
        ("transparent", transparent),
        ("freebind", freebind),
    ] {
        if flag(value, false) {
            return Err(at.field(field).unsupported());
        }
    }
    if !flag(bind_to_port, true) {
        return Err(at.field("bind_to_port").error("false is not supported"));
    }
    unsupported!(
        at; fcds_config, default_filter_chain, per_connection_buffer_high_watermark_timeout, deprecated_v1,
        socket_options, tcp_fast_open_queue_length, udp_listener_config, api_listener, enable_mptcp, tcp_keepalive,
    );
    let stats = "statistics have their default names";
    notes.add_if(&stat_prefix, at.field("stat_prefix"), stats);
    notes.add_if(&stats_matcher, at.field("stats_matcher"), stats);
    notes.add_if(
        &per_connection_buffer_limit_bytes,
        at.field("per_connection_buffer_limit_bytes"),
        "buffers have their own limits",
    );
    let mut addresses = Vec::new();
    if let Some(address) = address {
        addresses.push(bind_address(at.field("address"), &address)?);
    }
    for (i, more) in additional_addresses.into_iter().enumerate() {
        let at = at.index("additional_addresses", i);
        let pb::AdditionalAddress {
            address,
            socket_options,
            tcp_keepalive,
        } = more;
        unsupported!(at; socket_options, tcp_keepalive);
        let address = address.ok_or_else(|| at.field("address").missing())?;
        addresses.push(bind_address(at.field("address"), &address)?);
    }
    Ok(Common {
        name,
        addresses,
        internal: match listener_specifier {
            Some(pb::listener::ListenerSpecifier::InternalListener(_)) => true,
            None => false,
        },
        chains: filter_chains,
        matcher: filter_chain_matcher,
        filters: listener_filters,
        inspection_timeout: timer(
            at.field("listener_filters_timeout"),
            listener_filters_timeout.as_ref(),
            Some(INSPECTION_TIMEOUT),
        )?,
        access_logs: access_logs(notes, at, access_log)?,
    })
}

fn bind_address(at: At<'_>, address: &core::Address) -> Result<SocketAddr, DecodeError> {
    match &address.address {
        Some(core::address::Address::SocketAddress(address)) => {
            socket_address(at.field("socket_address"), address)
        }
        _ => Err(at.error("must be a socket address")),
    }
}

/// The only chain of a listener that has no matcher.
struct OnlyChain {
    filters: Vec<pb::Filter>,
    transport_socket: Option<core::TransportSocket>,
}

fn only_chain(at: At<'_>, chains: Vec<pb::FilterChain>) -> Result<OnlyChain, DecodeError> {
    let one = <[pb::FilterChain; 1]>::try_from(chains);
    let [chain] = one.map_err(|_| {
        at.field("filter_chains")
            .error("must be one where there is no matcher")
    })?;
    let at = at.index("filter_chains", 0);
    let matched =
        chain.filter_chain_match.clone().unwrap_or_default() != pb::FilterChainMatch::default();
    if matched {
        return Err(at.field("filter_chain_match").unsupported());
    }
    chain_parts(at, chain).map(|(_, only)| only)
}

fn chain_parts(at: At<'_>, chain: pb::FilterChain) -> Result<(String, OnlyChain), DecodeError> {
    let pb::FilterChain {
        filter_chain_match: _, // the caller has seen to it
        filters,
        use_proxy_proto,
        metadata: _,
        transport_socket,
        transport_socket_connect_timeout,
        name,
    } = chain;
    if flag(use_proxy_proto, false) {
        return Err(at.field("use_proxy_proto").unsupported());
    }
    unsupported!(at; transport_socket_connect_timeout);
    Ok((
        name,
        OnlyChain {
            filters,
            transport_socket,
        },
    ))
}

fn terminate(notes: &mut Notes, at: At<'_>, listener: Common) -> Result<Terminate, DecodeError> {
    if listener.addresses.is_empty() {
        return Err(at.field("address").missing());
    }
    if listener.matcher.is_some() {
        return Err(at
            .field("filter_chain_matcher")
            .error("is supported on internal listeners only"));
    }
    if !listener.filters.is_empty() {
        return Err(at
            .field("listener_filters")
            .error("are supported on internal listeners only"));
    }
    let OnlyChain {
        filters,
        transport_socket,
    } = only_chain(at, listener.chains)?;
    let at = at.index("filter_chains", 0);
    let one = <[pb::Filter; 1]>::try_from(filters);
    let [filter] = one.map_err(|_| {
        at.field("filters")
            .error("must be one, an HTTP connection manager")
    })?;
    let filter_at = at.index("filters", 0);
    let any = network::typed_config(filter_at, filter)?;
    super::filters::refuse_security(filter_at, &inner_type(&any))?;
    if any.type_url != type_url::HTTP_CONNECTION_MANAGER {
        return Err(filter_at.error(
            "must be an HTTP connection manager: only listeners that accept HBONE are supported",
        ));
    }
    let config_at = filter_at.field("typed_config");
    let manager: network_pb::http_connection_manager::v3::HttpConnectionManager =
        unpack(config_at, &any)?;
    if !http_chain::terminates(&manager) {
        let why =
            "has no route with a connect_matcher: only listeners that accept HBONE are supported";
        return Err(config_at.error(why));
    }
    let terminator = http_chain::terminator(notes, config_at, manager)?;
    let peers = tls::downstream(notes, at.field("transport_socket"), transport_socket)?;
    let defaults = terminator.http2.of_chain();
    Ok(Terminate {
        server: HboneServer {
            bind: listener.addresses,
            max_concurrent_streams: defaults.max_concurrent_streams,
            initial_stream_window_bytes: terminator.http2.initial_stream_window_bytes,
            initial_connection_window_bytes: terminator.http2.initial_connection_window_bytes,
            keep_alive: terminator.http2.keep_alive,
            peers,
            server_name: terminator.server_name,
            idle_timeout: terminator.idle_timeout,
        },
        cluster: terminator.cluster.into(),
    })
}

fn router(
    names: &mut Names,
    notes: &mut Notes,
    at: At<'_>,
    listener: Common,
) -> Result<Router, DecodeError> {
    let inspection = listener_filters(at, listener.filters)?;
    let mut ids = HashMap::new();
    let mut chains = Vec::with_capacity(listener.chains.len());
    for (i, chain) in listener.chains.into_iter().enumerate() {
        let at = at.index("filter_chains", i);
        if chain.filter_chain_match.is_some() {
            return Err(at
                .field("filter_chain_match")
                .error("has no effect beside filter_chain_matcher"));
        }
        let (
            name,
            OnlyChain {
                filters,
                transport_socket,
            },
        ) = chain_parts(at, chain)?;
        unsupported!(at; transport_socket);
        if name.is_empty() {
            return Err(at.field("name").missing());
        }
        let id = names.chain(&name);
        if ids.insert(name.clone(), id).is_some() {
            return Err(at
                .field("name")
                .error(format!("{name:?} is the name of another chain too")));
        }
        let (chain, rds) = network::chain(names, notes, at, name.into(), filters)?;
        chains.push(DecodedChain { id, chain, rds });
    }
    let tree = Tree {
        chains: &ids,
        inspection,
    };
    let matcher = listener
        .matcher
        .ok_or_else(|| at.field("filter_chain_matcher").missing())?;
    let mut destinations = tree.decode(at.field("filter_chain_matcher"), matcher)?;
    destinations.inspection_timeout = listener.inspection_timeout;
    destinations.access_logs = listener.access_logs;
    Ok(Router {
        destinations,
        chains,
    })
}

fn listener_filters(
    at: At<'_>,
    filters: Vec<pb::ListenerFilter>,
) -> Result<Inspection, DecodeError> {
    use pb::listener_filter::ConfigType as C;
    let mut inspection = Inspection {
        absent: true,
        disabled: None,
    };
    let mut original_dst = false;
    for (i, filter) in filters.into_iter().enumerate() {
        let at = at.index("listener_filters", i);
        let pb::ListenerFilter {
            name: _,
            filter_disabled,
            config_type,
        } = filter;
        let any = match config_type {
            Some(C::TypedConfig(any)) => any,
            Some(C::ConfigDiscovery(_)) => return Err(at.field("config_discovery").unsupported()),
            None => return Err(at.field("typed_config").missing()),
        };
        match any.type_url.as_str() {
            type_url::ORIGINAL_DST => {
                unsupported!(at; filter_disabled);
                original_dst = true;
            }
            type_url::HTTP_INSPECTOR => {
                inspection = Inspection {
                    absent: false,
                    disabled: filter_disabled,
                }
            }
            // Finds out about SNI, which no chain is chosen by.
            type_url::TLS_INSPECTOR => {}
            _ => return Err(unknown(at, &any)),
        }
    }
    if original_dst {
        Ok(inspection)
    } else {
        Err(at
            .field("listener_filters")
            .error("must have original_dst: it restores the destination of the tunnel"))
    }
}

fn originate(
    names: &mut Names,
    notes: &mut Notes,
    at: At<'_>,
    listener: Common,
) -> Result<Listener, DecodeError> {
    for (i, filter) in listener.filters.iter().enumerate() {
        let at = at.index("listener_filters", i);
        match &filter.config_type {
            Some(pb::listener_filter::ConfigType::TypedConfig(any))
                if any.type_url == type_url::ORIGINAL_DST => {}
            Some(pb::listener_filter::ConfigType::TypedConfig(any)) => {
                return Err(unknown(at, any));
            }
            _ => return Err(at.field("typed_config").missing()),
        }
    }
    let OnlyChain {
        filters,
        transport_socket,
    } = only_chain(at, listener.chains)?;
    let at = at.index("filter_chains", 0);
    unsupported!(at; transport_socket);
    let last = filters.len();
    for (i, filter) in filters.into_iter().enumerate() {
        let at = at.index("filters", i);
        let any = network::typed_config(at, filter)?;
        let config_at = at.field("typed_config");
        super::filters::refuse_security(at, &inner_type(&any))?;
        match any.type_url.as_str() {
            // Prepares for a tunnel within a tunnel, which the TCP proxy after it makes.
            type_url::NETWORK_SET_FILTER_STATE if i + 1 < last => {}
            type_url::TCP_PROXY if i + 1 == last => {
                let message = unpack(config_at, &any)?;
                return tunnel(names, notes, config_at, message);
            }
            _ => return Err(unknown(at, &any)),
        }
    }
    Err(at
        .field("filters")
        .error("must end with a TCP proxy that makes tunnels"))
}

fn tunnel(
    names: &mut Names,
    notes: &mut Notes,
    at: At<'_>,
    message: network_pb::tcp_proxy::v3::TcpProxy,
) -> Result<Listener, DecodeError> {
    let network::Proxy { chain, tunnel } =
        network::proxy(names, notes, at, "".into(), None, message)?;
    notes.add_if(
        &chain.access_logs,
        at.field("access_log"),
        "tunnels that fail are in the log of what they were for",
    );
    let at = at.field("tunneling_config");
    let network_pb::tcp_proxy::v3::tcp_proxy::TunnelingConfig {
        hostname,
        use_post,
        headers_to_add,
        propagate_response_headers,
        post_path,
        propagate_response_trailers,
        request_id_extension,
        request_id_header,
        request_id_metadata_key,
        formatters: _,
    } = tunnel
        .ok_or_else(|| at.error("is missing: an internal listener routes or makes tunnels"))?;
    if hostname == "%FILTER_STATE(istio.double_hbone.hbone_target_address:PLAIN)%" {
        return Ok(Listener::DoubleTunnel);
    }
    if hostname != "%DOWNSTREAM_LOCAL_ADDRESS%" {
        return Err(at
            .field("hostname")
            .error("must be %DOWNSTREAM_LOCAL_ADDRESS%"));
    }
    unsupported!(
        at; use_post, headers_to_add, propagate_response_headers, post_path, propagate_response_trailers,
        request_id_extension, request_id_header, request_id_metadata_key,
    );
    let crate::program::TcpDestination::One(cluster) = chain.to else {
        return Err(at.error("tunnels of weighted clusters are not supported"));
    };
    Ok(Listener::Originate(Originate {
        cluster: cluster.name,
    }))
}
