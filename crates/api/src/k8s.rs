//! Kinds of the Kubernetes core that the mesh reads. Fields that it has no use for are not kept.

use std::collections::BTreeMap;
use std::net::IpAddr;

use crate::ambient::{Locality, TrafficDistribution};
use crate::meta::{Map, ObjectMeta};
use crate::names;
use crate::protocol::{Protocol, Transport};

/// A Kubernetes Namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Namespace {
    /// Its metadata.
    pub meta: ObjectMeta,
}

/// A Kubernetes Node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// Its metadata.
    pub meta: ObjectMeta,
}

impl Node {
    /// Where the node is, by its topology labels.
    pub fn locality(&self) -> Locality {
        let label = |name| self.meta.label(name).unwrap_or_default().to_owned();
        Locality {
            region: label(names::REGION),
            zone: label(names::ZONE),
            subzone: label(names::SUBZONE),
        }
    }
}

/// A Kubernetes ServiceAccount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceAccount {
    /// Its metadata.
    pub meta: ObjectMeta,
}

/// A Kubernetes Service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Service {
    /// Its metadata.
    pub meta: ObjectMeta,
    /// What it asks for.
    pub spec: ServiceSpec,
}

impl Service {
    /// Its host name, `<name>.<namespace>.svc.cluster.local`.
    pub fn host(&self) -> String {
        crate::host::service_host(&self.meta.name, &self.meta.namespace)
    }

    /// Its port of this number.
    pub fn port(&self, number: u16) -> Option<&ServicePort> {
        self.spec.ports.iter().find(|p| p.port == number)
    }

    /// Whether a pod with these labels belongs to it.
    pub fn selects(&self, labels: &Map) -> bool {
        crate::selector::selects(&self.spec.selector, labels)
    }
}

/// The specification of a Service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceSpec {
    /// `type`.
    pub service_type: ServiceType,
    /// `clusterIP` and `clusterIPs`.
    pub cluster_ips: ClusterIps,
    /// `selector`; empty when endpoints are given by EndpointSlices alone.
    pub selector: Map,
    /// `ports`; numbers and names are unique.
    pub ports: Vec<ServicePort>,
    /// `ipFamilies`.
    pub ip_families: Vec<IpFamily>,
    /// `internalTrafficPolicy: Local`: only endpoints of the client's node.
    pub internal_traffic_local: bool,
    /// `trafficDistribution`.
    pub traffic_distribution: Option<TrafficDistribution>,
    /// `publishNotReadyAddresses`: endpoints count whether they are ready or not.
    pub publish_not_ready_addresses: bool,
}

/// `spec.type` of a Service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ServiceType {
    /// `ClusterIP`, the default.
    ClusterIp,
    /// `NodePort`: to the mesh as `ClusterIP`.
    NodePort,
    /// `LoadBalancer`: to the mesh as `ClusterIP`.
    LoadBalancer,
    /// `ExternalName`: the mesh ignores the service.
    ExternalName(String),
}

/// The addresses of a Service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClusterIps {
    /// None given: one is to be allocated.
    Unset,
    /// `None`: the service has no address of its own.
    Headless,
    /// These, at least one.
    Given(Vec<IpAddr>),
}

impl ClusterIps {
    /// The given addresses, possibly none.
    pub fn addresses(&self) -> &[IpAddr] {
        match self {
            Self::Given(addresses) => addresses,
            Self::Unset | Self::Headless => &[],
        }
    }
}

/// An IP family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IpFamily {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

/// A port of a Service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServicePort {
    /// Its name; may be absent on the only port.
    pub name: Option<String>,
    /// The port that clients use.
    pub port: u16,
    /// The port of the pods.
    pub target_port: TargetPort,
    /// TCP, UDP or SCTP.
    pub transport: Transport,
    /// `appProtocol`.
    pub app_protocol: Option<String>,
    /// What the port speaks, by [`Protocol::select`].
    pub protocol: Protocol,
}

/// A port by number or by the name of a container's port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TargetPort {
    /// By number.
    Number(u16),
    /// By name.
    Name(String),
}

/// A Kubernetes Pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pod {
    /// Its metadata.
    pub meta: ObjectMeta,
    /// What it asks for.
    pub spec: PodSpec,
    /// How it is, as far as the manifest or the kubelet says.
    pub status: PodStatus,
    /// How `waymark up` runs it.
    pub local: LocalPod,
}

