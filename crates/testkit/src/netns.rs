//! Tests in a network namespace of their own, so that a mesh's addresses and ports are free and nobody else's.

use std::process::Command;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::wait::until;

const LIMIT: Duration = Duration::from_secs(10);
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

/// Makes every address of a network one of this namespace, like `10.244.0.0/16`: for what takes no loopback addresses.
///
/// # Panics
/// When that cannot be done.
pub fn make_local(network: &str) {
    ip(&["route", "add", "local", network, "dev", "lo"]);
}

/// Gives the network namespace of a process, as soon as that is another than this one, an address, with a link to here and
/// back: what a pod has. `here` is an address of this namespace.
///
/// # Panics
/// When that cannot be done.
pub fn connect(process: u32, address: &str, here: &str) {
    let namespace = |process: &str| std::fs::read_link(format!("/proc/{process}/ns/net")).ok();
    let pid = process.to_string();
    until("a network namespace of its own", LIMIT, || {
        (namespace(&pid)? != namespace("self")?).then_some(())
    });
    let link = format!("pod{pid}");
    ip(&[
        "link", "add", &link, "type", "veth", "peer", "name", "eth0", "netns", &pid,
    ]);
    ip(&["link", "set", &link, "up"]);
    ip(&["route", "add", address, "dev", &link, "src", here]);
    for args in [
        &["link", "set", "lo", "up"][..],
        &["link", "set", "eth0", "up"],
        &["address", "add", address, "dev", "eth0"],
        &["route", "add", "default", "dev", "eth0"],
    ] {
        run(inside(process).arg("ip").args(args));
    }
}

/// A command to be run in the network namespace of a process: its program and arguments follow.
#[must_use]
pub fn inside(process: u32) -> Command {
    let mut command = Command::new("nsenter");
    command.args(["--net", "--target", &process.to_string(), "--"]);
    command
}

fn ip(args: &[&str]) {
    run(Command::new("ip").args(args));
}

fn run(command: &mut Command) {
    let output = command.output();
    let output = output.unwrap_or_else(|e| panic!("{command:?} (Debian package iproute2): {e}"));
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {stderr}");
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
