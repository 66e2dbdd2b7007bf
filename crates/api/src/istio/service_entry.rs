//! ServiceEntry: a service that is not a Kubernetes Service.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::host::Host;
use crate::istio::ExportTo;
use crate::istio::workload_entry::WorkloadEntrySpec;
use crate::meta::{Map, ObjectMeta};
use crate::protocol::Protocol;

/// An Istio ServiceEntry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceEntry {
    /// Its metadata.
    pub meta: ObjectMeta,
    /// `hosts`, at least one, full names or wildcards.
    pub hosts: Vec<Host>,
    /// `addresses`; a single address is a network of one.
    pub addresses: Vec<IpNet>,
    /// `ports`, at least one; numbers and names are unique.
    pub ports: Vec<ServiceEntryPort>,
    /// `location`.
    pub location: Location,
    /// `resolution`.
    pub resolution: Resolution,
    /// `endpoints`; never together with a selector.
    pub endpoints: Vec<WorkloadEntrySpec>,
    /// `workloadSelector.labels`.
    pub workload_selector: Option<Map>,
    /// `exportTo`.
    pub export_to: ExportTo,
    /// `subjectAltNames`.
    pub subject_alt_names: Vec<String>,
    /// `status.addresses`: what was allocated to the hosts, by host.
    pub allocated: Vec<(String, IpAddr)>,
}

/// A port of a ServiceEntry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceEntryPort {
    /// Its name.
    pub name: String,
    /// The port that clients use.
    pub number: u16,
    /// What it speaks.
    pub protocol: Protocol,
    /// The port of the endpoints, `number` when not given.
    pub target_port: Option<u16>,
}

/// Whether a service is of the mesh.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Location {
    /// `MESH_EXTERNAL`, the default.
    MeshExternal,
    /// `MESH_INTERNAL`.
    MeshInternal,
}

impl Location {
    /// Every value, as manifests spell them.
    pub const ALLOWED: &'static [(&'static str, Self)] = &[
        ("MESH_EXTERNAL", Self::MeshExternal),
        ("MESH_INTERNAL", Self::MeshInternal),
    ];
}

/// How the endpoints are found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resolution {
    /// `NONE`, the default: the address that the client used.
    None,
    /// `STATIC`: those given.
    Static,
    /// `DNS`: the names given, or the host.
    Dns,
    /// `DNS_ROUND_ROBIN`.
    DnsRoundRobin,
    /// `DYNAMIC_DNS`: the name in each request.
    DynamicDns,
}

impl Resolution {
    /// Every value, as manifests spell them.
    pub const ALLOWED: &'static [(&'static str, Self)] = &[
        ("NONE", Self::None),
        ("STATIC", Self::Static),
        ("DNS", Self::Dns),
        ("DNS_ROUND_ROBIN", Self::DnsRoundRobin),
        ("DYNAMIC_DNS", Self::DynamicDns),
    ];
}
