//! Child processes: started with a log file, watched, ended, and found again after a crash.
//!
//! Everything that a mesh starts carries [`MARKER`] in its environment (children inherit it), so that whatever a killed
//! supervisor left behind is found by that and nothing else.

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::fd::OwnedFd;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use tokio::process::Command;
use tokio::sync::watch;
use waymark_rt::task::{Task, spawn};

/// Environment variable that marks the processes of a mesh; its value is the state directory.
pub(crate) const MARKER: &str = "WAYMARK_MESH";

const POLL: Duration = Duration::from_millis(20);

/// What to start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Spec {
    pub(crate) name: String,
    pub(crate) program: PathBuf,
    pub(crate) args: Vec<OsString>,
    pub(crate) env: Vec<(OsString, OsString)>,
    pub(crate) log: PathBuf,
}

/// Why a process could not be started or watched.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ProcessError {
    #[error("open log {path}")]
    Log { path: PathBuf, source: io::Error },
    #[error("start {name} ({program})")]
    Spawn {
        name: String,
        program: PathBuf,
        source: io::Error,
    },
}

/// A running child.
#[derive(Debug)]
pub(crate) struct Process {
    pub(crate) pid: u32,
    pub(crate) started: Instant,
    pidfd: Option<OwnedFd>,
    exit: watch::Receiver<Option<ExitStatus>>,
    waiter: Task<()>,
}

impl Process {
    /// Starts it in a process group of its own, so that a Ctrl-C in the terminal reaches the supervisor alone.
    pub(crate) fn spawn(spec: &Spec) -> Result<Self, ProcessError> {
        let log_error = |source| ProcessError::Log {
            path: spec.log.clone(),
            source,
        };
        let log = File::create(&spec.log).map_err(log_error)?;
        let errors = log.try_clone().map_err(log_error)?;
        let mut child = Command::new(&spec.program)
            .args(&spec.args)
            .envs(spec.env.iter().map(|(k, v)| (k, v)))
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(errors)
            .process_group(0)
            .spawn()
            .map_err(|source| ProcessError::Spawn {
                name: spec.name.clone(),
                program: spec.program.clone(),
                source,
            })?;
        let pid = child.id().unwrap_or_default();
        let (tell, exit) = watch::channel(None);
        let waiter = spawn("child", async move {
            let status = child.wait().await.unwrap_or(ExitStatus::from_raw(-1));
            let _ = tell.send(Some(status));
        });
        Ok(Self {
            pid,
            started: Instant::now(),
            pidfd: open_pidfd(pid),
            exit,
            waiter,
        })
    }

    /// Its exit status, if it has ended.
    pub(crate) fn exited(&self) -> Option<ExitStatus> {
        *self.exit.borrow()
    }

    /// Asks it to end and waits; after `grace` it is killed.
    pub(crate) async fn stop(mut self, grace: Duration) {
        for (signal, wait) in [
            (Signal::TERM, grace),
            (Signal::KILL, Duration::from_secs(5)),
        ] {
            if self.exited().is_some() {
                break;
            }
            if let Some(pidfd) = &self.pidfd {
                let _ = pidfd_send_signal(pidfd, signal);
            }
            let _ = tokio::time::timeout(wait, self.exit.wait_for(Option::is_some)).await;
        }
        self.waiter.abort();
    }
}

/// The last lines of a log, for an error message.
pub(crate) fn log_tail(path: &Path, lines: usize) -> String {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

/// In words, as a shell would say it.
pub(crate) fn describe(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit code {code}"),
        (None, Some(signal)) => format!("signal {signal}"),
        (None, None) => "unknown status".to_owned(),
    }
}

/// Ends every process of the mesh of `state_dir` but this one: the control plane first (it would start waypoints again), then
/// the rest, each asked first and killed after `grace`. Returns how many there were.
pub(crate) async fn end_all(state_dir: &Path, grace: Duration) -> usize {
    let mut ended = end_matching(state_dir, grace, |command| {
        command.windows(2).any(|w| w == ["run", "controlplane"])
    })
    .await;
    ended += end_matching(state_dir, grace, |_| true).await;
    ended
}

