//! Label selectors.

use std::collections::BTreeMap;

use crate::meta::Map;

/// Whether `labels` has everything that a plain selector asks for. An empty selector selects nothing, as on Services.
pub fn selects(selector: &Map, labels: &Map) -> bool {
    !selector.is_empty() && is_subset(selector, labels)
}

/// Whether every pair of `wanted` is in `labels`; an empty `wanted` is.
pub fn is_subset(wanted: &Map, labels: &Map) -> bool {
    wanted
        .iter()
        .all(|(name, value)| labels.get(name) == Some(value))
}

/// A Kubernetes label selector. Everything it asks for must hold; one that asks for nothing selects everything.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LabelSelector {
    /// `matchLabels`.
    pub match_labels: BTreeMap<String, String>,
    /// `matchExpressions`.
    pub match_expressions: Vec<Requirement>,
}

/// One of a selector's `matchExpressions`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Requirement {
    /// The label's name.
    pub key: String,
    /// What holds for its value.
    pub operator: Operator,
}

/// What a [`Requirement`] asks of a label.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Operator {
    /// It is one of these.
    In(Vec<String>),
    /// It is absent or none of these.
    NotIn(Vec<String>),
    /// It is there.
    Exists,
    /// It is absent.
    DoesNotExist,
}

impl LabelSelector {
    /// Whether the labels are selected.
    pub fn selects(&self, labels: &Map) -> bool {
        is_subset(&self.match_labels, labels)
            && self
                .match_expressions
                .iter()
                .all(|r| r.operator.holds(labels.get(&r.key)))
    }
}

impl Operator {
    fn holds(&self, value: Option<&String>) -> bool {
        match self {
            Self::In(values) => value.is_some_and(|v| values.contains(v)),
            Self::NotIn(values) => value.is_none_or(|v| !values.contains(v)),
            Self::Exists => value.is_some(),
            Self::DoesNotExist => value.is_none(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> Map {
        pairs
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
            .collect()
    }

    #[test]
    fn an_empty_service_selector_selects_nothing() {
        let pod = labels(&[("app", "reviews"), ("version", "v1")]);
        assert!(selects(&labels(&[("app", "reviews")]), &pod));
        assert!(!selects(&labels(&[("app", "ratings")]), &pod));
        assert!(!selects(&Map::new(), &pod));
    }

    #[test]
    fn expressions_are_anded() {
        let ns = labels(&[("team", "a")]);
        let one = |operator| LabelSelector {
            match_labels: Map::new(),
            match_expressions: vec![Requirement {
                key: "team".into(),
                operator,
            }],
        };
        assert!(one(Operator::In(vec!["a".into(), "b".into()])).selects(&ns));
        assert!(!one(Operator::NotIn(vec!["a".into()])).selects(&ns));
        assert!(one(Operator::NotIn(vec!["a".into()])).selects(&Map::new()));
        assert!(one(Operator::Exists).selects(&ns));
        assert!(one(Operator::DoesNotExist).selects(&Map::new()));
        assert!(LabelSelector::default().selects(&ns));
    }
}
