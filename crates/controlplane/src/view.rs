//! What the debug endpoints show. Spec: control-plane.md 15.1; `mesh`, `distribution` and `status` are ours.

mod config_dump;

use std::sync::Arc;
use std::time::SystemTime;

use arc_swap::ArcSwap;
use serde_json::{Map, Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use waymark_api::meta::Kind;
use waymark_api::{ErrorClass, Resource, names};
use waymark_proto::json::{JsonStyle, message_to_value};
use waymark_proto::type_url;
use waymark_xds::server::{ConnectionStatus, Registry, TypeStatus};
use waymark_xds::{Encoded, NodeId, NodeKind};

use crate::ca::CaMetrics;
use crate::core::{Core, Inner};
use crate::debug::{DebugView, DumpQuery, NoSuchProxy};
use crate::distribution;
use crate::index::service::Registry as Declared;
use crate::index::workload::Workload;
use crate::serve;
use crate::status::Status;

/// Everything there is to show.
#[derive(Debug)]
pub struct ControlPlane {
    core: Arc<Core>,
    registry: Registry,
    ca: Arc<CaMetrics>,
    status: ArcSwap<Status>,
}

impl ControlPlane {
    /// Shows what the core knows, who is connected, and what the CA counts.
    pub fn new(core: Arc<Core>, registry: Registry, ca: Arc<CaMetrics>) -> Self {
        Self {
            core,
            registry,
            ca,
            status: ArcSwap::default(),
        }
    }

    /// Sets the status that is shown: the one that was written.
    pub fn set_status(&self, status: Status) {
        self.status.store(Arc::new(status));
    }

    fn connections_of(&self, proxy: Option<&str>) -> Vec<(ConnectionStatus, Option<NodeId>)> {
        let connections = self.registry.connections().into_iter();
        connections
            .map(|connection| {
                let id = connection.client.node_id.parse::<NodeId>().ok();
                (connection, id)
            })
            .filter(|(_, id)| {
                proxy.is_none_or(|proxy| id.as_ref().is_some_and(|id| id.proxy == proxy))
            })
            .collect()
    }
}

impl DebugView for ControlPlane {
    fn ready(&self) -> Result<(), String> {
        if self.core.is_ready() {
            Ok(())
        } else {
            Err("the mesh directory has not been read yet".to_owned())
        }
    }

    fn version(&self) -> Value {
        json!({"version": env!("CARGO_PKG_VERSION"), "component": "waymark-controlplane"})
    }

    fn metrics(&self, out: &mut String) {
        self.core.metrics().write(out, &self.registry);
        self.ca.write(out, SystemTime::now());
    }

    fn syncz(&self, namespace: Option<&str>) -> Value {
        let connections = self.connections_of(None).into_iter();
        connections
            .filter_map(|(connection, id)| Some((connection, id?)))
            .filter(|(connection, id)| {
                namespace.is_none_or(|namespace| {
                    serve::namespace_of(&connection.client, id) == namespace
                })
            })
            .map(|(connection, id)| sync_status(&connection, &id))
            .collect()
    }

    fn config_dump(&self, dump: &DumpQuery<'_>) -> Result<Value, NoSuchProxy> {
        let (connection, id) = self
            .connections_of(Some(dump.proxy))
            .into_iter()
            .next()
            .ok_or(NoSuchProxy)?;
        let kind = id.ok_or(NoSuchProxy)?.kind;
        let configs = self.core.read(|inner| match kind {
            NodeKind::Waypoint => {
                let set = serve::resources_of(inner, &connection.client)?;
                Some(config_dump::envoy(set, dump))
            }
            NodeKind::Ztunnel => Some(config_dump::addresses(inner.index.addresses())),
            NodeKind::Sidecar | NodeKind::Router | NodeKind::AgentGateway => None,
        });
        Ok(json!({"configs": configs.ok_or(NoSuchProxy)?}))
    }

    fn adsz(&self, proxy: Option<&str>) -> Value {
        let clients: Vec<Value> = self
            .connections_of(proxy)
            .into_iter()
            .map(|(connection, _)| {
                let watches: Map<String, Value> = connection
                    .types
                    .iter()
                    .map(|(type_url, status)| {
                        let watch = json!({
                            "wildcard": status.wildcard,
                            "names": status.names,
                            "resources": status.resources,
                        });
                        (type_url.to_string(), watch)
                    })
                    .collect();
                json!({
                    "connectionId": connection.id,
                    "connectedAt": rfc3339(connection.connected_at),
                    "address": connection.client.peer.map(|peer| peer.to_string()),
                    "identity": connection.client.identity,
                    "watches": watches,
                })
            })
            .collect();
        json!({"totalClients": clients.len(), "clients": clients})
    }

    fn connections(&self) -> Value {
        let clients: Vec<Value> = self
            .registry
            .connections()
            .iter()
            .map(|connection| {
                let address = connection.client.peer.map(|peer| peer.to_string());
                json!({"connectionId": connection.id, "address": address})
            })
            .collect();
        json!({"totalClients": clients.len(), "clients": clients})
    }

    fn ambientz(&self) -> Value {
        let (addresses, workloads) = self.core.read(|inner| {
            (
                inner.index.addresses().clone(),
                inner.index.workload_resources().clone(),
            )
        });
        let shown = |full_name: &str, value: &[u8]| {
            message_to_value(full_name, value, JsonStyle::Camel).unwrap_or_default()
        };
        let services = addresses
            .iter()
            .filter(|resource| workloads.get(resource.name()).is_none())
            .collect();
        let services: Vec<Value> = sorted(services)
            .into_iter()
            .map(|resource| shown("istio.workload.Address", resource.value())["service"].take())
            .collect();
        let workloads: Vec<Value> = sorted(workloads.iter().collect())
            .into_iter()
            .map(|resource| shown("istio.workload.Workload", resource.value()))
            .collect();
        json!({"workloads": workloads, "services": services, "policies": []})
    }

    fn configz(&self) -> Value {
        self.core.read(|inner| {
            let store = inner.facts.store();
            store
                .iter()
                .map(|(key, object)| {
                    let place = inner.place(key);
                    json!({
                        "kind": key.kind.as_str(),
                        "namespace": key.namespace,
                        "name": key.name,
                        "creationTimestamp": object.meta().creation_timestamp.map(|at| at.to_string()),
                        "file": place.map(|place| &place.file),
                        "line": place.map(|place| place.line),
                    })
                })
                .collect()
        })
    }

    fn distribution(&self) -> Value {
        let report = self
            .core
            .read(|inner| distribution::report(&inner.index, Some(&self.registry)));
        serde_json::to_value(report).unwrap_or_default()
    }

    fn status(&self) -> Value {
        serde_json::to_value(&**self.status.load()).unwrap_or_default()
    }

    fn mesh(&self) -> Value {
        self.core.read(mesh)
    }
}

/// One connection as istiod shows it.
fn sync_status(connection: &ConnectionStatus, id: &NodeId) -> Value {
    let metadata = |key: &str| serve::metadata_text(&connection.client, key).unwrap_or_default();
    // Proxies of ours say which release of ours they are.
    let version = ["ISTIO_VERSION", "WAYMARK_VERSION"]
        .map(metadata)
        .into_iter()
        .find(|version| !version.is_empty())
        .unwrap_or_default();
    let mut status = json!({
        "cluster_id": metadata("CLUSTER_ID"),
        "proxy": id.proxy,
        "proxy_type": id.kind.as_str(),
        "istio_version": version,
    });
    let of = |type_url: &str| connection.types.get(type_url);
    for (prefix, type_url) in [
        ("cluster", type_url::CLUSTER),
        ("listener", type_url::LISTENER),
        ("route", type_url::ROUTE),
        ("endpoint", type_url::ENDPOINT),
        ("extensionconfig", type_url::EXTENSION_CONFIG),
    ] {
        if let Some(state) = of(type_url) {
            status[format!("{prefix}_sent")] = json!(state.nonce_sent);
            status[format!("{prefix}_acked")] = json!(state.nonce_acked);
        }
    }
    let resources: Map<String, Value> = connection
        .types
        .iter()
        .map(|(type_url, state)| (type_url.to_string(), type_status(state)))
        .collect();
    status["resources"] = Value::Object(resources);
    status
}

fn type_status(state: &TypeStatus) -> Value {
    let mut status = json!({"sent": state.nonce_sent, "acked": state.nonce_acked});
    // A version begins with the time of the change that it is of.
    if let Some((at, _)) = state.version_sent.split_once('/') {
        status["sentTime"] = json!(at);
    }
    if let Some(error) = &state.last_error {
        status["lastError"] = json!(error);
    }
    status
}

/// What the mesh consists of, with the addresses that were given: what `waymark up` starts pods from.
fn mesh(inner: &Inner) -> Value {
    let pods: Vec<Value> = inner
        .facts
        .store()
        .of_kind(Kind::Pod)
        .filter_map(|(key, object)| match object {
            Resource::Pod(pod) => {
                let uid = crate::index::key::Uid::pod(
                    &inner.index.mesh().cluster_id,
                    key.namespace.as_deref().unwrap_or_default(),
                    &key.name,
                );
                Some(mesh_pod(pod, inner.index.workload(&uid)?))
            }
            _ => None,
        })
        .collect();
    let services: Vec<Value> = inner
        .index
        .services()
        .filter(|service| !matches!(service.registry, Declared::Waypoint(_)))
        .map(|service| {
            let ports: Vec<Value> = service
                .ports
                .iter()
                .map(|port| json!({"name": port.name, "port": port.number, "protocol": port.protocol.as_str()}))
                .collect();
            json!({
                "namespace": &*service.key.namespace,
                "name": &*service.name,
                "host": &*service.key.host,
                "vip": service.vips.first().map(|vip| vip.addr()),
                "ports": ports,
            })
        })
        .collect();
    let waypoints: Vec<Value> = crate::status::gateways(inner)
        .into_iter()
        .filter(|gateway| !gateway.deployment.is_empty())
        .map(|gateway| {
            let replicas: Vec<Value> = gateway
                .replicas
                .iter()
                .map(|replica| {
                    json!({
                        "name": replica.name,
                        "address": replica.address,
                        "admin": replica.admin,
                        "pid": replica.pid,
                        "state": replica.state,
                        "ready": replica.state == "Ready",
                    })
                })
                .collect();
            json!({
                "namespace": gateway.namespace,
                "name": gateway.name,
                "deployment": gateway.deployment,
                "serviceAccount": gateway.service_account,
                "replicas": replicas,
            })
        })
        .collect();
    let (not_read, errors): (Vec<_>, Vec<_>) = inner
        .document_errors()
        .into_iter()
        .partition(|error| error.class == ErrorClass::NotRead);
    let texts = |errors: Vec<waymark_api::DocumentError>| -> Vec<String> {
        errors.iter().map(ToString::to_string).collect()
    };
    json!({
        "pods": pods,
        "services": services,
        "waypoints": waypoints,
        "errors": texts(errors),
        "notRead": texts(not_read),
    })
}

fn mesh_pod(pod: &waymark_api::k8s::Pod, workload: &Workload) -> Value {
    let ip = workload.addresses.first();
    json!({
        "namespace": pod.meta.namespace,
        "name": pod.meta.name,
        "serviceAccount": pod.spec.service_account_name,
        "ip": ip,
        "appAddress": workload.application_address.as_ref().or(ip),
        "command": pod.meta.annotation(names::COMMAND),
        "labels": pod.meta.labels,
        "ports": workload.declared_ports,
        "env": pod.local.env,
    })
}

fn sorted(mut resources: Vec<&Arc<Encoded>>) -> Vec<&Arc<Encoded>> {
    resources.sort_by(|a, b| a.name().cmp(b.name()));
    resources
}

fn rfc3339(at: SystemTime) -> String {
    OffsetDateTime::from(at)
        .format(&Rfc3339)
        .unwrap_or_default()
}
