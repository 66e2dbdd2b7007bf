//! One process: started or found again, watched, signalled. Through a pidfd, so that never another process is meant.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use xxhash_rust::xxh3::Xxh3;

use crate::file;

/// What is run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct CommandLine {
    pub(super) program: PathBuf,
    pub(super) args: Vec<OsString>,
    pub(super) env: Vec<(OsString, OsString)>,
}

impl CommandLine {
    /// Tells commands apart across restarts of the control plane.
    fn fingerprint(&self) -> String {
        let mut hash = Xxh3::new();
        let env = self
            .env
            .iter()
            .flat_map(|(name, value)| [name.as_os_str(), value.as_os_str()]);
        for part in std::iter::once(self.program.as_os_str())
            .chain(self.args.iter().map(OsString::as_os_str))
            .chain(env)
        {
            hash.update(&part.as_bytes().len().to_le_bytes());
            hash.update(part.as_bytes());
        }
        format!("{:016x}", hash.digest())
    }

    /// Whether `/proc/<pid>/cmdline` is of this command, run directly or by an interpreter.
    fn is(&self, cmdline: &[u8]) -> bool {
        let mut words: Vec<&[u8]> = cmdline.split(|b| *b == 0).collect();
        words.pop(); // What follows the last terminator.
        let ours: Vec<&[u8]> = std::iter::once(self.program.as_os_str())
            .chain(self.args.iter().map(OsString::as_os_str))
            .map(OsStr::as_bytes)
            .collect();
        words.ends_with(&ours)
    }
}

/// A running process, ours or adopted.
#[derive(Debug)]
pub(super) struct Process {
    pid: u32,
    pidfd: AsyncFd<OwnedFd>,
    child: Option<Child>,
}

/// What an earlier control plane may have left.
#[derive(Debug)]
pub(super) enum Found {
    /// Nothing that runs.
    Nothing,
    /// It runs with the wanted command.
    Same(Process),
    /// It runs with another command.
    Other(Process),
}

impl Process {
    /// Starts a command in a process group of its own, with its output in a file, and notes its pid in `dir`.
    pub(super) fn start(command: &CommandLine, dir: &Path, output: File) -> io::Result<Self> {
        let mut child = Command::new(&command.program)
            .args(&command.args)
            .envs(command.env.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stderr(output.try_clone()?)
            .stdout(output)
            .process_group(0) // A Ctrl-C at the terminal is for the control plane, which decides.
            .spawn()?;
        let pid = child.id();
        let noted = watch(pid).and_then(|pidfd| {
            let start = start_time(pid).ok_or(io::ErrorKind::NotFound);
            // One that ended within microseconds has no start time any more; its end is seen like any other.
            note(dir, pid, start.unwrap_or(0), command)?;
            Ok(pidfd)
        });
        match noted {
            Ok(pidfd) => Ok(Self {
                pid,
                pidfd,
                child: Some(child),
            }),
            Err(e) => {
                // What cannot be watched must not run.
                let _ = child.kill();
                let _ = child.wait();
                Err(e)
            }
        }
    }

    /// Finds what was started for `dir` before: by its pid file; if that was never written, by the command line.
    pub(super) fn find(command: Option<&CommandLine>, dir: &Path) -> Found {
        if let Some((process, fingerprint)) = noted(dir) {
            let same = command.is_some_and(|c| c.fingerprint() == fingerprint);
            return if same {
                Found::Same(process)
            } else {
                Found::Other(process)
            };
        }
        let Some(command) = command else {
            return Found::Nothing;
        };
        let Some(process) = by_command_line(command) else {
            return Found::Nothing;
        };
        // Without the note it is found by its command line the next time too.
        let _ = start_time(process.pid).map(|start| note(dir, process.pid, start, command));
        Found::Same(process)
    }

    pub(super) fn pid(&self) -> u32 {
        self.pid
    }

    /// Waits for the end; says how it ended, where that can be known. Cancel safe.
    pub(super) async fn ended(&mut self) -> String {
        // Readable means ended, and stays so. An error cannot be told from an end; the start that follows finds out.
        let _ = self.pidfd.ready(Interest::READABLE).await;
        match self.child.as_mut().map(Child::wait) {
            Some(Ok(status)) => describe(status),
            Some(Err(_)) | None => "ended".to_owned(),
        }
    }

    pub(super) fn signal(&self, signal: Signal) {
        // Fails only when it has ended, and then there is nobody to tell.
        let _ = pidfd_send_signal(self.pidfd.get_ref(), signal);
    }
}

/// Forgets the process that was noted.
pub(super) fn forget(dir: &Path) {
    // What is gone already is what was wanted.
    let _ = fs::remove_file(dir.join(PID_FILE));
}

pub(super) const PID_FILE: &str = "pid";

fn note(dir: &Path, pid: u32, start: u64, command: &CommandLine) -> io::Result<()> {
    let text = format!("{pid} {start} {}\n", command.fingerprint());
    file::replace(&dir.join(PID_FILE), text.as_bytes())
}

/// The process in a pid file, if it still is that process.
fn noted(dir: &Path) -> Option<(Process, String)> {
    let text = fs::read_to_string(dir.join(PID_FILE)).ok()?;
    let mut words = text.split_ascii_whitespace();
    let (pid, start) = (
        words.next()?.parse().ok()?,
        words.next()?.parse::<u64>().ok()?,
    );
    let process = adopt(pid)?;
    // Looked at after the pidfd was opened: from then on the number cannot be given to another.
    (start_time(pid)? == start).then(|| (process, words.next().unwrap_or_default().to_owned()))
}

fn by_command_line(command: &CommandLine) -> Option<Process> {
    let is_it = |pid: u32| {
        fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|cmdline| command.is(&cmdline))
    };
    let pids = fs::read_dir("/proc")
        .ok()?
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter(|pid| is_it(*pid))
        .find_map(|pid| adopt(pid).filter(|_| is_it(pid) && start_time(pid).is_some()))
}

