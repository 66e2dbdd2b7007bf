//! The listener behind the tunnels: which service is meant, which protocol is spoken, which chain serves it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};

use ipnet::IpNet;

use super::access_log::{Which, access_logs};
use super::input::{AttachedWorkloads, Context, Flavour, PortInput, Resolution, ServiceInput};
use super::names::{self, Family};
use super::ranges::Ranges;
use super::wire::{any, ext, listener, listener_filter, u32_value, xds};
use super::{Named, families, http_chain, matcher, ports, tcp_chain, tunnel};

/// Writes the listener. The order of `services` does not matter: they are served oldest first.
pub(super) fn listener(
    ctx: Context<'_>,
    services: &[&ServiceInput],
    attached: &AttachedWorkloads,
) -> Named {
    let mut services = services.to_vec();
    services.sort_by(|left, right| age(left).cmp(&age(right)));
    let direct = DirectTraffic::of(ctx, attached);
    Named::listener(&listener::Listener {
        name: tunnel::MAIN_INTERNAL.to_owned(),
        access_log: access_logs(ctx.mesh, Which::Flag("NR")),
        listener_specifier: Some(listener::listener::ListenerSpecifier::InternalListener(
            listener::listener::InternalListenerConfig {},
        )),
        traffic_direction: super::wire::core::TrafficDirection::Inbound as i32,
        listener_filters: listener_filters(ctx, &services, &direct),
        filter_chains: filter_chains(ctx, &services, &direct),
        filter_chain_matcher: Some(chain_matcher(ctx, &services, &direct)),
        ..Default::default()
    })
}

/// Oldest first, by whole seconds, then by name.
fn age(service: &ServiceInput) -> (i64, &str, &str) {
    (service.created, &service.name, &service.namespace)
}

/// What is addressed to a pod and not to a service.
struct DirectTraffic {
    addresses: BTreeSet<IpAddr>,
    chains: bool,
}

impl DirectTraffic {
    fn of(ctx: Context<'_>, attached: &AttachedWorkloads) -> Self {
        let mut addresses = attached.workloads.clone();
        match ctx.proxy.flavour {
            Flavour::IstioProxy => Self {
                addresses,
                chains: true,
            },
            Flavour::Stock => {
                addresses.extend(&attached.pods_of_services);
                Self {
                    chains: !addresses.is_empty(),
                    addresses,
                }
            }
        }
    }
}

// ---- chains ----

fn filter_chains(
    ctx: Context<'_>,
    services: &[&ServiceInput],
    direct: &DirectTraffic,
) -> Vec<listener::FilterChain> {
    let mut chains = Vec::new();
    for service in services {
        for port in ports(service) {
            for family in families(port) {
                chains.push(match family {
                    Family::Tcp => tcp_chain::chain(ctx, service, port),
                    Family::Http => http_chain::chain(ctx, service, port),
                });
            }
        }
    }
    if direct.chains {
        chains.extend([tcp_chain::direct(ctx), http_chain::direct(ctx)]);
    }
    chains
}

/// Address, then port, then, where the port does not say, protocol.
fn chain_matcher(
    ctx: Context<'_>,
    services: &[&ServiceInput],
    direct: &DirectTraffic,
) -> xds::r#type::matcher::v3::Matcher {
    let mut ranges = Ranges::new(ctx.proxy.flavour);
    for service in services {
        ranges.add(usable_vips(ctx, service), service_matcher(service));
    }
    let direct: Vec<IpNet> = direct
        .addresses
        .iter()
        .filter(|address| ctx.proxy.ip_family.admits(**address))
        .map(|address| IpNet::from(*address))
        .filter(|address| ctx.proxy.flavour == Flavour::IstioProxy || !ranges.has(*address))
        .collect();
    let by_port = ranges
        .into_entries()
        .map(|(addresses, ports)| (addresses, matcher::port_tree(ports)));
    let by_protocol = (!direct.is_empty()).then(|| {
        (
            direct,
            matcher::protocol_tree(http_chain::DIRECT_HTTP, tcp_chain::DIRECT_TCP),
        )
    });
    matcher::address_tree(by_port.chain(by_protocol))
}

/// Per port what its chain is.
fn service_matcher(service: &ServiceInput) -> BTreeMap<u16, matcher::Target> {
    ports(service)
        .filter_map(|port| {
            let name = |family| names::inbound_vip(port.number, family, &service.host);
            let target = match families(port) {
                [] => return None,
                [family] => matcher::Target::Chain(name(*family)),
                _ => matcher::Target::ByProtocol {
                    http: name(Family::Http),
                    tcp: name(Family::Tcp),
                },
            };
            Some((port.number, target))
        })
        .collect()
}

