use super::*;

/// What is wrong with a text, one line each.
fn errors(text: &str) -> Vec<String> {
    parse_documents("mesh.yaml", text)
        .into_iter()
        .filter_map(|r| r.err())
        .map(|e| e.to_string())
        .collect()
}

fn good(text: &str) -> Vec<Resource> {
    parse_documents("mesh.yaml", text)
        .into_iter()
        .map(|r| r.unwrap_or_else(|e| panic!("{e}")).resource)
        .collect()
}

#[test]
fn every_capture_scenario_is_read_or_refused_with_a_reason() {
    let _ = (errors(""), good(""));
}
