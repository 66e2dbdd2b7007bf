//! The settings of the control plane: flags, environment, a file; in this order.

pub(crate) mod cluster;

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;
use waymark_api::gateway::WaypointBinary;
use waymark_identity::{ServiceAccountRef, SpiffeError, TrustDomain};

use self::cluster::ClusterSettings;
use crate::translate::input::{AccessLog, AccessLogFormat};

/// `waymark run controlplane`
#[derive(Clone, Debug, Default, clap::Args, Deserialize)]
#[serde(default, rename_all = "kebab-case", deny_unknown_fields)]
pub struct Args {
    /// Directory of manifests (.yaml, .yml, at any depth), watched for changes
    #[arg(long, env = "WAYMARK_CONTROLPLANE_MESH_DIR", value_name = "DIR")]
    pub mesh_dir: Option<PathBuf>,

    /// Kubeconfig of the cluster whose API server says what the mesh is; without it and without --mesh-dir, the cluster that
    /// this pod is in
    #[arg(
        long,
        env = "WAYMARK_CONTROLPLANE_KUBECONFIG",
        value_name = "FILE",
        conflicts_with = "mesh_dir"
    )]
    pub kubeconfig: Option<PathBuf>,

    /// Context of the kubeconfig [default: its current one]
    #[arg(
        long,
        env = "WAYMARK_CONTROLPLANE_CONTEXT",
        value_name = "NAME",
        requires = "kubeconfig"
    )]
    pub context: Option<String>,

    /// Where the API server is, as every pod is told
    #[arg(long, env = "KUBERNETES_SERVICE_HOST", hide = true)]
    #[serde(skip)]
    pub kubernetes_service_host: Option<String>,

    /// Revision of this control plane: Istio objects labelled istio.io/rev with another are left to others
    /// [default: default]
    #[arg(long, env = "WAYMARK_CONTROLPLANE_REVISION", value_name = "NAME")]
    pub revision: Option<String>,

    /// In a cluster: the control plane's own namespace, with its authority and its Lease; what is in it holds for the whole
    /// mesh [default: istio-system]
    #[arg(long, env = "POD_NAMESPACE", value_name = "NAME")]
    pub system_namespace: Option<String>,

    /// In a cluster: own name among the replicas [default: of the host and the process]
    #[arg(long, env = "POD_NAME", value_name = "NAME")]
    pub pod_name: Option<String>,

    /// In a cluster: where workloads find the control plane, which its certificate names
    /// [default: istiod[-REVISION].<system namespace>.svc:15012]
    #[arg(
        long,
        env = "WAYMARK_CONTROLPLANE_DISCOVERY_ADDRESS",
        value_name = "HOST:PORT"
    )]
    pub discovery_address: Option<String>,

    /// In a cluster: image of waypoints; their containers are given the arguments `proxy waypoint ...`
    #[arg(
        long,
        env = "WAYMARK_CONTROLPLANE_WAYPOINT_IMAGE",
        value_name = "IMAGE"
    )]
    pub waypoint_image: Option<String>,

    /// In a cluster: what waypoints have in common beside their image, a JSON object: istioImage (for Gateways of class
    /// istio-waypoint), imagePullPolicy, imagePullSecrets, network, meshId, proxyMetadata, and pod with resources, affinity,
    /// topologySpreadConstraints, nodeSelector, tolerations, seccompProfile, logAsJson
    #[arg(
        long,
        env = "WAYMARK_CONTROLPLANE_WAYPOINT_TEMPLATE",
        value_name = "JSON"
    )]
    pub waypoint_template: Option<String>,

    /// In a cluster: classes of the Gateways that are deployed and told about, comma separated
    /// [default: istio-waypoint,waymark-waypoint]
    #[arg(
        long,
        env = "WAYMARK_CONTROLPLANE_WAYPOINT_CLASSES",
        value_name = "CLASSES",
        value_delimiter = ','
    )]
    pub waypoint_classes: Option<Vec<String>>,

    /// In a cluster: seconds that a leader that has gone silent is waited for [default: 30]
    #[arg(
        long,
        env = "WAYMARK_CONTROLPLANE_LEASE_SECONDS",
        value_name = "SECONDS"
    )]
    pub lease_seconds: Option<u64>,

    /// Seconds after which a client's stream ends, give or take a tenth, so that replicas share the clients; 0: never
    /// [default: 1800 in a cluster, else never]
    #[arg(
        long,
        env = "WAYMARK_CONTROLPLANE_MAX_CONNECTION_AGE_SECONDS",
        value_name = "SECONDS"
    )]
    pub max_connection_age_seconds: Option<u64>,

    /// Directory for what is kept: certificate authority, tokens, allocated addresses, statuses
    #[arg(long, env = "WAYMARK_STATE_DIR", value_name = "DIR")]
    pub state_dir: Option<PathBuf>,

    /// Directory of an operator's certificate authority: ca-cert.pem, ca-key.pem, cert-chain.pem, root-cert.pem
    /// [default: one of its own, in the state directory; in a cluster that of Secret cacerts or istio-ca-secret]
    #[arg(long, env = "WAYMARK_CONTROLPLANE_CA_DIR", value_name = "DIR")]
    pub ca_dir: Option<PathBuf>,

    /// Where xDS and the certificate authority are served over TLS [default: 127.0.0.1:15012, in a pod 0.0.0.0:15012]
    #[arg(long, env = "WAYMARK_CONTROLPLANE_XDS_ADDRESS", value_name = "IP:PORT")]
    pub xds_address: Option<SocketAddr>,

    /// Where xDS is also served in plain text, to whoever asks [default: nowhere]
    #[arg(
        long,
        env = "WAYMARK_CONTROLPLANE_PLAINTEXT_XDS_ADDRESS",
        value_name = "IP:PORT"
    )]
    pub plaintext_xds_address: Option<SocketAddr>,

    /// Where readiness, metrics and debug endpoints are served over HTTP [default: 127.0.0.1:15014, in a pod
    /// 0.0.0.0:15014]
    #[arg(
        long,
        env = "WAYMARK_CONTROLPLANE_DEBUG_ADDRESS",
        value_name = "IP:PORT"
    )]
    pub debug_address: Option<SocketAddr>,

    /// Further host names of the control plane's certificate, comma separated
    #[arg(
        long,
        env = "WAYMARK_CONTROLPLANE_SERVING_NAMES",
        value_name = "NAMES",
        value_delimiter = ','
    )]
    pub serving_names: Option<Vec<String>>,

    /// Node of pods that name none, and of the waypoints that are started here [default: local]
    #[arg(long, env = "WAYMARK_CONTROLPLANE_NODE_NAME", value_name = "NAME")]
    pub node_name: Option<String>,

    /// Cluster that workloads are in [default: Kubernetes]
    #[arg(long, env = "WAYMARK_CONTROLPLANE_CLUSTER_ID", value_name = "NAME")]
    pub cluster_id: Option<String>,

    /// Trust domain of all identities [default: cluster.local]
    #[arg(long, env = "WAYMARK_CONTROLPLANE_TRUST_DOMAIN", value_name = "NAME")]
    pub trust_domain: Option<String>,

    /// Service accounts, as namespace/name, whose node proxies may have the certificates of workloads, comma separated
    /// [default: istio-system/waymark-node; in a cluster waymark-node and ztunnel of the system namespace]
    #[arg(
        long,
        env = "WAYMARK_CONTROLPLANE_NODE_ACCOUNTS",
        value_name = "ACCOUNTS",
        value_delimiter = ','
    )]
    pub node_accounts: Option<Vec<String>>,

    /// Start no waypoints: those that connect are the replicas of their Gateways; in a cluster, somebody else deploys them
    #[arg(long, env = "WAYMARK_CONTROLPLANE_NO_DEPLOY", num_args = 0..=1, default_missing_value = "true", value_name = "BOOL")]
    pub no_deploy: Option<bool>,

    /// Leave waypoints running when the control plane is told to end
    #[arg(long, env = "WAYMARK_CONTROLPLANE_KEEP_WAYPOINTS", num_args = 0..=1, default_missing_value = "true", value_name = "BOOL")]
    pub keep_waypoints: Option<bool>,

    /// Program that is started for each replica of a waypoint, with `run waypoint` [default: this program]
    #[arg(
        long,
        env = "WAYMARK_CONTROLPLANE_WAYPOINT_PROGRAM",
        value_name = "FILE"
    )]
    pub waypoint_program: Option<PathBuf>,

    /// What serves as a waypoint where its Gateway does not say (annotation waymark.dev/waypoint-binary): waymark, envoy,
    /// or envoy=FILE [default: waymark]
    #[arg(
        long,
        env = "WAYMARK_CONTROLPLANE_WAYPOINT_BINARY",
        value_name = "waymark|envoy[=FILE]"
    )]
    pub waypoint_binary: Option<String>,

    /// Envoy's program, for waypoints that are to be served by it
    #[arg(long, env = "WAYMARK_ENVOY", value_name = "FILE")]
    pub envoy: Option<PathBuf>,

    /// File that waypoints log requests and connections to, as `accessLogFile` of Istio's mesh configuration; /dev/stdout
    /// is the log of the waypoint [default: nothing is logged]
    #[arg(
        long,
        env = "WAYMARK_CONTROLPLANE_ACCESS_LOG_FILE",
        value_name = "FILE"
    )]
    pub access_log_file: Option<String>,

    /// How they log: TEXT or JSON, as `accessLogEncoding` [default: TEXT]
    #[arg(
        long,
        env = "WAYMARK_CONTROLPLANE_ACCESS_LOG_ENCODING",
        value_name = "TEXT|JSON"
    )]
    pub access_log_encoding: Option<String>,

    /// What a line says, as `accessLogFormat`: a text with %OPERATORS%, or an object of such texts [default: Istio's]
    #[arg(
        long,
        env = "WAYMARK_CONTROLPLANE_ACCESS_LOG_FORMAT",
        value_name = "FORMAT"
    )]
    pub access_log_format: Option<String>,

    /// Seconds that waypoints have to finish their work when they are no longer wanted [default: 5]
    #[arg(
        long,
        env = "WAYMARK_CONTROLPLANE_DRAIN_SECONDS",
        value_name = "SECONDS"
    )]
    pub drain_seconds: Option<u64>,

    /// Seconds between two looks at the mesh directory, for file systems that do not notify [default: 5]
    #[arg(
        long,
        env = "WAYMARK_CONTROLPLANE_RESCAN_SECONDS",
        value_name = "SECONDS"
    )]
    pub rescan_seconds: Option<u64>,

    /// File with any of these settings: a JSON object, keys as the flags without their dashes
    #[arg(long, env = "WAYMARK_CONTROLPLANE_CONFIG", value_name = "FILE")]
    #[serde(skip)]
    pub config: Option<PathBuf>,
}

