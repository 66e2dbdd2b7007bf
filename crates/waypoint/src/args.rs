//! The settings of a waypoint: flags, environment, a file; in this order.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustls::pki_types::ServerName;
use serde::Deserialize;
use waymark_identity::{ServiceAccountRef, SpiffeError, SpiffeId, TrustDomain};

use crate::config::NodeOptions;
use crate::downstream::{NodeAccount, NodeAccountError};
use crate::pod::{Pod, PodError, PodLayer};

/// `waymark run waypoint`
#[derive(Clone, Debug, Default, clap::Args, Deserialize)]
#[serde(default, rename_all = "kebab-case", deny_unknown_fields)]
pub struct Args {
    /// Own name, as a pod's
    #[arg(long, env = "WAYMARK_WAYPOINT_NAME", value_name = "NAME")]
    pub name: Option<String>,

    /// Own namespace
    #[arg(long, env = "WAYMARK_WAYPOINT_NAMESPACE", value_name = "NAME")]
    pub namespace: Option<String>,

    /// Own service account [default: the Gateway's name]
    #[arg(long, env = "WAYMARK_WAYPOINT_SERVICE_ACCOUNT", value_name = "NAME")]
    pub service_account: Option<String>,

    /// Name of the waypoints that are alike [default: <service account>.<namespace>]
    #[arg(long, env = "WAYMARK_WAYPOINT_SERVICE_CLUSTER", value_name = "NAME")]
    pub service_cluster: Option<String>,

    /// The Gateway that is served
    #[arg(long, env = "WAYMARK_WAYPOINT_GATEWAY", value_name = "NAME")]
    pub gateway: Option<String>,

    /// Own address: everything is listened on there, and dialled from there
    #[arg(long, env = "WAYMARK_WAYPOINT_ADDRESS", value_name = "IP")]
    pub address: Option<IpAddr>,

    /// Address to listen on and to dial from [default: the own one; in a pod all of them, admin on loopback]
    #[arg(long, env = "WAYMARK_WAYPOINT_BIND", value_name = "IP")]
    pub bind: Option<IpAddr>,

    /// Port of tunnels [default: 15008]
    #[arg(long, env = "WAYMARK_WAYPOINT_HBONE_PORT", value_name = "PORT")]
    pub hbone_port: Option<u16>,

    /// Port of the admin interface [default: 15000]
    #[arg(long, env = "WAYMARK_WAYPOINT_ADMIN_PORT", value_name = "PORT")]
    pub admin_port: Option<u16>,

    /// Port of metrics [default: 15020]
    #[arg(long, env = "WAYMARK_WAYPOINT_METRICS_PORT", value_name = "PORT")]
    pub metrics_port: Option<u16>,

    /// Port of the readiness probe [default: 15021]
    #[arg(long, env = "WAYMARK_WAYPOINT_READINESS_PORT", value_name = "PORT")]
    pub readiness_port: Option<u16>,

    /// Control plane, host:port
    #[arg(long, env = "WAYMARK_WAYPOINT_XDS_ADDRESS", value_name = "HOST:PORT")]
    pub xds_address: Option<String>,

    /// Certificate authority, host:port [default: the control plane]
    #[arg(long, env = "WAYMARK_WAYPOINT_CA_ADDRESS", value_name = "HOST:PORT")]
    pub ca_address: Option<String>,

    /// Root certificates (PEM) that control plane and certificate authority are verified with
    #[arg(long, env = "WAYMARK_WAYPOINT_ROOT_CERT", value_name = "FILE")]
    pub root_cert: Option<PathBuf>,

    /// Name that control plane and certificate authority are verified for [default: the host of their address]
    #[arg(long, env = "WAYMARK_WAYPOINT_SERVER_NAME", value_name = "NAME")]
    pub server_name: Option<String>,

    /// Bearer token; read again for every call
    #[arg(long, env = "WAYMARK_WAYPOINT_TOKEN_FILE", value_name = "FILE")]
    pub token_file: Option<PathBuf>,

    /// Threads that carry traffic; 0: one for each CPU [default: one for each CPU]
    #[arg(long, env = "WAYMARK_WAYPOINT_CONCURRENCY", value_name = "N")]
    pub concurrency: Option<usize>,

    /// How long open requests and connections may take to finish when the waypoint ends [default: 5]
    #[arg(long, env = "WAYMARK_WAYPOINT_DRAIN_SECONDS", value_name = "SECONDS")]
    pub drain_seconds: Option<u64>,

