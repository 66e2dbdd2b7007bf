//! `waypoint`: generates, applies, lists and deletes waypoint Gateways.
//!
//! On a mesh of this machine the Gateways are documents of the mesh directory, and what the control plane made of them is in
//! its status file.

pub(crate) mod gateway;
mod manifests;
pub(crate) mod seed;
mod status;

use std::time::{Duration, Instant};

use clap::{Args, Subcommand};
use serde_json::Value;

use self::gateway::{Form, Spec};
use self::manifests::Manifests;
use self::status::{GatewayStatus, Statuses};
use crate::error::CliError;
use crate::mesh::Mesh;
use crate::printer::{Format, structured};
use crate::table::Table;
use crate::{Context, Global};

const POLL: Duration = Duration::from_millis(200);

/// Arguments of `waypoint`.
#[derive(Debug, Clone, Args)]
pub struct WaypointArgs {
    /// Name of the waypoint.
    #[arg(long, global = true, default_value = "waypoint")]
    name: String,
    #[command(subcommand)]
    command: Waypoint,
}

#[derive(Debug, Clone, Subcommand)]
enum Waypoint {
    /// Print a waypoint's Gateway.
    Generate(GenerateArgs),
    /// Make or change a waypoint.
    Apply(ApplyArgs),
    /// List waypoints.
    List(ListArgs),
    /// Show whether waypoints are programmed.
    Status(StatusArgs),
    /// Delete waypoints.
    Delete(DeleteArgs),
}

#[derive(Debug, Clone, Args)]
struct GenerateArgs {
    /// Traffic that the waypoint takes: all, none, service, workload.
    #[arg(
        long = "for",
        value_name = "TYPE",
        default_value = "",
        hide_default_value = true
    )]
    traffic: String,
    /// Revision of the control plane in charge.
    #[arg(short, long, default_value = "", hide_default_value = true)]
    revision: String,
    /// A waypoint for the workloads of this service account: the form of 2023.
    #[arg(short, long, value_name = "NAME")]
    service_account: Option<String>,
}

#[derive(Debug, Clone, Args)]
struct ApplyArgs {
    #[command(flatten)]
    gateway: GenerateArgs,
    /// Label the namespace so that its services use this waypoint.
    #[arg(long)]
    enroll_namespace: bool,
    /// Enroll although the namespace names a waypoint already.
    #[arg(long)]
    overwrite: bool,
    /// Wait until it is programmed.
    #[arg(short, long)]
    wait: bool,
    /// How long to wait, e.g. 90s.
    #[arg(long, value_parser = parse_duration, default_value = "90s")]
    waypoint_timeout: Duration,
}

#[derive(Debug, Clone, Args)]
struct ListArgs {
    /// Those of all namespaces.
    #[arg(short = 'A', long)]
    all_namespaces: bool,
    /// Form of the output.
    #[arg(short, long, value_enum, default_value = "table")]
    output: Format,
}

#[derive(Debug, Clone, Args)]
struct StatusArgs {
    #[command(flatten)]
    list: ListArgs,
    /// Wait until all are programmed.
    #[arg(short, long, default_value_t = true, action = clap::ArgAction::Set, num_args = 0..=1, default_missing_value = "true")]
    wait: bool,
    /// How long to wait, e.g. 90s.
    #[arg(long, value_parser = parse_duration, default_value = "90s")]
    waypoint_timeout: Duration,
}

#[derive(Debug, Clone, Args)]
struct DeleteArgs {
    /// Waypoints to delete.
    names: Vec<String>,
    /// All of the namespace.
    #[arg(long)]
    all: bool,
    /// Those of this revision.
    #[arg(short, long, default_value = "", hide_default_value = true)]
    revision: String,
}

pub(crate) async fn run(
    global: &Global,
    args: WaypointArgs,
    cx: &mut Context<'_>,
) -> Result<(), CliError> {
    let name = if args.name.is_empty() {
        "waypoint"
    } else {
        args.name.as_str()
    };
    match args.command {
        Waypoint::Generate(args) => {
            let spec = spec(name, global.namespace.as_deref(), &args)?;
            print(cx, &spec.yaml())
        }
        Waypoint::Apply(args) => apply(global, name, args, cx).await,
        Waypoint::List(args) => list(global, &args, cx),
        Waypoint::Status(args) => show_status(global, &args, cx).await,
        Waypoint::Delete(args) => {
            if args.names.is_empty() && !args.all && args.revision.is_empty() {
                return Err(CliError::Usage(
                    "must specify a waypoint name or delete all using --all or delete specific revision using --revision".into(),
                ));
            }
            if !args.names.is_empty() && (args.all || !args.revision.is_empty()) {
                return Err(CliError::Usage(
                    "cannot specify waypoint names when deleting all waypoints".into(),
                ));
            }
            delete(global, &args.names, &args.revision, cx)
        }
    }
}

