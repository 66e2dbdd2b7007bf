//! `waymark down`: ends the mesh of a state directory.

use std::io::{self, Write};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::Args;
use rustix::process::{Pid, Signal, kill_process};

use crate::process::end_all;
use crate::state_dir::{StateDir, StateDirError};

/// How long the supervisor may take: it drains first.
const WAIT: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(50);

/// Arguments of `waymark down`.
#[derive(Debug, Clone, Args)]
pub struct DownArgs {
    /// State directory of the mesh [default: $XDG_STATE_HOME/waymark or ~/.local/state/waymark].
    #[arg(long, env = "WAYMARK_STATE_DIR")]
    pub state_dir: Option<PathBuf>,
}

/// Why the mesh could not be ended.
#[derive(Debug, thiserror::Error)]
pub enum DownError {
    /// The state directory can't be found.
    #[error(transparent)]
    StateDir(#[from] StateDirError),
    /// The supervisor can't be signalled.
    #[error("signal the supervisor (pid {pid})")]
    Signal {
        /// Its process id.
        pid: u32,
        /// What the system said.
        source: io::Error,
    },
    /// It did not end.
    #[error("the supervisor (pid {pid}) did not end within {WAIT:?}")]
    StillRunning {
        /// Its process id.
        pid: u32,
    },
}

/// Asks the supervisor to end and waits; without a supervisor, ends what it left behind.
///
/// # Errors
/// When the supervisor can't be signalled or does not end.
pub async fn down(args: &DownArgs, out: &mut dyn Write) -> Result<(), DownError> {
    let state = StateDir::resolve(args.state_dir.as_deref())?;
    let holder = state.holder();
    if let Some(pid) = holder {
        signal(pid)?;
        let deadline = Instant::now() + WAIT;
        while state.holder().is_some() {
            if Instant::now() > deadline {
                return Err(DownError::StillRunning { pid });
            }
            tokio::time::sleep(POLL).await;
        }
    }
    let left = end_all(state.path(), Duration::from_secs(5)).await;
    let _ = std::fs::remove_file(state.mesh_file());
    let _ = match (holder, left) {
        (Some(_), _) => writeln!(out, "mesh of {} is down", state.path().display()),
        (None, 0) => writeln!(out, "no mesh is running from {}", state.path().display()),
        (None, n) => writeln!(out, "ended {n} processes that a killed supervisor had left"),
    };
    Ok(())
}

fn signal(pid: u32) -> Result<(), DownError> {
    let raw = i32::try_from(pid).ok().and_then(Pid::from_raw);
    let Some(raw) = raw else {
        return Ok(());
    };
    match kill_process(raw, Signal::TERM) {
        Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
        Err(e) => Err(DownError::Signal {
            pid,
            source: e.into(),
        }),
    }
}
