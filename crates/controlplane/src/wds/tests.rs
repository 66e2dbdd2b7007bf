use std::collections::BTreeMap;

use serde_json::Value;
use waymark_proto::json::{JsonStyle, message_to_value};

use crate::fixture::{Fixture, MESH, ROUTES};
use crate::index::key::WaypointKey;

/// Every WDS resource, by name.
fn published(fixture: &Fixture) -> BTreeMap<String, Value> {
    fixture
        .index
        .addresses()
        .iter()
        .map(|resource| {
            let value =
                message_to_value("istio.workload.Address", resource.value(), JsonStyle::Camel);
            (resource.name().to_owned(), value.expect("our own message"))
        })
        .collect()
}

#[test]
fn a_mesh_whose_waypoint_is_ready() {
    let mut fixture = Fixture::new(&[MESH, ROUTES]);
    let ready = fixture
        .facts
        .replica(&WaypointKey::new("default", "waypoint"), "waypoint-0", true);
    fixture.index.apply(ready);
    insta::assert_json_snapshot!(published(&fixture));
}

#[test]
fn kinds_that_are_not_pods() {
    let fixture = Fixture::new(&[include_str!("../testdata/entries.yaml")]);
    insta::assert_json_snapshot!(published(&fixture));
}

#[test]
fn a_waypoint_that_was_never_ready_is_not_told_of() {
    let mut fixture = Fixture::new(&[MESH]);
    let service = "default/reviews.default.svc.cluster.local";
    assert!(
        published(&fixture)[service]["service"]
            .get("waypoint")
            .is_none()
    );
    let waypoint = WaypointKey::new("default", "waypoint");
    let effects = {
        let ready = fixture.facts.replica(&waypoint, "waypoint-0", true);
        fixture.index.apply(ready)
    };
    let names: Vec<&str> = effects.addresses.iter().map(|name| &**name).collect();
    // The replica, and what is bound to its waypoint; nobody else.
    assert_eq!(names, ["Kubernetes//Pod/default/waypoint-0", service]);
    // Once told of, it stays, ready or not.
    let unready = fixture.facts.replica(&waypoint, "waypoint-0", false);
    fixture.index.apply(unready);
    assert!(
        published(&fixture)[service]["service"]
            .get("waypoint")
            .is_some()
    );
}

#[test]
fn an_annotation_that_means_nothing_changes_nothing() {
    let mut fixture = Fixture::new(&[MESH]);
    let annotated = MESH.replace(
        "  name: reviews-v1\n",
        "  name: reviews-v1\n  annotations:\n    team: red\n",
    );
    assert_ne!(annotated, MESH);
    let effects = fixture.put(&annotated);
    assert!(effects.addresses.is_empty(), "{effects:?}");
}