fn spec(name: &str, namespace: Option<&str>, args: &GenerateArgs) -> Result<Spec, CliError> {
    let form = match &args.service_account {
        Some(account) => Form::Seed {
            service_account: Some(account.clone()),
        },
        None => Form::Today,
    };
    // The Gateway of a service account has its name unless another is given.
    let name = match (&args.service_account, name) {
        (Some(account), "waypoint") => account.as_str(),
        (_, name) => name,
    };
    Spec::new(name, namespace, form, &args.traffic, &args.revision)
}

async fn apply(
    global: &Global,
    name: &str,
    args: ApplyArgs,
    cx: &mut Context<'_>,
) -> Result<(), CliError> {
    let mesh = Mesh::find(global)?;
    let namespace = namespace(global);
    let spec = spec(name, Some(namespace), &args.gateway)?;
    let mut manifests = Manifests::read(&mesh.mesh_directory)?;
    if args.enroll_namespace {
        let labels = manifests.namespace_labels(namespace);
        if labels
            .get("istio.io/use-waypoint")
            .is_some_and(|v| !v.is_empty())
            && !args.overwrite
        {
            return print(
                cx,
                &format!(
                    "\u{26a0}\u{fe0f} Warning: namespace ({namespace}) already has an enrolled Waypoint. Consider adding the `--overwrite` flag to your apply command.\n"
                ),
            );
        }
        if labels.get("istio.io/dataplane-mode").map(String::as_str) != Some("ambient") {
            print(
                cx,
                &format!(
                    "\u{26a0}\u{fe0f} Warning: namespace is not enrolled in ambient. Consider running\t`kubectl label namespace {namespace} istio.io/dataplane-mode=ambient`\n"
                ),
            )?;
        }
    }
    manifests.put(&spec)?;
    print(
        cx,
        &format!("✅ waypoint {namespace}/{} applied\n", spec.name()),
    )?;
    if args.wait {
        wait_programmed(&mesh, namespace, spec.name(), args.waypoint_timeout).await?;
        print(
            cx,
            &format!("✅ waypoint {namespace}/{} is ready!\n", spec.name()),
        )?;
    }
    if args.enroll_namespace {
        manifests.label_namespace(namespace, "istio.io/use-waypoint", spec.name())?;
        print(
            cx,
            &format!(
                "✅ namespace {namespace} labeled with \"istio.io/use-waypoint: {}\"\n",
                spec.name()
            ),
        )?;
    }
    Ok(())
}

async fn wait_programmed(
    mesh: &Mesh,
    namespace: &str,
    name: &str,
    limit: Duration,
) -> Result<(), CliError> {
    let deadline = Instant::now() + limit;
    loop {
        let statuses = Statuses::read(&mesh.status_file())?;
        if statuses
            .find(namespace, name)
            .is_some_and(GatewayStatus::is_programmed)
        {
            return Ok(());
        }
        if Instant::now() > deadline {
            return Err(CliError::Timeout(format!(
                "timed out while waiting for waypoint\t{namespace}/{name}"
            )));
        }
        tokio::time::sleep(POLL).await;
    }
}

fn list(global: &Global, args: &ListArgs, cx: &mut Context<'_>) -> Result<(), CliError> {
    let mesh = Mesh::find(global)?;
    let statuses = Statuses::read(&mesh.status_file())?;
    let shown = select(&statuses, global, args.all_namespaces);
    if args.output != Format::Table {
        return print(cx, &structured(&as_json(&shown), args.output));
    }
    if shown.is_empty() {
        return print(cx, "No waypoints found.\n");
    }
    let mut table = Table::new(5);
    let scope = args.all_namespaces.then_some("NAMESPACE");
    table.row(
        scope
            .into_iter()
            .chain(["NAME", "REVISION", "TRAFFIC TYPE", "PROGRAMMED"]),
    );
    for gateway in shown {
        let scope = args.all_namespaces.then_some(gateway.namespace.as_str());
        table.row(
            scope.into_iter().chain([
                gateway.name.as_str(),
                gateway.revision(),
                gateway.traffic_type(),
                gateway
                    .condition("Programmed")
                    .map_or("False", |c| c.status.as_str()),
            ]),
        );
    }
    print(cx, &table.render())
}

