//! A mesh started by `waymark up`, and what a test asks of it.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read};
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::http::{self, Answer, Connection};
use crate::wait::until;

/// A running mesh; drained and checked for leftovers when dropped.
#[derive(Debug)]
pub struct Mesh {
    waymark: PathBuf,
    supervisor: Child,
    /// The object of `up -o json`.
    pub info: Value,
    state: PathBuf,
    _directory: Option<tempfile::TempDir>,
}

/// The command `waymark` with a state directory.
#[must_use]
pub fn command(waymark: &Path, state: &Path) -> Command {
    let mut command = Command::new(waymark);
    command.env("WAYMARK_STATE_DIR", state).stdin(Stdio::null());
    command
}

impl Mesh {
    /// Starts the bundled bookinfo mesh.
    ///
    /// # Panics
    /// When it does not come up.
    #[must_use]
    pub fn bookinfo(waymark: &Path) -> Self {
        Self::start(waymark, &[])
    }

    /// Starts `waymark up` with further arguments.
    ///
    /// # Panics
    /// When it does not come up.
    #[must_use]
    pub fn start(waymark: &Path, args: &[&str]) -> Self {
        Self::start_with(waymark, args, &[])
    }

    /// Starts `waymark up` with further arguments and environment.
    ///
    /// # Panics
    /// When it does not come up.
    #[must_use]
    pub fn start_with(waymark: &Path, args: &[&str], env: &[(&str, &str)]) -> Self {
        let directory = tempfile::tempdir().expect("temporary directory");
        let state = directory.path().join("state");
        let mut supervisor = command(waymark, &state)
            .args(["up", "-o", "json"])
            .args(args)
            .envs(env.iter().copied())
            .stdout(Stdio::piped())
            .spawn()
            .expect("start waymark up");
        let mut text = String::new();
        let mut output = BufReader::new(supervisor.stdout.take().expect("stdout is piped"));
        // One pretty-printed object: it ends with a line that is only a brace.
        while !text.ends_with("\n}\n") {
            if output.read_line(&mut text).expect("read stdout") == 0 {
                let status = supervisor.wait().expect("wait");
                panic!("waymark up ended with {status}; logs:\n{}", logs(&state));
            }
        }
        let info = serde_json::from_str(&text).expect("up -o json prints one object");
        Self {
            waymark: waymark.to_owned(),
            supervisor,
            info,
            state,
            _directory: Some(directory),
        }
    }

    /// The state directory.
    #[must_use]
    pub fn state(&self) -> &Path {
        &self.state
    }

    /// Where the manifests are.
    #[must_use]
    pub fn manifests(&self) -> PathBuf {
        self.info["meshDirectory"]
            .as_str()
            .expect("meshDirectory")
            .into()
    }

    /// Address of a service, first port.
    ///
    /// # Panics
    /// When there is none of that name.
    #[must_use]
    pub fn service(&self, name: &str) -> SocketAddr {
        let service = find(&self.info["services"], name);
        let port = service["ports"][0]["port"].as_u64().expect("port");
        SocketAddr::new(address(&service["vip"]), u16::try_from(port).expect("port"))
    }

    /// Address of a pod.
    ///
    /// # Panics
    /// When there is none of that name.
    #[must_use]
    pub fn pod(&self, name: &str) -> IpAddr {
        address(&find(&self.info["workloads"], name)["ip"])
    }

    /// Admin address of the waypoint's first replica, from the current `mesh.json`.
    ///
    /// # Panics
    /// When there is none of that name.
    #[must_use]
    pub fn waypoint_admin(&self, name: &str) -> SocketAddr {
        let waypoint = find(&self.current()["waypoints"], name);
        waypoint["admin"]
            .as_str()
            .and_then(|a| a.parse().ok())
            .expect("admin")
    }

    /// Process id of a waypoint, from the current `mesh.json`.
    #[must_use]
    pub fn waypoint_pid(&self, name: &str) -> Option<u32> {
        let current = self.current();
        let waypoint = current["waypoints"]
            .as_array()?
            .iter()
            .find(|w| w["name"] == name)?;
        u32::try_from(waypoint["pid"].as_u64()?).ok()
    }

    /// `mesh.json` as it is now.
    #[must_use]
    pub fn current(&self) -> Value {
        let bytes = std::fs::read(self.state.join("mesh.json")).unwrap_or_default();
        serde_json::from_slice(&bytes).unwrap_or_else(|_| self.info.clone())
    }

    /// Debug address of the control plane.
    ///
    /// # Panics
    /// When the object has none.
    #[must_use]
    pub fn debug(&self) -> SocketAddr {
        self.info["controlPlane"]["debug"]
            .as_str()
            .and_then(|a| a.parse().ok())
            .expect("debug address")
    }

    /// `GET` from a workload's address, or from outside the mesh.
    ///
    /// # Errors
    /// When the connection can't be made or breaks.
    pub fn get(&self, from: Option<&str>, to: SocketAddr, path: &str) -> std::io::Result<Answer> {
        http::get(from.map(|pod| self.pod(pod)), to, path)
    }