impl Pod {
    /// Every declared TCP port of its containers (and sidecar init containers), sorted.
    pub fn tcp_ports(&self) -> Vec<u16> {
        let mut ports: Vec<u16> = self
            .long_running()
            .flat_map(|c| &c.ports)
            .filter(|p| p.transport == Transport::Tcp)
            .map(|p| p.port)
            .collect();
        ports.sort_unstable();
        ports.dedup();
        ports
    }

    /// The TCP port of this name.
    pub fn named_port(&self, name: &str) -> Option<u16> {
        let ports = self
            .long_running()
            .flat_map(|c| &c.ports)
            .filter(|p| p.transport == Transport::Tcp);
        ports
            .into_iter()
            .find(|p| p.name.as_deref() == Some(name))
            .map(|p| p.port)
    }

    /// The port that a service's target port means on this pod; `None` for a name that it does not have.
    pub fn target_port(&self, target: &TargetPort) -> Option<u16> {
        match target {
            TargetPort::Number(number) => Some(*number),
            TargetPort::Name(name) => self.named_port(name),
        }
    }

    /// The ports that network probes are declared for, sorted: these are always delivered.
    pub fn probe_ports(&self) -> Vec<u16> {
        let mut ports: Vec<u16> = self
            .long_running()
            .flat_map(|c| {
                c.probes()
                    .filter_map(|p| p.port())
                    .filter_map(|t| c.port(t))
            })
            .collect();
        ports.sort_unstable();
        ports.dedup();
        ports
    }

    /// Whether it is over (`Succeeded` or `Failed`).
    pub fn is_terminal(&self) -> bool {
        matches!(
            self.status.phase,
            Some(PodPhase::Succeeded | PodPhase::Failed)
        )
    }

    fn long_running(&self) -> impl Iterator<Item = &Container> {
        self.spec.containers.iter().chain(
            self.spec
                .init_containers
                .iter()
                .filter(|c| c.restarts_always),
        )
    }
}

/// The specification of a Pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodSpec {
    /// `serviceAccountName`, `default` when not given.
    pub service_account_name: String,
    /// `nodeName`.
    pub node_name: Option<String>,
    /// `hostNetwork`.
    pub host_network: bool,
    /// `containers`.
    pub containers: Vec<Container>,
    /// `initContainers`.
    pub init_containers: Vec<Container>,
}

/// A container of a Pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Container {
    /// Its name.
    pub name: String,
    /// The ports that it declares.
    pub ports: Vec<ContainerPort>,
    /// `startupProbe`.
    pub startup_probe: Option<Probe>,
    /// `readinessProbe`.
    pub readiness_probe: Option<Probe>,
    /// `livenessProbe`.
    pub liveness_probe: Option<Probe>,
    /// `restartPolicy: Always`, which makes an init container a sidecar.
    pub restarts_always: bool,
}

impl Container {
    /// Its probes.
    pub fn probes(&self) -> impl Iterator<Item = &Probe> {
        [
            &self.startup_probe,
            &self.readiness_probe,
            &self.liveness_probe,
        ]
        .into_iter()
        .flatten()
    }

    /// The number of a port given by number or by the name of one of its own ports.
    pub fn port(&self, target: &TargetPort) -> Option<u16> {
        match target {
            TargetPort::Number(number) => Some(*number),
            TargetPort::Name(name) => self
                .ports
                .iter()
                .find(|p| p.name.as_ref() == Some(name))
                .map(|p| p.port),
        }
    }
}

/// A port that a container declares.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerPort {
    /// Its name.
    pub name: Option<String>,
    /// Its number.
    pub port: u16,
    /// TCP, UDP or SCTP.
    pub transport: Transport,
}

/// A probe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Probe {
    /// What is done.
    pub action: ProbeAction,
    /// `initialDelaySeconds`.
    pub initial_delay_seconds: u32,
    /// `periodSeconds`, 10 when not given.
    pub period_seconds: u32,
    /// `timeoutSeconds`, 1 when not given.
    pub timeout_seconds: u32,
    /// `failureThreshold`, 3 when not given.
    pub failure_threshold: u32,
    /// `successThreshold`, 1 when not given.
    pub success_threshold: u32,
}

