//! `/config_dump` in ztunnel's keys, which istioctl and our CLI read.
//!
//! Spec: hbone-and-l4.md 17.3, cli-and-admin.md 5 and 10. Lists are sorted, so that two dumps can be compared.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};
use waymark_identity::credentials::CertInfo;
use waymark_identity::store::{CertState, CertStatus, rfc3339};

use super::Admin;
use crate::capture::Entry;
use crate::policy::{Match, Policy, PolicyAction, PolicyScope, StringMatch};
use crate::state::Store;
use crate::state::model::{
    BalanceMode, Enforcement, GatewayRef, Health, HealthPolicy, IpFamilies, NetworkMode, Protocol,
    Scope, Service, TunnelHeader, Visibility, Workload,
};
use crate::state::store::Members;
use crate::telemetry::{Direction, Transport};

pub(super) fn render(admin: &Admin) -> Value {
    let store = admin.state.load_full();
    let mut workloads: Vec<_> = store.workloads().collect();
    workloads.sort_by(|a, b| a.uid.cmp(&b.uid));
    let mut services: Vec<_> = store.services().collect();
    services.sort_by(|a, b| a.key.cmp(&b.key));
    let mut policies: Vec<_> = store.policies().collect();
    policies.sort_by(|a, b| a.key.cmp(&b.key));
    let staged: BTreeMap<String, Value> = store
        .staged()
        .map(|(key, members)| (key.to_string(), endpoints(members, None)))
        .collect();
    json!({
        "capture": capture(admin),
        "certificates": admin.certificates.store().status().iter().map(certificate).collect::<Vec<_>>(),
        "config": *admin.config,
        "policies": policies.into_iter().map(|p| policy(p)).collect::<Vec<_>>(),
        "services": services.into_iter().map(|s| service(&store, s)).collect::<Vec<_>>(),
        "stagedServices": staged,
        "staticConfig": {},
        "version": version(),
        "workloadState": workload_state(admin, &store),
        "workloads": workloads.into_iter().map(|w| workload(w)).collect::<Vec<_>>(),
    })
}

/// Where connections are taken, and what stands in the way elsewhere.
fn capture(admin: &Admin) -> Value {
    let entry = |(address, entry): (SocketAddr, Entry)| {
        let entry = match entry {
            Entry::Outbound => "outbound",
            Entry::InboundPlain => "inboundPlain",
            Entry::InboundHbone => "inboundHbone",
        };
        (address.to_string(), entry.into())
    };
    let addresses: Map<String, Value> = admin.readiness.captured().into_iter().map(entry).collect();
    json!({"addresses": addresses, "obstacles": admin.readiness.obstacles()})
}

/// An object of the fields that are there.
#[derive(Default)]
struct Object(Map<String, Value>);

impl Object {
    fn put(mut self, key: &str, value: impl Into<Value>) -> Self {
        self.0.insert(key.to_owned(), value.into());
        self
    }

    fn some(self, key: &str, value: Option<impl Into<Value>>) -> Self {
        match value {
            Some(value) => self.put(key, value),
            None => self,
        }
    }

    fn text(self, key: &str, value: &str) -> Self {
        self.some(key, (!value.is_empty()).then_some(value))
    }

    fn list(self, key: &str, values: Vec<Value>) -> Self {
        self.some(key, (!values.is_empty()).then_some(values))
    }
}

impl From<Object> for Value {
    fn from(object: Object) -> Self {
        Self::Object(object.0)
    }
}

fn strings<T: ToString>(values: impl IntoIterator<Item = T>) -> Vec<Value> {
    values
        .into_iter()
        .map(|value| Value::String(value.to_string()))
        .collect()
}

