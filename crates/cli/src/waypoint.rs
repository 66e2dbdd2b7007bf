//! `waypoint`: generates, applies, lists and deletes waypoint Gateways.
//!
//! On a mesh of this machine the Gateways are documents of the mesh directory, and what the control plane made of them is in
//! its status file; in a cluster both are at the API server.

pub(crate) mod gateway;
pub(crate) mod manifests;
pub(crate) mod seed;
pub(crate) mod status;

use std::time::{Duration, Instant};

use clap::{Args, Subcommand};
use serde_json::Value;
use waymark_api::waypoint::WaypointClass;

use self::gateway::{Form, Spec};
use self::status::GatewayStatus;
use crate::error::CliError;
use crate::mesh::{self, MeshClient};
use crate::printer::{Format, structured};
use crate::table::Table;
use crate::{Context, Global};

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
    /// Class of the Gateway: istio-waypoint or waymark-waypoint.
    #[arg(long, value_name = "CLASS", value_parser = parse_class, default_value = "istio-waypoint")]
    class: WaypointClass,
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
        Waypoint::List(args) => list(global, &args, cx).await,
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
            delete(global, &args.names, &args.revision, cx).await
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
    Spec::new(
        name,
        namespace,
        form,
        args.class,
        &args.traffic,
        &args.revision,
    )
}

async fn apply(
    global: &Global,
    name: &str,
    args: ApplyArgs,
    cx: &mut Context<'_>,
) -> Result<(), CliError> {
    let mesh = mesh::open(global, cx.err).await?;
    let mesh = &*mesh;
    let namespace = mesh.namespace();
    let spec = spec(name, Some(namespace), &args.gateway)?;
    let labels = mesh.namespace_labels(namespace).await?;
    if args.enroll_namespace {
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
    mesh.apply(&spec).await?;
    print(
        cx,
        &format!("✅ waypoint {namespace}/{} applied\n", spec.name()),
    )?;
    if args.wait {
        wait_programmed(mesh, namespace, spec.name(), args.waypoint_timeout).await?;
        print(
            cx,
            &format!("✅ waypoint {namespace}/{} is ready!\n", spec.name()),
        )?;
    }
    if args.enroll_namespace {
        mesh.label_namespace(namespace, "istio.io/use-waypoint", spec.name())
            .await?;
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
    mesh: &dyn MeshClient,
    namespace: &str,
    name: &str,
    limit: Duration,
) -> Result<(), CliError> {
    let deadline = Instant::now() + limit;
    loop {
        // What fails meanwhile may go well the next time, as upstream has it.
        let last_error = match mesh.gateways(Some(namespace)).await {
            Ok(gateways) => {
                if gateways.iter().any(|g| g.name == name && g.is_programmed()) {
                    return Ok(());
                }
                String::new()
            }
            Err(error) => format!(": {error}"),
        };
        if Instant::now() > deadline {
            return Err(CliError::Timeout(format!(
                "timed out while waiting for waypoint\t{namespace}/{name}{last_error}"
            )));
        }
        tokio::time::sleep(mesh.poll_interval()).await;
    }
}

async fn list(global: &Global, args: &ListArgs, cx: &mut Context<'_>) -> Result<(), CliError> {
    let mesh = mesh::open(global, cx.err).await?;
    let shown = select(&*mesh, args.all_namespaces).await?;
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
    for gateway in &shown {
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
    let mesh = mesh::open(global, cx.err).await?;
    let deadline = Instant::now() + args.waypoint_timeout;
    let (shown, timed_out) = loop {
        let shown = select(&*mesh, args.list.all_namespaces).await?;
        let waiting = shown.iter().any(|g| !g.is_programmed());
        if !waiting || !args.wait {
            break (shown, false);
        }
        if Instant::now() > deadline {
            break (shown, true);
        }
        tokio::time::sleep(mesh.poll_interval()).await;
    };
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

fn status_table(shown: &[GatewayStatus], all_namespaces: bool) -> String {
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

async fn delete(
    global: &Global,
    names: &[String],
    revision: &str,
    cx: &mut Context<'_>,
) -> Result<(), CliError> {
    let mesh = mesh::open(global, cx.err).await?;
    let namespace = mesh.namespace();
    let wanted: Vec<String> = if names.is_empty() {
        mesh.waypoints(namespace, revision).await?
    } else {
        names.to_vec()
    };
    let mut failed = Vec::new();
    for name in wanted {
        let line = match mesh.delete(namespace, &name).await {
            Ok(true) => format!("waypoint {namespace}/{name} deleted\n"),
            Ok(false) => format!("waypoint {namespace}/{name} not found\n"),
            // The others are deleted all the same.
            Err(error) => {
                failed.push(error);
                continue;
            }
        };
        print(cx, &line)?;
    }
    match failed.len() {
        0 => Ok(()),
        1 => Err(failed.remove(0)),
        _ => {
            let texts: Vec<String> = failed.iter().map(|e| mesh::chain(e)).collect();
            Err(CliError::Data(texts.join("; ")))
        }
    }
}

/// The waypoints of the mesh's namespace, or of all, in the order of tables.
async fn select(
    mesh: &dyn MeshClient,
    all_namespaces: bool,
) -> Result<Vec<GatewayStatus>, CliError> {
    let scope = (!all_namespaces).then(|| mesh.namespace());
    let mut shown = mesh.gateways(scope).await?;
    shown.retain(GatewayStatus::is_waypoint);
    shown.sort_by(|a, b| (&a.namespace, &a.name).cmp(&(&b.namespace, &b.name)));
    Ok(shown)
}

fn as_json(shown: &[GatewayStatus]) -> Value {
    serde_json::to_value(shown).unwrap_or_default()
}

fn parse_class(text: &str) -> Result<WaypointClass, String> {
    WaypointClass::of_name(text).ok_or_else(|| {
        let names: Vec<&str> = WaypointClass::ALL.map(WaypointClass::name).into();
        format!("allowed: {}", names.join(", "))
    })
}

fn print(cx: &mut Context<'_>, text: &str) -> Result<(), CliError> {
    cx.out.write_all(text.as_bytes()).map_err(CliError::Output)
}

/// A Go duration of whole parts: `90s`, `1m30s`, `500ms`.
fn parse_duration(text: &str) -> Result<Duration, String> {
    waymark_api::duration::parse(text).map_err(|e| e.to_string())
}
