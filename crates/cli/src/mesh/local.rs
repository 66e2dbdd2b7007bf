//! A mesh on this machine: found by its state directory, its resources in the mesh directory, its proxies at addresses.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, StatusCode};
use serde::Deserialize;
use waymark_kubernetes::survey::Survey;

use super::{Answer, At, Labels, MeshClient, NodeSelection, Peer, TIMEOUT, http as plain_http};
use crate::Global;
use crate::analyze::examine::{Found, object_of};
use crate::analyze::files;
use crate::error::CliError;
use crate::target::{self, Kind, Reference};
use crate::waypoint::gateway::Spec;
use crate::waypoint::manifests::Manifests;
use crate::waypoint::status::{GatewayStatus, Statuses};

/// `mesh.json`.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct LocalMesh {
    #[serde(skip)]
    namespace: String,
    #[serde(skip)]
    istio_namespace: String,
    pub(super) state_dir: PathBuf,
    mesh_directory: PathBuf,
    control_plane: ControlPlane,
    node: Option<Node>,
    #[serde(default)]
    waypoints: Vec<Replica>,
    #[serde(default)]
    workloads: Vec<Workload>,
}

#[derive(Debug, Clone, Deserialize)]
struct ControlPlane {
    debug: SocketAddr,
}

#[derive(Debug, Clone, Deserialize)]
struct Node {
    admin: SocketAddr,
}

/// One replica. `name` is the deployment's.
#[derive(Debug, Clone, Deserialize)]
struct Replica {
    namespace: String,
    name: String,
    admin: SocketAddr,
}

#[derive(Debug, Clone, Deserialize)]
struct Workload {
    namespace: String,
    name: String,
}

impl LocalMesh {
    pub(super) fn find(global: &Global) -> Result<Self, CliError> {
        let state_dir = state_dir(global)?;
        let path = state_dir.join("mesh.json");
        let bytes = match std::fs::read(&path) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                return Err(CliError::NoMesh { state_dir });
            }
            Err(source) => {
                return Err(CliError::File {
                    action: "read",
                    path,
                    source,
                });
            }
        };
        let mesh: Self = serde_json::from_slice(&bytes)
            .map_err(|e| CliError::Data(format!("{}: {e}", path.display())))?;
        Ok(Self {
            namespace: global.namespace.clone().unwrap_or_else(|| DEFAULT.into()),
            istio_namespace: global.istio_namespace.clone(),
            ..mesh
        })
    }

    /// Whether its control plane listens.
    pub(super) async fn runs(&self) -> bool {
        let connecting = tokio::net::TcpStream::connect(self.control_plane.debug);
        matches!(tokio::time::timeout(TIMEOUT, connecting).await, Ok(Ok(_)))
    }

    fn statuses(&self) -> Result<Statuses, CliError> {
        Statuses::read(&self.state_dir.join("status.json"))
    }

    fn manifests(&self) -> Result<Manifests, CliError> {
        Manifests::read(&self.mesh_directory)
    }

    fn has_workload(&self, namespace: &str, name: &str) -> bool {
        self.workloads
            .iter()
            .any(|w| w.namespace == namespace && w.name == name)
    }

    /// Every replica with its pod's name (`<deployment>-<index>`).
    fn replicas(&self) -> Vec<(&Replica, String)> {
        let mut seen = std::collections::BTreeMap::new();
        self.waypoints
            .iter()
            .map(|replica| {
                let index = seen
                    .entry((&replica.namespace, &replica.name))
                    .and_modify(|n| *n += 1)
                    .or_insert(0_usize);
                (replica, format!("{}-{index}", replica.name))
            })
            .collect()
    }

    /// The pod, or the first replica of the deployment or Gateway.
    fn resolve(&self, argument: &str) -> Result<Peer, CliError> {
        let reference = target::parse(argument)?;
        if let Some(kind) = reference.kind.without_proxy() {
            return Err(CliError::NotFound(format!(
                "\"{argument}\": resource type \"{kind}\" has no proxy in a mesh on this machine (pod, deployment, gateway)"
            )));
        }
        let namespace = reference.namespace.unwrap_or(&self.namespace);
        let found = self.replicas().into_iter().find(|(replica, pod)| {
            replica.namespace == namespace && is_named(&reference, &replica.name, pod)
        });
        if let Some((replica, pod)) = found {
            let name = format!("{pod}.{namespace}");
            return Ok(Peer {
                title: name.clone(),
                name,
                at: At::Address(replica.admin),
            });
        }
        Err(CliError::NotFound(
            if self.has_workload(namespace, reference.name) {
                format!(
                    "pod {}.{namespace} has no proxy of its own: in an ambient mesh the node proxy serves it",
                    reference.name
                )
            } else {
                format!("no pods match \"{argument}\" in the \"{namespace}\" namespace")
            },
        ))
    }

    fn node_proxy(&self, selection: &NodeSelection) -> Result<Peer, CliError> {
        let node = self.node.as_ref().ok_or_else(|| {
            CliError::NotFound("the mesh on this machine has no node proxy".into())
        })?;
        if let Some(argument) = &selection.pod {
            let reference = target::parse(argument)?;
            let namespace = reference.namespace.unwrap_or(&self.namespace);
            let is_node = reference.name == NODE_PROXY;
            if !is_node && !self.has_workload(namespace, reference.name) {
                return Err(CliError::NotFound(format!(
                    "no pods match \"{argument}\" in the \"{namespace}\" namespace"
                )));
            }
        }
        let name = format!("{NODE_PROXY}.{}", self.istio_namespace);
        Ok(Peer {
            title: name.clone(),
            name,
            at: At::Address(node.admin),
        })
    }
}

