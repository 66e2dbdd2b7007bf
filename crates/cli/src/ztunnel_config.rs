//! `ztunnel-config`: what a node proxy knows of the mesh, ours or ztunnel, from its admin endpoint or a file.
//!
//! Spec: cli-and-admin.md 5.

mod connections;
mod tables;

use std::path::PathBuf;

use clap::{Args, Subcommand};
use http::Method;
use serde_json::Value;
use time::OffsetDateTime;

use crate::error::CliError;
use crate::mesh::{self, ADMIN_PORT, MeshClient, NodeSelection, Peer, get, good, read_file};
use crate::printer::{Format, structured};
use crate::{Context, Global};

/// Arguments of `ztunnel-config`.
#[derive(Debug, Clone, Args)]
pub struct ZtunnelConfigArgs {
    #[command(subcommand)]
    command: ZtunnelConfig,
}

#[derive(Debug, Clone, Subcommand)]
enum ZtunnelConfig {
    /// Workloads.
    #[command(aliases = ["workloads", "w"])]
    Workload(WorkloadArgs),
    /// Services.
    #[command(aliases = ["services", "s", "svc"])]
    Service(ServiceArgs),
    /// Authorization policies.
    #[command(aliases = ["policies", "p", "pol"])]
    Policy(PolicyArgs),
    /// Certificates.
    #[command(aliases = ["certificates", "certs", "cert"])]
    Certificate(SourceArgs),
    /// Open connections.
    #[command(alias = "cons")]
    Connections(ConnectionsArgs),
    /// Everything.
    All(AllArgs),
    /// Log levels of node proxies.
    #[command(alias = "o")]
    Log(LogArgs),
}

#[derive(Debug, Clone, Args)]
struct TargetArgs {
    /// A node proxy, or a workload whose node's proxy is meant: [<type>/]<name>[.<namespace>].
    #[arg(value_name = "[<type>/]<name>[.<namespace>]")]
    target: Option<String>,
    /// The proxy of this node.
    #[arg(long, value_name = "NODE")]
    node: Option<String>,
    /// Port of the proxy's admin endpoint, in a cluster.
    #[arg(long, default_value_t = ADMIN_PORT, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    proxy_admin_port: u16,
}

#[derive(Debug, Clone, Args)]
struct SourceArgs {
    #[command(flatten)]
    target: TargetArgs,
    /// Read a saved dump instead; `-` is standard input.
    #[arg(short, long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// Form of the output.
    #[arg(short, long, value_enum, default_value = "table")]
    output: Format,
}

#[derive(Debug, Clone, Args)]
struct WorkloadArgs {
    #[command(flatten)]
    source: SourceArgs,
    /// Only those of this address.
    #[arg(long, value_name = "IP")]
    address: Option<String>,
    /// Only those of this namespace.
    #[arg(long, value_name = "NAMESPACE")]
    workload_namespace: Option<String>,
    /// Only those on this node.
    #[arg(long, value_name = "NODE")]
    workload_node: Option<String>,
}

#[derive(Debug, Clone, Args)]
struct ServiceArgs {
    #[command(flatten)]
    source: SourceArgs,
    /// Only those of this namespace.
    #[arg(long, value_name = "NAMESPACE")]
    service_namespace: Option<String>,
}

#[derive(Debug, Clone, Args)]
struct PolicyArgs {
    #[command(flatten)]
    source: SourceArgs,
    /// Only those of this namespace.
    #[arg(long, value_name = "NAMESPACE")]
    policy_namespace: Option<String>,
}

#[derive(Debug, Clone, Args)]
struct ConnectionsArgs {
    #[command(flatten)]
    source: SourceArgs,
    /// Only one direction: inbound or outbound.
    #[arg(long, value_name = "DIRECTION", value_parser = ["inbound", "outbound"])]
    direction: Option<String>,
    /// Addresses as they are, not as names.
    #[arg(long)]
    raw: bool,
    /// Only those of workloads of this namespace.
    #[arg(long, value_name = "NAMESPACE")]
    workload_namespace: Option<String>,
}

#[derive(Debug, Clone, Args)]
struct AllArgs {
    #[command(flatten)]
    source: SourceArgs,
    /// Say what each section is.
    #[arg(long)]
    with_headers: bool,
}

#[derive(Debug, Clone, Args)]
struct LogArgs {
    #[command(flatten)]
    target: TargetArgs,
    /// Comma-separated `<level>` or `<scope>:<level>`.
    #[arg(long, value_name = "LEVELS")]
    level: Option<String>,
    /// Back to the levels that the proxy was started with.
    #[arg(short, long)]
    reset: bool,
}

/// A dump, and the pod that was asked about when that is a workload.
struct Dump {
    value: Value,
    workload: Option<String>,
}

/// Whether the command shows one instance of several.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Instance {
    Any,
    /// Certificates and connections are each instance's own.
    Own,
}