/// The addresses that a service is served on, sorted as text.
///
/// Upstream gives a service without address the pseudo-address 0.0.0.0; the stock flavour gives it none.
fn usable_vips(ctx: Context<'_>, service: &ServiceInput) -> Vec<IpNet> {
    let usable = service
        .vips
        .iter()
        .filter(|vip| ctx.proxy.ip_family.admits(vip.addr()));
    let mut vips: Vec<IpNet> = usable.copied().collect();
    vips.sort_by_key(|vip| vip.addr().to_string());
    vips.dedup();
    match ctx.proxy.flavour {
        Flavour::Stock => vips.retain(|vip| !vip.addr().is_unspecified()),
        Flavour::IstioProxy => {
            if service.vips.is_empty() && service.resolution == Resolution::Passthrough {
                vips.push(IpNet::from(IpAddr::V4(Ipv4Addr::UNSPECIFIED)));
            }
        }
    }
    vips
}

// ---- listener filters ----

fn listener_filters(
    ctx: Context<'_>,
    services: &[&ServiceInput],
    direct: &DirectTraffic,
) -> Vec<listener::ListenerFilter> {
    let usage = PortUsage::of(services);
    let mut filters = vec![tunnel::original_dst_filter()];
    let sniffs = match ctx.proxy.flavour {
        Flavour::IstioProxy => true,
        Flavour::Stock => !direct.addresses.is_empty() || usage.needs_sniffing(),
    };
    if sniffs {
        let mut inspector = listener_filter(
            "envoy.filters.listener.http_inspector",
            any(&ext::filters::listener::http_inspector::v3::HttpInspector::default()),
        );
        inspector.filter_disabled =
            disabled_on(&usage.without_http_inspection(ctx.proxy.flavour, direct));
        filters.push(inspector);
    }
    // No chain is chosen by what the inspector finds; upstream sends it wherever a port is TLS.
    if usage.has_tls() && ctx.proxy.flavour == Flavour::IstioProxy {
        let config = ext::filters::listener::tls_inspector::v3::TlsInspector {
            initial_read_buffer_size: Some(u32_value(512)),
            ..Default::default()
        };
        let mut inspector = listener_filter("envoy.filters.listener.tls_inspector", any(&config));
        inspector.filter_disabled = disabled_on(&usage.without_tls());
        filters.push(inspector);
    }
    filters
}

/// What a port number stands for over all services.
#[derive(Default)]
struct PortUsage {
    http: BTreeSet<u16>,
    tcp: BTreeSet<u16>,
    sniffed: BTreeSet<u16>,
    tls: BTreeSet<u16>,
    udp: BTreeSet<u16>,
}

impl PortUsage {
    fn of(services: &[&ServiceInput]) -> Self {
        let mut usage = Self::default();
        for port in services.iter().flat_map(|service| &service.ports) {
            usage.add(port);
        }
        usage
    }

    fn add(&mut self, port: &PortInput) {
        let set = match families(port) {
            [] => &mut self.udp,
            [Family::Http] => &mut self.http,
            [Family::Tcp] => &mut self.tcp,
            _ => &mut self.sniffed,
        };
        set.insert(port.number);
        if port.protocol.is_tls() {
            self.tls.insert(port.number);
        }
    }

    /// Whether some port's protocol decides.
    fn needs_sniffing(&self) -> bool {
        !self.sniffed.is_empty()
    }

    /// Ports where looking for HTTP would only delay, or, if the server speaks first, break the connection.
    fn without_http_inspection(&self, flavour: Flavour, direct: &DirectTraffic) -> BTreeSet<u16> {
        let only = |mine: &BTreeSet<u16>, other: &BTreeSet<u16>| -> BTreeSet<u16> {
            mine.iter()
                .filter(|port| !other.contains(port) && !self.sniffed.contains(port))
                .copied()
                .collect()
        };
        let tcp = only(&self.tcp, &self.http);
        match (flavour, direct.addresses.is_empty()) {
            (Flavour::IstioProxy, false) => BTreeSet::new(),
            // A pod may be addressed on any port. Where every service of a port speaks TCP, so does the pod.
            (Flavour::Stock, false) => tcp,
            (Flavour::Stock | Flavour::IstioProxy, true) => {
                let mut ports = only(&self.http, &self.tcp);
                ports.extend(tcp);
                ports
            }
        }
    }

    fn has_tls(&self) -> bool {
        !self.tls.is_empty()
    }

    fn without_tls(&self) -> BTreeSet<u16> {
        [&self.http, &self.tcp, &self.sniffed, &self.udp]
            .into_iter()
            .flatten()
            .filter(|port| !self.tls.contains(port))
            .copied()
            .collect()
    }
}

fn disabled_on(ports: &BTreeSet<u16>) -> Option<listener::ListenerFilterChainMatchPredicate> {
    use listener::ListenerFilterChainMatchPredicate;
    use listener::listener_filter_chain_match_predicate::{MatchSet, Rule};
    let mut rules = ports.iter().map(|port| ListenerFilterChainMatchPredicate {
        rule: Some(Rule::DestinationPortRange(
            super::wire::envoy_type::v3::Int32Range {
                start: i32::from(*port),
                end: i32::from(*port) + 1,
            },
        )),
    });
    match ports.len() {
        0 => None,
        1 => rules.next(),
        _ => Some(ListenerFilterChainMatchPredicate {
            rule: Some(Rule::OrMatch(MatchSet {
                rules: rules.collect(),
            })),
        }),
    }
}
