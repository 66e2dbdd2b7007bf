//! What is said about objects that the mesh reads or refuses, in a cluster or in files.

use std::collections::BTreeMap;

use serde_json::Value;
use waymark_api::waypoint::WaypointClass;
use waymark_api::{DocumentError, ErrorClass, names};

use super::message::{Level, Message, Object};

/// Everything that is to be examined.
#[derive(Debug, Default)]
pub(crate) struct Found {
    /// Objects, each with its place when it is from a file.
    pub(crate) objects: Vec<(Value, Option<String>)>,
    /// What is wrong with some of them.
    pub(crate) errors: Vec<DocumentError>,
}

/// All messages of objects by themselves and of what they refer to.
pub(crate) fn examine(found: &Found) -> Vec<Message> {
    let mut messages: Vec<Message> = found.errors.iter().filter_map(broken).collect();
    for (object, place) in &found.objects {
        messages.extend(conditions(object, place.as_deref()));
    }
    messages.extend(missing_waypoints(found));
    messages
}

/// An object, as messages name it.
pub(crate) fn object_of(value: &Value, place: Option<&str>) -> Object {
    let metadata = &value["metadata"];
    let kind = text(&value["kind"]);
    let cluster_wide = matches!(kind.as_str(), "Namespace" | "Node" | "GatewayClass");
    let namespace = metadata["namespace"].as_str().unwrap_or("default");
    Object {
        namespace: (!cluster_wide).then(|| namespace.to_owned()),
        kind,
        name: text(&metadata["name"]),
        place: place.map(str::to_owned),
    }
}

/// What a document is not taken for. A document that is no YAML is said otherwise.
fn broken(error: &DocumentError) -> Option<Message> {
    let field = error
        .field
        .as_ref()
        .map_or_else(String::new, |field| format!("{field}: "));
    let allowed = error
        .allowed
        .as_ref()
        .map_or_else(String::new, |allowed| format!(" ({allowed})"));
    let what = format!("{field}{}{allowed}", error.message);
    let (code, level, text) = match error.class {
        ErrorClass::Syntax => return None,
        ErrorClass::Invalid => (
            "IST0106",
            Level::Error,
            format!("Schema validation error: {what}"),
        ),
        ErrorClass::Unsupported => (
            REFUSED,
            Level::Error,
            format!("Waymark refuses this object until it enforces what it asks for: {what}"),
        ),
        // What else a cluster runs is none of the mesh's business; a kind that nobody knows may be a slip.
        ErrorClass::NotRead if is_of_the_mesh(error) => (NOT_READ, Level::Warning, what),
        ErrorClass::NotRead => (NOT_READ, Level::Info, what),
    };
    let object = error.object.as_ref();
    Some(Message {
        object: Object {
            namespace: object.and_then(|o| o.namespace.clone()),
            kind: object.map(|o| o.kind.clone()).unwrap_or_default(),
            name: object.map(|o| o.name.clone()).unwrap_or_default(),
            place: (error.line > 0).then(|| format!("{}:{}", error.file, error.line)),
        },
        code,
        level,
        text,
    })
}

fn is_of_the_mesh(error: &DocumentError) -> bool {
    let near = error
        .allowed
        .as_ref()
        .is_some_and(|hint| hint.starts_with("did you mean"));
    let group = error.object.as_ref().map_or("", |o| o.group.as_str());
    near || group.ends_with("istio.io") || group.starts_with("gateway.networking")
}

/// Conditions that say no: of Gateways and what refers to them, of services and policies at waypoints.
fn conditions(object: &Value, place: Option<&str>) -> Vec<Message> {
    let status = &object["status"];
    let of_parents = status["parents"].as_array().into_iter().flatten();
    let lists = std::iter::once(&status["conditions"])
        .chain(of_parents.map(|parent| &parent["conditions"]));
    lists
        .filter_map(Value::as_array)
        .flatten()
        .filter(|condition| is_negative(condition))
        .map(|condition| Message {
            object: object_of(object, place),
            code: "IST0171",
            level: Level::Warning,
            text: format!(
                "A condition with a negative status is present: type={}, reason={}, message={}.",
                text(&condition["type"]),
                text(&condition["reason"]),
                text(&condition["message"])
            ),
        })
        .collect()
}

fn is_negative(condition: &Value) -> bool {
    let kind = condition["type"].as_str().unwrap_or_default();
    let partial = condition["reason"] == "PartiallyInvalid";
    match kind {
        "istio.io/WaypointBound"
        | "ZtunnelAccepted"
        | "Accepted"
        | "Programmed"
        | "ResolvedRefs" => condition["status"] == "False",
        "WaypointAccepted" => condition["status"] == "False" || partial,
        _ => false,
    }
}