/// Settings, checked and complete.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where the objects are.
    pub source: SourceSettings,
    /// See [`Args`].
    pub revision: String,
    /// See [`Args`].
    pub state_dir: PathBuf,
    /// See [`Args`].
    pub ca_dir: Option<PathBuf>,
    /// See [`Args`].
    pub xds_address: SocketAddr,
    /// See [`Args`].
    pub plaintext_xds_address: Option<SocketAddr>,
    /// See [`Args`].
    pub debug_address: SocketAddr,
    /// See [`Args`].
    pub serving_names: Vec<String>,
    /// See [`Args`].
    pub node_name: String,
    /// See [`Args`].
    pub cluster_id: String,
    /// See [`Args`].
    pub trust_domain: TrustDomain,
    /// See [`Args`].
    pub node_accounts: Vec<ServiceAccountRef>,
    /// See [`Args`].
    pub deploy: Deploy,
    /// See [`Args`].
    pub waypoint_program: Option<PathBuf>,
    /// See [`Args`].
    pub waypoint_binary: WaypointBinary,
    /// See [`Args`].
    pub envoy: Option<PathBuf>,
    /// See [`Args`].
    pub access_log: Option<AccessLog>,
    /// See [`Args`].
    pub drain: Duration,
    /// See [`Args`].
    pub rescan: Duration,
    /// See [`Args`]; `None`: as old as they like.
    pub max_connection_age: Option<Duration>,
}

