//! `completion`: scripts for shells.

use clap::Args;
use clap_complete::Shell;

use crate::Context;
use crate::error::CliError;

/// Arguments of `completion`.
#[derive(Debug, Clone, Args)]
pub struct CompletionArgs {
    /// The shell.
    #[arg(value_enum)]
    shell: Shell,
}

pub(crate) fn run(args: &CompletionArgs, cx: &mut Context<'_>) -> Result<(), CliError> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut (cx.root)(), "waymark", &mut script);
    cx.out.write_all(&script).map_err(CliError::Output)
}
