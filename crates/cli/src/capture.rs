//! `experimental serve-capture`: a file of what a control plane sent, served to proxies once more.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::Pin;

use clap::Args;

use crate::Context;
use crate::error::CliError;

/// Serves a capture until interrupted, and prints what its clients make of it.
pub type CaptureServer =
    dyn Fn(ServeCaptureArgs) -> Pin<Box<dyn Future<Output = Result<(), String>>>>;

/// Arguments of `serve-capture`.
#[derive(Debug, Clone, Args)]
pub struct ServeCaptureArgs {
    /// The capture: JSON, nodes with their resources by type and name.
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// Node of the capture whose resources every client gets [default: the client's own, or the one of its namespace].
    #[arg(long, value_name = "ID")]
    pub node: Option<String>,
    /// Where to listen.
    #[arg(long, default_value = "127.0.0.1:15012", value_name = "IP:PORT")]
    pub xds_address: SocketAddr,
    /// Serve TLS and sign certificates: directory of the certificate authority, where token-key and tokens/ are kept too;
    /// what is missing is made [default: plain text, and no certificates].
    #[arg(long, value_name = "DIR")]
    pub ca_dir: Option<PathBuf>,
    /// Trust domain of all identities.
    #[arg(long, default_value = "cluster.local", value_name = "NAME")]
    pub trust_domain: String,
    /// Push everything again each so many seconds, unchanged.
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..))]
    pub repeat: Option<u64>,
}

pub(crate) async fn run(args: ServeCaptureArgs, cx: &mut Context<'_>) -> Result<(), CliError> {
    (cx.serve_capture)(args).await.map_err(CliError::Data)
}
