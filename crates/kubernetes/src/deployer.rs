//! The deployment controller: sees to it that what runs for a waypoint's Gateway is what the Gateway asks for.
//!
//! Every change of a Gateway, of what was made for it, of its parameters, of its namespace's revision or of a tag makes it
//! look at that Gateway again, whole. A Gateway waits in the queue once, whatever happened to it meanwhile; what failed is
//! tried again later and later. Only the leader runs it. Spec: control-plane.md 8.2, 8.6.

mod parameters;
mod report;
mod revision;
mod triggers;

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::StreamExt;
use kube::api::{Api, ApiResource, DynamicObject, Patch, PatchParams};
use kube::core::GroupVersionKind;
use kube::runtime::controller::{Action, Config};
use kube::runtime::reflector::store::Writer;
use kube::runtime::reflector::{ObjectRef, Store};
use kube::{Client, ResourceExt};
use serde_json::json;
use tracing::{debug, info, warn};
use waymark_api::names;
use waymark_api::waypoint::WaypointClass;

pub use self::report::{Problem, Report, Verdicts};
pub(crate) use self::report::{REPORTER, cut};
use self::revision::Revisions;
pub(crate) use self::revision::TAG;
pub use self::revision::revision_of;
use crate::apply::{Applied, Applier, ApplyError, Owner, field_manager};
use crate::waypoint::{
    GatewayError, GatewayView, Overlay, OverlayError, OwnedKind, Rendered, Template, render,
};

/// What the controller does and for whom.
#[derive(Debug, Clone)]
pub struct DeployerOptions {
    /// The classes whose Gateways it takes.
    pub classes: Vec<WaypointClass>,
    /// The revision whose Gateways it takes.
    pub revision: String,
    /// Where the control plane is, and the parameters of classes.
    pub system_namespace: String,
    /// What waypoints have in common.
    pub template: Template,
}

/// Runs the controller until it is dropped. What is wrong with Gateways is told to `report`.
pub async fn run(client: Client, options: DeployerOptions, report: Report) {
    let writer = Writer::new(gateway_resource());
    let gateways = writer.as_reader();
    let watched = triggers::Watched::new(&client, &options, gateways.clone());
    let deployer = Arc::new(Deployer {
        applier: Applier::new(client.clone()),
        revisions: watched.revisions(&options.revision),
        parameters: watched.parameters(),
        gateways: gateways.clone(),
        client,
        options,
        report,
        memory: Mutex::default(),
    });
    let told = deployer.clone();
    let queue = watched.queue(writer, move |namespace, name| told.gone(namespace, name));
    let config = Config::default().concurrency(CONCURRENCY);
    let reconcile = |gateway, deployer: Arc<Deployer>| {
        Box::pin(async move { deployer.reconcile(gateway).await })
    };
    let again = |gateway: Arc<DynamicObject>, error: &ReconcileError, deployer: Arc<Deployer>| {
        deployer.failed(&gateway, error)
    };
    kube::runtime::applier(reconcile, again, deployer, gateways, queue, config)
        .for_each(|_| async {})
        .await;
}

/// Gateways of the Gateway API.
pub fn gateway_resource() -> ApiResource {
    ApiResource::from_gvk_with_plural(
        &GroupVersionKind::gvk("gateway.networking.k8s.io", "v1", "Gateway"),
        "gateways",
    )
}

struct Deployer {
    client: Client,
    options: DeployerOptions,
    applier: Applier,
    revisions: Revisions,
    parameters: parameters::Parameters,
    report: Report,
    gateways: Store<DynamicObject>,
    /// By namespace and name.
    memory: Mutex<HashMap<(String, String), Memory>>,
}

/// What is remembered of a Gateway from one look to the next.
#[derive(Debug, Default, Clone)]
struct Memory {
    /// Which one of that name it was.
    uid: String,
    /// What was applied: the hash of what was wanted, and the version that came of it.
    applied: HashMap<(OwnedKind, String), (u64, String)>,
    /// Names of what was wanted when leftovers were last looked for.
    cleaned: Option<Vec<(OwnedKind, String)>>,
    /// Failures in a row.
    failures: u32,
}

/// Why a Gateway is not as it should be.
#[derive(Debug, thiserror::Error)]
enum ReconcileError {
    #[error(transparent)]
    Apply(#[from] ApplyError),
    #[error("{action}")]
    Api {
        action: &'static str,
        source: kube::Error,
    },
}

impl Deployer {
    async fn reconcile(&self, gateway: Arc<DynamicObject>) -> Result<Action, ReconcileError> {
        let action = self.look(&gateway).await;
        let reference = ObjectRef::from_obj_with(&*gateway, gateway_resource());
        if self.gateways.get(&reference).is_none() {
            // It went meanwhile, and was forgotten too early.
            self.forget(&owner(&gateway));
        }
        action
    }

