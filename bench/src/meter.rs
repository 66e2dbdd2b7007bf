//! Counts of what a process does, for figures that don't depend on the machine's mood.
//!
//! A program is run under a counting tool twice, with few and with many requests: the difference of the totals over the difference
//! of the requests is what one costs, and start-up cancels.

use std::ffi::OsString;
use std::io;
use std::path::Path;
use std::process::{Command, Stdio};

/// What is counted, and by what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Meter {
    /// Instructions in user space, by callgrind.
    Instructions,
    /// System calls, by `perf stat` (which doesn't slow the program).
    SyscallsByPerf,
    /// System calls, by strace, where perf isn't or may not.
    SyscallsByStrace,
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum MeterError {
    #[error("neither `perf stat -e raw_syscalls:sys_enter` nor `strace -c` works here")]
    NoSyscalls,
    #[error("`valgrind` (Debian package valgrind) is not installed")]
    NoValgrind,
    #[error("read what was counted")]
    Read(#[from] io::Error),
    #[error("no total in what was counted: {0}")]
    NoTotal(String),
}

impl Meter {
    pub(crate) fn instructions() -> Result<Self, MeterError> {
        if works(Command::new("valgrind").arg("--version")) {
            Ok(Self::Instructions)
        } else {
            Err(MeterError::NoValgrind)
        }
    }

    pub(crate) fn syscalls() -> Result<Self, MeterError> {
        let event = ["stat", "-x,", "-e", "raw_syscalls:sys_enter", "true"];
        let perf = Command::new("perf").args(event).output();
        if perf.is_ok_and(|o| total_of_perf(&String::from_utf8_lossy(&o.stderr)).is_some()) {
            Ok(Self::SyscallsByPerf)
        } else if works(Command::new("strace").args(["-f", "-c", "true"])) {
            Ok(Self::SyscallsByStrace)
        } else {
            Err(MeterError::NoSyscalls)
        }
    }

    /// What its files are called after.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Instructions => "callgrind",
            Self::SyscallsByPerf => "perf",
            Self::SyscallsByStrace => "strace",
        }
    }

    /// What goes in front of a command, so that its totals come into `file`.
    pub(crate) fn prefix(self, file: &Path) -> Vec<OsString> {
        let words: &[&str] = match self {
            Self::Instructions => &[
                "valgrind",
                "-q",
                "--tool=callgrind",
                "--fair-sched=try",
                "--demangle=no",
            ],
            Self::SyscallsByPerf => &["perf", "stat", "-x,", "-e", "raw_syscalls:sys_enter", "-o"],
            Self::SyscallsByStrace => &["strace", "-f", "-c", "-o"],
        };
        let mut prefix: Vec<OsString> = words.iter().map(OsString::from).collect();
        match self {
            Self::Instructions => {
                let mut out = OsString::from("--callgrind-out-file=");
                out.push(file);
                prefix.push(out);
            }
            Self::SyscallsByPerf | Self::SyscallsByStrace => prefix.push(file.into()),
        }
        prefix
    }

    /// Whether the program is a child of what was started, rather than in its place.
    pub(crate) fn forks(self) -> bool {
        match self {
            Self::Instructions => false,
            Self::SyscallsByPerf | Self::SyscallsByStrace => true,
        }
    }

    /// What was counted.
    pub(crate) fn total(self, file: &Path) -> Result<f64, MeterError> {
        let text = std::fs::read_to_string(file)?;
        let total = match self {
            Self::Instructions => text
                .lines()
                .find_map(|line| line.strip_prefix("totals:")?.trim().parse().ok()),
            Self::SyscallsByPerf => total_of_perf(&text),
            Self::SyscallsByStrace => text
                .lines()
                .find(|line| line.ends_with(" total"))
                .and_then(|line| line.split_whitespace().nth(3)?.parse().ok()),
        };
        total.ok_or(MeterError::NoTotal(text.chars().take(500).collect()))
    }

    pub(crate) fn tool(self) -> &'static str {
        match self {
            Self::Instructions => "callgrind",
            Self::SyscallsByPerf => "perf, raw_syscalls:sys_enter",
            Self::SyscallsByStrace => "strace -c",
        }
    }
}

fn total_of_perf(text: &str) -> Option<f64> {
    let line = text.lines().find(|line| line.contains("raw_syscalls"))?;
    line.split(',').next()?.parse().ok()
}

fn works(command: &mut Command) -> bool {
    let quiet = command.stdout(Stdio::null()).stderr(Stdio::null());
    quiet.status().is_ok_and(|status| status.success())
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    #[test]
    fn totals_are_found_in_what_the_tools_write() {
        let file = tempfile::NamedTempFile::new().unwrap();
        for (meter, text) in [
            (
                Meter::Instructions,
                "events: Ir\nsummary: 9\n\ntotals: 1200\n",
            ),
            (
                Meter::SyscallsByPerf,
                "# started on Tue\n\n1200,,raw_syscalls:sys_enter,500,100.00,,\n",
            ),
            (
                Meter::SyscallsByStrace,
                "% time seconds usecs/call calls errors syscall\n60.0 0.1 2 900 3 read\n100.00 0.2 2 1200 3 total\n",
            ),
        ] {
            std::fs::write(file.path(), text).unwrap();
            assert_eq!(meter.total(file.path()).unwrap(), 1200.0, "{meter:?}");
            std::fs::write(file.path(), "nothing").unwrap();
            assert!(meter.total(file.path()).is_err(), "{meter:?}");
        }
    }
}
