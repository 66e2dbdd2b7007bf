//! What several kinds have in common: selectors and visibility.

use crate::decode::object::{Field, Object};
use crate::host::is_label;
use crate::istio::{ExportNamespace, ExportTo};
use crate::selector::{LabelSelector, Operator, Requirement};
use crate::tree::quoted;

/// A Kubernetes label selector.
pub(super) fn label_selector(field: &Field<'_>) -> Option<LabelSelector> {
    let mut object = field.object()?;
    Some(LabelSelector {
        match_labels: object
            .opt("matchLabels")
            .map(|f| f.labels())
            .unwrap_or_default(),
        match_expressions: object
            .list("matchExpressions")
            .iter()
            .filter_map(requirement)
            .collect(),
    })
}

fn requirement(field: &Field<'_>) -> Option<Requirement> {
    let mut object = field.object()?;
    let key = object.required_name("key");
    let values = object.strings("values");
    let operator = object.required("operator")?;
    let operator = match (operator.text()?, values.is_empty()) {
        ("In", false) => Operator::In(values),
        ("NotIn", false) => Operator::NotIn(values),
        ("Exists", true) => Operator::Exists,
        ("DoesNotExist", true) => Operator::DoesNotExist,
        ("In" | "NotIn", true) => {
            object.missing("values");
            return None;
        }
        ("Exists" | "DoesNotExist", false) => {
            field.invalid("values have no meaning with this operator", None);
            return None;
        }
        (other, _) => {
            operator.not_one_of(other, ["In", "NotIn", "Exists", "DoesNotExist"].into_iter());
            return None;
        }
    };
    Some(Requirement { key, operator })
}

/// `exportTo` of Istio's kinds.
pub(super) fn export_to(spec: &mut Object<'_>) -> ExportTo {
    let items = spec.list("exportTo");
    let alone = |field: &Field<'_>, what: &str| {
        if items.len() > 1 {
            field.invalid(format!("{} stands alone", quoted(what)), None);
        }
    };
    let mut namespaces = Vec::new();
    for item in &items {
        match item.text() {
            Some("*") => {
                alone(item, "*");
                return ExportTo::All;
            }
            Some("~") => {
                alone(item, "~");
                return ExportTo::None;
            }
            Some(".") => namespaces.push(ExportNamespace::Own),
            Some(name) if is_label(name) => {
                namespaces.push(ExportNamespace::Named(name.to_owned()))
            }
            Some(name) => {
                item.invalid(
                    format!("{} is not allowed", quoted(name)),
                    "allowed: *, ., ~, or a namespace".to_owned(),
                );
            }
            None => {}
        }
    }
    if namespaces.is_empty() {
        ExportTo::All
    } else {
        ExportTo::Namespaces(namespaces)
    }
}
