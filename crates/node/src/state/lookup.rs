//! Who an address or a host name is. Two orders exist side by side and both are needed.
//!
//! Spec: hbone-and-l4.md 6.2, 6.3.

use std::cmp::Reverse;
use std::net::IpAddr;
use std::sync::Arc;

use super::model::{NetworkAddr, Service, ServiceKey, Visibility, Workload};
use super::store::Store;

/// Through whose eyes services are looked up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum View<'a> {
    /// A client of a namespace: sees its namespace's private services and prefers its namespace's.
    Namespace(&'a str),
    /// A client outside the mesh: sees no private service.
    Outside,
    /// The mesh itself: sees everything.
    Mesh,
}

impl View<'_> {
    fn sees(self, service: &Service) -> bool {
        match (service.visibility, self) {
            (Visibility::Public, _) | (Visibility::Namespace, Self::Mesh) => true,
            (Visibility::Namespace, Self::Namespace(namespace)) => {
                *service.key.namespace == *namespace
            }
            (Visibility::Namespace, Self::Outside) => false,
        }
    }

    fn is_home(self, service: &Service) -> bool {
        matches!(self, Self::Namespace(namespace) if *service.key.namespace == *namespace)
    }
}

/// What an address names.
#[derive(Clone, Copy, Debug)]
pub enum Address<'a> {
    /// A workload's own address.
    Workload(&'a Arc<Workload>),
    /// A virtual address.
    Service(&'a Arc<Service>),
}

impl Store {
    /// The workload that an address is.
    pub fn workload_by_address(&self, address: &NetworkAddr) -> Option<&Arc<Workload>> {
        self.by_address.get(address)?.first()
    }

    /// The workload of this node that an address of the own network is.
    pub fn local_workload(&self, ip: IpAddr) -> Option<&Arc<Workload>> {
        self.by_address
            .get(&self.here(ip))?
            .iter()
            .find(|workload| self.is_local(workload))
    }

    /// The service that a virtual address is: exact addresses first, then ranges.
    pub fn service_by_vip(&self, address: &NetworkAddr, view: View<'_>) -> Option<&Arc<Service>> {
        let exact = self
            .by_vip
            .get(address)
            .and_then(|candidates| best(candidates, view));
        exact.or_else(|| {
            let candidates = self.ranges.get(&address.network)?.iter();
            candidates
                .filter(|(range, service)| range.range.contains(&address.ip) && view.sees(service))
                .max_by_key(|(range, service)| {
                    (
                        view.is_home(service),
                        range.range.prefix_len(),
                        service.canonical,
                        Reverse(&service.key),
                    )
                })
                .map(|(_, service)| service)
        })
    }

    /// The service of a host name, whatever its namespace.
    pub fn service_by_host(&self, host: &str, view: View<'_>) -> Option<&Arc<Service>> {
        best(self.by_host.get(host)?, view)
    }

    /// A workload by namespace and host name.
    pub fn workload_by_hostname(&self, key: &ServiceKey) -> Option<&Arc<Workload>> {
        self.by_hostname
            .get(key)?
            .iter()
            .min_by(|a, b| a.uid.cmp(&b.uid))
    }

    /// "Address look-up": a workload's own address before a virtual one. Decides whether a *service* waypoint applies.
    pub fn find_address(&self, address: &NetworkAddr, view: View<'_>) -> Option<Address<'_>> {
        let workload = self.workload_by_address(address).map(Address::Workload);
        workload.or_else(|| self.service_by_vip(address, view).map(Address::Service))
    }

    /// "Upstream look-up": a virtual address before a workload's own. Decides where a connection goes.
    pub fn find_upstream(&self, address: &NetworkAddr, view: View<'_>) -> Option<Address<'_>> {
        let service = self.service_by_vip(address, view).map(Address::Service);
        service.or_else(|| self.workload_by_address(address).map(Address::Workload))
    }
}

/// The visible candidate of the client's namespace, else the canonical one, else the first by name.
fn best<'a>(candidates: &'a [Arc<Service>], view: View<'_>) -> Option<&'a Arc<Service>> {
    candidates
        .iter()
        .filter(|service| view.sees(service))
        .max_by_key(|service| {
            (
                view.is_home(service),
                service.canonical,
                Reverse(&service.key),
            )
        })
}
