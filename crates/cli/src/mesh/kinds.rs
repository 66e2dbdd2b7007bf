//! The kinds that the commands name, as an API server knows them.

use kube::api::ApiResource;
use kube::core::GroupVersionKind;

use crate::target::Kind;

/// Gateways, of a version of the Gateway API.
pub(super) fn gateways(version: &str) -> ApiResource {
    of("gateway.networking.k8s.io", version, "Gateway", "gateways")
}

/// What pods are found by.
pub(super) fn of_kind(kind: Kind) -> ApiResource {
    match kind {
        Kind::Pod => of("", "v1", "Pod", "pods"),
        Kind::Deployment => of("apps", "v1", "Deployment", "deployments"),
        Kind::Gateway => gateways("v1"),
        Kind::Service => of("", "v1", "Service", "services"),
        Kind::StatefulSet => of("apps", "v1", "StatefulSet", "statefulsets"),
        Kind::DaemonSet => of("apps", "v1", "DaemonSet", "daemonsets"),
        Kind::ReplicaSet => of("apps", "v1", "ReplicaSet", "replicasets"),
        Kind::Job => of("batch", "v1", "Job", "jobs"),
    }
}

pub(super) fn namespaces() -> ApiResource {
    of("", "v1", "Namespace", "namespaces")
}

fn of(group: &str, version: &str, kind: &str, plural: &str) -> ApiResource {
    ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(group, version, kind), plural)
}
