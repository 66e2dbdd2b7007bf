//! The file: `{"nodes": {<node id>: {"node": {"metadata": ...}, "<Type>": {<name>: <resource>}}}}`, resources as JSON.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::{Map, Value};
use waymark_proto::envoy::google::protobuf::Any;
use waymark_proto::json::{JsonError, Unknown, value_to_any_with};
use waymark_proto::type_url;
use waymark_xds::{NodeId, NodeKind};

/// The types that a capture may have, by their short names.
const TYPES: [(&str, &str); 7] = [
    ("Cluster", type_url::CLUSTER),
    ("ClusterLoadAssignment", type_url::ENDPOINT),
    ("Listener", type_url::LISTENER),
    ("RouteConfiguration", type_url::ROUTE),
    ("Address", type_url::ADDRESS),
    ("Workload", type_url::WORKLOAD),
    ("Authorization", type_url::AUTHORIZATION),
];

/// What is said of a node beside its resources.
const ABOUT: [&str; 2] = ["node", "order"];

/// What was sent to the nodes of a mesh.
#[derive(Debug, Clone)]
pub struct Capture {
    nodes: BTreeMap<String, Arc<NodeResources>>,
    /// Whose resources everybody gets.
    forced: Option<String>,
}

/// What one node was sent, by type URL, in the order of the file.
#[derive(Debug, Clone, Default)]
pub(super) struct NodeResources {
    pub(super) types: BTreeMap<&'static str, Vec<(String, Any)>>,
    /// Namespace and service account.
    account: Option<(String, String)>,
}

/// Why a file cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum CaptureError {
    /// It cannot be read.
    #[error("read {path}", path = .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It is not JSON.
    #[error("{path}", path = .path.display())]
    Parse {
        /// The file.
        path: PathBuf,
        /// Where and why.
        source: serde_json::Error,
    },
    /// It has not the form of a capture.
    #[error("{path}: {what}", path = .path.display())]
    Form {
        /// The file.
        path: PathBuf,
        /// What is not as it should be.
        what: String,
    },
    /// A resource is not one.
    #[error("{path}: {node}: {kind} {name}", path = .path.display())]
    Resource {
        /// The file.
        path: PathBuf,
        /// The node's id.
        node: String,
        /// Short name of the type.
        kind: String,
        /// The resource.
        name: String,
        /// Why.
        source: Box<JsonError>,
    },
    /// There is no such node.
    #[error("{path} has no node {node}, only {}", nodes.join(", "), path = .path.display())]
    NoNode {
        /// The file.
        path: PathBuf,
        /// What was asked for.
        node: String,
        /// What there is.
        nodes: Vec<String>,
    },
}

impl Capture {
    /// Reads a file; the texts say what of it is left out.
    ///
    /// # Errors
    /// See [`CaptureError`].
    pub fn read(path: &Path, node: Option<&str>) -> Result<(Self, Vec<String>), CaptureError> {
        let text = fs::read_to_string(path).map_err(|source| CaptureError::Read {
            path: path.to_owned(),
            source,
        })?;
        let value = serde_json::from_str(&text).map_err(|source| CaptureError::Parse {
            path: path.to_owned(),
            source,
        })?;
        Self::of(path, &value, node)
    }

    /// Takes the JSON of a file; `path` is for errors.
    pub(super) fn of(
        path: &Path,
        value: &Value,
        node: Option<&str>,
    ) -> Result<(Self, Vec<String>), CaptureError> {
        let form = |what: &str| CaptureError::Form {
            path: path.to_owned(),
            what: what.to_owned(),
        };
        let all = value["nodes"]
            .as_object()
            .ok_or_else(|| form("no object \"nodes\""))?;
        let mut skipped = Vec::new();
        let mut nodes = BTreeMap::new();
        for (id, value) in all {
            let value = value
                .as_object()
                .ok_or_else(|| form(&format!("node {id} is not an object")))?;
            let resources = NodeResources::of(path, id, value, &mut skipped)?;
            nodes.insert(id.clone(), Arc::new(resources));
        }
        if let Some(node) = node.filter(|node| !nodes.contains_key(*node)) {
            return Err(CaptureError::NoNode {
                path: path.to_owned(),
                node: node.to_owned(),
                nodes: nodes.into_keys().collect(),
            });
        }
        let forced = node.map(str::to_owned);
        Ok((Self { nodes, forced }, skipped))
    }

