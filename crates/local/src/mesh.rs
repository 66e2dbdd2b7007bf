//! `mesh.json`: what runs and where. Printed by `up -o json`, read by the other commands.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// A running mesh.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Mesh {
    /// Where its files are.
    pub state_dir: PathBuf,
    /// The sample's web page, when the mesh has a service `productpage`.
    #[serde(rename = "productpageURL")]
    pub productpage_url: Option<String>,
    /// The manifests; edit them and the mesh follows.
    pub mesh_directory: PathBuf,
    /// Process id of the supervisor.
    pub pid: u32,
    /// The control plane.
    pub control_plane: ControlPlaneInfo,
    /// The node proxy.
    pub node: NodeInfo,
    /// One entry a waypoint replica.
    pub waypoints: Vec<WaypointInfo>,
    /// The pods.
    pub workloads: Vec<WorkloadInfo>,
    /// The services.
    pub services: Vec<ServiceInfo>,
}

/// The control plane's process.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq, Eq)]
pub struct ControlPlaneInfo {
    /// Process id.
    pub pid: u32,
    /// xDS and CA, TLS.
    pub xds: SocketAddr,
    /// Debug endpoints, HTTP.
    pub debug: SocketAddr,
}

/// The node proxy's process.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq, Eq)]
pub struct NodeInfo {
    /// Process id.
    pub pid: u32,
    /// Admin, HTTP.
    pub admin: SocketAddr,
}

/// One replica of a waypoint.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq, Eq)]
pub struct WaypointInfo {
    /// Namespace of the Gateway.
    pub namespace: String,
    /// Name of the replica's deployment.
    pub name: String,
    /// Where it accepts HBONE (port 15008).
    pub address: IpAddr,
    /// Admin, HTTP.
    pub admin: SocketAddr,
    /// Process id.
    pub pid: u32,
}

/// A pod.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct WorkloadInfo {
    /// Namespace.
    pub namespace: String,
    /// Pod name.
    pub name: String,
    /// Whose identity it has.
    pub service_account: String,
    /// Its address.
    pub ip: IpAddr,
}

/// A service.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq, Eq)]
pub struct ServiceInfo {
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// Virtual address; absent for a headless service.
    pub vip: Option<IpAddr>,
    /// Its ports.
    pub ports: Vec<ServicePortInfo>,
}

/// A port of a service.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq, Eq)]
pub struct ServicePortInfo {
    /// Name, may be empty.
    #[serde(default)]
    pub name: String,
    /// Number.
    pub port: u16,
}

impl Mesh {
    /// Reads a `mesh.json`.
    ///
    /// # Errors
    /// When the file can't be read, or is not such an object (`InvalidData`).
    pub fn read(path: &Path) -> io::Result<Self> {
        let bytes = std::fs::read(path)?;
        serde_json::from_slice(&bytes).map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))
    }

    /// Replaces the file at once: a reader sees the old or the new one.
    pub(crate) fn write(&self, path: &Path) -> io::Result<()> {
        let temporary = path.with_extension("json.new");
        std::fs::write(&temporary, serde_json::to_vec_pretty(self)?)?;
        std::fs::rename(temporary, path)
    }

    /// The workload of that name, in any namespace.
    pub(crate) fn workload(&self, name: &str) -> Option<&WorkloadInfo> {
        self.workloads.iter().find(|w| {
            w.name == name
                || w.name
                    .strip_prefix(name)
                    .is_some_and(|r| r.starts_with('-'))
        })
    }

    /// `http://VIP:port` of the service of that name, in any namespace.
    pub(crate) fn service_url(&self, name: &str) -> Option<String> {
        let service = self.services.iter().find(|s| s.name == name)?;
        Some(format!(
            "http://{}:{}",
            service.vip?,
            service.ports.first()?.port
        ))
    }
}
