//! The operator's commands, with the verbs, flags and tables of istioctl.
//!
//! A command is a function from arguments and what the mesh answers (`mesh::MeshClient`: a mesh on this machine or one in a
//! cluster) to text; `main` gives it the streams. Data goes to `out`, talk to `err`.
#![forbid(unsafe_code)]

mod analyze;
mod capture;
mod completion;
mod crds;
mod dump;
mod error;
mod install;
mod mesh;
mod plugin;
mod printer;
mod proxy_config;
mod proxy_status;
mod table;
mod target;
mod version;
mod waypoint;
mod ztunnel_config;

use std::io::Write;
use std::path::PathBuf;

use clap::{Args, Subcommand};
use waymark_kubernetes::Operator;

pub use crate::analyze::{Simulator, Size};
pub use crate::capture::{CaptureServer, ServeCaptureArgs};
pub use crate::error::CliError;
pub use crate::plugin::{NAME, called_as};

/// Flags that every command takes.
#[derive(Debug, Clone, Default, Args)]
pub struct Global {
    /// Namespace [default: `default`].
    #[arg(short, long, global = true, value_name = "NAMESPACE")]
    pub namespace: Option<String>,
    /// Namespace of the mesh's own parts.
    #[arg(
        short,
        long = "istioNamespace",
        global = true,
        value_name = "NAMESPACE",
        env = "ISTIOCTL_ISTIONAMESPACE",
        default_value = "istio-system",
        hide_env = true
    )]
    pub istio_namespace: String,
    /// State directory of a mesh on this machine [default: $XDG_STATE_HOME/waymark or ~/.local/state/waymark].
    #[arg(long, global = true, env = "WAYMARK_STATE_DIR", value_name = "DIR")]
    pub state_dir: Option<PathBuf>,
    /// Kubeconfig of a cluster, where the mesh is not one on this machine [default: $KUBECONFIG or ~/.kube/config].
    #[arg(short = 'c', long, global = true, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
    /// Context of the kubeconfig [default: its current one].
    #[arg(long, global = true, value_name = "NAME")]
    pub context: Option<String>,
    /// Ask the API server as this user.
    #[arg(long = "as", global = true, value_name = "USER")]
    pub as_user: Option<String>,
    /// UID of the user that is impersonated.
    #[arg(long, global = true, value_name = "UID", requires = "as_user")]
    pub as_uid: Option<String>,
    /// Group of the user that is impersonated; may be given several times.
    #[arg(long, global = true, value_name = "GROUP", requires = "as_user")]
    pub as_group: Vec<String>,
}

impl Global {
    /// Whether a flag says that the mesh is in a cluster.
    pub(crate) fn names_a_cluster(&self) -> bool {
        self.kubeconfig.is_some() || self.context.is_some() || self.as_user.is_some()
    }

    /// Who asks which API server.
    pub(crate) fn operator(&self) -> Operator {
        Operator {
            kubeconfig: self.kubeconfig.clone(),
            context: self.context.clone(),
            user: self.as_user.clone(),
            uid: self.as_uid.clone(),
            groups: self.as_group.clone(),
        }
    }
}

/// The operator's commands.
#[derive(Debug, Clone, Subcommand)]
pub enum Command {
    /// Manage waypoints.
    Waypoint(waypoint::WaypointArgs),
    /// What a proxy has been configured with.
    #[command(alias = "pc")]
    ProxyConfig(proxy_config::ProxyConfigArgs),
    /// What a node proxy knows of the mesh.
    #[command(alias = "zc")]
    ZtunnelConfig(ztunnel_config::ZtunnelConfigArgs),
    /// Whether each proxy has what the control plane has sent.
    #[command(alias = "ps")]
    ProxyStatus(proxy_status::ProxyStatusArgs),
    /// Custom resource definitions of the Istio kinds that are read, for clusters that do not have upstream's.
    Crds(crds::CrdsArgs),
    /// Install the control plane in a cluster, without Helm.
    Install(install::InstallArgs),
    /// Delete what `install` has installed.
    Uninstall(install::UninstallArgs),
    /// Whether everything that `install` installs is there and ready.
    VerifyInstall(install::VerifyArgs),
    /// What is wrong with resources, in the mesh or in files, and what would change for the waypoints of a cluster.
    Analyze(analyze::AnalyzeArgs),
    /// Versions of this program and of the running mesh.
    Version(version::VersionArgs),
    /// Shell completion.
    Completion(completion::CompletionArgs),
    /// Commands of 2023 and those that may still change.
    #[command(aliases = ["x", "exp"])]
    Experimental(ExperimentalArgs),
}

/// Arguments of `experimental`.
#[derive(Debug, Clone, Args)]
pub struct ExperimentalArgs {
    #[command(subcommand)]
    command: Experimental,
}

#[derive(Debug, Clone, Subcommand)]
enum Experimental {
    /// Manage waypoints, as in 2023: `generate` writes a Gateway for a namespace or a service account.
    Waypoint(waypoint::seed::SeedArgs),
    /// Serve a captured configuration to proxies, as istiod would, until interrupted.
    ServeCapture(ServeCaptureArgs),
    /// Same as `version`.
    Version(version::VersionArgs),
    /// Same as `proxy-status`.
    #[command(alias = "ps")]
    ProxyStatus(proxy_status::ProxyStatusArgs),
}

/// What a command works with besides its arguments.
pub struct Context<'a> {
    /// Data.
    pub out: &'a mut dyn Write,
    /// Talk.
    pub err: &'a mut dyn Write,
    /// Builds the mesh of `analyze distribution --simulate` and counts it.
    pub simulate: &'a Simulator,
    /// Serves a capture.
    pub serve_capture: &'a CaptureServer,
    /// The whole command line, for completion scripts.
    pub root: &'a dyn Fn() -> clap::Command,
}

/// Runs a command.
///
/// # Errors
/// What went wrong; [`CliError::exit_code`] is upstream's.
pub async fn run(global: &Global, command: Command, cx: &mut Context<'_>) -> Result<(), CliError> {
    match command {
        Command::Waypoint(args) => waypoint::run(global, args, cx).await,
        Command::ProxyConfig(args) => proxy_config::run(global, args, cx).await,
        Command::ZtunnelConfig(args) => ztunnel_config::run(global, args, cx).await,
        Command::ProxyStatus(args) => proxy_status::run(global, args, cx).await,
        Command::Analyze(args) => analyze::run(global, args, cx).await,
        Command::Version(args) => version::run(global, args, cx).await,
        Command::Completion(args) => completion::run(&args, cx),
        Command::Crds(args) => crds::run(&args, cx),
        Command::Install(args) => install::install(global, args, cx).await,
        Command::Uninstall(args) => install::uninstall(global, args, cx).await,
        Command::VerifyInstall(args) => install::verify(global, args, cx).await,
        Command::Experimental(ExperimentalArgs { command }) => match command {
            Experimental::Waypoint(args) => waypoint::seed::run(global, args, cx).await,
            Experimental::ServeCapture(args) => capture::run(args, cx).await,
            Experimental::Version(args) => version::run(global, args, cx).await,
            Experimental::ProxyStatus(args) => proxy_status::run(global, args, cx).await,
        },
    }
}