impl Probe {
    /// The port that is probed, when it goes over the network.
    pub fn port(&self) -> Option<&TargetPort> {
        match &self.action {
            ProbeAction::HttpGet { port, .. }
            | ProbeAction::TcpSocket { port }
            | ProbeAction::Grpc { port } => Some(port),
            ProbeAction::Exec { .. } => None,
        }
    }
}

/// What a probe does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ProbeAction {
    /// `httpGet`.
    HttpGet {
        /// Path, `/` when not given.
        path: String,
        /// Port.
        port: TargetPort,
        /// Whether over TLS.
        tls: bool,
    },
    /// `tcpSocket`.
    TcpSocket {
        /// Port.
        port: TargetPort,
    },
    /// `grpc`.
    Grpc {
        /// Port, always a number.
        port: TargetPort,
    },
    /// `exec`.
    Exec {
        /// Command and arguments.
        command: Vec<String>,
    },
}

/// The status of a Pod.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PodStatus {
    /// `phase`.
    pub phase: Option<PodPhase>,
    /// `podIPs`, else `podIP`; empty when an address is to be allocated.
    pub pod_ips: Vec<IpAddr>,
    /// The condition `Ready`; `None` when nobody says.
    pub ready: Option<bool>,
}

/// The phase of a Pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PodPhase {
    /// Not started yet.
    Pending,
    /// Running.
    Running,
    /// Ended well.
    Succeeded,
    /// Ended badly.
    Failed,
    /// Nobody knows.
    Unknown,
}

impl PodPhase {
    /// Every value, as manifests spell them.
    pub const ALLOWED: &'static [(&'static str, Self)] = &[
        ("Pending", Self::Pending),
        ("Running", Self::Running),
        ("Succeeded", Self::Succeeded),
        ("Failed", Self::Failed),
        ("Unknown", Self::Unknown),
    ];
}

/// Annotations by which a Pod says how `waymark up` runs it on this machine.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LocalPod {
    /// `waymark.dev/command`, split as a shell splits words: program and arguments.
    pub command: Option<Vec<String>>,
    /// `waymark.dev/app-address`: where the application itself listens.
    pub app_address: Option<IpAddr>,
    /// `waymark.dev/env.NAME`: variables of the command's environment.
    pub env: BTreeMap<String, String>,
}

/// A Kubernetes EndpointSlice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndpointSlice {
    /// Its metadata.
    pub meta: ObjectMeta,
    /// Label `kubernetes.io/service-name`: the service that it is of.
    pub service_name: Option<String>,
    /// `addressType`.
    pub address_type: AddressType,
    /// `ports`.
    pub ports: Vec<EndpointPort>,
    /// `endpoints`.
    pub endpoints: Vec<Endpoint>,
}

/// What an EndpointSlice's addresses are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AddressType {
    /// IPv4 addresses.
    V4,
    /// IPv6 addresses.
    V6,
    /// Host names; the mesh ignores such slices.
    Fqdn,
}

impl AddressType {
    /// Every value, as manifests spell them.
    pub const ALLOWED: &'static [(&'static str, Self)] =
        &[("IPv4", Self::V4), ("IPv6", Self::V6), ("FQDN", Self::Fqdn)];
}

/// A port of an EndpointSlice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndpointPort {
    /// Its name, that of the service's port.
    pub name: Option<String>,
    /// Its number; `None` means any.
    pub port: Option<u16>,
    /// TCP, UDP or SCTP.
    pub transport: Transport,
    /// `appProtocol`.
    pub app_protocol: Option<String>,
}

/// An endpoint of an EndpointSlice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// Its addresses; empty in a slice of host names.
    pub addresses: Vec<IpAddr>,
    /// Condition `ready`; absent counts as ready.
    pub ready: Option<bool>,
    /// Condition `serving`.
    pub serving: Option<bool>,
    /// Condition `terminating`.
    pub terminating: Option<bool>,
    /// `nodeName`.
    pub node_name: Option<String>,
    /// `zone`.
    pub zone: Option<String>,
    /// `targetRef`: the object behind it.
    pub target_ref: Option<TargetRef>,
}

/// The object behind an endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TargetRef {
    /// Its kind, mostly `Pod`.
    pub kind: String,
    /// Its namespace.
    pub namespace: Option<String>,
    /// Its name.
    pub name: String,
    /// Its UID.
    pub uid: Option<String>,
}