impl TargetArgs {
    fn selection(&self) -> Result<NodeSelection, CliError> {
        if self.target.is_some() && self.node.is_some() {
            return Err(too_many());
        }
        Ok(NodeSelection {
            pod: self.target.clone(),
            node: self.node.clone(),
            admin_port: self.proxy_admin_port,
        })
    }
}

impl SourceArgs {
    async fn read(
        &self,
        global: &Global,
        cx: &mut Context<'_>,
        instance: Instance,
    ) -> Result<Dump, CliError> {
        let selection = self.target.selection()?;
        let (body, workload) = match &self.file {
            Some(_) if selection.pod.is_some() || selection.node.is_some() => {
                return Err(too_many());
            }
            Some(file) => (read_file(file)?, None),
            None => {
                let mesh = mesh::open(global, cx.err).await?;
                let peers = mesh.node_proxies(&selection).await?;
                let [peer, others @ ..] = peers.as_slice() else {
                    return Err(CliError::NotFound("there is no node proxy".into()));
                };
                let chosen = selection.pod.is_some() || selection.node.is_some();
                if instance == Instance::Own && !chosen && !others.is_empty() {
                    return Err(CliError::Usage(
                        "ztunnel pod name or --node must be set".into(),
                    ));
                }
                let body = get(&*mesh, peer, "config_dump").await?;
                (body.to_vec(), workload(&selection, peer))
            }
        };
        let value = serde_json::from_slice(&body)
            .map_err(|e| CliError::Data(format!("the config dump is not JSON: {e}")))?;
        Ok(Dump { value, workload })
    }
}

/// The name of the pod that was asked about, unless it is the proxy itself.
fn workload(selection: &NodeSelection, peer: &Peer) -> Option<String> {
    let argument = selection.pod.as_deref()?;
    let name = crate::target::parse(argument).ok()?.name;
    let proxy = peer.name.split('.').next();
    (proxy != Some(name)).then(|| name.to_owned())
}

fn too_many() -> CliError {
    CliError::Usage("at most one of --file, --node, or pod name must be passed".into())
}

/// Runs a `ztunnel-config` command.
///
/// # Errors
/// When no proxy can be found or asked, or its answer is not a dump.
pub(crate) async fn run(
    global: &Global,
    args: ZtunnelConfigArgs,
    cx: &mut Context<'_>,
) -> Result<(), CliError> {
    let text = match args.command {
        ZtunnelConfig::Workload(args) => workloads(global, &args, cx).await?,
        ZtunnelConfig::Service(args) => services(global, &args, cx).await?,
        ZtunnelConfig::Policy(args) => policies(global, &args, cx).await?,
        ZtunnelConfig::Certificate(args) => certificates(global, &args, cx).await?,
        ZtunnelConfig::Connections(args) => open_connections(global, &args, cx).await?,
        ZtunnelConfig::All(args) => all(global, &args, cx).await?,
        ZtunnelConfig::Log(args) => log(global, &args, cx).await?,
    };
    cx.out.write_all(text.as_bytes()).map_err(CliError::Output)
}

async fn workloads(
    global: &Global,
    args: &WorkloadArgs,
    cx: &mut Context<'_>,
) -> Result<String, CliError> {
    let dump = args.source.read(global, cx, Instance::Any).await?;
    let mut list = tables::workloads(&dump.value);
    list.retain(|w| {
        let is =
            |want: &Option<String>, key: &str| want.is_none() || w[key].as_str() == want.as_deref();
        let addresses = w["workloadIps"].as_array().into_iter().flatten();
        is(&args.workload_namespace, "namespace")
            && is(&args.workload_node, "node")
            && is(&dump.workload, "name")
            && args
                .address
                .as_ref()
                .is_none_or(|want| addresses.into_iter().any(|a| a == want))
    });
    Ok(show(list, args.source.output, |list| {
        tables::workload_table(list, &tables::services(&dump.value))
    }))
}

async fn services(
    global: &Global,
    args: &ServiceArgs,
    cx: &mut Context<'_>,
) -> Result<String, CliError> {
    let dump = args.source.read(global, cx, Instance::Any).await?;
    let mut list = tables::services(&dump.value);
    of_namespace(&mut list, args.service_namespace.as_deref());
    Ok(show(list, args.source.output, |list| {
        tables::service_table(list, &tables::workloads(&dump.value))
    }))
}

async fn policies(
    global: &Global,
    args: &PolicyArgs,
    cx: &mut Context<'_>,
) -> Result<String, CliError> {
    let dump = args.source.read(global, cx, Instance::Any).await?;
    let mut list = tables::policies(&dump.value);
    of_namespace(&mut list, args.policy_namespace.as_deref());
    Ok(show(list, args.source.output, tables::policy_table))
}

