//! Gateways of waypoints, and their classes. Spec: control-plane.md 9.1.

use serde_json::{Value, json};
use waymark_api::names;

use super::ServiceFinding;
use super::condition::{Condition, Style, conditions};
use crate::deployer::Problem;
use crate::waypoint::{GatewayAddress, GatewayListener, GatewayView};

/// What a Gateway's status is made from.
#[derive(Debug, Clone)]
pub struct GatewayFacts<'a> {
    /// The Gateway.
    pub gateway: &'a GatewayView,
    /// Why it is not in force, where it was refused.
    pub refused: Option<&'a str>,
    /// What the deployer says is wrong.
    pub problem: Option<&'a Problem>,
    /// The hosts that it is reached at, and how their Services are.
    pub services: &'a [(String, ServiceFinding)],
}

/// The hosts that a Gateway is reached at: its own Service, or those of others that it names.
pub(super) fn hosts(gateway: &GatewayView, cluster_domain: &str) -> Vec<String> {
    if gateway.is_managed() {
        return vec![gateway.host(cluster_domain)];
    }
    gateway
        .addresses
        .iter()
        .filter_map(|address| match address {
            GatewayAddress::Hostname(host) => Some(host.clone()),
            GatewayAddress::Ip(_) | GatewayAddress::Other(_) => None,
        })
        .collect()
}

/// The whole status of a Gateway. `seen` is the one that it has.
pub(super) fn status(facts: &GatewayFacts<'_>, seen: &Value, now: &str) -> Value {
    let generation = facts.gateway.generation;
    let mut wanted = vec![
        accepted(facts),
        programmed(facts.services, names::HBONE_PORT),
    ];
    wanted.push(Condition::yes(
        "ResolvedRefs",
        "ResolvedRefs",
        "All references resolved",
    ));
    if let Some(problem) = facts
        .problem
        .filter(|problem| problem.reason == FOREIGN_OBJECT)
    {
        wanted.push(Condition::no(
            DEPLOYED,
            problem.reason,
            problem.message.clone(),
        ));
    }
    let listeners: Vec<Value> = facts
        .gateway
        .listeners
        .iter()
        .map(|listener| self::listener(listener, facts.gateway, seen, now))
        .collect();
    json!({
        "conditions": conditions(&wanted, &seen["conditions"], generation, Style::Kubernetes, now),
        "addresses": addresses(facts.services, &seen["addresses"]),
        "listeners": listeners,
    })
}

fn accepted(facts: &GatewayFacts<'_>) -> Condition {
    const TYPE: &str = "Accepted";
    if let Some(why) = facts.refused {
        return Condition::no(TYPE, "Invalid", why);
    }
    if let Some(problem) = facts
        .problem
        .filter(|problem| problem.reason != FOREIGN_OBJECT)
    {
        return Condition::no(TYPE, problem.reason, problem.message.clone());
    }
    if facts.services.is_empty() {
        return Condition::no(
            TYPE,
            "UnsupportedAddress",
            "no address of type Hostname, and nothing is deployed for the ones given",
        );
    }
    let listeners = &facts.gateway.listeners;
    let valid = listeners
        .iter()
        .filter(|l| is_expected(l, facts.gateway))
        .count();
    match valid {
        0 => Condition::no(TYPE, "ListenersNotValid", EXPECTED),
        _ if valid < listeners.len() => Condition::yes(TYPE, "ListenersNotValid", EXPECTED),
        _ => Condition::yes(TYPE, "Accepted", "Resource accepted"),
    }
}

/// Whether the Services of a Gateway take traffic, in upstream's words.
pub fn programmed(services: &[(String, ServiceFinding)], port: u16) -> Condition {
    const TYPE: &str = "Programmed";
    let (mut assigned, mut warnings) = (Vec::new(), Vec::new());
    let mut unusable = false;
    for (host, finding) in services {
        match finding {
            ServiceFinding::Ready { .. } => assigned.push(format!("{host}:{port}")),
            ServiceFinding::NotFound => {
                unusable = true;
                warnings.push(format!("hostname \"{host}\" not found"));
            }
            ServiceFinding::NoEndpoints => {
                warnings.push(format!("no instances found for hostname \"{host}\""));
            }
            ServiceFinding::NoPort => {
                unusable = true;
                warnings.push(format!("port {port} not found for hostname \"{host}\""));
            }
        }
    }
    let (assigned, warnings) = (assigned.join(" and "), warnings.join("; "));
    if services.is_empty() {
        return Condition::no(TYPE, "UnsupportedAddress", "No address can be assigned");
    }
    if warnings.is_empty() {
        let message = format!("Resource programmed, assigned to service(s) {assigned}");
        return Condition::yes(TYPE, "Programmed", message);
    }
    let reason = if unusable {
        "AddressNotUsable"
    } else {
        "AddressNotAssigned"
    };
    let message = if assigned.is_empty() {
        format!("Failed to assign to any requested addresses: {warnings}")
    } else {
        format!(
            "Assigned to service(s) {assigned}, but failed to assign to all requested addresses: {warnings}"
        )
    };
    Condition::no(TYPE, reason, message)
}

