//! One kind: found, listed, watched, for as long as it is served, and looked for when it is not.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use futures_util::{StreamExt, pin_mut};
use kube::api::ApiResource;
use kube::runtime::watcher::{self, Config, Event, watcher};
use kube::{Api, Client};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tracing::{debug, info, warn};
use waymark_api::ObjectRef;
use waymark_api::yaml::parse_json;

use crate::source::backoff::Backoff;
use crate::source::crds::{Crds, NOTEWORTHY};
use crate::source::foreign::is_foreign;
use crate::source::kind::Watched;
use crate::source::object::Object;
use crate::source::{Observed, Options};

/// What a watch of one kind tells.
#[derive(Debug)]
pub(crate) enum Told {
    /// Something about an object.
    Object(Observed),
    /// Everything that there is of this kind has been told; the kind by its place in the list of kinds.
    Synced(usize),
}

/// A watch of one kind.
pub(crate) struct Watch {
    pub(crate) client: Client,
    pub(crate) watched: Watched,
    /// Its place in the list of kinds.
    pub(crate) index: usize,
    pub(crate) options: Options,
    pub(crate) crds: watch::Receiver<Crds>,
    /// When it is full, the watch waits, and the API server with it.
    pub(crate) told: mpsc::Sender<Told>,
    /// The version of every object that has been told of, by namespace and name.
    pub(crate) known: HashMap<(String, String), String>,
    /// Whether the server is taken to stream lists: as the beginning of a watch, object by object, from its memory.
    pub(crate) streams: bool,
    pub(crate) backoff: Backoff,
    /// Whether it has been said that there is no such kind.
    pub(crate) told_missing: bool,
}

/// Nobody listens any more.
pub(crate) struct Unheard;

/// Why a watch is over.
enum Over {
    /// The kind is not served any more, not in this version at least.
    NotServed,
    /// It has to begin anew.
    Anew(watcher::Error),
    Unheard,
}

impl From<Unheard> for Over {
    fn from(_: Unheard) -> Self {
        Self::Unheard
    }
}

impl Watch {
    /// Watches until nobody listens.
    pub(crate) async fn run(mut self) {
        let mut missing_since = None;
        loop {
            let result = match self.watched.served(&self.client).await {
                Ok(Some(resource)) => {
                    missing_since = None;
                    match self.follow(&resource).await {
                        Over::NotServed => self.failed("it is not served any more").await,
                        Over::Anew(error) => self.failed(&error.to_string()).await,
                        Over::Unheard => return,
                    }
                }
                Ok(None) => {
                    let since = *missing_since.get_or_insert_with(Instant::now);
                    self.missing(since).await
                }
                Err(error) => self.failed(&error.to_string()).await,
            };
            if result.is_err() {
                return;
            }
        }
    }

    /// Lists and watches a served kind.
    async fn follow(&mut self, resource: &ApiResource) -> Over {
        let api: Api<Object> = Api::all_with(self.client.clone(), resource);
        let mut config = Config::default().page_size(self.options.page_size);
        // A streamed list may be of a moment ago. That is good enough to begin with, but whoever has seen more must not be
        // told less: it asks for the newest, page by page.
        if self.streams && self.known.is_empty() {
            config = config.streaming_lists();
        }
        let events = watcher(api, config);
        pin_mut!(events);
        let mut listed = HashSet::new();
        let mut listing = true;
        while let Some(event) = events.next().await {
            let result = match event {
                Ok(Event::Init) => {
                    listing = true;
                    listed.clear();
                    Ok(())
                }
                Ok(Event::InitApply(object)) => {
                    listed.insert(object.name());
                    self.tell(resource, object).await
                }
                Ok(Event::InitDone) => {
                    listing = false;
                    self.worked();
                    self.all_listed(&std::mem::take(&mut listed)).await
                }
                Ok(Event::Apply(object)) => {
                    self.worked();
                    self.tell(resource, object).await
                }
                Ok(Event::Delete(object)) => {
                    self.worked();
                    self.tell_gone(object.name()).await
                }
                Err(error) => match self.weigh(error, listing) {
                    // The watch goes on where it was.
                    Weight::Light(error) => self.failed(&error).await,
                    Weight::Heavy(over) => return over,
                },
            };
            if result.is_err() {
                return Over::Unheard;
            }
        }
        Over::NotServed
    }

    /// What an error means for the watch.
    fn weigh(&mut self, error: watcher::Error, listing: bool) -> Weight {
        let code = match &error {
            watcher::Error::InitialListFailed(kube::Error::Api(status))
            | watcher::Error::WatchStartFailed(kube::Error::Api(status))
            | watcher::Error::WatchFailed(kube::Error::Api(status))
            | watcher::Error::WatchError(status) => status.code,
            _ => return Weight::Light(error.to_string()),
        };
        match code {
            404 => Weight::Heavy(Over::NotServed),
            // What the watch had seen is forgotten: everything is listed again.
            410 => Weight::Heavy(Over::Anew(error)),
            400 | 422 if listing && self.streams => {
                debug!(kind = self.watched.kind, %error, "the API server streams no lists");
                self.streams = false;
                Weight::Heavy(Over::Anew(error))
            }
            _ => Weight::Light(error.to_string()),
        }
    }

