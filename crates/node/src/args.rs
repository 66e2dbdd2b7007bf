//! The settings of the node proxy: flags, environment, a file; in this order.

use std::fs;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use waymark_identity::{ServiceAccountRef, SpiffeError, SpiffeId, TrustDomain};

/// `waymark run node`
#[derive(Clone, Debug, Default, clap::Args, Deserialize)]
#[serde(default, rename_all = "kebab-case", deny_unknown_fields)]
pub struct Args {
    /// Name of this node; workloads of other nodes are not served here [default: every workload is local]
    #[arg(long, env = "WAYMARK_NODE_NAME", value_name = "NAME")]
    pub node_name: Option<String>,

    /// Control plane, host:port
    #[arg(long, env = "WAYMARK_NODE_XDS_ADDRESS", value_name = "HOST:PORT")]
    pub xds_address: Option<String>,

    /// Certificate authority, host:port [default: the control plane]
    #[arg(long, env = "WAYMARK_NODE_CA_ADDRESS", value_name = "HOST:PORT")]
    pub ca_address: Option<String>,

    /// Root certificates (PEM) that control plane and certificate authority are verified with
    #[arg(long, env = "WAYMARK_NODE_ROOT_CERT", value_name = "FILE")]
    pub root_cert: Option<PathBuf>,

    /// Bearer token; read again for every call
    #[arg(long, env = "WAYMARK_NODE_TOKEN_FILE", value_name = "FILE")]
    pub token_file: Option<PathBuf>,

    /// Admin endpoints [default: 127.0.0.1:15000]
    #[arg(long, env = "WAYMARK_NODE_ADMIN_ADDRESS", value_name = "IP:PORT")]
    pub admin_address: Option<SocketAddr>,

    /// Readiness endpoint [default: 127.0.0.1:15021]
    #[arg(long, env = "WAYMARK_NODE_READINESS_ADDRESS", value_name = "IP:PORT")]
    pub readiness_address: Option<SocketAddr>,

    /// Metrics endpoint [default: 127.0.0.1:15020]
    #[arg(long, env = "WAYMARK_NODE_METRICS_ADDRESS", value_name = "IP:PORT")]
    pub metrics_address: Option<SocketAddr>,

    /// Where to write the addresses that are listened on, as JSON
    #[arg(long, env = "WAYMARK_NODE_ADDRESSES_FILE", value_name = "FILE")]
    pub addresses_file: Option<PathBuf>,

    /// Own address: what tunnels in the proxy's own name come from [default: any]
    #[arg(long, env = "WAYMARK_NODE_ADDRESS", value_name = "IP")]
    pub address: Option<IpAddr>,

    /// Trust domain of the proxy's own identity [default: cluster.local]
    #[arg(long, env = "WAYMARK_NODE_TRUST_DOMAIN", value_name = "NAME")]
    pub trust_domain: Option<String>,

    /// Own pod's name [default: waymark-node]
    #[arg(long, env = "WAYMARK_NODE_POD_NAME", value_name = "NAME")]
    pub pod_name: Option<String>,

    /// Own namespace [default: istio-system]
    #[arg(long, env = "WAYMARK_NODE_POD_NAMESPACE", value_name = "NAME")]
    pub pod_namespace: Option<String>,

    /// Own service account [default: waymark-node]
    #[arg(long, env = "WAYMARK_NODE_SERVICE_ACCOUNT", value_name = "NAME")]
    pub service_account: Option<String>,

    /// Cluster [default: Kubernetes]
    #[arg(long, env = "WAYMARK_NODE_CLUSTER_ID", value_name = "NAME")]
    pub cluster_id: Option<String>,

    /// Network of this node [default: the mesh's only one]
    #[arg(long, env = "WAYMARK_NODE_NETWORK", value_name = "NAME")]
    pub network: Option<String>,

    /// Validity to ask for in certificates [default: 86400]
    #[arg(long, env = "WAYMARK_NODE_CERT_TTL_SECONDS", value_name = "SECONDS")]
    pub cert_ttl_seconds: Option<u64>,

