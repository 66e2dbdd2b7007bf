//! The program under load, as the tests have it built: what has to hold whatever the machine does meanwhile.
#![forbid(unsafe_code)]
#![expect(clippy::unwrap_used, reason = "tests")]

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use waymark_testkit::netns::isolated;

/// The program, beside this test's own; built if it isn't there or is stale.
fn waymark() -> PathBuf {
    let bench = Path::new(env!("CARGO_BIN_EXE_waymark-bench"));
    let program = bench.with_file_name("waymark");
    let built = Command::new(env!("CARGO"))
        .args(["build", "--quiet", "--offline", "-p", "waymark"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .status();
    assert!(built.unwrap().success(), "the program can be built");
    program
}

/// Runs `waymark-bench`; what it prints, when it ends well.
fn bench(arguments: &[&str]) -> String {
    let (command, rest) = arguments.split_first().unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_waymark-bench"))
        .arg(command)
        .arg("--waymark")
        .arg(waymark())
        .args(rest)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{stderr}\n{stdout}");
    stdout
}

#[test]
fn no_request_waits_for_a_delayed_acknowledgement() {
    isolated(|| {
        let told = bench(&["stalls", "--seconds", "1"]);
        assert_eq!(told.lines().count(), 5, "{told}");
    });
}

#[test]
fn no_request_fails_while_connections_routes_and_endpoints_change() {
    isolated(|| {
        let told = bench(&["soak", "--seconds", "10", "--share", "0.4"]);
        assert!(told.contains(" changes of routes, "), "{told}");
        assert!(!told.contains(", 0 endpoint flaps"), "{told}");
    });
}
