//! What came of a request, in a form that can be compared.

use std::collections::BTreeSet;
use std::fmt;

use waymark_testkit::hbone::DialError;

/// What came of a request, line by line: the answer, then what the pod saw. Nothing that may differ from one time to the
/// next: times, identifiers.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Decision(Vec<String>);

/// Headers that are another each time.
const CHANGING: [&str; 3] = ["x-request-id", "date", "x-envoy-upstream-service-time"];

impl Decision {
    /// There was no tunnel, or it broke.
    pub(super) fn failed(error: Option<DialError>) -> Self {
        let why = error.map_or_else(String::new, |e| e.to_string());
        Self(vec![format!("failed: {why}")])
    }

    /// What came back through the tunnel.
    pub(super) fn of(answer: &[u8]) -> Self {
        if answer.is_empty() {
            return Self(vec!["closed".to_owned()]);
        }
        let text = String::from_utf8_lossy(answer);
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
        let mut lines = head_lines("answer", head);
        match serde_json::from_str::<serde_json::Value>(body) {
            Ok(seen) if seen["to"].is_string() => {
                // Its length depends on the identifiers in it.
                lines.retain(|line| !line.starts_with("answer content-length:"));
                for name in ["pod", "to"] {
                    lines.push(format!(
                        "{name} {}",
                        seen[name].as_str().unwrap_or_default()
                    ));
                }
                lines.extend(head_lines("saw", seen["head"].as_str().unwrap_or_default()));
            }
            _ => lines.push(format!("body {body:?}")),
        }
        Self(lines)
    }

    /// Whether that is the body.
    pub(super) fn says(&self, body: &str) -> bool {
        self.0.contains(&format!("body {body:?}"))
    }
}

/// Whether an answer is all there: every answer in question has a length.
pub(super) fn is_whole(answer: &[u8]) -> bool {
    let text = String::from_utf8_lossy(answer);
    let Some((head, body)) = text.split_once("\r\n\r\n") else {
        return false;
    };
    let length = head.split("\r\n").find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length")
            .then(|| value.trim().parse().ok())?
    });
    length.is_some_and(|length: usize| body.len() >= length)
}

/// The first line, then the headers by name.
fn head_lines(what: &str, head: &str) -> Vec<String> {
    let mut lines = head.split("\r\n");
    let first = lines.next().unwrap_or_default();
    let mut headers: Vec<String> = lines
        .filter_map(|line| {
            let (name, value) = line.split_once(':')?;
            let name = name.to_lowercase();
            (!CHANGING.contains(&name.as_str())).then(|| format!("{what} {name}: {}", value.trim()))
        })
        .collect();
    // The order of values of one name counts, that of names does not.
    headers.sort_by(|a, b| a.split(':').next().cmp(&b.split(':').next()));
    let mut all = vec![format!("{what} {first}")];
    all.append(&mut headers);
    all
}

impl fmt::Display for Decision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for line in &self.0 {
            writeln!(f, "    {line}")?;
        }
        Ok(())
    }
}

/// Everything that can come of a request.
pub(super) type Outcomes = BTreeSet<Decision>;

/// Two sets of outcomes for people: what only one of them has.
pub(super) fn difference(names: [&str; 2], outcomes: &[Outcomes; 2]) -> String {
    let mut text = String::new();
    for (name, mine, other) in [
        (names[0], &outcomes[0], &outcomes[1]),
        (names[1], &outcomes[1], &outcomes[0]),
    ] {
        text.push_str(&format!(
            "  {name} ({} outcomes), and the other never:\n",
            mine.len()
        ));
        for decision in mine.difference(other) {
            text.push_str(&decision.to_string());
        }
    }
    text
}
