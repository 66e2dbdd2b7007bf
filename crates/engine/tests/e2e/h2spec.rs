//! h2spec, all of it, strictly.

use std::path::PathBuf;
use std::process::Command;

use waymark_engine::h2::Config;

use crate::server;

const H2SPEC: &str = "github.com/summerwind/h2spec/cmd/h2spec@v2.2.1+incompatible";

#[test]
fn h2spec_passes_every_case_strictly() {
    let Some(h2spec) = installed() else {
        return;
    };
    let address = server::start(Config::default());
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

/// The program, built with Go into a cache outside the checkout.
fn installed() -> Option<PathBuf> {
    let bin = cache().join("h2spec-2.2.1");
    let program = bin.join("h2spec");
    if program.exists() {
        return Some(program);
    }
    std::fs::create_dir_all(&bin).unwrap();
    let built = Command::new("go")
        .args(["install", H2SPEC])
        .env("GOBIN", &bin)
        .output();
    let why = match built {
        Ok(output) if output.status.success() => return Some(program),
        Ok(output) => String::from_utf8_lossy(&output.stderr).into_owned(),
        Err(error) => format!("no Go: {error}"),
    };
    crate::skip(&format!("h2spec can't be had: {why}"));
    None
}

fn cache() -> PathBuf {
    let var = |name: &str| std::env::var_os(name).map(PathBuf::from);
    var("WAYMARK_CACHE").unwrap_or_else(|| {
        var("XDG_CACHE_HOME")
            .or_else(|| var("HOME").map(|home| home.join(".cache")))
            .unwrap_or_else(std::env::temp_dir)
            .join("waymark")
    })
}
