//! An object as the API server gives it, made smaller.

use std::borrow::Cow;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::ApiResource;
use kube::core::DynamicResourceScope;
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};

/// An object of any kind. Managed fields and what `kubectl apply` notes, which can be larger than all the rest, are gone as
/// soon as it is read.
#[derive(Clone, Debug)]
pub(crate) struct Object {
    /// Only what names it.
    metadata: ObjectMeta,
    value: Value,
}

impl Object {
    /// Its namespace, empty when it has none, and its name.
    pub(crate) fn name(&self) -> (String, String) {
        (
            self.metadata.namespace.clone().unwrap_or_default(),
            self.metadata.name.clone().unwrap_or_default(),
        )
    }

    /// Its version among all that it has been.
    pub(crate) fn version(&self) -> &str {
        self.metadata
            .resource_version
            .as_deref()
            .unwrap_or_default()
    }

    /// All of it that is left.
    pub(crate) fn value(&self) -> &Value {
        &self.value
    }

    /// The object as it is read: with what kind it is, which items of lists leave out, and without what changes all the time.
    pub(crate) fn into_value(self, resource: &ApiResource) -> Value {
        let mut value = self.value;
        if let Some(object) = value.as_object_mut() {
            object.insert(
                "apiVersion".to_owned(),
                resource.api_version.as_str().into(),
            );
            object.insert("kind".to_owned(), resource.kind.as_str().into());
            if let Some(metadata) = mapping(object, "metadata") {
                // Statuses are written all the time: an object whose rest is the same is the same.
                metadata.remove("resourceVersion");
                let built_in = resource.group.is_empty() || resource.group == "discovery.k8s.io";
                if built_in && let Some(annotations) = mapping(metadata, "annotations") {
                    annotations.retain(|name, _| is_about_the_mesh(name));
                }
            }
        }
        value
    }
}

impl<'de> Deserialize<'de> for Object {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut value = Value::deserialize(deserializer)?;
        let mut named = ObjectMeta::default();
        if let Some(metadata) = value
            .as_object_mut()
            .and_then(|object| mapping(object, "metadata"))
        {
            metadata.remove("managedFields");
            if let Some(annotations) = mapping(metadata, "annotations") {
                annotations.remove(LAST_APPLIED);
            }
            let text = |name: &str| metadata.get(name)?.as_str().map(str::to_owned);
            named.name = text("name");
            named.namespace = text("namespace");
            named.resource_version = text("resourceVersion");
        }
        Ok(Self {
            metadata: named,
            value,
        })
    }
}

impl kube::Resource for Object {
    type DynamicType = ApiResource;
    type Scope = DynamicResourceScope;

    fn kind(resource: &ApiResource) -> Cow<'_, str> {
        resource.kind.as_str().into()
    }

    fn group(resource: &ApiResource) -> Cow<'_, str> {
        resource.group.as_str().into()
    }

    fn version(resource: &ApiResource) -> Cow<'_, str> {
        resource.version.as_str().into()
    }

    fn plural(resource: &ApiResource) -> Cow<'_, str> {
        resource.plural.as_str().into()
    }

    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

fn mapping<'a>(
    object: &'a mut Map<String, Value>,
    name: &str,
) -> Option<&'a mut Map<String, Value>> {
    object.get_mut(name)?.as_object_mut()
}

/// Whether the mesh may read an annotation of a Kubernetes object. Others keep there what they like, in any amount.
fn is_about_the_mesh(annotation: &str) -> bool {
    let domain = annotation.split_once('/').map_or("", |(domain, _)| domain);
    ["istio.io", "waymark.dev"].iter().any(|ours| {
        domain
            .strip_suffix(ours)
            .is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
    })
}

const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_nobody_reads_is_gone_as_soon_as_an_object_is_read() {
        let object: Object = serde_json::from_value(json!({
            "metadata": {
                "name": "n", "namespace": "ns", "resourceVersion": "7", "labels": { "app": "a" },
                "managedFields": [{ "manager": "kubectl" }],
                "annotations": { LAST_APPLIED: "{}", "cni/status": "[...]", "ambient.istio.io/redirection": "enabled" },
            },
            "spec": { "x": 1 },
        }))
        .expect("an object");
        assert_eq!(object.name(), ("ns".to_owned(), "n".to_owned()));
        assert_eq!(object.version(), "7");
        let resource = ApiResource {
            group: String::new(),
            version: "v1".to_owned(),
            api_version: "v1".to_owned(),
            kind: "Pod".to_owned(),
            plural: "pods".to_owned(),
        };
        assert_eq!(
            object.into_value(&resource),
            json!({
                "apiVersion": "v1", "kind": "Pod",
                "metadata": {
                    "name": "n", "namespace": "ns", "labels": { "app": "a" },
                    "annotations": { "ambient.istio.io/redirection": "enabled" },
                },
                "spec": { "x": 1 },
            })
        );
    }
}
