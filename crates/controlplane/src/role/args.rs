//! The settings of the control plane: flags, environment, a file; in this order.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;
use waymark_api::gateway::WaypointBinary;
use waymark_identity::{ServiceAccountRef, SpiffeError, TrustDomain};
use waymark_kubernetes::Access;

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

    /// Directory for what is kept: certificate authority, tokens, allocated addresses, statuses
    #[arg(long, env = "WAYMARK_STATE_DIR", value_name = "DIR")]
    pub state_dir: Option<PathBuf>,

    /// Directory of an operator's certificate authority: ca-cert.pem, ca-key.pem, cert-chain.pem, root-cert.pem
    /// [default: one of its own, in the state directory]
    #[arg(long, env = "WAYMARK_CONTROLPLANE_CA_DIR", value_name = "DIR")]
    pub ca_dir: Option<PathBuf>,

    /// Where xDS and the certificate authority are served over TLS [default: 127.0.0.1:15012]
    #[arg(long, env = "WAYMARK_CONTROLPLANE_XDS_ADDRESS", value_name = "IP:PORT")]
    pub xds_address: Option<SocketAddr>,

    /// Where xDS is also served in plain text, to whoever asks [default: nowhere]
    #[arg(
        long,
        env = "WAYMARK_CONTROLPLANE_PLAINTEXT_XDS_ADDRESS",
        value_name = "IP:PORT"
    )]
    pub plaintext_xds_address: Option<SocketAddr>,

    /// Where readiness, metrics and debug endpoints are served over HTTP [default: 127.0.0.1:15014]
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
    /// [default: istio-system/waymark-node]
    #[arg(
        long,
        env = "WAYMARK_CONTROLPLANE_NODE_ACCOUNTS",
        value_name = "ACCOUNTS",
        value_delimiter = ','
    )]
    pub node_accounts: Option<Vec<String>>,

    /// Start no waypoints: those that connect are the replicas of their Gateways
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
}

