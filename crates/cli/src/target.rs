//! The argument that names a proxy: `[<type>/]<name>[.<namespace>]`.

use crate::error::CliError;

/// What the argument says.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Reference<'a> {
    pub(crate) kind: Kind,
    pub(crate) name: &'a str,
    pub(crate) namespace: Option<&'a str>,
}

/// The kinds that pods are found by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Pod,
    Deployment,
    Gateway,
    Service,
    StatefulSet,
    DaemonSet,
    ReplicaSet,
    Job,
}

impl Kind {
    /// Its name, when nothing of a mesh on one machine is of it.
    pub(crate) fn without_proxy(self) -> Option<&'static str> {
        match self {
            Self::Pod | Self::Deployment | Self::Gateway => None,
            Self::Service => Some("service"),
            Self::StatefulSet => Some("statefulset"),
            Self::DaemonSet => Some("daemonset"),
            Self::ReplicaSet => Some("replicaset"),
            Self::Job => Some("job"),
        }
    }
}

/// Reads the argument.
///
/// # Errors
/// When it names nothing, or something of a kind that has no pods.
pub(crate) fn parse(argument: &str) -> Result<Reference<'_>, CliError> {
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
    Ok(match plain.as_str() {
        "pod" | "pods" | "po" => Kind::Pod,
        "deploy" | "deployment" | "deployments" => Kind::Deployment,
        "gateway" | "gateways" | "gtw" => Kind::Gateway,
        "svc" | "service" | "services" => Kind::Service,
        "sts" | "statefulset" | "statefulsets" => Kind::StatefulSet,
        "ds" | "daemonset" | "daemonsets" => Kind::DaemonSet,
        "rs" | "replicaset" | "replicasets" => Kind::ReplicaSet,
        "job" | "jobs" => Kind::Job,
        _ => {
            return Err(CliError::NotFound(format!(
                "\"{argument}\": resource type \"{kind}\" has no pods (pod, deployment, gateway, service, statefulset, daemonset, replicaset, job)"
            )));
        }
    })
}
