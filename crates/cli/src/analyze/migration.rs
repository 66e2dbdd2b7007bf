//! What would change for a cluster's waypoints if a control plane of ours ran beside istiod, or instead of it.
//!
//! The rules are the deployer's: whose a Gateway is, what is written for it, what is left alone.

use std::collections::BTreeMap;

use serde_json::Value;
use waymark_api::names;
use waymark_api::waypoint::WaypointClass;
use waymark_kubernetes::deployer::{VERSION, revision_of};
use waymark_kubernetes::survey::Survey;
use waymark_kubernetes::waypoint::GatewayView;

use super::examine::{object_of, text};
use super::message::{Level, Message, Object};

/// What is said about each waypoint of the cluster to a control plane of that revision.
pub(crate) fn waypoints(survey: &Survey, revision: &str) -> Vec<Message> {
    let labels_of = |namespace: &str| {
        survey
            .objects
            .iter()
            .find(|object| object["kind"] == "Namespace" && object["metadata"]["name"] == namespace)
    };
    let mut messages = Vec::new();
    for object in survey.objects.iter().filter(|o| o["kind"] == "Gateway") {
        let Ok(view) = GatewayView::read(object) else {
            continue;
        };
        let of_namespace = labels_of(&view.namespace)
            .and_then(|namespace| namespace["metadata"]["labels"][names::REVISION].as_str());
        let wanted = revision_of(view.label(names::REVISION), of_namespace, |tag| {
            survey.tags.get(tag).cloned()
        });
        let deployed = made_for(survey, &view);
        let object = object_of(object, None);
        let say = |level, code, text| Message {
            object: object.clone(),
            code,
            level,
            text,
        };
        messages.push(if wanted != revision {
            say(
                Level::Info,
                STAYS,
                format!("stays with the control plane of revision {wanted}: this one would be {revision}"),
            )
        } else if view.controller_version() > Some(VERSION) {
            say(
                Level::Warning,
                STAYS,
                "stays with the control plane that has it: a newer version of controllers has noted itself in it".into(),
            )
        } else if !view.is_managed() {
            say(
                Level::Info,
                STAYS,
                "is run by somebody else (spec.addresses): nothing is deployed for it, and it is configured by us".into(),
            )
        } else {
            say(Level::Info, TAKEN, taken(&view, &deployed, revision))
        });
        if wanted == revision && view.is_managed() {
            messages.extend(foreign(survey, &view));
            for object in &deployed {
                messages.extend(foreign_fields(object));
            }
        }
    }
    messages
}

fn made_for<'a>(survey: &'a Survey, view: &GatewayView) -> Vec<&'a Value> {
    let of = |object: &&Value| {
        let metadata = &object["metadata"];
        metadata["namespace"] == view.namespace.as_str()
            && metadata["labels"][names::GATEWAY_NAME] == view.name.as_str()
    };
    survey.deployed.iter().filter(of).collect()
}

/// A waypoint that would be ours: its image, and what stays.
fn taken(view: &GatewayView, deployed: &[&Value], revision: &str) -> String {
    let whose = match view.class {
        WaypointClass::Istio => {
            "istio-waypoint, which istiod takes too where it is of that revision"
        }
        WaypointClass::Waymark => "waymark-waypoint, which istiod leaves alone",
    };
    let mut said = format!("is taken by Waymark of revision {revision} (class {whose})");
    let deployment = deployed.iter().find(|o| o["kind"] == "Deployment");
    match deployment {
        None => said.push_str("; nothing runs for it yet"),
        Some(deployment) => {
            let containers = deployment["spec"]["template"]["spec"]["containers"].as_array();
            let images: Vec<&str> = containers
                .into_iter()
                .flatten()
                .filter_map(|container| container["image"].as_str())
                .collect();
            said.push_str(&format!(
                "; Deployment {} is rolled over from image {} to Waymark's, Service and ServiceAccount keep names and addresses",
                text(&deployment["metadata"]["name"]),
                images.join(", ")
            ));
        }
    }
    if let Some(parameters) = &view.parameters {
        said.push_str(&format!(
            "; the overlays of {} {} are laid over as before",
            parameters.kind, parameters.name
        ));
    }
    said
}

