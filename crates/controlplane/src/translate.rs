//! From the index to Envoy resources: pure functions, same input, same bytes.
//!
//! A waypoint's set is [`base`], one [`main_internal`], and for each service that it serves [`clusters`],
//! [`endpoints`] and (in the stock flavour) [`routes`]; for hosts that routes name and that it does not serve,
//! [`outbound_clusters`] and [`outbound_endpoints`]. Names and fields are istiod's, see [`input::Flavour`].

use prost::{Message, Name};

pub mod gateway_api;
pub mod input;

mod access_log;
mod clusters;
mod endpoints;
mod http_chain;
mod main_internal;
mod matcher;
mod names;
mod ranges;
mod routes;
mod tcp_chain;
mod telemetry;
mod traffic_policy;
mod tunnel;
mod wire;

#[cfg(test)]
mod tests;

use clusters::Direction;
use input::{AttachedWorkloads, Context, PortInput, ServiceInput};
use names::Family;

/// One resource as it is sent.
#[derive(Debug, Clone, PartialEq)]
pub struct Named {
    /// Its name, unique within its type.
    pub name: String,
    /// Type URL and encoded message; equal resources have equal bytes.
    pub any: prost_types::Any,
}

impl Named {
    /// Its type URL.
    #[must_use]
    pub fn type_url(&self) -> &str {
        &self.any.type_url
    }

    fn new<M: Message + Name>(name: &str, message: &M) -> Self {
        Self {
            name: name.to_owned(),
            any: waymark_proto::canonical::pack(message),
        }
    }

    fn cluster(cluster: &wire::cluster::Cluster) -> Self {
        Self::new(&cluster.name, cluster)
    }

    fn listener(listener: &wire::listener::Listener) -> Self {
        Self::new(&listener.name, listener)
    }

    fn routes(routes: &wire::route::RouteConfiguration) -> Self {
        Self::new(&routes.name, routes)
    }

    fn endpoints(endpoints: &wire::endpoint::ClusterLoadAssignment) -> Self {
        Self::new(&endpoints.cluster_name, endpoints)
    }
}

/// What every waypoint has: clusters `main_internal`, `encap`, `connect_originate`, listeners `connect_terminate`,
/// `connect_originate`; the istio-proxy flavour also the `inner_` and `outer_connect_originate` of multi-network mode.
#[must_use]
pub fn base(ctx: Context<'_>) -> Vec<Named> {
    tunnel::base(ctx)
}

/// The listener that chooses the service: one chain or two for each port of each service, oldest service first,
/// whatever the order of `services`.
#[must_use]
pub fn main_internal(
    ctx: Context<'_>,
    services: &[&ServiceInput],
    attached: &AttachedWorkloads,
) -> Named {
    main_internal::listener(ctx, services, attached)
}

/// The `inbound-vip|...` clusters of a service that this waypoint serves, sorted by name.
#[must_use]
pub fn clusters(ctx: Context<'_>, service: &ServiceInput) -> Vec<Named> {
    clusters::all(ctx, Direction::InboundVip, service)
        .iter()
        .map(Named::cluster)
        .collect()
}

/// One ClusterLoadAssignment for each EDS cluster of [`clusters`], empty if it has no endpoints.
#[must_use]
pub fn endpoints(ctx: Context<'_>, service: &ServiceInput) -> Vec<Named> {
    endpoints::all(ctx, Direction::InboundVip, service)
        .iter()
        .map(Named::endpoints)
        .collect()
}

/// The `outbound|...` clusters of a service that routes of this waypoint name and that it does not serve, sorted by name.
#[must_use]
pub fn outbound_clusters(ctx: Context<'_>, service: &ServiceInput) -> Vec<Named> {
    clusters::all(ctx, Direction::Outbound, service)
        .iter()
        .map(Named::cluster)
        .collect()
}

/// One ClusterLoadAssignment for each EDS cluster of [`outbound_clusters`], empty if it has no endpoints.
#[must_use]
pub fn outbound_endpoints(ctx: Context<'_>, service: &ServiceInput) -> Vec<Named> {
    endpoints::all(ctx, Direction::Outbound, service)
        .iter()
        .map(Named::endpoints)
        .collect()
}

/// The RouteConfigurations that the chains of a service name. None in the istio-proxy flavour, whose chains hold them.
#[must_use]
pub fn routes(ctx: Context<'_>, service: &ServiceInput) -> Vec<Named> {
    http_chain::route_configurations(ctx, service)
        .iter()
        .map(Named::routes)
        .collect()
}

/// Ports that are carried at all.
fn ports(service: &ServiceInput) -> impl Iterator<Item = &PortInput> {
    service
        .ports
        .iter()
        .filter(|port| !families(port).is_empty())
}

/// The families of chains and clusters that a port has: both, TCP first, where the protocol is not declared.
fn families(port: &PortInput) -> &'static [Family] {
    if port.protocol.is_http() {
        &[Family::Http]
    } else if port.protocol.is_tcp() {
        &[Family::Tcp]
    } else if port.protocol.is_sniffed() {
        &[Family::Tcp, Family::Http]
    } else {
        &[]
    }
}