impl Settings {
    /// The namespace of the control plane, and of what holds for the whole mesh.
    pub(crate) fn system_namespace(&self) -> &str {
        match &self.source {
            SourceSettings::Directory(_) => SYSTEM_NAMESPACE,
            SourceSettings::Kubernetes(cluster) => &cluster.system_namespace,
        }
    }
}

/// Where the objects are.
#[derive(Clone, Debug, PartialEq)]
pub enum SourceSettings {
    /// In the manifests of a directory.
    Directory(PathBuf),
    /// In a cluster.
    Kubernetes(Box<ClusterSettings>),
}

/// Whether waypoints are started here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deploy {
    /// Somebody else does.
    No,
    /// They are, and they end with the control plane.
    Yes,
    /// They are, and they go on when the control plane ends.
    AndKeep,
}

/// Why settings cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// The settings file cannot be read.
    #[error("read settings from {}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The settings file is not what it should be.
    #[error("settings in {}", path.display())]
    Parse {
        /// Which.
        path: PathBuf,
        /// Where and why.
        source: serde_json::Error,
    },
    /// A setting without a default.
    #[error("--{0} is missing")]
    Missing(&'static str),
    /// Nothing says where the mesh is described.
    #[error("--mesh-dir or --kubeconfig is missing, and this is no pod of a cluster")]
    NoSource,
    /// Two things do.
    #[error("--mesh-dir and --kubeconfig exclude each other")]
    TwoSources,
    /// Nothing to deploy waypoints with.
    #[error("--waypoint-image is missing; with --no-deploy no waypoints are deployed")]
    NoWaypointImage,
    /// Not what waypoints can have in common.
    #[error("--waypoint-template")]
    WaypointTemplate(#[source] serde_json::Error),
    /// Not a class of waypoints.
    #[error("--waypoint-classes {0:?}: want istio-waypoint or waymark-waypoint")]
    WaypointClass(String),
    /// Not an address.
    #[error("--discovery-address {0:?}: want HOST:PORT")]
    DiscoveryAddress(String),
    /// Not a trust domain.
    #[error("--trust-domain")]
    TrustDomain(#[source] SpiffeError),
    /// Not a service account.
    #[error("--node-accounts")]
    NodeAccounts(#[source] SpiffeError),
    /// Not a kind of waypoint.
    #[error("--waypoint-binary {0:?}: want waymark, envoy or envoy=FILE")]
    WaypointBinary(String),
    /// Not an encoding of access logs.
    #[error("--access-log-encoding {0:?}: want TEXT or JSON")]
    AccessLogEncoding(String),
    /// Not a format of the JSON encoding.
    #[error("--access-log-format: with --access-log-encoding JSON it has to be an object")]
    AccessLogFormat(#[source] serde_json::Error),
    /// How to log, but not where.
    #[error("--{0} without --access-log-file")]
    NoAccessLogFile(&'static str),
    /// Waypoints cannot be started.
    #[error(
        "--waypoint-binary envoy: where Envoy is has to be said, with envoy=FILE or --envoy FILE"
    )]
    NoEnvoy,
}

impl Args {
    /// Completes and checks the settings.
    ///
    /// # Errors
    /// See [`SettingsError`].
    pub fn settings(&self) -> Result<Settings, SettingsError> {
        let all = self.with_file()?;
        let host = if all.is_in_cluster() {
            [0; 4]
        } else {
            [127, 0, 0, 1]
        };
        let local = |port: u16| SocketAddr::from((host, port));
        let text = |value: &Option<String>, default: &str| {
            value.clone().unwrap_or_else(|| default.to_owned())
        };
        let revision = text(&all.revision, "default");
        let trust_domain = text(&all.trust_domain, "cluster.local")
            .parse()
            .map_err(SettingsError::TrustDomain)?;
        let source = all.source(&revision, &trust_domain)?;
        let (waypoint_binary, envoy) = waypoint_binary(all.waypoint_binary.as_deref(), all.envoy)?;
        let accounts = all.node_accounts.unwrap_or_else(|| node_accounts(&source));
        let max_age = all.max_connection_age_seconds.unwrap_or(match source {
            SourceSettings::Directory(_) => 0,
            SourceSettings::Kubernetes(_) => 1800,
        });
        Ok(Settings {
            max_connection_age: (max_age > 0).then(|| Duration::from_secs(max_age)),
            xds_address: all.xds_address.unwrap_or_else(|| local(15012)),
            plaintext_xds_address: all.plaintext_xds_address,
            debug_address: all.debug_address.unwrap_or_else(|| local(15014)),
            serving_names: all.serving_names.unwrap_or_default(),
            node_name: text(&all.node_name, "local"),
            cluster_id: text(&all.cluster_id, CLUSTER_ID),
            trust_domain,
            node_accounts: accounts
                .iter()
                .map(|account| account.parse())
                .collect::<Result<_, _>>()
                .map_err(SettingsError::NodeAccounts)?,
            deploy: match (
                all.no_deploy.unwrap_or(false),
                all.keep_waypoints.unwrap_or(false),
            ) {
                (true, _) => Deploy::No,
                (false, true) => Deploy::AndKeep,
                (false, false) => Deploy::Yes,
            },
            waypoint_program: all.waypoint_program,
            waypoint_binary,
            envoy,
            access_log: access_log(
                all.access_log_file,
                all.access_log_encoding,
                all.access_log_format,
            )?,
            drain: Duration::from_secs(all.drain_seconds.unwrap_or(5)),
            rescan: Duration::from_secs(all.rescan_seconds.unwrap_or(5).max(1)),
            source,
            revision,
            state_dir: all.state_dir.ok_or(SettingsError::Missing("state-dir"))?,
            ca_dir: all.ca_dir,
        })
    }

    /// Flags and environment, and the file for what they leave out.
    fn with_file(&self) -> Result<Self, SettingsError> {
        let this = self.clone();
        let Some(path) = &self.config else {
            return Ok(this);
        };
        let file = Self::read(path)?;
        Ok(Self {
            // Either names the source: what is said closer wins.
            mesh_dir: match this.kubeconfig {
                Some(_) => None,
                None => this.mesh_dir.clone().or(file.mesh_dir),
            },
            kubeconfig: match this.mesh_dir {
                Some(_) => None,
                None => this.kubeconfig.or(file.kubeconfig),
            },
            context: this.context.or(file.context),
            kubernetes_service_host: this.kubernetes_service_host,
            revision: this.revision.or(file.revision),
            system_namespace: this.system_namespace.or(file.system_namespace),
            pod_name: this.pod_name.or(file.pod_name),
            discovery_address: this.discovery_address.or(file.discovery_address),
            waypoint_image: this.waypoint_image.or(file.waypoint_image),
            waypoint_template: this.waypoint_template.or(file.waypoint_template),
            waypoint_classes: this.waypoint_classes.or(file.waypoint_classes),
            lease_seconds: this.lease_seconds.or(file.lease_seconds),
            max_connection_age_seconds: this
                .max_connection_age_seconds
                .or(file.max_connection_age_seconds),
            state_dir: this.state_dir.or(file.state_dir),
            ca_dir: this.ca_dir.or(file.ca_dir),
            xds_address: this.xds_address.or(file.xds_address),
            plaintext_xds_address: this.plaintext_xds_address.or(file.plaintext_xds_address),
            debug_address: this.debug_address.or(file.debug_address),
            serving_names: this.serving_names.or(file.serving_names),
            node_name: this.node_name.or(file.node_name),
            cluster_id: this.cluster_id.or(file.cluster_id),
            trust_domain: this.trust_domain.or(file.trust_domain),
            node_accounts: this.node_accounts.or(file.node_accounts),
            no_deploy: this.no_deploy.or(file.no_deploy),
            keep_waypoints: this.keep_waypoints.or(file.keep_waypoints),
            waypoint_program: this.waypoint_program.or(file.waypoint_program),
            waypoint_binary: this.waypoint_binary.or(file.waypoint_binary),
            envoy: this.envoy.or(file.envoy),
            access_log_file: this.access_log_file.or(file.access_log_file),
            access_log_encoding: this.access_log_encoding.or(file.access_log_encoding),
            access_log_format: this.access_log_format.or(file.access_log_format),
            drain_seconds: this.drain_seconds.or(file.drain_seconds),
            rescan_seconds: this.rescan_seconds.or(file.rescan_seconds),
            config: this.config,
        })
    }

    fn read(path: &Path) -> Result<Self, SettingsError> {
        let text = fs::read_to_string(path).map_err(|source| SettingsError::Read {
            path: path.to_owned(),
            source,
        })?;
        serde_json::from_str(&text).map_err(|source| SettingsError::Parse {
            path: path.to_owned(),
            source,
        })
    }
}

/// Whose node proxies may have the certificates of workloads, where nobody says: ours, and upstream's in its place.
fn node_accounts(source: &SourceSettings) -> Vec<String> {
    match source {
        SourceSettings::Directory(_) => vec![format!("{SYSTEM_NAMESPACE}/waymark-node")],
        SourceSettings::Kubernetes(cluster) => ["waymark-node", "ztunnel"]
            .map(|name| format!("{}/{name}", cluster.system_namespace))
            .to_vec(),
    }
}

fn waypoint_binary(
    wanted: Option<&str>,
    envoy: Option<PathBuf>,
) -> Result<(WaypointBinary, Option<PathBuf>), SettingsError> {
    match wanted {
        None | Some("waymark") => Ok((WaypointBinary::Waymark, envoy)),
        Some("envoy") if envoy.is_some() => Ok((WaypointBinary::Envoy, envoy)),
        Some("envoy") => Err(SettingsError::NoEnvoy),
        Some(other) => match other.strip_prefix("envoy=") {
            Some(path) if !path.is_empty() => Ok((WaypointBinary::Envoy, Some(path.into()))),
            Some(_) | None => Err(SettingsError::WaypointBinary(other.to_owned())),
        },
    }
}

/// An empty file name turns logging off, as in the mesh configuration.
fn access_log(
    file: Option<String>,
    encoding: Option<String>,
    format: Option<String>,
) -> Result<Option<AccessLog>, SettingsError> {
    let format = match (encoding.as_deref(), &format) {
        (None | Some("TEXT"), _) => AccessLogFormat::Text(format.clone()),
        (Some("JSON"), None) => AccessLogFormat::Json(None),
        (Some("JSON"), Some(text)) => AccessLogFormat::Json(Some(
            serde_json::from_str(text).map_err(SettingsError::AccessLogFormat)?,
        )),
        (Some(other), _) => return Err(SettingsError::AccessLogEncoding(other.to_owned())),
    };
    match file {
        Some(file) if !file.is_empty() => Ok(Some(AccessLog { file, format })),
        Some(_) => Ok(None),
        None if encoding.is_some() => Err(SettingsError::NoAccessLogFile("access-log-encoding")),
        None if format != AccessLogFormat::Text(None) => {
            Err(SettingsError::NoAccessLogFile("access-log-format"))
        }
        None => Ok(None),
    }
}

const SYSTEM_NAMESPACE: &str = waymark_api::names::SYSTEM_NAMESPACE;
const CLUSTER_ID: &str = "Kubernetes";

#[cfg(test)]
mod tests;
