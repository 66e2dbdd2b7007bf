//! `experimental waypoint`, as it was in 2023: a waypoint for a service account or for the namespace.

use clap::{Args, Subcommand};

use super::gateway::{Form, Spec};
use super::manifests::Manifests;
use super::status::Statuses;
use super::{namespace, print, select};
use crate::error::CliError;
use crate::mesh::Mesh;
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
    let namespace = namespace(global);
    match args.command {
        Seed::Generate => {
            let spec = Spec::new(&name, global.namespace.as_deref(), form, "", "")?;
            print(cx, &spec.yaml())
        }
        Seed::Apply => {
            let mesh = Mesh::find(global)?;
            let spec = Spec::new(&name, Some(namespace), form, "", "")?;
            Manifests::read(&mesh.mesh_directory)?.put(&spec)?;
            print(cx, &format!("waypoint {namespace}/{name} applied\n"))
        }
        Seed::Delete => {
            let mesh = Mesh::find(global)?;
            let found = Manifests::read(&mesh.mesh_directory)?.remove(namespace, &name)?;
            let what = if found { "deleted" } else { "not found" };
            print(cx, &format!("waypoint {namespace}/{name} {what}\n"))
        }
        Seed::List { all_namespaces } => {
            let mesh = Mesh::find(global)?;
            let statuses = Statuses::read(&mesh.status_file())?;
            let shown = select(&statuses, global, all_namespaces);
            if shown.is_empty() {
                return print(cx, "No waypoints found.\n");
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
                table.row(scope.into_iter().chain([
                    gateway.name.as_str(),
                    account,
                    programmed,
                    ready,
                ]));
            }
            print(cx, &table.render())
        }
    }
}
