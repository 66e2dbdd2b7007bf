//! Conditions, and how they change.

use serde_json::{Value, json};

/// Whether something is so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConditionStatus {
    /// It is.
    True,
    /// It is not.
    False,
}

impl ConditionStatus {
    const fn as_str(self) -> &'static str {
        match self {
            Self::True => "True",
            Self::False => "False",
        }
    }
}

/// A condition that an object is to have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Condition {
    /// What it is about.
    pub kind: &'static str,
    /// Whether it is so.
    pub status: ConditionStatus,
    /// Why, in one word.
    pub reason: String,
    /// Why, in a sentence.
    pub message: String,
}

impl Condition {
    /// One that is so.
    pub fn yes(kind: &'static str, reason: &str, message: impl Into<String>) -> Self {
        Self::new(kind, ConditionStatus::True, reason, message)
    }

    /// One that is not.
    pub fn no(kind: &'static str, reason: &str, message: impl Into<String>) -> Self {
        Self::new(kind, ConditionStatus::False, reason, message)
    }

    fn new(
        kind: &'static str,
        status: ConditionStatus,
        reason: &str,
        message: impl Into<String>,
    ) -> Self {
        Self {
            kind,
            status,
            reason: reason.to_owned(),
            message: message.into(),
        }
    }
}

/// How a kind writes conditions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Style {
    /// `metav1.Condition`.
    Kubernetes,
    /// Istio's, whose generation is a text.
    Istio,
}

/// Conditions as an object is to have them. What says the same as in `seen` has been so since then.
pub(super) fn conditions(
    wanted: &[Condition],
    seen: &Value,
    generation: i64,
    style: Style,
    now: &str,
) -> Vec<Value> {
    wanted
        .iter()
        .map(|condition| {
            let before = seen
                .as_array()
                .into_iter()
                .flatten()
                .find(|seen| seen["type"] == condition.kind);
            let status = condition.status.as_str();
            let since = before
                .filter(|before| before["status"] == status)
                .and_then(|before| before["lastTransitionTime"].as_str())
                .unwrap_or(now);
            let mut written = json!({
                "type": condition.kind,
                "status": status,
                "reason": condition.reason,
                "message": cut(&condition.message),
                "lastTransitionTime": since,
            });
            written["observedGeneration"] = match style {
                Style::Kubernetes => generation.into(),
                Style::Istio => generation.to_string().into(),
            };
            written
        })
        .collect()
}

/// A condition's message has at most 32,768 characters.
fn cut(message: &str) -> String {
    message.chars().take(MAX_MESSAGE).collect()
}

const MAX_MESSAGE: usize = 32_768;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_of_a_condition_changes_with_its_status_only() {
        let seen = json!([
            {"type": "A", "status": "True", "lastTransitionTime": "old", "message": "before"},
            {"type": "B", "status": "False", "lastTransitionTime": "old"},
        ]);
        let wanted = [
            Condition::yes("A", "R", "after"),
            Condition::yes("B", "R", ""),
        ];
        let written = conditions(&wanted, &seen, 7, Style::Kubernetes, "now");
        assert_eq!(written[0]["lastTransitionTime"], "old");
        assert_eq!(written[0]["message"], "after");
        assert_eq!(written[0]["observedGeneration"], 7);
        assert_eq!(written[1]["lastTransitionTime"], "now");
        let istio = conditions(&wanted, &seen, 7, Style::Istio, "now");
        assert_eq!(istio[0]["observedGeneration"], "7");
    }
}
