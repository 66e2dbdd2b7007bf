//! `proxy-status`: what each proxy has been sent and whether it has accepted it.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use clap::Args;
use http::{Method, StatusCode};
use serde_json::Value;

use crate::error::CliError;
use crate::mesh::{self, ADMIN_PORT, MeshClient, Peer, get_json};
use crate::printer::{Format, structured};
use crate::table::Table;
use crate::{Context, Global};

/// Type URLs with the names that tables use, in the order of the default table.
const TYPES: &[(&str, &str)] = &[
    ("type.googleapis.com/envoy.config.cluster.v3.Cluster", "CDS"),
    (
        "type.googleapis.com/envoy.config.listener.v3.Listener",
        "LDS",
    ),
    (
        "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment",
        "EDS",
    ),
    (
        "type.googleapis.com/envoy.config.route.v3.RouteConfiguration",
        "RDS",
    ),
    (
        "type.googleapis.com/envoy.config.core.v3.TypedExtensionConfig",
        "ECDS",
    ),
    (
        "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret",
        "SDS",
    ),
    ("type.googleapis.com/istio.workload.Address", "WDS"),
    ("type.googleapis.com/istio.security.Authorization", "WADS"),
    (
        "type.googleapis.com/istio.networking.nds.v1.NameTable",
        "NDS",
    ),
    (
        "type.googleapis.com/istio.mesh.v1alpha1.ProxyConfig",
        "PCDS",
    ),
];

/// Types that the wide table always shows.
const ALWAYS: usize = 5;

/// Arguments of `proxy-status`.
#[derive(Debug, Clone, Args)]
pub struct ProxyStatusArgs {
    /// Compare what this proxy has with what the control plane would send: [<type>/]<name>[.<namespace>].
    target: Option<String>,
    /// Form of the output.
    #[arg(short, long, value_enum, default_value = "table")]
    output: Format,
    /// 1: a column for each type.
    #[arg(short, long, default_value_t = 0, value_parser = clap::value_parser!(u8).range(0..=1))]
    verbosity: u8,
    /// Only control planes of this revision.
    #[arg(short, long, value_name = "NAME")]
    revision: Option<String>,
    /// Port of the proxy's admin endpoint, in a cluster.
    #[arg(long, default_value_t = ADMIN_PORT, value_name = "PORT")]
    proxy_admin_port: u16,
}

/// A proxy as `/debug/syncz` shows it.
struct Row<'a> {
    name: &'a str,
    /// The replica of the control plane that it is connected to.
    istiod: &'a str,
    cluster: &'a str,
    version: &'a str,
    /// Status text by type URL.
    types: BTreeMap<&'a str, String>,
}

pub(crate) async fn run(
    global: &Global,
    args: ProxyStatusArgs,
    cx: &mut Context<'_>,
) -> Result<(), CliError> {
    let mesh = mesh::open(global, cx.err).await?;
    let mesh: &dyn MeshClient = &*mesh;
    let control_planes = mesh.control_planes(args.revision.as_deref()).await?;
    let text = match &args.target {
        Some(target) => {
            let proxy = mesh.proxy(target, args.proxy_admin_port).await?;
            compare(mesh, &control_planes, &proxy).await?
        }
        None => {
            let proxies = connected(mesh, &control_planes, global.namespace.as_deref()).await?;
            match args.output {
                Format::Table => table(&proxies, args.verbosity, now_seconds()),
                Format::Json | Format::Yaml => {
                    let proxies = proxies.into_iter().map(|(_, proxy)| proxy).collect();
                    structured(&Value::Array(proxies), args.output)
                }
            }
        }
    };
    cx.out.write_all(text.as_bytes()).map_err(CliError::Output)
}

/// The proxies that are connected to each replica of the control plane, with its name.
async fn connected(
    mesh: &dyn MeshClient,
    control_planes: &[Peer],
    namespace: Option<&str>,
) -> Result<Vec<(String, Value)>, CliError> {
    let mut proxies = Vec::new();
    for peer in control_planes {
        let syncz = get_json(mesh, peer, "debug/syncz").await?;
        for proxy in syncz.as_array().into_iter().flatten() {
            let of = proxy["proxy"].as_str().and_then(|n| n.rsplit_once('.'));
            if namespace.is_none() || namespace == of.map(|(_, namespace)| namespace) {
                proxies.push((peer.name.clone(), proxy.clone()));
            }
        }
    }
    Ok(proxies)
}

