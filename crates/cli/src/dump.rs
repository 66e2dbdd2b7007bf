//! Reading `/config_dump` and `/clusters`: protobuf JSON whose field names may be snake_case or lowerCamelCase.

use serde_json::Value;

use crate::error::CliError;

const PREFIX: &str = "type.googleapis.com/envoy.admin.v3.";

/// A config dump.
#[derive(Debug, Clone)]
pub(crate) struct Dump {
    pub(crate) value: Value,
}

impl Dump {
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, CliError> {
        let value = serde_json::from_slice(bytes)
            .map_err(|e| CliError::Data(format!("the config dump is not JSON: {e}")))?;
        Ok(Self { value })
    }

    /// The section `<name>ConfigDump`; of several the last.
    pub(crate) fn section(&self, name: &str) -> Result<&Value, CliError> {
        let url = format!("{PREFIX}{name}ConfigDump");
        items(&self.value, "configs")
            .iter()
            .rev()
            .find(|section| text(section, "@type") == url)
            .ok_or_else(|| CliError::Data(format!("config dump has no configuration type {url}")))
    }

    /// Clusters: active dynamic ones, then static ones.
    pub(crate) fn clusters(&self) -> Result<Vec<&Value>, CliError> {
        let section = self.section("Clusters")?;
        Ok(["dynamic_active_clusters", "static_clusters"]
            .iter()
            .flat_map(|list| items(section, list))
            .filter_map(|entry| field(entry, "cluster"))
            .collect())
    }

    /// Listeners: the active state of dynamic ones, then static ones.
    pub(crate) fn listeners(&self) -> Result<Vec<&Value>, CliError> {
        let section = self.section("Listeners")?;
        let dynamic = items(section, "dynamic_listeners")
            .iter()
            .filter_map(|entry| field(field(entry, "active_state")?, "listener"));
        let fixed = items(section, "static_listeners")
            .iter()
            .filter_map(|entry| field(entry, "listener"));
        Ok(dynamic.chain(fixed).collect())
    }

    /// Route configurations: dynamic, then static.
    pub(crate) fn routes(&self) -> Result<Vec<&Value>, CliError> {
        let section = self.section("Routes")?;
        Ok(["dynamic_route_configs", "static_route_configs"]
            .iter()
            .flat_map(|list| items(section, list))
            .filter_map(|entry| field(entry, "route_config"))
            .collect())
    }
}

/// The field of that snake_case name, spelled either way.
pub(crate) fn field<'a>(value: &'a Value, name: &str) -> Option<&'a Value> {
    value.get(name).or_else(|| value.get(camel(name)))
}

/// The field at the end of a path of fields.
pub(crate) fn path<'a>(value: &'a Value, names: &[&str]) -> Option<&'a Value> {
    names
        .iter()
        .try_fold(value, |value, name| field(value, name))
}

/// The elements of a repeated field.
pub(crate) fn items<'a>(value: &'a Value, name: &str) -> &'a [Value] {
    field(value, name)
        .and_then(Value::as_array)
        .map_or(&[], Vec::as_slice)
}

/// A string field, empty when absent.
pub(crate) fn text<'a>(value: &'a Value, name: &str) -> &'a str {
    field(value, name).and_then(Value::as_str).unwrap_or("")
}

/// A number field, 0 when absent; 64-bit numbers are strings in protobuf JSON.
pub(crate) fn number(value: &Value, name: &str) -> u64 {
    field(value, name).map_or(0, |v| {
        v.as_u64()
            .or_else(|| v.as_str().and_then(|s| s.parse().ok()))
            .unwrap_or(0)
    })
}

/// `<name>.<namespace>` from `filter_metadata.istio.config`: `/apis/<group>/<version>/namespaces/<ns>/<kind>/<name>`.
///
/// Another number of pieces prints as nothing, another prefix as `<unknown>`, as upstream does.
pub(crate) fn config_object(message: &Value) -> String {
    let config = path(message, &["metadata", "filter_metadata"])
        .and_then(|metadata| metadata.get("istio"))
        .and_then(|istio| istio.get("config"))
        .and_then(Value::as_str);
    let Some(config) = config else {
        return String::new();
    };
    if !config.starts_with("/apis/networking.istio.io/") {
        return "<unknown>".to_owned();
    }
    let pieces: Vec<&str> = config.split('/').collect();
    match pieces.as_slice() {
        [_, _, _, _, _, namespace, _, name] => format!("{name}.{namespace}"),
        _ => String::new(),
    }
}

fn camel(name: &str) -> String {
    let mut out = String::with_capacity(name.len());
    let mut upper = false;
    for c in name.chars() {
        if c == '_' {
            upper = true;
        } else if upper {
            out.extend(c.to_uppercase());
            upper = false;
        } else {
            out.push(c);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn reads_both_spellings() {
        assert_eq!(text(&json!({"server_name": "a"}), "server_name"), "a");
        assert_eq!(text(&json!({"serverName": "b"}), "server_name"), "b");
        assert_eq!(number(&json!({"portValue": 9080}), "port_value"), 9080);
        assert_eq!(number(&json!({"value": "7"}), "value"), 7);
    }

    #[test]
    fn names_the_object_that_a_resource_was_made_from() {
        let message =
            |config: &str| json!({"metadata": {"filter_metadata": {"istio": {"config": config}}}});
        for (config, want) in [
            (
                "/apis/networking.istio.io/v1/namespaces/default/virtual-service/reviews",
                "reviews.default",
            ),
            ("/apis/networking.istio.io/v1/namespaces/default", ""),
            (
                "/apis/gateway.networking.k8s.io/v1/namespaces/d/http-route/r",
                "<unknown>",
            ),
        ] {
            assert_eq!(config_object(&message(config)), want, "{config}");
        }
        assert_eq!(config_object(&json!({})), "");
    }

    #[test]
    fn the_last_section_of_a_kind_wins_and_a_missing_one_is_named() {
        let url = format!("{PREFIX}RoutesConfigDump");
        let dump = Dump {
            value: json!({"configs": [
                {"@type": url, "static_route_configs": [{"route_config": {"name": "old"}}]},
                {"@type": url, "dynamic_route_configs": [{"routeConfig": {"name": "new"}}]}]}),
        };
        let routes = dump.routes().expect("routes");
        assert_eq!(text(routes[0], "name"), "new");
        let error = dump.clusters().expect_err("no clusters");
        assert!(
            error
                .to_string()
                .contains("envoy.admin.v3.ClustersConfigDump")
        );
    }
}
