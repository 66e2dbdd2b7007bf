//! The results, as a table for people.

use super::{Scenario, Verdict};

/// One implementation's results, in the order of the list.
#[derive(Debug)]
pub struct Column {
    /// What serves as the waypoint.
    pub name: &'static str,
    /// One for each scenario.
    pub verdicts: Vec<Verdict>,
}

/// The table, and what makes the run fail.
#[must_use]
pub fn report(scenarios: &[Scenario], columns: &[Column]) -> (String, Vec<String>) {
    let mut table = String::from("| scenario |");
    for column in columns {
        table.push_str(&format!(" {} |", column.name));
    }
    table.push_str("\n|---|");
    table.push_str(&"---|".repeat(columns.len()));
    table.push('\n');
    let mut failures = Vec::new();
    for (place, scenario) in scenarios.iter().enumerate() {
        table.push_str(&format!("| {} |", scenario.name));
        for column in columns {
            let known = scenario.known.filter(|known| known.of == column.name);
            let cell = match (&column.verdicts[place], known) {
                (Ok(()), None) => "pass".to_owned(),
                (Err(_), Some(known)) => format!("differs: {}", known.reason),
                (Ok(()), Some(known)) => {
                    failures.push(format!(
                        "{} ({}): the known difference is gone: {}",
                        scenario.name, column.name, known.reason
                    ));
                    "pass".to_owned()
                }
                (Err(why), None) => {
                    failures.push(format!("{} ({}): {why}", scenario.name, column.name));
                    "FAIL".to_owned()
                }
            };
            table.push_str(&format!(" {cell} |"));
        }
        table.push('\n');
    }
    (table, failures)
}
