//! A mesh in a cluster: objects and authority from its API server, tokens reviewed by it, and what is written there.
//!
//! Every replica reads, serves xDS and signs. One, the holder of the revision's Lease, writes: the waypoints' objects,
//! statuses and events, the addresses of ServiceEntries, the roots in every namespace, the renewal of the authority. Spec: control-plane.md 14.3.

use std::sync::Arc;
use std::time::Duration;

use futures_util::{FutureExt, StreamExt};
use tokio::sync::{mpsc, watch};
use tokio::time::{interval, sleep, timeout};
use tracing::{info, warn};
use waymark_identity::Ca;
use waymark_kubernetes::ca_secret::{CaSecretError, CaSecrets, RENEWAL_EVERY, may_replace};
use waymark_kubernetes::deployer::{self, DeployerOptions, Report, Verdicts};
use waymark_kubernetes::leader::elect;
use waymark_kubernetes::status::{self, WriterOptions};
use waymark_kubernetes::token::TokenReviewer;
use waymark_kubernetes::{Client, allocate, root_config_map};
use waymark_rt::{Shutdown, SystemClock, Task, spawn};

use super::RunError;
use super::args::cluster::{CLUSTER_DOMAIN, ClusterSettings};
use super::args::{Settings, SourceSettings};
use super::start::{Authority, BATCHES, Begun, take_changes};
use crate::ca::Tokens;
use crate::core::Core;
use crate::source::kubernetes;
use crate::status::cluster::ClusterStatus;

/// The cluster's side of a control plane.
pub(super) struct Cluster {
    client: Client,
    settings: ClusterSettings,
    /// Where the authority is; `None` when it is an operator's, in files.
    secrets: Option<CaSecrets>,
}

impl Cluster {
    /// Finds the API server and the authority, or makes one. An API server that is away is waited for. `None` when the end
    /// came first.
    pub(super) async fn join(
        settings: &Settings,
        shutdown: &Shutdown,
    ) -> Result<Option<(Self, Ca)>, RunError> {
        let SourceSettings::Kubernetes(cluster) = &settings.source else {
            return Ok(None);
        };
        let client = waymark_kubernetes::connect(&cluster.access).await?;
        let clock = Arc::new(SystemClock);
        let (secrets, ca) = match &settings.ca_dir {
            Some(dir) => (None, Ca::load(dir, &settings.trust_domain, clock)?),
            None => {
                let namespace = &cluster.system_namespace;
                let secrets =
                    CaSecrets::new(client.clone(), namespace, &settings.trust_domain, clock);
                let Some(ca) = authority(&secrets, shutdown).await? else {
                    return Ok(None);
                };
                (Some(secrets), ca)
            }
        };
        let joined = Self {
            client,
            settings: (**cluster).clone(),
            secrets,
        };
        Ok(Some((joined, ca)))
    }

    /// Tokens are those of the cluster's service accounts.
    pub(super) fn tokens(&self, settings: &Settings) -> Tokens {
        let audiences = vec![AUDIENCE.to_owned()];
        let reviewer = TokenReviewer::new(self.client.clone(), audiences, Arc::new(SystemClock));
        Tokens::Reviewed {
            reviewer: Arc::new(reviewer),
            cluster_id: settings.cluster_id.clone(),
        }
    }

    /// Reads the cluster, which takes as long as its API server is away, and takes part in the election. Gives what is to
    /// end first.
    pub(super) fn begin(self, begun: &Begun<'_>, authority: Authority) -> Task<()> {
        self.read(begun);
        let (roots, _) = watch::channel(authority.ca.load().roots_pem().to_owned());
        let roots = Arc::new(roots);
        if let Some(secrets) = self.secrets.clone() {
            let follow = follow_authority(secrets, authority, roots.clone());
            begun.tasks.spawn("follow authority", follow);
        }
        let revision = &begun.settings.revision;
        let (leadership, election) = elect(
            self.client.clone(),
            self.settings.lease(revision),
            Arc::new(SystemClock),
            begun.shutdown.clone(),
        );
        let writers = Arc::new(Writers {
            client: self.client,
            settings: self.settings,
            secrets: self.secrets,
            revision: revision.clone(),
            core: begun.core.clone(),
            roots,
        });
        let lead = leadership.lead(move |_| {
            let writers = writers.clone();
            async move { Box::pin(writers.write()).await }
        });
        begun.tasks.spawn("lead", lead);
        spawn("elect", election)
    }

    fn read(&self, begun: &Begun<'_>) {
        let options = waymark_kubernetes::Options {
            revision: begun.settings.revision.clone(),
            ..waymark_kubernetes::Options::default()
        };
        let (told, heard) = mpsc::channel(BATCHES);
        let (batches, received) = mpsc::channel(BATCHES);
        let stop = begun.shutdown.draining_token();
        let tasks = begun.tasks;
        tasks.spawn(
            "watch cluster",
            waymark_kubernetes::watch(self.client.clone(), options, told, stop),
        );
        let reader = kubernetes::Cluster::default();
        tasks.spawn("read cluster", reader.pass_on(heard, batches));
        tasks.spawn("take changes", take_changes(begun.core.clone(), received));
    }
}

