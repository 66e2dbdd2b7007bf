//! The mesh that commands work on: one on this machine or one in a cluster, behind one trait, so that a command does not know
//! which.

mod cluster;
mod http;
mod kinds;
mod local;

use std::collections::BTreeMap;
use std::io::Write;
use std::net::SocketAddr;
use std::path::Path;
use std::pin::Pin;
use std::time::Duration;

use ::http::{Method, StatusCode};
use bytes::Bytes;
use serde_json::Value;
use waymark_kubernetes::port_forward::PodPort;
use waymark_kubernetes::survey::Survey;
use waymark_kubernetes::{Access, ConnectError};

pub(crate) use self::cluster::Cluster;
use self::local::LocalMesh;
use crate::Global;
use crate::analyze::examine::Found;
use crate::error::CliError;
use crate::waypoint::gateway::Spec;
use crate::waypoint::status::GatewayStatus;

/// What a mesh answers with, in time.
pub(crate) type Answer<'a, T> = Pin<Box<dyn Future<Output = Result<T, CliError>> + 'a>>;

/// The labels of an object.
pub(crate) type Labels = BTreeMap<String, String>;

/// A mesh, wherever it runs.
pub(crate) trait MeshClient {
    /// The namespace of what is named without one.
    fn namespace(&self) -> &str;

    /// How often it may be asked whether something has become true.
    fn poll_interval(&self) -> Duration;

    /// The Gateways of a namespace, or of all, with their status, in no order.
    fn gateways<'a>(&'a self, namespace: Option<&'a str>) -> Answer<'a, Vec<GatewayStatus>>;

    /// A namespace's labels; an error where there is no such namespace.
    fn namespace_labels<'a>(&'a self, namespace: &'a str) -> Answer<'a, Labels>;

    /// Makes a waypoint's Gateway, or changes the one of that name.
    fn apply<'a>(&'a self, gateway: &'a Spec) -> Answer<'a, ()>;

    /// The names of a namespace's waypoints, of one revision if that is not empty.
    fn waypoints<'a>(&'a self, namespace: &'a str, revision: &'a str) -> Answer<'a, Vec<String>>;

    /// Deletes a waypoint's Gateway; `false` when there is none of that name.
    fn delete<'a>(&'a self, namespace: &'a str, name: &'a str) -> Answer<'a, bool>;

    /// Sets a label of a namespace.
    fn label_namespace<'a>(
        &'a self,
        namespace: &'a str,
        label: &'a str,
        value: &'a str,
    ) -> Answer<'a, ()>;

    /// The proxy that `[<type>/]<name>[.<namespace>]` means. `admin_port` where ports are not known otherwise.
    fn proxy<'a>(&'a self, argument: &'a str, admin_port: u16) -> Answer<'a, Peer>;

    /// The replicas of the control plane, of one revision if one is given; at least one.
    fn control_planes<'a>(&'a self, revision: Option<&'a str>) -> Answer<'a, Vec<Peer>>;

    /// The node proxies that a selection means, by name.
    fn node_proxies<'a>(&'a self, selection: &'a NodeSelection) -> Answer<'a, Vec<Peer>>;

    /// What there is to be analysed, in a namespace or in all, for a control plane of that revision; of a cluster also what
    /// runs for waypoints.
    fn survey<'a>(
        &'a self,
        namespace: Option<&'a str>,
        revision: &'a str,
    ) -> Answer<'a, (Found, Option<Survey>)>;

    /// Asks a peer over HTTP.
    fn ask<'a>(
        &'a self,
        peer: &'a Peer,
        method: Method,
        path: &'a str,
    ) -> Answer<'a, (StatusCode, Bytes)>;
}

/// Somebody who can be asked over HTTP.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Peer {
    /// `<pod>.<namespace>`; of a control plane the name that tables show.
    pub(crate) name: String,
    /// What errors call it.
    pub(crate) title: String,
    pub(crate) at: At,
}

