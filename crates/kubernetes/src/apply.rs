//! Server-side apply of what is made for Gateways, and nothing else. Spec: control-plane.md 8.6.

use std::collections::BTreeMap;
use std::fmt;

use kube::api::{
    Api, ApiResource, DeleteParams, DynamicObject, ListParams, Patch, PatchParams, Preconditions,
};
use kube::core::GroupVersionKind;
use kube::{Client, ResourceExt};
use waymark_api::names;
use waymark_api::waypoint::WaypointClass;

use crate::waypoint::{GatewayView, OwnedKind, Rendered};

/// Writes what is made for Gateways.
#[derive(Clone)]
pub struct Applier {
    client: Client,
}

/// What became of an object that was to be applied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Applied {
    /// It is as wanted.
    Done {
        /// The version that it is at.
        resource_version: String,
    },
    /// There is one already that was not made for this Gateway: it is left alone.
    Foreign,
}

/// Why an object was not applied.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// Something that is never applied, whatever a template says.
    #[error("{kind} {namespace}/{name} does not belong to Gateway {gateway}")]
    NotOfTheGateway {
        /// Its kind.
        kind: &'static str,
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
        /// The Gateway.
        gateway: String,
    },
    /// The API server.
    #[error("{action} {kind} {namespace}/{name}")]
    Api {
        /// What was being done.
        action: &'static str,
        /// The object's kind.
        kind: &'static str,
        /// Its namespace.
        namespace: String,
        /// Its name; empty for lists.
        name: String,
        /// What it said.
        source: Box<kube::Error>,
    },
}

impl fmt::Debug for Applier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Applier(..)")
    }
}

impl Applier {
    /// Applies by this client.
    pub fn new(client: Client) -> Self {
        Self { client }
    }

    /// Applies an object of a Gateway, unless somebody else's has its name.
    ///
    /// `known` is the version at which the object was last seen to be as wanted: if it is at that still, nothing is written.
    ///
    /// # Errors
    /// See [`ApplyError`]. A conflict means that it was changed in between.
    pub async fn apply(
        &self,
        gateway: &GatewayView,
        rendered: &Rendered,
        known: Option<&str>,
    ) -> Result<Applied, ApplyError> {
        guard(gateway, rendered)?;
        let (kind, name) = (rendered.kind, rendered.name());
        let api = self.api(kind, &gateway.namespace);
        let error = |action: &'static str| {
            let namespace = gateway.namespace.clone();
            let name = name.to_owned();
            move |source| ApplyError::Api {
                action,
                kind: kind.as_str(),
                namespace,
                name,
                source: Box::new(source),
            }
        };
        let mut object = rendered.object.clone();
        let found = api.get_metadata_opt(name).await.map_err(error("read"))?;
        if let Some(found) = &found {
            if !is_of(found.labels(), gateway) {
                return Ok(Applied::Foreign);
            }
            if let Some(version) = found.resource_version() {
                if known == Some(&version) {
                    return Ok(Applied::Done {
                        resource_version: version,
                    });
                }
                // If it is replaced by another meanwhile, that one is not ours to write.
                object["metadata"]["resourceVersion"] = version.into();
            }
        }
        let params = PatchParams::apply(field_manager(gateway.class)).force();
        let applied = api
            .patch_metadata(name, &params, &Patch::Apply(&object))
            .await
            .map_err(error("apply"))?;
        Ok(Applied::Done {
            resource_version: applied.resource_version().unwrap_or_default(),
        })
    }

    /// Deletes what was once made for a Gateway and is not among what is `wanted` now. Returns the names.
    ///
    /// Only what names the Gateway as its owner and has the mark of one of `classes` is deleted, and only if it is still
    /// what was seen.
    ///
    /// # Errors
    /// See [`ApplyError`].
    pub async fn delete_unwanted(
        &self,
        gateway: &Owner,
        classes: &[WaypointClass],
        wanted: &[Rendered],
    ) -> Result<Vec<String>, ApplyError> {
        let mut deleted = Vec::new();
        let selector = format!("{}={}", names::GATEWAY_NAME, gateway.name);
        for kind in OwnedKind::ALL {
            let api = self.api(kind, &gateway.namespace);
            let error = |action: &'static str, name: &str| {
                let (namespace, name) = (gateway.namespace.clone(), name.to_owned());
                move |source| ApplyError::Api {
                    action,
                    kind: kind.as_str(),
                    namespace,
                    name,
                    source: Box::new(source),
                }
            };
            let listed = api
                .list_metadata(&ListParams::default().labels(&selector))
                .await
                .map_err(error("list", ""))?;
            for object in listed {
                let name = object.name_any();
                let mark = object.labels().get(names::GATEWAY_MANAGED);
                let ours = classes
                    .iter()
                    .any(|class| mark.is_some_and(|mark| mark == class.managed()));
                let owned = object
                    .owner_references()
                    .iter()
                    .any(|owner| owner.uid == gateway.uid);
                let is_wanted = wanted.iter().any(|w| w.kind == kind && w.name() == name);
                if !ours || !owned || is_wanted || object.metadata.deletion_timestamp.is_some() {
                    continue;
                }
                let params = DeleteParams {
                    preconditions: Some(Preconditions {
                        uid: object.uid(),
                        resource_version: object.resource_version(),
                    }),
                    ..DeleteParams::background()
                };
                match api.delete(&name, &params).await {
                    Ok(_) => deleted.push(format!("{} {name}", kind.as_str())),
                    Err(kube::Error::Api(status)) if status.code == 404 => {}
                    Err(source) => return Err(error("delete", &name)(source)),
                }
            }
        }
        Ok(deleted)
    }

    fn api(&self, kind: OwnedKind, namespace: &str) -> Api<DynamicObject> {
        Api::namespaced_with(self.client.clone(), namespace, &resource(kind))
    }
}

