//! `proxy-config`: what a proxy has been configured with, from its admin endpoint or a file.

mod bootstrap;
mod cluster;
mod endpoint;
mod listener;
mod log;
mod matcher;
mod route;
mod secret;

use std::path::PathBuf;

use clap::{Args, Subcommand};
use serde_json::Value;

use crate::dump::Dump;
use crate::error::CliError;
use crate::mesh::{self, ADMIN_PORT, MeshClient, Peer, get, read_file};
use crate::printer::{Format, structured, typed};
use crate::{Context, Global};

/// Arguments of `proxy-config`.
#[derive(Debug, Clone, Args)]
pub struct ProxyConfigArgs {
    #[command(subcommand)]
    command: ProxyConfig,
}

#[derive(Debug, Clone, Subcommand)]
enum ProxyConfig {
    /// Clusters.
    #[command(aliases = ["clusters", "c"])]
    Cluster(cluster::ClusterArgs),
    /// Listeners; with --waypoint their chains and what is matched.
    #[command(aliases = ["listeners", "l"])]
    Listener(listener::ListenerArgs),
    /// Routes.
    #[command(aliases = ["routes", "r"])]
    Route(route::RouteArgs),
    /// Endpoints with their health.
    #[command(aliases = ["endpoints", "ep"])]
    Endpoint(endpoint::EndpointArgs),
    /// Certificates.
    #[command(aliases = ["secrets", "s"])]
    Secret(SourceArgs),
    /// Bootstrap.
    #[command(alias = "b")]
    Bootstrap(SourceArgs),
    /// Everything.
    #[command(alias = "a")]
    All(AllArgs),
    /// Log levels of the proxy.
    #[command(alias = "o")]
    Log(log::LogArgs),
}

/// Where the configuration is read from.
#[derive(Debug, Clone, Args)]
pub(crate) struct SourceArgs {
    /// The proxy: [<type>/]<name>[.<namespace>].
    #[arg(value_name = "[<type>/]<name>[.<namespace>]")]
    pub(crate) target: Option<String>,
    /// Read a saved dump instead; `-` is standard input.
    #[arg(short, long, value_name = "FILE")]
    pub(crate) file: Option<PathBuf>,
    /// Form of the output [default: short; bootstrap: json].
    #[arg(short, long, value_name = "json|yaml|short")]
    pub(crate) output: Option<String>,
    /// Port of the proxy's admin endpoint, in a cluster.
    #[arg(long, default_value_t = ADMIN_PORT, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) proxy_admin_port: u16,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct AllArgs {
    #[command(flatten)]
    source: SourceArgs,
    /// Say what each section is.
    #[arg(long)]
    with_headers: bool,
}

/// Where a command reads from.
pub(crate) enum Source {
    File(PathBuf),
    Live {
        mesh: Box<dyn MeshClient>,
        proxy: Peer,
    },
}

impl SourceArgs {
    pub(crate) async fn open(
        &self,
        global: &Global,
        cx: &mut Context<'_>,
        command: &str,
    ) -> Result<Source, CliError> {
        match (&self.target, &self.file) {
            (Some(_), Some(_)) | (None, None) => Err(CliError::Usage(format!(
                "{command} requires pod name or --file parameter"
            ))),
            (None, Some(file)) => Ok(Source::File(file.clone())),
            (Some(target), None) => {
                let mesh = mesh::open(global, cx.err).await?;
                let proxy = mesh.proxy(target, self.proxy_admin_port).await?;
                Ok(Source::Live { mesh, proxy })
            }
        }
    }

    pub(crate) fn format(&self, default: Format) -> Result<Format, CliError> {
        match self.output.as_deref() {
            None => Ok(default),
            Some("short" | "table") => Ok(Format::Table),
            Some("json") => Ok(Format::Json),
            Some("yaml") => Ok(Format::Yaml),
            Some(other) => Err(CliError::Usage(format!(
                "output format \"{other}\" not supported"
            ))),
        }
    }
}

impl Source {
    /// The answer of an admin path, or the file.
    pub(crate) async fn read(&self, path: &str) -> Result<Vec<u8>, CliError> {
        match self {
            Self::File(file) => read_file(file),
            Self::Live { mesh, proxy } => Ok(get(&**mesh, proxy, path).await?.to_vec()),
        }
    }

    pub(crate) async fn dump(&self, path: &str) -> Result<Dump, CliError> {
        Dump::parse(&self.read(path).await?)
    }
}

/// Runs a `proxy-config` command.
///
/// # Errors
/// When the proxy can't be found or asked, or its answer has not what is asked for.
pub(crate) async fn run(
    global: &Global,
    args: ProxyConfigArgs,
    cx: &mut Context<'_>,
) -> Result<(), CliError> {
    let text = match args.command {
        ProxyConfig::Cluster(args) => clusters(global, &args, cx).await?,
        ProxyConfig::Listener(args) => listeners(global, &args, cx).await?,
        ProxyConfig::Route(args) => routes(global, &args, cx).await?,
        ProxyConfig::Endpoint(args) => endpoints(global, &args, cx).await?,
        ProxyConfig::Secret(args) => secrets(global, &args, cx).await?,
        ProxyConfig::Bootstrap(args) => bootstrap(global, &args, cx).await?,
        ProxyConfig::All(args) => everything(global, &args, cx).await?,
        ProxyConfig::Log(args) => return log::run(global, args, cx).await,
    };
    print(cx, &text)
}