/// Where the Gateway is: from its first ready endpoint on, and for as long as it exists.
fn addresses(services: &[(String, ServiceFinding)], seen: &Value) -> Value {
    let mut ips = Vec::new();
    let mut hosts = Vec::new();
    for (host, finding) in services {
        if let ServiceFinding::Ready { vips } = finding {
            ips.extend(vips.iter().copied());
            hosts.push(host);
        }
    }
    if hosts.is_empty() {
        // Gone for a while is not gone: whoever is bound to it would lose it.
        return if seen.is_array() {
            seen.clone()
        } else {
            json!([])
        };
    }
    ips.sort_unstable();
    ips.dedup();
    let ips = ips
        .iter()
        .map(|ip| json!({"type": "IPAddress", "value": ip.to_string()}));
    let hosts = hosts
        .iter()
        .map(|host| json!({"type": "Hostname", "value": host}));
    ips.chain(hosts).collect()
}

/// A listener's status. No route is attached to a waypoint's: routes are attached to Services.
fn listener(listener: &GatewayListener, gateway: &GatewayView, seen: &Value, now: &str) -> Value {
    let before = seen["listeners"]
        .as_array()
        .into_iter()
        .flatten()
        .find(|seen| seen["name"] == listener.name.as_str())
        .map_or(&Value::Null, |seen| &seen["conditions"]);
    let fine = "No errors found";
    let wanted = [
        if is_expected(listener, gateway) {
            Condition::yes("Accepted", "Accepted", fine)
        } else {
            Condition::no("Accepted", "UnsupportedProtocol", EXPECTED)
        },
        Condition::yes("Programmed", "Programmed", fine),
        Condition::no("Conflicted", "NoConflicts", fine),
        Condition::yes("ResolvedRefs", "ResolvedRefs", fine),
    ];
    json!({
        "name": listener.name,
        "attachedRoutes": 0,
        "supportedKinds": [],
        "conditions": conditions(&wanted, before, gateway.generation, Style::Kubernetes, now),
    })
}

/// What a waypoint listens on. Waypoints of others may listen as they like.
fn is_expected(listener: &GatewayListener, gateway: &GatewayView) -> bool {
    !gateway.is_managed()
        || (listener.port, listener.protocol.as_str()) == (names::HBONE_PORT, "HBONE")
}

/// The status of a class of ours.
pub(super) fn class_status(generation: i64, seen: &Value, now: &str) -> Value {
    let wanted = [Condition::yes(
        "Accepted",
        "Accepted",
        "Handled by Istio controller",
    )];
    json!({"conditions": conditions(&wanted, &seen["conditions"], generation, Style::Kubernetes, now)})
}

