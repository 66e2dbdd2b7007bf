//! Envoy's process, and its admin interface.

pub(crate) mod admin;

use std::io;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};
use tokio::time::timeout;
use tracing::warn;

use crate::args::Settings;

/// A running Envoy. Dropped, it is killed; it does not outlive the agent either.
pub(crate) struct Envoy {
    child: Child,
}

impl Envoy {
    /// Starts Envoy in the agent's directory, with what it prints where the agent prints.
    ///
    /// Must be called on a thread that lives as long as the agent (see [`waymark_sys::die_with_parent`]).
    pub(crate) fn start(settings: &Settings, dir: &Path, config: &Path) -> io::Result<Self> {
        // It runs elsewhere, so that a relative path would lead elsewhere.
        let program = if settings.envoy.components().count() > 1 {
            std::path::absolute(&settings.envoy)?
        } else {
            settings.envoy.clone()
        };
        let family = if settings.address.is_ipv4() {
            "v4"
        } else {
            "v6"
        };
        let mut command = Command::new(program);
        command
            .arg("--config-path")
            .arg(std::path::absolute(config)?)
            .args(["--concurrency", &settings.concurrency.to_string()])
            .args(["--log-level", &settings.envoy_log_level])
            .args(["--log-format", LOG_FORMAT])
            // Envoy warns of each message that its authors call unfinished; IPMatcher, in every configuration, is one.
            .args(["--component-log-level", "misc:error"])
            .args([
                "--drain-time-s",
                &settings.drain.as_secs().max(1).to_string(),
            ])
            .args(["--drain-strategy", "immediate"])
            // Access logs are read by people who wait for a line; Envoy's own 10 s are long then.
            .args(["--file-flush-interval-msec", "1000"])
            .args(["--local-address-ip-version", family])
            // A new one listens when the old one has ended; several on a machine share nothing.
            .arg("--disable-hot-restart")
            .args(&settings.envoy_args)
            .current_dir(dir)
            .stdin(Stdio::null())
            // A Ctrl-C at the terminal is for the agent, which drains first.
            .process_group(0)
            .kill_on_drop(true);
        waymark_sys::die_with_parent(command.as_std_mut());
        Ok(Self {
            child: command.spawn()?,
        })
    }

    pub(crate) fn pid(&self) -> Option<u32> {
        self.child.id()
    }

    /// Waits for its end.
    ///
    /// # Cancel safety
    /// Can be dropped and called again.
    pub(crate) async fn ended(&mut self) -> io::Result<ExitStatus> {
        self.child.wait().await
    }

    /// Tells it to end, and sees to it.
    pub(crate) async fn stop(&mut self) {
        // Without an id it has ended.
        let pid = self
            .child
            .id()
            .and_then(|id| i32::try_from(id).ok())
            .and_then(Pid::from_raw);
        let Some(pid) = pid else { return };
        // Fails only when it has ended.
        let _ = kill_process(pid, Signal::TERM);
        if timeout(STOP, self.child.wait()).await.is_err() {
            warn!("envoy did not end: killed");
            let _ = self.child.kill().await;
        }
    }
}

/// As the agent's own lines begin.
const LOG_FORMAT: &str = "%Y-%m-%dT%H:%M:%S.%fZ %^%l%$ envoy %n: %v";
/// Once drained, for the process to end.
const STOP: Duration = Duration::from_secs(1);
