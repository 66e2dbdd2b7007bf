//! The node's metadata, as istiod demands it. Spec: waypoint-xds.md 2.2.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use serde_json::{Map, Value};

use super::proxy_config::ProxyConfig;
use super::{ANNOTATIONS, Env, LABELS, PodError, ReadFile, downward};

const META: &str = "ISTIO_META_";
const META_JSON: &str = "ISTIO_METAJSON_";
/// Said by the pod itself: no variable may make it another.
const OWN: [&str; 4] = ["NAME", "NAMESPACE", "INSTANCE_IPS", "SERVICE_ACCOUNT"];
/// The only label that says nothing about what the pod is.
const POD_TEMPLATE_HASH: &str = "pod-template-hash";

/// `ISTIO_META_*` as text, `ISTIO_METAJSON_*`, PROXY_CONFIG as an object, labels and annotations.
pub(super) fn metadata(
    env: &Env<'_>,
    proxy: &ProxyConfig,
    root: &Path,
    file: ReadFile<'_>,
) -> Result<BTreeMap<String, Value>, PodError> {
    let mut metadata = BTreeMap::new();
    let (mut labels, mut annotations) = (Map::new(), Map::new());
    for (name, value) in env.0 {
        if let Some(key) = name.strip_prefix(META_JSON) {
            let object = object(env, name, value)?;
            match key {
                "LABELS" => labels.extend(object),
                "ANNOTATIONS" => annotations.extend(object),
                _ => metadata.extend(object),
            }
        } else if let Some(key) = name.strip_prefix(META).filter(|key| !key.is_empty()) {
            metadata.insert(key.to_owned(), Value::from(value.as_str()));
        }
    }
    for own in OWN {
        metadata.remove(own);
    }
    // Without labels istiod does not know which Gateway this is; the file may be missing where a variable has them.
    match pairs(&root.join(LABELS), file) {
        Ok(pairs) => labels.extend(pairs),
        Err(PodError::Read { source, .. })
            if source.kind() == io::ErrorKind::NotFound && !labels.is_empty() => {}
        Err(error) => return Err(error),
    }
    labels.remove(POD_TEMPLATE_HASH);
    match pairs(&root.join(ANNOTATIONS), file) {
        Ok(pairs) => annotations.extend(pairs),
        Err(PodError::Read { source, .. }) if source.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    metadata.insert("LABELS".to_owned(), Value::Object(labels));
    if !annotations.is_empty() {
        metadata.insert("ANNOTATIONS".to_owned(), Value::Object(annotations));
    }
    if let Some(proxy) = proxy.object() {
        metadata.insert("PROXY_CONFIG".to_owned(), Value::Object(proxy.clone()));
    }
    Ok(metadata)
}

fn object(env: &Env<'_>, name: &str, text: &str) -> Result<Map<String, Value>, PodError> {
    match serde_json::from_str(text) {
        Ok(Value::Object(object)) => Ok(object),
        Ok(_) => Err(env.wrong(name, "not a JSON object")),
        Err(error) => Err(env.wrong(name, error.to_string())),
    }
}

fn pairs(path: &Path, file: ReadFile<'_>) -> Result<Map<String, Value>, PodError> {
    let text = file(path).map_err(|source| PodError::Read {
        path: path.to_owned(),
        source,
    })?;
    let pairs = downward::parse(&text).map_err(|line| PodError::Line {
        path: path.to_owned(),
        line,
    })?;
    Ok(pairs
        .into_iter()
        .map(|(k, v)| (k, Value::from(v)))
        .collect())
}
