//! `version`.

use clap::Args;
use serde_json::{Value, json};

use crate::error::CliError;
use crate::mesh::{Mesh, get_json};
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
    let mesh = match args.remote.then(|| Mesh::find(global)) {
        None => None,
        Some(Ok(mesh)) => Some(mesh),
        Some(Err(CliError::NoMesh { state_dir })) => {
            let _ = writeln!(
                cx.err,
                "Waymark is not running from {}",
                state_dir.display()
            );
            None
        }
        Some(Err(error)) => return Err(error),
    };
    let (control, proxies) = match &mesh {
        None => (None, Vec::new()),
        Some(mesh) => {
            let debug = mesh.control_plane.debug;
            let control = get_json("the control plane", debug, "version").await?;
            let proxies = get_json("the control plane", debug, "debug/syncz").await?;
            (
                Some(control),
                proxies.as_array().cloned().unwrap_or_default(),
            )
        }
    };
    let text = match format {
        Some(format) => structured(&document(control.as_ref(), &proxies), format),
        None => lines(control.as_ref(), &proxies, args.short),
    };
    cx.out.write_all(text.as_bytes()).map_err(CliError::Output)
}

fn build_info() -> Value {
    json!({"version": VERSION, "revision": "unknown", "golang_version": "", "status": "Clean", "tag": VERSION})
}

fn document(control: Option<&Value>, proxies: &[Value]) -> Value {
    let data_plane: Vec<Value> = proxies
        .iter()
        .map(|p| json!({"ID": p["proxy"], "IstioVersion": p["istio_version"], "Type": p["proxy_type"]}))
        .collect();
    let mut document = json!({"clientVersion": build_info()});
    if let Some(info) = control {
        document["meshVersion"] = json!([{"Component": "pilot", "Info": info}]);
        document["dataPlaneVersion"] = json!(data_plane);
    }
    document
}

fn lines(control: Option<&Value>, proxies: &[Value], short: bool) -> String {
    let form = |info: &Value| {
        let version = info["version"].as_str().unwrap_or("unknown");
        if short {
            version.to_owned()
        } else {
            info.to_string()
        }
    };
    let mut text = format!("client version: {}\n", form(&build_info()));
    if let Some(info) = control {
        text.push_str(&format!("control plane version: {}\n", form(info)));
        let mut counts = std::collections::BTreeMap::<&str, usize>::new();
        for proxy in proxies {
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
        let proxies = [
            json!({"istio_version": "0.1.0"}),
            json!({"istio_version": "0.1.0"}),
            json!({}),
        ];
        assert_eq!(
            lines(Some(&json!({"version": "0.1.0"})), &proxies, true),
            format!(
                "client version: {VERSION}\ncontrol plane version: 0.1.0\ndata plane version: 0.1.0 (2 proxies), unknown (1 proxies)\n"
            )
        );
        assert_eq!(
            lines(None, &[], true),
            format!("client version: {VERSION}\n")
        );
    }
}
