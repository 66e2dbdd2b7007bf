//! The argument that names a proxy: `[<type>/]<name>[.<namespace>]`.

use std::net::SocketAddr;

use crate::Global;
use crate::error::CliError;
use crate::mesh::Mesh;

/// A proxy whose admin endpoint can be asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Proxy {
    /// `<pod>.<namespace>`.
    pub(crate) name: String,
    pub(crate) admin: SocketAddr,
}

#[derive(Debug, PartialEq, Eq)]
struct Reference<'a> {
    kind: Kind,
    name: &'a str,
    namespace: Option<&'a str>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Pod,
    Deployment,
    Gateway,
}

/// Finds the proxy that the argument means: the pod, or the first replica of the deployment or Gateway.
pub(crate) fn resolve(mesh: &Mesh, global: &Global, argument: &str) -> Result<Proxy, CliError> {
    let reference = parse(argument)?;
    let namespace = reference
        .namespace
        .or(global.namespace.as_deref())
        .unwrap_or("default");
    if let Some(proxy) = replicas(mesh)
        .into_iter()
        .find_map(|(replica, deployment, pod)| {
            let named = match reference.kind {
                Kind::Pod => pod == reference.name,
                Kind::Deployment => deployment == reference.name,
                Kind::Gateway => {
                    deployment == reference.name
                        || deployment.strip_suffix("-istio-waypoint") == Some(reference.name)
                }
            };
            (named && replica.namespace == namespace).then(|| Proxy {
                name: format!("{pod}.{namespace}"),
                admin: replica.admin,
            })
        })
    {
        return Ok(proxy);
    }
    let is_workload = mesh
        .workloads
        .iter()
        .any(|w| w.namespace == namespace && w.name == reference.name);
    Err(CliError::NotFound(if is_workload {
        format!(
            "pod {}.{namespace} has no proxy of its own: in an ambient mesh the node proxy serves it",
            reference.name
        )
    } else {
        format!("no pods match \"{argument}\" in the \"{namespace}\" namespace")
    }))
}

/// Every replica with its deployment's and its pod's name (`<deployment>-<index>`).
pub(crate) fn replicas(mesh: &Mesh) -> Vec<(&crate::mesh::Waypoint, &str, String)> {
    let mut seen = std::collections::BTreeMap::new();
    mesh.waypoints
        .iter()
        .map(|replica| {
            let index = seen
                .entry((&replica.namespace, &replica.name))
                .and_modify(|n| *n += 1)
                .or_insert(0_usize);
            (
                replica,
                replica.name.as_str(),
                format!("{}-{index}", replica.name),
            )
        })
        .collect()
}

fn parse(argument: &str) -> Result<Reference<'_>, CliError> {
    let (kind, rest) = match argument.rsplit_once('/') {
        None => (Kind::Pod, argument),
        Some((kind, rest)) => (parse_kind(kind, argument)?, rest),
    };
    let (name, namespace) = match rest.rsplit_once('.') {
        None => (rest, None),
        Some((name, namespace)) => (name, Some(namespace)),
    };
    if name.is_empty() || namespace == Some("") {
        return Err(CliError::Usage(format!(
            "\"{argument}\" names no resource: [<type>/]<name>[.<namespace>]"
        )));
    }
    Ok(Reference {
        kind,
        name,
        namespace,
    })
}

fn parse_kind(kind: &str, argument: &str) -> Result<Kind, CliError> {
    // `deployments.apps/x`, as kubectl allows.
    let plain = kind.split('.').next().unwrap_or(kind).to_lowercase();
    match plain.as_str() {
        "pod" | "pods" | "po" => Ok(Kind::Pod),
        "deploy" | "deployment" | "deployments" => Ok(Kind::Deployment),
        "gateway" | "gateways" | "gtw" => Ok(Kind::Gateway),
        _ => Err(CliError::NotFound(format!(
            "\"{argument}\": resource type \"{kind}\" has no proxy in a mesh on this machine (pod, deployment, gateway)"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mesh() -> Mesh {
        serde_json::from_value(serde_json::json!({
            "stateDir": "/s", "meshDirectory": "/m", "controlPlane": {"debug": "127.0.0.1:1"},
            "waypoints": [
                {"namespace": "default", "name": "bookinfo-reviews-istio-waypoint", "admin": "127.244.0.9:15000"},
                {"namespace": "default", "name": "bookinfo-reviews-istio-waypoint", "admin": "127.244.0.10:15000"}],
            "workloads": [{"namespace": "default", "name": "productpage-v1"}]}))
        .expect("mesh")
    }

    #[test]
    fn finds_replicas_by_every_way_to_name_them() {
        for (argument, want) in [
            ("deploy/bookinfo-reviews-istio-waypoint", 9),
            ("deployment/bookinfo-reviews-istio-waypoint.default", 9),
            ("deployments.apps/bookinfo-reviews-istio-waypoint", 9),
            ("gateway/bookinfo-reviews", 9),
            ("bookinfo-reviews-istio-waypoint-1", 10),
            ("pod/bookinfo-reviews-istio-waypoint-1.default", 10),
        ] {
            let proxy = resolve(&mesh(), &Global::default(), argument).expect(argument);
            assert_eq!(
                proxy.admin.to_string(),
                format!("127.244.0.{want}:15000"),
                "{argument}"
            );
        }
    }

    #[test]
    fn says_why_nothing_is_found() {
        for (argument, want) in [
            (
                "deploy/none",
                "no pods match \"deploy/none\" in the \"default\" namespace",
            ),
            ("productpage-v1", "has no proxy of its own"),
            ("svc/reviews", "resource type \"svc\""),
            ("deploy/x.", "names no resource"),
        ] {
            let error = resolve(&mesh(), &Global::default(), argument).expect_err(argument);
            assert!(error.to_string().contains(want), "{argument}: {error}");
        }
    }
}
