use std::collections::HashMap;
use std::time::Duration;

use super::*;
use crate::cluster::fixture::{cluster, endpoint, set};

fn counts(balancer: &mut Balancer, cluster: &Cluster, picks: usize) -> HashMap<String, usize> {
    let random = Random::from_seed(3);
    let mut seen = HashMap::new();
    for _ in 0..picks {
        if let Some(endpoint) = balancer.pick(&cluster.lb, Instant::now(), &random) {
            *seen.entry(endpoint.text.to_string()).or_default() += 1;
        }
    }
    seen
}

fn balancer(cluster: &Cluster, endpoints: &EndpointSet) -> Balancer {
    Balancer::new(
        cluster,
        endpoints,
        None,
        Instant::now(),
        &Random::from_seed(1),
    )
}

const ROUND_ROBIN: LbPolicy = LbPolicy::RoundRobin { slow_start: None };
const LEAST_REQUEST: LbPolicy = LbPolicy::LeastRequest {
    choices: 2,
    active_request_bias: 1.0,
    slow_start: None,
};

#[test]
fn round_robin_takes_turns() {
    let cluster = cluster(ROUND_ROBIN);
    let set =
        set([("10.0.0.1:80", 0), ("10.0.0.2:80", 0), ("10.0.0.3:80", 0)]
            .map(|(a, p)| (endpoint(a), p)));
    let seen = counts(&mut balancer(&cluster, &set), &cluster, 300);
    assert!(seen.values().all(|n| *n == 100), "{seen:?}");
}

#[test]
fn weights_count_in_turns() {
    let cluster = cluster(ROUND_ROBIN);
    let mut heavy = endpoint("10.0.0.1:80");
    heavy.weight = 3;
    let set = set([(heavy, 0), (endpoint("10.0.0.2:80"), 0)]);
    let seen = counts(&mut balancer(&cluster, &set), &cluster, 400);
    assert_eq!(seen["10.0.0.1:80"], 300);
}

#[test]
fn least_request_avoids_the_busy_one() {
    let cluster = cluster(LEAST_REQUEST);
    let busy = endpoint("10.0.0.1:80");
    busy.stats.rq_active.set(10);
    let set = set([
        (busy, 0),
        (endpoint("10.0.0.2:80"), 0),
        (endpoint("10.0.0.3:80"), 0),
    ]);
    let seen = counts(&mut balancer(&cluster, &set), &cluster, 9000);
    // Only when both draws fall on it.
    assert!((800..1200).contains(&seen["10.0.0.1:80"]), "{seen:?}");
}

#[test]
fn least_request_with_weights_divides_them_by_the_load() {
    let cluster = cluster(LEAST_REQUEST);
    let mut heavy = endpoint("10.0.0.1:80");
    heavy.weight = 4;
    heavy.stats.rq_active.set(3);
    let set = set([(heavy, 0), (endpoint("10.0.0.2:80"), 0)]);
    let seen = counts(&mut balancer(&cluster, &set), &cluster, 1000);
    assert!((480..520).contains(&seen["10.0.0.1:80"]), "{seen:?}");
}

#[test]
fn unhealthy_ones_are_never_picked_and_the_next_priority_helps_out() {
    let cluster = cluster(LbPolicy::Random);
    let mut sick = endpoint("10.0.0.1:80");
    sick.health = EndpointHealth::Unhealthy;
    let with_help = set([
        (sick, 0),
        (endpoint("10.0.0.2:80"), 0),
        (endpoint("10.0.0.3:80"), 1),
    ]);
    let seen = counts(&mut balancer(&cluster, &with_help), &cluster, 1000);
    assert!(!seen.contains_key("10.0.0.1:80"));
    assert!((650..750).contains(&seen["10.0.0.2:80"]), "{seen:?}");
    let mut sick = endpoint("10.0.0.1:80");
    sick.health = EndpointHealth::Unhealthy;
    let alone = set([(sick, 0)]);
    assert!(counts(&mut balancer(&cluster, &alone), &cluster, 10).is_empty());
}

#[test]
fn panic_disregards_health_where_it_is_allowed() {
    let mut cluster = cluster(LbPolicy::Random);
    cluster.panic_threshold_percent = 50.0;
    let mut sick = endpoint("10.0.0.1:80");
    sick.health = EndpointHealth::Unhealthy;
    let seen = counts(&mut balancer(&cluster, &set([(sick, 0)])), &cluster, 10);
    assert_eq!(seen["10.0.0.1:80"], 10);
}

#[test]
fn degraded_ones_are_the_last_resort() {
    let cluster = cluster(LbPolicy::Random);
    let weak = |address| {
        let mut e = endpoint(address);
        e.health = EndpointHealth::Degraded;
        e
    };
    let set_with = set([(weak("10.0.0.1:80"), 0), (endpoint("10.0.0.2:80"), 0)]);
    assert_eq!(
        counts(&mut balancer(&cluster, &set_with), &cluster, 10)["10.0.0.2:80"],
        10
    );
    let set_alone = set([(weak("10.0.0.1:80"), 0)]);
    assert_eq!(
        counts(&mut balancer(&cluster, &set_alone), &cluster, 10)["10.0.0.1:80"],
        10
    );
}

#[test]
fn a_newcomer_is_spared_at_first() {
    let slow = SlowStart {
        window: Duration::from_secs(10),
        aggression: 1.0,
        min_weight_percent: 10.0,
    };
    let cluster = cluster(LbPolicy::RoundRobin {
        slow_start: Some(slow),
    });
    let random = Random::from_seed(5);
    let start = Instant::now();
    let old = Balancer::new(
        &cluster,
        &set([(endpoint("10.0.0.1:80"), 0)]),
        None,
        start,
        &random,
    );
    let both = set([(endpoint("10.0.0.1:80"), 0), (endpoint("10.0.0.2:80"), 0)]);
    let mut new = Balancer::new(&cluster, &both, Some(&old), start, &random);
    let mut share = |after: u64| {
        let now = start + Duration::from_secs(after);
        let hits = (0..1100).filter(|_| {
            let picked = new.pick(&cluster.lb, now, &random);
            picked.is_some_and(|e| &*e.text == "10.0.0.2:80")
        });
        hits.count()
    };
    assert!(
        (90..115).contains(&share(0)),
        "a tenth of the weight at first"
    );
    assert!((320..410).contains(&share(5)), "half of it in the middle");
    assert!((540..560).contains(&share(60)), "and all of it at last");
}

#[test]
fn localities_get_their_weights() {
    let mut cluster = cluster(ROUND_ROBIN);
    cluster.locality_weighted = true;
    let mut set = set([(endpoint("10.0.0.1:80"), 0)]);
    set.priorities[0].localities[0].weight = Some(3);
    let mut other = crate::cluster::fixture::set([(endpoint("10.0.0.2:80"), 0)]);
    let mut locality = other.priorities.remove(0).localities.remove(0);
    locality.weight = Some(1);
    set.priorities[0].localities.push(locality);
    let seen = counts(&mut balancer(&cluster, &set), &cluster, 400);
    assert_eq!(seen["10.0.0.1:80"], 300);
}
