//! Real tokens.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use waymark_kubernetes::token::{REMEMBERED, ReviewError, TokenReviewer};
use waymark_rt::ManualClock;
use waymark_testkit::kubernetes::{ApiServer, Options};

use super::client;

#[tokio::test(flavor = "multi_thread")]
async fn tokens_are_of_their_account_audience_and_pod() {
    let Some(api) = ApiServer::shared() else {
        return;
    };
    let namespace = api.namespace();
    api.apply(&format!(
        "apiVersion: v1\nkind: ServiceAccount\nmetadata: {{ name: reviews, namespace: {namespace} }}\n---\n\
         apiVersion: v1\nkind: Pod\nmetadata: {{ name: p, namespace: {namespace} }}\n\
         spec: {{ serviceAccountName: reviews, nodeName: n1, containers: [{{ name: c, image: none }}] }}\n"
    ));
    let clock = Arc::new(ManualClock::new(SystemTime::now()));
    let client = client(&api.kubeconfig()).await;
    let reviewer = TokenReviewer::new(client, vec!["istio-ca".to_owned()], clock);

    let token = api.token(&namespace, "reviews", Some("istio-ca"));
    let owner = reviewer.review(&token).await.unwrap();
    assert_eq!(
        (owner.namespace.as_str(), owner.service_account.as_str()),
        (namespace.as_str(), "reviews")
    );
    assert_eq!(owner.pod, None);

    let bound = api.run(&[
        "create",
        "token",
        "reviews",
        "--namespace",
        &namespace,
        "--audience=istio-ca",
        "--bound-object-kind=Pod",
        "--bound-object-name=p",
    ]);
    let pod = reviewer.review(bound.trim()).await.unwrap().pod.unwrap();
    assert_eq!(pod.name, "p");
    assert_eq!(pod.uid, api.get("pod", &namespace, "p")["metadata"]["uid"]);

    let other = api.token(&namespace, "reviews", Some("somebody-else"));
    assert!(matches!(
        reviewer.review(&other).await,
        Err(ReviewError::Refused(_))
    ));
    let servers = api.token(&namespace, "reviews", None);
    assert!(matches!(
        reviewer.review(&servers).await,
        Err(ReviewError::Refused(_))
    ));
    let mut forged = token.clone();
    forged.replace_range(token.len() - 6..token.len() - 2, "AAAA");
    assert!(matches!(
        reviewer.review(&forged).await,
        Err(ReviewError::Refused(_))
    ));
    assert!(matches!(
        reviewer.review("").await,
        Err(ReviewError::Malformed)
    ));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_is_remembered_for_a_while_and_an_error_is_not() {
    let Some(mut api) = ApiServer::start(Options::default()) else {
        return;
    };
    let namespace = api.namespace();
    api.run(&["create", "serviceaccount", "a", "--namespace", &namespace]);
    let token = api.token(&namespace, "a", Some("istio-ca"));
    let wall = SystemTime::now();
    let clock = Arc::new(ManualClock::new(wall));
    let client = client(&api.kubeconfig()).await;
    let reviewer = TokenReviewer::new(client, vec!["istio-ca".to_owned()], clock.clone());
    reviewer.review(&token).await.unwrap();
    let another = api.token(&namespace, "a", Some("istio-ca"));

    tokio::task::block_in_place(|| api.stop_api_server());
    reviewer.review(&token).await.unwrap();
    assert!(matches!(
        reviewer.review(&another).await,
        Err(ReviewError::Api(_) | ReviewError::TimedOut)
    ));
    clock.advance(REMEMBERED + Duration::from_secs(1));
    assert!(matches!(
        reviewer.review(&token).await,
        Err(ReviewError::Api(_) | ReviewError::TimedOut)
    ));
    tokio::task::block_in_place(|| api.start_api_server());
    reviewer.review(&token).await.unwrap();
    reviewer.review(&another).await.unwrap();

    // Beyond its own end it is not believed even if it was.
    clock.set_wall(wall + Duration::from_secs(24 * 3600));
    clock.advance(REMEMBERED + Duration::from_secs(1));
    reviewer.review(&token).await.unwrap();
    tokio::task::block_in_place(|| api.stop_api_server());
    assert!(reviewer.review(&token).await.is_err());
}