/// Objects that have the names which the waypoint's are to have, and were not made for it.
fn foreign(survey: &Survey, view: &GatewayView) -> Vec<Message> {
    let named = |object: &&Value| {
        let metadata = &object["metadata"];
        metadata["namespace"] == view.namespace.as_str()
            && metadata["name"] == view.deployment_name().as_str()
            && object["kind"] == "Service"
            && metadata["labels"][names::GATEWAY_MANAGED].is_null()
    };
    survey
        .objects
        .iter()
        .filter(named)
        .map(|object| Message {
            object: object_of(object, None),
            code: FOREIGN,
            level: Level::Warning,
            text: format!(
                "has the name of Gateway {}/{}'s and was not made for it: it would be left alone, and the waypoint not be deployed whole",
                view.namespace, view.name
            ),
        })
        .collect()
}

/// Fields of what was made for a waypoint that somebody else than a control plane has set: server-side apply leaves those
/// that we do not set, and takes those that we do.
fn foreign_fields(object: &Value) -> Vec<Message> {
    let mut by_manager: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let managers = object["metadata"]["managedFields"].as_array();
    for entry in managers.into_iter().flatten() {
        let manager = text(&entry["manager"]);
        let is_status = entry["subresource"] == "status";
        if is_status || CONTROLLERS.contains(&manager.as_str()) {
            continue;
        }
        let mut paths = Vec::new();
        leaves(&entry["fieldsV1"], String::new(), &mut paths);
        by_manager.entry(manager).or_default().extend(paths);
    }
    let of: Object = object_of(object, None);
    by_manager
        .into_iter()
        .filter(|(_, paths)| !paths.is_empty())
        .map(|(manager, paths)| {
            let shown = paths
                .iter()
                .take(SHOWN)
                .cloned()
                .collect::<Vec<_>>()
                .join(", ");
            let more = match paths.len().saturating_sub(SHOWN) {
                0 => String::new(),
                more => format!(" + {more} more"),
            };
            Message {
                object: of.clone(),
                code: FIELDS,
                level: Level::Warning,
                text: format!(
                    "has fields of {manager}, which stay unless Waymark sets them: {shown}{more}"
                ),
            }
        })
        .collect()
}

/// The paths of fields in managed fields, which are nested by `f:<name>` and `k:<key>`.
fn leaves(fields: &Value, path: String, paths: &mut Vec<String>) {
    let Some(map) = fields.as_object() else {
        return;
    };
    let inner: Vec<_> = map.iter().filter(|(key, _)| *key != ".").collect();
    if inner.is_empty() && !path.is_empty() {
        paths.push(path);
        return;
    }
    for (key, value) in inner {
        let name = key.split_once(':').map_or(key.as_str(), |(_, name)| name);
        let path = match path.as_str() {
            "" => name.to_owned(),
            path if key.starts_with("k:") => format!("{path}[{name}]"),
            path => format!("{path}.{name}"),
        };
        leaves(value, path, paths);
    }
}

