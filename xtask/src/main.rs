//! The repository's own chores.
#![forbid(unsafe_code)]

use std::path::{Path, PathBuf};
use std::process::ExitCode;

mod codegen;
mod tidy;

const USAGE: &str =
    "usage: cargo xtask gen [--check] | tidy | roles | bench [compare | gate | order | soak] ...

gen          writes crates/proto/src/gen from crates/proto/proto and the envoy-types package
gen --check  fails when what is checked in is stale
tidy         the checks that no compiler makes: arrows between crates, licences, names, leftovers
roles        programs of one role build, without a warning
bench        what our proxies cost, beside Envoy (bench/run)";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let result = match arguments.as_slice() {
        ["gen"] => report(codegen::write()),
        ["gen", "--check"] => report(codegen::check()),
        ["tidy"] => report(tidy::tidy(&root())),
        ["roles"] => roles(),
        ["bench", more @ ..] => bench(more),
        _ => {
            say(USAGE);
            return ExitCode::from(2);
        }
    };
    if result {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// The repository's root: this crate's parent.
fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("..")
        .canonicalize()
        .unwrap_or_default()
}

/// What a program can be built as alone (features of crates/waymark).
const ROLES: &[&str] = &["agent", "controlplane", "node", "waypoint"];

/// Lints a program of each role. Whether there was nothing to say.
fn roles() -> bool {
    ROLES.iter().all(|role| {
        let status = std::process::Command::new("cargo")
            .args(["clippy", "--quiet", "--package", "waymark"])
            .args(["--no-default-features", "--features", role])
            .args(["--", "--deny", "warnings"])
            .current_dir(root())
            .status();
        let fine = status.is_ok_and(|status| status.success());
        if !fine {
            say(&format!(
                "Error: the program of role {role} does not build, or not without a warning"
            ));
        }
        fine
    })
}

/// Runs `bench/run`. Whether it went well.
fn bench(arguments: &[&str]) -> bool {
    let program = root().join("bench/run");
    match std::process::Command::new(&program)
        .args(arguments)
        .status()
    {
        Ok(status) => status.success(),
        Err(error) => {
            say(&format!("Error: run {}: {error}", program.display()));
            false
        }
    }
}

/// Says how it went; `false` when it went wrong.
fn report<T: Report, E: std::error::Error>(result: Result<T, E>) -> bool {
    match result {
        Ok(report) => report.say(),
        Err(error) => {
            say(&format!("Error: {error}"));
            let mut cause = error.source();
            while let Some(error) = cause {
                say(&format!("  caused by: {error}"));
                cause = error.source();
            }
            false
        }
    }
}

trait Report {
    fn say(self) -> bool;
}

impl Report for String {
    fn say(self) -> bool {
        say(&self);
        true
    }
}

impl Report for Vec<String> {
    fn say(self) -> bool {
        for line in &self {
            say(line);
        }
        if self.is_empty() {
            say("tidy: all checks hold");
        } else {
            say(&format!("tidy: {} to mend", self.len()));
        }
        self.is_empty()
    }
}

#[expect(clippy::print_stderr, reason = "a chore talks to the one who runs it")]
fn say(text: &str) {
    eprintln!("{text}");
}