    /// What a client is given: of the node that was asked for, of the node that it is, of the one waypoint of its
    /// namespace, or of the one waypoint that there is.
    pub(super) fn of_client(&self, client: &str) -> Result<(String, Arc<NodeResources>), String> {
        let found = |id: &str| Some((id.to_owned(), Arc::clone(self.nodes.get(id)?)));
        if let Some(exact) = found(self.forced.as_deref().unwrap_or(client)) {
            return Ok(exact);
        }
        let client: NodeId = client.parse().map_err(|e| format!("{e}"))?;
        let of_kind: Vec<(&str, NodeId)> = self
            .nodes
            .keys()
            .filter_map(|id| Some((id.as_str(), id.parse::<NodeId>().ok()?)))
            .filter(|(_, id)| id.kind == client.kind)
            .collect();
        let near: Vec<&str> = of_kind
            .iter()
            .filter(|(_, id)| id.namespace() == client.namespace())
            .map(|(id, _)| *id)
            .collect();
        let one = match (near.as_slice(), of_kind.as_slice()) {
            ([one], _) | (_, [(one, _)]) => found(one),
            _ => None,
        };
        one.ok_or_else(|| {
            let ids: Vec<&str> = self.nodes.keys().map(String::as_str).collect();
            format!(
                "node {client} is not in the capture, which has {}",
                ids.join(", ")
            )
        })
    }

    /// Id, namespace and service account of the waypoints.
    pub(super) fn accounts(&self) -> impl Iterator<Item = (&str, &str, &str)> {
        self.nodes.iter().filter_map(|(id, node)| {
            let kind = id.parse::<NodeId>().ok()?.kind;
            let (namespace, account) = node.account.as_ref()?;
            (kind == NodeKind::Waypoint).then_some((
                id.as_str(),
                namespace.as_str(),
                account.as_str(),
            ))
        })
    }
}

impl NodeResources {
    fn of(
        path: &Path,
        id: &str,
        value: &Map<String, Value>,
        skipped: &mut Vec<String>,
    ) -> Result<Self, CaptureError> {
        let metadata = &value.get("node").unwrap_or(&Value::Null)["metadata"];
        let text = |key: &str| metadata[key].as_str().map(str::to_owned);
        let mut resources = Self {
            types: BTreeMap::new(),
            account: text("NAMESPACE").zip(text("SERVICE_ACCOUNT")),
        };
        for (kind, values) in value
            .iter()
            .filter(|(key, _)| !ABOUT.contains(&key.as_str()))
        {
            let Some((_, type_url)) = TYPES.iter().find(|(short, _)| short == kind) else {
                skipped.push(format!("{id}: {kind}: no type of resources"));
                continue;
            };
            let list = resources.types.entry(*type_url).or_default();
            for (name, value) in values.as_object().into_iter().flatten() {
                let mut value = value.clone();
                if let Some(object) = value.as_object_mut().filter(|o| !o.contains_key("@type")) {
                    object.insert("@type".to_owned(), Value::from(*type_url));
                }
                let resource = |unknown| {
                    value_to_any_with::<Any>(&value, unknown).map_err(|source| {
                        CaptureError::Resource {
                            path: path.to_owned(),
                            node: id.to_owned(),
                            kind: kind.clone(),
                            name: name.clone(),
                            source: Box::new(source),
                        }
                    })
                };
                let any = match resource(Unknown::Refuse) {
                    Ok(any) => any,
                    Err(CaptureError::Resource { source, .. }) => {
                        let any = resource(Unknown::Ignore)?;
                        skipped.push(format!("{id}: {kind} {name}: {source}"));
                        any
                    }
                    Err(error) => return Err(error),
                };
                list.push((name.clone(), any));
            }
        }
        Ok(resources)
    }
}

/// Short name of a type.
pub(super) fn short(type_url: &str) -> &str {
    let short = TYPES.iter().find(|(_, url)| *url == type_url);
    short.map_or_else(
        || type_url.rsplit('.').next().unwrap_or(type_url),
        |(short, _)| short,
    )
}
