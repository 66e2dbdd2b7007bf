//! The settings of the agent. What a waypoint of ours has too is spelled as there, so that a deployer starts either.

use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use waymark_identity::{ServiceAccountRef, SpiffeError, SpiffeId, TrustDomain};

/// `waymark run agent`
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// Name of the waypoint's pod
    #[arg(long, env = "WAYMARK_AGENT_NAME", value_name = "NAME")]
    pub name: String,

    /// Namespace of the waypoint
    #[arg(long, env = "WAYMARK_AGENT_NAMESPACE", value_name = "NAME")]
    pub namespace: String,

    /// Service account of the waypoint
    #[arg(long, env = "WAYMARK_AGENT_SERVICE_ACCOUNT", value_name = "NAME")]
    pub service_account: String,

    /// Gateway that the waypoint serves
    #[arg(long, env = "WAYMARK_AGENT_GATEWAY", value_name = "NAME")]
    pub gateway: String,

    /// Address of the waypoint: what Envoy listens on, and connects from
    #[arg(long, env = "WAYMARK_AGENT_ADDRESS", value_name = "IP")]
    pub address: IpAddr,

    /// Control plane, host:port
    #[arg(long, env = "WAYMARK_AGENT_XDS_ADDRESS", value_name = "HOST:PORT")]
    pub xds_address: String,

    /// Certificate authority, host:port [default: the control plane]
    #[arg(long, env = "WAYMARK_AGENT_CA_ADDRESS", value_name = "HOST:PORT")]
    pub ca_address: Option<String>,

    /// Root certificates (PEM) that control plane and certificate authority are verified with
    #[arg(long, env = "WAYMARK_AGENT_ROOT_CERT", value_name = "FILE")]
    pub root_cert: Option<PathBuf>,

    /// Bearer token; read again for every call
    #[arg(long, env = "WAYMARK_AGENT_TOKEN_FILE", value_name = "FILE")]
    pub token_file: Option<PathBuf>,

    /// Envoy's program
    #[arg(long, env = "WAYMARK_ENVOY", value_name = "FILE")]
    pub envoy: PathBuf,

    /// Directory for Envoy's bootstrap and the Unix sockets between it and the agent; nobody else may enter it
    #[arg(long, env = "WAYMARK_AGENT_DIR", value_name = "DIR")]
    pub dir: PathBuf,

    /// Worker threads of Envoy [default: a quarter of the CPUs, at least 2]
    #[arg(long, env = "WAYMARK_AGENT_CONCURRENCY", value_name = "N")]
    pub concurrency: Option<NonZeroUsize>,

    /// Envoy's log level
    #[arg(
        long,
        env = "WAYMARK_AGENT_ENVOY_LOG_LEVEL",
        value_name = "LEVEL",
        default_value = "warning"
    )]
    pub envoy_log_level: String,

    /// Further arguments for Envoy
    #[arg(
        long = "envoy-arg",
        value_name = "ARG",
        allow_hyphen_values = true,
        num_args = 1
    )]
    pub envoy_args: Vec<String>,

    /// Trust domain of the waypoint's identity
    #[arg(
        long,
        env = "WAYMARK_AGENT_TRUST_DOMAIN",
        value_name = "NAME",
        default_value = "cluster.local"
    )]
    pub trust_domain: String,

    /// Cluster of the waypoint
    #[arg(
        long,
        env = "WAYMARK_AGENT_CLUSTER_ID",
        value_name = "NAME",
        default_value = "Kubernetes"
    )]
    pub cluster_id: String,

    /// Network of the waypoint [default: the mesh's only one]
    #[arg(long, env = "WAYMARK_AGENT_NETWORK", value_name = "NAME")]
    pub network: Option<String>,

    /// Node that the waypoint runs on
    #[arg(long, env = "WAYMARK_AGENT_NODE_NAME", value_name = "NAME")]
    pub node_name: Option<String>,

    /// Validity to ask for in certificates
    #[arg(
        long,
        env = "WAYMARK_AGENT_CERT_TTL_SECONDS",
        value_name = "SECONDS",
        default_value_t = 24 * 60 * 60
    )]
    pub cert_ttl_seconds: u64,

    /// How long open requests may take to finish when the waypoint ends
    #[arg(
        long,
        env = "WAYMARK_AGENT_DRAIN_SECONDS",
        value_name = "SECONDS",
        default_value_t = 5
    )]
    pub drain_seconds: u64,
}

