//! The whole role: settings in, a running proxy until it is told to end.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde_json::json;
use tonic::transport::Channel;
use tracing::{info, warn};
use waymark_identity::grpc::{Target, TargetError, TargetTls, channel};
use waymark_identity::tls::{RootSource, https_client_config};
use waymark_identity::{BearerToken, CaClient, CaClientOptions, CertStore, StoreOptions};
use waymark_rt::listen::{ListenError, ListenOptions, Listener, listen};
use waymark_rt::log::LogHandle;
use waymark_rt::{Shutdown, Tasks};

use crate::admin::{self, Admin, Role};
use crate::args::{Args, Settings, SettingsError};
use crate::capture::listeners::Listeners;
use crate::certificates::Certificates;
use crate::proxy::{Parts, Proxy};
use crate::readiness::Readiness;
use crate::state::{Placement, StateHandle};
use crate::telemetry::Telemetry;
use crate::workers::Workers;
use crate::xds;

/// Start-up waits for the first state of the mesh, as ztunnel names it.
const STATE: &str = "state manager";
/// After the deadline, for what was cut to notice.
const CUT_GRACE: Duration = Duration::from_millis(500);

/// Why the proxy does not run.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The settings cannot be used.
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// An own address cannot be listened on.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// The address of control plane or certificate authority is none.
    #[error(transparent)]
    Target(#[from] TargetError),
    /// Nothing to verify the control plane with.
    #[error("--root-cert is missing (write the address as http://{0} to go without TLS)")]
    NoRoots(String),
    /// The threads could not be started.
    #[error("start worker threads")]
    Workers(#[source] io::Error),
    /// The addresses cannot be written down.
    #[error("write addresses to {path}", path = path.display())]
    AddressesFile {
        /// Where.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// Runs the node proxy until `shutdown` drains and its connections have ended, or the drain's deadline has passed.
///
/// # Errors
/// When it cannot start; what fails later is reported by readiness, logs and metrics.
pub async fn run(args: Args, shutdown: Shutdown, log: Option<LogHandle>) -> Result<(), RunError> {
    let settings = args.settings()?;
    let _running = shutdown.hold();
    raise_descriptor_limit();
    let servers = Servers::bind(&settings)?;

    let placement = Placement {
        node: settings.node_name.as_deref().map(Arc::from),
        network: settings.network.as_str().into(),
    };
    let state = StateHandle::new(placement);
    let telemetry = Arc::new(Telemetry::default());
    let certificates = certificates(&settings, &state)?;
    let workers = Workers::start(settings.concurrency).map_err(RunError::Workers)?;
    let proxy = Proxy::new(Parts {
        state: state.clone(),
        certificates: certificates.clone(),
        telemetry: Arc::clone(&telemetry),
        own_address: settings.address,
        workers: Arc::clone(workers.all()),
        shutdown: shutdown.clone(),
    });
    let capture = Listeners::start(
        state.clone(),
        Arc::clone(workers.all()),
        Arc::new(proxy.clone()),
        shutdown.draining_token(),
    );
    let readiness = Readiness::new([STATE], Box::new(capture));

    let own = Tasks::new();
    let admin = Admin {
        state: state.clone(),
        certificates: certificates.clone(),
        telemetry: Arc::clone(&telemetry),
        readiness: readiness.clone(),
        log,
        shutdown: shutdown.clone(),
        config: Arc::new(serde_json::to_value(&settings).unwrap_or_default()),
    };
    let addresses = servers.start(&own, &admin);
    if let Some(path) = &settings.addresses_file {
        write(path, &addresses.to_json()).map_err(|source| RunError::AddressesFile {
            path: path.clone(),
            source,
        })?;
    }
    info!(admin = %addresses.admin, readiness = %addresses.readiness, metrics = %addresses.metrics, "node proxy started");

    let _certificates = certificates.follow();
    let channel = connect(&settings, &settings.xds_address)?;
    let (_xds, mut stands) = xds::start(&settings, channel, state, telemetry, shutdown.clone());
    own.spawn("readiness", async move {
        if stands.wait_for(|state| state.answered).await.is_ok() {
            readiness.done(STATE);
            info!("state of the mesh received");
        }
    });

    shutdown.draining().await;
    tokio::select! {
        () = proxy.finished() => {}
        () = async { shutdown.killed().await; tokio::time::sleep(CUT_GRACE).await } => {}
    }
    Ok(())
}

/// A listener for each port of the mesh and two descriptors a connection are more than the usual 1024. Spec:
/// hbone-and-l4.md 1.1.
fn raise_descriptor_limit() {
    let limit = getrlimit(Resource::Nofile);
    if limit.current == limit.maximum {
        return;
    }
    let raised = Rlimit {
        current: limit.maximum,
        ..limit
    };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        warn!(%error, limit = limit.current, "cannot raise the limit of open files");
    }
}

fn certificates(settings: &Settings, state: &StateHandle) -> Result<Certificates, RunError> {
    let options = CaClientOptions {
        token: settings.token_file.clone().map(BearerToken::File),
        own: Some(settings.identity.clone()),
        ttl: Some(settings.cert_ttl),
        cluster_id: Some(settings.cluster_id.clone()),
    };
    let authority = CaClient::new(connect(settings, &settings.ca_address)?, options);
    let store = CertStore::new(Arc::new(authority), StoreOptions::default());
    Ok(Certificates::new(
        store,
        state.clone(),
        settings.identity.clone(),
    ))
}

/// A channel to the control plane; it connects when it is used.
fn connect(settings: &Settings, address: &str) -> Result<Channel, RunError> {
    if let Some(address) = address.strip_prefix("http://") {
        return Ok(channel(&Target {
            address: address.to_owned(),
            tls: None,
        })?);
    }
    let address = address
        .strip_prefix("https://")
        .unwrap_or(address)
        .to_owned();
    let roots = settings
        .root_cert
        .as_ref()
        .ok_or_else(|| RunError::NoRoots(address.clone()))?;
    let config = https_client_config(RootSource::file(roots), None);
    Ok(channel(&Target {
        address,
        tls: Some(TargetTls { config, name: None }),
    })?)
}

/// The bound HTTP servers.
struct Servers {
    admin: Listener,
    readiness: Listener,
    metrics: Listener,
}

/// Where they listen.
struct Addresses {
    admin: SocketAddr,
    readiness: SocketAddr,
    metrics: SocketAddr,
}

impl Servers {
    fn bind(settings: &Settings) -> Result<Self, ListenError> {
        let options = ListenOptions::default();
        Ok(Self {
            admin: listen(settings.admin_address, &options)?,
            readiness: listen(settings.readiness_address, &options)?,
            metrics: listen(settings.metrics_address, &options)?,
        })
    }

    fn start(self, tasks: &Tasks, admin: &Admin) -> Addresses {
        let addresses = Addresses {
            admin: self.admin.local_addr(),
            readiness: self.readiness.local_addr(),
            metrics: self.metrics.local_addr(),
        };
        for (role, listener) in [
            (Role::Admin, self.admin),
            (Role::Readiness, self.readiness),
            (Role::Metrics, self.metrics),
        ] {
            tasks.spawn("admin", admin::serve(admin.clone(), role, listener));
        }
        addresses
    }
}

impl Addresses {
    fn to_json(&self) -> String {
        let value = json!({
            "admin": self.admin.to_string(),
            "readiness": self.readiness.to_string(),
            "metrics": self.metrics.to_string(),
            "pid": std::process::id(),
        });
        value.to_string()
    }
}

/// Replaces a file as a whole: who reads it meanwhile sees the old or the new one.
fn write(path: &Path, text: &str) -> io::Result<()> {
    let beside = path.with_extension(format!("{}.tmp", std::process::id()));
    fs::write(&beside, text)?;
    fs::rename(&beside, path)
}
