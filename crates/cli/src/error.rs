//! What a command fails with, its exit code and its hint.

use std::io;
use std::path::PathBuf;

/// Why a command failed. The text is printed after `Error: `.
#[derive(Debug, thiserror::Error)]
pub enum CliError {
    /// The arguments contradict each other or name something that can't be.
    #[error("{0}")]
    Usage(String),
    /// No mesh runs from the state directory.
    #[error("no mesh is running from {state_dir}")]
    NoMesh {
        /// Where it was looked for.
        state_dir: PathBuf,
    },
    /// No kubeconfig leads to a cluster.
    #[error(transparent)]
    Connect(#[from] waymark_kubernetes::ConnectError),
    /// The API server refused something, or did not answer.
    #[error("{action}: {reason}")]
    Api {
        /// What was being done.
        action: String,
        /// What the API server said.
        reason: String,
    },
    /// No control plane runs in the cluster.
    #[error("no running Istio pods in \"{namespace}\"")]
    NoControlPlane {
        /// Where they were looked for.
        namespace: String,
    },
    /// The argument names nothing that runs.
    #[error("{0}")]
    NotFound(String),
    /// A proxy or the control plane gave no good answer.
    #[error("failed to execute command on {target}: {reason}")]
    Ask {
        /// Who was asked.
        target: String,
        /// What happened.
        reason: String,
    },
    /// An answer or a file was not what it should be.
    #[error("{0}")]
    Data(String),
    /// A file could not be read or written.
    #[error("{action} {path}")]
    File {
        /// `read`, `write`, `remove`.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The output could not be written.
    #[error("write output")]
    Output(#[source] io::Error),
    /// It took too long.
    #[error("{0}")]
    Timeout(String),
    /// Data to analyse was broken.
    #[error("{0}")]
    BadInput(String),
    /// What was analysed has issues at or above the threshold.
    #[error("{0}")]
    Issues(String),
}

impl CliError {
    /// Upstream's: 64 for usage, 65 for input that can't be parsed, 79 for issues that were found, else 1.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Usage(_) => 64,
            Self::BadInput(_) => 65,
            Self::Issues(_) => 79,
            Self::NoMesh { .. }
            | Self::Connect(_)
            | Self::Api { .. }
            | Self::NoControlPlane { .. }
            | Self::NotFound(_)
            | Self::Ask { .. }
            | Self::Data(_)
            | Self::File { .. }
            | Self::Output(_)
            | Self::Timeout(_) => 1,
        }
    }

    /// What the user can do about it.
    #[must_use]
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::NoMesh { .. } => Some(
                "start one with `waymark up`, name its state directory with --state-dir, or a cluster with --kubeconfig or --context",
            ),
            Self::NoControlPlane { .. } => {
                Some("-i names the namespace of the control plane, --revision one of several")
            }
            Self::NotFound(_) => {
                Some("`waymark waypoint list -A` and `waymark proxy-status` show what there is")
            }
            _ => None,
        }
    }

    /// Whether the reader of our output went away, which is no error (`... | head`).
    #[must_use]
    pub fn is_closed_pipe(&self) -> bool {
        matches!(self, Self::Output(e) if e.kind() == io::ErrorKind::BrokenPipe)
    }
}