    /// Trust domain [default: cluster.local]
    #[arg(long, env = "WAYMARK_WAYPOINT_TRUST_DOMAIN", value_name = "NAME")]
    pub trust_domain: Option<String>,

    /// Domain of host names of services [default: cluster.local]
    #[arg(long, env = "WAYMARK_WAYPOINT_DOMAIN", value_name = "NAME")]
    pub domain: Option<String>,

    /// Cluster [default: Kubernetes]
    #[arg(long, env = "WAYMARK_WAYPOINT_CLUSTER_ID", value_name = "NAME")]
    pub cluster_id: Option<String>,

    /// Network [default: the mesh's only one]
    #[arg(long, env = "WAYMARK_WAYPOINT_NETWORK", value_name = "NAME")]
    pub network: Option<String>,

    /// Mesh [default: the trust domain]
    #[arg(long, env = "WAYMARK_WAYPOINT_MESH_ID", value_name = "NAME")]
    pub mesh_id: Option<String>,

    /// Where it is: region, zone, sub-zone [default: unknown]
    #[arg(
        long,
        env = "WAYMARK_WAYPOINT_LOCALITY",
        value_name = "REGION/ZONE/SUBZONE"
    )]
    pub locality: Option<String>,

    /// The Istio version to claim, for a control plane that goes by it [default: none]
    #[arg(long, env = "WAYMARK_WAYPOINT_ISTIO_VERSION", value_name = "VERSION")]
    pub istio_version: Option<String>,

    /// The account whose word about a client's principal is believed, namespace/name [default: istio-system/waymark-node]
    #[arg(long, env = "WAYMARK_WAYPOINT_NODE_ACCOUNT", value_name = "NS/NAME")]
    pub node_account: Option<String>,

    /// Validity to ask for in certificates [default: 86400]
    #[arg(
        long,
        env = "WAYMARK_WAYPOINT_CERT_TTL_SECONDS",
        value_name = "SECONDS"
    )]
    pub cert_ttl_seconds: Option<u64>,

    /// File with any of these settings: a JSON object, keys as the flags without their dashes
    #[arg(long, env = "WAYMARK_WAYPOINT_CONFIG", value_name = "FILE")]
    #[serde(skip)]
    pub config: Option<PathBuf>,
}