fn is_named(reference: &Reference<'_>, deployment: &str, pod: &str) -> bool {
    match reference.kind {
        Kind::Pod => pod == reference.name,
        Kind::Deployment => deployment == reference.name,
        Kind::Gateway => {
            deployment == reference.name
                || deployment.strip_suffix("-istio-waypoint") == Some(reference.name)
        }
        Kind::Service | Kind::StatefulSet | Kind::DaemonSet | Kind::ReplicaSet | Kind::Job => false,
    }
}

/// What is known at once.
fn at_once<'a, T: 'a>(answer: Result<T, CliError>) -> Answer<'a, T> {
    Box::pin(std::future::ready(answer))
}

impl MeshClient for LocalMesh {
    fn namespace(&self) -> &str {
        &self.namespace
    }

    fn poll_interval(&self) -> Duration {
        Duration::from_millis(200)
    }

    fn gateways<'a>(&'a self, namespace: Option<&'a str>) -> Answer<'a, Vec<GatewayStatus>> {
        at_once(self.statuses().map(|statuses| {
            let mut gateways = statuses.gateways;
            gateways.retain(|g| namespace.is_none_or(|namespace| g.namespace == namespace));
            gateways
        }))
    }

    fn namespace_labels<'a>(&'a self, namespace: &'a str) -> Answer<'a, Labels> {
        at_once(self.manifests().map(|m| m.namespace_labels(namespace)))
    }

    fn apply<'a>(&'a self, gateway: &'a Spec) -> Answer<'a, ()> {
        at_once(self.manifests().and_then(|mut m| m.put(gateway)))
    }

    fn waypoints<'a>(&'a self, namespace: &'a str, revision: &'a str) -> Answer<'a, Vec<String>> {
        at_once(self.manifests().map(|m| m.waypoints(namespace, revision)))
    }

    fn delete<'a>(&'a self, namespace: &'a str, name: &'a str) -> Answer<'a, bool> {
        at_once(self.manifests().and_then(|mut m| m.remove(namespace, name)))
    }

    fn label_namespace<'a>(
        &'a self,
        namespace: &'a str,
        label: &'a str,
        value: &'a str,
    ) -> Answer<'a, ()> {
        at_once(
            self.manifests()
                .and_then(|mut m| m.label_namespace(namespace, label, value)),
        )
    }

    fn proxy<'a>(&'a self, argument: &'a str, _admin_port: u16) -> Answer<'a, Peer> {
        at_once(self.resolve(argument))
    }

    fn control_planes<'a>(&'a self, _revision: Option<&'a str>) -> Answer<'a, Vec<Peer>> {
        at_once(Ok(vec![Peer {
            name: "waymark".into(),
            title: "the control plane".into(),
            at: At::Address(self.control_plane.debug),
        }]))
    }

    fn node_proxies<'a>(&'a self, selection: &'a NodeSelection) -> Answer<'a, Vec<Peer>> {
        at_once(self.node_proxy(selection).map(|peer| vec![peer]))
    }

    fn survey<'a>(
        &'a self,
        namespace: Option<&'a str>,
        _revision: &'a str,
    ) -> Answer<'a, (Found, Option<Survey>)> {
        let of_namespace = |of: &str| namespace.is_none_or(|namespace| of == namespace);
        at_once(
            files::read(std::slice::from_ref(&self.mesh_directory), true).map(|mut found| {
                found.objects.retain(|(object, place)| {
                    let object = object_of(object, place.as_deref());
                    of_namespace(object.namespace.as_ref().unwrap_or(&object.name))
                });
                found.errors.retain(|error| {
                    let object = error.object.as_ref();
                    object.is_none_or(|o| of_namespace(o.namespace.as_ref().unwrap_or(&o.name)))
                });
                (found, None)
            }),
        )
    }

    fn ask<'a>(
        &'a self,
        peer: &'a Peer,
        method: Method,
        path: &'a str,
    ) -> Answer<'a, (StatusCode, Bytes)> {
        Box::pin(async move {
            let failed = |reason| CliError::Ask {
                target: peer.title.clone(),
                reason,
            };
            let At::Address(address) = &peer.at else {
                return Err(failed("it is not on this machine".into()));
            };
            tokio::time::timeout(TIMEOUT, plain_http::ask(*address, method, path))
                .await
                .map_err(|_| failed(format!("no answer within {} s", TIMEOUT.as_secs())))?
                .map_err(failed)
        })
    }
}