/// The authority that replicas share. What is wrong with it ends the control plane; that nobody can be asked does not.
/// `None` when the end came first.
async fn authority(secrets: &CaSecrets, shutdown: &Shutdown) -> Result<Option<Ca>, RunError> {
    let mut wait = FIRST_RETRY;
    loop {
        let attempt = timeout(PATIENCE, secrets.load_or_create());
        let attempted = tokio::select! {
            biased;
            () = shutdown.draining() => return Ok(None),
            attempted = attempt => attempted,
        };
        match attempted {
            Ok(Ok((ca, origin))) => {
                info!(secret = origin.secret(), "certificate authority");
                return Ok(Some(ca));
            }
            Ok(Err(error @ (CaSecretError::Api { .. } | CaSecretError::Unsteady { .. }))) => {
                let cause = std::error::Error::source(&error).map(tracing::field::display);
                warn!(%error, cause, retry_ms = wait.as_millis(), "no certificate authority yet");
            }
            Ok(Err(error)) => return Err(RunError::Authority(error)),
            Err(_) => warn!("no certificate authority yet: the API server does not answer"),
        }
        tokio::select! {
            biased;
            () = shutdown.draining() => return Ok(None),
            () = sleep(wait) => {}
        }
        wait = (wait * 2).min(LAST_RETRY);
    }
}

/// Takes up what becomes of the authority, as far as it may follow on the one in force.
async fn follow_authority(
    secrets: CaSecrets,
    authority: Authority,
    roots: Arc<watch::Sender<String>>,
) {
    let mut changes = std::pin::pin!(secrets.changes());
    let mut failed = false;
    loop {
        tokio::select! {
            change = changes.next() => if change.is_none() { return },
            () = sleep(LAST_RETRY), if failed => {}
        }
        // One change of a Secret, and one start of a watch, are told in several events.
        while let Some(Some(())) = changes.next().now_or_never() {}
        failed = match timeout(PATIENCE, secrets.load()).await {
            Ok(Ok(Some((new, _)))) => {
                take_authority(new, &authority, &roots);
                false
            }
            Ok(Ok(None)) => {
                warn!(
                    "the certificate authority's Secret is gone; the one that it was goes on here"
                );
                false
            }
            Ok(Err(error)) => {
                let cause = std::error::Error::source(&error).map(tracing::field::display);
                warn!(%error, cause, "certificate authority stays as it is");
                matches!(error, CaSecretError::Api { .. })
            }
            Err(_) => true,
        };
    }
}

fn take_authority(new: Ca, authority: &Authority, roots: &watch::Sender<String>) {
    let old = authority.ca.load_full();
    if new.signer().pem == old.signer().pem && new.roots_pem() == old.roots_pem() {
        return;
    }
    if let Err(error) = may_replace(&old, &new) {
        let cause = std::error::Error::source(&error).map(tracing::field::display);
        warn!(%error, cause, "certificate authority stays as it is");
        return;
    }
    roots.send_replace(new.roots_pem().to_owned());
    authority.replace(new);
    info!("certificate authority replaced");
}

/// What the leader writes, and with what.
struct Writers {
    client: Client,
    settings: ClusterSettings,
    secrets: Option<CaSecrets>,
    revision: String,
    core: Arc<Core>,
    roots: Arc<watch::Sender<String>>,
}

impl Writers {
    /// Writes until it is dropped: for one term.
    async fn write(&self) {
        // What is not known of the cluster yet must not look as if it were not there.
        self.core.until_ready().await;
        let (report, verdicts) = Report::new(self.client.clone(), &self.settings.pod_name);
        let roots = root_config_map::keep(self.client.clone(), self.roots.subscribe());
        tokio::join!(
            self.deploy(report),
            self.statuses(verdicts),
            roots,
            self.renew_authority(),
            allocate::run(self.client.clone()),
        );
    }

    async fn deploy(&self, report: Report) {
        let Some(template) = self.settings.template.clone() else {
            return;
        };
        let options = DeployerOptions {
            classes: self.settings.classes.clone(),
            revision: self.revision.clone(),
            system_namespace: self.settings.system_namespace.clone(),
            template,
        };
        deployer::run(self.client.clone(), options, report).await;
    }

    async fn statuses(&self, verdicts: watch::Receiver<Arc<Verdicts>>) {
        let classes = self.settings.classes.clone();
        let options = WriterOptions {
            route_controller: WriterOptions::route_controller_of(&classes).to_owned(),
            classes,
            cluster_domain: CLUSTER_DOMAIN.to_owned(),
            instance: self.settings.pod_name.clone(),
        };
        let mesh = Arc::new(ClusterStatus::new(self.core.clone(), &self.revision));
        let client = self.client.clone();
        status::write(client, options, mesh, verdicts, Arc::new(SystemClock)).await;
    }

    async fn renew_authority(&self) {
        let Some(secrets) = &self.secrets else {
            return;
        };
        let mut ticks = interval(RENEWAL_EVERY);
        loop {
            ticks.tick().await;
            if let Err(error) = secrets.renew_if_due().await {
                let cause = std::error::Error::source(&error).map(tracing::field::display);
                warn!(%error, cause, "certificate authority is not renewed");
            }
        }
    }
}

/// Whom tokens are for. Spec: istiod `TOKEN_AUDIENCES`.
const AUDIENCE: &str = "istio-ca";
/// How long the API server may take to say what the authority is.
const PATIENCE: Duration = Duration::from_secs(30);
const FIRST_RETRY: Duration = Duration::from_millis(500);
const LAST_RETRY: Duration = Duration::from_secs(10);
