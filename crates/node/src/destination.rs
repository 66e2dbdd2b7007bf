//! Which application a CONNECT at a local workload's 15008 is for.
//!
//! Spec: hbone-and-l4.md 9.2, 9.3, 9.4.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use http::StatusCode;
use waymark_hbone::Authority;

use crate::decision::ILLEGAL_PORTS;
use crate::state::balance::{PickFor, target_port};
use crate::state::lookup::Address;
use crate::state::model::{GatewayDestination, GatewayRef, Service, TunnelHeader, Workload};
use crate::state::{Store, View};

/// What a CONNECT asks for.
#[derive(Clone, Debug)]
pub struct Asked<'a> {
    /// The workload whose listener it arrived at.
    pub workload: &'a Workload,
    /// The address of that listener.
    pub local: IpAddr,
    /// `:authority`.
    pub authority: &'a Authority,
}

/// Where it is delivered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivery {
    /// The workload's address and the real target port: what policies and enforcement speak of.
    pub destination: SocketAddr,
    /// Where the application listens.
    pub application: SocketAddr,
    /// The service, when the CONNECT named one.
    pub service: Option<Arc<Service>>,
    /// Destination to write into a PROXY header, when the application wants one.
    pub proxy_header: Option<SocketAddr>,
}

/// Why a CONNECT is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DestinationError {
    /// The address is somebody else's.
    #[error("ip mismatch: {local} != {asked}")]
    Mismatch {
        /// Where the tunnel arrived.
        local: IpAddr,
        /// What it asked for.
        asked: IpAddr,
    },
    /// No service of that name.
    #[error("no service or workload for hostname: {0}")]
    UnknownHost(Arc<str>),
    /// The service has no such port here.
    #[error("requested service {host}:{port} found, but cannot resolve port")]
    UnknownPort {
        /// Service.
        host: Arc<str>,
        /// Port.
        port: u16,
    },
    /// It would come back to us.
    #[error("attempted recursive call to ourselves")]
    SelfCall,
    /// The service has no address that a PROXY header could carry.
    #[error("service {0} has no address for the PROXY header")]
    NoAddress(Arc<str>),
}

impl DestinationError {
    /// What the peer is told.
    pub fn status(&self) -> StatusCode {
        match self {
            Self::Mismatch { .. } => StatusCode::BAD_REQUEST,
            Self::UnknownHost(_)
            | Self::UnknownPort { .. }
            | Self::SelfCall
            | Self::NoAddress(_) => StatusCode::SERVICE_UNAVAILABLE,
        }
    }
}

/// Finds the application that a CONNECT is for.
///
/// # Errors
/// See [`DestinationError`].
pub fn find(store: &Store, asked: &Asked<'_>) -> Result<Delivery, DestinationError> {
    let Asked {
        workload,
        local,
        authority,
    } = *asked;
    let local = local.to_canonical();
    let (port, service) = match authority {
        Authority::Address(address) => {
            check_address(store, asked, address.ip().to_canonical())?;
            (address.port(), None)
        }
        Authority::Host { name, port } => {
            let view = View::Namespace(&workload.namespace);
            let service = store
                .service_by_host(name, view)
                .ok_or_else(|| DestinationError::UnknownHost(name.clone()))?;
            let target =
                target_port(workload, service, *port, PickFor::Traffic).ok_or_else(|| {
                    DestinationError::UnknownPort {
                        host: name.clone(),
                        port: *port,
                    }
                })?;
            (target, Some(service.clone()))
        }
    };
    if ILLEGAL_PORTS.contains(&port) {
        return Err(DestinationError::SelfCall);
    }
    let application_ip = workload.extension.application_address.unwrap_or(local);
    let Some(tunnel) = workload.application_tunnel else {
        return Ok(Delivery {
            destination: SocketAddr::new(local, port),
            application: SocketAddr::new(application_ip, port),
            service,
            proxy_header: None,
        });
    };
    let proxy_header = match tunnel.protocol {
        TunnelHeader::None => None,
        TunnelHeader::Proxy => Some(carried(store, authority, service.as_deref())?),
    };
    let port = tunnel.port.unwrap_or(port);
    Ok(Delivery {
        destination: SocketAddr::new(local, port),
        application: SocketAddr::new(application_ip, port),
        service,
        proxy_header,
    })
}

/// Another address than the workload's own is taken only by those who judge it themselves (application tunnel) or who are
/// the waypoint of that address.
fn check_address(store: &Store, asked: &Asked<'_>, ip: IpAddr) -> Result<(), DestinationError> {
    let local = asked.local.to_canonical();
    if ip == local || asked.workload.application_tunnel.is_some() {
        return Ok(());
    }
    let is_waypoint_of = |gateway: &GatewayRef| match &gateway.destination {
        GatewayDestination::Hostname(key) => match store.service(key) {
            Some(service) => asked.workload.services.contains_key(&service.key),
            None => store
                .workload_by_hostname(key)
                .is_some_and(|w| w.addresses.contains(&local)),
        },
        GatewayDestination::Address(address) => match store.find_upstream(address, View::Mesh) {
            Some(Address::Service(service)) => asked.workload.services.contains_key(&service.key),
            Some(Address::Workload(workload)) => workload.addresses.contains(&local),
            None => false,
        },
    };
    // Weighted waypoints count as well, where upstream looks at the single field only: a sandwiched canary takes traffic.
    let accepted = match store.find_address(&store.here(ip), View::Mesh) {
        Some(Address::Workload(workload)) => workload.waypoint.as_ref().is_some_and(is_waypoint_of),
        Some(Address::Service(service)) => service.waypoints().any(is_waypoint_of),
        None => false,
    };
    if accepted {
        Ok(())
    } else {
        Err(DestinationError::Mismatch { local, asked: ip })
    }
}

/// The destination that a PROXY header carries: what was asked for, as an address.
fn carried(
    store: &Store,
    authority: &Authority,
    service: Option<&Service>,
) -> Result<SocketAddr, DestinationError> {
    match (authority, service) {
        (Authority::Address(address), _) => Ok(*address),
        (Authority::Host { name, port }, Some(service)) => service
            .vips
            .iter()
            .min_by_key(|vip| (vip.network != *store.network(), vip.ip.is_ipv6()))
            .map(|vip| SocketAddr::new(vip.ip, *port))
            .ok_or_else(|| DestinationError::NoAddress(name.clone())),
        (Authority::Host { name, .. }, None) => Err(DestinationError::UnknownHost(name.clone())),
    }
}

#[cfg(test)]
mod tests;
