//! What makes the controller look at a Gateway again.

use std::collections::hash_map::DefaultHasher;
use std::collections::{HashMap, HashSet};
use std::convert::Infallible;
use std::hash::{Hash, Hasher};

use futures_util::stream::{self, BoxStream, StreamExt};
use kube::api::{Api, ApiResource, DynamicObject, PartialObjectMeta};
use kube::core::GroupVersionKind;
use kube::runtime::controller::ReconcileRequest;
use kube::runtime::reflector::store::Writer;
use kube::runtime::reflector::{ObjectRef, Store};
use kube::runtime::watcher::{self, Event};
use kube::runtime::{WatchStreamExt, watcher as watch};
use kube::{Client, Resource, ResourceExt};
use tracing::{debug, warn};
use waymark_api::names;

use super::parameters::{DEFAULTS_FOR_CLASS, Parameters, config_maps};
use super::revision::{MetaStore, Revisions, TAG};
use super::{DeployerOptions, gateway_resource};
use crate::apply::resource;
use crate::waypoint::OwnedKind;

type Meta = PartialObjectMeta<DynamicObject>;
type Request = ReconcileRequest<DynamicObject>;
/// What is to be looked at again.
type Queue = BoxStream<'static, Result<Request, Infallible>>;

/// Everything that is watched beside the Gateways.
pub(super) struct Watched {
    client: Client,
    system_namespace: String,
    gateways: Store<DynamicObject>,
    namespaces: (MetaStore, Writer<Meta>),
    tags: Vec<(MetaStore, Writer<Meta>, ApiResource)>,
    class_defaults: (Store<DynamicObject>, Writer<DynamicObject>),
}

impl Watched {
    pub(super) fn new(
        client: &Client,
        options: &DeployerOptions,
        gateways: Store<DynamicObject>,
    ) -> Self {
        let tags = [services(), webhooks()].map(|resource| {
            let writer = Writer::new(resource.clone());
            (writer.as_reader(), writer, resource)
        });
        Self {
            client: client.clone(),
            system_namespace: options.system_namespace.clone(),
            gateways,
            namespaces: kept(namespaces()),
            tags: tags.into(),
            class_defaults: kept(config_maps()),
        }
    }

    pub(super) fn revisions(&self, revision: &str) -> Revisions {
        Revisions {
            revision: revision.to_owned(),
            namespaces: self.namespaces.0.clone(),
            tags: self.tags.iter().map(|(store, ..)| store.clone()).collect(),
        }
    }

    pub(super) fn parameters(&self) -> Parameters {
        Parameters::new(
            self.client.clone(),
            self.system_namespace.clone(),
            self.class_defaults.0.clone(),
        )
    }

    /// Gateways that are to be looked at again. Nothing comes before what decides about them has been read once. `gone` is
    /// told the namespace and name of each that is not there any more.
    pub(super) fn queue(
        self,
        writer: Writer<DynamicObject>,
        gone: impl Fn(&str, &str) + Send + 'static,
    ) -> Queue {
        let Self {
            client,
            system_namespace,
            gateways,
            namespaces: (namespace_store, namespace_writer),
            tags,
            class_defaults: (defaults_store, defaults_writer),
        } = self;
        let mut ready: Vec<BoxStream<'static, ()>> = Vec::new();
        let mut sources: Vec<Queue> = vec![own(&client, writer, gone)];
        for kind in OwnedKind::ALL {
            sources.push(owned(&client, kind, gateways.clone()));
        }
        sources.push(parameters(&client, gateways.clone()));

        ready.push(synced(namespace_store));
        let api = Api::all_with(client.clone(), &namespaces());
        let labelled = watch(api, watcher::Config::default()).reflect(namespace_writer);
        let all = gateways.clone();
        sources.push(requests(
            "Namespace",
            labelled,
            labels_hash,
            move |namespace, _| of_namespace(&all, &namespace.name),
        ));
        for (store, writer, resource) in tags {
            ready.push(synced(store));
            let api = Api::all_with(client.clone(), &resource);
            let tagged = watch(api, watcher::Config::default().labels(TAG)).reflect(writer);
            let all = gateways.clone();
            sources.push(requests("tag", tagged, labels_hash, move |_, _| {
                every(&all)
            }));
        }
        ready.push(synced(defaults_store));
        let api = Api::namespaced_with(client, &system_namespace, &config_maps());
        let config = watcher::Config::default().labels(DEFAULTS_FOR_CLASS);
        let defaults = watch(api, config).reflect(defaults_writer);
        sources.push(requests(
            "ConfigMap",
            defaults,
            version_hash,
            move |_, _| every(&gateways),
        ));
        after(ready, stream::select_all(sources).boxed())
    }
}

