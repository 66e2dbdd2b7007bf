//! The Service in front of a waypoint.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use waymark_api::meta::Map;
use waymark_api::names;
use waymark_api::waypoint::WaypointClass;

use super::gateway::GatewayView;
use super::template::Template;

/// A port of the Service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Port {
    pub(super) name: String,
    pub(super) number: u16,
    pub(super) app_protocol: String,
}

/// The Service: readiness, and the ports of the listeners.
pub(super) fn service(gateway: &GatewayView, template: &Template) -> Value {
    let infrastructure = gateway.infrastructure();
    let mut labels = template.labels(gateway);
    if gateway.class == WaypointClass::Waymark {
        // An upstream control plane in the same cluster does not know the class: that nothing may be bound to a waypoint
        // of ours has to be said in its words.
        labels.insert(names::USE_WAYPOINT.to_owned(), "none".to_owned());
    }
    let mut annotations = Map::from([(
        names::TRAFFIC_DISTRIBUTION.to_owned(),
        "PreferClose".to_owned(),
    )]);
    annotations.extend(infrastructure.passed_annotations());
    let kind = gateway
        .annotation(SERVICE_TYPE)
        .unwrap_or(DEFAULT_SERVICE_TYPE);
    let ports: Vec<Value> = ports(gateway)
        .iter()
        .map(|port| {
            json!({
                "name": port.name,
                "port": port.number,
                "protocol": "TCP",
                "appProtocol": port.app_protocol,
            })
        })
        .collect();
    let mut spec = json!({
        "ipFamilyPolicy": "PreferDualStack",
        "ports": ports,
        "selector": {names::GATEWAY_NAME: gateway.name},
        "type": kind,
    });
    if kind == "LoadBalancer"
        && let Some(address) = gateway.requested_address()
    {
        spec["loadBalancerIP"] = address.to_string().into();
    }
    json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": template.metadata(gateway, &gateway.deployment_name(), &labels, &annotations),
        "spec": spec,
    })
}

/// Readiness first, then a port for each listener whose number is new.
pub(super) fn ports(gateway: &GatewayView) -> Vec<Port> {
    let mut ports = vec![Port {
        name: "status-port".to_owned(),
        number: STATUS_PORT,
        app_protocol: "tcp".to_owned(),
    }];
    let mut names: BTreeSet<String> = ports.iter().map(|port| port.name.clone()).collect();
    for listener in &gateway.listeners {
        if ports.iter().any(|port| port.number == listener.port) {
            continue;
        }
        let name = port_name(&listener.name, listener.port, &names);
        names.insert(name.clone());
        ports.push(Port {
            name,
            number: listener.port,
            app_protocol: listener.protocol.to_ascii_lowercase(),
        });
    }
    ports
}

/// A listener's name as that of a port: without dots, as long as a port's name may be, and unique.
fn port_name(listener: &str, number: u16, taken: &BTreeSet<String>) -> String {
    let name = listener.replace('.', "-");
    let cut = |length: usize| name.get(..length).unwrap_or(&name).trim_end_matches('-');
    let whole = cut(MAX_PORT_NAME);
    if taken.contains(whole) {
        let suffix = format!("-{number}");
        format!("{}{suffix}", cut(MAX_PORT_NAME - suffix.len()))
    } else {
        whole.to_owned()
    }
}

/// Annotation: the type of the Service.
const SERVICE_TYPE: &str = "networking.istio.io/service-type";
/// A waypoint is for the mesh.
const DEFAULT_SERVICE_TYPE: &str = "ClusterIP";
/// Where a waypoint says that it is ready.
pub(super) const STATUS_PORT: u16 = 15021;
const MAX_PORT_NAME: usize = 63;

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::waypoint::tests::gateway;

    #[test]
    fn a_port_is_named_after_its_listener_and_unique() {
        let long = "x".repeat(70);
        let gateway = gateway(&format!(
            r#"{{"listeners": [
                {{"name": "mesh", "port": 15008, "protocol": "HBONE"}},
                {{"name": "again", "port": 15008, "protocol": "HBONE"}},
                {{"name": "a.b", "port": 80, "protocol": "HTTP"}},
                {{"name": "a-b", "port": 81, "protocol": "TCP"}},
                {{"name": "{long}", "port": 82, "protocol": "TCP"}},
                {{"name": "{long}y", "port": 83, "protocol": "TCP"}}]}}"#
        ));
        let ports: Vec<(String, u16, String)> = ports(&gateway)
            .into_iter()
            .map(|port| (port.name, port.number, port.app_protocol))
            .collect();
        let port = |name: &str, number: u16, protocol: &str| {
            (name.to_owned(), number, protocol.to_owned())
        };
        assert_eq!(
            ports,
            [
                port("status-port", 15021, "tcp"),
                port("mesh", 15008, "hbone"),
                port("a-b", 80, "http"),
                port("a-b-81", 81, "tcp"),
                port(&"x".repeat(63), 82, "tcp"),
                port(&format!("{}-83", "x".repeat(60)), 83, "tcp"),
            ]
        );
        assert!(ports.iter().all(|(name, ..)| name.len() <= 63));
        assert_eq!(ports.first().unwrap().1, STATUS_PORT);
    }
}
