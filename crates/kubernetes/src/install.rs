//! Installation into a cluster without Helm: the chart's objects, rendered when this program was made, by server-side apply.
//!
//! What is installed is marked with `app.kubernetes.io/managed-by: waymark` and the revision; nothing else is ever changed or
//! deleted. Definitions are made where they are missing and outlive an uninstallation, as does the namespace with the certificate
//! authority: objects and identities of users depend on them.

mod values;

use std::time::Duration;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{Api, ApiResource, DeleteParams, DynamicObject, Patch, PatchParams, PostParams};
use kube::core::GroupVersionKind;
use kube::{Client, ResourceExt};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};
use waymark_api::crd;

pub use self::values::{Values, ValuesError};
use crate::source::found;

/// Installs into a cluster.
#[derive(Clone)]
pub struct Installer {
    client: Client,
    values: Values,
    dry_run: bool,
}

/// What became of an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// `deployment.apps/istiod`, as kubectl names objects.
    pub object: String,
    /// What was done.
    pub outcome: Outcome,
}

/// What was done with an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It was not there.
    Created,
    /// It was ours and is as wanted now.
    Configured,
    /// It was there, and is left to whoever made it.
    Left,
    /// It is gone.
    Deleted,
    /// It was not there.
    Absent,
    /// It is there, and ours.
    Present,
}

/// Why an installation fails.
#[derive(Debug, thiserror::Error)]
pub enum InstallError {
    /// An object of that name is somebody else's.
    #[error("{0} is there and was not installed by this program")]
    Foreign(String),
    /// The API server.
    #[error("{action} {object}")]
    Api {
        /// What was being done.
        action: &'static str,
        /// To what.
        object: String,
        /// What it said.
        source: Box<kube::Error>,
    },
    /// Something does not become what it should.
    #[error("{0} is not ready in time")]
    NotReady(String),
}

impl std::fmt::Debug for Installer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Installer")
            .field("values", &self.values)
            .field("dry_run", &self.dry_run)
            .finish_non_exhaustive()
    }
}

impl Installer {
    /// With `dry_run`, the API server is asked whether it would take the objects, and takes none.
    pub fn new(client: Client, values: Values, dry_run: bool) -> Self {
        Self {
            client,
            values,
            dry_run,
        }
    }

    /// Applies everything. Nothing is written when an object of somebody else's is in the way.
    ///
    /// # Errors
    /// See [`InstallError`].
    pub async fn install(&self) -> Result<Vec<Step>, InstallError> {
        let objects = self.values.objects();
        let mut there = Vec::new();
        for object in &objects {
            let found = self.find(object).await?;
            if found.as_ref().is_some_and(|found| !self.is_ours(found)) {
                return Err(InstallError::Foreign(name_of(object)));
            }
            there.push(found.is_some());
        }
        let mut steps = self.define().await?;
        let namespace = self.namespace().await?;
        let no_namespace_yet = self.dry_run && namespace.outcome == Outcome::Created;
        steps.push(namespace);
        for (object, was_there) in objects.iter().zip(there) {
            // Without its namespace, the API server says nothing else to an object than that.
            if !(no_namespace_yet && object["metadata"]["namespace"].is_string()) {
                self.apply(object).await?;
            }
            steps.push(Step {
                object: name_of(object),
                outcome: if was_there {
                    Outcome::Configured
                } else {
                    Outcome::Created
                },
            });
        }
        Ok(steps)
    }

    /// Deletes what was installed, the last first.
    ///
    /// # Errors
    /// See [`InstallError`].
    pub async fn uninstall(&self) -> Result<Vec<Step>, InstallError> {
        let mut steps = Vec::new();
        for object in self.values.objects().iter().rev() {
            let outcome = match self.find(object).await? {
                None => Outcome::Absent,
                Some(found) if !self.is_ours(&found) => Outcome::Left,
                Some(found) => {
                    self.delete(object, &found).await?;
                    Outcome::Deleted
                }
            };
            steps.push(Step {
                object: name_of(object),
                outcome,
            });
        }
        Ok(steps)
    }

    /// Looks for everything that was installed.
    ///
    /// # Errors
    /// See [`InstallError`].
    pub async fn verify(&self) -> Result<Vec<Step>, InstallError> {
        let mut steps = Vec::new();
        for name in crd::ALL.iter().map(crd::CustomKind::name) {
            steps.push(self.look_for_definition(name).await?);
        }
        for name in ["gatewayclasses", "gateways", "httproutes"] {
            let name = format!("{name}.gateway.networking.k8s.io");
            steps.push(self.look_for_definition(name).await?);
        }
        for object in self.values.objects() {
            let outcome = match self.find(&object).await? {
                None => Outcome::Absent,
                Some(found) if self.is_ours(&found) => Outcome::Present,
                Some(_) => Outcome::Left,
            };
            steps.push(Step {
                object: name_of(&object),
                outcome,
            });
        }
        Ok(steps)
    }

    /// Waits until every replica of what was installed is of the newest form and available.
    ///
    /// # Errors
    /// See [`InstallError`].
    pub async fn wait(&self, patience: Duration) -> Result<(), InstallError> {
        let deadline = Instant::now() + patience;
        for object in self.values.objects() {
            if !["Deployment", "DaemonSet"].contains(&object["kind"].as_str().unwrap_or_default()) {
                continue;
            }
            loop {
                let found = self.find(&object).await?;
                if found.as_ref().is_some_and(is_rolled_out) {
                    break;
                }
                if Instant::now() >= deadline {
                    return Err(InstallError::NotReady(name_of(&object)));
                }
                sleep(LOOK_EVERY).await;
            }
        }
        Ok(())
    }

