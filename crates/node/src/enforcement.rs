//! All traffic to a workload with a waypoint goes through the waypoint: what becomes of a connection that did not.
//!
//! Plain text and HBONE are judged alike. Design 4, ARCHITECTURE.md "The life of a request".

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use rand::Rng;
use waymark_identity::SpiffeId;

use crate::state::Store;
use crate::state::balance::{Origin, PickFor, target_port};
use crate::state::model::{Enforcement, GatewayRef, Service, ServiceKey, Workload};
use crate::waypoint::{self, Replica, WaypointError};

/// A connection that has arrived at a local workload.
#[derive(Clone, Copy, Debug)]
pub struct Arrival<'a> {
    /// For whom.
    pub workload: &'a Workload,
    /// The workload's address and the real target port.
    pub destination: SocketAddr,
    /// TCP peer.
    pub peer: IpAddr,
    /// Who the peer proved to be; `None` in clear.
    pub identity: Option<&'a SpiffeId>,
}

/// What becomes of it.
#[derive(Clone, Debug)]
pub struct Judgement {
    /// What to do.
    pub route: Route,
    /// The bound service that owns the port, if any: what the bypass is counted under.
    pub service: Option<ServiceKey>,
}

/// What to do with a connection.
#[derive(Clone, Debug)]
pub enum Route {
    /// It goes to the application.
    Deliver(Why),
    /// It goes through the waypoint first.
    Waypoint(Box<Detour>),
    /// It is closed.
    Refuse(Refused),
}

/// Why a connection is delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// No waypoint is in charge.
    Unbound,
    /// It came from the waypoint in charge.
    FromWaypoint,
    /// The port is a probe's.
    Probe,
    /// Enforcement is off.
    Off,
}

/// The way through a waypoint.
#[derive(Clone, Debug)]
pub struct Detour {
    /// As traffic to the workload, or to its service.
    pub kind: DetourKind,
    /// The waypoint's replica.
    pub replica: Replica,
    /// `:authority` of the CONNECT.
    pub authority: SocketAddr,
    /// The service, when the connection becomes its traffic.
    pub service: Option<Arc<Service>>,
}

/// What traffic a detour becomes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DetourKind {
    /// The workload's: `CONNECT podIP:port`.
    Hairpin,
    /// The service's: `CONNECT VIP:servicePort`.
    Service,
}

/// Why a connection is closed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// Enforcement is `require`.
    #[error("waypoint enforcement: {0} takes traffic only from its waypoint")]
    Require(String),
    /// A waypoint's replica that does not use HBONE: sent back to it, the connection would go round forever.
    #[error("waypoint enforcement: the waypoint of {0} connected in clear text")]
    WaypointInClear(String),
    /// The waypoint cannot be reached, and there is no way around it.
    #[error(transparent)]
    Waypoint(#[from] WaypointError),
}

/// Judges a connection that has arrived.
pub fn judge(store: &Store, arrival: &Arrival<'_>, rng: &mut impl Rng) -> Judgement {
    let owners = owners(store, arrival.workload, arrival.destination.port());
    let service = owners.first().map(|owner| owner.service.key.clone());
    Judgement {
        route: route(store, arrival, &owners, rng),
        service,
    }
}