fn workload(w: &Workload) -> Value {
    let locality = Object::default()
        .text("region", &w.locality.region)
        .text("zone", &w.locality.zone)
        .text("subzone", &w.locality.subzone);
    let extension = extension(w);
    let protocol = match w.protocol == Protocol::Hbone {
        true => "HBONE",
        false => "TCP",
    };
    let network_mode = match w.network_mode == NetworkMode::HostNetwork {
        true => "HostNetwork",
        false => "Standard",
    };
    let status = match w.status == Health::Healthy {
        true => "Healthy",
        false => "Unhealthy",
    };
    Object::default()
        .put("uid", w.uid.as_str())
        .put("workloadIps", strings(&w.addresses))
        .some("waypoint", w.waypoint.as_ref().map(gateway))
        .some("networkGateway", w.network_gateway.as_ref().map(gateway))
        .put("protocol", protocol)
        .put("networkMode", network_mode)
        .put("name", &*w.name)
        .put("namespace", &*w.namespace)
        .put("trustDomain", w.identity.trust_domain())
        .put("serviceAccount", w.identity.service_account())
        .text("network", &w.network)
        .text("workloadName", &w.workload_name)
        .put("workloadType", w.workload_type.as_str())
        .text("canonicalName", &w.canonical_name)
        .text("canonicalRevision", &w.canonical_revision)
        .text("hostname", &w.hostname)
        .put("node", &*w.node)
        .some("nativeTunnel", w.native_tunnel.then_some(true))
        .some("applicationTunnel", application_tunnel(w))
        .list("authorizationPolicies", strings(&w.authorization_policies))
        .put("status", status)
        .put("clusterId", &*w.cluster_id)
        .some("locality", (!locality.0.is_empty()).then_some(locality))
        .list("services", strings(w.services.keys()))
        .put("capacity", w.capacity)
        .some("waymark", (!extension.0.is_empty()).then_some(extension))
        .into()
}

/// What only our control plane says of a workload.
fn extension(w: &Workload) -> Object {
    let extension = &w.extension;
    Object::default()
        .list(
            "ports",
            extension.ports.iter().map(|p| (*p).into()).collect(),
        )
        .list(
            "probePorts",
            extension.probe_ports.iter().map(|p| (*p).into()).collect(),
        )
        .some(
            "applicationAddress",
            extension.application_address.map(|ip| ip.to_string()),
        )
        .some("enforcement", extension.enforcement.map(enforcement))
        .some(
            "inheritedEnforcement",
            extension.inherited_enforcement.map(enforcement),
        )
}

fn application_tunnel(w: &Workload) -> Option<Object> {
    let tunnel = w.application_tunnel?;
    let protocol = match tunnel.protocol == TunnelHeader::Proxy {
        true => "PROXY",
        false => "NONE",
    };
    Some(
        Object::default()
            .put("protocol", protocol)
            .some("port", tunnel.port),
    )
}

fn service(store: &Store, s: &Service) -> Value {
    let weighted = s.weighted_waypoints.iter().map(|weighted| {
        Object::default()
            .put("destination", gateway(&weighted.destination))
            .put("weight", weighted.weight)
            .into()
    });
    Object::default()
        .put("name", &*s.name)
        .put("namespace", &*s.key.namespace)
        .put("hostname", &*s.key.hostname)
        .put("vips", strings(&s.vips))
        .list("cidrVips", strings(&s.cidr_vips))
        .put("ports", port_map(&s.ports))
        .put("endpoints", endpoints(store.members(&s.key), Some(s)))
        .list("subjectAltNames", strings(&s.subject_alt_names))
        .some("waypoint", s.waypoint.as_ref().map(gateway))
        .list("weightedWaypoints", weighted.collect())
        .some("loadBalancer", load_balancer(s))
        .some(
            "ipFamilies",
            s.ip_families.map(|families| match families {
                IpFamilies::Ipv4 => "IPv4",
                IpFamilies::Ipv6 => "IPv6",
                IpFamilies::Dual => "Dual",
            }),
        )
        .some("canonical", s.canonical.then_some(true))
        .put(
            "visibility",
            if s.visibility == Visibility::Namespace {
                "Namespace"
            } else {
                "Public"
            },
        )
        .some(
            "waymark",
            s.enforcement
                .map(|e| Object::default().put("enforcement", enforcement(e))),
        )
        .into()
}

