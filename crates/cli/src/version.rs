//! `version`.

use clap::Args;
use serde_json::{Value, json};

use crate::error::CliError;
use crate::mesh::{self, MeshClient, get_json};
use crate::printer::{Format, structured};
use crate::{Context, Global};

const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Arguments of `version`.
#[derive(Debug, Clone, Args)]
pub struct VersionArgs {
    /// Only version numbers.
    #[arg(short, long, default_value_t = true, action = clap::ArgAction::Set, num_args = 0..=1, default_missing_value = "true")]
    short: bool,
    /// json or yaml.
    #[arg(short, long)]
    output: Option<String>,
    /// Ask the running mesh too.
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set, num_args = 0..=1, default_missing_value = "true")]
    remote: bool,
    /// Only control planes of this revision.
    #[arg(short, long, value_name = "NAME")]
    revision: Option<String>,
}

/// What the running mesh says of itself.
#[derive(Default)]
struct Remote {
    /// Each replica of the control plane: its name, what it says.
    control_planes: Vec<(String, Value)>,
    proxies: Vec<Value>,
}

pub(crate) async fn run(
    global: &Global,
    args: VersionArgs,
    cx: &mut Context<'_>,
) -> Result<(), CliError> {
    let format = match args.output.as_deref() {
        None => None,
        Some("json") => Some(Format::Json),
        Some("yaml") => Some(Format::Yaml),
        Some(_) => return Err(CliError::Usage("--output must be 'yaml' or 'json'".into())),
    };
    let remote = if args.remote {
        match ask(global, args.revision.as_deref(), cx).await {
            Ok(remote) => remote,
            // To have none is no error.
            Err(CliError::NoMesh { state_dir }) => {
                let dir = state_dir.display();
                let _ = writeln!(cx.err, "Waymark is not running from {dir}");
                Remote::default()
            }
            Err(error @ CliError::NoControlPlane { .. }) => {
                let _ = writeln!(cx.err, "Istio is not present in the cluster: {error}");
                Remote::default()
            }
            Err(error) => return Err(error),
        }
    } else {
        Remote::default()
    };
    let text = match format {
        Some(format) => structured(&document(&remote), format),
        None => lines(&remote, args.short),
    };
    cx.out.write_all(text.as_bytes()).map_err(CliError::Output)
}

async fn ask(
    global: &Global,
    revision: Option<&str>,
    cx: &mut Context<'_>,
) -> Result<Remote, CliError> {
    let mesh = mesh::open(global, cx.err).await?;
    let mesh: &dyn MeshClient = &*mesh;
    let mut remote = Remote::default();
    for peer in mesh.control_planes(revision).await? {
        let version = get_json(mesh, &peer, "version").await?;
        let proxies = get_json(mesh, &peer, "debug/syncz").await?;
        remote.control_planes.push((peer.name, version));
        remote
            .proxies
            .extend(proxies.as_array().cloned().unwrap_or_default());
    }
    Ok(remote)
}

fn build_info() -> Value {
    json!({"version": VERSION, "revision": "unknown", "golang_version": "", "status": "Clean", "tag": VERSION})
}

fn document(remote: &Remote) -> Value {
    let data_plane: Vec<Value> = remote
        .proxies
        .iter()
        .map(|p| json!({"ID": p["proxy"], "IstioVersion": p["istio_version"], "Type": p["proxy_type"]}))
        .collect();
    let mut document = json!({"clientVersion": build_info()});
    if !remote.control_planes.is_empty() {
        document["meshVersion"] = remote
            .control_planes
            .iter()
            .map(|(_, info)| json!({"Component": "pilot", "Info": info}))
            .collect();
        document["dataPlaneVersion"] = json!(data_plane);
    }
    document
}

fn lines(remote: &Remote, short: bool) -> String {
    let form = |info: &Value| {
        let version = info["version"].as_str().unwrap_or("unknown");
        if short {
            version.to_owned()
        } else {
            info.to_string()
        }
    };
    let mut text = format!("client version: {}\n", form(&build_info()));
    if let [(_, first), others @ ..] = remote.control_planes.as_slice() {
        if others.iter().all(|(_, info)| form(info) == form(first)) {
            text.push_str(&format!("control plane version: {}\n", form(first)));
        } else {
            for (name, info) in &remote.control_planes {
                text.push_str(&format!("{name} version: {}\n", form(info)));
            }
        }
        let mut counts = std::collections::BTreeMap::<&str, usize>::new();
        for proxy in &remote.proxies {
            let version = proxy["istio_version"]
                .as_str()
                .filter(|v| !v.is_empty())
                .unwrap_or("unknown");
            *counts.entry(version).or_default() += 1;
        }
        let counts: Vec<String> = counts
            .iter()
            .map(|(v, n)| format!("{v} ({n} proxies)"))
            .collect();
        let counts = if counts.is_empty() {
            "none".to_owned()
        } else {
            counts.join(", ")
        };
        text.push_str(&format!("data plane version: {counts}\n"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_proxies_by_version() {
        let replica = |name: &str, version: &str| (name.to_owned(), json!({"version": version}));
        let mut remote = Remote {
            control_planes: vec![replica("a", "0.1.0"), replica("b", "0.1.0")],
            proxies: vec![
                json!({"istio_version": "0.1.0"}),
                json!({"istio_version": "0.1.0"}),
                json!({}),
            ],
        };
        let data_plane = "data plane version: 0.1.0 (2 proxies), unknown (1 proxies)\n";
        assert_eq!(
            lines(&remote, true),
            format!("client version: {VERSION}\ncontrol plane version: 0.1.0\n{data_plane}")
        );
        remote.control_planes.push(replica("c", "0.2.0"));
        assert_eq!(
            lines(&remote, true),
            format!(
                "client version: {VERSION}\na version: 0.1.0\nb version: 0.1.0\nc version: 0.2.0\n{data_plane}"
            )
        );
        assert_eq!(
            lines(&Remote::default(), true),
            format!("client version: {VERSION}\n")
        );
    }
}
