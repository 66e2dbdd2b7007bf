//! The way to the API server.

use std::path::PathBuf;
use std::time::Duration;

use kube::config::{InClusterError, KubeConfigOptions, Kubeconfig, KubeconfigError};
use kube::{Client, Config};

/// How the API server is found, and who asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Access {
    /// By a kubeconfig.
    Kubeconfig {
        /// The file.
        file: PathBuf,
        /// One of its contexts; the current one when not given.
        context: Option<String>,
    },
    /// As a pod: by its environment and the token of its service account.
    InCluster,
}

/// Why there is no client. An API server that does not answer is no such reason.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The kubeconfig cannot be used.
    #[error("kubeconfig {}", file.display())]
    Kubeconfig {
        /// The file.
        file: PathBuf,
        /// Why.
        source: Box<KubeconfigError>,
    },
    /// This is no pod, or one without the token of a service account.
    #[error("find the API server from within the cluster")]
    InCluster(#[source] InClusterError),
    /// What they say makes no client.
    #[error("client of the API server")]
    Client(#[source] Box<kube::Error>),
}

impl ConnectError {
    /// What the user can do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Kubeconfig { .. } | Self::Client(_) => None,
            Self::InCluster(_) => {
                Some("outside of a cluster, name a kubeconfig with --kubeconfig".to_owned())
            }
        }
    }
}

/// Makes a client. Nothing is asked of the API server yet.
///
/// # Errors
/// See [`ConnectError`].
pub async fn connect(access: &Access) -> Result<Client, ConnectError> {
    let mut config = match access {
        Access::Kubeconfig { file, context } => {
            let options = KubeConfigOptions {
                context: context.clone(),
                ..KubeConfigOptions::default()
            };
            let error = |source| ConnectError::Kubeconfig {
                file: file.clone(),
                source: Box::new(source),
            };
            let kubeconfig = Kubeconfig::read_from(file).map_err(error)?;
            Config::from_custom_kubeconfig(kubeconfig, &options)
                .await
                .map_err(error)?
        }
        Access::InCluster => Config::incluster().map_err(ConnectError::InCluster)?,
    };
    config.connect_timeout = Some(CONNECT_TIMEOUT);
    Client::try_from(config).map_err(|source| ConnectError::Client(Box::new(source)))
}

/// What client-go gives a dial.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);