fn table(proxies: &[(String, Value)], verbosity: u8, now: i64) -> String {
    let mut rows: Vec<Row<'_>> = proxies
        .iter()
        .map(|(istiod, proxy)| row(istiod, proxy, now))
        .collect();
    rows.sort_by_key(|r| (r.name, r.istiod));
    let mut table = Table::new(5);
    if verbosity == 0 {
        table.row(["NAME", "CLUSTER", "ISTIOD", "VERSION", "SUBSCRIBED TYPES"]);
        for row in rows {
            table.row([
                row.name,
                row.cluster,
                row.istiod,
                row.version,
                &subscribed(&row.types),
            ]);
        }
        return table.render();
    }
    let mut urls: BTreeSet<&str> = TYPES[..ALWAYS].iter().map(|(url, _)| *url).collect();
    urls.extend(rows.iter().flat_map(|r| r.types.keys().copied()));
    let names = urls.iter().map(|url| short(url));
    table.row(
        ["NAME", "CLUSTER"]
            .into_iter()
            .chain(names)
            .chain(["ISTIOD", "VERSION"]),
    );
    for row in rows {
        let cells = urls
            .iter()
            .map(|url| row.types.get(url).map_or("IGNORED", String::as_str));
        table.row(
            [row.name, row.cluster]
                .into_iter()
                .chain(cells)
                .chain([row.istiod, row.version]),
        );
    }
    table.render()
}

fn row<'a>(istiod: &'a str, proxy: &'a Value, now: i64) -> Row<'a> {
    let text = |key: &str| proxy[key].as_str().unwrap_or("");
    let resources = proxy["resources"].as_object();
    let types = resources
        .into_iter()
        .flatten()
        .map(|(url, state)| (url.as_str(), status(state, now)))
        .collect();
    Row {
        name: text("proxy"),
        istiod,
        cluster: text("cluster_id"),
        version: text("istio_version"),
        types,
    }
}

/// `SYNCED (5s)`: by nonces, an error before all.
fn status(state: &Value, now: i64) -> String {
    let nonce = |key: &str| state[key].as_str().filter(|s| !s.is_empty());
    let word = match (nonce("lastError"), nonce("sent"), nonce("acked")) {
        (Some(_), _, _) => "ERROR",
        (None, None, _) => return "NOT SENT".into(),
        (None, Some(sent), Some(acked)) if sent == acked => "SYNCED",
        (None, Some(_), _) => "STALE",
    };
    let sent = state["sentTime"].as_str().and_then(|t| {
        time::OffsetDateTime::parse(t, &time::format_description::well_known::Rfc3339).ok()
    });
    match sent {
        Some(at) => format!("{word} ({})", age(now - at.unix_timestamp())),
        None => word.into(),
    }
}

/// As Kubernetes prints durations: 5s, 7m, 3h12m, 2d.
fn age(seconds: i64) -> String {
    let s = seconds.max(0);
    match s {
        0..120 => format!("{s}s"),
        120..600 if s % 60 != 0 => format!("{}m{}s", s / 60, s % 60),
        120..10_800 => format!("{}m", s / 60),
        10_800..28_800 if s / 60 % 60 != 0 => format!("{}h{}m", s / 3600, s / 60 % 60),
        10_800..172_800 => format!("{}h", s / 3600),
        _ => format!("{}d", s / 86_400),
    }
}

fn subscribed(types: &BTreeMap<&str, String>) -> String {
    if types.is_empty() {
        return "0".into();
    }
    let mut urls: Vec<&str> = types.keys().copied().collect();
    urls.sort_by_key(|url| {
        (
            TYPES
                .iter()
                .take(4)
                .position(|(t, _)| t == url)
                .unwrap_or(4),
            *url,
        )
    });
    let names: Vec<&str> = urls.iter().map(|url| short(url)).collect();
    format!("{} ({})", names.len(), names.join(","))
}

fn short(url: &str) -> &str {
    TYPES
        .iter()
        .find(|(t, _)| *t == url)
        .map_or(url, |(_, name)| name)
}

/// Clusters, listeners and routes of the proxy against those of the control plane.
async fn compare(
    mesh: &dyn MeshClient,
    control_planes: &[Peer],
    proxy: &Peer,
) -> Result<String, CliError> {
    let theirs = mesh::get(mesh, proxy, "config_dump").await?;
    let ours = wanted(mesh, control_planes, proxy).await?;
    let (theirs, ours) = (
        crate::dump::Dump::parse(&theirs)?,
        crate::dump::Dump::parse(&ours)?,
    );
    let mut text = String::new();
    for (what, sent, held) in [
        ("Clusters", ours.clusters()?, theirs.clusters()?),
        ("Listeners", ours.listeners()?, theirs.listeners()?),
        ("Routes", ours.routes()?, theirs.routes()?),
    ] {
        let differing = differences(&sent, &held);
        if differing.is_empty() {
            text.push_str(&format!("{what} Match\n"));
        } else {
            text.push_str(&format!("{what} Don't Match\n"));
            for line in differing {
                text.push_str(&format!("  {line}\n"));
            }
        }
    }
    Ok(text)
}

