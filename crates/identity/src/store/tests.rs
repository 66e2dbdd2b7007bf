#![expect(clippy::unwrap_used, reason = "tests")]

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use waymark_rt::SystemClock;

use super::*;
use crate::spiffe::TrustDomain;

/// An authority that counts, and can be switched off.
#[derive(Debug)]
struct Counting {
    ca: Ca,
    ttl: Duration,
    calls: AtomicUsize,
    down: AtomicBool,
}

impl Counting {
    fn new(ttl: Duration) -> Arc<Self> {
        let ca = Ca::in_memory(&TrustDomain::default(), Arc::new(SystemClock)).unwrap();
        Arc::new(Self {
            ca,
            ttl,
            calls: AtomicUsize::new(0),
            down: AtomicBool::new(false),
        })
    }

    fn calls(&self) -> usize {
        self.calls.load(Ordering::SeqCst)
    }
}

impl CertSource for Counting {
    fn sign<'a>(
        &'a self,
        identity: &'a SpiffeId,
        csr_pem: &'a str,
    ) -> BoxFuture<'a, Result<Vec<String>, FetchError>> {
        self.calls.fetch_add(1, Ordering::SeqCst);
        Box::pin(async move {
            tokio::task::yield_now().await;
            if self.down.load(Ordering::SeqCst) {
                return Err(FetchError::Refused(Box::new(tonic::Status::unavailable(
                    "down",
                ))));
            }
            Ok(self.ca.sign(csr_pem, identity, Some(self.ttl))?.chain)
        })
    }
}

const DAY: Duration = Duration::from_secs(24 * 3600);

fn id(account: &str) -> SpiffeId {
    format!("spiffe://cluster.local/ns/default/sa/{account}")
        .parse()
        .unwrap()
}

fn quick() -> StoreOptions {
    StoreOptions {
        retry_min: Duration::from_millis(5),
        retry_max: Duration::from_millis(20),
        ..StoreOptions::default()
    }
}

async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(20), future)
        .await
        .unwrap()
}

#[tokio::test]
async fn is_fetched_once_however_many_ask() {
    let source = Counting::new(DAY);
    let store = Arc::new(CertStore::new(
        Arc::clone(&source) as _,
        StoreOptions::default(),
    ));
    let asking = (0..50).map(|_| {
        let store = Arc::clone(&store);
        waymark_rt::spawn("ask", async move {
            store
                .handle(&id("reviews"))
                .ready()
                .await
                .unwrap()
                .info()
                .serial
                .clone()
        })
    });
    let serials = within(futures_util::future::join_all(asking)).await;
    assert!(
        serials
            .windows(2)
            .all(|w| w[0].as_ref().unwrap() == w[1].as_ref().unwrap())
    );
    assert_eq!(source.calls(), 1);
}

#[tokio::test]
async fn each_identity_has_its_own_key_and_all_share_the_roots() {
    let store = CertStore::new(Counting::new(DAY), StoreOptions::default());
    let a = within(store.handle(&id("a")).ready()).await.unwrap();
    let b = within(store.handle(&id("b")).ready()).await.unwrap();
    assert_eq!(a.identity(), Some(id("a")));
    assert_ne!(a.info().serial, b.info().serial);
    assert!(Arc::ptr_eq(a.roots(), b.roots()));
    let status = store.status();
    assert_eq!(status.len(), 2);
    let summary = status[0].summary();
    assert_eq!(
        (summary.state, summary.identity),
        ("Available", Some(id("a")))
    );
    assert_eq!(summary.serial.as_ref(), Some(&a.info().serial));
    assert_eq!((status[0].chain().len(), status[0].roots().len()), (1, 1));
}

#[tokio::test]
async fn is_renewed_at_half_of_its_life() {
    let store = CertStore::new(Counting::new(DAY), StoreOptions::default());
    let handle = store.handle(&id("a"));
    within(handle.ready()).await.unwrap();
    let CertState::Available {
        credentials,
        renew_at: Some(at),
        ..
    } = handle.state()
    else {
        panic!("{:?}", handle.state())
    };
    let left = credentials.info().not_after.duration_since(at).unwrap();
    assert!((DAY / 2..=DAY * 6 / 10).contains(&left), "{left:?}");
}

#[tokio::test]
async fn renews_by_itself_and_tells_those_who_watch() {
    let source = Counting::new(Duration::from_secs(2));
    let store = CertStore::new(Arc::clone(&source) as _, quick());
    let handle = store.handle(&id("a"));
    let first = within(handle.ready()).await.unwrap();
    let mut states = handle.subscribe();
    let renewed = |state: &CertState| matches!(state, CertState::Available { credentials, .. } if credentials.info().serial != first.info().serial);
    within(states.wait_for(renewed)).await.unwrap();
    assert_ne!(handle.current().unwrap().info().serial, first.info().serial);
}

