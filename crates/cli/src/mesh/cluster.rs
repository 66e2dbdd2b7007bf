//! A mesh in a Kubernetes cluster: its resources at the API server, its proxies and control planes behind port-forwards.

use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body_util::Full;
use kube::api::{
    Api, ApiResource, DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams,
};
use kube::{Client, ResourceExt};
use serde_json::{Value, json};
use waymark_api::names;
use waymark_api::waypoint::WaypointClass;
use waymark_kubernetes::port_forward::{self, PodPort, PortForwardError};
use waymark_kubernetes::survey::{Survey, survey};
use waymark_kubernetes::{Access, connect};

use super::{
    ADMIN_PORT, Answer, At, Labels, MAX_BODY_BYTES, MeshClient, NodeSelection, Peer, TIMEOUT,
    chain, kinds,
};
use crate::Global;
use crate::analyze::examine::Found;
use crate::error::CliError;
use crate::target::{self, Kind};
use crate::waypoint::gateway::Spec;
use crate::waypoint::status::GatewayStatus;

/// A cluster, by a client of its API server.
pub(crate) struct Cluster {
    client: Client,
    namespace: String,
    istio_namespace: String,
}

impl Cluster {
    pub(crate) async fn open(global: &Global) -> Result<Self, CliError> {
        let client = connect(&Access::Operator(global.operator())).await?;
        Ok(Self::new(client, global))
    }

    pub(super) fn new(client: Client, global: &Global) -> Self {
        let namespace = global.namespace.clone();
        Self {
            namespace: namespace.unwrap_or_else(|| client.default_namespace().to_owned()),
            istio_namespace: global.istio_namespace.clone(),
            client,
        }
    }

    /// The objects of a kind, of a namespace or of all.
    pub(crate) async fn list(
        &self,
        kind: &ApiResource,
        namespace: Option<&str>,
        params: &ListParams,
    ) -> Result<Vec<Value>, kube::Error> {
        let api: Api<DynamicObject> = match namespace {
            Some(namespace) => Api::namespaced_with(self.client.clone(), namespace, kind),
            None => Api::all_with(self.client.clone(), kind),
        };
        let mut objects = Vec::new();
        let mut params = params.clone().limit(PAGE);
        loop {
            let page = in_time(api.list(&params)).await?;
            params.continue_token = page.metadata.continue_.filter(|token| !token.is_empty());
            objects.extend(page.items.iter().map(as_value));
            if params.continue_token.is_none() {
                return Ok(objects);
            }
        }
    }

    fn gateway_api(&self, namespace: &str, version: &str) -> Api<DynamicObject> {
        let kind = kinds::gateways(version);
        Api::namespaced_with(self.client.clone(), namespace, &kind)
    }

    fn namespace_api(&self) -> Api<DynamicObject> {
        Api::all_with(self.client.clone(), &kinds::namespaces())
    }

    async fn pods(&self, namespace: &str, params: &ListParams) -> Result<Vec<Value>, CliError> {
        self.list(&kinds::of_kind(Kind::Pod), Some(namespace), params)
            .await
            .map_err(|e| failed(format!("list pods in namespace {namespace}"), &e))
    }

    /// The pod that `kubectl logs` would choose of those that the object means.
    async fn pod_of(
        &self,
        argument: &str,
        reference: &target::Reference<'_>,
        namespace: &str,
    ) -> Result<String, CliError> {
        if reference.kind == Kind::Pod {
            return Ok(reference.name.to_owned());
        }
        let kind = kinds::of_kind(reference.kind);
        let api: Api<DynamicObject> = Api::namespaced_with(self.client.clone(), namespace, &kind);
        let object = in_time(api.get(reference.name)).await.map_err(|e| {
            CliError::NotFound(format!(
                "failed retrieving: {} in the \"{namespace}\" namespace",
                said(&e)
            ))
        })?;
        let selector = selector(reference.kind, &as_value(&object));
        let mut pods = match &selector {
            Some(selector) => {
                self.pods(namespace, &ListParams::default().labels(selector))
                    .await?
            }
            None => Vec::new(),
        };
        pods.sort_by_key(preference);
        match pods
            .first()
            .and_then(|pod| pod["metadata"]["name"].as_str())
        {
            Some(name) => Ok(name.to_owned()),
            None if reference.kind == Kind::Gateway
                && object.data["spec"]["addresses"].is_array() =>
            {
                Err(CliError::NotFound(
                    "gateway is not a managed gateway".into(),
                ))
            }
            None => Err(CliError::NotFound(format!("no pods match \"{argument}\""))),
        }
    }