async fn show_status(
    global: &Global,
    args: &StatusArgs,
    cx: &mut Context<'_>,
) -> Result<(), CliError> {
    let mesh = Mesh::find(global)?;
    let deadline = Instant::now() + args.waypoint_timeout;
    let (statuses, timed_out) = loop {
        let statuses = Statuses::read(&mesh.status_file())?;
        let waiting = select(&statuses, global, args.list.all_namespaces)
            .iter()
            .any(|g| !g.is_programmed());
        if !waiting || !args.wait {
            break (statuses, false);
        }
        if Instant::now() > deadline {
            break (statuses, true);
        }
        tokio::time::sleep(POLL).await;
    };
    let shown = select(&statuses, global, args.list.all_namespaces);
    if args.list.output != Format::Table {
        print(cx, &structured(&as_json(&shown), args.list.output))?;
    } else if shown.is_empty() {
        print(cx, "No waypoints found.\n")?;
    } else {
        print(cx, &status_table(&shown, args.list.all_namespaces))?;
    }
    match shown.iter().find(|g| timed_out && !g.is_programmed()) {
        Some(gateway) => Err(CliError::Timeout(format!(
            "timed out while retrieving status for waypoint\t{}/{}",
            gateway.namespace, gateway.name
        ))),
        None => Ok(()),
    }
}

fn status_table(shown: &[&GatewayStatus], all_namespaces: bool) -> String {
    let mut table = Table::new(5);
    let scope = all_namespaces.then_some("NAMESPACE");
    table.row(
        scope
            .into_iter()
            .chain(["NAME", "STATUS", "TYPE", "REASON", "MESSAGE"]),
    );
    for gateway in shown {
        let scope = all_namespaces.then_some(gateway.namespace.as_str());
        let condition = gateway
            .condition("Programmed")
            .or(gateway.conditions.last());
        let cells = match condition {
            Some(c) => [
                c.status.as_str(),
                c.kind.as_str(),
                c.reason.as_str(),
                c.message.as_str(),
            ],
            None => ["Unknown", "Programmed", "Pending", "Waiting for controller"],
        };
        table.row(
            scope
                .into_iter()
                .chain([gateway.name.as_str()])
                .chain(cells),
        );
    }
    table.render()
}

fn delete(
    global: &Global,
    names: &[String],
    revision: &str,
    cx: &mut Context<'_>,
) -> Result<(), CliError> {
    let mesh = Mesh::find(global)?;
    let namespace = namespace(global);
    let mut manifests = Manifests::read(&mesh.mesh_directory)?;
    let wanted: Vec<String> = if names.is_empty() {
        manifests.waypoints(namespace, revision)
    } else {
        names.to_vec()
    };
    for name in wanted {
        let line = if manifests.remove(namespace, &name)? {
            format!("waypoint {namespace}/{name} deleted\n")
        } else {
            format!("waypoint {namespace}/{name} not found\n")
        };
        print(cx, &line)?;
    }
    Ok(())
}

fn select<'a>(
    statuses: &'a Statuses,
    global: &Global,
    all_namespaces: bool,
) -> Vec<&'a GatewayStatus> {
    let mut shown: Vec<&GatewayStatus> = statuses
        .gateways
        .iter()
        .filter(|g| g.is_waypoint() && (all_namespaces || g.namespace == namespace(global)))
        .collect();
    shown.sort_by(|a, b| (&a.namespace, &a.name).cmp(&(&b.namespace, &b.name)));
    shown
}

fn as_json(shown: &[&GatewayStatus]) -> Value {
    serde_json::to_value(shown).unwrap_or_default()
}

fn namespace(global: &Global) -> &str {
    global.namespace.as_deref().unwrap_or("default")
}

fn print(cx: &mut Context<'_>, text: &str) -> Result<(), CliError> {
    cx.out.write_all(text.as_bytes()).map_err(CliError::Output)
}

/// A Go duration of whole parts: `90s`, `1m30s`, `500ms`.
fn parse_duration(text: &str) -> Result<Duration, String> {
    waymark_api::duration::parse(text).map_err(|e| e.to_string())
}
