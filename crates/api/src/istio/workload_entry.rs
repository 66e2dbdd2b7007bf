//! WorkloadEntry: a workload that is not a pod.

use std::collections::BTreeMap;
use std::net::IpAddr;

use crate::ambient::Locality;
use crate::meta::{Map, ObjectMeta};

/// An Istio WorkloadEntry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkloadEntry {
    /// Its metadata.
    pub meta: ObjectMeta,
    /// The workload.
    pub spec: WorkloadEntrySpec,
}

impl WorkloadEntry {
    /// Labels of metadata and specification together; the latter win.
    pub fn all_labels(&self) -> Map {
        let mut labels = self.meta.labels.clone();
        labels.extend(self.spec.labels.clone());
        labels
    }
}

/// A workload: of a WorkloadEntry, or one of a ServiceEntry's `endpoints`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkloadEntrySpec {
    /// `address`.
    pub address: WorkloadAddress,
    /// `ports`: numbers by the service port's name.
    pub ports: BTreeMap<String, u16>,
    /// `labels`.
    pub labels: Map,
    /// `network`.
    pub network: Option<String>,
    /// `locality`.
    pub locality: Option<Locality>,
    /// `weight`.
    pub weight: Option<u32>,
    /// `serviceAccount`.
    pub service_account: Option<String>,
}

/// Where a workload is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum WorkloadAddress {
    /// At an IP address.
    Ip(IpAddr),
    /// At a host name.
    Hostname(String),
}
