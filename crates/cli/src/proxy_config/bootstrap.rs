//! `proxy-config bootstrap -o short`: versions.

use serde_json::Value;

use crate::dump::{field, number, path, text};
use crate::table::Table;

pub(crate) fn table(section: &Value) -> String {
    let node = path(section, &["bootstrap", "node"]).unwrap_or(&Value::Null);
    let metadata = |key: &str| {
        field(node, "metadata")
            .and_then(|m| m.get(key))
            .and_then(Value::as_str)
            .unwrap_or("")
            .to_owned()
    };
    let sha = metadata("ISTIO_PROXY_SHA");
    let sha = sha.split_once(':').map_or(sha.as_str(), |(_, after)| after);
    let mut table = Table::new(1);
    table.row(["Istio Version:", &metadata("ISTIO_VERSION")]);
    table.row(["Istio Proxy Version:", sha]);
    table.row(["Envoy Version:", &envoy_version(node)]);
    table.render()
}

/// `major.minor.patch`, then what the build says of itself.
fn envoy_version(node: &Value) -> String {
    let Some(build) = field(node, "user_agent_build_version") else {
        return text(node, "user_agent_version").to_owned();
    };
    let version = field(build, "version").unwrap_or(&Value::Null);
    let mut out = format!(
        "{}.{}.{}",
        number(version, "major_number"),
        number(version, "minor_number"),
        number(version, "patch")
    );
    for (key, separator) in [
        ("build.label", "-"),
        ("revision.status", "/"),
        ("build.type", "/"),
        ("ssl.version", "/"),
    ] {
        let part = field(build, "metadata")
            .and_then(|m| m.get(key))
            .and_then(Value::as_str);
        if let Some(part) = part {
            out.push_str(separator);
            out.push_str(part);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn shows_three_versions() {
        let section = json!({"bootstrap": {"node": {
            "metadata": {"ISTIO_VERSION": "1.32.0", "ISTIO_PROXY_SHA": "istio-proxy:abc"},
            "user_agent_build_version": {"version": {"major_number": 1, "minor_number": 40}, "metadata": {"revision.status": "Clean"}}}}});
        assert_eq!(
            table(&section),
            "Istio Version:       1.32.0\nIstio Proxy Version: abc\nEnvoy Version:       1.40.0/Clean\n"
        );
    }
}
