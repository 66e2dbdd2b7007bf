//! The cache outside the checkout where programs of others are kept between runs: `$WAYMARK_CACHE`, by default
//! `~/.cache/waymark`.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The directory `name` in the cache; made by `make` when it is not there, and then whole or not at all.
///
/// Tests run beside each other: one makes it, the others wait.
///
/// # Errors
/// A sentence, when it cannot be made.
pub(crate) fn entry(
    name: &str,
    make: impl FnOnce(&Path) -> Result<(), String>,
) -> Result<PathBuf, String> {
    let cache = directory().ok_or("neither WAYMARK_CACHE nor HOME is set")?;
    let home = cache.join(name);
    if home.is_dir() {
        return Ok(home);
    }
    let text = |e: std::io::Error| e.to_string();
    fs::create_dir_all(&cache).map_err(text)?;
    let lock = File::create(cache.join(format!("{name}.lock"))).map_err(text)?;
    lock.lock().map_err(text)?;
    if !home.is_dir() {
        let beside = cache.join(format!("{name}.new"));
        let _ = fs::remove_dir_all(&beside);
        fs::create_dir_all(&beside).map_err(text)?;
        make(&beside)?;
        fs::rename(&beside, &home).map_err(text)?;
    }
    Ok(home)
}

/// What a test does without a peer: it says so and is skipped.
///
/// # Panics
/// When `CI=true`.
pub(crate) fn missing(what: &str, why: &str) {
    let ci = std::env::var("CI").is_ok_and(|v| v == "true");
    assert!(!ci, "no {what}: {why}");
    say(&format!("SKIPPED: no {what} to test with ({why})"));
}

/// Says it on the terminal, also from within a test whose output is kept back.
pub(crate) fn say(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// Runs a command to its end; what it printed.
///
/// # Errors
/// The last lines that it printed, when it fails.
pub(crate) fn run(command: &mut Command) -> Result<String, String> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command
        .output()
        .map_err(|e| format!("run {program}: {e}"))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let stderr = String::from_utf8_lossy(&output.stderr);
    let lines: Vec<&str> = stderr.lines().filter(|l| !l.trim().is_empty()).collect();
    let last = lines[lines.len().saturating_sub(LINES)..].join("; ");
    Err(format!("{program}: {last}"))
}

fn directory() -> Option<PathBuf> {
    let set = |name| {
        std::env::var_os(name)
            .filter(|value| !value.is_empty())
            .map(PathBuf::from)
    };
    set("WAYMARK_CACHE")
        .or_else(|| Some(set("XDG_CACHE_HOME")?.join("waymark")))
        .or_else(|| Some(set("HOME")?.join(".cache/waymark")))
}

/// How much of a failed command's talk is told.
const LINES: usize = 5;