fn load_balancer(s: &Service) -> Option<Value> {
    let lb = &s.load_balancing;
    let preferences = lb.routing_preference.iter().map(|scope| match scope {
        Scope::Region => "Region",
        Scope::Zone => "Zone",
        Scope::Subzone => "Subzone",
        Scope::Node => "Node",
        Scope::Cluster => "Cluster",
        Scope::Network => "Network",
    });
    let mode = match lb.mode {
        BalanceMode::Standard => "Standard",
        BalanceMode::Strict => "Strict",
        BalanceMode::Failover => "Failover",
        BalanceMode::Passthrough => "Passthrough",
    };
    let health = match lb.health_policy {
        HealthPolicy::OnlyHealthy => "OnlyHealthy",
        HealthPolicy::AllowAll => "AllowAll",
    };
    let is_default = lb.mode == BalanceMode::Standard
        && lb.health_policy == HealthPolicy::OnlyHealthy
        && lb.routing_preference.is_empty();
    (!is_default).then(|| {
        json!({"routingPreferences": preferences.collect::<Vec<_>>(), "mode": mode, "healthPolicy": health})
    })
}

/// Endpoints by uid. `ports` are the endpoint's own, or what the service says where they are silent.
fn endpoints(members: Members<'_>, service: Option<&Service>) -> Value {
    let endpoint = |workload: &Arc<Workload>| {
        let own = service.and_then(|s| workload.services.get(&s.key));
        let value = json!({
            "workloadUid": workload.uid.as_str(),
            "port": own.map(port_map).unwrap_or_else(|| json!({})),
            "status": if workload.status == Health::Healthy { "Healthy" } else { "Unhealthy" },
        });
        (workload.uid.to_string(), value)
    };
    Value::Object(
        members
            .iter()
            .map(endpoint)
            .collect::<BTreeMap<_, _>>()
            .into_iter()
            .collect(),
    )
}

fn port_map(ports: &BTreeMap<u16, u16>) -> Value {
    Value::Object(
        ports
            .iter()
            .map(|(port, target)| (port.to_string(), (*target).into()))
            .collect(),
    )
}

fn gateway(gateway: &GatewayRef) -> Value {
    json!({"destination": gateway.destination.to_string(), "hboneMtlsPort": gateway.hbone_mtls_port})
}

fn enforcement(enforcement: Enforcement) -> &'static str {
    match enforcement {
        Enforcement::Off => "off",
        Enforcement::Hairpin => "hairpin",
        Enforcement::Service => "service",
        Enforcement::Require => "require",
    }
}

fn policy(p: &Policy) -> Value {
    let rules = p.rules.iter().map(|rule| {
        let clauses = rule
            .clauses
            .iter()
            .map(|clause| clause.matches.iter().map(match_).collect::<Value>());
        clauses.collect::<Value>()
    });
    json!({
        "name": p.key.name(),
        "namespace": p.key.namespace(),
        "scope": match p.scope {
            PolicyScope::Global => "Global",
            PolicyScope::Namespace => "Namespace",
            PolicyScope::WorkloadSelector => "WorkloadSelector",
        },
        "action": match p.action {
            PolicyAction::Allow => "Allow",
            PolicyAction::Deny => "Deny",
        },
        "rules": rules.collect::<Value>(),
        "dryRun": p.dry_run,
    })
}

fn match_(m: &Match) -> Value {
    let texts = |values: &[StringMatch]| -> Vec<Value> {
        let value = |value: &StringMatch| match value {
            StringMatch::Exact(text) => json!({"Exact": **text}),
            StringMatch::Prefix(text) => json!({"Prefix": **text}),
            StringMatch::Suffix(text) => json!({"Suffix": **text}),
            StringMatch::Presence => json!({"Presence": []}),
        };
        values.iter().map(value).collect()
    };
    let accounts = |values: &[crate::policy::ServiceAccountMatch]| -> Vec<Value> {
        values
            .iter()
            .map(|v| json!({"namespace": *v.namespace, "serviceAccount": *v.service_account}))
            .collect()
    };
    let ports =
        |values: &[u16]| -> Vec<Value> { values.iter().map(|port| (*port).into()).collect() };
    Object::default()
        .list("namespaces", texts(&m.namespaces))
        .list("notNamespaces", texts(&m.not_namespaces))
        .list("serviceAccounts", accounts(&m.service_accounts))
        .list("notServiceAccounts", accounts(&m.not_service_accounts))
        .list("principals", texts(&m.principals))
        .list("notPrincipals", texts(&m.not_principals))
        .list("sourceIps", strings(&m.source_ips))
        .list("notSourceIps", strings(&m.not_source_ips))
        .list("destinationIps", strings(&m.destination_ips))
        .list("notDestinationIps", strings(&m.not_destination_ips))
        .list("destinationPorts", ports(&m.destination_ports))
        .list("notDestinationPorts", ports(&m.not_destination_ports))
        .into()
}

