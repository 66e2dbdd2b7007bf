//! Thousands of objects.

use futures_util::{StreamExt, stream};
use k8s_openapi::api::core::v1::ServiceAccount;
use kube::Api;
use waymark_kubernetes::{Access, Options as WatchOptions, connect};
use waymark_testkit::kubernetes::{ApiServer, Options};

use crate::follower::Follower;
use crate::log::Log;

const MANY: usize = 3000;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lists_of_thousands_are_complete_page_by_page_and_streamed() {
    let log = Log::keep();
    // An API server that streams no lists, and gives pages from etcd rather than all from its memory.
    let options = Options {
        api_server_args: vec![
            "--feature-gates=WatchList=false".to_owned(),
            "--watch-cache=false".to_owned(),
        ],
        ..Options::default()
    };
    let Some(mut api) = ApiServer::start(options) else {
        return;
    };
    let access = Access::Kubeconfig {
        file: api.kubeconfig(),
        context: None,
    };
    let accounts: Api<ServiceAccount> = Api::namespaced(connect(&access).await.unwrap(), "default");
    stream::iter(0..MANY)
        .for_each_concurrent(20, |number| {
            let mut account = ServiceAccount::default();
            account.metadata.name = Some(format!("account-{number}"));
            let accounts = accounts.clone();
            async move {
                accounts
                    .create(&Default::default(), &account)
                    .await
                    .unwrap();
            }
        })
        .await;

    let paged = WatchOptions {
        page_size: 70,
        ..WatchOptions::default()
    };
    check(&api, paged).await;
    assert!(log.has(&["\"ServiceAccount\"", "the API server streams no lists"]));
    assert!(log.has(&["serviceaccounts?", "limit=70", "continue="]));
    api.stop_api_server();
    api.set_args(&[]);
    api.start_api_server();
    check(&api, WatchOptions::default()).await;
}

/// All are there once, and the watch goes on after them.
async fn check(api: &ApiServer, options: WatchOptions) {
    let mut follower = Follower::start(api.kubeconfig(), options).await;
    let listed = follower
        .told
        .iter()
        .filter(|told| told.starts_with("+ServiceAccount default/account-"));
    assert_eq!(listed.count(), MANY);
    api.run(&[
        "label",
        "serviceaccount",
        "account-17",
        "--overwrite",
        "a=b",
    ]);
    follower.told.clear();
    follower
        .until("a change", |follower| {
            follower
                .told
                .contains(&"+ServiceAccount default/account-17".to_owned())
        })
        .await;
    api.run(&["label", "serviceaccount", "account-17", "a-"]);
    follower.stop().await;
}
