//! Which cluster a destination of a virtual service is.

use waymark_api::istio::destination_rule::HashKey;
use waymark_api::istio::virtual_service::Destination;

use super::super::families;
use super::super::input::{Binding, Flavour};
use super::super::names::{self, Family};
use super::super::traffic_policy::Effective;
use super::Scope;

/// A destination, resolved.
pub(super) struct Resolved<'a> {
    /// Name of the cluster.
    pub(super) cluster: String,
    /// Full host name.
    pub(super) host: String,
    /// Port of the service.
    pub(super) port: u16,
    /// What its requests are spread by, if by a hash.
    pub(super) hash_key: Option<&'a HashKey>,
}

/// Resolves a destination. A host that nobody knows gets the name that its cluster would have: requests to it fail.
pub(super) fn resolve<'a>(scope: Scope<'a>, destination: &Destination) -> Resolved<'a> {
    let namespace = &scope.virtual_service.spec.meta.namespace;
    let host = destination.host.resolve(namespace);
    let found = scope.ctx.destinations.find(&host);
    let ports = found.map_or(&[][..], |found| &found.service.ports);
    let port = match (destination.port, ports) {
        (Some(port), _) => port,
        (None, [only]) => only.number,
        (None, _) => scope.port.number,
    };
    let subset = destination.subset.as_deref();
    let declared = ports.iter().find(|declared| declared.number == port);
    let family = match scope.ctx.proxy.flavour {
        // Upstream names the HTTP cluster of a TCP port, which does not exist.
        Flavour::Stock if declared.is_some_and(|port| families(port) == [Family::Tcp]) => {
            Family::Tcp
        }
        Flavour::Stock | Flavour::IstioProxy => Family::Http,
    };
    let cluster = match found.map(|found| found.binding) {
        None | Some(Binding::Owned) => names::inbound_vip_subset(port, family, subset, &host),
        Some(Binding::Foreign) => names::outbound(port, subset, &host),
    };
    let rule = found.and_then(|found| found.service.destination_rule.as_deref());
    let hash_key = Effective::of(rule, subset, port).hash_key();
    Resolved {
        cluster,
        host,
        port,
        hash_key,
    }
}
