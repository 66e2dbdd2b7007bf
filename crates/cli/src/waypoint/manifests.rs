//! Gateways and Namespaces as documents of the mesh directory: found, written, removed, leaving everything else as it is.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use waymark_api::waypoint::WaypointClass;
use waymark_api::yaml::{parse_documents, to_yaml};

use super::gateway::Spec;
use crate::error::CliError;

/// The documents of a mesh directory.
pub(crate) struct Manifests {
    directory: PathBuf,
    documents: Vec<Document>,
}

struct Document {
    file: PathBuf,
    /// Lines of the document in its file, from 0, without the separators.
    lines: Range<usize>,
    kind: String,
    namespace: String,
    name: String,
    value: Value,
}

impl Manifests {
    pub(crate) fn read(directory: &Path) -> Result<Self, CliError> {
        let mut documents = Vec::new();
        for file in yaml_files(directory)? {
            documents.extend(read_documents(&file)?);
        }
        Ok(Self {
            directory: directory.to_owned(),
            documents,
        })
    }

    /// Names of the waypoint Gateways of a namespace; `revision` empty: of any.
    pub(crate) fn waypoints(&self, namespace: &str, revision: &str) -> Vec<String> {
        self.documents
            .iter()
            .filter(|d| d.is_waypoint() && d.namespace == namespace)
            .filter(|d| {
                revision.is_empty() || d.value["metadata"]["labels"]["istio.io/rev"] == revision
            })
            .map(|d| d.name.clone())
            .collect()
    }

    pub(crate) fn namespace_labels(&self, namespace: &str) -> BTreeMap<String, String> {
        self.documents
            .iter()
            .find(|d| d.kind == "Namespace" && d.name == namespace)
            .and_then(|d| d.value["metadata"]["labels"].as_object())
            .into_iter()
            .flatten()
            .filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned())))
            .collect()
    }

    /// Writes the Gateway in place of the one of that name, or as a file of its own.
    pub(crate) fn put(&mut self, spec: &Spec) -> Result<(), CliError> {
        let place = self.documents.iter().find(|d| {
            d.kind == "Gateway" && d.namespace == spec.namespace() && d.name == spec.name()
        });
        match place {
            Some(document) => replace(document, &spec.yaml())?,
            None => {
                let file = format!("waypoint-{}-{}.yaml", spec.namespace(), spec.name());
                write(&self.directory.join(file), &spec.yaml())?;
            }
        }
        *self = Self::read(&self.directory)?;
        Ok(())
    }

    /// Removes a waypoint Gateway; `false` when there is none of that name.
    pub(crate) fn remove(&mut self, namespace: &str, name: &str) -> Result<bool, CliError> {
        let place = self
            .documents
            .iter()
            .find(|d| d.is_waypoint() && d.namespace == namespace && d.name == name);
        let Some(document) = place else {
            return Ok(false);
        };
        replace(document, "")?;
        *self = Self::read(&self.directory)?;
        Ok(true)
    }

    /// Sets a label of a namespace; its document is written anew.
    pub(crate) fn label_namespace(
        &mut self,
        namespace: &str,
        label: &str,
        value: &str,
    ) -> Result<(), CliError> {
        let place = self
            .documents
            .iter()
            .find(|d| d.kind == "Namespace" && d.name == namespace);
        match place {
            Some(document) => {
                let mut changed = document.value.clone();
                changed["metadata"]["labels"][label] = json!(value);
                replace(document, &to_yaml(&changed))?;
            }
            None => {
                let made = json!({"apiVersion": "v1", "kind": "Namespace",
                    "metadata": {"labels": {label: value}, "name": namespace}});
                write(
                    &self.directory.join(format!("namespace-{namespace}.yaml")),
                    &to_yaml(&made),
                )?;
            }
        }
        *self = Self::read(&self.directory)?;
        Ok(())
    }
}

impl Document {
    fn is_waypoint(&self) -> bool {
        let class = self.value["spec"]["gatewayClassName"].as_str();
        self.kind == "Gateway" && class.and_then(WaypointClass::of_name).is_some()
    }
}

/// Puts `text` where the document is; a file left without content is removed.
fn replace(document: &Document, text: &str) -> Result<(), CliError> {
    let content = read_text(&document.file)?;
    let lines: Vec<&str> = content.split_inclusive('\n').collect();
    let Range { start, end } = document.lines;
    let mut before = lines[..start].concat();
    let after = lines[end..].concat();
    if text.is_empty() {
        // The separator above goes with its document.
        before.truncate(before.strip_suffix("---\n").map_or(before.len(), str::len));
    }
    let content = format!("{before}{text}{after}");
    let empty = content
        .lines()
        .all(|l| l.trim().is_empty() || l.starts_with('#') || l.starts_with("---"));
    if empty {
        return std::fs::remove_file(&document.file).map_err(|source| CliError::File {
            action: "remove",
            path: document.file.clone(),
            source,
        });
    }
    write(&document.file, &content)
}