    async fn look(&self, gateway: &DynamicObject) -> Result<Action, ReconcileError> {
        let owner = owner(gateway);
        if gateway.metadata.deletion_timestamp.is_some() {
            // What was made for it goes with it, by its owner references.
            self.forget(&owner);
            return Ok(Action::await_change());
        }
        let object = serde_json::to_value(gateway).unwrap_or_default();
        let view = match GatewayView::read(&object) {
            Ok(view) if self.options.classes.contains(&view.class) => view,
            Ok(_) => {
                self.forget(&owner);
                return Ok(Action::await_change());
            }
            Err(GatewayError::Class(_)) => {
                // It may have been a waypoint before.
                self.clean(&owner, &[]).await?;
                self.forget(&owner);
                return Ok(Action::await_change());
            }
            Err(error @ GatewayError::Shape(_)) => {
                self.report.tell(gateway, Problem::invalid(&error)).await;
                return Ok(Action::await_change());
            }
        };
        if !self.revisions.is_ours(&view) || view.controller_version() > Some(VERSION) {
            debug!(
                namespace = view.namespace,
                gateway = view.name,
                "Gateway is another control plane's"
            );
            self.forget(&owner);
            return Ok(Action::await_change());
        }
        if !view.is_managed() {
            self.clean(&owner, &[]).await?;
            self.report.clear(&owner);
            return Ok(Action::await_change());
        }
        self.claim(&view).await?;
        let rendered = match self.render(&view).await? {
            Ok(rendered) => rendered,
            Err(problem) => {
                // Nothing is applied, and what runs goes on.
                self.report.tell(gateway, problem).await;
                return Ok(Action::await_change());
            }
        };
        let foreign = self.apply(&view, &owner, &rendered).await?;
        self.clean(&owner, &rendered).await?;
        self.remember(&owner, |memory| memory.failures = 0);
        match Problem::foreign(&foreign) {
            Some(problem) => {
                self.report.tell(gateway, problem).await;
                // Nobody says when what is not ours has gone.
                Ok(Action::requeue(LOOK_AGAIN))
            }
            None => {
                self.report.clear(&owner);
                Ok(Action::await_change())
            }
        }
    }

    /// Notes in the Gateway which version of controllers keeps it. (Through the status, as upstream does it to need no right
    /// on the Gateway, API servers of 1.36 drop it: there, nothing but the status is taken.)
    async fn claim(&self, gateway: &GatewayView) -> Result<(), ReconcileError> {
        if gateway.controller_version() == Some(VERSION) {
            return Ok(());
        }
        let api: Api<DynamicObject> =
            Api::namespaced_with(self.client.clone(), &gateway.namespace, &gateway_resource());
        let patch = json!({
            "apiVersion": "gateway.networking.k8s.io/v1",
            "kind": "Gateway",
            "metadata": {
                "name": gateway.name,
                "namespace": gateway.namespace,
                "annotations": {names::GATEWAY_CONTROLLER_VERSION: VERSION.to_string()},
            },
        });
        let params = PatchParams::apply(field_manager(gateway.class)).force();
        api.patch_metadata(&gateway.name, &params, &Patch::Apply(&patch))
            .await
            .map(drop)
            .map_err(|source| ReconcileError::Api {
                action: "write the controller's version into the Gateway",
                source,
            })
    }

    /// What is wanted, or why that cannot be said.
    async fn render(
        &self,
        gateway: &GatewayView,
    ) -> Result<Result<Vec<Rendered>, Problem>, ReconcileError> {
        let overlays = match self.parameters.overlays(gateway).await {
            Ok(overlays) => overlays,
            Err(parameters::ParametersError::Invalid(error)) => {
                return Ok(Err(Problem::invalid(&error)));
            }
            Err(parameters::ParametersError::Refused(problem)) => return Ok(Err(problem)),
            Err(parameters::ParametersError::Api(source)) => {
                return Err(ReconcileError::Api {
                    action: "read the Gateway's parameters",
                    source,
                });
            }
        };
        let rendered: Result<Vec<Rendered>, OverlayError> =
            render(gateway, &self.options.template, &overlays as &[Overlay]);
        Ok(rendered.map_err(|error| Problem::invalid(&error)))
    }

