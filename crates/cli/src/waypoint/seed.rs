//! `experimental waypoint`, as it was in 2023: a waypoint for a service account or for the namespace.

use clap::{Args, Subcommand};
use waymark_api::waypoint::WaypointClass;

use super::gateway::{Form, Spec};
use super::status::GatewayStatus;
use super::{print, select};
use crate::error::CliError;
use crate::mesh;
use crate::table::Table;
use crate::{Context, Global};

/// Arguments of `experimental waypoint`.
#[derive(Debug, Clone, Args)]
pub(crate) struct SeedArgs {
    /// The waypoint's service account; without it the waypoint is the namespace's.
    #[arg(short, long, global = true, value_name = "NAME")]
    service_account: Option<String>,
    #[command(subcommand)]
    command: Seed,
}

#[derive(Debug, Clone, Subcommand)]
enum Seed {
    /// Print a waypoint's Gateway.
    Generate,
    /// Make a waypoint.
    Apply,
    /// List waypoints.
    List {
        /// Those of all namespaces.
        #[arg(short = 'A', long)]
        all_namespaces: bool,
    },
    /// Delete the waypoint of the service account or the namespace.
    Delete,
}

pub(crate) async fn run(
    global: &Global,
    args: SeedArgs,
    cx: &mut Context<'_>,
) -> Result<(), CliError> {
    let name = args
        .service_account
        .clone()
        .unwrap_or_else(|| "namespace".into());
    let form = Form::Seed {
        service_account: args.service_account,
    };
    let spec = |namespace| Spec::new(&name, namespace, form, WaypointClass::Istio, "", "");
    match args.command {
        Seed::Generate => print(cx, &spec(global.namespace.as_deref())?.yaml()),
        Seed::Apply => {
            let mesh = mesh::open(global, cx.err).await?;
            let namespace = mesh.namespace();
            mesh.apply(&spec(Some(namespace))?).await?;
            print(cx, &format!("waypoint {namespace}/{name} applied\n"))
        }
        Seed::Delete => {
            let mesh = mesh::open(global, cx.err).await?;
            let namespace = mesh.namespace();
            let found = mesh.delete(namespace, &name).await?;
            let what = if found { "deleted" } else { "not found" };
            print(cx, &format!("waypoint {namespace}/{name} {what}\n"))
        }
        Seed::List { all_namespaces } => {
            let mesh = mesh::open(global, cx.err).await?;
            let shown = select(&*mesh, all_namespaces).await?;
            print(cx, &table(&shown, all_namespaces))
        }
    }
}

fn table(shown: &[GatewayStatus], all_namespaces: bool) -> String {
    if shown.is_empty() {
        return "No waypoints found.\n".to_owned();
    }
    let mut table = Table::new(5);
    let scope = all_namespaces.then_some("NAMESPACE");
    table.row(
        scope
            .into_iter()
            .chain(["NAME", "SERVICE ACCOUNT", "PROGRAMMED", "READY"]),
    );
    for gateway in shown {
        let scope = all_namespaces.then_some(gateway.namespace.as_str());
        let ready = if gateway.is_programmed() {
            "True"
        } else {
            "False"
        };
        let account = gateway
            .for_service_account
            .as_deref()
            .unwrap_or("namespace");
        let programmed = gateway
            .condition("Programmed")
            .map_or("False", |c| c.status.as_str());
        table.row(
            scope
                .into_iter()
                .chain([gateway.name.as_str(), account, programmed, ready]),
        );
    }
    table.render()
}
