//! `analyze`: what is wrong with resources and what would change for a cluster's waypoints; `distribution`: how much
//! configuration is sent.

mod distribution;
pub(crate) mod examine;
pub(crate) mod files;
mod message;
mod migration;
mod resources;

use clap::{Args, Subcommand};

pub use self::distribution::{Simulator, Size};
use crate::error::CliError;
use crate::{Context, Global};

/// Arguments of `analyze`.
#[derive(Debug, Clone, Args)]
pub struct AnalyzeArgs {
    #[command(flatten)]
    resources: resources::ResourceArgs,
    #[command(subcommand)]
    command: Option<Analyze>,
}

#[derive(Debug, Clone, Subcommand)]
enum Analyze {
    /// Count the configurations that a sidecar mesh and this mesh send, and what was really sent.
    Distribution(distribution::DistributionArgs),
}

pub(crate) async fn run(
    global: &Global,
    args: AnalyzeArgs,
    cx: &mut Context<'_>,
) -> Result<(), CliError> {
    match args.command {
        Some(Analyze::Distribution(args)) => distribution::run(global, args, cx).await,
        None => resources::run(global, &args.resources, cx).await,
    }
}