/// Where a peer is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum At {
    Address(SocketAddr),
    Pod(PodPort),
}

/// Which node proxies are meant.
#[derive(Debug, Clone, Default)]
pub(crate) struct NodeSelection {
    /// A node proxy, or a workload whose node's proxy is meant.
    pub(crate) pod: Option<String>,
    /// A node.
    pub(crate) node: Option<String>,
    pub(crate) admin_port: u16,
}

/// Finds the mesh that is meant.
///
/// A cluster when a flag of kubectl's says so; else the machine when a state directory is given; else a mesh that runs from
/// the default state directory, and the cluster of the kubeconfig when none does.
pub(crate) async fn open(
    global: &Global,
    err: &mut dyn Write,
) -> Result<Box<dyn MeshClient>, CliError> {
    if global.names_a_cluster() {
        return Ok(Box::new(Cluster::open(global).await?));
    }
    if global.state_dir.is_some() {
        return Ok(Box::new(LocalMesh::find(global)?));
    }
    let local = match LocalMesh::find(global) {
        // What a machine that went down has left behind is no mesh.
        Ok(mesh) if mesh.runs().await => Ok(mesh),
        Ok(mesh) => Err(CliError::NoMesh {
            state_dir: mesh.state_dir,
        }),
        Err(error) => Err(error),
    };
    let access = Access::Operator(global.operator());
    match (local, waymark_kubernetes::connect(&access).await) {
        (Ok(mesh), Err(_)) => Ok(Box::new(mesh)),
        (Ok(mesh), Ok(_)) => {
            let _ = writeln!(
                err,
                "The mesh is the one of this machine ({}); --context or --kubeconfig names a cluster.",
                mesh.state_dir.display()
            );
            Ok(Box::new(mesh))
        }
        (Err(_), Ok(client)) => Ok(Box::new(Cluster::new(client, global))),
        (Err(error), Err(ConnectError::NoCluster)) => Err(error),
        (Err(CliError::NoMesh { .. }), Err(error)) => Err(error.into()),
        (Err(error), Err(_)) => Err(error),
    }
}

/// Takes the answer of a path when it is a good one.
pub(crate) async fn get(mesh: &dyn MeshClient, peer: &Peer, path: &str) -> Result<Bytes, CliError> {
    good(peer, mesh.ask(peer, Method::GET, path).await?)
}

/// The body of an answer whose status is 200.
pub(crate) fn good(peer: &Peer, answer: (StatusCode, Bytes)) -> Result<Bytes, CliError> {
    match answer {
        (StatusCode::OK, body) => Ok(body),
        (status, _) => Err(CliError::Ask {
            target: peer.title.clone(),
            reason: format!("unexpected status code: {}", status.as_u16()),
        }),
    }
}

/// Takes the answer of a path as JSON.
pub(crate) async fn get_json(
    mesh: &dyn MeshClient,
    peer: &Peer,
    path: &str,
) -> Result<Value, CliError> {
    let body = get(mesh, peer, path).await?;
    serde_json::from_slice(&body)
        .map_err(|e| CliError::Data(format!("{}: /{path} is not JSON: {e}", peer.title)))
}

/// Reads a file, or standard input for `-`.
pub(crate) fn read_file(path: &Path) -> Result<Vec<u8>, CliError> {
    let read = if path == Path::new("-") {
        let mut bytes = Vec::new();
        std::io::Read::read_to_end(&mut std::io::stdin(), &mut bytes).map(|_| bytes)
    } else {
        std::fs::read(path)
    };
    read.map_err(|source| CliError::File {
        action: "read",
        path: path.to_owned(),
        source,
    })
}

/// An error and its causes, as one text.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

/// How long an answer may take.
const TIMEOUT: Duration = Duration::from_secs(15);
const MAX_BODY_BYTES: usize = 1 << 30;
/// Envoy's port for administration, and ztunnel's.
pub(crate) const ADMIN_PORT: u16 = 15000;
