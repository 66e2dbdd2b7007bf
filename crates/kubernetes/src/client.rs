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
    /// As kubectl finds it.
    Operator(Operator),
}

/// Somebody at a terminal, by the flags that kubectl has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Operator {
    /// The kubeconfig; else those that `$KUBECONFIG` lists, `~/.kube/config`, or the cluster that this pod is in.
    pub kubeconfig: Option<PathBuf>,
    /// One of its contexts; the current one when not given.
    pub context: Option<String>,
    /// Ask as this user instead.
    pub user: Option<String>,
    /// With this UID.
    pub uid: Option<String>,
    /// As a member of these groups.
    pub groups: Vec<String>,
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
    /// The kubeconfig that is used when none is named cannot be used.
    #[error("kubeconfig of $KUBECONFIG or ~/.kube/config")]
    DefaultKubeconfig(#[source] Box<KubeconfigError>),
    /// Nothing says where a cluster is.
    #[error("there is no kubeconfig ($KUBECONFIG, ~/.kube/config), and this is no pod")]
    NoCluster,
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
            Self::Kubeconfig { .. } | Self::DefaultKubeconfig(_) | Self::Client(_) => None,
            Self::InCluster(_) | Self::NoCluster => {
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
        Access::Kubeconfig { file, context } => of_file(file, context.as_ref()).await?,
        Access::InCluster => Config::incluster().map_err(ConnectError::InCluster)?,
        Access::Operator(operator) => of_operator(operator).await?,
    };
    config.connect_timeout = Some(CONNECT_TIMEOUT);
    Client::try_from(config).map_err(|source| ConnectError::Client(Box::new(source)))
}

async fn of_file(file: &PathBuf, context: Option<&String>) -> Result<Config, ConnectError> {
    let error = |source| ConnectError::Kubeconfig {
        file: file.clone(),
        source: Box::new(source),
    };
    let kubeconfig = Kubeconfig::read_from(file).map_err(error)?;
    Config::from_custom_kubeconfig(kubeconfig, &options(context))
        .await
        .map_err(error)
}

async fn of_operator(operator: &Operator) -> Result<Config, ConnectError> {
    let context = operator.context.as_ref();
    let mut config = match &operator.kubeconfig {
        Some(file) => of_file(file, context).await?,
        None => match default_kubeconfig()? {
            Some(kubeconfig) => Config::from_custom_kubeconfig(kubeconfig, &options(context))
                .await
                .map_err(|source| ConnectError::DefaultKubeconfig(Box::new(source)))?,
            None if std::env::var_os(IN_CLUSTER).is_some() => {
                Config::incluster().map_err(ConnectError::InCluster)?
            }
            None => return Err(ConnectError::NoCluster),
        },
    };
    if operator.user.is_some() {
        config.auth_info.impersonate.clone_from(&operator.user);
        config.auth_info.impersonate_uid.clone_from(&operator.uid);
        config.auth_info.impersonate_groups =
            (!operator.groups.is_empty()).then(|| operator.groups.clone());
    }
    Ok(config)
}

/// What `$KUBECONFIG` lists, else `~/.kube/config` where there is one.
fn default_kubeconfig() -> Result<Option<Kubeconfig>, ConnectError> {
    let error = |source| ConnectError::DefaultKubeconfig(Box::new(source));
    if let Some(kubeconfig) = Kubeconfig::from_env().map_err(error)? {
        return Ok(Some(kubeconfig));
    }
    let home = std::env::home_dir().map(|home| home.join(".kube/config"));
    match home.filter(|file| file.is_file()) {
        Some(file) => Kubeconfig::read_from(file).map(Some).map_err(error),
        None => Ok(None),
    }
}

fn options(context: Option<&String>) -> KubeConfigOptions {
    KubeConfigOptions {
        context: context.cloned(),
        ..KubeConfigOptions::default()
    }
}

/// What client-go gives a dial.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);
/// The variable that tells a pod where its API server is.
const IN_CLUSTER: &str = "KUBERNETES_SERVICE_HOST";