    /// Makes the definitions that are missing; nothing that is installed is of one of these kinds.
    async fn define(&self) -> Result<Vec<Step>, InstallError> {
        let api: Api<CustomResourceDefinition> = Api::all(self.client.clone());
        let mut steps = Vec::new();
        for custom in &crd::ALL {
            let mut step = self.look_for_definition(custom.name()).await?;
            if step.outcome == Outcome::Absent {
                step.outcome = Outcome::Created;
                let error = api_error("create", &step.object);
                let definition = serde_json::from_value(custom.definition())
                    .map_err(|e| error(kube::Error::SerdeError(e)))?;
                let params = PostParams {
                    dry_run: self.dry_run,
                    field_manager: Some(MANAGER.to_owned()),
                };
                api.create(&params, &definition)
                    .await
                    .map_err(api_error("create", &step.object))?;
            } else {
                step.outcome = Outcome::Left;
            }
            steps.push(step);
        }
        Ok(steps)
    }

    async fn look_for_definition(&self, name: String) -> Result<Step, InstallError> {
        let api: Api<CustomResourceDefinition> = Api::all(self.client.clone());
        let object = format!("customresourcedefinition.apiextensions.k8s.io/{name}");
        let found = api
            .get_metadata_opt(&name)
            .await
            .map_err(api_error("read", &object))?;
        let outcome = if found.is_some() {
            Outcome::Present
        } else {
            Outcome::Absent
        };
        Ok(Step { object, outcome })
    }

    /// Makes the namespace, unless it is there.
    async fn namespace(&self) -> Result<Step, InstallError> {
        let namespace = json!({
            "apiVersion": "v1",
            "kind": "Namespace",
            "metadata": {"name": self.values.namespace},
        });
        let outcome = match self.find(&namespace).await? {
            Some(_) => Outcome::Left,
            None => {
                self.apply(&namespace).await?;
                Outcome::Created
            }
        };
        Ok(Step {
            object: name_of(&namespace),
            outcome,
        })
    }

    async fn find(&self, object: &Value) -> Result<Option<DynamicObject>, InstallError> {
        let name = object["metadata"]["name"].as_str().unwrap_or_default();
        found(self.api(object).get(name).await).map_err(api_error("read", &name_of(object)))
    }

    async fn apply(&self, object: &Value) -> Result<(), InstallError> {
        let name = object["metadata"]["name"].as_str().unwrap_or_default();
        let params = PatchParams {
            dry_run: self.dry_run,
            ..PatchParams::apply(MANAGER).force()
        };
        self.api(object)
            .patch(name, &params, &Patch::Apply(object))
            .await
            .map(drop)
            .map_err(api_error("apply", &name_of(object)))
    }

    async fn delete(&self, object: &Value, found: &DynamicObject) -> Result<(), InstallError> {
        let params = DeleteParams {
            dry_run: self.dry_run,
            ..DeleteParams::background()
        }
        .preconditions(kube::api::Preconditions {
            uid: found.uid(),
            resource_version: None,
        });
        match self.api(object).delete(&found.name_any(), &params).await {
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
            result => result
                .map(drop)
                .map_err(api_error("delete", &name_of(object))),
        }
    }

    fn api(&self, object: &Value) -> Api<DynamicObject> {
        let resource = resource(object);
        match object["metadata"]["namespace"].as_str() {
            Some(namespace) => Api::namespaced_with(self.client.clone(), namespace, &resource),
            None => Api::all_with(self.client.clone(), &resource),
        }
    }

    fn is_ours(&self, object: &DynamicObject) -> bool {
        let label = |name: &str| object.labels().get(name).map(String::as_str);
        label(MANAGED_BY) == Some(MANAGER)
            && label(waymark_api::names::REVISION) == Some(self.values.revision_name())
    }
}

fn resource(object: &Value) -> ApiResource {
    let text = |name: &str| object[name].as_str().unwrap_or_default();
    let (group, version) = text("apiVersion")
        .split_once('/')
        .unwrap_or(("", text("apiVersion")));
    ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, text("kind")))
}

fn name_of(object: &Value) -> String {
    let resource = resource(object);
    let name = object["metadata"]["name"].as_str().unwrap_or_default();
    let kind = resource.kind.to_ascii_lowercase();
    if resource.group.is_empty() {
        format!("{kind}/{name}")
    } else {
        format!("{kind}.{}/{name}", resource.group)
    }
}

/// Whether all replicas are of the newest form and available, as `kubectl rollout status` sees it.
fn is_rolled_out(object: &DynamicObject) -> bool {
    let status = &object.data["status"];
    let count = |name: &str| status[name].as_i64().unwrap_or(0);
    if count("observedGeneration") < object.metadata.generation.unwrap_or(0) {
        return false;
    }
    let (wanted, updated, available) = match object.types.as_ref().map(|t| t.kind.as_str()) {
        Some("DaemonSet") => (
            count("desiredNumberScheduled"),
            count("updatedNumberScheduled"),
            count("numberAvailable"),
        ),
        _ => (
            object.data["spec"]["replicas"].as_i64().unwrap_or(1),
            count("updatedReplicas"),
            count("availableReplicas"),
        ),
    };
    updated >= wanted && available >= wanted
}

fn api_error(action: &'static str, object: &str) -> impl Fn(kube::Error) -> InstallError {
    let object = object.to_owned();
    move |source| InstallError::Api {
        action,
        object: object.clone(),
        source: Box::new(source),
    }
}

/// Who the API server notes as the writer, and what the objects are marked with.
pub const MANAGER: &str = "waymark";
const MANAGED_BY: &str = "app.kubernetes.io/managed-by";
const LOOK_EVERY: Duration = Duration::from_millis(500);
