//! The place that a node's programs run in: namespaces and cgroups of its own.

use std::fs::{self, File};
use std::io::Write;
use std::net::Ipv4Addr;
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::api_server::SERVICES;
use super::process::last_lines;
use crate::wait::until;

/// Mount, process, network, host name, IPC and cgroup namespaces, whose first process is a shell that does what it is told
/// on its standard input. When that is closed, as it is when the test's process is gone, everything inside ends; what keeps
/// it from outside then removes the cgroups.
#[derive(Debug)]
pub(super) struct Node {
    keeper: Child,
    commands: Option<ChildStdin>,
    directory: PathBuf,
    /// The first process, as the outside counts.
    pid: u32,
}

impl Node {
    /// Makes it, with an address, and one more directory where programs are found; what is written about it goes to
    /// `directory`.
    ///
    /// # Panics
    /// When that cannot be done.
    pub(super) fn start(directory: &Path, address: Ipv4Addr, path: &Path) -> Self {
        let log = File::create(directory.join("node.log")).expect("create a log");
        // By the process at the end it is known whether the cgroups are still wanted.
        let n = STARTED.fetch_add(1, Ordering::Relaxed);
        let name = format!("waymark-node-{n}-{}", std::process::id());
        let mut keeper = Command::new("sh")
            .args(["-c", include_str!("node/keeper.sh"), "keeper", &name])
            .arg(directory)
            // An interrupt from the terminal leaves it the time to tidy up.
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(log.try_clone().expect("a log twice"))
            .stderr(log)
            .spawn()
            .expect("start sh");
        let mut commands = keeper.stdin.take().expect("stdin is piped");
        let init = include_str!("node/init.sh");
        let [at, path] = [directory, path].map(|path| quoted(&path.display().to_string()));
        writeln!(
            commands,
            "directory={at}\naddress={address}\nservices={SERVICES}\nPATH={path}:$PATH\n{init}"
        )
        .expect("the node listens");
        let pid = directory.join("node.pid");
        let (pid, _) = until("a node's namespaces", START, || {
            let ended = keeper.try_wait().expect("wait for the keeper");
            let log = || last_lines(&directory.join("node.log"));
            assert!(ended.is_none(), "no namespaces ({ended:?}):\n{}", log());
            fs::read_to_string(&pid).ok()?.trim().parse().ok()
        });
        Self {
            keeper,
            commands: Some(commands),
            directory: directory.to_owned(),
            pid,
        }
    }

    /// Moves the calling thread into the network namespace, and so what it starts.
    ///
    /// # Panics
    /// When that cannot be done.
    pub(super) fn enter_network(&self) {
        let link = format!("/proc/{}/ns/net", self.pid);
        let link = File::open(&link).unwrap_or_else(|e| panic!("{link}: {e}"));
        move_into_link_name_space(link.as_fd(), Some(LinkNameSpaceType::Network))
            .expect("enter a network namespace");
    }

    /// Starts a program inside; what it says goes to `<directory>/<name>.log`.
    pub(super) fn run(&mut self, program: &Path, args: &[String]) {
        let name = program.file_name().unwrap_or_default().to_string_lossy();
        let log = self.directory.join(format!("{name}.log"));
        let words = [program.display().to_string()];
        let words: Vec<String> = words.iter().chain(args).map(|w| quoted(w)).collect();
        let log = quoted(&log.display().to_string());
        let commands = self.commands.as_mut().expect("open until it ends");
        writeln!(commands, "{} >>{log} 2>&1 </dev/null &", words.join(" "))
            .expect("the node listens");
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        drop(self.commands.take());
        let _ = self.keeper.wait();
    }
}

/// As one word of the shell.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

/// How many nodes this process has started.
static STARTED: AtomicU32 = AtomicU32::new(0);

/// How long namespaces may take to be made on a machine that has much else to do.
const START: Duration = Duration::from_secs(60);