/// The Gateways themselves: specification, labels and annotations count, statuses do not.
fn own(
    client: &Client,
    writer: Writer<DynamicObject>,
    gone: impl Fn(&str, &str) + Send + 'static,
) -> Queue {
    let api: Api<DynamicObject> = Api::all_with(client.clone(), &gateway_resource());
    let gateways = watch(api, watcher::Config::default())
        .modify(|gateway: &mut DynamicObject| {
            gateway.managed_fields_mut().clear();
            if let Some(object) = gateway.data.as_object_mut() {
                object.remove("status");
            }
        })
        .reflect(writer);
    requests(
        "Gateway",
        gateways,
        meta_hash,
        move |gateway, found| match found {
            Some(_) => vec![request(&gateway.namespace, &gateway.name)],
            // What was made for it goes with it, by its owner references.
            None => {
                gone(&gateway.namespace, &gateway.name);
                Vec::new()
            }
        },
    )
}

/// What was made for Gateways.
fn owned(client: &Client, kind: OwnedKind, gateways: Store<DynamicObject>) -> Queue {
    let api: Api<Meta> = Api::all_with(client.clone(), &resource(kind));
    let config = watcher::Config::default().labels(names::GATEWAY_NAME);
    requests(
        kind.as_str(),
        watch(api, config),
        meta_hash,
        move |object, found| match found.and_then(|found| found.labels().get(names::GATEWAY_NAME)) {
            Some(gateway) => vec![request(&object.namespace, gateway)],
            // Several may have wanted an object of that name; one of them can have it now.
            None => of_namespace(&gateways, &object.namespace),
        },
    )
}

/// ConfigMaps that Gateways refer to; all are watched, by their metadata, since nothing marks them.
fn parameters(client: &Client, gateways: Store<DynamicObject>) -> Queue {
    let api: Api<Meta> = Api::all_with(client.clone(), &config_maps());
    let watched = watch(api, watcher::Config::default());
    requests("ConfigMap", watched, version_hash, move |map, _| {
        let refers = |gateway: &DynamicObject| {
            gateway.namespace().as_deref() == Some(&map.namespace)
                && gateway.data["spec"]["infrastructure"]["parametersRef"]["name"] == *map.name
        };
        gateways
            .state_filter(refers)
            .iter()
            .map(|gateway| request(&map.namespace, &gateway.name_any()))
            .collect()
    })
}

/// Namespace and name.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Key {
    namespace: String,
    name: String,
}

/// Requests that come of a watch: of what is new or has another `hash` than before, and of what is gone. Errors are
/// logged, and the watch goes on.
fn requests<K, S>(
    what: &'static str,
    stream: S,
    hash: fn(&K) -> u64,
    of: impl Fn(&Key, Option<&K>) -> Vec<Request> + Send + 'static,
) -> Queue
where
    K: Resource<DynamicType = ApiResource> + Clone + Send + 'static,
    S: stream::Stream<Item = watcher::Result<Event<K>>> + Send + 'static,
{
    let mut seen: HashMap<Key, u64> = HashMap::new();
    let mut listed: HashSet<Key> = HashSet::new();
    stream
        .default_backoff()
        .flat_map(move |event| {
            let key = |object: &K| Key {
                namespace: object.namespace().unwrap_or_default(),
                name: object.name_any(),
            };
            let found = match event {
                Ok(Event::Apply(object) | Event::InitApply(object)) => {
                    let key = key(&object);
                    listed.insert(key.clone());
                    let now = hash(&object);
                    if seen.insert(key.clone(), now) == Some(now) {
                        Vec::new()
                    } else {
                        of(&key, Some(&object))
                    }
                }
                Ok(Event::Delete(object)) => {
                    seen.remove(&key(&object));
                    of(&key(&object), None)
                }
                Ok(Event::Init) => {
                    listed.clear();
                    Vec::new()
                }
                // What went while nothing was heard.
                Ok(Event::InitDone) => seen
                    .extract_if(|key, _| !listed.contains(key))
                    .flat_map(|(key, _)| of(&key, None))
                    .collect(),
                Err(error) => {
                    told(what, &error);
                    Vec::new()
                }
            };
            stream::iter(found.into_iter().map(Ok))
        })
        .boxed()
}