const EXPECTED: &str = "Expected a single listener on port 15008 with protocol \"HBONE\"";
/// Ours: there is nothing like it upstream.
const DEPLOYED: &str = "waymark.dev/Deployed";
const FOREIGN_OBJECT: &str = "ForeignObject";

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn view(spec: &Value) -> GatewayView {
        GatewayView::read(&json!({
            "metadata": {"name": "w", "namespace": "n", "generation": 3},
            "spec": spec,
        }))
        .unwrap()
    }

    fn mesh() -> GatewayView {
        view(
            &json!({"gatewayClassName": "istio-waypoint", "listeners": [{"name": "mesh", "port": 15008, "protocol": "HBONE"}]}),
        )
    }

    fn facts<'a>(
        gateway: &'a GatewayView,
        services: &'a [(String, ServiceFinding)],
    ) -> GatewayFacts<'a> {
        GatewayFacts {
            gateway,
            refused: None,
            problem: None,
            services,
        }
    }

    fn condition<'a>(status: &'a Value, kind: &str) -> (&'a str, &'a str, &'a str) {
        let conditions = status["conditions"].as_array().unwrap();
        let found = conditions.iter().find(|c| c["type"] == kind).unwrap();
        let text = |field: &str| found[field].as_str().unwrap();
        (text("status"), text("reason"), text("message"))
    }

    #[test]
    fn a_waypoint_goes_from_not_found_over_no_instances_to_programmed_and_keeps_its_addresses() {
        let gateway = mesh();
        let host = "w.n.svc.cluster.local".to_owned();
        let ready = ServiceFinding::Ready {
            vips: vec!["fd00::1".parse().unwrap(), "10.0.0.1".parse().unwrap()],
        };
        let mut seen = Value::Null;
        for (finding, programmed, addresses) in [
            (
                ServiceFinding::NotFound,
                (
                    "False",
                    "AddressNotUsable",
                    "Failed to assign to any requested addresses: hostname \"w.n.svc.cluster.local\" not found",
                ),
                0,
            ),
            (
                ServiceFinding::NoEndpoints,
                (
                    "False",
                    "AddressNotAssigned",
                    "Failed to assign to any requested addresses: no instances found for hostname \"w.n.svc.cluster.local\"",
                ),
                0,
            ),
            (
                ready,
                (
                    "True",
                    "Programmed",
                    "Resource programmed, assigned to service(s) w.n.svc.cluster.local:15008",
                ),
                3,
            ),
            (
                ServiceFinding::NoEndpoints,
                (
                    "False",
                    "AddressNotAssigned",
                    "Failed to assign to any requested addresses: no instances found for hostname \"w.n.svc.cluster.local\"",
                ),
                3,
            ),
        ] {
            let services = [(host.clone(), finding)];
            seen = status(&facts(&gateway, &services), &seen, "now");
            assert_eq!(condition(&seen, "Programmed"), programmed);
            assert_eq!(condition(&seen, "Accepted").0, "True");
            assert_eq!(seen["addresses"].as_array().unwrap().len(), addresses);
        }
        assert_eq!(seen["addresses"][0]["value"], "10.0.0.1");
        assert_eq!(seen["addresses"][2]["type"], "Hostname");
        assert_eq!(seen["conditions"][0]["observedGeneration"], 3);
    }

    #[test]
    fn listeners_that_no_waypoint_has_are_told_and_do_no_harm() {
        let gateway = view(&json!({"gatewayClassName": "istio-waypoint", "listeners": [
            {"name": "mesh", "port": 15008, "protocol": "HBONE"},
            {"name": "web", "port": 80, "protocol": "HTTP"},
        ]}));
        let services = [("h".to_owned(), ServiceFinding::Ready { vips: Vec::new() })];
        let both = status(&facts(&gateway, &services), &Value::Null, "now");
        assert_eq!(
            condition(&both, "Accepted"),
            ("True", "ListenersNotValid", EXPECTED)
        );
        assert_eq!(both["listeners"][0]["conditions"][0]["status"], "True");
        assert_eq!(
            both["listeners"][1]["conditions"][0]["reason"],
            "UnsupportedProtocol"
        );
    }

    #[test]
    fn what_is_wrong_is_told_where_it_belongs() {
        let gateway = mesh();
        let services = [("h".to_owned(), ServiceFinding::NotFound)];
        let foreign = Problem {
            reason: FOREIGN_OBJECT,
            message: "Service w".to_owned(),
        };
        let told = GatewayFacts {
            problem: Some(&foreign),
            ..facts(&gateway, &services)
        };
        let told = status(&told, &Value::Null, "now");
        assert_eq!(condition(&told, "Accepted").0, "True");
        assert_eq!(
            condition(&told, DEPLOYED),
            ("False", FOREIGN_OBJECT, "Service w")
        );

        let parameters = Problem {
            reason: "InvalidParameters",
            message: "no".to_owned(),
        };
        let told = GatewayFacts {
            problem: Some(&parameters),
            ..facts(&gateway, &services)
        };
        let told = status(&told, &Value::Null, "now");
        assert_eq!(
            condition(&told, "Accepted"),
            ("False", "InvalidParameters", "no")
        );
        assert!(
            told["conditions"]
                .as_array()
                .unwrap()
                .iter()
                .all(|c| c["type"] != DEPLOYED)
        );
    }
}
