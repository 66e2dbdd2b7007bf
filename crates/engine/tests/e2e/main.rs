//! The engine's HTTP/2 against peers that nobody here wrote.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod corpus;
mod curl;
mod echo;
mod h2spec;
mod peers;
mod server;

/// Says that a test has no peer; a failure in CI.
#[expect(clippy::print_stderr, reason = "whoever runs the tests has to see it")]
fn skip(why: &str) {
    assert!(std::env::var_os("CI").is_none(), "{why}");
    eprintln!("NOT TESTED: {why}");
}