/// Settings, checked and complete.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The pod's name.
    pub name: String,
    /// Whose certificate it is; has namespace and service account.
    pub identity: SpiffeId,
    /// See [`Args`].
    pub gateway: String,
    /// See [`Args`].
    pub address: IpAddr,
    /// See [`Args`].
    pub xds_address: String,
    /// See [`Args`].
    pub ca_address: String,
    /// See [`Args`].
    pub root_cert: Option<PathBuf>,
    /// See [`Args`].
    pub token_file: Option<PathBuf>,
    /// See [`Args`].
    pub envoy: PathBuf,
    /// See [`Args`].
    pub dir: PathBuf,
    /// See [`Args`].
    pub concurrency: NonZeroUsize,
    /// See [`Args`].
    pub envoy_log_level: String,
    /// See [`Args`].
    pub envoy_args: Vec<String>,
    /// See [`Args`].
    pub cluster_id: String,
    /// See [`Args`].
    pub network: Option<String>,
    /// See [`Args`].
    pub node_name: Option<String>,
    /// See [`Args`].
    pub cert_ttl: Duration,
    /// See [`Args`].
    pub drain: Duration,
}

/// Why settings cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// Trust domain, namespace and service account make no identity.
    #[error("own identity")]
    Identity(#[source] SpiffeError),
}

impl Args {
    /// How long the drain may take, for the program that drives it.
    #[must_use]
    pub fn drain(&self) -> Duration {
        Duration::from_secs(self.drain_seconds)
    }

    /// Completes and checks the settings.
    ///
    /// # Errors
    /// See [`SettingsError`].
    pub fn settings(self) -> Result<Settings, SettingsError> {
        let identity = || -> Result<SpiffeId, SpiffeError> {
            let domain: TrustDomain = self.trust_domain.parse()?;
            Ok(ServiceAccountRef::new(&self.namespace, &self.service_account)?.identity(&domain))
        };
        let identity = identity().map_err(SettingsError::Identity)?;
        let drain = self.drain();
        Ok(Settings {
            name: self.name,
            identity,
            gateway: self.gateway,
            address: self.address,
            ca_address: self.ca_address.unwrap_or_else(|| self.xds_address.clone()),
            xds_address: self.xds_address,
            root_cert: self.root_cert,
            token_file: self.token_file,
            envoy: self.envoy,
            dir: self.dir,
            concurrency: self.concurrency.unwrap_or_else(default_concurrency),
            envoy_log_level: self.envoy_log_level,
            envoy_args: self.envoy_args,
            cluster_id: self.cluster_id,
            network: self.network,
            node_name: self.node_name,
            cert_ttl: Duration::from_secs(self.cert_ttl_seconds),
            drain,
        })
    }
}

impl Settings {
    /// Envoy's admin interface.
    #[must_use]
    pub fn admin(&self) -> SocketAddr {
        SocketAddr::new(self.address, ADMIN_PORT)
    }

    /// The agent's own readiness, metrics and drain.
    #[must_use]
    pub fn status(&self) -> SocketAddr {
        SocketAddr::new(self.address, STATUS_PORT)
    }
}

/// Spec: waypoint-xds.md 2.3, ports.
const ADMIN_PORT: u16 = 15000;
const STATUS_PORT: u16 = 15020;

fn default_concurrency() -> NonZeroUsize {
    let cpus = std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
    NonZeroUsize::new(cpus.get().div_ceil(4).max(2)).unwrap_or(cpus)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
pub(crate) mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        args: Args,
    }

    pub(crate) fn parse(more: &[&str]) -> Args {
        // What the deployer says of any waypoint, then what it says of this kind.
        let common = "agent --name reviews-0 --namespace default --service-account bookinfo-reviews --gateway reviews \
                      --address 127.244.0.9 --xds-address 127.0.0.1:15012 --ca-address 127.0.0.1:15012 \
                      --root-cert /state/root-cert.pem --token-file /state/tokens/default.bookinfo-reviews \
                      --envoy /usr/bin/envoy --dir /state/envoy";
        let words = common.split_ascii_whitespace().chain(more.iter().copied());
        Cli::parse_from(words).args
    }

    #[test]
    fn takes_the_flags_of_a_waypoint() {
        let settings = parse(&["--concurrency", "3", "--envoy-arg", "--log-path=x"])
            .settings()
            .unwrap();
        assert_eq!(
            settings.identity.as_str(),
            "spiffe://cluster.local/ns/default/sa/bookinfo-reviews"
        );
        assert_eq!(settings.concurrency.get(), 3);
        assert_eq!(settings.envoy_args, ["--log-path=x"]);
        assert_eq!(settings.admin().to_string(), "127.244.0.9:15000");
    }

    #[test]
    fn an_identity_that_is_none_is_refused() {
        let error = parse(&["--trust-domain", "not/a/domain"])
            .settings()
            .unwrap_err();
        assert_eq!(error.to_string(), "own identity");
    }
}
