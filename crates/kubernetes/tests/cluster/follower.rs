//! What a reader of the batches knows.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use waymark_api::{ObjectRef, Resource};
use waymark_kubernetes::{Access, Batch, Observed, Options, connect, watch};
use waymark_rt::{Task, spawn};

/// Longer than anything takes on a machine that has much else to do.
const LIMIT: Duration = Duration::from_secs(60);

pub(crate) struct Follower {
    batches: mpsc::Receiver<Batch>,
    stop: CancellationToken,
    task: Task<()>,
    /// Everything that is there, as it was told last.
    pub(crate) objects: BTreeMap<String, Observed>,
    /// What was told, in order, since somebody last looked: `+`, `!` or `-` and the object.
    pub(crate) told: Vec<String>,
}

impl Follower {
    /// Begins to watch, and takes in the first batch.
    pub(crate) async fn start(kubeconfig: PathBuf, options: Options) -> Self {
        let mut follower = Self::begin(kubeconfig, options).await;
        follower.next().await;
        follower
    }

    /// Begins to watch.
    pub(crate) async fn begin(kubeconfig: PathBuf, options: Options) -> Self {
        let access = Access::Kubeconfig {
            file: kubeconfig,
            context: None,
        };
        let client = connect(&access).await.unwrap();
        let (sender, batches) = mpsc::channel(4);
        let stop = CancellationToken::new();
        let task = spawn("watch", watch(client, options, sender, stop.clone()));
        Self {
            batches,
            stop,
            task,
            objects: BTreeMap::new(),
            told: Vec::new(),
        }
    }

    /// Takes in batches until it holds.
    pub(crate) async fn until(&mut self, what: &str, holds: impl Fn(&Self) -> bool) {
        let waiting = async {
            while !holds(self) {
                self.next().await;
            }
        };
        let in_time = tokio::time::timeout(LIMIT, waiting).await.is_ok();
        assert!(
            in_time,
            "not within {LIMIT:?}: {what}; told: {:?}",
            self.told
        );
    }

    /// Takes in what comes until nothing has come for a moment.
    pub(crate) async fn settle(&mut self) {
        while let Ok(batch) = tokio::time::timeout(QUIET, self.batches.recv()).await {
            self.take(batch.expect("the watch goes on"));
        }
    }

    /// The object `kind namespace/name`, if it is there and valid.
    pub(crate) fn present(&self, object: &str) -> Option<&Resource> {
        match self.objects.get(object)? {
            Observed::Present(resource) => Some(resource),
            Observed::Refused(..) | Observed::Gone(_) => None,
        }
    }

    /// What is wrong with an object.
    pub(crate) fn errors(&self, object: &str) -> Vec<String> {
        match self.objects.get(object) {
            Some(Observed::Refused(_, errors)) => errors.iter().map(ToString::to_string).collect(),
            Some(Observed::Present(_) | Observed::Gone(_)) | None => Vec::new(),
        }
    }

    /// The watches end when they are told to.
    pub(crate) async fn stop(self) {
        self.stop.cancel();
        tokio::time::timeout(LIMIT, self.task)
            .await
            .expect("the watches end")
            .unwrap();
    }

    async fn next(&mut self) {
        let batch = tokio::time::timeout(LIMIT, self.batches.recv()).await;
        self.take(batch.expect("a batch in time").expect("the watch goes on"));
    }

    fn take(&mut self, batch: Batch) {
        for observed in batch.observed {
            let object = name(&observed.object());
            let sign = match &observed {
                Observed::Present(_) => '+',
                Observed::Refused(..) => '!',
                Observed::Gone(_) => '-',
            };
            self.told.push(format!("{sign}{object}"));
            if sign == '-' {
                let known = self.objects.remove(&object);
                assert!(known.is_some(), "{object} goes that never came");
            } else {
                self.objects.insert(object, observed);
            }
        }
    }
}

fn name(object: &ObjectRef) -> String {
    match &object.namespace {
        Some(namespace) => format!("{} {namespace}/{}", object.kind, object.name),
        None => format!("{} {}", object.kind, object.name),
    }
}

/// How long nothing has to come for a test to believe that nothing will. A batch waits for 100 ms at most.
const QUIET: Duration = Duration::from_millis(700);
