//! Where a captured outbound connection goes. Pure: the store and an address pair go in, a decision comes out.
//!
//! Spec: hbone-and-l4.md 7.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use rand::Rng;
use waymark_hbone::HBONE_PORT;
use waymark_identity::SpiffeId;

use crate::state::balance::{Origin, PickFor};
use crate::state::lookup::Address;
use crate::state::model::{BalanceMode, GatewayRef, NetworkAddr, Protocol, Service, Workload};
use crate::state::{Store, View};
use crate::waypoint::{self, Replica, WaypointError};

/// Ports of a node proxy's own listeners; nobody may be sent there.
pub const ILLEGAL_PORTS: [u16; 3] = [15001, 15006, HBONE_PORT];

/// A captured connection.
#[derive(Clone, Copy, Debug)]
pub struct Captured<'a> {
    /// Whose it is.
    pub origin: Origin<'a>,
    /// Where it comes from.
    pub from: SocketAddr,
    /// Where it wanted to go.
    pub to: SocketAddr,
}

/// What to do with it.
#[derive(Clone, Debug)]
pub enum Decision {
    /// Through HBONE.
    Hbone(Box<HboneRoute>),
    /// In clear.
    Tcp(TcpRoute),
}

/// A tunnel to open.
#[derive(Clone, Debug)]
pub struct HboneRoute {
    /// What the tunnel ends at.
    pub via: Via,
    /// Where that listens.
    pub address: Target,
    /// `:authority` of the CONNECT.
    pub authority: SocketAddr,
    /// Whom the other end may present itself as.
    pub expected: Arc<[SpiffeId]>,
    /// The other end.
    pub peer: Arc<Workload>,
    /// The service that was addressed.
    pub service: Option<Arc<Service>>,
}

/// What a tunnel ends at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Via {
    /// A waypoint.
    Waypoint,
    /// The destination itself.
    Endpoint,
}

/// A connection in clear.
#[derive(Clone, Debug)]
pub struct TcpRoute {
    /// Where to.
    pub address: Target,
    /// Who that is, if known.
    pub peer: Option<Arc<Workload>>,
    /// The service that was addressed.
    pub service: Option<Arc<Service>>,
}

/// A place to connect to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// An address.
    Address(SocketAddr),
    /// An endpoint that is only a name: resolved for each connection.
    Name {
        /// DNS name.
        host: Arc<str>,
        /// Port.
        port: u16,
        /// Prefer addresses like this one.
        like: IpAddr,
    },
}

/// Why the connection is closed instead.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// It would come back to us.
    #[error("attempted recursive call to ourselves")]
    SelfCall,
    /// The service has no endpoint that can take it, or not that port.
    #[error("no healthy upstream: {0}")]
    NoHealthyUpstream(SocketAddr),
    /// The waypoint cannot be reached.
    #[error(transparent)]
    Waypoint(#[from] WaypointError),
    /// The endpoint has no address that can be used.
    #[error("no valid routing destination for workload: {0}")]
    NoAddress(String),
    /// The endpoint is on another network.
    #[error("no valid routing destination for workload: {workload} is on network {network:?}")]
    OtherNetwork {
        /// Which.
        workload: String,
        /// Where.
        network: String,
    },
}

/// Decides where a captured connection goes.
///
/// # Errors
/// See [`Refusal`].
pub fn decide(
    store: &Store,
    captured: Captured<'_>,
    rng: &mut impl Rng,
) -> Result<Decision, Refusal> {
    let to = SocketAddr::new(captured.to.ip().to_canonical(), captured.to.port());
    let captured = Captured { to, ..captured };
    if to.ip().is_loopback() && ILLEGAL_PORTS.contains(&to.port()) {
        return Err(Refusal::SelfCall);
    }
    let (network, view) = match captured.origin {
        Origin::Workload(source) => (&source.network, View::Namespace(&source.namespace)),
        Origin::Outside => (store.network(), View::Outside),
    };
    let address = NetworkAddr::new(network.clone(), to.ip());

    let addressed = match store.find_address(&address, view) {
        Some(Address::Service(service)) => Some(service),
        Some(Address::Workload(_)) | None => None,
    };
    if let Some(service) = addressed
        && let Some(gateway) = waypoint::choose(service, rng)
    {
        return through_waypoint(store, captured, gateway, Some(service.clone()), rng);
    }

    let Some(upstream) = upstream(store, captured, &address, view, rng) else {
        let passes =
            addressed.is_none_or(|service| service.load_balancing.mode == BalanceMode::Passthrough);
        return if passes {
            Ok(Decision::Tcp(TcpRoute {
                address: Target::Address(to),
                peer: None,
                service: addressed.cloned(),
            }))
        } else {
            Err(Refusal::NoHealthyUpstream(to))
        };
    };
    if upstream.workload.network != *network {
        return Err(Refusal::OtherNetwork {
            workload: upstream.workload.uid.to_string(),
            network: upstream.workload.network.to_string(),
        });
    }
    if addressed.is_none()
        && let Some(gateway) = &upstream.workload.waypoint
        && !comes_from(store, captured, gateway)
    {
        return through_waypoint(store, captured, gateway, upstream.service.cloned(), rng);
    }
    direct(captured, upstream)
}

