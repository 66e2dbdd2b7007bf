//! The environment and the files of a waypoint pod, as istiod's deployer makes them, read as settings.
//!
//! Spec: control-plane.md 8.4, waypoint-xds.md 2.2, hbone-and-l4.md 23. [`PodLayer::read`] is a function of the variables
//! and the files; [`Pod::here`] gives it those of this process.

mod downward;
mod duration;
mod node;
mod proxy_config;

use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use serde_json::Value;

use self::proxy_config::ProxyConfig;
use crate::args::Args;

/// Where a pod's files are, below this directory instead of `/`: for waypoints that run as a pod would, but in none.
pub const POD_ROOT: &str = "WAYMARK_POD_ROOT";
/// What istiod's replies are made for, where the environment does not say. Spec: waypoint-xds.md 0.
const ISTIO_VERSION: &str = "1.32.0";
/// Where xDS and certificates are when nothing says. Spec: control-plane.md 8.4.
const ISTIOD: &str = "istiod.istio-system.svc:15012";
const TOKEN: &str = "var/run/secrets/tokens/istio-token";
const ROOT_CERT: &str = "var/run/secrets/istio/root-cert.pem";
const LABELS: &str = "etc/istio/pod/labels";
const ANNOTATIONS: &str = "etc/istio/pod/annotations";
const GATEWAY_NAME: &str = "gateway.networking.k8s.io/gateway-name";

/// What the deployer's template passes to the container beside the environment.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct PodArgs {
    /// DNS domain of the pod: its namespace, `svc`, the cluster's domain
    #[arg(long, value_name = "NAMESPACE.svc.DOMAIN")]
    pub domain: Option<String>,

    /// Name of the proxies that are alike, for the control plane's figures
    #[arg(long = "serviceCluster", value_name = "ACCOUNT.NAMESPACE")]
    pub service_cluster: Option<String>,
}

/// Reads a file of the pod.
pub type ReadFile<'a> = &'a dyn Fn(&Path) -> io::Result<String>;

/// The pod that a process is in.
#[derive(Clone, Debug)]
pub struct Pod {
    variables: BTreeMap<String, String>,
    args: PodArgs,
}

/// What a pod says, as settings: the ground on which flags, variables of our own and a file are laid.
#[derive(Clone, Debug, Default)]
pub struct PodLayer {
    /// Settings.
    pub args: Args,
    /// Node metadata that no setting says.
    pub metadata: BTreeMap<String, Value>,
}

/// Why the environment is not a waypoint pod's.
#[derive(Debug, thiserror::Error)]
pub enum PodError {
    /// A variable is missing.
    #[error("environment variable {0} is missing")]
    Missing(&'static str),
    /// A variable does not say what it should.
    #[error("environment variable {name}: {why}")]
    Variable {
        /// Its name.
        name: String,
        /// What is wrong.
        why: String,
    },
    /// A file cannot be read.
    #[error("read {path}", path = path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A line of a file of labels or annotations.
    #[error("{path} line {line}: not KEY=\"VALUE\"", path = path.display())]
    Line {
        /// Which file.
        path: PathBuf,
        /// Counted from 1.
        line: usize,
    },
    /// The labels do not say which Gateway is served.
    #[error("{path}: no label {GATEWAY_NAME}", path = .0.display())]
    NoGateway(PathBuf),
    /// The domain is not that of the namespace.
    #[error("--domain {domain:?} is not {namespace}.svc.DOMAIN")]
    Domain {
        /// What was given.
        domain: String,
        /// The pod's namespace.
        namespace: String,
    },
}

impl Pod {
    /// The pod of this process, if it is in one: the deployer's `POD_NAME`, `POD_NAMESPACE` and `INSTANCE_IP` are set.
    #[must_use]
    pub fn here(args: PodArgs) -> Option<Self> {
        let pod = Self::of_process(args);
        let has = |name: &str| pod.variables.get(name).is_some_and(|v| !v.is_empty());
        (has("POD_NAME") && has("POD_NAMESPACE") && has("INSTANCE_IP")).then_some(pod)
    }

    /// The pod that this process must be in, for arguments that only a pod's container gets: what is missing is named when
    /// it is [read](Self::layer).
    #[must_use]
    pub fn of_process(args: PodArgs) -> Self {
        let text = |s: std::ffi::OsString| s.into_string().ok();
        let variables = std::env::vars_os()
            .filter_map(|(name, value)| Some((text(name)?, text(value)?)))
            .collect();
        Self { variables, args }
    }

