//! What is read from a cluster and written into it, against a real API server.
#![forbid(unsafe_code)]
#![expect(clippy::unwrap_used, reason = "tests")]

#[path = "cluster/ca.rs"]
mod ca;
#[path = "cluster/crds.rs"]
mod crds;
#[path = "cluster/deploy.rs"]
mod deploy;
#[path = "cluster/election.rs"]
mod election;
#[path = "cluster/faults.rs"]
mod faults;
#[path = "cluster/follower.rs"]
mod follower;
#[path = "cluster/kinds.rs"]
mod kinds;
#[path = "cluster/log.rs"]
mod log;
#[path = "cluster/many.rs"]
mod many;
#[path = "cluster/port_forward.rs"]
mod port_forward;
#[path = "cluster/status.rs"]
mod status;
#[path = "cluster/token.rs"]
mod token;

use std::path::Path;
use std::time::Duration;

use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};

/// How long something may take on a machine that has much else to do.
const LIMIT: Duration = Duration::from_secs(60);

async fn client(kubeconfig: &Path) -> Client {
    let kubeconfig = Kubeconfig::read_from(kubeconfig).unwrap();
    let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default())
        .await
        .unwrap();
    Client::try_from(config).unwrap()
}

/// Asks until there is an answer.
async fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = tokio::time::Instant::now() + LIMIT;
    loop {
        if let Some(answer) = tokio::task::block_in_place(&mut look) {
            return answer;
        }
        assert!(tokio::time::Instant::now() < deadline, "no {what} in time");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