async fn end_matching(
    state_dir: &Path,
    grace: Duration,
    wanted: impl Fn(&[String]) -> bool,
) -> usize {
    let found: Vec<OwnedFd> = marked(state_dir)
        .into_iter()
        .filter(|(_, command)| wanted(command))
        .filter_map(|(pid, _)| open_pidfd(pid))
        .collect();
    let all_gone = || found.iter().all(has_exited);
    for (signal, wait) in [
        (Signal::TERM, grace),
        (Signal::KILL, Duration::from_secs(5)),
    ] {
        if all_gone() {
            break;
        }
        for process in &found {
            let _ = pidfd_send_signal(process, signal);
        }
        let deadline = Instant::now() + wait;
        while !all_gone() && Instant::now() < deadline {
            tokio::time::sleep(POLL).await;
        }
    }
    found.len()
}

/// Processes of this user that carry the marker of `state_dir`, with their command lines; not this process.
pub(crate) fn marked(state_dir: &Path) -> Vec<(u32, Vec<String>)> {
    let marker = format!("{MARKER}={}", state_dir.display()).into_bytes();
    let Ok(entries) = std::fs::read_dir("/proc") else {
        return Vec::new();
    };
    entries
        .filter_map(Result::ok)
        .filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok())
        .filter(|pid| *pid != std::process::id())
        .filter(|pid| {
            std::fs::read(format!("/proc/{pid}/environ"))
                .is_ok_and(|env| env.split(|b| *b == 0).any(|var| var == marker))
        })
        .map(|pid| {
            let command = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let words = command.split(|b| *b == 0);
            (
                pid,
                words
                    .map(|w| String::from_utf8_lossy(w).into_owned())
                    .collect(),
            )
        })
        .collect()
}

fn open_pidfd(pid: u32) -> Option<OwnedFd> {
    let pid = Pid::from_raw(i32::try_from(pid).ok()?)?;
    pidfd_open(pid, PidfdFlags::empty()).ok()
}

/// A pidfd is readable once its process has ended.
fn has_exited(pidfd: &OwnedFd) -> bool {
    let mut fds = [rustix::event::PollFd::new(
        pidfd,
        rustix::event::PollFlags::IN,
    )];
    matches!(rustix::event::poll(&mut fds, Some(&rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 })), Ok(n) if n > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sleeper(dir: &Path) -> Spec {
        Spec {
            name: "sleeper".into(),
            program: "/bin/sh".into(),
            args: vec![
                "-c".into(),
                "trap '' TERM; echo up; while :; do sleep 1; done".into(),
            ],
            env: vec![(MARKER.into(), dir.into())],
            log: dir.join("sleeper.log"),
        }
    }

    #[tokio::test]
    async fn leftovers_are_found_by_the_marker_and_killed_when_they_ignore_the_request() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let process = Process::spawn(&sleeper(dir.path())).expect("spawn");
        let deadline = Instant::now() + Duration::from_secs(10);
        while !log_tail(&dir.path().join("sleeper.log"), 1).contains("up") {
            assert!(Instant::now() < deadline, "child did not start");
            tokio::task::yield_now().await;
        }
        assert!(
            marked(dir.path())
                .iter()
                .any(|(pid, _)| *pid == process.pid)
        );
        assert!(marked(&dir.path().join("other")).is_empty());
        assert!(end_all(dir.path(), Duration::from_millis(50)).await >= 1);
        assert!(marked(dir.path()).is_empty());
    }

    #[tokio::test]
    async fn a_missing_program_is_named() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let mut spec = sleeper(dir.path());
        spec.program = "/nonexistent/program".into();
        let error = Process::spawn(&spec).expect_err("must fail");
        assert!(error.to_string().contains("/nonexistent/program"));
    }
}