/// Who the API server notes as the writer of a Gateway's objects. Of upstream's class it is upstream's: whichever control
/// plane has the Gateway owns what the other has written, and leaves no field of its behind.
pub const fn field_manager(class: WaypointClass) -> &'static str {
    match class {
        WaypointClass::Istio => "istio.io/gateway-controller",
        WaypointClass::Waymark => "waymark.dev/gateway-controller",
    }
}

/// The Gateway that objects were made for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owner {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its UID.
    pub uid: String,
}

/// How a kind is addressed.
pub fn resource(kind: OwnedKind) -> ApiResource {
    let (group, version) = kind
        .api_version()
        .split_once('/')
        .unwrap_or(("", kind.api_version()));
    ApiResource::from_gvk_with_plural(
        &GroupVersionKind::gvk(group, version, kind.as_str()),
        kind.plural(),
    )
}

/// Whether an object was made for this Gateway: two that want the same name do not write by turns.
fn is_of(labels: &BTreeMap<String, String>, gateway: &GatewayView) -> bool {
    labels.contains_key(names::GATEWAY_MANAGED)
        && labels
            .get(names::GATEWAY_NAME)
            .is_none_or(|of| *of == gateway.name)
}

/// What is written must be of the Gateway by namespace, name and owner, whatever templates and overlays have done.
fn guard(gateway: &GatewayView, rendered: &Rendered) -> Result<(), ApplyError> {
    let name = rendered.name();
    let namespace = rendered.object["metadata"]["namespace"]
        .as_str()
        .unwrap_or_default();
    let owned = rendered.object["metadata"]["ownerReferences"]
        .as_array()
        .is_some_and(|owners| {
            owners
                .iter()
                .any(|owner| owner["uid"] == gateway.uid.as_str())
        });
    let named = name == gateway.deployment_name()
        || name == gateway.service_account_name()
        || name.starts_with(&gateway.name);
    if namespace == gateway.namespace && owned && named && !gateway.uid.is_empty() {
        return Ok(());
    }
    Err(ApplyError::NotOfTheGateway {
        kind: rendered.kind.as_str(),
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        gateway: format!("{}/{}", gateway.namespace, gateway.name),
    })
}