/// What the control plane would send: from the replica that the proxy is connected to.
async fn wanted(
    mesh: &dyn MeshClient,
    control_planes: &[Peer],
    proxy: &Peer,
) -> Result<Bytes, CliError> {
    let path = format!("debug/config_dump?proxyID={}", proxy.name);
    for peer in control_planes {
        let answer = mesh.ask(peer, Method::GET, &path).await?;
        if answer.0 != StatusCode::NOT_FOUND {
            return mesh::good(peer, answer);
        }
    }
    Err(CliError::NotFound(format!(
        "proxy {} is connected to no control plane",
        proxy.name
    )))
}

/// What the control plane sends and the proxy has not, or has otherwise. What only the proxy has is its own bootstrap.
fn differences(sent: &[&Value], held: &[&Value]) -> Vec<String> {
    let name = |v: &Value| v["name"].as_str().unwrap_or("").to_owned();
    sent.iter()
        .filter_map(|resource| {
            let name = name(resource);
            match held.iter().find(|h| h["name"] == resource["name"]) {
                None => Some(format!("{name}: not in the proxy")),
                Some(other) if other == resource => None,
                Some(_) => Some(format!("{name}: differs")),
            }
        })
        .collect()
}

fn now_seconds() -> i64 {
    time::OffsetDateTime::now_utc().unix_timestamp()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn proxies() -> Vec<(String, Value)> {
        let proxies = [
            json!({"proxy": "waypoint-0.default", "cluster_id": "Kubernetes", "istio_version": "0.1.0", "resources": {
                (TYPES[0].0): {"sent": "a", "acked": "a", "sentTime": "1970-01-01T00:00:10Z"},
                (TYPES[1].0): {"sent": "b", "acked": "a", "sentTime": "1970-01-01T00:00:10Z"},
                (TYPES[3].0): {"sent": "b", "acked": "a", "lastError": "no", "sentTime": "1970-01-01T00:00:10Z"}}}),
            json!({"proxy": "node.istio-system", "cluster_id": "Kubernetes", "istio_version": "0.1.0", "resources": {}}),
        ];
        proxies.map(|proxy| ("waymark".to_owned(), proxy)).into()
    }

    #[test]
    fn default_table_names_the_types() {
        assert_eq!(
            table(&proxies(), 0, 130),
            "NAME                   CLUSTER        ISTIOD      VERSION     SUBSCRIBED TYPES\n\
             node.istio-system      Kubernetes     waymark     0.1.0       0\n\
             waypoint-0.default     Kubernetes     waymark     0.1.0       3 (CDS,LDS,RDS)\n"
        );
    }

    #[test]
    fn wide_table_shows_each_status() {
        let text = table(&proxies(), 1, 130);
        let line: Vec<&str> = text
            .lines()
            .nth(2)
            .expect("row")
            .split("     ")
            .map(str::trim)
            .filter(|c| !c.is_empty())
            .collect();
        assert_eq!(
            line,
            [
                "waypoint-0.default",
                "Kubernetes",
                "SYNCED (2m)",
                "IGNORED",
                "IGNORED",
                "STALE (2m)",
                "ERROR (2m)",
                "waymark",
                "0.1.0"
            ]
        );
    }

    #[test]
    fn ages_read_as_in_kubernetes() {
        for (seconds, want) in [
            (5, "5s"),
            (119, "119s"),
            (125, "2m5s"),
            (420, "7m"),
            (11_520, "3h12m"),
            (172_800, "2d"),
        ] {
            assert_eq!(age(seconds), want);
        }
    }

    #[test]
    fn what_only_the_proxy_has_is_no_difference() {
        let (a, b, c) = (
            json!({"name": "a"}),
            json!({"name": "b", "x": 1}),
            json!({"name": "b", "x": 2}),
        );
        assert_eq!(
            differences(&[&a, &b], &[&a, &b, &json!({"name": "own"})]),
            Vec::<String>::new()
        );
        assert_eq!(
            differences(&[&a, &b], &[&c]),
            ["a: not in the proxy", "b: differs"]
        );
    }
}
