//! ServiceEntry and WorkloadEntry.

use std::net::IpAddr;
use std::str::FromStr;

use ipnet::IpNet;

use crate::ambient::Locality;
use crate::decode::meta::{NameRule, Scope, meta};
use crate::decode::object::{Field, Object};
use crate::decode::policy::export_to;
use crate::decode::values::{decoded, plain, refuse_duplicates};
use crate::host::{Host, is_subdomain};
use crate::istio::service_entry::{Location, Resolution, ServiceEntry, ServiceEntryPort};
use crate::istio::workload_entry::{WorkloadAddress, WorkloadEntry, WorkloadEntrySpec};
use crate::protocol::Protocol;
use crate::tree::quoted;

pub(super) fn workload_entry(root: &Field<'_>) -> Option<WorkloadEntry> {
    let mut object = root.object()?;
    let meta = meta(&mut object, NameRule::Subdomain, Scope::Namespaced);
    let spec = workload(&object.required("spec")?)?;
    Some(WorkloadEntry { meta, spec })
}

fn workload(field: &Field<'_>) -> Option<WorkloadEntrySpec> {
    let mut object = field.object()?;
    let port = |(name, field): (&str, Field<'_>)| Some((name.to_owned(), field.port()?));
    Some(WorkloadEntrySpec {
        ports: object
            .opt("ports")
            .map(|f| f.entries())
            .unwrap_or_default()
            .into_iter()
            .filter_map(port)
            .collect(),
        labels: object.opt("labels").map(|f| f.labels()).unwrap_or_default(),
        network: object.text("network").filter(|n| !n.is_empty()),
        locality: object
            .text("locality")
            .filter(|l| !l.is_empty())
            .map(|l| Locality::parse(&l)),
        weight: object.count("weight"),
        service_account: object.opt("serviceAccount").and_then(|f| f.subdomain()),
        address: address(&object.required("address")?)?,
    })
}

fn address(field: &Field<'_>) -> Option<WorkloadAddress> {
    let text = field.text()?;
    if let Ok(ip) = IpAddr::from_str(text) {
        return Some(WorkloadAddress::Ip(ip));
    }
    if text.starts_with("unix://") || is_subdomain(text) {
        field.unsupported("allowed: an IPv4 or IPv6 address");
        return Some(WorkloadAddress::Hostname(text.to_owned()));
    }
    field.invalid(
        format!("{} is not an address", quoted(text)),
        "an IPv4 or IPv6 address without port".to_owned(),
    );
    None
}

pub(super) fn service_entry(root: &Field<'_>) -> Option<ServiceEntry> {
    let mut object = root.object()?;
    let meta = meta(&mut object, NameRule::Subdomain, Scope::Namespaced);
    let allocated = allocated(&mut object);
    let mut spec = object.required("spec")?.object()?;
    let resolution = resolution(&mut spec);
    let endpoint_fields = spec.list("endpoints");
    let workload_selector = spec
        .opt("workloadSelector")
        .and_then(|f| f.object())
        .map(|mut o| o.opt("labels").map(|f| f.labels()).unwrap_or_default());
    if workload_selector.is_some() && !endpoint_fields.is_empty() {
        spec.field().invalid(
            "endpoints and workloadSelector exclude each other",
            "give one of them".to_owned(),
        );
    }
    if resolution == Resolution::Static && workload_selector.is_none() && endpoint_fields.is_empty()
    {
        spec.field().invalid(
            "has no endpoints",
            "resolution STATIC needs endpoints or a workloadSelector".to_owned(),
        );
    }
    Some(ServiceEntry {
        meta,
        hosts: hosts(&mut spec),
        addresses: spec.list("addresses").iter().filter_map(network).collect(),
        ports: ports(&mut spec),
        location: spec
            .opt("location")
            .and_then(|f| f.one_of(Location::ALLOWED))
            .unwrap_or(Location::MeshExternal),
        resolution,
        endpoints: endpoint_fields.iter().filter_map(workload).collect(),
        workload_selector,
        export_to: export_to(&mut spec),
        subject_alt_names: spec.strings("subjectAltNames"),
        allocated,
    })
}

/// Addresses that the control plane allocated to hosts, as the status has them.
fn allocated(entry: &mut Object<'_>) -> Vec<(String, IpAddr)> {
    let Some(mut status) = entry.opt("status").and_then(|f| f.object()) else {
        return Vec::new();
    };
    let addresses = status.list("addresses");
    // Conditions and the like are for others to read.
    status.skip_all();
    let address = |field: &Field<'_>| {
        let mut object = field.object()?;
        let host = object.text("host")?;
        Some((host, object.required("value")?.ip()?))
    };
    addresses.iter().filter_map(address).collect()
}

fn resolution(spec: &mut Object<'_>) -> Resolution {
    let Some(field) = spec.opt("resolution") else {
        spec.field().invalid(
            "resolution is NONE when it is not given, and that is not supported yet",
            "give resolution: STATIC".to_owned(),
        );
        return Resolution::None;
    };
    field
        .one_of(Resolution::ALLOWED)
        .unwrap_or(Resolution::None)
}

fn hosts(spec: &mut Object<'_>) -> Vec<Host> {
    let fields = spec.required_list("hosts");
    let hosts = decoded(&fields, Field::host);
    refuse_duplicates(&hosts, "host", |h| Some(h.to_string()));
    for (field, host) in &hosts {
        if host.is_wildcard() {
            field.unsupported("it would need resolution DYNAMIC_DNS; name each host");
        }
    }
    plain(hosts)
}

fn ports(spec: &mut Object<'_>) -> Vec<ServiceEntryPort> {
    let fields = spec.required_list("ports");
    let ports = decoded(&fields, port);
    refuse_duplicates(&ports, "port name", |p| Some(p.name.clone()));
    refuse_duplicates(&ports, "port", |p| Some(p.number.to_string()));
    plain(ports)
}

fn port(field: &Field<'_>) -> Option<ServiceEntryPort> {
    let mut object = field.object()?;
    let target_port = object.port("targetPort");
    let name = object.required("name").and_then(|f| f.name());
    let number = object.required("number").and_then(|f| f.port());
    let protocol = object
        .opt("protocol")
        .map_or(Some(Protocol::Tcp), |f| protocol(&f));
    Some(ServiceEntryPort {
        name: name?,
        number: number?,
        protocol: protocol?,
        target_port,
    })
}

fn protocol(field: &Field<'_>) -> Option<Protocol> {
    let text = field.text()?;
    let protocol = Protocol::parse(text).filter(|p| *p != Protocol::Udp);
    if protocol.is_none() {
        field.not_one_of(
            text,
            [
                "HTTP", "HTTPS", "GRPC", "GRPC-WEB", "HTTP2", "MONGO", "TCP", "TLS",
            ]
            .into_iter(),
        );
    }
    protocol
}

fn network(field: &Field<'_>) -> Option<IpNet> {
    let text = field.text()?;
    let network = match IpAddr::from_str(text) {
        Ok(ip) => Some(IpNet::from(ip)),
        Err(_) => IpNet::from_str(text).ok(),
    };
    if network.is_none() {
        field.invalid(
            format!("{} is not an address", quoted(text)),
            "an IP address, or a network like 10.0.0.0/8".to_owned(),
        );
    }
    network
}
