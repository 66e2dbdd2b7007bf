//! Waypoint references: whom they mean, which replica a connection takes, and whether a peer is one of its replicas.
//!
//! Spec: hbone-and-l4.md 7 (step 3), control-plane.md 7.4.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use rand::{Rng, RngExt};
use waymark_identity::SpiffeId;

use crate::state::balance::{Origin, PickFor};
use crate::state::lookup::Address;
use crate::state::model::{GatewayDestination, GatewayRef, IpFamilies, Service, Workload};
use crate::state::{Store, View};

/// A replica of a waypoint, picked for one connection.
#[derive(Clone, Debug)]
pub struct Replica {
    /// The replica.
    pub workload: Arc<Workload>,
    /// The waypoint's service; `None` when the reference names the workload itself.
    pub service: Option<Arc<Service>>,
    /// Its HBONE listener.
    pub address: SocketAddr,
}

impl Replica {
    /// Whom the replica may present itself as.
    pub fn identities(&self) -> Arc<[SpiffeId]> {
        expected_identities(&self.workload, self.service.as_deref())
    }
}

/// Why there is no replica to connect to. There is never a way around the waypoint instead.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WaypointError {
    /// Neither a service nor a workload of that name or address is known.
    #[error("unknown waypoint: waypoint {0} not found")]
    NotFound(String),
    /// It has no healthy replica.
    #[error("unknown waypoint: waypoint {0} has no healthy replica")]
    NoReplica(String),
    /// It is on another network, which has to be reached through a gateway.
    #[error(
        "unknown waypoint: waypoint {waypoint} is on network {network:?}, which cannot be reached from here"
    )]
    OtherNetwork {
        /// Which.
        waypoint: String,
        /// Where.
        network: String,
    },
}

/// The waypoint of a service for one connection: by weight among several, else the single one.
pub fn choose<'a>(service: &'a Service, rng: &mut impl Rng) -> Option<&'a GatewayRef> {
    let total: u64 = service
        .weighted_waypoints
        .iter()
        .map(|w| u64::from(w.weight))
        .sum();
    if total == 0 {
        return service.waypoint.as_ref();
    }
    let mut ticket = rng.random_range(0..total);
    for weighted in &service.weighted_waypoints {
        let weight = u64::from(weighted.weight);
        if ticket < weight {
            return Some(&weighted.destination);
        }
        ticket -= weight;
    }
    service.waypoint.as_ref()
}

/// Picks a replica of the waypoint for a connection to `destination`, whose address family is preferred.
///
/// # Errors
/// See [`WaypointError`].
pub fn replica(
    store: &Store,
    gateway: &GatewayRef,
    origin: Origin<'_>,
    destination: IpAddr,
    rng: &mut impl Rng,
) -> Result<Replica, WaypointError> {
    let name = || gateway.destination.to_string();
    let target = target(store, gateway).ok_or_else(|| WaypointError::NotFound(name()))?;
    // A waypoint that is named by address is reached by that address's family.
    let (like, only) = match &gateway.destination {
        GatewayDestination::Address(address) => (
            address.ip,
            Some(if address.ip.is_ipv4() {
                IpFamilies::Ipv4
            } else {
                IpFamilies::Ipv6
            }),
        ),
        GatewayDestination::Hostname(_) => (destination, None),
    };
    let (workload, port, service) = match target {
        Target::Workload(workload) => (workload, gateway.hbone_mtls_port, None),
        Target::Service(service) => {
            let picked = store.pick_endpoint(
                service,
                gateway.hbone_mtls_port,
                origin,
                PickFor::Waypoint,
                rng,
            );
            let (workload, port) = picked.ok_or_else(|| WaypointError::NoReplica(name()))?;
            (workload, port, Some(service.clone()))
        }
    };
    let network = match origin {
        Origin::Workload(source) => &source.network,
        Origin::Outside => store.network(),
    };
    if workload.network != *network {
        return Err(WaypointError::OtherNetwork {
            waypoint: name(),
            network: workload.network.to_string(),
        });
    }
    let families = only.or(service.as_ref().and_then(|s| s.ip_families));
    let ip =
        choose_address(workload, like, families).ok_or_else(|| WaypointError::NoReplica(name()))?;
    Ok(Replica {
        workload: workload.clone(),
        service,
        address: SocketAddr::new(ip, port),
    })
}

