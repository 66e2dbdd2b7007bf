//! The whole role: settings in, an Envoy that serves until it is told to end.

use std::io;
use std::net::SocketAddr;
use std::process::ExitStatus;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderValue, Method};
use tonic::transport::{Channel, Server};
use tracing::{info, warn};
use waymark_identity::grpc::{Target, TargetError, TargetTls, channel};
use waymark_identity::tls::{RootSource, https_client_config};
use waymark_identity::{
    BearerToken, CaClient, CaClientOptions, CertStore, KeyExport, StoreOptions,
};
use waymark_rt::{ListenError, ListenOptions, Shutdown, Tasks, listen};

use crate::args::{Args, Settings, SettingsError};
use crate::bootstrap::{SDS_SOCKET, XDS_SOCKET, bootstrap};
use crate::directory::{Directory, DirectoryError, incoming};
use crate::envoy::{Envoy, admin};
use crate::relay::{Figures, Relay, chain};
use crate::sds::Sds;
use crate::secrets;
use crate::status::{self, Status};

/// Why there is no waypoint.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The settings cannot be used.
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// The agent's directory cannot be used.
    #[error(transparent)]
    Directory(#[from] DirectoryError),
    /// The agent's own address cannot be listened on.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// The address of control plane or certificate authority is none.
    #[error(transparent)]
    Target(#[from] TargetError),
    /// Nothing to verify the control plane with.
    #[error("--root-cert is missing (write the address as http://{0} to go without TLS)")]
    NoRoots(String),
    /// Not a name that can be said in a header.
    #[error("--cluster-id {0:?}")]
    ClusterId(String),
    /// Envoy cannot be started.
    #[error("start {program}")]
    Start {
        /// What was to be started.
        program: String,
        /// What the system said.
        source: io::Error,
    },
    /// Envoy's end cannot be waited for.
    #[error("wait for envoy")]
    Wait(#[source] io::Error),
    /// Envoy ended by itself.
    #[error("envoy ended: {0}")]
    Ended(ExitStatus),
}

impl RunError {
    /// What the user can do about it.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Listen(error) => error.hint(),
            Self::Start { .. } => Some("name Envoy's program with --envoy".to_owned()),
            _ => None,
        }
    }
}

/// Runs an Envoy and what it needs until `shutdown` drains and Envoy has ended.
///
/// Must be polled on a thread that lives as long as the program, since Envoy dies with the thread that started it.
///
/// # Errors
/// When it cannot start, or Envoy ends by itself.
pub async fn run(args: Args, shutdown: Shutdown) -> Result<(), RunError> {
    let settings = args.settings()?;
    let _running = shutdown.hold();
    let directory = Directory::prepare(&settings.dir)?;
    let (sds, xds) = (directory.listen(SDS_SOCKET)?, directory.listen(XDS_SOCKET)?);
    let status = listen(settings.status(), &ListenOptions::default())?;
    let text =
        serde_json::to_vec_pretty(&bootstrap(&settings)).expect("text and numbers become JSON");
    let config = directory.write("envoy.json", &text)?;

    let own = Tasks::new();
    let store = certificates(&settings)?;
    let certificate = store.handle(&settings.identity);
    let watched = secrets::follow(&certificate, &own);
    let figures = Arc::new(Figures::default());
    let relay = relay(&settings, Arc::clone(&figures))?;
    let secrets = Sds::server(watched, own.spawner());
    own.spawn("sds", async move {
        let served = server()
            .add_service(secrets)
            .serve_with_incoming(incoming(sds))
            .await;
        served.unwrap_or_else(|error| warn!(error = chain(&error), "sds server ended"));
    });
    own.spawn("xds relay", async move {
        let served = server()
            .add_service(relay)
            .serve_with_incoming(incoming(xds))
            .await;
        served.unwrap_or_else(|error| warn!(error = chain(&error), "xds relay ended"));
    });
    let answers = Status::new(settings.admin(), certificate, figures, shutdown.clone());
    own.spawn("status", status::serve(Arc::new(answers), status));

    let started = Envoy::start(&settings, directory.path(), &config);
    let mut envoy = started.map_err(|source| RunError::Start {
        program: settings.envoy.display().to_string(),
        source,
    })?;
    info!(pid = envoy.pid(), address = %settings.address, identity = %settings.identity, "envoy started");
    tokio::select! {
        biased;
        () = shutdown.draining() => {}
        ended = envoy.ended() => return Err(RunError::Ended(ended.map_err(RunError::Wait)?)),
    }
    tokio::select! {
        biased;
        () = shutdown.killed() => {}
        _ = envoy.ended() => {}
        () = drain(settings.admin()) => {}
    }
    envoy.stop().await;
    own.finish().await;
    Ok(())
}

/// Has Envoy's clients go elsewhere, and waits until nothing is under way.
async fn drain(envoy: SocketAddr) {
    if let Err(error) = admin::ask(envoy, Method::POST, "/drain_listeners?graceful&skip_exit").await
    {
        warn!(error = chain(&error), "envoy does not drain");
        return;
    }
    loop {
        match admin::ask(envoy, Method::GET, UNDER_WAY).await {
            Ok(stats)
                if admin::numbers(&String::from_utf8_lossy(&stats)).all(|(_, open)| open == 0) =>
            {
                return;
            }
            Ok(_) => {}
            Err(error) => {
                warn!(
                    error = chain(&error),
                    "envoy does not say what is under way"
                );
                return;
            }
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

fn certificates(settings: &Settings) -> Result<CertStore, RunError> {
    let options = CaClientOptions {
        token: settings.token_file.clone().map(BearerToken::File),
        own: Some(settings.identity.clone()),
        ttl: Some(settings.cert_ttl),
        cluster_id: Some(settings.cluster_id.clone()),
    };
    let authority = CaClient::new(connect(settings, &settings.ca_address)?, options);
    let options = StoreOptions {
        export: KeyExport::Allowed,
        ..StoreOptions::default()
    };
    Ok(CertStore::new(Arc::new(authority), options))
}

fn relay(settings: &Settings, figures: Arc<Figures>) -> Result<Relay, RunError> {
    let cluster_id = HeaderValue::from_str(&settings.cluster_id)
        .map_err(|_| RunError::ClusterId(settings.cluster_id.clone()))?;
    let token = settings.token_file.clone().map(BearerToken::File);
    Ok(Relay::new(
        connect(settings, &settings.xds_address)?,
        token,
        cluster_id,
        figures,
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

fn server() -> Server {
    Server::builder()
}

/// Requests in tunnels, and tunnels of TCP.
const UNDER_WAY: &str = "/stats?filter=%5Ehttp.connect_terminate.downstream_rq_active%24";
const LOOK_EVERY: Duration = Duration::from_millis(100);
