//! The roots of the mesh in every namespace: ConfigMap `istio-ca-root-cert`, made where it is missing and put right where
//! it is edited. Only the leader writes. Spec: control-plane.md 11.7.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use futures_util::StreamExt;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace};
use kube::api::{Api, Patch, PatchParams};
use kube::runtime::watcher::{self, Event};
use kube::runtime::{WatchStreamExt, watcher as watch};
use kube::{Client, ResourceExt};
use serde_json::json;
use tokio::sync::watch::Receiver;
use tokio::time::{Instant, sleep_until};
use tracing::{debug, warn};

/// Keeps the ConfigMaps until it is dropped. `roots` is the bundle, PEM, and each new one.
pub async fn keep(client: Client, mut roots: Receiver<String>) {
    let namespaces = Api::<Namespace>::all(client.clone());
    let mut namespaces = watch(namespaces, watcher::Config::default())
        .modify(|namespace| namespace.managed_fields_mut().clear())
        .default_backoff()
        .boxed();
    let maps = Api::<ConfigMap>::all(client.clone());
    let by_name = format!("metadata.name={NAME}");
    let mut maps = watch(maps, watcher::Config::default().fields(&by_name))
        .default_backoff()
        .boxed();
    let mut keeper = Keeper::default();
    let mut known = true;
    loop {
        let wanted = roots.borrow_and_update().clone();
        let next = keeper.next(&wanted, Instant::now());
        let wake = next.as_ref().map(|(at, _)| *at);
        tokio::select! {
            biased;
            changed = roots.changed(), if known => known = changed.is_ok(),
            Some(event) = namespaces.next() => keeper.namespace(event),
            Some(event) = maps.next() => keeper.map(event),
            () = sleep_until(wake.unwrap_or_else(Instant::now)), if wake.is_some() => {
                if let Some((_, namespace)) = next {
                    let written = write(&client, &namespace, &wanted).await;
                    keeper.written(&namespace, written, &wanted, Instant::now());
                }
            }
        }
    }
}

/// What is known of one namespace.
#[derive(Debug, Default)]
struct State {
    /// The bundle that is there.
    found: Option<String>,
    /// Whether it has the label.
    labelled: bool,
    /// Not before this it is written again.
    not_before: Option<Instant>,
    /// Writes and failures in quick succession.
    attempts: u32,
    last: Option<Instant>,
}

#[derive(Debug, Default)]
struct Keeper {
    namespaces: BTreeMap<String, State>,
    /// ConfigMaps of namespaces that have not been seen yet, as during a start.
    early: HashMap<String, (String, bool)>,
    namespaces_listed: Vec<String>,
    maps_listed: Vec<String>,
    /// Both lists are complete: before that, everything seems to be missing.
    synced: (bool, bool),
}

impl Keeper {
    /// The next namespace that is to be written, and when.
    fn next(&self, wanted: &str, now: Instant) -> Option<(Instant, String)> {
        if self.synced != (true, true) || wanted.is_empty() {
            return None;
        }
        self.namespaces
            .iter()
            .filter(|(_, state)| state.found.as_deref() != Some(wanted) || !state.labelled)
            .map(|(namespace, state)| (state.not_before.unwrap_or(now), namespace.clone()))
            .min()
    }

    fn namespace(&mut self, event: watcher::Result<Event<Namespace>>) {
        match event {
            Ok(Event::Apply(namespace) | Event::InitApply(namespace)) => {
                let name = namespace.name_any();
                self.namespaces_listed.push(name.clone());
                let phase = namespace.status.and_then(|status| status.phase);
                let ends = namespace.metadata.deletion_timestamp.is_some()
                    || phase.as_deref() == Some("Terminating");
                if ends || IGNORED.contains(&name.as_str()) {
                    self.namespaces.remove(&name);
                } else {
                    let early = self.early.remove(&name);
                    let state = self.namespaces.entry(name).or_default();
                    if let Some((found, labelled)) = early {
                        (state.found, state.labelled) = (Some(found), labelled);
                    }
                }
            }
            Ok(Event::Delete(namespace)) => {
                self.namespaces.remove(&namespace.name_any());
            }
            Ok(Event::Init) => self.namespaces_listed.clear(),
            Ok(Event::InitDone) => {
                let listed = std::mem::take(&mut self.namespaces_listed);
                self.namespaces.retain(|name, _| listed.contains(name));
                self.synced.0 = true;
            }
            Err(error) => warn!(%error, "namespaces are watched again"),
        }
    }

