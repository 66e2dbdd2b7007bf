//! `waymark run controlplane`: settings, start, the tasks that carry changes from stage to stage, end.

mod args;
mod cluster;
mod directory;
mod start;

use std::io;
use std::path::PathBuf;

use waymark_kubernetes::ConnectError;
use waymark_kubernetes::ca_secret::CaSecretError;
use waymark_rt::{ListenError, Shutdown};

pub use self::args::cluster::ClusterSettings;
pub use self::args::{Args, Settings, SettingsError, SourceSettings};
use crate::ipam::IpamError;
use crate::source::directory::DirectoryError;

/// Runs the control plane until the drain begins.
///
/// # Errors
/// When it cannot start. Once it serves, what goes wrong is logged and tried again, and what was good stays in force.
pub async fn run(args: Args, shutdown: Shutdown) -> Result<(), RunError> {
    let settings = args.settings()?;
    // Clients are handed over, and the lease is given back.
    let _hold = shutdown.hold();
    match start::start(settings, shutdown).await? {
        Some(running) => running.until_the_end().await,
        None => Ok(()),
    }
}

/// Why the control plane cannot run.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The settings.
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// The state directory cannot be used.
    #[error("state directory {}", path.display())]
    StateDir {
        /// The directory or a file in it.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The mesh directory cannot be used.
    #[error(transparent)]
    Directory(#[from] DirectoryError),
    /// There is no way to the cluster.
    #[error(transparent)]
    Cluster(#[from] ConnectError),
    /// Allocated addresses cannot be read.
    #[error(transparent)]
    Ipam(#[from] IpamError),
    /// There is no certificate authority.
    #[error("certificate authority")]
    Ca(#[from] waymark_identity::CaError),
    /// The cluster's certificate authority cannot be used.
    #[error("certificate authority of the cluster")]
    Authority(#[source] CaSecretError),
    /// The control plane's own certificate cannot be made.
    #[error("serving certificate")]
    Serving(#[from] waymark_identity::SignError),
    /// Tokens cannot be signed.
    #[error(transparent)]
    TokenKey(#[from] crate::token::TokenKeyError),
    /// Tokens cannot be kept.
    #[error(transparent)]
    Tokens(#[from] crate::token::TokenFilesError),
    /// An address cannot be listened on.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// A server ended with an error.
    #[error("gRPC server")]
    Server(#[from] tonic::transport::Error),
    /// The program that waypoints are started with cannot be found.
    #[error("find this program's own file, to start waypoints with")]
    Executable(#[source] io::Error),
}

impl RunError {
    /// What the user can do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Listen(error) => error.hint(),
            Self::Directory(_) => {
                Some("name the directory of your manifests with --mesh-dir".to_owned())
            }
            Self::Cluster(error) => error.hint(),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests;
