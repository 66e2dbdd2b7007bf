//! Gateways. Spec: control-plane.md 9.1.

use std::net::{IpAddr, SocketAddr};

use waymark_api::Resource;
use waymark_api::gateway::{Gateway, ListenerProtocol, WaypointForm};
use waymark_api::meta::Kind;
use waymark_api::names;
use waymark_kubernetes::status::ConditionStatus;

use super::cluster::finding;
use super::{Address, Condition, GatewayStatus, READY, ReplicaStatus};
use crate::core::Inner;
use crate::deploy::{Phase, ReplicaKey, ReplicaState};
use crate::facts::ReplicaSource;
use crate::index::key::WaypointKey;
use crate::index::waypoint::{Deployment, Instance, Replica, Waypoint, WaypointAddress};

/// Every Gateway.
pub(super) fn all(inner: &Inner) -> Vec<GatewayStatus> {
    inner
        .facts
        .store()
        .of_kind(Kind::Gateway)
        .filter_map(|(_, object)| match object {
            Resource::Gateway(gateway) => Some(one(inner, gateway)),
            _ => None,
        })
        .collect()
}

fn one(inner: &Inner, gateway: &Gateway) -> GatewayStatus {
    let key = WaypointKey::new(gateway.meta.namespace.as_str(), gateway.meta.name.as_str());
    let waypoint = inner
        .index
        .waypoints()
        .find(&key)
        .map(|waypoint| &**waypoint);
    let deployment = waypoint.and_then(Waypoint::deployment);
    GatewayStatus {
        class: gateway.spec.class_name.clone(),
        form: match gateway.form() {
            WaypointForm::Today => "today",
            WaypointForm::ServiceAccount2023(_) | WaypointForm::Namespace2023 => "2023",
        }
        .to_owned(),
        for_service_account: gateway.for_service_account.clone(),
        deployment: deployment
            .map(|deployment| deployment.name.as_ref().to_owned())
            .unwrap_or_default(),
        service_account: deployment
            .map(|of| of.service_account.as_ref().to_owned())
            .unwrap_or_default(),
        revision: gateway
            .meta
            .label(names::REVISION)
            .unwrap_or("default")
            .to_owned(),
        traffic_type: waypoint
            .map_or_else(|| gateway.traffic_type(None), |waypoint| waypoint.traffic)
            .to_string(),
        conditions: conditions(inner, gateway, waypoint),
        addresses: addresses(inner, &key, waypoint),
        replicas: deployment
            .map(|deployment| replicas(inner, &key, deployment))
            .unwrap_or_default(),
        namespace: key.namespace,
        name: key.name,
    }
}

fn conditions(inner: &Inner, gateway: &Gateway, waypoint: Option<&Waypoint>) -> Vec<Condition> {
    let Some(waypoint) = waypoint else {
        // The state that the API server gives a new Gateway, which stays while nobody takes it up.
        let pending = |r#type: &str| Condition {
            status: "Unknown".to_owned(),
            ..Condition::new(r#type, false, "Pending", "Waiting for controller")
        };
        return vec![pending("Accepted"), pending("Programmed")];
    };
    let expected = match gateway.spec.listeners.as_slice() {
        [listener] => {
            listener.port == names::HBONE_PORT && listener.protocol == ListenerProtocol::Hbone
        }
        _ => false,
    };
    let refused = waypoint
        .deployment()
        .and_then(|deployment| refused(inner, &waypoint.key, deployment));
    let accepted = if let Some(why) = refused {
        Condition::new("Accepted", false, "InvalidParameters", why)
    } else if expected || waypoint.deployment().is_none() {
        Condition::new("Accepted", true, "Accepted", "Resource accepted")
    } else {
        let message = "Expected a single listener on port 15008 with protocol \"HBONE\"";
        Condition::new("Accepted", false, "ListenersNotValid", message)
    };
    vec![accepted, programmed(inner, waypoint)]
}

