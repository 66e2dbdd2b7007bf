//! A mesh of the well-known shape in both flavours.

use std::sync::Arc;

use insta::assert_json_snapshot;
use waymark_api::istio::destination_rule::TrafficPolicy;
use waymark_api::protocol::Protocol;

use super::fixture::{Mesh, destination_rule, pod, rule, service, to, virtual_service};
use crate::translate::input::{Flavour, ServiceInput};

fn services() -> Vec<ServiceInput> {
    let mut front = service("front", "10.0.0.1", 9080, Protocol::Http);
    front.endpoints = vec![pod(&front, "v1", "10.1.0.1", "z1")];
    let mut reviews = service("reviews", "10.0.0.2", 9080, Protocol::Http);
    reviews.endpoints = vec![
        pod(&reviews, "v1", "10.1.0.2", "z1"),
        pod(&reviews, "v2", "10.1.0.3", "z2"),
        pod(&reviews, "v3", "10.1.0.4", "z2"),
    ];
    let none = TrafficPolicy::default;
    let subsets = [("v1", none()), ("v2", none()), ("v3", none())];
    reviews.destination_rule = Some(Arc::new(destination_rule("reviews", none(), &subsets)));
    reviews.virtual_services = vec![virtual_service(
        "reviews",
        vec![rule(
            "",
            None,
            to(&[("reviews/v1", 90), ("reviews/v2", 10)]),
        )],
    )];
    let api = service("api", "10.0.0.3", 443, Protocol::Https);
    vec![front, reviews, api]
}

#[test]
fn stock() {
    assert_json_snapshot!(Mesh::new(Flavour::Stock, services()).json());
}

#[test]
fn stock_with_pods() {
    let mesh = Mesh::new(Flavour::Stock, services())
        .attach(&["10.1.0.1", "10.1.0.2", "10.1.0.3", "10.1.0.4"]);
    assert_json_snapshot!(mesh.json()["Listener"]["main_internal"]);
}

#[test]
fn istio_proxy() {
    assert_json_snapshot!(Mesh::new(Flavour::IstioProxy, services()).json());
}

/// Maps of the generated code have another order each time; services come in any order.
#[test]
fn equal_input_gives_equal_bytes() {
    for flavour in [Flavour::Stock, Flavour::IstioProxy] {
        let first = Mesh::new(flavour, services()).resources();
        for round in 0..100 {
            let mut services = services();
            let turn = round % services.len();
            services.rotate_left(turn);
            for service in &mut services {
                let pods = service.endpoints.len();
                service
                    .endpoints
                    .rotate_left((round % pods.max(1)).min(pods));
            }
            assert_eq!(
                Mesh::new(flavour, services).resources(),
                first,
                "{flavour:?}, round {round}"
            );
        }
    }
}
