//! The decision in tables; the driver runs against a real API server in the integration tests.
#![expect(clippy::unwrap_used, reason = "tests")]

use super::*;

fn elector(identity: &str) -> Elector {
    Elector::new(&LeaseOptions {
        duration: Duration::from_secs(10),
        ..LeaseOptions::new("istio-system", "l", identity)
    })
}

fn later(from: Instant, seconds: u64) -> Instant {
    from + Duration::from_secs(seconds)
}

#[test]
fn the_first_one_takes_it_and_the_second_waits_until_it_is_over() {
    let (mut a, mut b) = (elector("a"), elector("b"));
    let start = Instant::now();
    let held = a.decide(None, start).unwrap();
    assert_eq!(held.holder_identity.as_deref(), Some("a"));
    assert_eq!(held.lease_transitions, Some(0));
    assert_eq!(b.decide(Some(&held), start), None);
    assert_eq!(b.decide(Some(&held), later(start, 9)), None);
    let taken = b.decide(Some(&held), later(start, 10)).unwrap();
    assert_eq!(taken.holder_identity.as_deref(), Some("b"));
    assert_eq!(taken.lease_transitions, Some(1));
    // The former leader sees that, and waits in its turn.
    assert_eq!(a.decide(Some(&taken), later(start, 10)), None);
}

#[test]
fn a_renewal_is_waited_for_anew() {
    let (mut a, mut b) = (elector("a"), elector("b"));
    let start = Instant::now();
    let first = a.decide(None, start).unwrap();
    assert_eq!(b.decide(Some(&first), start), None);
    let mut second = a.decide(Some(&first), later(start, 8)).unwrap();
    // However near the clocks are, a renewal is another record.
    second.renew_time = Some(MicroTime(Timestamp::from_second(1).unwrap()));
    assert_eq!(second.acquire_time, first.acquire_time);
    assert_eq!(b.decide(Some(&second), later(start, 12)), None);
    assert_eq!(b.decide(Some(&second), later(start, 21)), None);
    assert!(b.decide(Some(&second), later(start, 22)).is_some());
}

#[test]
fn what_was_given_back_is_taken_at_once() {
    let (mut a, mut b) = (elector("a"), elector("b"));
    let start = Instant::now();
    let mut record = a.decide(None, start).unwrap();
    record.holder_identity = Some(String::new());
    assert!(b.decide(Some(&record), start).is_some());
}

#[test]
fn the_clocks_of_others_are_not_believed() {
    let mut b = elector("b");
    let start = Instant::now();
    let record = LeaseSpec {
        holder_identity: Some("a".to_owned()),
        renew_time: Some(MicroTime(Timestamp::from_second(0).unwrap())),
        lease_duration_seconds: Some(30),
        ..LeaseSpec::default()
    };
    assert_eq!(b.decide(Some(&record), start), None);
    // A holder that promised longer than we would wait is waited for.
    assert_eq!(b.decide(Some(&record), later(start, 29)), None);
    assert!(b.decide(Some(&record), later(start, 30)).is_some());
}

#[tokio::test]
async fn work_stops_with_the_term_and_starts_with_the_next() {
    let (terms, watched) = watch::channel(None);
    let leadership = Leadership { terms: watched };
    assert!(!leadership.is_leader());
    let (began, mut begins) = tokio::sync::mpsc::channel(4);
    let work = waymark_rt::spawn(
        "work",
        leadership.clone().lead(move |_| {
            let began = began.clone();
            async move {
                began.send(()).await.unwrap();
                std::future::pending().await
            }
        }),
    );
    for _ in 0..2 {
        let term = Term::begin();
        terms.send_replace(Some(term.clone()));
        begins.recv().await.unwrap();
        assert!(leadership.is_leader());
        term.over.cancel();
        assert!(!leadership.is_leader());
    }
    drop(terms);
    work.await.unwrap();
}