fn read_documents(file: &Path) -> Result<Vec<Document>, CliError> {
    let text = read_text(file)?;
    let ranges = ranges(&text);
    let parsed = parse_documents(&file.to_string_lossy(), &text);
    Ok(parsed
        .into_iter()
        .filter_map(Result::ok)
        .filter_map(|document| {
            let line = document.line.saturating_sub(1);
            let lines = ranges.iter().find(|r| r.contains(&line))?.clone();
            let metadata = &document.value["metadata"];
            Some(Document {
                file: file.to_owned(),
                lines,
                kind: document.value["kind"].as_str()?.to_owned(),
                namespace: metadata["namespace"]
                    .as_str()
                    .unwrap_or("default")
                    .to_owned(),
                name: metadata["name"].as_str()?.to_owned(),
                value: document.value,
            })
        })
        .collect())
}

/// Lines of each document, separators left out.
fn ranges(text: &str) -> Vec<Range<usize>> {
    let mut ranges = Vec::new();
    let mut start = 0;
    let mut count = 0;
    for (number, line) in text.lines().enumerate() {
        count = number + 1;
        if line.trim_end() == "---" {
            ranges.push(start..number);
            start = number + 1;
        }
    }
    ranges.push(start..count);
    ranges
}

fn yaml_files(directory: &Path) -> Result<Vec<PathBuf>, CliError> {
    let error = |source| CliError::File {
        action: "read",
        path: directory.to_owned(),
        source,
    };
    let mut files = Vec::new();
    for entry in std::fs::read_dir(directory).map_err(error)? {
        let path = entry.map_err(error)?.path();
        if path.is_dir() {
            files.extend(yaml_files(&path)?);
        } else if path.extension().is_some_and(|e| e == "yaml" || e == "yml") {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

fn read_text(path: &Path) -> Result<String, CliError> {
    std::fs::read_to_string(path).map_err(|source| CliError::File {
        action: "read",
        path: path.to_owned(),
        source,
    })
}

/// At once: the control plane, which watches, sees the old or the new file.
fn write(path: &Path, text: &str) -> Result<(), CliError> {
    let temporary = path.with_extension("yaml.new");
    std::fs::write(&temporary, text)
        .and_then(|()| std::fs::rename(&temporary, path))
        .map_err(|source| CliError::File {
            action: "write",
            path: path.to_owned(),
            source,
        })
}

#[cfg(test)]
mod tests {
    use super::super::gateway::Form;
    use super::*;

    const FILE: &str = "# the shop\napiVersion: v1\nkind: Namespace\nmetadata:\n  name: shop\n---\n# its waypoint\napiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata:\n  name: w\n  namespace: shop\n  labels:\n    istio.io/rev: r1\nspec:\n  gatewayClassName: istio-waypoint\n  listeners:\n  - name: mesh\n    port: 15008\n    protocol: HBONE\n---\napiVersion: v1\nkind: ServiceAccount\nmetadata:\n  name: a\n  namespace: shop\n";

    fn directory() -> tempfile::TempDir {
        let dir = tempfile::tempdir().expect("temporary directory");
        std::fs::write(dir.path().join("shop.yaml"), FILE).expect("write");
        dir
    }

    fn text(dir: &tempfile::TempDir) -> String {
        std::fs::read_to_string(dir.path().join("shop.yaml")).expect("read")
    }

    #[test]
    fn removes_a_document_and_leaves_the_others() {
        let dir = directory();
        let mut manifests = Manifests::read(dir.path()).expect("read");
        assert_eq!(manifests.waypoints("shop", ""), ["w"]);
        assert_eq!(manifests.waypoints("shop", "r2"), [""; 0]);
        assert!(manifests.remove("shop", "w").expect("remove"));
        assert!(!manifests.remove("shop", "w").expect("again"));
        let text = text(&dir);
        assert!(
            text.starts_with("# the shop\n") && text.contains("kind: ServiceAccount"),
            "{text}"
        );
        assert!(!text.contains("Gateway"), "{text}");
    }

    #[test]
    fn replaces_in_place_or_makes_a_file() {
        let dir = directory();
        let mut manifests = Manifests::read(dir.path()).expect("read");
        let spec = |name: &str| {
            Spec::new(
                name,
                Some("shop"),
                Form::Today,
                WaypointClass::Istio,
                "all",
                "",
            )
            .expect("spec")
        };
        manifests.put(&spec("w")).expect("replace");
        assert!(text(&dir).contains("istio.io/waypoint-for: all"));
        manifests.put(&spec("other")).expect("make");
        assert!(dir.path().join("waypoint-shop-other.yaml").is_file());
        assert!(manifests.remove("shop", "other").expect("remove"));
        assert!(!dir.path().join("waypoint-shop-other.yaml").exists());
    }

    #[test]
    fn labels_a_namespace_that_has_a_document_and_one_that_has_none() {
        let dir = directory();
        let mut manifests = Manifests::read(dir.path()).expect("read");
        for namespace in ["shop", "new"] {
            manifests
                .label_namespace(namespace, "istio.io/use-waypoint", "w")
                .expect("label");
            assert_eq!(
                manifests.namespace_labels(namespace)["istio.io/use-waypoint"],
                "w"
            );
        }
    }
}
