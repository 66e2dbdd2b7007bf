#![expect(clippy::unwrap_used, reason = "tests")]

use std::fs;
use std::net::Ipv4Addr;
use std::os::unix::fs::PermissionsExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use waymark_rt::{Drain, ListenOptions, SystemClock, listen};

use waymark_api::gateway::WaypointBinary;

use super::*;
use crate::token::TokenKey;

/// A state directory, something to start, and somebody who says whether it is ready.
struct Machine {
    dir: tempfile::TempDir,
    options: DeployOptions,
    is_ready: Arc<AtomicBool>,
    _readiness: Task<()>,
}

/// Notes that it was started, and stays.
const STAYS: &str = "echo \"$$ $*\" >> \"$0.runs\"; while :; do sleep 0.05; done";
/// As above, but does not end when it is told to.
const STUBBORN: &str = "trap '' TERM; echo \"$$ $*\" >> \"$0.runs\"; while :; do sleep 0.05; done";
/// Ends at once.
const FAILS: &str = "echo \"$$ $*\" >> \"$0.runs\"; echo 'Error: no such thing' >&2; exit 3";

fn machine(script: &str) -> Machine {
    let dir = tempfile::tempdir().unwrap();
    let executable = dir.path().join("waymark");
    fs::write(&executable, format!("#!/bin/sh\n{script}\n")).unwrap();
    fs::set_permissions(&executable, fs::Permissions::from_mode(0o755)).unwrap();
    let key =
        TokenKey::load_or_create(&dir.path().join("token-key"), Arc::new(SystemClock)).unwrap();
    let mut listener = listen((Ipv4Addr::LOCALHOST, 0).into(), &ListenOptions::default()).unwrap();
    let ready_port = listener.local_addr().port();
    let is_ready = Arc::new(AtomicBool::new(true));
    let flag = Arc::clone(&is_ready);
    let readiness = spawn("readiness", async move {
        loop {
            let (mut stream, _) = listener.accept().await;
            let mut request = [0; 1024];
            let n = stream.read(&mut request).await.unwrap_or(0);
            assert!(request[..n].starts_with(b"GET /healthz/ready HTTP/1.1\r\n"));
            let status = if flag.load(Ordering::SeqCst) {
                "200 OK"
            } else {
                "503 Service Unavailable"
            };
            let answer =
                format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
            let _ = stream.write_all(answer.as_bytes()).await;
        }
    });
    let options = DeployOptions {
        executable,
        state_dir: dir.path().to_owned(),
        xds_address: "127.0.0.1:1".to_owned(),
        ca_address: "127.0.0.1:2".to_owned(),
        root_cert: dir.path().join("root-cert.pem"),
        trust_domain: "mesh.example".to_owned(),
        cluster_id: "here".to_owned(),
        tokens: Arc::new(TokenFiles::new(&dir.path().join("tokens"), Arc::new(key)).unwrap()),
        ready_port,
        binary: WaypointBinary::Waymark,
        envoy: None,
        drain: Duration::from_secs(20),
        on_shutdown: OnShutdown::Drain,
    };
    Machine {
        dir,
        options,
        is_ready,
        _readiness: readiness,
    }
}

/// A control plane that deploys.
struct Running {
    desired: watch::Sender<Desired>,
    states: watch::Receiver<Arc<ReplicaStates>>,
    drain: Drain,
    task: Task<()>,
}

impl Machine {
    fn start(&self, desired: Desired) -> Running {
        let (sender, receiver) = watch::channel(desired);
        let drain = Drain::new(Duration::from_secs(60));
        let (task, states) = start(self.options.clone(), receiver, drain.shutdown());
        Running {
            desired: sender,
            states,
            drain,
            task,
        }
    }