async fn certificates(
    global: &Global,
    args: &SourceArgs,
    cx: &mut Context<'_>,
) -> Result<String, CliError> {
    let dump = args.read(global, cx, Instance::Own).await?;
    let list = tables::certificates(&dump.value);
    let now = OffsetDateTime::now_utc();
    Ok(show(list, args.output, |list| {
        tables::certificate_table(list, now)
    }))
}

async fn open_connections(
    global: &Global,
    args: &ConnectionsArgs,
    cx: &mut Context<'_>,
) -> Result<String, CliError> {
    let dump = args.source.read(global, cx, Instance::Own).await?;
    let mut states = connections::states(&dump.value);
    states.retain(|state| {
        let info = &state["info"];
        let is = |want: &Option<String>, key: &str| {
            want.is_none() || info[key].as_str() == want.as_deref()
        };
        is(&args.workload_namespace, "namespace") && is(&dump.workload, "name")
    });
    Ok(show(states, args.source.output, |states| {
        let names = connections::Names::of(&dump.value, args.raw);
        connections::table(states, &names, args.direction.as_deref())
    }))
}

async fn all(global: &Global, args: &AllArgs, cx: &mut Context<'_>) -> Result<String, CliError> {
    let dump = args.source.read(global, cx, Instance::Own).await?.value;
    if args.source.output != Format::Table {
        return Ok(structured(&dump, args.source.output));
    }
    let (workloads, services) = (tables::workloads(&dump), tables::services(&dump));
    let names = connections::Names::of(&dump, false);
    let sections = [
        ("WORKLOAD", tables::workload_table(&workloads, &services)),
        ("SERVICE", tables::service_table(&services, &workloads)),
        ("POLICY", tables::policy_table(&tables::policies(&dump))),
        (
            "SECRET",
            tables::certificate_table(&tables::certificates(&dump), OffsetDateTime::now_utc()),
        ),
        (
            "CONNECTIONS",
            connections::table(&connections::states(&dump), &names, None),
        ),
    ];
    let texts: Vec<String> = sections
        .into_iter()
        .map(|(name, text)| {
            if args.with_headers {
                format!("------ {name} INFO ------\n\n{text}")
            } else {
                text
            }
        })
        .collect();
    Ok(format!("\n{}", texts.join("\n")))
}

async fn log(global: &Global, args: &LogArgs, cx: &mut Context<'_>) -> Result<String, CliError> {
    let path = match (&args.level, args.reset) {
        (Some(_), true) => {
            return Err(CliError::Usage(
                "--level cannot be combined with --reset".into(),
            ));
        }
        (None, true) => "logging?level=info&reset".to_owned(),
        (Some(level), false) => format!("logging?level={}", level_spec(level)),
        (None, false) => "logging".to_owned(),
    };
    let mesh = mesh::open(global, cx.err).await?;
    let selection = args.target.selection()?;
    let mut text = String::new();
    for peer in mesh.node_proxies(&selection).await? {
        text.push_str(&set_levels(&*mesh, &peer, &path).await?);
    }
    Ok(text)
}

async fn set_levels(mesh: &dyn MeshClient, peer: &Peer, path: &str) -> Result<String, CliError> {
    let answer = mesh.ask(peer, Method::POST, path).await?;
    let body = good(peer, answer)?;
    Ok(format!(
        "{}:\n{}\n",
        peer.name,
        String::from_utf8_lossy(&body)
    ))
}

/// ztunnel wants `scope=level`, people write `scope:level`; `warning` and `critical` are Envoy's words.
fn level_spec(spec: &str) -> String {
    let parts: Vec<String> = spec
        .split(',')
        .map(|part| {
            let at = part
                .rfind(['=', ':'])
                .filter(|at| *at == 0 || part.as_bytes()[at - 1] != b':');
            let (scope, level) = at.map_or(("", part), |at| (&part[..at], &part[at + 1..]));
            let level = match level {
                "warning" => "warn",
                "critical" => "error",
                other => other,
            };
            if scope.is_empty() {
                level.to_owned()
            } else {
                format!("{scope}={level}")
            }
        })
        .collect();
    parts.join(",")
}

fn of_namespace(list: &mut Vec<Value>, namespace: Option<&str>) {
    list.retain(|v| namespace.is_none() || v["namespace"].as_str() == namespace);
}

fn show(list: Vec<Value>, format: Format, table: impl Fn(&[Value]) -> String) -> String {
    match format {
        Format::Table => table(&list),
        Format::Json | Format::Yaml => structured(&Value::Array(list), format),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_are_written_as_ztunnel_reads_them() {
        for (spec, want) in [
            ("debug", "debug"),
            ("warning,access:debug", "warn,access=debug"),
            ("ztunnel::proxy=trace", "ztunnel::proxy=trace"),
            ("ztunnel::proxy:critical", "ztunnel::proxy=error"),
        ] {
            assert_eq!(level_spec(spec), want);
        }
    }
}
