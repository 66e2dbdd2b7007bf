//! Routes: an entry for each of their parents. Spec: control-plane.md 9.2.

use serde_json::{Value, json};

use super::condition::{Condition, Style, conditions};

/// What is to be told of a route.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RouteStatus {
    /// It is in force.
    Read {
        /// The generation that it was read at.
        generation: Option<i64>,
        /// Its parents, in the route's order.
        parents: Vec<ParentStatus>,
    },
    /// It is not: this goes for every parent of the mesh that it names.
    Refused(ParentStatus),
}

/// What is to be told of one parent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParentStatus {
    /// `Accepted`, `ResolvedRefs`, `ResolvedWaypoints`.
    pub conditions: Vec<Condition>,
}

/// The parents as the route is to have them: ours are replaced, those of other controllers stay.
///
/// `None` when the route has changed since what is to be told was found out: then that comes in a moment.
pub(super) fn status(
    wanted: &RouteStatus,
    controller: &str,
    parent_refs: &Value,
    generation: i64,
    seen: &Value,
    now: &str,
) -> Option<Value> {
    let parent_refs = parent_refs.as_array()?;
    let told: Vec<(&Value, &ParentStatus)> = match wanted {
        RouteStatus::Read {
            generation: read,
            parents,
        } => {
            if read.is_some_and(|read| read != generation) || parents.len() != parent_refs.len() {
                return None;
            }
            parent_refs.iter().zip(parents).collect()
        }
        RouteStatus::Refused(parent) => {
            let of_mesh = parent_refs.iter().filter(|reference| is_of_mesh(reference));
            of_mesh.map(|reference| (reference, parent)).collect()
        }
    };
    if told.is_empty() {
        return without_ours(controller, seen);
    }
    let seen_parents = || seen["parents"].as_array().into_iter().flatten();
    let others = seen_parents().filter(|parent| parent["controllerName"] != controller);
    let ours = told.into_iter().map(|(reference, parent)| {
        let before = seen_parents()
            .find(|seen| seen["controllerName"] == controller && seen["parentRef"] == *reference)
            .map_or(&Value::Null, |seen| &seen["conditions"]);
        json!({
            "parentRef": reference,
            "controllerName": controller,
            "conditions": conditions(&parent.conditions, before, generation, Style::Kubernetes, now),
        })
    });
    let parents: Vec<Value> = others.cloned().chain(ours).collect();
    Some(json!({"parents": parents}))
}

/// Whether a parent is a service: all else is an ingress controller's.
fn is_of_mesh(reference: &Value) -> bool {
    matches!(
        (reference["group"].as_str(), reference["kind"].as_str()),
        (Some(""), Some("Service")) | (Some("networking.istio.io"), Some("ServiceEntry"))
    )
}

/// The parents without ours, for routes that are not ours to tell about any more. `None` when there are none of ours.
pub(super) fn without_ours(controller: &str, seen: &Value) -> Option<Value> {
    let parents = seen["parents"].as_array()?;
    let others: Vec<&Value> = parents
        .iter()
        .filter(|parent| parent["controllerName"] != controller)
        .collect();
    (others.len() < parents.len()).then(|| json!({"parents": others}))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    const OURS: &str = "istio.io/gateway-controller";

    #[test]
    fn entries_of_others_stay_and_ours_are_replaced() {
        let wanted = RouteStatus::Read {
            generation: Some(2),
            parents: vec![ParentStatus {
                conditions: vec![Condition::yes("Accepted", "Accepted", "Route was valid")],
            }],
        };
        let refs = json!([{"group": "", "kind": "Service", "name": "reviews"}]);
        let seen = json!({"parents": [
            {"controllerName": "other", "parentRef": {"name": "gateway"}, "conditions": []},
            {"controllerName": OURS, "parentRef": {"name": "old"}, "conditions": []},
        ]});
        let new = status(&wanted, OURS, &refs, 2, &seen, "now").unwrap();
        let parents = new["parents"].as_array().unwrap();
        assert_eq!(parents.len(), 2);
        assert_eq!(parents[0]["controllerName"], "other");
        assert_eq!(parents[1]["parentRef"]["name"], "reviews");
        // The same again is the same.
        assert_eq!(status(&wanted, OURS, &refs, 2, &new, "later").unwrap(), new);
        // A route that has changed meanwhile is read again first.
        assert_eq!(status(&wanted, OURS, &refs, 3, &new, "now"), None);
        assert_eq!(
            without_ours(OURS, &new).unwrap()["parents"]
                .as_array()
                .unwrap()
                .len(),
            1
        );
        assert_eq!(without_ours("nobody", &new), None);
        // One that is refused is told so for services only.
        let refused = RouteStatus::Refused(ParentStatus {
            conditions: vec![Condition::no("Accepted", "UnsupportedValue", "no")],
        });
        let refs = json!([{"name": "ingress"}, {"group": "", "kind": "Service", "name": "a"}]);
        let told = status(&refused, OURS, &refs, 3, &Value::Null, "now").unwrap();
        assert_eq!(told["parents"].as_array().unwrap().len(), 1);
        assert_eq!(told["parents"][0]["parentRef"]["name"], "a");
        let ingress = json!([{"name": "ingress"}]);
        assert_eq!(
            status(&refused, OURS, &ingress, 3, &Value::Null, "now"),
            None
        );
    }
}