fn certificate(status: &CertStatus) -> Value {
    let state = match &status.state {
        CertState::Initializing => "Initializing".to_owned(),
        CertState::Available { .. } => "Available".to_owned(),
        CertState::Unavailable { why, .. } => {
            format!("Unavailable: {}", crate::telemetry::chain(&**why))
        }
    };
    json!({
        "identity": status.identity.as_ref().map(ToString::to_string),
        "state": state,
        "certChain": status.chain().iter().map(cert_info).collect::<Vec<_>>(),
        "rootCerts": status.roots().iter().map(cert_info).collect::<Vec<_>>(),
    })
}

fn cert_info(info: &CertInfo) -> Value {
    json!({
        "pem": STANDARD.encode(&info.pem),
        "serialNumber": decimal(&info.serial),
        "validFrom": rfc3339(info.not_before),
        "expirationTime": rfc3339(info.not_after),
    })
}

/// Hexadecimal digits as a decimal number of any length.
fn decimal(hex: &str) -> String {
    // Base 10^9, least significant first.
    const BASE: u64 = 1_000_000_000;
    let mut parts: Vec<u64> = vec![0];
    for digit in hex.chars().filter_map(|c| c.to_digit(16)) {
        let mut carry = u64::from(digit);
        for part in &mut parts {
            let value = *part * 16 + carry;
            *part = value % BASE;
            carry = value / BASE;
        }
        if carry > 0 {
            parts.push(carry);
        }
    }
    let mut text = parts.pop().unwrap_or_default().to_string();
    for part in parts.iter().rev() {
        text.push_str(&format!("{part:09}"));
    }
    text
}

/// Local workloads that are captured, and their connections. Connections of clients outside the mesh are under the empty uid.
fn workload_state(admin: &Admin, store: &Store) -> Value {
    let mut by_workload: BTreeMap<String, (Vec<Value>, Vec<Value>)> = BTreeMap::new();
    for workload in store
        .workloads()
        .filter(|w| w.is_captured() && store.is_local(w))
    {
        by_workload.entry(workload.uid.to_string()).or_default();
    }
    for entry in admin.telemetry.connections.list() {
        let connection = json!({
            "src": entry.source.to_string(),
            "originalDst": entry.original_destination,
            "actualDst": entry.actual_destination.to_string(),
            "protocol": if entry.transport == Transport::Hbone { "HBONE" } else { "TCP" },
        });
        let uid = entry
            .local
            .as_ref()
            .map(ToString::to_string)
            .unwrap_or_default();
        let (inbound, outbound) = by_workload.entry(uid).or_default();
        match entry.direction {
            Direction::Inbound => inbound.push(connection),
            Direction::Outbound => outbound.push(connection),
        }
    }
    let state = |(uid, (inbound, outbound)): (String, (Vec<Value>, Vec<Value>))| {
        let info = store.workload(&uid).map(|workload| {
            json!({
                "name": *workload.name,
                "namespace": *workload.namespace,
                "trustDomain": workload.identity.trust_domain(),
                "serviceAccount": workload.identity.service_account(),
            })
        });
        let value = Object::default()
            .put("state", "Up")
            .put(
                "connections",
                json!({"inbound": inbound, "outbound": outbound}),
            )
            .some("info", info);
        (uid, value.into())
    };
    Value::Object(by_workload.into_iter().map(state).collect())
}

fn version() -> Value {
    json!({
        "version": env!("CARGO_PKG_VERSION"),
        "gitRevision": "unknown",
        "rustVersion": env!("CARGO_PKG_RUST_VERSION"),
        "buildProfile": if cfg!(debug_assertions) { "debug" } else { "release" },
        "buildStatus": "Clean",
        "istioVersion": "unknown",
        "cryptoProvider": "tls-aws-lc",
    })
}

#[cfg(test)]
mod tests;
