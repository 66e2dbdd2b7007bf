//! What the statuses of a cluster's objects are made from: what the index knows, in upstream's words.
//!
//! Spec: control-plane.md 7.3, 9.2, 10.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::sync::watch;
use waymark_api::gateway::{BackendKind, BackendRef, HttpRoute, ParentKind, ParentRef};
use waymark_api::host::{host_matches, service_host};
use waymark_api::meta::Kind;
use waymark_api::{ErrorClass, ObjectRef, Resource};
use waymark_kubernetes::status::{
    Condition, MeshStatus, ParentStatus, RouteStatus, ServiceFinding, StatusKey, StatusKind,
};

use super::WAYPOINT_BOUND;
use crate::core::{Core, Inner};
use crate::index::binding::Binding;
use crate::index::service::Service;
use crate::index::workload::Health;

/// The control plane, as the writer of statuses sees it.
#[derive(Debug)]
pub struct ClusterStatus {
    core: Arc<Core>,
    /// Routes of services whose waypoint is another revision's are that one's to tell about.
    revision: String,
}

impl ClusterStatus {
    /// What `core` knows, told by a revision.
    pub fn new(core: Arc<Core>, revision: &str) -> Self {
        Self {
            core,
            revision: revision.to_owned(),
        }
    }
}

impl MeshStatus for ClusterStatus {
    fn changes(&self) -> watch::Receiver<u64> {
        self.core.revision()
    }

    fn service(&self, host: &str, port: u16) -> ServiceFinding {
        self.core
            .read_host(host, |inner| finding(inner, host, port))
    }

    fn conditions(&self) -> Vec<(StatusKey, Vec<Condition>)> {
        self.core.read(conditions)
    }

    fn routes(&self) -> Vec<(StatusKey, RouteStatus)> {
        self.core.read(|inner| routes(inner, &self.revision))
    }

    fn refused(&self) -> Vec<(ObjectRef, String)> {
        self.core.read(refused)
    }
}

/// How the Service is that a host names.
pub(super) fn finding(inner: &Inner, host: &str, port: u16) -> ServiceFinding {
    let Some(service) = inner.index.canonical(host) else {
        return ServiceFinding::NotFound;
    };
    let ready = inner
        .index
        .members()
        .of_service(&service.key)
        .filter_map(|uid| inner.index.workload(uid))
        .any(|workload| workload.health == Health::Healthy);
    if !ready {
        return ServiceFinding::NoEndpoints;
    }
    if service.ports.iter().all(|of| of.number != port) {
        return ServiceFinding::NoPort;
    }
    ServiceFinding::Ready {
        vips: service.vips.iter().map(ipnet::IpNet::addr).collect(),
    }
}

/// Conditions of Services and ServiceEntries. Of an entry with several hosts, the first that has something to say decides.
fn conditions(inner: &Inner) -> Vec<(StatusKey, Vec<Condition>)> {
    let mut all: BTreeMap<StatusKey, Vec<Condition>> = BTreeMap::new();
    for service in inner.index.services() {
        let kind = if service.registry.is_service_entry() {
            StatusKind::ServiceEntry
        } else {
            StatusKind::Service
        };
        let mut told: Vec<Condition> = super::service_status(inner, service)
            .into_iter()
            .flat_map(|status| status.conditions)
            .map(|condition| {
                if condition.status == "True" {
                    Condition::yes(WAYPOINT_BOUND, &condition.reason, condition.message)
                } else {
                    Condition::no(WAYPOINT_BOUND, &condition.reason, condition.message)
                }
            })
            .collect();
        told.extend(waypoint_missing(inner, service));
        if !told.is_empty() {
            let key = StatusKey::new(kind, &*service.key.namespace, &*service.name);
            all.entry(key).or_insert(told);
        }
    }
    all.into_iter().collect()
}

/// A wildcard host means nothing to node proxies: only a waypoint serves it.
fn waypoint_missing(inner: &Inner, service: &Service) -> Option<Condition> {
    let wildcard = service.registry.is_service_entry() && service.key.host.starts_with('*');
    let bound = matches!(inner.index.service_binding(&service.key), Binding::Bound(_));
    (wildcard && !bound).then(|| {
        Condition::yes(
            WAYPOINT_MISSING,
            "NoWaypointForWildcardService",
            "a wildcard host has no effect until the ServiceEntry is bound to a waypoint",
        )
    })
}

fn routes(inner: &Inner, revision: &str) -> Vec<(StatusKey, RouteStatus)> {
    let mut all: BTreeMap<StatusKey, RouteStatus> = BTreeMap::new();
    for (_, object) in inner.facts.store().of_kind(Kind::HttpRoute) {
        if let Resource::HttpRoute(route) = object
            && is_ours(inner, route, revision)
        {
            let parents = route
                .parent_refs
                .iter()
                .map(|parent| parent_status(inner, route, parent))
                .collect();
            let status = RouteStatus::Read {
                generation: route.meta.generation,
                parents,
            };
            all.insert(route_key(&route.meta.namespace, &route.meta.name), status);
        }
    }
    // What is refused now may have a good version in force still; it is the refusal that its author has to know of.
    for (object, why) in refused(inner) {
        if object.kind == "HTTPRoute" {
            let parent = ParentStatus {
                conditions: vec![
                    Condition::no("Accepted", "UnsupportedValue", why),
                    Condition::yes("ResolvedRefs", "ResolvedRefs", ALL_RESOLVED),
                ],
            };
            let namespace = object.namespace.unwrap_or_default();
            all.insert(
                route_key(&namespace, &object.name),
                RouteStatus::Refused(parent),
            );
        }
    }
    all.into_iter().collect()
}