    async fn find_control_planes(&self, revision: Option<&str>) -> Result<Vec<Peer>, CliError> {
        let mut selector = CONTROL_PLANE.to_owned();
        if let Some(revision) = revision.filter(|r| !r.is_empty()) {
            selector.push_str(&format!(",{}={revision}", names::REVISION));
        }
        let params = ListParams::default()
            .labels(&selector)
            .fields("status.phase=Running");
        let mut pods = self.pods(&self.istio_namespace, &params).await?;
        pods.sort_by_key(|pod| pod["metadata"]["name"].as_str().map(str::to_owned));
        if pods.is_empty() {
            return Err(CliError::NoControlPlane {
                namespace: self.istio_namespace.clone(),
            });
        }
        Ok(pods
            .iter()
            .map(|pod| {
                let port = pod["metadata"]["annotations"]["prometheus.io/port"]
                    .as_str()
                    .and_then(|port| port.parse().ok())
                    .unwrap_or(DEBUG_PORT);
                let name = text(&pod["metadata"]["name"]);
                Peer {
                    title: format!("{name}.{}", self.istio_namespace),
                    at: self.at(&self.istio_namespace, &name, port),
                    name,
                }
            })
            .collect())
    }

    /// The node proxy that is named, or that of the node that the workload is on.
    async fn node_proxy_of(&self, argument: &str, port: u16) -> Result<Vec<Peer>, CliError> {
        let reference = target::parse(argument)?;
        let namespace = reference.namespace.unwrap_or(&self.namespace);
        let name = self.pod_of(argument, &reference, namespace).await?;
        let api: Api<DynamicObject> =
            Api::namespaced_with(self.client.clone(), namespace, &kinds::of_kind(Kind::Pod));
        let pod = match in_time(api.get(&name)).await {
            Ok(pod) => pod,
            // Who may not read pods may still name a node proxy.
            Err(_) if name.starts_with("ztunnel") => {
                return Ok(vec![self.node_peer(namespace, &name, port)]);
            }
            Err(e) => return Err(failed(format!("read pod {namespace}/{name}"), &e)),
        };
        let app = pod.labels().get("app");
        let is_node_proxy = match app {
            Some(app) => NODE_PROXIES.contains(&app.as_str()),
            None => name.starts_with("ztunnel"),
        };
        if is_node_proxy {
            return Ok(vec![self.node_peer(namespace, &name, port)]);
        }
        let Some(node) = pod.data["spec"]["nodeName"].as_str() else {
            return Err(CliError::NotFound(format!(
                "pod {name}.{namespace} is not scheduled to a node"
            )));
        };
        let found = self.node_proxies_on(Some(node), port).await?;
        if found.is_empty() {
            return Err(CliError::NotFound(format!(
                "failed to find ztunnel on node {node} for pod {name}.{namespace}: no pods match app in ({})",
                NODE_PROXIES.join(", ")
            )));
        }
        Ok(found)
    }

    async fn node_proxies_on(&self, node: Option<&str>, port: u16) -> Result<Vec<Peer>, CliError> {
        let mut params =
            ListParams::default().labels(&format!("app in ({})", NODE_PROXIES.join(",")));
        if let Some(node) = node {
            params = params.fields(&format!("spec.nodeName={node}"));
        }
        let mut pods = self.pods(&self.istio_namespace, &params).await?;
        pods.sort_by_key(|pod| text(&pod["metadata"]["name"]));
        Ok(pods
            .iter()
            .map(|pod| self.node_peer(&self.istio_namespace, &text(&pod["metadata"]["name"]), port))
            .collect())
    }

    fn node_peer(&self, namespace: &str, pod: &str, port: u16) -> Peer {
        Peer {
            name: format!("{pod}.{namespace}"),
            title: format!("{pod}.{namespace} Ztunnel"),
            at: self.at(namespace, pod, port),
        }
    }

    fn at(&self, namespace: &str, pod: &str, port: u16) -> At {
        At::Pod(PodPort {
            namespace: namespace.to_owned(),
            pod: pod.to_owned(),
            port,
        })
    }
}

