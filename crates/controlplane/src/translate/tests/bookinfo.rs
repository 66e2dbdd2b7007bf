//! A mesh of the well-known shape in both flavours.

use std::collections::BTreeMap;
use std::sync::Arc;

use insta::assert_json_snapshot;
use ipnet::IpNet;
use proptest::prelude::*;
use serde_json::{Value, json};
use waymark_api::istio::destination_rule::TrafficPolicy;
use waymark_api::protocol::Protocol;

use super::fixture::{Mesh, destination_rule, pod, rule, service, to, virtual_service};
use crate::translate::input::{AccessLog, AccessLogFormat, Binding, Flavour, ServiceInput};
use crate::translate::{self, Named};

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

/// What logs what: the places of the access logs with their filters, and the log itself once.
#[test]
fn access_logs() {
    let mut mesh = Mesh::new(Flavour::IstioProxy, services());
    for format in [
        AccessLogFormat::Text(None),
        AccessLogFormat::Text(Some("%RESPONSE_CODE%".to_owned())),
        AccessLogFormat::Json(None),
        AccessLogFormat::Json(json!({"a": {"b": "%PROTOCOL%"}}).as_object().cloned()),
    ] {
        mesh.settings.access_log = Some(AccessLog {
            file: "/dev/stdout".to_owned(),
            format,
        });
        let mut logs = Vec::new();
        found("", &mesh.json()["Listener"], &mut logs);
        let filters: BTreeMap<_, _> = logs
            .iter()
            .map(|(at, log)| (at.as_str(), &log["filter"]))
            .collect();
        let config = &logs[0].1["typed_config"];
        assert!(logs.iter().all(|(_, log)| &log["typed_config"] == config));
        assert_json_snapshot!(json!({"filters": filters, "log": config}));
    }
}

/// Every access log with its place.
fn found(at: &str, value: &Value, logs: &mut Vec<(String, Value)>) {
    match value {
        Value::Object(fields) => {
            for (key, value) in fields {
                match value {
                    Value::Array(all) if key == "access_log" => {
                        logs.extend(all.iter().map(|log| (at.to_owned(), log.clone())));
                    }
                    _ => found(&format!("{at}/{key}"), value, logs),
                }
            }
        }
        Value::Array(values) => {
            for (i, value) in values.iter().enumerate() {
                found(&format!("{at}/{i}"), value, logs);
            }
        }
        _ => {}
    }
}

/// Maps of the generated code have another order each time they are made.
#[test]
fn equal_input_gives_equal_bytes() {
    for flavour in [Flavour::Stock, Flavour::IstioProxy] {
        let mesh = || {
            let mut mesh = Mesh::new(flavour, services());
            mesh.settings.access_log = Some(AccessLog {
                file: "/dev/stdout".to_owned(),
                format: AccessLogFormat::Json(None),
            });
            mesh
        };
        let first = mesh().resources();
        for round in 0..100 {
            assert_eq!(mesh().resources(), first, "{flavour:?}, round {round}");
        }
    }
}

/// Two of a kind where order might show: virtual services and ranges.
fn more_services() -> Vec<ServiceInput> {
    let mut services = services();
    for service in &mut services {
        let second = rule("second", None, to(&[("front", 1)]));
        service
            .virtual_services
            .push(virtual_service("second", vec![second]));
        service.vips.extend(
            ["10.0.9.0/24", "10.0.1.7/32"].map(|net| net.parse::<IpNet>().expect("a network")),
        );
    }
    services
}

fn outcome(flavour: Flavour, services: &[ServiceInput]) -> Vec<Named> {
    let mut mesh = Mesh::new(flavour, Vec::new());
    for service in services {
        mesh.hosts.insert(
            service.host.clone(),
            (Binding::Owned, Arc::new(service.clone())),
        );
    }
    let order: Vec<&ServiceInput> = services.iter().collect();
    let mut resources = mesh.resources();
    resources.push(translate::main_internal(
        mesh.context(),
        &order,
        &mesh.attached,
    ));
    resources
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Services, endpoints, virtual services and addresses come in any order.
    #[test]
    fn permuted_input_gives_equal_bytes(
        order in Just((0..3).collect::<Vec<usize>>()).prop_shuffle(),
        endpoints in Just((0..3).collect::<Vec<usize>>()).prop_shuffle(),
        turn in 0..3_usize,
    ) {
        let straight = more_services();
        let mut permuted: Vec<ServiceInput> = order.iter().map(|index| straight[*index].clone()).collect();
        for service in &mut permuted {
            if service.endpoints.len() == endpoints.len() {
                service.endpoints = endpoints.iter().map(|index| service.endpoints[*index].clone()).collect();
            }
            let (vips, rules) = (service.vips.len(), service.virtual_services.len());
            service.vips.rotate_left(turn % vips);
            service.virtual_services.rotate_left(turn % rules);
        }
        for flavour in [Flavour::Stock, Flavour::IstioProxy] {
            prop_assert!(outcome(flavour, &straight) == outcome(flavour, &permuted));
        }
    }
}