fn state_dir(global: &Global) -> Result<PathBuf, CliError> {
    if let Some(dir) = &global.state_dir {
        return Ok(dir.clone());
    }
    let absolute = |name| {
        std::env::var_os(name)
            .map(PathBuf::from)
            .filter(|path| path.is_absolute())
    };
    absolute("XDG_STATE_HOME")
        .or_else(|| absolute("HOME").map(|home| home.join(".local/state")))
        .map(|base| base.join("waymark"))
        .ok_or_else(|| {
            CliError::Usage("no state directory: give --state-dir or set WAYMARK_STATE_DIR".into())
        })
}

const DEFAULT: &str = "default";
/// The service account of the node proxy, and its name in tables.
const NODE_PROXY: &str = "waymark-node";

#[cfg(test)]
mod tests {
    use super::*;

    fn mesh() -> LocalMesh {
        let mesh: LocalMesh = serde_json::from_value(serde_json::json!({
            "stateDir": "/s", "meshDirectory": "/m", "controlPlane": {"debug": "127.0.0.1:1"},
            "node": {"admin": "127.0.0.1:2"},
            "waypoints": [
                {"namespace": "default", "name": "bookinfo-reviews-istio-waypoint", "admin": "127.244.0.9:15000"},
                {"namespace": "default", "name": "bookinfo-reviews-istio-waypoint", "admin": "127.244.0.10:15000"}],
            "workloads": [{"namespace": "default", "name": "productpage-v1"}]}))
        .expect("mesh");
        LocalMesh {
            namespace: DEFAULT.into(),
            istio_namespace: "istio-system".into(),
            ..mesh
        }
    }

    #[test]
    fn finds_replicas_by_every_way_to_name_them() {
        for (argument, want) in [
            ("deploy/bookinfo-reviews-istio-waypoint", 9),
            ("deployment/bookinfo-reviews-istio-waypoint.default", 9),
            ("deployments.apps/bookinfo-reviews-istio-waypoint", 9),
            ("gateway/bookinfo-reviews", 9),
            ("bookinfo-reviews-istio-waypoint-1", 10),
            ("pod/bookinfo-reviews-istio-waypoint-1.default", 10),
        ] {
            let proxy = mesh().resolve(argument).expect(argument);
            let at: SocketAddr = format!("127.244.0.{want}:15000").parse().expect("address");
            assert_eq!(proxy.at, At::Address(at), "{argument}");
        }
    }

    #[test]
    fn says_why_nothing_is_found() {
        for (argument, want) in [
            (
                "deploy/none",
                "no pods match \"deploy/none\" in the \"default\" namespace",
            ),
            ("productpage-v1", "has no proxy of its own"),
            ("svc/reviews", "resource type \"service\""),
            ("deploy/x.", "names no resource"),
        ] {
            let error = mesh().resolve(argument).expect_err(argument);
            assert!(error.to_string().contains(want), "{argument}: {error}");
        }
    }

    #[test]
    fn a_workload_names_its_nodes_proxy() {
        let of = |pod: &str| {
            mesh().node_proxy(&NodeSelection {
                pod: Some(pod.to_owned()),
                ..NodeSelection::default()
            })
        };
        let name = of("productpage-v1").expect("its node's").name;
        assert_eq!(name, "waymark-node.istio-system");
        let error = of("nobody").expect_err("no such pod").to_string();
        assert!(error.contains("no pods match \"nobody\""), "{error}");
    }
}