/// Settings, checked and complete.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Own address.
    pub address: IpAddr,
    /// Tunnels.
    pub hbone: SocketAddr,
    /// Admin.
    pub admin: SocketAddr,
    /// Metrics.
    pub metrics: SocketAddr,
    /// Readiness.
    pub readiness: SocketAddr,
    /// Where a pod serves Prometheus the figures of its proxy alone.
    pub prometheus: Option<SocketAddr>,
    /// The address that tunnels to endpoints are dialled from.
    pub source: Option<IpAddr>,
    /// Control plane; with `http://` in front it is spoken to without TLS.
    pub xds_address: String,
    /// Certificate authority.
    pub ca_address: String,
    /// See [`Args`].
    pub root_cert: Option<PathBuf>,
    /// See [`Args`].
    pub server_name: Option<ServerName<'static>>,
    /// See [`Args`].
    pub token_file: Option<PathBuf>,
    /// How long the drain may take, for the program that drives it.
    pub drain: Duration,
    /// Worker threads.
    pub concurrency: usize,
    /// Who the waypoint is.
    pub identity: SpiffeId,
    /// See [`Args`].
    pub node_account: NodeAccount,
    /// See [`Args`].
    pub cert_ttl: Duration,
    /// What it says about itself.
    pub node: NodeOptions,
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
    /// Not a name that a certificate can have.
    #[error("--server-name {0:?} is no name of a server")]
    ServerName(String),
    /// The pod's environment.
    #[error(transparent)]
    Pod(#[from] PodError),
    /// The node proxies' account is none.
    #[error("--node-account")]
    NodeAccount(#[from] NodeAccountError),
}

/// What our control plane is asked for: resources that only say what stock Envoy knows.
const FLAVOUR: (&str, &str) = ("WAYMARK_FLAVOUR", "stock");
const DRAIN: Duration = Duration::from_secs(5);

impl Args {
    /// Completes and checks the settings: flags and environment, a file for what they leave out; and, where nobody says which
    /// waypoint this is, the pod.
    ///
    /// # Errors
    /// See [`SettingsError`].
    pub fn settings(&self, pod: Option<&Pod>) -> Result<Settings, SettingsError> {
        let all = match &self.config {
            None => self.clone(),
            Some(path) => self.clone().or(Self::read(path)?),
        };
        let pod = pod.filter(|_| all.name.is_none() && all.address.is_none());
        all.settings_on(pod.map(Pod::layer).transpose()?)
    }

    /// Completes and checks the settings, on the ground of what a pod says.
    pub(crate) fn settings_on(self, pod: Option<PodLayer>) -> Result<Settings, SettingsError> {
        let in_pod = pod.is_some();
        let PodLayer { args, metadata } = pod.unwrap_or_default();
        let all = self.or(args);
        let missing = SettingsError::Missing;
        let or = |value: Option<String>, default: &str| value.unwrap_or_else(|| default.to_owned());
        let address = all.address.ok_or(missing("address"))?;
        let own = all.bind.or((!in_pod).then_some(address));
        let (every, loopback) = match address {
            IpAddr::V4(_) => (Ipv4Addr::UNSPECIFIED.into(), Ipv4Addr::LOCALHOST.into()),
            IpAddr::V6(_) => (Ipv6Addr::UNSPECIFIED.into(), Ipv4Addr::LOCALHOST.into()),
        };
        let at = |port: Option<u16>, default| {
            SocketAddr::new(own.unwrap_or(every), port.unwrap_or(default))
        };
        let admin = SocketAddr::new(own.unwrap_or(loopback), all.admin_port.unwrap_or(15000));
        let name = all.name.ok_or(missing("name"))?;
        let namespace = all.namespace.ok_or(missing("namespace"))?;
        let gateway = all.gateway.ok_or(missing("gateway"))?;
        let service_account = all.service_account.unwrap_or_else(|| gateway.clone());
        let xds_address = all.xds_address.ok_or(missing("xds-address"))?;
        let trust_domain = or(all.trust_domain, "cluster.local");
        let identity = identity(&trust_domain, &namespace, &service_account)
            .map_err(SettingsError::Identity)?;
        let account = or(all.node_account, "istio-system/waymark-node");
        Ok(Settings {
            address,
            hbone: at(all.hbone_port, 15008),
            admin,
            metrics: at(all.metrics_port, 15020),
            readiness: at(all.readiness_port, 15021),
            prometheus: in_pod.then(|| at(None, 15090)),
            source: own.filter(|a| !a.is_unspecified()),
            ca_address: all.ca_address.unwrap_or_else(|| xds_address.clone()),
            xds_address,
            root_cert: all.root_cert,
            server_name: all.server_name.map(server_name).transpose()?,
            token_file: all.token_file,
            drain: all.drain_seconds.map_or(DRAIN, Duration::from_secs),
            concurrency: concurrency(all.concurrency),
            identity,
            node_account: NodeAccount::new(&trust_domain, &account)?,
            cert_ttl: Duration::from_secs(all.cert_ttl_seconds.unwrap_or(24 * 60 * 60)),
            node: NodeOptions {
                name,
                namespace,
                service_account,
                service_cluster: all.service_cluster,
                addresses: vec![address],
                gateway,
                cluster_id: or(all.cluster_id, "Kubernetes"),
                network: all.network.filter(|n| !n.is_empty()),
                mesh_id: all.mesh_id.unwrap_or(trust_domain),
                domain: or(all.domain, "cluster.local"),
                locality: locality(all.locality.as_deref().unwrap_or_default()),
                labels: BTreeMap::new(),
                metadata: match &all.istio_version {
                    None => BTreeMap::from([(FLAVOUR.0.to_owned(), FLAVOUR.1.into())]),
                    Some(_) => metadata,
                },
                istio_version: all.istio_version,
            },
        })
    }

    /// These settings, and others for what they leave out.
    fn or(self, other: Self) -> Self {
        Self {
            name: self.name.or(other.name),
            namespace: self.namespace.or(other.namespace),
            service_account: self.service_account.or(other.service_account),
            service_cluster: self.service_cluster.or(other.service_cluster),
            gateway: self.gateway.or(other.gateway),
            address: self.address.or(other.address),
            bind: self.bind.or(other.bind),
            hbone_port: self.hbone_port.or(other.hbone_port),
            admin_port: self.admin_port.or(other.admin_port),
            metrics_port: self.metrics_port.or(other.metrics_port),
            readiness_port: self.readiness_port.or(other.readiness_port),
            xds_address: self.xds_address.or(other.xds_address),
            ca_address: self.ca_address.or(other.ca_address),
            root_cert: self.root_cert.or(other.root_cert),
            server_name: self.server_name.or(other.server_name),
            token_file: self.token_file.or(other.token_file),
            concurrency: self.concurrency.or(other.concurrency),
            drain_seconds: self.drain_seconds.or(other.drain_seconds),
            trust_domain: self.trust_domain.or(other.trust_domain),
            domain: self.domain.or(other.domain),
            cluster_id: self.cluster_id.or(other.cluster_id),
            network: self.network.or(other.network),
            mesh_id: self.mesh_id.or(other.mesh_id),
            locality: self.locality.or(other.locality),
            istio_version: self.istio_version.or(other.istio_version),
            node_account: self.node_account.or(other.node_account),
            cert_ttl_seconds: self.cert_ttl_seconds.or(other.cert_ttl_seconds),
            config: self.config,
        }
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

fn identity(
    trust_domain: &str,
    namespace: &str,
    service_account: &str,
) -> Result<SpiffeId, SpiffeError> {
    let trust_domain: TrustDomain = trust_domain.parse()?;
    Ok(ServiceAccountRef::new(namespace, service_account)?.identity(&trust_domain))
}

fn server_name(name: String) -> Result<ServerName<'static>, SettingsError> {
    ServerName::try_from(name.clone()).map_err(|_| SettingsError::ServerName(name))
}

fn locality(text: &str) -> (String, String, String) {
    let mut parts = text.splitn(3, '/').map(str::to_owned);
    let mut next = || parts.next().unwrap_or_default();
    (next(), next(), next())
}

fn concurrency(asked: Option<usize>) -> usize {
    let cpus = || std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    asked.filter(|n| *n > 0).unwrap_or_else(cpus)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        args: Args,
    }

    fn parse(args: &[&str]) -> Args {
        Cli::parse_from(["waypoint"].iter().chain(args)).args
    }

    const DEPLOYED: &[&str] = &[
        "--name",
        "reviews-0",
        "--namespace",
        "default",
        "--service-account",
        "sa",
        "--gateway",
        "reviews",
        "--address",
        "127.244.0.9",
        "--xds-address",
        "127.0.0.1:1",
        "--root-cert",
        "root.pem",
        "--token-file",
        "token",
    ];

    #[test]
    fn what_the_deployer_passes_is_enough() {
        let settings = parse(DEPLOYED).settings(None).unwrap();
        assert_eq!(
            settings.identity.as_str(),
            "spiffe://cluster.local/ns/default/sa/sa"
        );
        assert_eq!(settings.hbone.to_string(), "127.244.0.9:15008");
        assert_eq!(settings.admin.to_string(), "127.244.0.9:15000");
        assert_eq!(settings.ca_address, "127.0.0.1:1");
        assert_eq!(
            settings.node.id(),
            "waypoint~127.244.0.9~reviews-0.default~default.svc.cluster.local"
        );
        assert_eq!(settings.node.metadata["WAYMARK_FLAVOUR"], "stock");
        assert_eq!(settings.drain, DRAIN);
    }

    #[test]
    fn a_file_fills_in_what_flags_leave_out() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("waypoint.json");
        fs::write(
            &file,
            r#"{"name": "of-file", "drain-seconds": 30, "hbone-port": 1}"#,
        )
        .unwrap();
        let flags = ["--hbone-port", "2", "--config", file.to_str().unwrap()];
        let rest: Vec<_> = DEPLOYED[2..].iter().copied().chain(flags).collect();
        let args = parse(&rest);
        let settings = args.settings(None).unwrap();
        assert_eq!(
            (settings.node.name.as_str(), settings.hbone.port()),
            ("of-file", 2)
        );
        assert_eq!(settings.drain, Duration::from_secs(30));
        fs::write(&file, r#"{"nmae": "typo"}"#).unwrap();
        assert!(matches!(
            args.settings(None),
            Err(SettingsError::Parse { .. })
        ));
    }

    #[test]
    fn a_missing_setting_is_named() {
        for (without, flag) in [(0, "name"), (8, "address"), (10, "xds-address")] {
            let args: Vec<_> = DEPLOYED[..without]
                .iter()
                .chain(&DEPLOYED[without + 2..])
                .copied()
                .collect();
            match parse(&args).settings(None) {
                Err(SettingsError::Missing(name)) => assert_eq!(name, flag),
                other => panic!("{other:?}"),
            }
        }
    }
}