impl MeshClient for Cluster {
    fn namespace(&self) -> &str {
        &self.namespace
    }

    fn poll_interval(&self) -> Duration {
        Duration::from_secs(1)
    }

    fn gateways<'a>(&'a self, namespace: Option<&'a str>) -> Answer<'a, Vec<GatewayStatus>> {
        Box::pin(async move {
            let listed = self
                .list(&kinds::gateways("v1"), namespace, &ListParams::default())
                .await
                .map_err(|e| without_crds("list Gateways", &e))?;
            Ok(listed.iter().filter_map(GatewayStatus::of).collect())
        })
    }

    fn namespace_labels<'a>(&'a self, namespace: &'a str) -> Answer<'a, Labels> {
        Box::pin(async move {
            match in_time(self.namespace_api().get(namespace)).await {
                Ok(found) => Ok(found.labels().clone()),
                Err(e) if is_missing(&e) => Err(CliError::NotFound(format!(
                    "namespace: {namespace} not found"
                ))),
                Err(e) => Err(failed(format!("failed to get namespace {namespace}"), &e)),
            }
        })
    }

    fn apply<'a>(&'a self, gateway: &'a Spec) -> Answer<'a, ()> {
        Box::pin(async move {
            let object = gateway.object();
            let api = self.gateway_api(gateway.namespace(), gateway.version());
            let params = PatchParams::apply(FIELD_MANAGER);
            in_time(api.patch(gateway.name(), &params, &Patch::Apply(object)))
                .await
                .map_err(|e| without_crds("failed to apply the waypoint", &e))?;
            Ok(())
        })
    }