async fn clusters(
    global: &Global,
    args: &cluster::ClusterArgs,
    cx: &mut Context<'_>,
) -> Result<String, CliError> {
    let format = args.source.format(Format::Table)?;
    let mask = "dynamic_active_clusters,dynamic_warming_clusters,static_clusters";
    let source = args.source.open(global, cx, "cluster").await?;
    let dump = source.dump(&format!("config_dump?mask={mask}")).await?;
    Ok(match format {
        Format::Table => cluster::table(&dump, args)?,
        Format::Json | Format::Yaml => many(cluster::select(&dump, args)?, format),
    })
}

async fn listeners(
    global: &Global,
    args: &listener::ListenerArgs,
    cx: &mut Context<'_>,
) -> Result<String, CliError> {
    let format = args.source.format(Format::Table)?;
    let source = args.source.open(global, cx, "listener").await?;
    let dump = source
        .dump("config_dump?mask=dynamic_listeners,static_listeners")
        .await?;
    Ok(match format {
        _ if args.waypoint => listener::waypoint_table(&dump)?,
        Format::Table => listener::table(&dump, args)?,
        Format::Json | Format::Yaml => many(listener::select(&dump, args)?, format),
    })
}

async fn routes(
    global: &Global,
    args: &route::RouteArgs,
    cx: &mut Context<'_>,
) -> Result<String, CliError> {
    let format = args.source.format(Format::Table)?;
    let source = args.source.open(global, cx, "route").await?;
    let dump = source
        .dump("config_dump?mask=dynamic_route_configs,static_route_configs")
        .await?;
    Ok(match format {
        Format::Table => route::table(&dump, args)?,
        Format::Json | Format::Yaml => many(route::select(&dump, args)?, format),
    })
}

async fn endpoints(
    global: &Global,
    args: &endpoint::EndpointArgs,
    cx: &mut Context<'_>,
) -> Result<String, CliError> {
    let format = args.source.format(Format::Table)?;
    let source = args.source.open(global, cx, "endpoint").await?;
    let clusters = endpoint::parse(&source.read("clusters?format=json").await?)?;
    Ok(match format {
        Format::Table => endpoint::table(&clusters, args),
        Format::Json | Format::Yaml => structured(&endpoint::select(&clusters, args), format),
    })
}

async fn secrets(
    global: &Global,
    args: &SourceArgs,
    cx: &mut Context<'_>,
) -> Result<String, CliError> {
    let format = args.format(Format::Table)?;
    let source = args.open(global, cx, "secret").await?;
    let dump = source
        .dump("config_dump?mask=dynamic_active_secrets,dynamic_warming_secrets")
        .await?;
    Ok(match format {
        Format::Table => secret::table(&dump, time::OffsetDateTime::now_utc())?,
        Format::Json | Format::Yaml => structured(&typed(dump.section("Secrets")?), format),
    })
}

async fn bootstrap(
    global: &Global,
    args: &SourceArgs,
    cx: &mut Context<'_>,
) -> Result<String, CliError> {
    let format = args.format(Format::Json)?;
    let source = args.open(global, cx, "bootstrap").await?;
    let dump = source.dump("config_dump?mask=bootstrap").await?;
    Ok(match format {
        Format::Table => bootstrap::table(dump.section("Bootstrap")?),
        Format::Json | Format::Yaml => structured(&typed(dump.section("Bootstrap")?), format),
    })
}

async fn everything(
    global: &Global,
    args: &AllArgs,
    cx: &mut Context<'_>,
) -> Result<String, CliError> {
    let format = args.source.format(Format::Table)?;
    let source = args.source.open(global, cx, "all").await?;
    let body = source.read("config_dump?include_eds=true").await?;
    Ok(match format {
        Format::Table => all(&Dump::parse(&body)?, args.with_headers)?,
        Format::Json => String::from_utf8_lossy(&body).into_owned(),
        Format::Yaml => structured(&Dump::parse(&body)?.value, format),
    })
}

/// The resources as typed messages.
fn many(resources: Vec<&Value>, format: Format) -> String {
    let list: Vec<Value> = resources.into_iter().map(typed).collect();
    structured(&Value::Array(list), format)
}

fn all(dump: &Dump, with_headers: bool) -> Result<String, CliError> {
    let sections = [
        ("BOOTSTRAP", bootstrap::table(dump.section("Bootstrap")?)),
        (
            "CLUSTER",
            cluster::rows(dump.clusters()?, Some("cluster/")).render(),
        ),
        (
            "LISTENER",
            listener::rows(dump.listeners()?, true, Some("listener/")).render(),
        ),
        ("ROUTE", route::rows(dump.routes()?, true).render()),
        (
            "SECRET",
            secret::table(dump, time::OffsetDateTime::now_utc())?,
        ),
        ("ENDPOINTS", endpoint::eds_table(dump)?),
    ];
    let texts: Vec<String> = sections
        .into_iter()
        .map(|(name, text)| {
            if with_headers {
                format!("------ {name} INFO ------\n\n{text}")
            } else {
                text
            }
        })
        .collect();
    Ok(texts.join("\n"))
}

fn print(cx: &mut Context<'_>, text: &str) -> Result<(), CliError> {
    cx.out.write_all(text.as_bytes()).map_err(CliError::Output)
}