fn adopt(pid: u32) -> Option<Process> {
    Some(Process {
        pid,
        pidfd: watch(pid).ok()?,
        child: None,
    })
}

fn watch(pid: u32) -> io::Result<AsyncFd<OwnedFd>> {
    let pid = i32::try_from(pid)
        .ok()
        .and_then(Pid::from_raw)
        .ok_or(io::ErrorKind::NotFound)?;
    waymark_sys::readable(pidfd_open(pid, PidfdFlags::empty())?)
}

/// When a process was started, in clock ticks since boot; `None` when there is none or only its exit status is left.
fn start_time(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The command's name, in parentheses, may contain anything; fields from the third on follow the last one.
    let fields: Vec<&str> = stat.rsplit(')').next()?.split_ascii_whitespace().collect();
    let state = *fields.first()?;
    if matches!(state, "Z" | "X") {
        return None;
    }
    fields.get(22 - 3)?.parse().ok()
}

fn describe(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exited with status {code}"),
        (None, Some(signal)) => format!("killed by signal {signal}"),
        (None, None) => "ended".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_known_by_its_command_line() {
        let command = CommandLine {
            program: "/bin/waymark".into(),
            args: vec!["run".into(), "waypoint".into()],
            env: vec![],
        };
        assert!(command.is(b"/bin/waymark\0run\0waypoint\0"));
        assert!(command.is(b"/bin/sh\0/bin/waymark\0run\0waypoint\0"));
        for other in [
            &b"/bin/waymark\0run\0"[..],
            b"/bin/waymark\0run\0waypoint\0x\0",
            b"",
            b"\0",
        ] {
            assert!(!command.is(other));
        }
    }

    #[test]
    fn commands_that_differ_have_different_fingerprints() {
        let command = |args: &[&str]| CommandLine {
            program: "p".into(),
            args: args.iter().map(Into::into).collect(),
            env: vec![],
        };
        assert_eq!(
            command(&["ab", "c"]).fingerprint(),
            command(&["ab", "c"]).fingerprint()
        );
        assert_ne!(
            command(&["ab", "c"]).fingerprint(),
            command(&["a", "bc"]).fingerprint()
        );
    }

    #[test]
    fn start_times_are_those_of_living_processes() {
        assert!(start_time(std::process::id()).is_some());
        assert_eq!(start_time(u32::MAX), None);
    }
}
