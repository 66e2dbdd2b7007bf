//! Tests in a network namespace of their own, so that a mesh's addresses and ports are free and nobody else's.

use std::process::Command;
use std::sync::{Mutex, PoisonError};

const INSIDE: &str = "WAYMARK_TEST_NETNS";

/// One such test at a time: they measure time and share two cores.
static ONE: Mutex<()> = Mutex::new(());

/// Runs `body` in a new network namespace: the test's program is started again inside it, for this test alone.
///
/// Must be called from the test's own thread (its name is the test's). Where the kernel forbids namespaces the test says so
/// and passes, unless `CI=true`.
///
/// # Panics
/// When the test fails inside, or under `CI=true` when there can be no namespace.
pub fn isolated(body: impl FnOnce()) {
    if std::env::var_os(INSIDE).is_some() {
        waymark_sys::loopback_up().expect("bring the loopback interface up");
        body();
        return;
    }
    let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    let thread = std::thread::current();
    let test = thread
        .name()
        .expect("a test's thread has its name")
        .to_owned();
    let program = std::env::current_exe().expect("path of the test program");
    let status = unshare()
        .arg(program)
        .args(["--exact", &test, "--nocapture", "--test-threads=1"])
        .env(INSIDE, "1")
        .status()
        .expect("start unshare (Debian package util-linux)");
    if status.success() {
        return;
    }
    let possible = unshare().arg("true").status().is_ok_and(|s| s.success());
    if !possible && !std::env::var("CI").is_ok_and(|v| v == "true") {
        say(&format!(
            "SKIPPED {test}: this kernel gives no network namespace"
        ));
        return;
    }
    panic!("{test} failed in its network namespace (can be made: {possible}): {status}");
}

#[expect(clippy::print_stderr, reason = "a skipped test must be heard")]
fn say(text: &str) {
    eprintln!("{text}");
}

fn unshare() -> Command {
    let mut command = Command::new("unshare");
    if !rustix::process::geteuid().is_root() {
        command.args(["--user", "--map-root-user"]);
    }
    command.args(["--net", "--"]);
    command
}
