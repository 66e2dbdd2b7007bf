//! h2spec, all of it, strictly.

use std::path::PathBuf;
use std::process::Command;

use crate::server::{Protocol, start};

#[test]
fn h2spec_passes_every_case_strictly() {
    let Some(h2spec) = installed() else {
        crate::skip("h2spec can't be had");
        return;
    };
    let address = start(Protocol::Http2);
    let output = Command::new(h2spec)
        .args(["--strict", "--timeout", "2", "--host"])
        .arg(address.ip().to_string())
        .args(["--port", &address.port().to_string()])
        .output()
        .unwrap();
    let report = String::from_utf8_lossy(&output.stdout);
    let totals = report
        .lines()
        .rev()
        .find(|line| line.contains(" tests, "))
        .unwrap_or_default();
    assert!(
        output.status.success() && totals.contains(" 0 skipped, 0 failed"),
        "{report}"
    );
}

/// The program, which the engine's tests build into a cache outside the checkout.
fn installed() -> Option<PathBuf> {
    let var = |name: &str| std::env::var_os(name).map(PathBuf::from);
    let cache = var("WAYMARK_CACHE").unwrap_or_else(|| {
        var("XDG_CACHE_HOME")
            .or_else(|| var("HOME").map(|home| home.join(".cache")))
            .unwrap_or_else(std::env::temp_dir)
            .join("waymark")
    });
    Some(cache.join("h2spec-2.2.1/h2spec")).filter(|program| program.exists())
}
