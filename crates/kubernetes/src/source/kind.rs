//! Which kinds are watched, and in which version the API server has them.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{APIGroup, APIResourceList};
use kube::Client;
use kube::api::ApiResource;
use waymark_api::meta::Kind;
use waymark_api::support::REFUSED_KINDS;

/// A kind that is watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Watched {
    /// Its API group, empty for the Kubernetes core.
    pub(crate) group: &'static str,
    /// Its name.
    pub(crate) kind: &'static str,
    /// The versions that are understood, the best first; empty when it does not matter.
    versions: &'static [&'static str],
    /// Whether objects of it are read, rather than only refused.
    pub(crate) is_read: bool,
}

/// Every kind that is watched: those that are read, and those that upstream reads and that are refused, so that nobody
/// relies on them.
pub(crate) fn all() -> Vec<Watched> {
    let read = Kind::ALL.into_iter().map(|kind| Watched {
        group: kind.group(),
        kind: kind.as_str(),
        versions: kind.versions(),
        is_read: true,
    });
    let refused = REFUSED_KINDS.iter().map(|refused| Watched {
        group: refused.group,
        kind: refused.kind,
        versions: &[],
        is_read: false,
    });
    read.chain(refused).collect()
}

impl Watched {
    /// Name of its custom resource definition; `None` for kinds that are built in.
    pub(crate) fn crd(&self) -> Option<String> {
        let built_in = !self.group.contains('.') || self.group.ends_with(".k8s.io");
        let added = self.group.contains("networking.k8s.io") || self.group.contains(".x-k8s.io");
        (!built_in || added).then(|| format!("{}.{}", plural(self.kind), self.group))
    }

    /// Whether Istio made it, so that objects of other revisions are none of our business.
    pub(crate) fn is_istio(&self) -> bool {
        self.group.ends_with(".istio.io")
    }

    /// The kind in the best version that is served and understood; `None` when there is none.
    pub(crate) async fn served(&self, client: &Client) -> kube::Result<Option<ApiResource>> {
        if self.group.is_empty() {
            let list = client.list_core_api_resources("v1").await?;
            return Ok(self.resource("v1", &list));
        }
        let request = http::Request::get(format!("/apis/{}", self.group))
            .body(Vec::new())
            .map_err(kube::Error::HttpError)?;
        let Some(group) = found(client.request::<APIGroup>(request).await)? else {
            return Ok(None);
        };
        for version in self.candidates(&group) {
            let group_version = format!("{}/{version}", self.group);
            let list = found(client.list_api_group_resources(&group_version).await)?;
            if let Some(resource) = list.and_then(|list| self.resource(&version, &list)) {
                return Ok(Some(resource));
            }
        }
        Ok(None)
    }

    /// The versions to try, the best first.
    fn candidates(&self, group: &APIGroup) -> Vec<String> {
        let served: Vec<String> = group
            .preferred_version
            .iter()
            .chain(&group.versions)
            .map(|version| version.version.clone())
            .collect();
        if self.versions.is_empty() {
            return served;
        }
        let understood = self.versions.iter().map(|version| (*version).to_owned());
        understood
            .filter(|version| served.contains(version))
            .collect()
    }

    fn resource(&self, version: &str, list: &APIResourceList) -> Option<ApiResource> {
        let resource = list.resources.iter().find(|resource| {
            resource.kind == self.kind
                && !resource.name.contains('/')
                && resource.verbs.iter().any(|verb| verb == "watch")
        })?;
        let (group, kind) = (self.group.to_owned(), self.kind.to_owned());
        Some(ApiResource {
            api_version: list.group_version.clone(),
            plural: resource.name.clone(),
            version: version.to_owned(),
            group,
            kind,
        })
    }
}

/// `None` for what is not there.
pub(crate) fn found<T>(result: kube::Result<T>) -> kube::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        // By its code: a path that nobody serves is answered in plain text, without a reason.
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(None),
        Err(error) => Err(error),
    }
}

/// The plural of a kind, as all kinds that are watched have it.
fn plural(kind: &str) -> String {
    let name = kind.to_ascii_lowercase();
    match name.strip_suffix('y') {
        Some(stem) if !stem.ends_with('a') => format!("{stem}ies"),
        _ if name.ends_with('s') => format!("{name}es"),
        _ => format!("{name}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn custom_resource_definitions_are_called_as_upstream_calls_them() {
        let crd = |kind: &str| {
            all()
                .into_iter()
                .find(|w| w.kind == kind)
                .and_then(|w| w.crd())
        };
        for (kind, name) in [
            ("GatewayClass", "gatewayclasses.gateway.networking.k8s.io"),
            ("HTTPRoute", "httproutes.gateway.networking.k8s.io"),
            ("Gateway", "gateways.gateway.networking.k8s.io"),
            ("ServiceEntry", "serviceentries.networking.istio.io"),
            ("VirtualService", "virtualservices.networking.istio.io"),
            ("DestinationRule", "destinationrules.networking.istio.io"),
            ("Telemetry", "telemetries.telemetry.istio.io"),
            (
                "BackendTLSPolicy",
                "backendtlspolicies.gateway.networking.k8s.io",
            ),
            (
                "XBackendTrafficPolicy",
                "xbackendtrafficpolicies.gateway.networking.x-k8s.io",
            ),
        ] {
            assert_eq!(crd(kind).as_deref(), Some(name));
        }
        for kind in ["Pod", "Service", "EndpointSlice", "Namespace"] {
            assert_eq!(crd(kind), None, "{kind}");
        }
    }
}
