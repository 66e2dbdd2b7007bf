//! `analyze`: what is wrong with resources, in the mesh, in files or in both together; and what would change for the waypoints
//! of a cluster. Spec: cli-and-admin.md 7.1.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use clap::Args;
use serde_json::Value;

use super::examine::{self, Found, object_of};
use super::files;
use super::message::{Level, Message, Suppression, issues, render};
use super::migration;
use crate::error::CliError;
use crate::mesh::{self, MeshClient};
use crate::printer::Format;
use crate::table::Table;
use crate::{Context, Global};

/// Arguments of `analyze` without a further command.
#[derive(Debug, Clone, Args)]
pub(super) struct ResourceArgs {
    /// Files or directories of manifests; `-` is standard input.
    #[arg(value_name = "FILE")]
    files: Vec<PathBuf>,
    /// The running mesh too.
    #[arg(short = 'k', long, default_value_t = true, action = clap::ArgAction::Set, num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    use_kube: bool,
    /// Directories at any depth.
    #[arg(short = 'R', long)]
    recursive: bool,
    /// All namespaces.
    #[arg(short = 'A', long)]
    all_namespaces: bool,
    /// log, json or yaml.
    #[arg(short, long, default_value = "log", value_parser = ["log", "json", "yaml"])]
    output: String,
    /// Issues from this level on are a failure: Info, Warning, Error.
    #[arg(long, value_enum, default_value = "Error", value_name = "LEVEL")]
    failure_threshold: Level,
    /// Issues from this level on are shown: Info, Warning, Error.
    #[arg(long, value_enum, default_value = "Info", value_name = "LEVEL")]
    output_threshold: Level,
    /// Not this issue: CODE=Kind name.namespace, with * for anything.
    #[arg(short = 'S', long, value_parser = Suppression::parse, value_name = "CODE=OBJECT")]
    suppress: Vec<Suppression>,
    /// Revision that the control plane would have.
    #[arg(short, long, default_value = "default", value_name = "NAME")]
    revision: String,
    /// Show what is looked for.
    #[arg(short = 'L', long)]
    list_analyzers: bool,
}

/// What was looked at.
#[derive(Default)]
struct Looked {
    found: Found,
    /// About waypoints.
    migration: Vec<Message>,
    /// What could not be read.
    unreadable: Vec<(String, String)>,
    /// How the scope is called.
    scope: String,
}

pub(super) async fn run(
    global: &Global,
    args: &ResourceArgs,
    cx: &mut Context<'_>,
) -> Result<(), CliError> {
    if args.list_analyzers {
        return cx
            .out
            .write_all(list().as_bytes())
            .map_err(CliError::Output);
    }
    let mut looked = Looked::default();
    if args.use_kube {
        let mesh = mesh::open(global, cx.err).await?;
        looked = look(&*mesh, args).await?;
    } else if args.files.is_empty() {
        return Err(CliError::Usage(
            "nothing to analyze: give files, or leave out --use-kube=false".into(),
        ));
    }
    if !args.files.is_empty() {
        let names: Vec<String> = args.files.iter().map(|f| f.display().to_string()).collect();
        if looked.scope.is_empty() {
            looked.scope = names.join(", ");
        }
        lay_over(&mut looked.found, files::read(&args.files, args.recursive)?);
    }
    finish(args, &looked, cx)
}

async fn look(mesh: &dyn MeshClient, args: &ResourceArgs) -> Result<Looked, CliError> {
    let namespace = (!args.all_namespaces).then(|| mesh.namespace());
    let (found, survey) = mesh.survey(namespace, &args.revision).await?;
    let scope = namespace.map_or_else(
        || "all namespaces".to_owned(),
        |namespace| format!("namespace: {namespace}"),
    );
    let (migration, unreadable) = match survey {
        Some(survey) => (
            migration::waypoints(&survey, &args.revision),
            survey.unreadable,
        ),
        None => Default::default(),
    };
    Ok(Looked {
        found,
        migration,
        unreadable,
        scope,
    })
}

/// Prints what is to be seen and says how it ends.
fn finish(args: &ResourceArgs, looked: &Looked, cx: &mut Context<'_>) -> Result<(), CliError> {
    let mut messages = examine::examine(&looked.found);
    messages.extend(looked.migration.iter().cloned());
    let unwanted = annotated(&looked.found);
    messages.retain(|message| {
        let suppressed = unwanted
            .get(&message.object.origin())
            .is_some_and(|codes| codes.contains("*") || codes.contains(message.code));
        message.level >= args.output_threshold
            && !suppressed
            && !args.suppress.iter().any(|s| s.fits(message))
    });
    messages.sort();
    messages.dedup();
    let format = match args.output.as_str() {
        "json" => Some(Format::Json),
        "yaml" => Some(Format::Yaml),
        _ => None,
    };
    let text = render(&messages, format);
    cx.out
        .write_all(text.as_bytes())
        .map_err(CliError::Output)?;
    let broken: Vec<String> = files::not_yaml(&looked.found);
    if !broken.is_empty() {
        return Err(CliError::BadInput(broken.join("\n")));
    }
    if !looked.unreadable.is_empty() {
        let what = looked
            .unreadable
            .iter()
            .map(|(kind, why)| format!("{kind}: {why}"));
        return Err(CliError::Api {
            action: "not everything could be analyzed".into(),
            reason: what.collect::<Vec<_>>().join("; "),
        });
    }
    if messages.is_empty() && format.is_none() {
        let _ = writeln!(
            cx.err,
            "\u{2714} No validation issues found when analyzing {}.",
            looked.scope
        );
    }
    let failed = messages.iter().any(|m| m.level >= args.failure_threshold);
    if failed && format.is_none() {
        return Err(issues(&looked.scope));
    }
    Ok(())
}

/// Puts files in place of the objects that they would replace.
fn lay_over(found: &mut Found, files: Found) {
    let names: BTreeSet<String> = files.objects.iter().map(|(o, _)| name_of(o)).collect();
    found
        .objects
        .retain(|(object, _)| !names.contains(&name_of(object)));
    found.errors.retain(|error| {
        error.object.as_ref().is_none_or(|o| {
            let namespace = o
                .namespace
                .as_ref()
                .map_or_else(String::new, |ns| format!(".{ns}"));
            !names.contains(&format!("{} {}{namespace}", o.kind, o.name))
        })
    });
    found.objects.extend(files.objects);
    found.errors.extend(files.errors);
}

fn name_of(object: &Value) -> String {
    object_of(object, None).origin()
}

/// Codes that objects do not want to hear of, by the object.
fn annotated(found: &Found) -> BTreeMap<String, BTreeSet<String>> {
    found
        .objects
        .iter()
        .filter_map(|(object, _)| {
            let codes = object["metadata"]["annotations"][SUPPRESS].as_str()?;
            let codes = codes.split(',').map(|code| code.trim().to_owned());
            Some((name_of(object), codes.collect()))
        })
        .collect()
}

fn list() -> String {
    let mut table = Table::new(3);
    table.row(["CODE", "WHAT"]);
    for (code, what) in examine::CODES.iter().chain(migration::CODES) {
        table.row([*code, *what]);
    }
    table.render()
}

const SUPPRESS: &str = "galley.istio.io/analyze-suppress";
