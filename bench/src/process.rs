//! Processes as the system sees them.

use std::collections::BTreeMap;
use std::process::Child;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// CPU time of each thread since it started.
pub(crate) type Threads = BTreeMap<String, Duration>;

/// What each of a process's threads has used.
pub(crate) fn threads(pid: u32) -> Threads {
    let Ok(tasks) = std::fs::read_dir(format!("/proc/{pid}/task")) else {
        return Threads::new();
    };
    tasks
        .filter_map(Result::ok)
        .filter_map(|task| {
            let text = std::fs::read_to_string(task.path().join("schedstat")).ok()?;
            let nanos = text.split(' ').next()?.parse().ok()?;
            let name = task.file_name().to_string_lossy().into_owned();
            Some((name, Duration::from_nanos(nanos)))
        })
        .collect()
}

/// What each thread used in between.
pub(crate) fn growth(before: &Threads, after: &Threads) -> Vec<Duration> {
    after
        .iter()
        .map(|(name, now)| now.saturating_sub(before.get(name).copied().unwrap_or_default()))
        .collect()
}

/// Resident set, in MiB.
pub(crate) fn rss_mib(pid: u32) -> f64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let kib = text
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .and_then(|rest| rest.split_whitespace().next())
        .and_then(|n| n.parse::<f64>().ok())
        .unwrap_or(0.0);
    kib / 1024.0
}

/// The process's first child.
pub(crate) fn child_of(pid: u32) -> Option<u32> {
    let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).ok()?;
    children.split_whitespace().next()?.parse().ok()
}

/// A child that is killed when dropped.
pub(crate) struct Running {
    child: Child,
    /// The program itself, where the child is a tool that watches it.
    program: Option<u32>,
}

impl Running {
    pub(crate) fn new(child: Child) -> Self {
        Self {
            child,
            program: None,
        }
    }

    /// Takes note that the program is a child of what was started.
    pub(crate) fn is_watched(&mut self) {
        self.program = child_of(self.child.id());
    }

    pub(crate) fn pid(&self) -> u32 {
        self.program.unwrap_or(self.child.id())
    }

    /// Ends the program in good order, so that what watches it can write what it saw. Whether that happened in time.
    pub(crate) fn end(mut self, within: Duration) -> bool {
        let signal = |signal| {
            let pid = i32::try_from(self.pid()).ok().and_then(Pid::from_raw);
            pid.is_some_and(|pid| kill_process(pid, signal).is_ok())
        };
        if !signal(Signal::TERM) {
            return false;
        }
        let deadline = Instant::now() + within;
        while Instant::now() < deadline {
            if self.child.try_wait().is_ok_and(|status| status.is_some()) {
                return true;
            }
            std::thread::park_timeout(Duration::from_millis(10));
        }
        false
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(pid) = self.program.and_then(|pid| i32::try_from(pid).ok())
            && let Some(pid) = Pid::from_raw(pid)
            && matches!(self.child.try_wait(), Ok(None))
        {
            let _ = kill_process(pid, Signal::KILL);
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