/// Why the waypoint cannot be run as the Gateway asks.
fn refused(inner: &Inner, key: &WaypointKey, deployment: &Deployment) -> Option<String> {
    states(inner, key, deployment).find_map(|(_, state)| state.refused.clone())
}

fn states<'a>(
    inner: &'a Inner,
    key: &'a WaypointKey,
    deployment: &'a Deployment,
) -> impl Iterator<Item = (&'a ReplicaKey, &'a ReplicaState)> {
    inner.replica_states().iter().filter(|(state, _)| {
        state.namespace == key.namespace && state.deployment == *deployment.name
    })
}

fn programmed(inner: &Inner, waypoint: &Waypoint) -> Condition {
    let host = match &waypoint.instance {
        Instance::Deployed(deployment) => {
            waymark_api::host::service_host(&deployment.name, &waypoint.key.namespace)
        }
        Instance::External(WaypointAddress::Hostname(host)) => host.as_ref().to_owned(),
        Instance::External(WaypointAddress::Ip(_)) => {
            return Condition::new("Programmed", true, "Programmed", "Resource programmed");
        }
    };
    let finding = finding(inner, &host, names::HBONE_PORT);
    let condition = waymark_kubernetes::status::programmed(&[(host, finding)], names::HBONE_PORT);
    let yes = condition.status == ConditionStatus::True;
    Condition::new(condition.kind, yes, &condition.reason, condition.message)
}

fn addresses(inner: &Inner, key: &WaypointKey, waypoint: Option<&Waypoint>) -> Vec<Address> {
    let Some(waypoint) = waypoint.filter(|_| inner.index.is_programmed(key)) else {
        return Vec::new();
    };
    let ip = |ip: IpAddr| Address {
        r#type: "IPAddress".to_owned(),
        value: ip.to_string(),
    };
    let hostname = |host: String| Address {
        r#type: "Hostname".to_owned(),
        value: host,
    };
    match &waypoint.instance {
        Instance::Deployed(deployment) => {
            let host = waymark_api::host::service_host(&deployment.name, &key.namespace);
            let vips = deployment.vip.into_iter().map(ip);
            vips.chain([hostname(host)]).collect()
        }
        Instance::External(WaypointAddress::Hostname(host)) => {
            vec![hostname(host.as_ref().to_owned())]
        }
        Instance::External(WaypointAddress::Ip(address)) => vec![ip(*address)],
    }
}

fn replicas(inner: &Inner, key: &WaypointKey, deployment: &Deployment) -> Vec<ReplicaStatus> {
    let states: Vec<(&ReplicaKey, &ReplicaState)> = states(inner, key, deployment).collect();
    let replica = |replica: &Replica| {
        let state = states
            .iter()
            .find(|(key, _)| key.name() == *replica.name)
            .map(|(_, state)| *state);
        let (text, message) = match state.map(|state| &state.phase) {
            None if inner.facts.settings().replicas == ReplicaSource::Connections => {
                (READY, String::new())
            }
            None => ("Pending", String::new()),
            Some(Phase::Starting) => ("Starting", String::new()),
            Some(Phase::Ready) => (READY, String::new()),
            Some(Phase::Backoff { why }) => ("Backoff", why.clone()),
            Some(Phase::Draining) => ("Draining", String::new()),
        };
        let refused = state.and_then(|state| state.refused.clone());
        let message = refused.unwrap_or(message);
        ReplicaStatus {
            name: replica.name.as_ref().to_owned(),
            address: replica.address.to_string(),
            admin: SocketAddr::new(replica.address, ADMIN_PORT).to_string(),
            pid: state.and_then(|state| state.pid),
            state: text.to_owned(),
            message,
            restarts: state.map_or(0, |state| state.restarts),
        }
    };
    deployment.replicas.iter().map(replica).collect()
}

/// Where a waypoint's admin endpoints are. Spec: ARCHITECTURE.md, addresses.
const ADMIN_PORT: u16 = 15000;
