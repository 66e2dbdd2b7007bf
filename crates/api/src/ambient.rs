//! The labels and annotations by which objects say what the mesh shall do with them.

use std::fmt;

/// The mesh's labels and annotations on one object, read once.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct MeshLabels {
    /// Label `istio.io/use-waypoint` (and `istio.io/use-waypoint-namespace`).
    pub use_waypoint: Option<UseWaypoint>,
    /// Label `istio.io/waypoint-for`, on Gateways and GatewayClasses.
    pub waypoint_for: Option<TrafficType>,
    /// Label `istio.io/waypoint-enforcement`.
    pub enforcement: Option<Enforcement>,
    /// Label `istio.io/dataplane-mode`.
    pub dataplane_mode: Option<DataplaneMode>,
    /// Annotation `ambient.istio.io/redirection`: whether a pod's traffic is captured.
    pub redirection: Option<Redirection>,
    /// Annotation `networking.istio.io/tunnel` (or label): `http` promises that the workload takes HBONE by itself.
    pub native_tunnel: bool,
    /// Annotation `networking.istio.io/traffic-distribution`.
    pub traffic_distribution: Option<TrafficDistribution>,
}

/// What `istio.io/use-waypoint` says.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum UseWaypoint {
    /// `none`: no waypoint, whatever the namespace says.
    None,
    /// The waypoint Gateway of this name.
    Named {
        /// `istio.io/use-waypoint-namespace`; `None` means the object's own namespace.
        namespace: Option<String>,
        /// The Gateway's name.
        name: String,
    },
}

/// Which traffic a waypoint takes (`istio.io/waypoint-for`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TrafficType {
    /// Traffic addressed to services: the default of today's form.
    Service,
    /// Traffic addressed to workloads.
    Workload,
    /// Both: the default of the 2023 form.
    All,
    /// Neither.
    None,
}

impl TrafficType {
    /// Every value, as the label spells them.
    pub const ALLOWED: &'static [(&'static str, Self)] = &[
        ("service", Self::Service),
        ("workload", Self::Workload),
        ("all", Self::All),
        ("none", Self::None),
    ];

    /// Whether traffic to services is meant.
    pub const fn services(self) -> bool {
        matches!(self, Self::Service | Self::All)
    }

    /// Whether traffic to workloads is meant.
    pub const fn workloads(self) -> bool {
        matches!(self, Self::Workload | Self::All)
    }

    /// The value as the label spells it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Service => "service",
            Self::Workload => "workload",
            Self::All => "all",
            Self::None => "none",
        }
    }
}

impl fmt::Display for TrafficType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What happens to traffic that reaches a workload of a waypoint without having passed it (`istio.io/waypoint-enforcement`).
///
/// No `Default`: where nothing is said, [`Enforcement::DEFAULT`] is written out at the place that decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Enforcement {
    /// It passes through the waypoint as traffic to that workload.
    Hairpin,
    /// As hairpin, and it is the service's traffic where the port belongs to exactly one bound service.
    Service,
    /// It is refused.
    Require,
    /// It is delivered.
    Off,
}

impl Enforcement {
    /// What holds where no label says anything.
    pub const DEFAULT: Self = Self::Hairpin;

    /// Every value, as the label spells them.
    pub const ALLOWED: &'static [(&'static str, Self)] = &[
        ("hairpin", Self::Hairpin),
        ("service", Self::Service),
        ("require", Self::Require),
        ("off", Self::Off),
    ];

    /// The value as the label spells it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Hairpin => "hairpin",
            Self::Service => "service",
            Self::Require => "require",
            Self::Off => "off",
        }
    }
}

impl fmt::Display for Enforcement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Whether an object takes part in the mesh (`istio.io/dataplane-mode`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DataplaneMode {
    /// `ambient`: in the mesh.
    Ambient,
    /// `none`: not in the mesh.
    None,
}

impl DataplaneMode {
    /// Every value, as the label spells them.
    pub const ALLOWED: &'static [(&'static str, Self)] =
        &[("ambient", Self::Ambient), ("none", Self::None)];
}

/// Whether a pod's traffic is captured by the node proxy (`ambient.istio.io/redirection`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Redirection {
    /// Captured: the pod takes HBONE.
    Enabled,
    /// Being set up: not captured yet.
    Pending,
    /// Not captured.
    Disabled,
}

impl Redirection {
    /// Every value, as the annotation spells them.
    pub const ALLOWED: &'static [(&'static str, Self)] = &[
        ("enabled", Self::Enabled),
        ("pending", Self::Pending),
        ("disabled", Self::Disabled),
    ];
}

/// Which endpoints a client prefers (`spec.trafficDistribution`, `networking.istio.io/traffic-distribution`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TrafficDistribution {
    /// `PreferClose` or `PreferSameZone`: same network, region, zone first.
    PreferSameZone,
    /// `PreferSameNode`: same node first.
    PreferSameNode,
    /// `Any`: no preference.
    Any,
}

impl TrafficDistribution {
    /// Every value, as manifests spell them.
    pub const ALLOWED: &'static [(&'static str, Self)] = &[
        ("PreferClose", Self::PreferSameZone),
        ("PreferSameZone", Self::PreferSameZone),
        ("PreferSameNode", Self::PreferSameNode),
        ("Any", Self::Any),
    ];
}

/// Where something runs: region, zone and subzone, the inner ones possibly unknown (empty).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Locality {
    /// `topology.kubernetes.io/region`.
    pub region: String,
    /// `topology.kubernetes.io/zone`.
    pub zone: String,
    /// `topology.istio.io/subzone`.
    pub subzone: String,
}

impl Locality {
    /// Reads Istio's `region/zone/subzone`.
    pub fn parse(text: &str) -> Self {
        let mut parts = text.splitn(3, '/').map(str::to_owned);
        let mut next = || parts.next().unwrap_or_default();
        Self {
            region: next(),
            zone: next(),
            subzone: next(),
        }
    }
}