    /// Tells of an object, unless it has been told of as it is.
    async fn tell(&mut self, resource: &ApiResource, object: Object) -> Result<(), Unheard> {
        let name = object.name();
        if self
            .known
            .get(&name)
            .is_some_and(|known| known == object.version())
        {
            return Ok(());
        }
        let foreign = is_foreign(&self.watched, &self.options.revision, object.value());
        if foreign {
            return self.tell_gone(name).await;
        }
        self.known.insert(name.clone(), object.version().to_owned());
        let observed = match parse_json(SOURCE, &object.into_value(resource)) {
            Ok(resource) => Observed::Present(resource),
            Err(errors) => Observed::Refused(self.object_ref(name), errors),
        };
        self.send(Told::Object(observed)).await
    }

    async fn tell_gone(&mut self, name: (String, String)) -> Result<(), Unheard> {
        if self.known.remove(&name).is_none() {
            return Ok(());
        }
        let gone = Observed::Gone(self.object_ref(name));
        self.send(Told::Object(gone)).await
    }

    /// A list is complete: what is known and not in it is gone.
    async fn all_listed(&mut self, listed: &HashSet<(String, String)>) -> Result<(), Unheard> {
        let gone: Vec<(String, String)> = self
            .known
            .keys()
            .filter(|name| !listed.contains(*name))
            .cloned()
            .collect();
        for name in gone {
            self.tell_gone(name).await?;
        }
        self.send(Told::Synced(self.index)).await
    }

    /// The server says that there is no such kind, and has said so since a moment. One that is just started may say so of
    /// what it has not read yet, so it is not believed at once.
    async fn missing(&mut self, since: Instant) -> Result<(), Unheard> {
        let Watched { group, kind, .. } = self.watched;
        let crd = self.watched.crd();
        let has = |crds: &Crds| crd.as_ref().and_then(|crd| crds.has(crd));
        let defined = has(&self.crds.borrow_and_update());
        let doubt = match defined {
            Some(false) if self.known.is_empty() => Duration::ZERO,
            Some(false) => DOUBT,
            None => UNREAD_DOUBT,
            Some(true) => DEFINED_DOUBT,
        };
        if since.elapsed() < doubt {
            tokio::time::sleep(LOOK_AGAIN).await;
            return Ok(());
        }
        if !std::mem::replace(&mut self.told_missing, true) {
            match defined {
                Some(true) => warn!(kind, group, "kind is in no version that is understood"),
                Some(false) | None => info!(kind, group, "kind is not installed; it is waited for"),
            }
        }
        self.all_listed(&HashSet::new()).await?;
        let changed = async {
            let changed = if defined == Some(false) {
                let appeared = self.crds.wait_for(|crds| has(crds) != Some(false)).await;
                appeared.map(drop)
            } else {
                self.crds.changed().await
            };
            // The sender lives as long as all watches.
            if changed.is_err() {
                std::future::pending::<()>().await;
            }
        };
        let _ = tokio::time::timeout(RECHECK, changed).await;
        Ok(())
    }

    /// Says that the kind cannot be watched, and waits. What is known stays in force.
    async fn failed(&mut self, error: &str) -> Result<(), Unheard> {
        let Watched { group, kind, .. } = self.watched;
        let wait = self.backoff.next();
        // A cut connection, or a version that is too old, is nothing to talk about.
        if self.backoff.failures() == NOTEWORTHY {
            warn!(
                kind,
                group, error, "kind is not watched; what is known of it stays in force"
            );
        } else {
            debug!(kind, group, error, "kind is not watched");
        }
        if !self.watched.is_read {
            // What would only be refused holds nobody up.
            self.send(Told::Synced(self.index)).await?;
        }
        tokio::select! {
            () = tokio::time::sleep(wait) => Ok(()),
            () = self.told.closed() => Err(Unheard),
        }
    }

    fn worked(&mut self) {
        self.told_missing = false;
        if self.backoff.failures() >= NOTEWORTHY {
            info!(kind = self.watched.kind, "kind is watched again");
        }
        self.backoff.reset();
    }

    fn object_ref(&self, (namespace, name): (String, String)) -> ObjectRef {
        ObjectRef {
            group: self.watched.group.to_owned(),
            kind: self.watched.kind.to_owned(),
            namespace: (!namespace.is_empty()).then_some(namespace),
            name,
        }
    }

    async fn send(&self, told: Told) -> Result<(), Unheard> {
        self.told.send(told).await.map_err(|_| Unheard)
    }
}

/// What an error does to a watch.
enum Weight {
    /// It goes on after a wait.
    Light(String),
    /// It ends.
    Heavy(Over),
}

/// Names the cluster in errors.
const SOURCE: &str = "cluster";
/// How long the server has to say that a kind is not there: when its definition is gone too, when nobody knows of
/// definitions, and when it is defined.
const DOUBT: Duration = Duration::from_secs(1);
const UNREAD_DOUBT: Duration = Duration::from_secs(3);
const DEFINED_DOUBT: Duration = Duration::from_secs(10);
const LOOK_AGAIN: Duration = Duration::from_millis(300);
/// How often a missing kind is looked for when no definition changes.
const RECHECK: Duration = Duration::from_secs(30);