    fn waypoints<'a>(&'a self, namespace: &'a str, revision: &'a str) -> Answer<'a, Vec<String>> {
        Box::pin(async move {
            let mut params = ListParams::default();
            if !revision.is_empty() {
                params = params.labels(&format!("{}={revision}", names::REVISION));
            }
            let listed = self
                .list(&kinds::gateways("v1"), Some(namespace), &params)
                .await
                .map_err(|e| without_crds("list Gateways", &e))?;
            let mut names: Vec<String> = listed
                .iter()
                .filter_map(|gateway| Some(GatewayStatus::of(gateway)?.name))
                .collect();
            names.sort();
            Ok(names)
        })
    }

    fn delete<'a>(&'a self, namespace: &'a str, name: &'a str) -> Answer<'a, bool> {
        Box::pin(async move {
            let api = self.gateway_api(namespace, "v1");
            let doing = || format!("delete Gateway {namespace}/{name}");
            let found = match in_time(api.get(name)).await {
                Ok(found) => found,
                Err(e) if is_missing(&e) => return Ok(false),
                Err(e) => return Err(failed(doing(), &e)),
            };
            let class = found.data["spec"]["gatewayClassName"].as_str();
            if class.and_then(WaypointClass::of_name).is_none() {
                return Ok(false);
            }
            match in_time(api.delete(name, &DeleteParams::default())).await {
                Ok(_) => Ok(true),
                Err(e) if is_missing(&e) => Ok(false),
                Err(e) => Err(failed(doing(), &e)),
            }
        })
    }

    fn label_namespace<'a>(
        &'a self,
        namespace: &'a str,
        label: &'a str,
        value: &'a str,
    ) -> Answer<'a, ()> {
        Box::pin(async move {
            let doing = || {
                format!(
                    "failed to label namespace with waypoint: failed to update namespace {namespace}"
                )
            };
            let api = self.namespace_api();
            // An update, as upstream: what somebody else changed in between is an error, and is asked for again.
            for _ in 0..ATTEMPTS {
                let mut found = in_time(api.get(namespace))
                    .await
                    .map_err(|e| failed(doing(), &e))?;
                found
                    .labels_mut()
                    .insert(label.to_owned(), value.to_owned());
                let params = PostParams {
                    field_manager: Some(FIELD_MANAGER.into()),
                    ..PostParams::default()
                };
                match in_time(api.replace(namespace, &params, &found)).await {
                    Ok(_) => return Ok(()),
                    Err(kube::Error::Api(status)) if status.code == 409 => {}
                    Err(e) => return Err(failed(doing(), &e)),
                }
            }
            Err(CliError::Api {
                action: doing(),
                reason: "it is changed again and again".into(),
            })
        })
    }

    fn proxy<'a>(&'a self, argument: &'a str, admin_port: u16) -> Answer<'a, Peer> {
        Box::pin(async move {
            let reference = target::parse(argument)?;
            let namespace = reference.namespace.unwrap_or(&self.namespace);
            let pod = self.pod_of(argument, &reference, namespace).await?;
            Ok(Peer {
                name: format!("{pod}.{namespace}"),
                title: format!("{pod}.{namespace}"),
                at: self.at(namespace, &pod, admin_port),
            })
        })
    }

    fn control_planes<'a>(&'a self, revision: Option<&'a str>) -> Answer<'a, Vec<Peer>> {
        Box::pin(self.find_control_planes(revision))
    }

    fn node_proxies<'a>(&'a self, selection: &'a NodeSelection) -> Answer<'a, Vec<Peer>> {
        Box::pin(async move {
            let port = match selection.admin_port {
                0 => ADMIN_PORT,
                port => port,
            };
            if let Some(argument) = &selection.pod {
                return self.node_proxy_of(argument, port).await;
            }
            let found = self
                .node_proxies_on(selection.node.as_deref(), port)
                .await?;
            if found.is_empty() {
                let on = selection
                    .node
                    .as_ref()
                    .map_or_else(String::new, |node| format!(" on node {node}"));
                return Err(CliError::NotFound(format!(
                    "no node proxies (app in ({})) in the \"{}\" namespace{on}",
                    NODE_PROXIES.join(", "),
                    self.istio_namespace
                )));
            }
            Ok(found)
        })
    }

    fn survey<'a>(
        &'a self,
        namespace: Option<&'a str>,
        revision: &'a str,
    ) -> Answer<'a, (Found, Option<Survey>)> {
        Box::pin(async move {
            let survey = survey(&self.client, namespace, revision).await;
            let found = Found {
                objects: survey.objects.iter().map(|o| (o.clone(), None)).collect(),
                errors: survey.errors.clone(),
            };
            Ok((found, Some(survey)))
        })
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
            let At::Pod(pod) = &peer.at else {
                return Err(failed("it is not in the cluster".into()));
            };
            let request = Request::builder()
                .method(method)
                .uri(format!("/{}", path.trim_start_matches('/')))
                .header(http::header::HOST, "localhost")
                .body(Full::default())
                .map_err(|e| failed(e.to_string()))?;
            let asking = port_forward::ask(&self.client, pod, request, MAX_BODY_BYTES);
            match tokio::time::timeout(TIMEOUT, asking).await {
                Ok(Ok(answer)) => Ok((answer.status(), answer.into_body())),
                Ok(Err(PortForwardError::Open { to, source })) => Err(failed(format!(
                    "failure running port forward process: {to}: {}",
                    said(&source)
                ))),
                Ok(Err(error)) => Err(failed(chain(&error))),
                Err(_) => Err(failed(format!("no answer within {} s", TIMEOUT.as_secs()))),
            }
        })
    }
}

async fn in_time<T>(
    request: impl Future<Output = Result<T, kube::Error>>,
) -> Result<T, kube::Error> {
    tokio::time::timeout(TIMEOUT, request)
        .await
        .unwrap_or_else(|_| Err(kube::Error::Service("no answer in time".into())))
}

/// What the API server said: it names the user and the verb where one is missing.
pub(crate) fn said(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => status.message.clone(),
        other => chain(other),
    }
}

fn failed(action: String, error: &kube::Error) -> CliError {
    CliError::Api {
        action,
        reason: said(error),
    }
}

/// As [`failed`], with the reason of most who are told that there is no such kind.
fn without_crds(action: &str, error: &kube::Error) -> CliError {
    let action = if is_missing(error) {
        "missing Kubernetes Gateway CRDs need to be installed before applying a waypoint"
    } else {
        action
    };
    failed(action.to_owned(), error)
}

fn is_missing(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 404)
}

