//! An API server that goes, comes back, and forgets.

use waymark_api::meta::Kind;
use waymark_kubernetes::Options as WatchOptions;
use waymark_testkit::kubernetes::{ApiServer, Crds, Options};
use waymark_testkit::way::Way;

use crate::follower::Follower;
use crate::log::Log;
use crate::until;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_changed_unseen_and_is_forgotten_by_the_server_is_told_and_nothing_else() {
    let log = Log::keep();
    // Without its own memory the API server knows no more than etcd, which is made to forget.
    let options = Options {
        api_server_args: vec!["--watch-cache=false".to_owned()],
        crds: Crds::UpstreamStandard,
        ..Options::default()
    };
    let Some(api) = ApiServer::start(options) else {
        return;
    };
    api.apply(&accounts(&["kept", "gone", "changed"]));
    let directory = tempfile::tempdir().unwrap();
    let gate = Way::to(&[api.address()]);
    let kubeconfig = gate.kubeconfig(&api.kubeconfig(), directory.path(), api.address());
    let mut follower = Follower::start(kubeconfig, WatchOptions::default()).await;
    for name in ["kept", "gone", "changed"] {
        assert!(
            follower
                .present(&format!("ServiceAccount default/{name}"))
                .is_some()
        );
    }
    follower.settle().await;
    follower.told.clear();

    gate.shut();
    api.run(&["delete", "serviceaccount", "gone"]);
    api.run(&["label", "serviceaccount", "changed", "a=b"]);
    api.apply(&accounts(&["new"]));
    api.compact();
    gate.open();

    let object = |name: &str| format!("ServiceAccount default/{name}");
    follower
        .until("the new account", |follower| {
            follower.present(&object("new")).is_some()
        })
        .await;
    follower.settle().await;
    follower.told.sort();
    assert_eq!(
        follower.told,
        [
            format!("+{}", object("changed")),
            format!("+{}", object("new")),
            format!("-{}", object("gone"))
        ]
    );
    // Each kind was told so, and listed again.
    for kind in Kind::ALL {
        let kind = format!("{:?}", kind.as_str());
        until(&format!("word that {kind} is forgotten"), || {
            let told = log.has(&["kind is not watched", &kind, "too old"]);
            told.then_some(())
        })
        .await;
    }
    follower.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_api_server_that_is_started_anew_is_followed_and_nothing_is_told_twice() {
    let Some(mut api) = ApiServer::start(Options::default()) else {
        return;
    };
    api.apply(&accounts(&["kept", "gone"]));
    let mut follower = Follower::start(api.kubeconfig(), WatchOptions::default()).await;
    follower.settle().await;
    follower.told.clear();
    for round in 0..2 {
        api.stop_api_server();
        api.start_api_server();
        let name = format!("round-{round}");
        api.apply(&accounts(&[&name]));
        let object = format!("ServiceAccount default/{name}");
        follower
            .until(&name, |follower| follower.present(&object).is_some())
            .await;
    }
    api.run(&["delete", "serviceaccount", "gone"]);
    let gone = "-ServiceAccount default/gone".to_owned();
    follower
        .until("gone", |follower| follower.told.contains(&gone))
        .await;
    follower.settle().await;
    let accounts: Vec<&String> = follower
        .told
        .iter()
        .filter(|told| told.contains("ServiceAccount"))
        .collect();
    assert_eq!(
        accounts,
        [
            "+ServiceAccount default/round-0",
            "+ServiceAccount default/round-1",
            "-ServiceAccount default/gone"
        ]
    );
    follower.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_api_server_that_comes_later_is_waited_for() {
    let Some(mut api) = ApiServer::start(Options::default()) else {
        return;
    };
    api.stop_api_server();
    let mut follower = Follower::begin(api.kubeconfig(), WatchOptions::default()).await;
    follower.settle().await;
    assert!(follower.told.is_empty());
    api.start_api_server();
    follower
        .until("a namespace", |follower| {
            follower.present("Namespace default").is_some()
        })
        .await;
    follower.stop().await;
}

fn accounts(names: &[&str]) -> String {
    let account = |name: &&str| {
        format!(
            "apiVersion: v1\nkind: ServiceAccount\nmetadata: {{ name: {name}, namespace: default }}\n---\n"
        )
    };
    names.iter().map(account).collect()
}