    /// How long open connections may take to finish when the proxy ends [default: 5]
    #[arg(long, env = "WAYMARK_NODE_DRAIN_SECONDS", value_name = "SECONDS")]
    pub drain_seconds: Option<u64>,

    /// Threads that carry connections; 0: one for each CPU [default: a quarter of the CPUs, at least 2]
    #[arg(long, env = "WAYMARK_NODE_CONCURRENCY", value_name = "N")]
    pub concurrency: Option<usize>,

    /// File with any of these settings: a JSON object, keys as the flags without their dashes
    #[arg(long, env = "WAYMARK_NODE_CONFIG", value_name = "FILE")]
    #[serde(skip)]
    pub config: Option<PathBuf>,
}

/// Settings, checked and complete.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Settings {
    /// See [`Args`].
    pub node_name: Option<String>,
    /// See [`Args`].
    pub xds_address: String,
    /// See [`Args`].
    pub ca_address: String,
    /// See [`Args`].
    pub root_cert: Option<PathBuf>,
    /// See [`Args`].
    pub token_file: Option<PathBuf>,
    /// See [`Args`].
    pub admin_address: SocketAddr,
    /// See [`Args`].
    pub readiness_address: SocketAddr,
    /// See [`Args`].
    pub metrics_address: SocketAddr,
    /// See [`Args`].
    pub addresses_file: Option<PathBuf>,
    /// See [`Args`].
    pub address: Option<IpAddr>,
    /// The proxy's own identity.
    pub identity: SpiffeId,
    /// See [`Args`].
    pub pod_name: String,
    /// See [`Args`].
    pub pod_namespace: String,
    /// See [`Args`].
    pub cluster_id: String,
    /// See [`Args`].
    pub network: String,
    /// See [`Args`].
    pub cert_ttl: Duration,
    /// See [`Args`].
    pub drain: Duration,
    /// See [`Args`].
    pub concurrency: NonZeroUsize,
}