fn as_value(object: &DynamicObject) -> Value {
    serde_json::to_value(object).unwrap_or_default()
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

/// The label selector of an object's pods; `None` when it selects none.
fn selector(kind: Kind, object: &Value) -> Option<String> {
    if kind == Kind::Gateway {
        let name = object["metadata"]["name"].as_str()?;
        return Some(format!("{}={name}", names::GATEWAY_NAME));
    }
    let selector = &object["spec"]["selector"];
    let (labels, expressions) = if kind == Kind::Service {
        (selector.as_object(), None)
    } else {
        (
            selector["matchLabels"].as_object(),
            selector["matchExpressions"].as_array(),
        )
    };
    let mut parts: Vec<String> = labels
        .into_iter()
        .flatten()
        .filter_map(|(key, value)| Some(format!("{key}={}", value.as_str()?)))
        .collect();
    parts.extend(expressions.into_iter().flatten().filter_map(expression));
    (!parts.is_empty()).then(|| parts.join(","))
}

fn expression(expression: &Value) -> Option<String> {
    let key = expression["key"].as_str()?;
    let values: Vec<&str> = expression["values"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    let values = values.join(",");
    Some(match expression["operator"].as_str()? {
        "In" => format!("{key} in ({values})"),
        "NotIn" => format!("{key} notin ({values})"),
        "Exists" => key.to_owned(),
        _ => format!("!{key}"),
    })
}

/// Smaller is better: scheduled, running, ready, fewer restarts, younger; then by name.
fn preference(pod: &Value) -> impl Ord + use<> {
    let status = &pod["status"];
    let ready = status["conditions"]
        .as_array()
        .into_iter()
        .flatten()
        .any(|c| c["type"] == "Ready" && c["status"] == "True");
    let restarts: u64 = status["containerStatuses"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|c| c["restartCount"].as_u64())
        .sum();
    (
        pod["spec"]["nodeName"].is_null(),
        status["phase"] != json!("Running"),
        !ready,
        restarts,
        std::cmp::Reverse(text(&pod["metadata"]["creationTimestamp"])),
        text(&pod["metadata"]["name"]),
    )
}

const PAGE: u32 = 500;
/// Upstream's name, so that what istioctl has applied can be changed by us, and the other way round.
const FIELD_MANAGER: &str = "istioctl";
/// How often an update is tried that somebody else was faster than.
const ATTEMPTS: usize = 5;
const CONTROL_PLANE: &str = "app=istiod";
const DEBUG_PORT: u16 = 15014;
/// Label `app` of node proxies: upstream's and ours.
const NODE_PROXIES: [&str; 2] = ["ztunnel", "waymark-node"];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pods_are_found_as_their_owners_select_them() {
        let set = json!({"spec": {"selector": {
            "matchLabels": {"app": "a", "v": "1"},
            "matchExpressions": [
                {"key": "x", "operator": "In", "values": ["1", "2"]},
                {"key": "y", "operator": "DoesNotExist"}]}}});
        assert_eq!(
            selector(Kind::Deployment, &set).as_deref(),
            Some("app=a,v=1,x in (1,2),!y")
        );
        let service = json!({"spec": {"selector": {"app": "a"}}});
        assert_eq!(selector(Kind::Service, &service).as_deref(), Some("app=a"));
        assert_eq!(selector(Kind::Service, &json!({"spec": {}})), None);
        let gateway = json!({"metadata": {"name": "w"}});
        assert_eq!(
            selector(Kind::Gateway, &gateway).as_deref(),
            Some("gateway.networking.k8s.io/gateway-name=w")
        );
    }

    #[test]
    fn the_pod_that_serves_best_is_taken() {
        let pod = |name: &str, phase: &str, ready: &str, restarts: u64| {
            json!({"metadata": {"name": name}, "spec": {"nodeName": "n"}, "status": {"phase": phase,
                "conditions": [{"type": "Ready", "status": ready}],
                "containerStatuses": [{"restartCount": restarts}]}})
        };
        let mut pods = [
            json!({"metadata": {"name": "unscheduled"}}),
            pod("pending", "Pending", "False", 0),
            pod("restarted", "Running", "True", 3),
            pod("not-ready", "Running", "False", 0),
            pod("best", "Running", "True", 0),
        ];
        pods.sort_by_key(preference);
        let names: Vec<String> = pods
            .iter()
            .map(|pod| text(&pod["metadata"]["name"]))
            .collect();
        assert_eq!(
            names,
            ["best", "restarted", "not-ready", "pending", "unscheduled"]
        );
    }
}
