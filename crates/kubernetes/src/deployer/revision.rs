//! Whose a Gateway is: the label `istio.io/rev` of itself or of its namespace, which names a revision or a tag of one.
//! Spec: control-plane.md 8.2, 14.3.

use kube::ResourceExt;
use kube::api::{DynamicObject, PartialObjectMeta};
use kube::runtime::reflector::{ObjectRef, Store};
use waymark_api::names;

use crate::waypoint::GatewayView;

/// Metadata, kept.
pub(super) type MetaStore = Store<PartialObjectMeta<DynamicObject>>;

/// Says which Gateways are of our revision.
#[derive(Clone)]
pub(super) struct Revisions {
    pub(super) revision: String,
    pub(super) namespaces: MetaStore,
    /// What tags are made by: Services and MutatingWebhookConfigurations with the label `istio.io/tag`.
    pub(super) tags: Vec<MetaStore>,
}

impl Revisions {
    /// Whether a Gateway is ours.
    pub(super) fn is_ours(&self, gateway: &GatewayView) -> bool {
        let own = gateway.label(names::REVISION);
        let of_namespace = self.of_namespace(&gateway.namespace);
        let revision = revision_of(own, of_namespace.as_deref(), |tag| self.resolve(tag));
        revision == self.revision
    }

    fn of_namespace(&self, namespace: &str) -> Option<String> {
        let key = ObjectRef::<PartialObjectMeta<DynamicObject>>::new_with(
            namespace,
            super::triggers::namespaces(),
        );
        let namespace = self.namespaces.get(&key)?;
        namespace.labels().get(names::REVISION).cloned()
    }

    /// The revision that a tag stands for.
    fn resolve(&self, tag: &str) -> Option<String> {
        let tagged = self.tags.iter().find_map(|store| {
            store.find(|object| object.labels().get(TAG).is_some_and(|of| of == tag))
        })?;
        tagged.labels().get(names::REVISION).cloned()
    }
}

/// The revision that a Gateway is for, by its own label or its namespace's, which may be a tag of one. What names none is for
/// the default one, unless a tag says that another is.
pub fn revision_of(
    own: Option<&str>,
    of_namespace: Option<&str>,
    resolve: impl Fn(&str) -> Option<String>,
) -> String {
    let wanted = own.or(of_namespace).unwrap_or(DEFAULT);
    resolve(wanted).unwrap_or_else(|| wanted.to_owned())
}

/// Label: the tag that an object is for.
pub(crate) const TAG: &str = "istio.io/tag";
const DEFAULT: &str = "default";
