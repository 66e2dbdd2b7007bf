//! Objects that are there for others.

use serde_json::Value;
use waymark_api::names;
use waymark_api::waypoint::WaypointClass;

use crate::source::kind::Watched;

/// Whether an object is none of the mesh's business, and so not even an error: an Istio object of another revision, a
/// Gateway of another class, a route that is only for Gateways.
pub(crate) fn is_foreign(watched: &Watched, revision: &str, object: &Value) -> bool {
    let other_revision = || {
        object["metadata"]["labels"][names::REVISION]
            .as_str()
            .is_some_and(|named| named != revision)
    };
    let for_gateways_alone = || {
        let parents = object["spec"]["parentRefs"].as_array();
        parents.is_some_and(|parents| {
            !parents.is_empty()
                && parents
                    .iter()
                    .all(|parent| parent["kind"].as_str().is_none_or(|kind| kind == "Gateway"))
        })
    };
    match watched.kind {
        _ if watched.is_istio() => other_revision(),
        "Gateway" => object["spec"]["gatewayClassName"]
            .as_str()
            .is_some_and(|class| WaypointClass::of_name(class).is_none()),
        "HTTPRoute" | "GRPCRoute" | "TCPRoute" | "TLSRoute" | "UDPRoute" => for_gateways_alone(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::source::kind;

    #[test]
    fn what_is_for_others_is_known_by_revision_class_and_parents() {
        let foreign = |kind: &str, object: Value| {
            let watched = kind::all().into_iter().find(|watched| watched.kind == kind);
            is_foreign(&watched.expect("a kind"), "default", &object)
        };
        let labelled = |revision: &str| json!({"metadata": {"labels": {"istio.io/rev": revision}}});
        let class = |class: &str| json!({"spec": {"gatewayClassName": class}});
        let parents = |kinds: Value| json!({"spec": {"parentRefs": kinds}});
        for (kind, object, want) in [
            ("VirtualService", labelled("canary"), true),
            ("VirtualService", labelled("default"), false),
            ("VirtualService", json!({}), false),
            ("Pod", labelled("canary"), false),
            ("Gateway", class("nginx"), true),
            ("Gateway", class("istio-waypoint"), false),
            ("HTTPRoute", parents(json!([{"name": "ingress"}])), true),
            (
                "HTTPRoute",
                parents(json!([{"name": "s", "kind": "Service"}])),
                false,
            ),
            (
                "HTTPRoute",
                parents(json!([{"name": "g"}, {"name": "s", "kind": "Service"}])),
                false,
            ),
            ("HTTPRoute", parents(json!([])), false),
        ] {
            assert_eq!(foreign(kind, object.clone()), want, "{kind} {object}");
        }
    }
}
