//! YAML: documents in, documents out.

mod emit;
mod load;
mod scan;

use crate::decode::{self, Problem};
use crate::error::{DocumentError, ErrorClass, ObjectRef};
use crate::meta::Kind;
use crate::resource::Resource;
use crate::support;
use crate::tree::{Node, Position, Value, quoted};

pub use emit::to_yaml;

/// A good document.
#[derive(Debug, Clone, PartialEq)]
pub struct Document {
    /// The object.
    pub resource: Resource,
    /// The line that it begins on, from 1.
    pub line: usize,
    /// The document as it was written, defaults not filled in.
    pub value: serde_json::Value,
}

/// Reads the documents of a file. `file` only names it in errors.
///
/// A good document gives one `Ok` (a `List` one for each item), a broken one an `Err` for each thing that is wrong with it (up
/// to 20), and does not stop the others. Empty documents give nothing. JSON is YAML too.
pub fn parse_documents(file: &str, text: &str) -> Vec<Result<Document, DocumentError>> {
    let mut results = Vec::new();
    for chunk in load::split(text) {
        match load::load(chunk) {
            Ok(None) => {}
            Ok(Some(node)) => read(file, &node, &mut results),
            Err(e) => results.push(Err(DocumentError {
                file: file.to_owned(),
                line: e.at.line,
                column: e.at.column,
                object: scan::object(chunk.text),
                field: None,
                class: ErrorClass::Syntax,
                message: e.message,
                allowed: None,
            })),
        }
    }
    results
}

/// Reads a text that is one YAML document, of whatever it may be. An empty one is null.
///
/// # Errors
/// What is wrong with it, and where.
pub fn parse_value(text: &str) -> Result<serde_json::Value, String> {
    match load::split(text).as_slice() {
        [] => Ok(serde_json::Value::Null),
        [chunk] => match load::load(*chunk) {
            Ok(node) => Ok(node.map_or(serde_json::Value::Null, |node| node.to_json())),
            Err(e) => Err(format!(
                "line {}, column {}: {}",
                e.at.line, e.at.column, e.message
            )),
        },
        _ => Err("one document is wanted, not several".to_owned()),
    }
}

/// Reads one object from JSON, as an API server gives it. `source` names where it is from in errors, whose lines are 0.
///
/// # Errors
/// Everything that is wrong with it, at least one.
pub fn parse_json(source: &str, json: &serde_json::Value) -> Result<Resource, Vec<DocumentError>> {
    object(source, &Node::from_json(json))
}

fn read(file: &str, node: &Node, results: &mut Vec<Result<Document, DocumentError>>) {
    if let (Some("List"), Some("v1"), Some(items)) = (
        node.text("kind"),
        node.text("apiVersion"),
        node.entry("items"),
    ) && let Value::Seq(items) = &items.node.value
    {
        for item in items {
            read_one(file, item, results);
        }
        return;
    }
    read_one(file, node, results);
}

fn read_one(file: &str, node: &Node, results: &mut Vec<Result<Document, DocumentError>>) {
    match object(file, node) {
        Ok(resource) => {
            results.push(Ok(Document {
                resource,
                line: node.at.line,
                value: node.to_json(),
            }));
        }
        Err(errors) => results.extend(errors.into_iter().map(Err)),
    }
}

fn object(file: &str, node: &Node) -> Result<Resource, Vec<DocumentError>> {
    let type_meta = match type_meta(node) {
        Ok(type_meta) => type_meta,
        Err(problem) => return Err(vec![document_error(file, None, problem)]),
    };
    let object = object_ref(node, &type_meta);
    let fail = |problems: Vec<Problem>| {
        problems
            .into_iter()
            .map(|p| document_error(file, object.clone(), p))
            .collect::<Vec<_>>()
    };
    match known_kind(&type_meta, node.at) {
        Ok(kind) => decode::decode(kind, type_meta.version, node).map_err(fail),
        Err(refusal) => {
            let mut problems = vec![refusal];
            if type_meta.group == "security.istio.io" && type_meta.kind == "AuthorizationPolicy" {
                problems.extend(decode::authorization_policy(node).err().unwrap_or_default());
            }
            Err(fail(problems))
        }
    }
}

/// `apiVersion` and `kind`.
struct TypeMeta<'a> {
    group: &'a str,
    version: &'a str,
    kind: &'a str,
    at: Position,
}