    /// Reads it.
    ///
    /// # Errors
    /// See [`PodError`].
    pub fn layer(&self) -> Result<PodLayer, PodError> {
        PodLayer::read(
            &self.variables,
            &|path| std::fs::read_to_string(path),
            &self.args,
        )
    }
}

impl PodLayer {
    /// Settings out of variables and files.
    ///
    /// # Errors
    /// See [`PodError`].
    pub fn read(
        variables: &BTreeMap<String, String>,
        file: ReadFile<'_>,
        given: &PodArgs,
    ) -> Result<Self, PodError> {
        let proxy = ProxyConfig::of(variables)?;
        let variables = &proxy.with_variables(variables);
        let env = Env(variables);
        let root = PathBuf::from(env.text(POD_ROOT).unwrap_or("/"));
        let namespace = env.required("POD_NAMESPACE")?;
        let address: IpAddr = env
            .parsed("INSTANCE_IP")?
            .ok_or(PodError::Missing("INSTANCE_IP"))?;
        let account = env
            .text("SERVICE_ACCOUNT")
            .or(env.text("ISTIO_META_SERVICE_ACCOUNT"))
            .ok_or(PodError::Missing("SERVICE_ACCOUNT"))?;
        let xds = proxy.discovery_address().or(env.text("CA_ADDR"));
        let xds = xds.unwrap_or(ISTIOD).to_owned();
        let ca = env
            .text("CA_ADDR")
            .map_or_else(|| xds.clone(), str::to_owned);
        let metadata = node::metadata(&env, &proxy, &root, file)?;
        let gateway = metadata["LABELS"][GATEWAY_NAME]
            .as_str()
            .ok_or_else(|| PodError::NoGateway(root.join(LABELS)))?
            .to_owned();
        let domain = match &given.domain {
            None => None,
            Some(domain) => Some(cluster_domain(domain, namespace)?),
        };
        let owned = |text: &str| text.to_owned();
        let args = Args {
            name: Some(env.required("POD_NAME")?.to_owned()),
            namespace: Some(namespace.to_owned()),
            service_account: Some(account.to_owned()),
            service_cluster: given.service_cluster.clone(),
            gateway: Some(gateway),
            address: Some(address),
            xds_address: Some(if proxy.is_plain_text() {
                format!("http://{xds}")
            } else {
                xds
            }),
            ca_address: Some(ca),
            root_cert: Some(root.join(ROOT_CERT)),
            token_file: Some(root.join(TOKEN)),
            server_name: env.text("ISTIOD_SAN").map(owned),
            concurrency: match proxy.concurrency() {
                Some(threads) => Some(threads),
                None => env.parsed("ISTIO_CPU_LIMIT")?,
            },
            drain_seconds: proxy.drain_seconds()?,
            trust_domain: env.text("TRUST_DOMAIN").map(owned),
            domain,
            cluster_id: env.text("ISTIO_META_CLUSTER_ID").map(owned),
            network: env.text("ISTIO_META_NETWORK").map(owned),
            mesh_id: env.text("ISTIO_META_MESH_ID").map(owned),
            istio_version: Some(owned(
                env.text("ISTIO_META_ISTIO_VERSION")
                    .unwrap_or(ISTIO_VERSION),
            )),
            cert_ttl_seconds: match env.text("SECRET_TTL") {
                None => None,
                Some(text) => Some(
                    duration::seconds(text)
                        .ok_or_else(|| env.wrong("SECRET_TTL", "not a duration such as 24h"))?,
                ),
            },
            ..Args::default()
        };
        Ok(Self { args, metadata })
    }
}

/// `ns.svc.cluster.local` of namespace `ns` → `cluster.local`.
fn cluster_domain(domain: &str, namespace: &str) -> Result<String, PodError> {
    domain
        .strip_prefix(namespace)
        .and_then(|rest| rest.strip_prefix(".svc."))
        .filter(|rest| !rest.is_empty())
        .map(str::to_owned)
        .ok_or_else(|| PodError::Domain {
            domain: domain.to_owned(),
            namespace: namespace.to_owned(),
        })
}

/// Variables; an empty one says nothing.
struct Env<'a>(&'a BTreeMap<String, String>);

impl<'a> Env<'a> {
    fn text(&self, name: &str) -> Option<&'a str> {
        self.0
            .get(name)
            .map(String::as_str)
            .filter(|v| !v.is_empty())
    }

    fn required(&self, name: &'static str) -> Result<&'a str, PodError> {
        self.text(name).ok_or(PodError::Missing(name))
    }

    fn parsed<T: std::str::FromStr<Err: std::fmt::Display>>(
        &self,
        name: &str,
    ) -> Result<Option<T>, PodError> {
        self.text(name)
            .map(|text| {
                text.parse()
                    .map_err(|e: T::Err| self.wrong(name, format!("{text:?}: {e}")))
            })
            .transpose()
    }

    fn wrong(&self, name: &str, why: impl Into<String>) -> PodError {
        PodError::Variable {
            name: name.to_owned(),
            why: why.into(),
        }
    }
}

#[cfg(test)]
mod tests;