/// Who writes what is made for waypoints: both control planes, and controllers that write beside them.
const CONTROLLERS: [&str; 5] = [
    "istio.io/gateway-controller",
    "waymark.dev/gateway-controller",
    "pilot-discovery",
    "kube-controller-manager",
    "kubelet",
];
/// How many fields a message names.
const SHOWN: usize = 3;
const TAKEN: &str = "WM0201";
const STAYS: &str = "WM0202";
const FOREIGN: &str = "WM0203";
const FIELDS: &str = "WM0204";
/// The codes of this module, with what they mean.
pub(super) const CODES: &[(&str, &str)] = &[
    (
        TAKEN,
        "a waypoint would be taken by Waymark, and what would change",
    ),
    (STAYS, "a waypoint stays with another control plane"),
    (
        FOREIGN,
        "an object has a waypoint's name and was not made for it",
    ),
    (
        FIELDS,
        "an object of a waypoint has fields that somebody else has set",
    ),
];

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::message::render;
    use super::*;

    fn gateway(name: &str, labels: Value, spec: Value) -> Value {
        let mut gateway = json!({"kind": "Gateway", "metadata": {"name": name, "namespace": "shop", "labels": labels},
            "spec": {"gatewayClassName": "istio-waypoint"}});
        for (key, value) in spec.as_object().expect("a map") {
            gateway["spec"][key] = value.clone();
        }
        gateway
    }

    #[test]
    fn each_waypoint_is_told_whose_it_would_be() {
        let survey = Survey {
            objects: vec![
                json!({"kind": "Namespace", "metadata": {"name": "shop"}}),
                gateway("mine", json!({}), json!({})),
                gateway("tagged", json!({"istio.io/rev": "stable"}), json!({})),
                gateway("theirs", json!({"istio.io/rev": "1-31"}), json!({})),
                gateway(
                    "manual",
                    json!({}),
                    json!({"addresses": [{"type": "Hostname", "value": "w.example.org"}]}),
                ),
                gateway(
                    "new",
                    json!({}),
                    json!({"gatewayClassName": "waymark-waypoint"}),
                ),
                json!({"kind": "Service", "metadata": {"name": "new", "namespace": "shop"}}),
            ],
            deployed: vec![
                json!({"kind": "Deployment", "metadata": {"name": "mine", "namespace": "shop",
                "labels": {"gateway.networking.k8s.io/gateway-name": "mine"},
                "managedFields": [
                    {"manager": "istio.io/gateway-controller", "fieldsV1": {"f:spec": {"f:selector": {}}}},
                    {"manager": "kubectl-edit", "fieldsV1": {"f:spec": {"f:replicas": {}, "f:template": {"f:spec": {
                        "f:containers": {"k:{\"name\":\"istio-proxy\"}": {".": {}, "f:resources": {"f:limits": {"f:cpu": {}}}}}}}}}},
                    {"manager": "kube-controller-manager", "subresource": "status", "fieldsV1": {"f:status": {"f:replicas": {}}}}]},
                "spec": {"template": {"spec": {"containers": [{"name": "istio-proxy", "image": "docker.io/istio/proxyv2:1.31"}]}}}}),
            ],
            tags: [("stable".to_owned(), "default".to_owned())].into(),
            ..Survey::default()
        };
        let text = render(&waypoints(&survey, "default"), None);
        for want in [
            "Info [WM0201] (Gateway mine.shop) is taken by Waymark of revision default",
            "Deployment mine is rolled over from image docker.io/istio/proxyv2:1.31 to Waymark's",
            "Warning [WM0204] (Deployment mine.shop) has fields of kubectl-edit, which stay unless Waymark sets them: spec.replicas, spec.template.spec.containers[{\"name\":\"istio-proxy\"}].resources.limits.cpu\n",
            "Info [WM0201] (Gateway tagged.shop) is taken by Waymark of revision default",
            "Info [WM0202] (Gateway theirs.shop) stays with the control plane of revision 1-31",
            "Info [WM0202] (Gateway manual.shop) is run by somebody else",
            "Info [WM0201] (Gateway new.shop) is taken by Waymark of revision default (class waymark-waypoint, which istiod leaves alone); nothing runs for it yet",
            "Warning [WM0203] (Service new.shop) has the name of Gateway shop/new's",
        ] {
            assert!(text.contains(want), "{want}:\n{text}");
        }
        assert_eq!(text.matches("WM0204").count(), 1, "{text}");
    }
}
