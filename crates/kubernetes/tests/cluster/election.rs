//! Leader election.

use std::sync::Arc;
use std::time::Duration;

use kube::Client;
use tokio::time::timeout;
use waymark_kubernetes::leader::{Leadership, LeaseOptions, elect};
use waymark_rt::{Drain, Shutdown, SystemClock, Task, spawn};
use waymark_testkit::kubernetes::ApiServer;

use super::{LIMIT, client};

struct Replica {
    leadership: Leadership,
    shutdown: Shutdown,
    task: Task<()>,
    _drain: Drain,
}

fn replica(client: &Client, namespace: &str, identity: &str) -> Replica {
    let drain = Drain::new(Duration::from_secs(5));
    let shutdown = drain.shutdown();
    let options = LeaseOptions {
        duration: Duration::from_secs(3),
        renew_deadline: Duration::from_secs(2),
        retry_period: Duration::from_millis(300),
        ..LeaseOptions::new(namespace, "leader", identity)
    };
    let (leadership, run) = elect(
        client.clone(),
        options,
        Arc::new(SystemClock),
        shutdown.clone(),
    );
    Replica {
        leadership,
        shutdown,
        task: spawn("elect", run),
        _drain: drain,
    }
}

impl Replica {
    async fn leads(&mut self) {
        timeout(LIMIT, self.leadership.term())
            .await
            .unwrap()
            .unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_leads_and_another_takes_over() {
    let Some(api) = ApiServer::shared() else {
        return;
    };
    let namespace = api.namespace();
    let client = client(&api.kubeconfig()).await;
    let mut a = replica(&client, &namespace, "a");
    a.leads().await;
    let mut b = replica(&client, &namespace, "b");
    // The second has seen the lease, and waits.
    let waits = timeout(Duration::from_secs(2), b.leadership.term()).await;
    assert!(waits.is_err() && a.leadership.is_leader());
    let lease = api.get("lease", &namespace, "leader");
    assert_eq!(lease["spec"]["holderIdentity"], "a");
    assert_eq!(lease["spec"]["leaseTransitions"], 0);

    // Killed: the lease runs out.
    drop(a.task);
    b.leads().await;
    let lease = api.get("lease", &namespace, "leader");
    assert_eq!(lease["spec"]["holderIdentity"], "b");
    assert_eq!(lease["spec"]["leaseTransitions"], 1);

    // Told to end: the lease is given back, and nobody waits for it.
    let mut c = replica(&client, &namespace, "c");
    b.shutdown.begin();
    b.task.await.unwrap();
    assert!(!b.leadership.is_leader());
    c.leads().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_whose_lease_is_taken_stops() {
    let Some(api) = ApiServer::shared() else {
        return;
    };
    let namespace = api.namespace();
    let client = client(&api.kubeconfig()).await;
    let mut a = replica(&client, &namespace, "a");
    a.leads().await;
    let term = a.leadership.term().await.unwrap();
    api.run(&[
        "patch",
        "lease",
        "leader",
        "--namespace",
        &namespace,
        "--type=merge",
        "--patch",
        r#"{"spec":{"holderIdentity":"thief","leaseDurationSeconds":3600}}"#,
    ]);
    timeout(LIMIT, term.over()).await.unwrap();
    assert!(!a.leadership.is_leader());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_cannot_renew_stops_in_time_and_leads_again() {
    let Some(mut api) = ApiServer::start(waymark_testkit::kubernetes::Options::default()) else {
        return;
    };
    let namespace = api.namespace();
    let client = client(&api.kubeconfig()).await;
    let mut a = replica(&client, &namespace, "a");
    a.leads().await;
    let term = a.leadership.term().await.unwrap();
    tokio::task::block_in_place(|| api.stop_api_server());
    timeout(LIMIT, term.over()).await.unwrap();
    tokio::task::block_in_place(|| api.start_api_server());
    a.leads().await;
}