/// Labels that name a waypoint which is not there.
fn missing_waypoints(found: &Found) -> Vec<Message> {
    let mut gateways = BTreeMap::new();
    for (object, _) in found.objects.iter().filter(|(o, _)| o["kind"] == "Gateway") {
        let class = object["spec"]["gatewayClassName"].as_str();
        let is_waypoint = class.and_then(WaypointClass::of_name).is_some();
        let of = object_of(object, None);
        gateways.insert((of.namespace.unwrap_or_default(), of.name), is_waypoint);
    }
    let namespaces: Vec<&str> = found
        .objects
        .iter()
        .filter(|(o, _)| o["kind"] == "Namespace")
        .filter_map(|(o, _)| o["metadata"]["name"].as_str())
        .collect();
    let mut messages = Vec::new();
    for (object, place) in &found.objects {
        let labels = &object["metadata"]["labels"];
        let Some(name) = labels[names::USE_WAYPOINT].as_str() else {
            continue;
        };
        let of = object_of(object, place.as_deref());
        let own = match object["kind"] == "Namespace" {
            true => of.name.clone(),
            false => of.namespace.clone().unwrap_or_default(),
        };
        let namespace = labels[names::USE_WAYPOINT_NAMESPACE]
            .as_str()
            .unwrap_or(&own);
        let text = match gateways.get(&(namespace.to_owned(), name.to_owned())) {
            _ if name.is_empty() || name == "none" => continue,
            Some(true) => continue,
            Some(false) => {
                format!("Gateway {namespace}/{name} is no waypoint: its class is another")
            }
            // Of a namespace that was not looked at nothing is known.
            None if namespace != own && !namespaces.contains(&namespace) => continue,
            None => format!(
                "label {} names a waypoint that does not exist: {namespace}/{name}",
                names::USE_WAYPOINT
            ),
        };
        messages.push(Message {
            object: of,
            code: NO_WAYPOINT,
            level: Level::Warning,
            text,
        });
    }
    messages
}

pub(super) fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

/// A field, label or kind that upstream has and we refuse.
const REFUSED: &str = "WM0101";
/// A kind that is not read.
const NOT_READ: &str = "WM0102";
/// A waypoint that is used and is not there.
const NO_WAYPOINT: &str = "WM0103";
/// The codes of this module, with what they mean.
pub(super) const CODES: &[(&str, &str)] = &[
    (
        "IST0106",
        "SchemaValidationError: an object is not as its kind has to be",
    ),
    (
        "IST0171",
        "NegativeConditionStatus: the status of an object says no",
    ),
    (REFUSED, "an object is refused for what it asks for"),
    (NOT_READ, "a kind that the mesh does not read"),
    (NO_WAYPOINT, "a label names a waypoint that is not there"),
];

#[cfg(test)]
mod tests {
    use serde_json::json;
    use waymark_api::yaml::parse_documents;

    use super::*;

    fn found(text: &str) -> Found {
        let mut found = Found::default();
        for document in parse_documents("f.yaml", text) {
            match document {
                Ok(d) => found
                    .objects
                    .push((d.value, Some(format!("f.yaml:{}", d.line)))),
                Err(error) => found.errors.push(error),
            }
        }
        found
    }

    fn lines(found: &Found) -> String {
        super::super::message::render(&examine(found), None)
    }

    #[test]
    fn kinds_and_fields_that_are_not_taken_are_named() {
        let text = lines(&found(
            "apiVersion: networking.istio.io/v1\nkind: Virtualservice\nmetadata: { name: a }\n---\n\
             apiVersion: apps/v1\nkind: Deployment\nmetadata: { name: b }\n---\n\
             apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: { name: c }\nspec: { host: c, subsets: [{ labels: { v: '1' } }] }\n---\n\
             apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: { name: d }\nspec: { hosts: [d], tcp: [{ route: [{ destination: { host: d } }] }] }\n",
        ));
        for want in [
            "Warning [WM0102] (Virtualservice a.default f.yaml:1) Virtualservice is a kind that is not read (did you mean VirtualService?)",
            "Info [WM0102] (Deployment b.default f.yaml:5) Deployment is a kind that is not read",
            "Error [IST0106] (DestinationRule c.default",
            "Error [WM0101] (VirtualService d.default",
            "spec.tcp",
        ] {
            assert!(text.contains(want), "{want}:\n{text}");
        }
    }

    #[test]
    fn waypoints_that_are_not_there_are_named() {
        let text = lines(&found(
            "apiVersion: v1\nkind: Namespace\nmetadata: { name: shop, labels: { istio.io/use-waypoint: w } }\n---\n\
             apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: { name: w, namespace: shop }\n\
             spec: { gatewayClassName: istio-waypoint, listeners: [{ name: mesh, port: 15008, protocol: HBONE }] }\n---\n\
             apiVersion: v1\nkind: Service\nmetadata: { name: s, namespace: shop, labels: { istio.io/use-waypoint: x } }\nspec: { ports: [{ port: 80 }] }\n---\n\
             apiVersion: v1\nkind: Service\nmetadata: { name: t, namespace: shop, labels: { istio.io/use-waypoint: x, istio.io/use-waypoint-namespace: unseen } }\nspec: { ports: [{ port: 80 }] }\n",
        ));
        assert_eq!(
            text,
            "Warning [WM0103] (Service s.shop f.yaml:10) label istio.io/use-waypoint names a waypoint that does not exist: shop/x\n"
        );
    }

    #[test]
    fn conditions_that_say_no_are_told() {
        let service = json!({"kind": "Service", "metadata": {"name": "s", "namespace": "shop"}, "status": {"conditions": [
            {"type": "istio.io/WaypointBound", "status": "False", "reason": "X", "message": "no"},
            {"type": "Other", "status": "False"}]}});
        let route = json!({"kind": "HTTPRoute", "metadata": {"name": "r", "namespace": "shop"}, "status": {"parents": [
            {"conditions": [{"type": "ResolvedRefs", "status": "False", "reason": "Y", "message": "what"}]}]}});
        let found = Found {
            objects: vec![(service, None), (route, None)],
            errors: Vec::new(),
        };
        assert_eq!(
            lines(&found),
            "Warning [IST0171] (Service s.shop) A condition with a negative status is present: type=istio.io/WaypointBound, reason=X, message=no.\n\
             Warning [IST0171] (HTTPRoute r.shop) A condition with a negative status is present: type=ResolvedRefs, reason=Y, message=what.\n"
        );
    }
}
