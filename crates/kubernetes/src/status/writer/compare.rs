//! Whether a status says already what it is to say.

use serde_json::Value;

use crate::status::object::StatusKind;

/// Whether everything in `wanted` is in `seen`, and nothing of ours that is not wanted.
pub(super) fn covers(kind: StatusKind, seen: &Value, wanted: &Value) -> bool {
    let unwanted = seen["conditions"]
        .as_array()
        .into_iter()
        .flatten()
        .any(|condition| {
            let ours = kind
                .condition_types()
                .iter()
                .any(|of| condition["type"] == *of)
                || condition["type"] == "waymark.dev/Deployed";
            ours && find(&wanted["conditions"], "type", condition).is_none()
        });
    !unwanted && contains(seen, wanted)
}

fn contains(seen: &Value, wanted: &Value) -> bool {
    let Value::Object(wanted) = wanted else {
        return seen == wanted;
    };
    wanted.iter().all(|(field, wanted)| {
        let seen = &seen[field];
        let (Value::Array(items), key) = (wanted, key(field)) else {
            return contains(seen, wanted);
        };
        let Some(key) = key else {
            // The API server leaves out what is empty.
            return seen == wanted || items.is_empty() && seen.is_null();
        };
        let all = items
            .iter()
            .all(|wanted| find(seen, key, wanted).is_some_and(|seen| contains(seen, wanted)));
        // Others may have conditions of their own; of listeners there are no others.
        all && (field == "conditions" || seen.as_array().map_or(0, Vec::len) == items.len())
    })
}

/// What the items of a list are found by.
fn key(field: &str) -> Option<&'static str> {
    match field {
        "conditions" => Some("type"),
        "listeners" => Some("name"),
        _ => None,
    }
}

fn find<'a>(list: &'a Value, key: &str, like: &Value) -> Option<&'a Value> {
    list.as_array()?.iter().find(|item| item[key] == like[key])
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_others_say_does_not_count_and_what_is_ours_does() {
        let bound = json!({"type": "istio.io/WaypointBound", "status": "True", "reason": "r"});
        let other = json!({"type": "other", "status": "False"});
        let wanted = json!({"conditions": [bound]});
        let covers = |seen: Value, wanted: &Value| covers(StatusKind::Service, &seen, wanted);
        assert!(covers(json!({"conditions": [other, bound]}), &wanted));
        assert!(!covers(json!({"conditions": [other]}), &wanted));
        let nothing = json!({"conditions": []});
        assert!(covers(json!({"conditions": [other]}), &nothing));
        assert!(covers(json!({}), &nothing));
        assert!(!covers(json!({"conditions": [bound]}), &nothing));
    }

    #[test]
    fn listeners_and_addresses_are_whole() {
        let listener = |name: &str| json!({"name": name, "attachedRoutes": 0, "conditions": []});
        let wanted = json!({"addresses": [{"type": "IPAddress", "value": "1"}], "listeners": [listener("a")]});
        assert!(covers(StatusKind::Gateway, &wanted.clone(), &wanted));
        let more =
            json!({"addresses": wanted["addresses"], "listeners": [listener("a"), listener("b")]});
        assert!(!covers(StatusKind::Gateway, &more, &wanted));
        let moved = json!({"addresses": [{"type": "IPAddress", "value": "2"}], "listeners": [listener("a")]});
        assert!(!covers(StatusKind::Gateway, &moved, &wanted));
    }
}