    /// The lines that the script wrote: pid and arguments of each start.
    fn runs(&self) -> Vec<String> {
        let text = fs::read_to_string(self.dir.path().join("waymark.runs")).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    /// As above, once there are so many. (Somebody else says that the waypoint is ready, perhaps before the script has
    /// written its line.)
    async fn runs_once(&self, count: usize) -> Vec<String> {
        let enough = async {
            while self.runs().len() < count {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), enough)
            .await
            .unwrap();
        self.runs()
    }

    fn replica_dir(&self) -> PathBuf {
        self.dir.path().join("waypoints/default.waypoint-0")
    }
}

impl Drop for Machine {
    /// A test that fails leaves nothing behind either.
    fn drop(&mut self) {
        for run in self.runs() {
            let pid = run
                .split(' ')
                .next()
                .and_then(|p| p.parse().ok())
                .and_then(Pid::from_raw)
                .unwrap();
            let cmdline =
                fs::read(format!("/proc/{}/cmdline", pid.as_raw_nonzero())).unwrap_or_default();
            if String::from_utf8_lossy(&cmdline).contains(&*self.dir.path().to_string_lossy()) {
                let _ = kill_process(pid, Signal::KILL);
            }
        }
    }
}

impl Running {
    async fn until(&mut self, what: impl Fn(&ReplicaStates) -> bool) -> Arc<ReplicaStates> {
        let mut states = self.states.clone();
        let reached = self.states.wait_for(|s| what(s));
        match tokio::time::timeout(Duration::from_secs(20), reached).await {
            Ok(reached) => Arc::clone(&reached.unwrap()),
            Err(_) => panic!("never so: {:?}", states.borrow_and_update()),
        }
    }

    async fn until_ready(&mut self) -> ReplicaState {
        let states = self
            .until(|s| s.get(&key()).is_some_and(|s| s.phase == Phase::Ready))
            .await;
        states[&key()].clone()
    }

    /// What kill -9 does to a control plane: nobody drains, nobody tells.
    fn crash(self) {
        drop(self.task);
    }

    async fn stop(self) {
        self.drain.finish().await;
        self.task.await.unwrap();
    }