fn type_meta(node: &Node) -> Result<TypeMeta<'_>, Problem> {
    let Value::Map(_) = &node.value else {
        return Err(problem(
            node.at,
            None,
            ErrorClass::Invalid,
            format!("must be an object, got {}", node.describe()),
            None,
        ));
    };
    let text = |name: &str| {
        node.text(name).filter(|t| !t.is_empty()).ok_or_else(|| {
            let at = node.entry(name).map_or(node.at, |e| e.node.at);
            problem(
                at,
                Some(name),
                ErrorClass::Invalid,
                "is required".into(),
                None,
            )
        })
    };
    let (kind, api_version) = (text("kind")?, text("apiVersion")?);
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    let at = node.entry("apiVersion").map_or(node.at, |e| e.node.at);
    Ok(TypeMeta {
        group,
        version,
        kind,
        at,
    })
}

fn object_ref(node: &Node, type_meta: &TypeMeta<'_>) -> Option<ObjectRef> {
    let meta = node.entry("metadata").map(|e| &e.node);
    let cluster_wide = Kind::ALL
        .into_iter()
        .any(|k| k.as_str() == type_meta.kind && !k.is_namespaced());
    let namespace = meta.and_then(|m| m.text("namespace")).unwrap_or("default");
    Some(ObjectRef {
        group: type_meta.group.to_owned(),
        kind: type_meta.kind.to_owned(),
        namespace: (!cluster_wide).then(|| namespace.to_owned()),
        name: meta
            .and_then(|m| m.text("name"))
            .unwrap_or_default()
            .to_owned(),
    })
}

/// The kind, or why objects of it are not taken.
fn known_kind(type_meta: &TypeMeta<'_>, at: Position) -> Result<Kind, Problem> {
    let TypeMeta {
        group,
        version,
        kind,
        ..
    } = type_meta;
    if let Some(known) = Kind::ALL
        .into_iter()
        .find(|k| k.as_str() == *kind && k.group() == *group)
    {
        return if known.versions().contains(version) {
            Ok(known)
        } else {
            Err(other_version(type_meta, known))
        };
    }
    if let Some(refused) = support::refused_kind(group, kind) {
        let message = format!("{kind} is not supported yet");
        return Err(problem(
            at,
            None,
            ErrorClass::Unsupported,
            message,
            Some(refused.reason.to_owned()),
        ));
    }
    if let Some(namesake) = Kind::ALL.into_iter().find(|k| k.as_str() == *kind) {
        return Err(other_version(type_meta, namesake));
    }
    Err(not_read(type_meta, at))
}

fn other_version(type_meta: &TypeMeta<'_>, kind: Kind) -> Problem {
    let api_version = |v: &&str| {
        if kind.group().is_empty() {
            (*v).to_owned()
        } else {
            format!("{}/{v}", kind.group())
        }
    };
    let given = if type_meta.group.is_empty() {
        type_meta.version.to_owned()
    } else {
        format!("{}/{}", type_meta.group, type_meta.version)
    };
    let allowed: Vec<String> = kind.versions().iter().map(api_version).collect();
    problem(
        type_meta.at,
        Some("apiVersion"),
        ErrorClass::Invalid,
        format!("{} is not a version of {kind}", quoted(&given)),
        Some(format!("allowed: {}", allowed.join(", "))),
    )
}

fn not_read(type_meta: &TypeMeta<'_>, at: Position) -> Problem {
    let kind = type_meta.kind;
    let near = Kind::ALL
        .into_iter()
        .find(|k| k.as_str().eq_ignore_ascii_case(kind));
    let hint = match (near, kind) {
        (Some(near), _) => format!("did you mean {near}?"),
        (None, "Deployment" | "ReplicaSet" | "StatefulSet" | "DaemonSet" | "Job" | "CronJob") => {
            "write each Pod".to_owned()
        }
        (None, "ConfigMap") => "the mesh has no configuration map".to_owned(),
        (None, "Endpoints") => "write an EndpointSlice".to_owned(),
        (None, _) => format!("allowed: {}", Kind::ALL.map(Kind::as_str).join(", ")),
    };
    problem(
        at,
        None,
        ErrorClass::NotRead,
        format!("{kind} is a kind that is not read"),
        Some(hint),
    )
}

fn problem(
    at: Position,
    field: Option<&str>,
    class: ErrorClass,
    message: String,
    allowed: Option<String>,
) -> Problem {
    Problem {
        at,
        field: field.map(str::to_owned),
        class,
        message,
        allowed,
    }
}

fn document_error(file: &str, object: Option<ObjectRef>, problem: Problem) -> DocumentError {
    let Problem {
        at,
        field,
        class,
        message,
        allowed,
    } = problem;
    DocumentError {
        file: file.to_owned(),
        line: at.line,
        column: at.column,
        object,
        field,
        class,
        message,
        allowed,
    }
}

#[cfg(test)]
mod tests;