/// Where the objects are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SourceSettings {
    /// In the manifests of a directory.
    Directory(PathBuf),
    /// In a cluster.
    Kubernetes(Access),
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
        let local = |port: u16| SocketAddr::from(([127, 0, 0, 1], port));
        let text = |value: &Option<String>, default: &str| {
            value.clone().unwrap_or_else(|| default.to_owned())
        };
        let (waypoint_binary, envoy) = waypoint_binary(all.waypoint_binary.as_deref(), all.envoy)?;
        let accounts = all
            .node_accounts
            .unwrap_or_else(|| vec!["istio-system/waymark-node".to_owned()]);
        Ok(Settings {
            xds_address: all.xds_address.unwrap_or_else(|| local(15012)),
            plaintext_xds_address: all.plaintext_xds_address,
            debug_address: all.debug_address.unwrap_or_else(|| local(15014)),
            serving_names: all.serving_names.unwrap_or_default(),
            node_name: text(&all.node_name, "local"),
            cluster_id: text(&all.cluster_id, "Kubernetes"),
            trust_domain: text(&all.trust_domain, "cluster.local")
                .parse()
                .map_err(SettingsError::TrustDomain)?,
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
            source: source(
                all.mesh_dir,
                all.kubeconfig,
                all.context,
                all.kubernetes_service_host,
            )?,
            revision: text(&all.revision, "default"),
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

fn source(
    mesh_dir: Option<PathBuf>,
    kubeconfig: Option<PathBuf>,
    context: Option<String>,
    kubernetes_service_host: Option<String>,
) -> Result<SourceSettings, SettingsError> {
    match (mesh_dir, kubeconfig) {
        (Some(_), Some(_)) => Err(SettingsError::TwoSources),
        (Some(directory), None) => Ok(SourceSettings::Directory(directory)),
        (None, Some(file)) => Ok(SourceSettings::Kubernetes(Access::Kubeconfig {
            file,
            context,
        })),
        (None, None) if kubernetes_service_host.is_some_and(|host| !host.is_empty()) => {
            Ok(SourceSettings::Kubernetes(Access::InCluster))
        }
        (None, None) => Err(SettingsError::NoSource),
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
        Cli::parse_from([&["controlplane"], args].concat()).args
    }

    #[test]
    fn flags_win_over_the_file() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let text = r#"{"mesh-dir": "/file", "state-dir": "/state", "no-deploy": true, "drain-seconds": 9}"#;
        fs::write(file.path(), text).unwrap();
        let args = parse(&[
            "--mesh-dir",
            "/flag",
            "--config",
            file.path().to_str().unwrap(),
        ]);
        let settings = args.settings().unwrap();
        assert_eq!(settings.source, SourceSettings::Directory("/flag".into()));
        assert_eq!(settings.state_dir, Path::new("/state"));
        assert_eq!(
            (settings.deploy, settings.drain),
            (Deploy::No, Duration::from_secs(9))
        );
    }

    #[test]
    fn an_unknown_key_is_refused_with_its_name() {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), r#"{"mesh": "x"}"#).unwrap();
        let error = parse(&["--config", file.path().to_str().unwrap()])
            .settings()
            .unwrap_err();
        let source = std::error::Error::source(&error).unwrap().to_string();
        assert!(source.contains("unknown field `mesh`"), "{source}");
    }

    #[test]
    fn switches_need_no_value() {
        let args = parse(&["--mesh-dir", "a", "--state-dir", "b", "--no-deploy"]);
        assert_eq!(args.settings().unwrap().deploy, Deploy::No);
    }

    #[test]
    fn waypoints_are_ours_or_an_envoy_that_is_somewhere() {
        let settings = |more: &[&str]| {
            let words = [
                &["--mesh-dir", "a", "--state-dir", "b", "--waypoint-binary"],
                more,
            ];
            parse(&words.concat()).settings()
        };
        assert_eq!(
            settings(&["waymark"]).unwrap().waypoint_binary,
            WaypointBinary::Waymark
        );
        let envoy = settings(&["envoy=/e"]).unwrap();
        assert_eq!(
            (envoy.waypoint_binary, envoy.envoy),
            (WaypointBinary::Envoy, Some("/e".into()))
        );
        let envoy = settings(&["envoy", "--envoy", "/f"]).unwrap();
        assert_eq!(
            (envoy.waypoint_binary, envoy.envoy),
            (WaypointBinary::Envoy, Some("/f".into()))
        );
        for (wanted, error) in [
            (
                "nginx",
                "--waypoint-binary \"nginx\": want waymark, envoy or envoy=FILE",
            ),
            (
                "envoy=",
                "--waypoint-binary \"envoy=\": want waymark, envoy or envoy=FILE",
            ),
        ] {
            assert_eq!(settings(&[wanted]).unwrap_err().to_string(), error);
        }
        if std::env::var_os("WAYMARK_ENVOY").is_none() {
            assert!(matches!(settings(&["envoy"]), Err(SettingsError::NoEnvoy)));
        }
    }

    #[test]
    fn access_logs_are_text_or_json_in_a_file() {
        let settings = |more: &[&str]| {
            let words = [&["--mesh-dir", "a", "--state-dir", "b"], more];
            parse(&words.concat()).settings().map(|s| s.access_log)
        };
        assert_eq!(settings(&[]).unwrap(), None);
        assert_eq!(settings(&["--access-log-file", ""]).unwrap(), None);
        let log = settings(&["--access-log-file", "/dev/stdout"]).unwrap();
        assert_eq!(log.unwrap().format, AccessLogFormat::Text(None));
        let json = [
            "--access-log-file",
            "/l",
            "--access-log-encoding",
            "JSON",
            "--access-log-format",
        ];
        let log = settings(&[&json[..], &[r#"{"code": "%RESPONSE_CODE%"}"#]].concat()).unwrap();
        let AccessLogFormat::Json(Some(fields)) = log.unwrap().format else {
            panic!("not JSON");
        };
        assert_eq!(fields["code"], "%RESPONSE_CODE%");
        for (words, error) in [
            (
                [&json[..], &["%RESPONSE_CODE%"]].concat(),
                "--access-log-format: with --access-log-encoding JSON it has to be an object",
            ),
            (
                vec!["--access-log-file", "/l", "--access-log-encoding", "XML"],
                "--access-log-encoding \"XML\": want TEXT or JSON",
            ),
            (
                vec!["--access-log-format", "x"],
                "--access-log-format without --access-log-file",
            ),
        ] {
            assert_eq!(settings(&words).unwrap_err().to_string(), error);
        }
    }

    #[test]
    fn the_source_is_a_directory_a_named_cluster_or_the_one_around() {
        let source = |args: &[&str]| {
            let args = parse(&[args, &["--state-dir", "s"]].concat());
            args.settings().map(|settings| settings.source)
        };
        assert_eq!(
            source(&["--kubeconfig", "k", "--context", "c"]).unwrap(),
            SourceSettings::Kubernetes(Access::Kubeconfig {
                file: "k".into(),
                context: Some("c".to_owned())
            })
        );
        assert_eq!(
            source(&["--kubernetes-service-host", "10.96.0.1"]).unwrap(),
            SourceSettings::Kubernetes(Access::InCluster)
        );
        assert_eq!(
            source(&["--kubernetes-service-host", "10.96.0.1", "--mesh-dir", "m"]).unwrap(),
            SourceSettings::Directory("m".into())
        );
        if std::env::var_os("KUBERNETES_SERVICE_HOST").is_none() {
            assert_eq!(
                source(&[]).unwrap_err().to_string(),
                "--mesh-dir or --kubeconfig is missing, and this is no pod of a cluster"
            );
        }
        let both = Cli::try_parse_from(["controlplane", "--mesh-dir", "m", "--kubeconfig", "k"]);
        assert!(both.is_err());
    }
}
