//! All kinds together.

mod backoff;
mod crds;
mod foreign;
pub(crate) mod kind;
mod object;
mod watch_kind;

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use indexmap::IndexMap;
use kube::Client;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;
use tracing::info;
use waymark_api::{DocumentError, ObjectRef, Resource};
use waymark_rt::Tasks;

use self::backoff::Backoff;
use self::crds::Crds;
pub(crate) use self::foreign::is_foreign;
pub(crate) use self::kind::found;
use self::watch_kind::{Told, Watch};

/// What is watched, and how.
#[derive(Clone, Debug)]
pub struct Options {
    /// Istio objects that name another revision (label `istio.io/rev`) are taken not to be there.
    pub revision: String,
    /// Objects in one page of a list, where the API server does not stream them.
    pub page_size: u32,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            revision: "default".to_owned(),
            // As many as client-go asks for.
            page_size: 500,
        }
    }
}

/// What the API server says of one object.
#[derive(Clone, Debug, PartialEq)]
pub enum Observed {
    /// It is there, and valid.
    Present(Resource),
    /// It is there, and not valid, or of a kind that is refused.
    Refused(ObjectRef, Vec<DocumentError>),
    /// It is not there any more.
    Gone(ObjectRef),
}

/// Objects in the order in which they were heard of, each once, as it was last.
#[derive(Clone, Debug, PartialEq)]
pub struct Batch {
    /// The objects.
    pub observed: Vec<Observed>,
}

/// Watches all kinds until `stop`, sending what changes to `batches`.
///
/// The first batch has everything: it is sent when all kinds have been listed, or are known not to be installed. What
/// comes quickly after one another comes together. An API server that is away, forgets what it has said or starts anew
/// is listed again, and only what differs is told. When `batches` is full, the watches wait, and the API server with them.
///
/// # Cancel safety
/// Ends all watches when dropped.
pub async fn watch(
    client: Client,
    options: Options,
    batches: mpsc::Sender<Batch>,
    stop: CancellationToken,
) {
    let tasks = Tasks::new();
    let (told, mut heard) = mpsc::channel(QUEUE);
    let (crds, defined) = watch::channel(Crds::Unread);
    let mut running = vec![tasks.spawn("watch definitions", crds::follow(client.clone(), crds))];
    let kinds = kind::all();
    let mut unsynced: BTreeSet<usize> = (0..kinds.len()).collect();
    for (index, watched) in kinds.into_iter().enumerate() {
        let watch = Watch {
            client: client.clone(),
            watched,
            index,
            options: options.clone(),
            crds: defined.clone(),
            told: told.clone(),
            known: HashMap::new(),
            streams: true,
            backoff: Backoff::default(),
            told_missing: false,
        };
        running.push(tasks.spawn("watch kind", watch.run()));
    }
    drop(told);
    tokio::select! {
        biased;
        () = stop.cancelled() => {}
        () = gather(&mut heard, &mut unsynced, &batches) => {}
    }
    drop(heard);
    for task in running {
        task.abort();
    }
    tasks.finish().await;
}

/// Passes on what is heard, in batches.
async fn gather(
    heard: &mut mpsc::Receiver<Told>,
    unsynced: &mut BTreeSet<usize>,
    batches: &mpsc::Sender<Batch>,
) {
    let mut waiting = Waiting::default();
    while !unsynced.is_empty() {
        let Some(told) = heard.recv().await else {
            return;
        };
        waiting.add(told, unsynced);
    }
    info!(objects = waiting.0.len(), "cluster has been read");
    loop {
        if batches.send(waiting.take()).await.is_err() {
            return;
        }
        while waiting.0.is_empty() {
            let Some(told) = heard.recv().await else {
                return;
            };
            waiting.add(told, unsynced);
        }
        let latest = Instant::now() + PATIENCE;
        loop {
            let quiet = (Instant::now() + QUIET).min(latest);
            match timeout_at(quiet, heard.recv()).await {
                Ok(Some(told)) => waiting.add(told, unsynced),
                Ok(None) => return,
                Err(_) => break,
            }
            if Instant::now() >= latest {
                break;
            }
        }
    }
}

/// What is to be passed on, by object.
#[derive(Debug, Default)]
struct Waiting(IndexMap<ObjectRef, Observed>);

impl Waiting {
    fn add(&mut self, told: Told, unsynced: &mut BTreeSet<usize>) {
        match told {
            Told::Synced(kind) => {
                unsynced.remove(&kind);
            }
            Told::Object(observed) => {
                self.0.insert(observed.object(), observed);
            }
        }
    }

    fn take(&mut self) -> Batch {
        Batch {
            observed: std::mem::take(&mut self.0).into_values().collect(),
        }
    }
}

impl Observed {
    /// The object.
    pub fn object(&self) -> ObjectRef {
        match self {
            Self::Present(resource) => {
                let key = resource.key();
                ObjectRef {
                    group: key.kind.group().to_owned(),
                    kind: key.kind.as_str().to_owned(),
                    namespace: key.namespace,
                    name: key.name,
                }
            }
            Self::Refused(object, _) | Self::Gone(object) => object.clone(),
        }
    }
}

/// Objects that may wait to be gathered.
const QUEUE: usize = 1024;
/// How long it has to be quiet before changes are passed on, and how long they wait at most. Upstream waits 100 ms and more;
/// what comes together here are the objects of one `kubectl apply` or one step of a rollout.
const QUIET: Duration = Duration::from_millis(10);
const PATIENCE: Duration = Duration::from_millis(100);
