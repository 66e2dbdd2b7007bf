//! Which addresses a service or a workload wants to be captured at. Pure.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use waymark_hbone::HBONE_PORT;

use super::Entry;
use crate::decision::ILLEGAL_PORTS;
use crate::state::balance::{PickFor, target_port};
use crate::state::{ServiceKey, Store, Uid};

/// An address to be captured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Point {
    /// Where.
    pub address: SocketAddr,
    /// What connections there are.
    pub entry: Entry,
}

/// Every virtual address of a service on the own network, on each of its ports.
///
/// Not a proxy's own ports: a waypoint's service has 15008, and nobody but a proxy speaks there. Address ranges cannot be
/// listened on.
pub fn of_service(store: &Store, key: &ServiceKey) -> BTreeSet<Point> {
    let Some(service) = store.service(key) else {
        return BTreeSet::new();
    };
    let vips = service
        .vips
        .iter()
        .filter(|vip| vip.network == *store.network());
    vips.flat_map(|vip| {
        service
            .ports
            .keys()
            .filter(|port| is_capturable(**port))
            .map(|port| Point {
                address: SocketAddr::new(vip.ip, *port),
                entry: Entry::Outbound,
            })
    })
    .collect()
}

/// The HBONE port of a captured local workload and, when its application listens elsewhere, each port that the pod declares
/// or one of its services leads to. An application on the workload's own address has those ports itself.
pub fn of_workload(store: &Store, uid: &Uid) -> BTreeSet<Point> {
    let Some(workload) = store.workload(uid.as_str()) else {
        return BTreeSet::new();
    };
    if !workload.is_captured() || !store.is_local(workload) || workload.network != *store.network()
    {
        return BTreeSet::new();
    }
    let by_services = workload
        .services
        .keys()
        .filter_map(|key| store.service(key))
        .flat_map(|service| {
            service
                .ports
                .keys()
                .filter_map(|port| target_port(workload, service, *port, PickFor::Traffic))
        });
    let declared: BTreeSet<u16> = workload
        .extension
        .ports
        .iter()
        .copied()
        .chain(by_services)
        .collect();
    let mut points = BTreeSet::new();
    for ip in &workload.addresses {
        points.insert(Point {
            address: SocketAddr::new(*ip, HBONE_PORT),
            entry: Entry::InboundHbone,
        });
        if workload
            .extension
            .application_address
            .is_some_and(|application| application != *ip)
        {
            points.extend(
                declared
                    .iter()
                    .filter(|port| is_capturable(**port))
                    .map(|port| Point {
                        address: SocketAddr::new(*ip, *port),
                        entry: Entry::InboundPlain,
                    }),
            );
        }
    }
    points
}

fn is_capturable(port: u16) -> bool {
    port != 0 && !ILLEGAL_PORTS.contains(&port)
}
