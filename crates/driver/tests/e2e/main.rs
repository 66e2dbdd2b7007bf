//! The multiplexer and HTTP/1 over sockets, against peers that nobody here wrote.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod clients;
mod h2spec;
mod server;

/// Says that a test has no peer; a failure in CI.
#[expect(clippy::print_stderr, reason = "whoever runs the tests has to see it")]
fn skip(why: &str) {
    assert!(std::env::var_os("CI").is_none(), "{why}");
    eprintln!("NOT TESTED: {why}");
}