#[tokio::test]
async fn the_old_one_stays_when_renewal_fails() {
    let source = Counting::new(DAY);
    let store = CertStore::new(Arc::clone(&source) as _, quick());
    let handle = store.handle(&id("a"));
    let first = within(handle.ready()).await.unwrap();
    source.down.store(true, Ordering::SeqCst);
    handle.renew_now();
    let mut states = handle.subscribe();
    within(states.wait_for(|s| {
        matches!(
            s,
            CertState::Available {
                failure: Some(_),
                ..
            }
        )
    }))
    .await
    .unwrap();
    assert_eq!(handle.current().unwrap().info().serial, first.info().serial);
    assert_eq!(
        handle.ready().await.unwrap().info().serial,
        first.info().serial
    );
    let error = handle.status().summary().error.unwrap();
    assert!(error.contains("refused: down"), "{error}");
    source.down.store(false, Ordering::SeqCst);
    let renewed = |s: &CertState| matches!(s, CertState::Available { credentials, failure: None, .. } if credentials.info().serial != first.info().serial);
    within(states.wait_for(renewed)).await.unwrap();
}

#[tokio::test]
async fn one_that_ended_is_not_used() {
    let source = Counting::new(Duration::from_secs(1));
    let store = CertStore::new(Arc::clone(&source) as _, quick());
    let handle = store.handle(&id("a"));
    within(handle.ready()).await.unwrap();
    source.down.store(true, Ordering::SeqCst);
    let mut states = handle.subscribe();
    within(states.wait_for(|s| matches!(s, CertState::Unavailable { .. })))
        .await
        .unwrap();
    assert!(handle.current().is_none());
    source.down.store(false, Ordering::SeqCst);
    within(handle.available()).await;
}

#[tokio::test]
async fn a_failure_is_told_and_tried_again() {
    let source = Counting::new(DAY);
    source.down.store(true, Ordering::SeqCst);
    let store = CertStore::new(Arc::clone(&source) as _, quick());
    let handle = store.handle(&id("a"));
    let e = within(handle.ready()).await.unwrap_err();
    assert_eq!(
        e.to_string(),
        "no certificate for spiffe://cluster.local/ns/default/sa/a"
    );
    assert!(chain_of(&e).contains("down"));
    assert_eq!(handle.state().name(), "Unavailable");
    source.down.store(false, Ordering::SeqCst);
    within(handle.available()).await;
    assert!(source.calls() >= 2);
}

#[tokio::test]
async fn a_silent_authority_is_given_up_on() {
    #[derive(Debug)]
    struct Silent;
    impl CertSource for Silent {
        fn sign<'a>(
            &'a self,
            _: &'a SpiffeId,
            _: &'a str,
        ) -> BoxFuture<'a, Result<Vec<String>, FetchError>> {
            Box::pin(std::future::pending())
        }
    }
    let store = CertStore::new(
        Arc::new(Silent),
        StoreOptions {
            timeout: Duration::from_millis(10),
            ..quick()
        },
    );
    let e = within(store.handle(&id("a")).ready()).await.unwrap_err();
    assert!(chain_of(&e).contains("no answer"), "{}", chain_of(&e));
}

#[tokio::test]
async fn what_is_forgotten_is_not_renewed_and_who_waits_is_told() {
    #[derive(Debug)]
    struct Silent;
    impl CertSource for Silent {
        fn sign<'a>(
            &'a self,
            _: &'a SpiffeId,
            _: &'a str,
        ) -> BoxFuture<'a, Result<Vec<String>, FetchError>> {
            Box::pin(std::future::pending())
        }
    }
    let store = CertStore::new(Arc::new(Silent), StoreOptions::default());
    let handle = store.handle(&id("a"));
    let waiting = handle.ready();
    store.forget(&id("a"));
    assert!(chain_of(&within(waiting).await.unwrap_err()).contains("no longer needed"));
    assert!(store.known(&id("a")).is_none() && store.status().is_empty());
}

#[test]
fn renewal_is_spread_but_never_hectic() {
    for _ in 0..100 {
        let after = renew_after(DAY);
        assert!((DAY * 45 / 100..=DAY / 2).contains(&after), "{after:?}");
    }
    assert_eq!(renew_after(Duration::ZERO), RENEW_AT_MOST_EVERY);
}