/// A cluster without the Gateway API is no reason to shout again and again.
fn told(what: &'static str, error: &watcher::Error) {
    let absent = match error {
        watcher::Error::InitialListFailed(kube::Error::Api(status))
        | watcher::Error::WatchStartFailed(kube::Error::Api(status)) => status.code == 404,
        _ => false,
    };
    if absent {
        debug!(what, %error, "not served by this cluster");
    } else {
        warn!(what, %error, "watch is tried again");
    }
}

fn kept<K>(resource: ApiResource) -> (Store<K>, Writer<K>)
where
    K: Resource<DynamicType = ApiResource> + Clone + 'static,
{
    let writer = Writer::new(resource);
    (writer.as_reader(), writer)
}

fn synced<K>(store: Store<K>) -> BoxStream<'static, ()>
where
    K: Resource<DynamicType = ApiResource> + Clone + Send + Sync + 'static,
{
    stream::once(async move { drop(store.wait_until_ready().await) }).boxed()
}

/// Holds requests back until all of `ready` has come; the watches go on meanwhile, since they are what makes it come.
fn after(ready: Vec<BoxStream<'static, ()>>, queue: Queue) -> Queue {
    let ready = stream::iter(ready).flatten().collect::<Vec<()>>();
    let state = (Some(Box::pin(ready)), Vec::new(), queue);
    stream::unfold(state, |(mut ready, mut held, mut queue)| async move {
        if let Some(waited) = &mut ready {
            loop {
                tokio::select! {
                    biased;
                    _ = &mut *waited => break,
                    next = queue.next() => held.push(next?),
                }
            }
        }
        let next = match held.pop() {
            Some(next) => next,
            None => queue.next().await?,
        };
        Some((next, (None, held, queue)))
    })
    .boxed()
}

fn request(namespace: &str, gateway: &str) -> Request {
    ObjectRef::new_with(gateway, gateway_resource())
        .within(namespace)
        .into()
}

fn of_namespace(gateways: &Store<DynamicObject>, namespace: &str) -> Vec<Request> {
    gateways
        .state()
        .iter()
        .filter(|gateway| gateway.namespace().as_deref() == Some(namespace))
        .map(|gateway| request(namespace, &gateway.name_any()))
        .collect()
}

fn every(gateways: &Store<DynamicObject>) -> Vec<Request> {
    gateways
        .state()
        .iter()
        .map(|gateway| {
            request(
                &gateway.namespace().unwrap_or_default(),
                &gateway.name_any(),
            )
        })
        .collect()
}

fn hash_of(value: impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

fn labels_hash(object: &Meta) -> u64 {
    hash_of(object.labels())
}

fn version_hash<K: ResourceExt>(object: &K) -> u64 {
    hash_of(object.resource_version())
}

/// What of an object is the user's or ours. Kinds without a generation have only their version.
fn meta_hash<K: ResourceExt>(object: &K) -> u64 {
    let meta = object.meta();
    let generation = meta.generation.map_or_else(
        || meta.resource_version.clone().unwrap_or_default(),
        |generation| generation.to_string(),
    );
    hash_of((
        &meta.uid,
        generation,
        &meta.labels,
        &meta.annotations,
        meta.deletion_timestamp.is_some(),
    ))
}

pub(super) fn namespaces() -> ApiResource {
    core("", "v1", "Namespace", "namespaces")
}

fn services() -> ApiResource {
    core("", "v1", "Service", "services")
}

fn webhooks() -> ApiResource {
    core(
        "admissionregistration.k8s.io",
        "v1",
        "MutatingWebhookConfiguration",
        "mutatingwebhookconfigurations",
    )
}

fn core(group: &str, version: &str, kind: &str, plural: &str) -> ApiResource {
    ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(group, version, kind), plural)
}