    fn want(&self, waypoints: Vec<DesiredWaypoint>) {
        self.desired.send_replace(Some(Arc::new(waypoints)));
    }
}

fn key() -> ReplicaKey {
    ReplicaKey {
        namespace: "default".to_owned(),
        deployment: "waypoint".to_owned(),
        index: 0,
    }
}

fn waypoint() -> DesiredWaypoint {
    DesiredWaypoint {
        namespace: "default".to_owned(),
        gateway: "gate".to_owned(),
        deployment: "waypoint".to_owned(),
        service_account: "account".to_owned(),
        replicas: vec![DesiredReplica {
            index: 0,
            address: Ipv4Addr::LOCALHOST.into(),
        }],
        binary: None,
        args: vec![],
        env: vec![],
    }
}

fn one() -> Desired {
    Some(Arc::new(vec![waypoint()]))
}

fn alive(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let ended = stat
        .rsplit(") ")
        .next()
        .is_none_or(|rest| rest.starts_with('Z'));
    let pid = Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    test_kill_process(pid).is_ok() && !ended
}

fn kill(pid: u32) {
    kill_process(
        Pid::from_raw(i32::try_from(pid).unwrap()).unwrap(),
        Signal::KILL,
    )
    .unwrap();
}

#[tokio::test]
async fn a_waypoint_is_started_with_its_arguments_and_drained_when_it_is_removed() {
    let machine = machine(STAYS);
    let mut running = machine.start(one());
    let state = running.until_ready().await;
    let pid = state.pid.unwrap();
    let dir = machine.dir.path().display();
    assert_eq!(
        machine.runs_once(1).await,
        [format!(
            "{pid} run waypoint --name waypoint-0 --namespace default --service-account account --gateway gate \
             --address 127.0.0.1 --xds-address 127.0.0.1:1 --ca-address 127.0.0.1:2 --root-cert {dir}/root-cert.pem \
             --token-file {dir}/tokens/default.account --trust-domain mesh.example --cluster-id here"
        )]
    );
    assert!(machine.dir.path().join("tokens/default.account").exists());
    let noted = fs::read_to_string(machine.replica_dir().join("pid")).unwrap();
    assert!(noted.starts_with(&format!("{pid} ")), "{noted}");
    running.want(vec![]);
    running.until(|s| s.is_empty()).await;
    assert!(!alive(pid) && !machine.replica_dir().join("pid").exists());
    running.stop().await;
}

#[tokio::test]
async fn a_killed_waypoint_is_back_at_once() {
    let machine = machine(STAYS);
    let mut running = machine.start(one());
    let first = running.until_ready().await.pid.unwrap();
    let killed = Instant::now();
    kill(first);
    let states = running
        .until(|s| matches!(&s[&key()].phase, Phase::Backoff { .. }))
        .await;
    assert!(
        matches!(&states[&key()].phase, Phase::Backoff { why } if why == "killed by signal 9"),
        "{states:?}"
    );
    let again = running.until_ready().await;
    assert!(
        killed.elapsed() < Duration::from_secs(1),
        "{:?}",
        killed.elapsed()
    );
    assert_ne!(again.pid, Some(first));
    assert_eq!(again.restarts, 1);
    running.stop().await;
}

#[tokio::test]
async fn one_that_fails_is_tried_less_and_less_often_and_says_why() {
    let machine = machine(FAILS);
    let mut running = machine.start(one());
    let states = running
        .until(|s| {
            s.get(&key())
                .is_some_and(|s| s.restarts >= 3 && s.pid.is_none())
        })
        .await;
    let Phase::Backoff { why } = &states[&key()].phase else {
        panic!("{states:?}")
    };
    assert_eq!(
        why,
        "exited with status 3; its last words: Error: no such thing"
    );
    assert!(machine.runs().len() <= 5);
    running.stop().await;
}

#[tokio::test]
async fn what_cannot_be_started_is_said() {
    let mut machine = machine(STAYS);
    machine.options.executable = machine.dir.path().join("nothing");
    let mut running = machine.start(one());
    let states = running.until(|s| s.contains_key(&key())).await;
    assert!(
        matches!(&states[&key()].phase, Phase::Backoff { why } if why.starts_with("cannot be started: ")),
        "{states:?}"
    );
    running.stop().await;
}

#[tokio::test]
async fn one_that_is_to_be_an_envoy_that_is_nowhere_says_so_and_what_ran_goes_on() {
    let machine = machine(STAYS);
    let envoy = DesiredWaypoint {
        binary: Some(WaypointBinary::Envoy),
        ..waypoint()
    };
    let mut running = machine.start(Some(Arc::new(vec![envoy.clone()])));
    let refused = |states: &ReplicaStates| {
        let why = states.get(&key())?.refused.as_ref()?;
        Some(why.contains("where Envoy is was not said"))
    };
    let states = running.until(|s| refused(s) == Some(true)).await;
    assert!(matches!(states[&key()].phase, Phase::Backoff { .. }));
    running.want(vec![waypoint()]);
    let state = running.until_ready().await;
    assert_eq!(state.refused, None);
    running.want(vec![envoy]);
    let states = running.until(|s| refused(s) == Some(true)).await;
    let now = &states[&key()];
    assert_eq!((&now.phase, now.pid), (&Phase::Ready, state.pid));
    running.want(vec![]);
    running.until(|s| s.is_empty()).await;
    running.stop().await;
}

#[tokio::test]
async fn is_starting_until_it_says_that_it_is_ready() {
    let machine = machine(STAYS);
    machine.is_ready.store(false, Ordering::SeqCst);
    let mut running = machine.start(one());
    running
        .until(|s| s.get(&key()).is_some_and(|s| s.phase == Phase::Starting))
        .await;
    machine.is_ready.store(true, Ordering::SeqCst);
    running.until_ready().await;
    machine.is_ready.store(false, Ordering::SeqCst);
    running.until(|s| s[&key()].phase == Phase::Starting).await;
    running.stop().await;
}

#[tokio::test]
async fn waypoints_outlive_the_control_plane_and_are_adopted() {
    let machine = machine(STAYS);
    let mut running = machine.start(one());
    let pid = running.until_ready().await.pid.unwrap();
    running.crash();
    assert!(alive(pid));
    // Nothing is done before it is known what is wanted.
    let mut running = machine.start(None);
    running.desired.send_replace(one());
    assert_eq!(running.until_ready().await.pid, Some(pid));
    assert_eq!(machine.runs_once(1).await.len(), 1);
    // An adopted one is watched like any other.
    kill(pid);
    let again = running
        .until(|s| s[&key()].phase == Phase::Ready && s[&key()].pid != Some(pid))
        .await;
    assert!(again[&key()].pid.is_some_and(alive));
    running.stop().await;
}

#[tokio::test]
async fn one_without_a_pid_file_is_known_by_its_command_line() {
    let machine = machine(STAYS);
    let mut running = machine.start(one());
    let pid = running.until_ready().await.pid.unwrap();
    running.crash();
    fs::remove_file(machine.replica_dir().join("pid")).unwrap();
    let mut running = machine.start(one());
    assert_eq!(running.until_ready().await.pid, Some(pid));
    assert!(machine.replica_dir().join("pid").exists());
    running.stop().await;
    assert!(!alive(pid));
}

#[tokio::test]
async fn a_pid_that_is_another_process_by_now_is_left_alone() {
    let machine = machine(STAYS);
    let mut other = std::process::Command::new("sleep")
        .arg("60")
        .spawn()
        .unwrap();
    fs::create_dir_all(machine.replica_dir()).unwrap();
    fs::write(
        machine.replica_dir().join("pid"),
        format!("{} 12345 0\n", other.id()),
    )
    .unwrap();
    let mut running = machine.start(one());
    assert_ne!(running.until_ready().await.pid, Some(other.id()));
    running.stop().await;
    assert!(alive(other.id()));
    other.kill().unwrap();
    other.wait().unwrap();
}

#[tokio::test]
async fn one_that_nobody_wants_any_more_is_drained_by_the_next_control_plane() {
    let machine = machine(STAYS);
    let mut running = machine.start(one());
    let pid = running.until_ready().await.pid.unwrap();
    running.crash();
    let mut running = machine.start(Some(Arc::new(vec![])));
    running
        .until(|s| s.get(&key()).is_some_and(|s| s.phase == Phase::Draining))
        .await;
    running.until(|s| s.is_empty()).await;
    assert!(!alive(pid));
    running.stop().await;
}

#[tokio::test]
async fn another_command_replaces_the_process() {
    let machine = machine(STAYS);
    let mut running = machine.start(one());
    let first = running.until_ready().await.pid.unwrap();
    machine.runs_once(1).await;
    running.want(vec![DesiredWaypoint {
        args: vec!["--workers".into(), "2".into()],
        ..waypoint()
    }]);
    let states = running
        .until(|s| {
            s.get(&key())
                .is_some_and(|s| s.phase == Phase::Ready && s.pid != Some(first))
        })
        .await;
    assert!(!alive(first) && states[&key()].pid.is_some_and(alive));
    assert!(machine.runs_once(2).await[1].ends_with(" --workers 2"));
    running.crash();
    // The command that an adopted one was started with counts as well.
    let mut running = machine.start(one());
    let second = states[&key()].pid;
    running
        .until(|s| {
            s.get(&key())
                .is_some_and(|s| s.phase == Phase::Ready && s.pid != second)
        })
        .await;
    running.stop().await;
}

#[tokio::test]
async fn one_that_does_not_drain_is_killed() {
    let mut machine = machine(STUBBORN);
    machine.options.drain = Duration::from_millis(200);
    let mut running = machine.start(one());
    // The script is surely past its trap once it has noted that it runs.
    let pid = running.until_ready().await.pid.unwrap();
    machine.runs_once(1).await;
    running.want(vec![]);
    running.until(|s| s.is_empty()).await;
    assert!(!alive(pid));
    running.stop().await;
}

#[tokio::test]
async fn one_that_is_wanted_again_while_it_drains_comes_back() {
    let machine = machine(STAYS);
    let mut running = machine.start(one());
    let first = running.until_ready().await.pid;
    running.want(vec![]);
    running.want(vec![waypoint()]);
    running.want(vec![]);
    running
        .until(|s| s.get(&key()).is_none_or(|s| s.phase == Phase::Draining))
        .await;
    running.want(vec![waypoint()]);
    running
        .until(|s| {
            s.get(&key())
                .is_some_and(|s| s.phase == Phase::Ready && s.pid != first)
        })
        .await;
    running.stop().await;
}

#[tokio::test]
async fn at_the_end_waypoints_are_drained_or_left_as_asked() {
    let mut machine = machine(STAYS);
    let mut running = machine.start(one());
    let pid = running.until_ready().await.pid.unwrap();
    machine.options.on_shutdown = OnShutdown::Leave;
    running.stop().await;
    assert!(!alive(pid));
    let mut running = machine.start(one());
    let pid = running.until_ready().await.pid.unwrap();
    running.stop().await;
    assert!(alive(pid));
    kill(pid);
}

#[tokio::test]
async fn namespaces_do_not_share_names() {
    let machine = machine(STAYS);
    let other = DesiredWaypoint {
        namespace: "other".to_owned(),
        ..waypoint()
    };
    let mut running = machine.start(Some(Arc::new(vec![waypoint(), other])));
    running
        .until(|s| s.len() == 2 && s.values().all(|s| s.phase == Phase::Ready))
        .await;
    assert!(
        machine
            .dir
            .path()
            .join("waypoints/other.waypoint-0/log")
            .exists()
    );
    running.stop().await;
}

#[test]
fn directory_names_are_read_back() {
    assert_eq!(ReplicaKey::from_dir_name("default.waypoint-0"), Some(key()));
    assert_eq!(
        ReplicaKey::from_dir_name("default.a-b-istio-waypoint-12")
            .unwrap()
            .deployment,
        "a-b-istio-waypoint"
    );
    for bad in [
        "",
        "waypoint-0",
        "default.waypoint",
        "default.waypoint-00",
        "default.waypoint-x",
    ] {
        assert_eq!(ReplicaKey::from_dir_name(bad), None, "{bad}");
    }
}
