//! `install`, `uninstall`, `verify-install`: the control plane of a cluster.

use std::time::Duration;

use clap::Args;
use waymark_kubernetes::install::{InstallError, Installer, Outcome, Step, Values};
use waymark_kubernetes::{Access, connect};

use crate::{CliError, Context, Global};

/// What an installation is named by.
#[derive(Debug, Clone, Args)]
pub(crate) struct Installation {
    /// Revision of the control plane [default: the one without a name].
    #[arg(short, long, default_value = "", hide_default_value = true)]
    revision: String,
    /// A value of the chart, as NAME=VALUE: image.repository, image.tag, image.pullPolicy, controlPlane.replicas, mesh.trustDomain,
    /// mesh.clusterID, node.enabled; may be given several times.
    #[arg(short, long = "set", value_name = "NAME=VALUE")]
    set: Vec<String>,
}

/// Arguments of `install`.
#[derive(Debug, Clone, Args)]
pub struct InstallArgs {
    #[command(flatten)]
    installation: Installation,
    /// Only ask the API server whether it would take the objects.
    #[arg(long)]
    dry_run: bool,
    /// Seconds that readiness is waited for; 0: not at all.
    #[arg(long, default_value_t = 300, value_name = "SECONDS")]
    readiness_timeout: u64,
}

/// Arguments of `uninstall`.
#[derive(Debug, Clone, Args)]
pub struct UninstallArgs {
    #[command(flatten)]
    installation: Installation,
    /// Delete; without it, what would be deleted is listed.
    #[arg(short = 'y', long = "skip-confirmation")]
    confirmed: bool,
}

/// Arguments of `verify-install`.
#[derive(Debug, Clone, Args)]
pub struct VerifyArgs {
    #[command(flatten)]
    installation: Installation,
}

pub(crate) async fn install(
    global: &Global,
    args: InstallArgs,
    cx: &mut Context<'_>,
) -> Result<(), CliError> {
    let installer = installer(global, &args.installation, args.dry_run).await?;
    let steps = installer.install().await.map_err(failed)?;
    let note = if args.dry_run {
        " (server dry run)"
    } else {
        ""
    };
    print(cx, &steps, note)?;
    if args.dry_run || args.readiness_timeout == 0 {
        return Ok(());
    }
    let patience = Duration::from_secs(args.readiness_timeout);
    installer.wait(patience).await.map_err(failed)?;
    writeln!(cx.out, "✔ Installation complete").map_err(CliError::Output)
}

pub(crate) async fn uninstall(
    global: &Global,
    args: UninstallArgs,
    cx: &mut Context<'_>,
) -> Result<(), CliError> {
    let installer = installer(global, &args.installation, !args.confirmed).await?;
    let steps = installer.uninstall().await.map_err(failed)?;
    let note = if args.confirmed {
        ""
    } else {
        " (server dry run)"
    };
    print(cx, &steps, note)?;
    let more = if args.confirmed {
        "Definitions, GatewayClasses, the namespace and the certificate authority's Secret were kept."
    } else {
        "Nothing was deleted; -y deletes what is listed."
    };
    writeln!(cx.err, "{more}").map_err(CliError::Output)
}

pub(crate) async fn verify(
    global: &Global,
    args: VerifyArgs,
    cx: &mut Context<'_>,
) -> Result<(), CliError> {
    let installer = installer(global, &args.installation, true).await?;
    let steps = installer.verify().await.map_err(failed)?;
    print(cx, &steps, "")?;
    let wrong: Vec<&str> = steps
        .iter()
        .filter(|step| step.outcome != Outcome::Present)
        .map(|step| step.object.as_str())
        .collect();
    if !wrong.is_empty() {
        return Err(CliError::NotFound(format!(
            "not installed here: {}",
            wrong.join(", ")
        )));
    }
    installer.wait(Duration::ZERO).await.map_err(failed)?;
    writeln!(cx.out, "✔ Installed and ready").map_err(CliError::Output)
}

async fn installer(
    global: &Global,
    installation: &Installation,
    dry_run: bool,
) -> Result<Installer, CliError> {
    let usage =
        |error: waymark_kubernetes::install::ValuesError| CliError::Usage(error.to_string());
    let namespace = global.namespace.as_ref().unwrap_or(&global.istio_namespace);
    let mut values = Values::new(namespace, &installation.revision).map_err(usage)?;
    for setting in &installation.set {
        values.set(setting).map_err(usage)?;
    }
    let access = Access::Operator(global.operator());
    let client = connect(&access).await.map_err(|error| CliError::Ask {
        target: "the API server".to_owned(),
        reason: causes(&error),
    })?;
    Ok(Installer::new(client, values, dry_run))
}

fn print(cx: &mut Context<'_>, steps: &[Step], note: &str) -> Result<(), CliError> {
    for step in steps {
        let outcome = match step.outcome {
            Outcome::Created => "created",
            Outcome::Configured => "configured",
            Outcome::Left => "left as it is",
            Outcome::Deleted => "deleted",
            Outcome::Absent => "not there",
            Outcome::Present => "present",
        };
        writeln!(cx.out, "{} {outcome}{note}", step.object).map_err(CliError::Output)?;
    }
    Ok(())
}

fn failed(error: InstallError) -> CliError {
    match error {
        InstallError::NotReady(_) => CliError::Timeout(error.to_string()),
        InstallError::Foreign(_) => CliError::Data(error.to_string()),
        InstallError::Api { .. } => CliError::Ask {
            target: "the API server".to_owned(),
            reason: causes(&error),
        },
    }
}

fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(&format!(": {error}"));
        cause = error.source();
    }
    text
}