/// The endpoint's address for a connection to `destination`: that address if it is the endpoint's, else the first that the
/// service's families admit, of `destination`'s family if there is one.
pub fn choose_address(
    workload: &Workload,
    destination: IpAddr,
    families: Option<IpFamilies>,
) -> Option<IpAddr> {
    if workload.addresses.contains(&destination) {
        return Some(destination);
    }
    let admitted = || {
        workload
            .addresses
            .iter()
            .filter(|ip| families.is_none_or(|families| families.admits(ip)))
    };
    let same_family = admitted().find(|ip| ip.is_ipv4() == destination.is_ipv4());
    same_family.or_else(|| admitted().next()).copied()
}

/// Whom an endpoint may present itself as: its own identity, and those that its service adds.
pub fn expected_identities(workload: &Workload, service: Option<&Service>) -> Arc<[SpiffeId]> {
    let extra = service.map_or(&[][..], |service| &service.extra_identities);
    let others = extra.iter().filter(|id| **id != workload.identity);
    std::iter::once(&workload.identity)
        .chain(others)
        .cloned()
        .collect()
}

/// Whether the connection of a peer with `identity` at `address` is a replica's of one of these waypoints.
///
/// The identity has to be one that we would accept from a replica when connecting to it (unhealthy replicas included: they
/// may still be draining). When the address is a known workload's, that workload has to be a replica: a pod that merely
/// shares the waypoint's service account is none.
pub fn is_replica<'a>(
    store: &Store,
    waypoints: impl IntoIterator<Item = &'a GatewayRef>,
    identity: &SpiffeId,
    address: IpAddr,
) -> bool {
    let known = store.workload_by_address(&store.here(address));
    waypoints
        .into_iter()
        .filter_map(|gateway| target(store, gateway))
        .any(|target| match target {
            Target::Workload(replica) => {
                replica.identity == *identity && known.is_none_or(|known| known.uid == replica.uid)
            }
            Target::Service(service) => {
                let members = store.members(&service.key);
                let identity_fits = service.extra_identities.contains(identity)
                    || members.iter().any(|replica| replica.identity == *identity);
                identity_fits && known.is_none_or(|known| members.get(&known.uid).is_some())
            }
        })
}

/// Whether `address` is a replica's of one of these waypoints.
pub fn is_replica_address<'a>(
    store: &Store,
    waypoints: impl IntoIterator<Item = &'a GatewayRef>,
    address: IpAddr,
) -> bool {
    let Some(known) = store.workload_by_address(&store.here(address)) else {
        return false;
    };
    waypoints
        .into_iter()
        .filter_map(|gateway| target(store, gateway))
        .any(|target| match target {
            Target::Workload(replica) => known.uid == replica.uid,
            Target::Service(service) => store.members(&service.key).get(&known.uid).is_some(),
        })
}

enum Target<'a> {
    Service(&'a Arc<Service>),
    Workload(&'a Arc<Workload>),
}

fn target<'a>(store: &'a Store, gateway: &GatewayRef) -> Option<Target<'a>> {
    match &gateway.destination {
        GatewayDestination::Hostname(key) => store
            .service(key)
            .map(Target::Service)
            .or_else(|| store.workload_by_hostname(key).map(Target::Workload)),
        GatewayDestination::Address(address) => match store.find_upstream(address, View::Mesh)? {
            Address::Service(service) => Some(Target::Service(service)),
            Address::Workload(workload) => Some(Target::Workload(workload)),
        },
    }
}