    /// Sends `n` requests to the reviews service on `connections` connections, and counts by pod name.
    ///
    /// # Panics
    /// When one fails.
    #[must_use]
    pub fn split(&self, from: Option<&str>, to: SocketAddr, n: usize) -> BTreeMap<String, usize> {
        let mut counts = BTreeMap::new();
        let source = from.map(|pod| self.pod(pod));
        let mut connection = Connection::open(source, to).expect("connect");
        for i in 0..n {
            if i % 50 == 49 {
                connection = Connection::open(source, to).expect("connect");
            }
            let answer = connection.get("/reviews/0").expect("request");
            assert_eq!(
                answer.status,
                200,
                "request {i}: {}",
                String::from_utf8_lossy(&answer.body)
            );
            let pod = answer.json()["podname"].as_str().unwrap_or("?").to_owned();
            *counts.entry(pod).or_default() += 1;
        }
        counts
    }

    /// Runs a command of the operator and returns its output.
    ///
    /// # Panics
    /// When it can't be started.
    #[must_use]
    pub fn cli(&self, args: &[&str]) -> Output {
        command(&self.waymark, &self.state)
            .args(args)
            .output()
            .expect("run waymark")
    }

    /// Standard output of a command that must succeed.
    ///
    /// # Panics
    /// When it fails.
    #[must_use]
    pub fn cli_ok(&self, args: &[&str]) -> String {
        let output = self.cli(args);
        assert!(
            output.status.success(),
            "waymark {args:?}: {}\n{}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8(output.stdout).expect("output is text")
    }

    /// Changes a manifest file at once.
    ///
    /// # Panics
    /// When the file can't be written or nothing changed.
    pub fn edit(&self, file: &str, change: impl FnOnce(String) -> String) {
        let path = self.manifests().join(file);
        let before = std::fs::read_to_string(&path).expect("read manifest");
        let after = change(before.clone());
        assert_ne!(before, after, "the edit changed nothing");
        let temporary = path.with_extension("new");
        std::fs::write(&temporary, after).expect("write manifest");
        std::fs::rename(temporary, path).expect("replace manifest");
    }

    /// Sends a signal to a process.
    ///
    /// # Panics
    /// When there is no such process.
    pub fn signal(pid: u32, signal: Signal) {
        let pid = Pid::from_raw(i32::try_from(pid).expect("pid")).expect("pid");
        kill_process(pid, signal).expect("signal");
    }

    /// Ends the mesh as Ctrl-C does and waits for it.
    ///
    /// # Panics
    /// When it does not end, or leaves a process behind.
    pub fn stop(&mut self) {
        if self.supervisor.try_wait().expect("wait").is_none() {
            Self::signal(self.supervisor.id(), Signal::INT);
            let (status, _) = until("waymark up ends", Duration::from_secs(40), || {
                self.supervisor.try_wait().expect("wait")
            });
            assert!(status.success(), "waymark up ended with {status}");
        }
        let left = processes_of(&self.state);
        assert!(left.is_empty(), "left behind: {left:?}");
    }

    /// The end of every log of the mesh.
    #[must_use]
    pub fn logs(&self) -> String {
        logs(&self.state)
    }
}

impl Drop for Mesh {
    fn drop(&mut self) {
        if std::thread::panicking() {
            say(&logs(&self.state));
            let _ = command(&self.waymark, &self.state).arg("down").status();
            let _ = self.supervisor.kill();
            let _ = self.supervisor.wait();
        } else {
            self.stop();
        }
    }
}

/// Command lines of the processes that carry the mesh's mark.
#[must_use]
pub fn processes_of(state: &Path) -> Vec<String> {
    let marker = format!("WAYMARK_MESH={}", state.display());
    let Ok(entries) = std::fs::read_dir("/proc") else {
        return Vec::new();
    };
    entries
        .filter_map(Result::ok)
        .filter(|e| {
            std::fs::read(e.path().join("environ"))
                .is_ok_and(|env| env.split(|b| *b == 0).any(|v| v == marker.as_bytes()))
        })
        .map(|e| {
            let command = std::fs::read(e.path().join("cmdline")).unwrap_or_default();
            String::from_utf8_lossy(&command).replace('\0', " ")
        })
        .collect()
}

fn logs(state: &Path) -> String {
    let mut text = String::new();
    let mut directories = vec![state.join("logs"), state.join("waypoints")];
    while let Some(directory) = directories.pop() {
        for entry in std::fs::read_dir(&directory)
            .into_iter()
            .flatten()
            .filter_map(Result::ok)
        {
            let path = entry.path();
            if path.is_dir() {
                directories.push(path);
                continue;
            }
            let mut content = String::new();
            let _ = std::fs::File::open(&path).and_then(|mut f| f.read_to_string(&mut content));
            let lines: Vec<&str> = content.lines().collect();
            let tail = lines[lines.len().saturating_sub(25)..].join("\n");
            text.push_str(&format!("--- {}\n{tail}\n", path.display()));
        }
    }
    text
}

fn find(list: &Value, name: &str) -> Value {
    list.as_array()
        .into_iter()
        .flatten()
        .find(|item| item["name"] == name)
        .cloned()
        .unwrap_or_else(|| panic!("no {name} in {list}"))
}

fn address(value: &Value) -> IpAddr {
    value
        .as_str()
        .and_then(|a| a.parse().ok())
        .expect("an address")
}

#[expect(clippy::print_stderr, reason = "what a failing test leaves to read")]
fn say(text: &str) {
    eprintln!("{text}");
}
