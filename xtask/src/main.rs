//! The repository's own chores.
#![forbid(unsafe_code)]

use std::process::ExitCode;

mod codegen;

const USAGE: &str = "usage: cargo xtask gen [--check]

gen          writes crates/proto/src/gen from crates/proto/proto and the envoy-types package
gen --check  fails when what is checked in is stale";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let result = match arguments.as_slice() {
        ["gen"] => codegen::write(),
        ["gen", "--check"] => codegen::check(),
        _ => {
            say(USAGE);
            return ExitCode::from(2);
        }
    };
    match result {
        Ok(report) => {
            say(&report);
            ExitCode::SUCCESS
        }
        Err(error) => {
            say(&format!("Error: {error}"));
            let mut cause = std::error::Error::source(&error);
            while let Some(error) = cause {
                say(&format!("  caused by: {error}"));
                cause = error.source();
            }
            ExitCode::FAILURE
        }
    }
}

#[expect(clippy::print_stderr, reason = "a chore talks to the one who runs it")]
fn say(text: &str) {
    eprintln!("{text}");
}