/// An endpoint, and the port of it that is meant.
struct Upstream<'a> {
    workload: &'a Arc<Workload>,
    port: u16,
    service: Option<&'a Arc<Service>>,
}

fn upstream<'a>(
    store: &'a Store,
    captured: Captured<'_>,
    address: &NetworkAddr,
    view: View<'_>,
    rng: &mut impl Rng,
) -> Option<Upstream<'a>> {
    let port = captured.to.port();
    match store.find_upstream(address, view)? {
        Address::Service(service) if service.load_balancing.mode == BalanceMode::Passthrough => {
            None
        }
        Address::Service(service) => {
            let (workload, port) =
                store.pick_endpoint(service, port, captured.origin, PickFor::Traffic, rng)?;
            Some(Upstream {
                workload,
                port,
                service: Some(service),
            })
        }
        Address::Workload(workload) => Some(Upstream {
            workload,
            port,
            service: None,
        }),
    }
}

/// Whether the client is a replica of that waypoint, by identity and address.
fn comes_from(store: &Store, captured: Captured<'_>, gateway: &GatewayRef) -> bool {
    match captured.origin {
        Origin::Workload(source) => {
            waypoint::is_replica(store, [gateway], &source.identity, captured.from.ip())
        }
        Origin::Outside => false,
    }
}

fn through_waypoint(
    store: &Store,
    captured: Captured<'_>,
    gateway: &GatewayRef,
    service: Option<Arc<Service>>,
    rng: &mut impl Rng,
) -> Result<Decision, Refusal> {
    let replica = waypoint::replica(store, gateway, captured.origin, captured.to.ip(), rng)?;
    Ok(Decision::Hbone(Box::new(to_replica(
        replica,
        captured.to,
        service,
    ))))
}

/// A tunnel to a waypoint's replica for what was addressed as `authority`.
pub fn to_replica(
    replica: Replica,
    authority: SocketAddr,
    service: Option<Arc<Service>>,
) -> HboneRoute {
    HboneRoute {
        via: Via::Waypoint,
        address: Target::Address(replica.address),
        authority,
        expected: replica.identities(),
        peer: replica.workload,
        service,
    }
}

fn direct(captured: Captured<'_>, upstream: Upstream<'_>) -> Result<Decision, Refusal> {
    let Upstream {
        workload,
        port,
        service,
    } = upstream;
    let families = service.and_then(|service| service.ip_families);
    let ip = waypoint::choose_address(workload, captured.to.ip(), families);
    let by_hbone = match (workload.protocol, captured.origin) {
        (Protocol::Hbone, Origin::Workload(_)) => true,
        // Who has no identity goes in clear to the pod's captured address, as any uncaptured client does.
        (Protocol::Hbone, Origin::Outside) | (Protocol::Tcp, _) => false,
    };
    let target = |port| match ip {
        Some(ip) => Ok(Target::Address(SocketAddr::new(ip, port))),
        None if !workload.hostname.is_empty() && workload.addresses.is_empty() => {
            Ok(Target::Name {
                host: workload.hostname.clone(),
                port,
                like: captured.to.ip(),
            })
        }
        None => Err(Refusal::NoAddress(workload.uid.to_string())),
    };
    match (by_hbone, ip) {
        (true, Some(ip)) => Ok(Decision::Hbone(Box::new(HboneRoute {
            via: Via::Endpoint,
            address: target(HBONE_PORT)?,
            authority: SocketAddr::new(ip, port),
            expected: waypoint::expected_identities(workload, service.map(AsRef::as_ref)),
            peer: workload.clone(),
            service: service.cloned(),
        }))),
        // A tunnel's authority is an address, which a name does not have yet.
        (true, None) => Err(Refusal::NoAddress(workload.uid.to_string())),
        (false, _) => Ok(Decision::Tcp(TcpRoute {
            address: target(port)?,
            peer: Some(workload.clone()),
            service: service.cloned(),
        })),
    }
}

#[cfg(test)]
mod tests;