fn route_key(namespace: &str, name: &str) -> StatusKey {
    StatusKey::new(StatusKind::HttpRoute, namespace, name)
}

/// Whether none of a route's parents is served by the waypoint of another control plane.
fn is_ours(inner: &Inner, route: &HttpRoute, revision: &str) -> bool {
    route.parent_refs.iter().all(|parent| {
        let waypoint = parent_services(inner, route, parent)
            .into_iter()
            .find_map(|service| inner.index.waypoint_of(&service.key))
            .and_then(|key| inner.index.waypoints().find(key));
        waypoint
            .is_none_or(|waypoint| waypoint.revision.as_deref().unwrap_or("default") == revision)
    })
}

/// The services that a parent reference means: a Service, or the hosts of a ServiceEntry.
fn parent_services<'a>(
    inner: &'a Inner,
    route: &HttpRoute,
    parent: &ParentRef,
) -> Vec<&'a Arc<Service>> {
    let namespace = parent.namespace.as_deref().unwrap_or(&route.meta.namespace);
    match parent.kind {
        ParentKind::Service => {
            let host = service_host(&parent.name, namespace);
            let key = crate::index::key::ServiceKey::new(namespace, host);
            inner.index.service(&key).into_iter().collect()
        }
        ParentKind::ServiceEntry => inner
            .index
            .services()
            .filter(|service| {
                service.registry.is_service_entry()
                    && &*service.key.namespace == namespace
                    && &*service.name == parent.name.as_str()
            })
            .collect(),
        ParentKind::Gateway => Vec::new(),
    }
}

fn parent_status(inner: &Inner, route: &HttpRoute, parent: &ParentRef) -> ParentStatus {
    let namespace = parent.namespace.as_deref().unwrap_or(&route.meta.namespace);
    let kind = match parent.kind {
        ParentKind::Service => "Service",
        ParentKind::ServiceEntry => "ServiceEntry",
        ParentKind::Gateway => "Gateway",
    };
    let name = format!("{namespace}/{}", parent.name);
    let services = parent_services(inner, route, parent);
    let port = parent.port.filter(|port| {
        !services
            .iter()
            .any(|service| service.ports.iter().any(|of| of.number == *port))
    });
    let accepted = match (services.as_slice(), port) {
        ([], _) => Condition::no(
            "Accepted",
            "NoMatchingParent",
            format!("parent {kind} {name} not found"),
        ),
        (_, Some(port)) => Condition::no(
            "Accepted",
            "NoMatchingParent",
            format!("parent {kind} {name} has no port {port}"),
        ),
        (_, None) => Condition::yes("Accepted", "Accepted", "Route was valid"),
    };
    let bound = services
        .iter()
        .any(|service| inner.index.waypoint_of(&service.key).is_some());
    let waypoints = if services.is_empty() {
        format!("parent {kind} {name} was not found")
    } else if bound {
        "All waypoints resolved".to_owned()
    } else {
        format!(
            "{kind} {name} and its namespace have no istio.io/use-waypoint label: the route has no effect in ambient mode"
        )
    };
    ParentStatus {
        conditions: vec![
            accepted,
            resolved_refs(inner, route),
            Condition::yes("ResolvedWaypoints", "ResolvedWaypoints", waypoints),
        ],
    }
}

fn resolved_refs(inner: &Inner, route: &HttpRoute) -> Condition {
    let missing = route.rules.iter().find_map(|rule| {
        let backends = rule.backend_refs.iter().map(|weighted| &weighted.backend);
        let mirrors = rule.filters.mirrors.iter().map(|mirror| &mirror.backend);
        backends
            .chain(mirrors)
            .find_map(|backend| unresolved(inner, route, backend))
    });
    match missing {
        Some(why) => Condition::no("ResolvedRefs", "BackendNotFound", why),
        None => Condition::yes("ResolvedRefs", "ResolvedRefs", ALL_RESOLVED),
    }
}

/// Why a backend leads nowhere.
fn unresolved(inner: &Inner, route: &HttpRoute, backend: &BackendRef) -> Option<String> {
    let namespace = backend
        .namespace
        .as_deref()
        .unwrap_or(&route.meta.namespace);
    let host = match backend.kind {
        BackendKind::Service => service_host(&backend.name, namespace),
        BackendKind::Hostname => backend.name.clone(),
    };
    let exact = inner.index.services_of_host(&host).next().is_some();
    let found = exact
        || backend.kind == BackendKind::Hostname
            && inner.index.services().any(|service| {
                service.key.host.starts_with('*') && host_matches(&service.key.host, &host)
            });
    (!found).then(|| format!("backend({host}) not found"))
}

/// What is wrong with objects of the mesh, one text an object.
fn refused(inner: &Inner) -> Vec<(ObjectRef, String)> {
    let mut all: BTreeMap<ObjectRef, String> = BTreeMap::new();
    for error in inner.document_errors() {
        // A Gateway of another class is an ingress controller's.
        let other_class = error.field.as_deref() == Some("spec.gatewayClassName");
        let Some(object) = error.object.filter(|_| !other_class) else {
            continue;
        };
        if error.class == ErrorClass::NotRead {
            continue;
        }
        let mut text = match &error.field {
            Some(field) => format!("{field}: {}", error.message),
            None => error.message,
        };
        if let Some(allowed) = &error.allowed {
            text.push_str(&format!(" ({allowed})"));
        }
        all.entry(object)
            .and_modify(|all| {
                all.push_str("; ");
                all.push_str(&text);
            })
            .or_insert(text);
    }
    all.into_iter().collect()
}

const WAYPOINT_MISSING: &str = "istio.io/WaypointMissing";
const ALL_RESOLVED: &str = "All references resolved";

#[cfg(test)]
mod tests;