fn route(store: &Store, arrival: &Arrival<'_>, owners: &[Owner<'_>], rng: &mut impl Rng) -> Route {
    let Arrival {
        workload,
        destination,
        peer,
        identity,
    } = *arrival;
    if workload.waypoint.is_none() && owners.is_empty() {
        return Route::Deliver(Why::Unbound);
    }
    let in_charge = || {
        workload
            .waypoint
            .iter()
            .chain(owners.iter().flat_map(|owner| owner.service.waypoints()))
    };
    if identity.is_some_and(|identity| waypoint::is_replica(store, in_charge(), identity, peer)) {
        return Route::Deliver(Why::FromWaypoint);
    }
    if workload.extension.probe_ports.contains(&destination.port()) {
        return Route::Deliver(Why::Probe);
    }
    if identity.is_none() && waypoint::is_replica_address(store, in_charge(), peer) {
        return Route::Refuse(Refused::WaypointInClear(workload.uid.to_string()));
    }
    match label(workload, owners) {
        Enforcement::Off => Route::Deliver(Why::Off),
        Enforcement::Require => Route::Refuse(Refused::Require(workload.uid.to_string())),
        Enforcement::Service => match as_service(store, owners) {
            Some((service, authority)) => {
                let detour = (DetourKind::Service, authority, Some(service));
                detour_by(store, waypoint::choose(service, rng), detour, rng)
            }
            None => hairpin(store, arrival, owners, rng),
        },
        Enforcement::Hairpin => hairpin(store, arrival, owners, rng),
    }
}

/// The nearest label: the workload's own, else what the services in charge of the port say, else what namespace or Gateway
/// say. Of several services the strictest decides.
fn label(workload: &Workload, owners: &[Owner<'_>]) -> Enforcement {
    let by_services = || {
        owners
            .iter()
            .map(|owner| owner.service.enforcement.unwrap_or(Enforcement::Hairpin))
            .max()
    };
    workload
        .extension
        .enforcement
        .or_else(by_services)
        .or(workload.extension.inherited_enforcement)
        .unwrap_or(Enforcement::Hairpin)
}

/// The one service that the port belongs to, and the address under which its waypoint knows the port.
fn as_service<'a>(store: &Store, owners: &[Owner<'a>]) -> Option<(&'a Arc<Service>, SocketAddr)> {
    let [owner] = owners else { return None };
    let vip = owner
        .service
        .vips
        .iter()
        .find(|vip| vip.network == *store.network())?;
    Some((owner.service, SocketAddr::new(vip.ip, owner.service_port)))
}

/// Through the workload's own waypoint, else through that of the first service that owns the port.
fn hairpin(
    store: &Store,
    arrival: &Arrival<'_>,
    owners: &[Owner<'_>],
    rng: &mut impl Rng,
) -> Route {
    let gateway = match &arrival.workload.waypoint {
        Some(gateway) => Some(gateway),
        None => owners
            .first()
            .and_then(|owner| waypoint::choose(owner.service, rng)),
    };
    detour_by(
        store,
        gateway,
        (DetourKind::Hairpin, arrival.destination, None),
        rng,
    )
}

fn detour_by(
    store: &Store,
    gateway: Option<&GatewayRef>,
    (kind, authority, service): (DetourKind, SocketAddr, Option<&Arc<Service>>),
    rng: &mut impl Rng,
) -> Route {
    // Weighted waypoints that all have weight 0, and no single one: bound, but to nobody.
    let Some(gateway) = gateway else {
        return Route::Refuse(WaypointError::NotFound("of weight above 0".to_owned()).into());
    };
    match waypoint::replica(store, gateway, Origin::Outside, authority.ip(), rng) {
        Ok(replica) => Route::Waypoint(Box::new(Detour {
            kind,
            replica,
            authority,
            service: service.cloned(),
        })),
        Err(error) => Route::Refuse(error.into()),
    }
}

/// A bound service that a port of a workload belongs to.
struct Owner<'a> {
    service: &'a Arc<Service>,
    /// The lowest of its ports that lead there.
    service_port: u16,
}

/// By service key, so that the choice among several is the same everywhere.
fn owners<'a>(store: &'a Store, workload: &Workload, port: u16) -> Vec<Owner<'a>> {
    let services = workload
        .services
        .keys()
        .filter_map(|key| store.service(key));
    services
        .filter(|service| service.has_waypoint())
        .filter_map(|service| {
            let leads_there = |service_port: &&u16| {
                target_port(workload, service, **service_port, PickFor::Traffic) == Some(port)
            };
            let service_port = *service.ports.keys().find(leads_there)?;
            Some(Owner {
                service,
                service_port,
            })
        })
        .collect()
}

#[cfg(test)]
mod tests;
