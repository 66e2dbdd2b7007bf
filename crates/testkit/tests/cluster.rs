//! A cluster with a node leaves nothing behind, however the test ends.
#![forbid(unsafe_code)]

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::Duration;

use waymark_testkit::kubernetes::{Cluster, Crds};
use waymark_testkit::wait::until;

/// Set in the process that is killed.
const INSIDE: &str = "WAYMARK_TEST_KILLED";
const LIMIT: Duration = Duration::from_secs(30);
const POD: &str = "apiVersion: v1\nkind: Pod\nmetadata: { name: p, namespace: default }\n\
                   spec: { containers: [{ name: c, image: 'waymark.dev/pause:1' }] }\n";

#[test]
fn a_killed_test_leaves_no_process_no_cgroup_no_mount_and_no_file() {
    if std::env::var_os(INSIDE).is_some() {
        run_a_pod();
        return;
    }
    let (mounts, shared) = (mounts(), shared_settings());
    let mut child = Command::new(std::env::current_exe().expect("path of the test program"))
        .args(["--exact", "--nocapture", "--test-threads=1"])
        .arg("a_killed_test_leaves_no_process_no_cgroup_no_mount_and_no_file")
        .env(INSIDE, "1")
        .stdout(Stdio::piped())
        .spawn()
        .expect("start this program");
    let lines = BufReader::new(child.stdout.take().expect("stdout is piped")).lines();
    let directory = lines
        .map_while(Result::ok)
        .find_map(|line| Some(line.split_once("RUNS in ")?.1.to_owned()));
    let Some(directory) = directory else {
        let status = child.wait().expect("wait for this program");
        assert!(status.success(), "no pod: {status}");
        return; // skipped, as was said
    };
    let cgroups = format!("-{}", child.id());
    assert!(!of_cgroups(&cgroups).is_empty() && !of_processes(&directory).is_empty());
    child.kill().expect("kill it");
    child.wait().expect("wait for it");

    until("nothing left", LIMIT, || {
        let gone = of_processes(&directory).is_empty()
            && of_cgroups(&cgroups).is_empty()
            && !fs::exists(&directory).unwrap_or(true);
        gone.then_some(())
    });
    assert_eq!(self::mounts(), mounts);
    assert_eq!(shared_settings(), shared);
}

#[expect(clippy::print_stdout, reason = "what the test waits for")]
fn run_a_pod() {
    let Some(cluster) = Cluster::start(Crds::None) else {
        return;
    };
    cluster.api().apply(POD);
    cluster.wait("default", &["pod/p"], "condition=Ready");
    let kubeconfig = cluster.api().kubeconfig();
    println!("RUNS in {}", kubeconfig.parent().expect("a file").display());
    // It is killed before.
    std::thread::park_timeout(LIMIT);
}

/// Command lines that name the directory.
fn of_processes(directory: &str) -> Vec<String> {
    let processes = fs::read_dir("/proc").expect("/proc");
    processes
        .filter_map(|entry| fs::read(entry.ok()?.path().join("cmdline")).ok())
        .map(|line| String::from_utf8_lossy(&line).replace('\0', " "))
        .filter(|line| line.contains(directory))
        .collect()
}

/// Cgroups whose name ends so; a container that still ran would be in one.
fn of_cgroups(end: &str) -> Vec<String> {
    let roots = fs::read_to_string("/proc/mounts").expect("/proc/mounts");
    let roots = roots.lines().filter_map(|line| {
        let mut words = line.split(' ').skip(1);
        let (at, kind) = (words.next()?, words.next()?);
        kind.starts_with("cgroup").then(|| at.to_owned())
    });
    roots
        .filter_map(|root| fs::read_dir(root).ok())
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| name.starts_with("waymark-node-") && name.ends_with(end))
        .collect()
}

fn mounts() -> String {
    fs::read_to_string("/proc/self/mounts").expect("mounts")
}

/// What the kubelet would set for the whole machine.
fn shared_settings() -> Vec<String> {
    [
        "vm/overcommit_memory",
        "vm/panic_on_oom",
        "kernel/panic",
        "kernel/panic_on_oops",
        "net/ipv4/ip_forward",
    ]
    .map(|name| fs::read_to_string(format!("/proc/sys/{name}")).expect("a setting"))
    .into()
}
