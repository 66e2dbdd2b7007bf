//! Makes out which object a document that is not valid YAML was meant to be.

use crate::error::ObjectRef;
use crate::meta::Kind;

/// The object that a broken document describes, when its kind and name can be seen.
///
/// Good enough to keep the last good version of it: top-level `apiVersion` and `kind`, and `name` and `namespace` one level
/// below `metadata`, in block or flow form.
pub(super) fn object(text: &str) -> Option<ObjectRef> {
    let mut scan = Scan::default();
    let mut in_metadata = false;
    let mut indent = 0;
    for line in text.lines() {
        let trimmed = line.trim_start();
        if trimmed.is_empty() || trimmed.starts_with('#') {
            continue;
        }
        let depth = line.len() - trimmed.len();
        if depth == 0 {
            in_metadata = trimmed.starts_with("metadata:");
            indent = 0;
            let flow = trimmed
                .strip_prefix("metadata:")
                .map(str::trim)
                .and_then(|rest| rest.strip_prefix('{'));
            match flow {
                Some(flow) => flow.split([',', '}']).for_each(|pair| scan.metadata(pair)),
                None => scan.top(trimmed),
            }
        } else if in_metadata {
            if indent == 0 {
                indent = depth;
            }
            if depth == indent {
                scan.metadata(trimmed);
            }
        }
    }
    scan.finish()
}

#[derive(Default)]
struct Scan {
    api_version: Option<String>,
    kind: Option<String>,
    namespace: Option<String>,
    name: Option<String>,
}

impl Scan {
    fn top(&mut self, line: &str) {
        match pair(line) {
            Some(("apiVersion", value)) => self.api_version = Some(value),
            Some(("kind", value)) => self.kind = Some(value),
            _ => {}
        }
    }

    fn metadata(&mut self, line: &str) {
        match pair(line) {
            Some(("name", value)) => self.name = Some(value),
            Some(("namespace", value)) => self.namespace = Some(value),
            _ => {}
        }
    }

    fn finish(self) -> Option<ObjectRef> {
        let (kind, name) = (self.kind?, self.name?);
        let api_version = self.api_version.unwrap_or_default();
        let group = api_version
            .split_once('/')
            .map_or("", |(group, _)| group)
            .to_owned();
        let cluster_wide = Kind::ALL
            .into_iter()
            .any(|k| k.as_str() == kind && !k.is_namespaced());
        let namespace =
            (!cluster_wide).then(|| self.namespace.unwrap_or_else(|| "default".to_owned()));
        Some(ObjectRef {
            group,
            kind,
            namespace,
            name,
        })
    }
}

/// `key: value`, quotes and comment taken off.
fn pair(line: &str) -> Option<(&str, String)> {
    let (key, value) = line.trim().split_once(':')?;
    let value = value
        .split(" #")
        .next()
        .unwrap_or_default()
        .trim()
        .trim_matches(['"', '\'']);
    let plain = |c: char| c.is_ascii_alphanumeric() || "-./".contains(c);
    (!value.is_empty() && value.chars().all(plain)).then(|| (key, value.to_owned()))
}