    fn map(&mut self, event: watcher::Result<Event<ConfigMap>>) {
        match event {
            Ok(Event::Apply(map) | Event::InitApply(map)) => {
                let namespace = map.namespace().unwrap_or_default();
                self.maps_listed.push(namespace.clone());
                let labelled = map
                    .labels()
                    .get(LABEL.0)
                    .is_some_and(|value| value == LABEL.1);
                let found = map
                    .data
                    .and_then(|mut data| data.remove(KEY))
                    .unwrap_or_default();
                match self.namespaces.get_mut(&namespace) {
                    Some(state) => (state.found, state.labelled) = (Some(found), labelled),
                    None => drop(self.early.insert(namespace, (found, labelled))),
                }
            }
            Ok(Event::Delete(map)) => self.missing(&map.namespace().unwrap_or_default()),
            Ok(Event::Init) => self.maps_listed.clear(),
            Ok(Event::InitDone) => {
                let listed = std::mem::take(&mut self.maps_listed);
                let gone: Vec<String> = self
                    .namespaces
                    .keys()
                    .filter(|name| !listed.contains(name))
                    .cloned()
                    .collect();
                gone.iter().for_each(|namespace| self.missing(namespace));
                self.synced.1 = true;
            }
            Err(error) => warn!(%error, "root ConfigMaps are watched again"),
        }
    }

    fn missing(&mut self, namespace: &str) {
        self.early.remove(namespace);
        if let Some(state) = self.namespaces.get_mut(namespace) {
            (state.found, state.labelled) = (None, false);
        }
    }

    /// Notes what came of a write. Whoever else writes the same ConfigMap is met ever more slowly.
    fn written(
        &mut self,
        namespace: &str,
        result: Result<(), kube::Error>,
        wanted: &str,
        now: Instant,
    ) {
        let Some(state) = self.namespaces.get_mut(namespace) else {
            return;
        };
        if state
            .last
            .is_none_or(|last| now.duration_since(last) > CALM)
        {
            state.attempts = 0;
        }
        state.last = Some(now);
        let pause = FIRST_PAUSE
            .saturating_mul(1 << state.attempts.min(12))
            .min(LAST_PAUSE);
        state.not_before = Some(now + pause);
        state.attempts += 1;
        match result {
            Ok(()) => {
                // The watch would say so, but only later.
                (state.found, state.labelled) = (Some(wanted.to_owned()), true);
                if state.attempts == FIGHT {
                    warn!(
                        namespace,
                        name = NAME,
                        "somebody else writes the root certificate too: another control plane with another certificate authority?"
                    );
                } else {
                    debug!(namespace, name = NAME, "root certificate written");
                }
            }
            Err(kube::Error::Api(status)) if status.code == 404 || ends(&status.message) => {
                debug!(namespace, "namespace is on its way out");
            }
            Err(error) => {
                warn!(namespace, %error, retry_ms = pause.as_millis(), "root certificate is not written")
            }
        }
    }
}

/// What the API server says of a namespace that is being deleted.
fn ends(message: &str) -> bool {
    message.contains("because it is being terminated")
}

async fn write(client: &Client, namespace: &str, roots: &str) -> Result<(), kube::Error> {
    let map = json!({
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": NAME, "namespace": namespace, "labels": {LABEL.0: LABEL.1}},
        "data": {KEY: roots},
    });
    let api = Api::<ConfigMap>::namespaced(client.clone(), namespace);
    let params = PatchParams::apply(MANAGER).force();
    api.patch_metadata(NAME, &params, &Patch::Apply(&map))
        .await
        .map(drop)
}

/// What pods mount.
pub const NAME: &str = "istio-ca-root-cert";
const KEY: &str = "root-cert.pem";
const LABEL: (&str, &str) = ("istio.io/config", "true");
const MANAGER: &str = "waymark.dev/root-certificate";
/// Namespaces without workloads. Spec: control-plane.md 11.7.
const IGNORED: [&str; 3] = ["kube-public", "kube-node-lease", "local-path-storage"];
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LAST_PAUSE: Duration = Duration::from_secs(60);
/// After so long without a write, nobody is fighting.
const CALM: Duration = Duration::from_secs(120);
/// So many writes in succession are a fight.
const FIGHT: u32 = 6;