/// Why settings cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// The settings file cannot be read.
    #[error("read settings from {path}", path = path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The settings file is not what it should be.
    #[error("settings in {path}", path = path.display())]
    Parse {
        /// Which.
        path: PathBuf,
        /// Where and why.
        source: serde_json::Error,
    },
    /// A setting without a default.
    #[error("--{0} is missing")]
    Missing(&'static str),
    /// Trust domain, namespace and service account make no identity.
    #[error("own identity")]
    Identity(#[source] SpiffeError),
}

impl Args {
    /// How long the drain may take, for the program that drives it.
    ///
    /// # Errors
    /// When the settings file cannot be used.
    pub fn drain_grace(&self) -> Result<Duration, SettingsError> {
        Ok(drain_grace(&self.with_file()?))
    }

    /// Completes and checks the settings.
    ///
    /// # Errors
    /// See [`SettingsError`].
    pub fn settings(&self) -> Result<Settings, SettingsError> {
        let all = self.with_file()?;
        let local = |port: u16| SocketAddr::from(([127, 0, 0, 1], port));
        let text = |value: &Option<String>, default: &str| {
            value.clone().unwrap_or_else(|| default.to_owned())
        };
        let pod_namespace = text(&all.pod_namespace, "istio-system");
        let identity = || -> Result<SpiffeId, SpiffeError> {
            let domain: TrustDomain = text(&all.trust_domain, "cluster.local").parse()?;
            let account = text(&all.service_account, "waymark-node");
            Ok(ServiceAccountRef::new(&pod_namespace, &account)?.identity(&domain))
        };
        let identity = identity().map_err(SettingsError::Identity)?;
        let xds_address = all
            .xds_address
            .clone()
            .ok_or(SettingsError::Missing("xds-address"))?;
        Ok(Settings {
            ca_address: all
                .ca_address
                .clone()
                .unwrap_or_else(|| xds_address.clone()),
            xds_address,
            admin_address: all.admin_address.unwrap_or_else(|| local(15000)),
            readiness_address: all.readiness_address.unwrap_or_else(|| local(15021)),
            metrics_address: all.metrics_address.unwrap_or_else(|| local(15020)),
            identity,
            pod_name: text(&all.pod_name, "waymark-node"),
            cluster_id: text(&all.cluster_id, "Kubernetes"),
            network: text(&all.network, ""),
            cert_ttl: Duration::from_secs(all.cert_ttl_seconds.unwrap_or(24 * 60 * 60)),
            drain: drain_grace(&all),
            concurrency: concurrency(all.concurrency),
            node_name: all.node_name,
            root_cert: all.root_cert,
            token_file: all.token_file,
            addresses_file: all.addresses_file,
            address: all.address,
            pod_namespace,
        })
    }

    /// Flags and environment, and the file for what they leave out.
    fn with_file(&self) -> Result<Self, SettingsError> {
        let Some(path) = &self.config else {
            return Ok(self.clone());
        };
        let file = Self::read(path)?;
        let this = self.clone();
        Ok(Self {
            node_name: this.node_name.or(file.node_name),
            xds_address: this.xds_address.or(file.xds_address),
            ca_address: this.ca_address.or(file.ca_address),
            root_cert: this.root_cert.or(file.root_cert),
            token_file: this.token_file.or(file.token_file),
            admin_address: this.admin_address.or(file.admin_address),
            readiness_address: this.readiness_address.or(file.readiness_address),
            metrics_address: this.metrics_address.or(file.metrics_address),
            addresses_file: this.addresses_file.or(file.addresses_file),
            address: this.address.or(file.address),
            trust_domain: this.trust_domain.or(file.trust_domain),
            pod_name: this.pod_name.or(file.pod_name),
            pod_namespace: this.pod_namespace.or(file.pod_namespace),
            service_account: this.service_account.or(file.service_account),
            cluster_id: this.cluster_id.or(file.cluster_id),
            network: this.network.or(file.network),
            cert_ttl_seconds: this.cert_ttl_seconds.or(file.cert_ttl_seconds),
            drain_seconds: this.drain_seconds.or(file.drain_seconds),
            concurrency: this.concurrency.or(file.concurrency),
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

fn drain_grace(args: &Args) -> Duration {
    Duration::from_secs(args.drain_seconds.unwrap_or(5))
}

/// Spec: hbone-and-l4.md 1.1.
fn concurrency(asked: Option<usize>) -> NonZeroUsize {
    let cpus = std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
    let default = cpus.get().div_ceil(4).max(2);
    match asked {
        Some(asked) => NonZeroUsize::new(asked).unwrap_or(cpus),
        None => NonZeroUsize::new(default).unwrap_or(cpus),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        args: Args,
    }

    #[test]
    fn flags_win_over_the_file() {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(
            file.path(),
            r#"{"xds-address": "file:1", "node-name": "n", "concurrency": 3}"#,
        )
        .unwrap();
        let path = file.path().to_str().unwrap();
        let args = Cli::parse_from(["node", "--xds-address", "flag:2", "--config", path]).args;
        let settings = args.settings().unwrap();
        assert_eq!(settings.xds_address, "flag:2");
        assert_eq!(settings.ca_address, "flag:2");
        assert_eq!(settings.node_name.as_deref(), Some("n"));
        assert_eq!(settings.concurrency.get(), 3);
        assert_eq!(
            settings.identity.as_str(),
            "spiffe://cluster.local/ns/istio-system/sa/waymark-node"
        );
    }

    #[test]
    fn an_unknown_key_is_refused_with_its_name() {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), r#"{"xds-adress": "x:1"}"#).unwrap();
        let args = Args {
            config: Some(file.path().to_owned()),
            ..Args::default()
        };
        let error = args.settings().unwrap_err();
        let source = std::error::Error::source(&error).unwrap().to_string();
        assert!(source.contains("xds-adress"), "{source}");
    }

    #[test]
    fn a_control_plane_has_to_be_named() {
        let error = Args::default().settings().unwrap_err();
        assert_eq!(error.to_string(), "--xds-address is missing");
    }
}