    /// Applies everything, in order. Returns what was left alone because it is somebody else's.
    async fn apply(
        &self,
        gateway: &GatewayView,
        owner: &Owner,
        rendered: &[Rendered],
    ) -> Result<Vec<(OwnedKind, String)>, ReconcileError> {
        let mut foreign = Vec::new();
        for object in rendered {
            let key = (object.kind, object.name().to_owned());
            let hash = hash(object);
            let known = self
                .recall(owner)
                .applied
                .get(&key)
                .filter(|(of, _)| *of == hash)
                .map(|(_, version)| version.clone());
            match self
                .applier
                .apply(gateway, object, known.as_deref())
                .await?
            {
                Applied::Done { resource_version } => {
                    if known.as_ref() != Some(&resource_version) {
                        debug!(
                            namespace = gateway.namespace,
                            gateway = gateway.name,
                            object = key.1,
                            kind = object.kind.as_str(),
                            "applied"
                        );
                    }
                    self.remember(owner, |memory| {
                        memory.applied.insert(key, (hash, resource_version));
                    });
                }
                // An account that somebody has made is there to be used.
                Applied::Foreign if object.kind == OwnedKind::ServiceAccount => {}
                Applied::Foreign => foreign.push(key),
            }
        }
        Ok(foreign)
    }

    /// Deletes what was made for the Gateway and is no longer wanted.
    async fn clean(&self, owner: &Owner, wanted: &[Rendered]) -> Result<(), ReconcileError> {
        let names: Vec<(OwnedKind, String)> = wanted
            .iter()
            .map(|object| (object.kind, object.name().to_owned()))
            .collect();
        if self.recall(owner).cleaned.as_ref() == Some(&names) {
            return Ok(());
        }
        let deleted = self
            .applier
            .delete_unwanted(owner, &self.options.classes, wanted)
            .await?;
        if !deleted.is_empty() {
            info!(
                namespace = owner.namespace,
                gateway = owner.name,
                ?deleted,
                "deleted what the Gateway wants no more"
            );
        }
        self.remember(owner, |memory| memory.cleaned = Some(names));
        Ok(())
    }

    fn failed(&self, gateway: &DynamicObject, error: &ReconcileError) -> Action {
        let owner = owner(gateway);
        self.remember(&owner, |memory| {
            memory.failures = memory.failures.saturating_add(1)
        });
        let failures = self.recall(&owner).failures;
        let wait = FIRST_RETRY
            .saturating_mul(1 << failures.saturating_sub(1).min(16))
            .min(LAST_RETRY);
        warn!(
            namespace = owner.namespace,
            gateway = owner.name,
            %error,
            cause = std::error::Error::source(error).map(tracing::field::display),
            retry_s = wait.as_secs(),
            "waypoint is not deployed"
        );
        Action::requeue(wait)
    }

    fn recall(&self, owner: &Owner) -> Memory {
        let memory = self.lock();
        let of = memory.get(&(owner.namespace.clone(), owner.name.clone()));
        of.filter(|of| of.uid == owner.uid)
            .cloned()
            .unwrap_or_default()
    }

    fn remember(&self, owner: &Owner, change: impl FnOnce(&mut Memory)) {
        let mut memory = self.lock();
        let key = (owner.namespace.clone(), owner.name.clone());
        let of = memory.entry(key).or_default();
        if of.uid != owner.uid {
            // Another of the same name.
            *of = Memory {
                uid: owner.uid.clone(),
                ..Memory::default()
            };
        }
        change(of);
    }

    fn forget(&self, owner: &Owner) {
        self.gone(&owner.namespace, &owner.name);
    }

    /// Forgets a Gateway that is not ours, or not there.
    fn gone(&self, namespace: &str, name: &str) {
        let key = (namespace.to_owned(), name.to_owned());
        self.lock().remove(&key);
        self.report.forget(&key);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<(String, String), Memory>> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn owner(gateway: &DynamicObject) -> Owner {
    Owner {
        namespace: gateway.namespace().unwrap_or_default(),
        name: gateway.name_any(),
        uid: gateway.uid().unwrap_or_default(),
    }
}

fn hash(object: &Rendered) -> u64 {
    let mut hasher = DefaultHasher::new();
    object.object.to_string().hash(&mut hasher);
    hasher.finish()
}

/// The version of upstream's controller whose objects ours are like. Spec: control-plane.md 8.2.
pub const VERSION: u64 = 5;
/// Gateways that are looked at at the same time.
const CONCURRENCY: u16 = 8;
/// How often it is looked whether an object of somebody else's is still in the way.
const LOOK_AGAIN: Duration = Duration::from_secs(5);
const FIRST_RETRY: Duration = Duration::from_millis(500);
const LAST_RETRY: Duration = Duration::from_secs(60);
