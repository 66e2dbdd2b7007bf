//! Every object that the mesh reads or refuses, read once, for a report: what a control plane of ours would make of the
//! cluster. Nothing is written.

use std::collections::BTreeMap;

use kube::api::{Api, ApiResource, DynamicObject, ListParams};
use kube::core::GroupVersionKind;
use kube::{Client, ResourceExt};
use serde_json::Value;
use waymark_api::meta::Kind;
use waymark_api::yaml::parse_json;
use waymark_api::{DocumentError, names};

use crate::apply::resource;
use crate::deployer::TAG;
use crate::source::{is_foreign, kind};
use crate::waypoint::OwnedKind;

/// What there is.
#[derive(Debug, Default)]
pub struct Survey {
    /// Objects of the kinds that the mesh reads or refuses, as the API server has them. What a node or the API server makes
    /// itself (Pods, EndpointSlices, Nodes, ServiceAccounts) is left out.
    pub objects: Vec<Value>,
    /// What is wrong with some of them.
    pub errors: Vec<DocumentError>,
    /// What was made for waypoints' Gateways: by the label that names the Gateway.
    pub deployed: Vec<Value>,
    /// Tags, with the revisions that they stand for.
    pub tags: BTreeMap<String, String>,
    /// Kinds that could not be read, and why.
    pub unreadable: Vec<(String, String)>,
}

/// Reads the objects of a namespace, or of all, as a control plane of this revision would.
pub async fn survey(client: &Client, namespace: Option<&str>, revision: &str) -> Survey {
    let mut survey = Survey::default();
    for watched in kind::all() {
        if LEFT_OUT.contains(&watched.kind) {
            continue;
        }
        let listed = async {
            let Some(kind) = watched.served(client).await? else {
                return Ok(Vec::new());
            };
            let read = Kind::ALL.into_iter().find(|k| k.as_str() == watched.kind);
            let scope = namespace.filter(|_| read.is_none_or(Kind::is_namespaced));
            let mut objects = list(client, &kind, scope, "").await?;
            if watched.kind == "Namespace" {
                objects.retain(|object| {
                    namespace.is_none_or(|namespace| object["metadata"]["name"] == namespace)
                });
            }
            objects.retain(|object| !is_foreign(&watched, revision, object));
            Ok::<_, kube::Error>(objects)
        };
        match listed.await {
            Ok(objects) => {
                for object in objects {
                    survey
                        .errors
                        .extend(parse_json(SOURCE, &object).err().unwrap_or_default());
                    survey.objects.push(object);
                }
            }
            Err(error) => survey
                .unreadable
                .push((watched.kind.to_owned(), said(&error))),
        }
    }
    for kind in OwnedKind::ALL {
        match list(client, &resource(kind), namespace, names::GATEWAY_NAME).await {
            Ok(objects) => survey.deployed.extend(objects),
            Err(error) => survey
                .unreadable
                .push((kind.as_str().to_owned(), said(&error))),
        }
    }
    survey.tags = tags(client).await;
    survey
}

/// Tags are made by Services of the control plane, and by webhooks. Who may not read them has none.
async fn tags(client: &Client) -> BTreeMap<String, String> {
    let mut tags = BTreeMap::new();
    for (group, kind, plural) in [
        ("", "Service", "services"),
        (
            "admissionregistration.k8s.io",
            "MutatingWebhookConfiguration",
            "mutatingwebhookconfigurations",
        ),
    ] {
        let kind =
            ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(group, "v1", kind), plural);
        for object in list(client, &kind, None, TAG).await.unwrap_or_default() {
            let labels = &object["metadata"]["labels"];
            if let (Some(tag), Some(revision)) =
                (labels[TAG].as_str(), labels[names::REVISION].as_str())
            {
                tags.insert(tag.to_owned(), revision.to_owned());
            }
        }
    }
    tags
}

async fn list(
    client: &Client,
    kind: &ApiResource,
    namespace: Option<&str>,
    label: &str,
) -> kube::Result<Vec<Value>> {
    let api: Api<DynamicObject> = match namespace {
        Some(namespace) => Api::namespaced_with(client.clone(), namespace, kind),
        None => Api::all_with(client.clone(), kind),
    };
    let mut params = ListParams::default().labels(label).limit(PAGE);
    let mut objects = Vec::new();
    loop {
        let page = api.list(&params).await?;
        params.continue_token = page.metadata.continue_.filter(|token| !token.is_empty());
        for mut object in page.items {
            object.annotations_mut().remove(LAST_APPLIED);
            let mut value = serde_json::to_value(&object).unwrap_or_default();
            // Items of lists do not say what they are.
            value["apiVersion"] = kind.api_version.as_str().into();
            value["kind"] = kind.kind.as_str().into();
            objects.push(value);
        }
        if params.continue_token.is_none() {
            return Ok(objects);
        }
    }
}

fn said(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => status.message.clone(),
        other => other.to_string(),
    }
}

const SOURCE: &str = "cluster";
const PAGE: u32 = 500;
/// What a node or the API server makes, and is as it has to be.
const LEFT_OUT: [&str; 4] = ["Pod", "EndpointSlice", "Node", "ServiceAccount"];
/// What `kubectl apply` notes, which can be larger than all the rest.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";
