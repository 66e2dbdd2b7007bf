//! Our waypoint against Envoy with random meshes: the same configuration, the same requests, the same decisions.
//!
//! Several meshes are pushed at a time, and the next ones replace them in the running proxies. A decision is what the client
//! and the chosen pod see. Where chance has a part in it (weights, endpoints), everything that can come of the request is
//! compared. A difference is reduced to a small mesh and printed with it; `WAYMARK_DIFFERENTIAL_SEED` repeats a run,
//! `WAYMARK_DIFFERENTIAL_ROUNDS` makes it longer.

mod decision;
mod mesh;
mod pair;
mod request;
mod route;
mod tables;

use std::time::{Duration, Instant};

use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use waymark_testkit::netns::isolated;
use waymark_testkit::peers;

use self::decision::{Outcomes, difference};
use self::mesh::Mesh;
use self::pair::{NAMES, Pair};
use self::request::Request;

/// Meshes that are pushed at a time.
const MESHES: usize = 12;
/// Requests to each.
const REQUESTS: usize = 50;
const ROUNDS: usize = 4;
/// Where two sets of outcomes still differ after so many requests, they do.
const SAMPLES: usize = 300;
/// How long a difference is reduced.
const REDUCING: Duration = Duration::from_secs(60);

#[test]
fn both_proxies_decide_alike() {
    let Some(envoy) = peers::envoy() else { return };
    isolated(|| {
        let seed = number("WAYMARK_DIFFERENTIAL_SEED").unwrap_or_else(some_number);
        let rounds = number("WAYMARK_DIFFERENTIAL_ROUNDS").map_or(ROUNDS, |n| n as usize);
        say(&format!("WAYMARK_DIFFERENTIAL_SEED={seed}"));
        let mut runner = runner(seed);
        let mut pair = Pair::start(&envoy);
        let mut decisions = 0;
        for _ in 0..rounds {
            decisions += round(&mut pair, &mut runner);
        }
        tables::are_equal(&pair);
        pair.stop();
        say(&format!("{decisions} decisions compared"));
        assert!(decisions >= rounds * 500, "{decisions}");
    });
}

fn runner(seed: u64) -> TestRunner {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &bytes);
    TestRunner::new_with_rng(Config::default(), rng)
}

/// Pushes some meshes and compares; returns how many decisions.
fn round(pair: &mut Pair, runner: &mut TestRunner) -> usize {
    let mut trees: Vec<_> = (0..MESHES)
        .map(|_| mesh::mesh().new_tree(runner).expect("a mesh"))
        .collect();
    let meshes: Vec<Mesh> = trees.iter().map(ValueTree::current).collect();
    let manifests: String = meshes
        .iter()
        .enumerate()
        .map(|(place, mesh)| mesh.manifests(place))
        .collect();
    pair.apply(&manifests);
    let mut decisions = 0;
    for (place, mesh) in meshes.iter().enumerate() {
        for _ in 0..REQUESTS {
            let mut request = request::request().new_tree(runner).expect("a request");
            decisions += 1;
            if let Some(found) = differs(pair, mesh, place, &request.current()) {
                let again = reduce(pair, &mut trees[place], &mut request);
                panic!(
                    "{}",
                    again.unwrap_or(format!("only beside other meshes:\n{found}{manifests}"))
                );
            }
        }
    }
    decisions
}

/// Asks both until they have given the same answers; what differs if they never do.
fn differs(pair: &mut Pair, mesh: &Mesh, place: usize, request: &Request) -> Option<String> {
    let to = request.to(mesh, place).to_string();
    let bytes = request.bytes(mesh, place);
    let mut outcomes: [Outcomes; 2] = Default::default();
    for asked in 0..SAMPLES {
        for (all, one) in outcomes.iter_mut().zip(pair.ask(&to, &bytes)) {
            all.insert(one);
        }
        if outcomes[0] == outcomes[1] {
            return None;
        }
        if asked >= SAMPLES / 10 && outcomes[0].is_disjoint(&outcomes[1]) {
            break;
        }
    }
    Some(format!(
        "to {to}:\n{}{}",
        String::from_utf8_lossy(&bytes),
        difference(NAMES, &outcomes)
    ))
}

/// Leaves out of mesh and request what the difference does not need, and tells what is left.
fn reduce(
    pair: &mut Pair,
    mesh: &mut impl ValueTree<Value = Mesh>,
    request: &mut impl ValueTree<Value = Request>,
) -> Option<String> {
    let until = Instant::now() + REDUCING;
    let (mut smallest_mesh, mut smallest_request) = (mesh.current(), request.current());
    pair.apply(&smallest_mesh.manifests(0));
    let mut found = differs(pair, &smallest_mesh, 0, &smallest_request)?;
    shrink(mesh, until, |mesh| {
        pair.apply(&mesh.manifests(0));
        let Some(still) = differs(pair, mesh, 0, &smallest_request) else {
            return false;
        };
        (found, smallest_mesh) = (still, mesh.clone());
        true
    });
    pair.apply(&smallest_mesh.manifests(0));
    shrink(request, until, |request| {
        let Some(still) = differs(pair, &smallest_mesh, 0, request) else {
            return false;
        };
        (found, smallest_request) = (still, request.clone());
        true
    });
    let manifests = smallest_mesh.manifests(0);
    Some(format!(
        "the two proxies decide differently:\n{found}{manifests}"
    ))
}

/// Makes a value as simple as it can be while it still fails.
fn shrink<T: ValueTree>(tree: &mut T, until: Instant, mut fails: impl FnMut(&T::Value) -> bool) {
    let mut more = tree.simplify();
    while more && Instant::now() < until {
        more = if fails(&tree.current()) {
            tree.simplify()
        } else {
            tree.complicate()
        };
    }
}

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(
        text.parse()
            .unwrap_or_else(|_| panic!("{name}={text} is no number")),
    )
}

/// Another each time.
fn some_number() -> u64 {
    use std::hash::{BuildHasher, RandomState};
    RandomState::new().hash_one(std::process::id()) % 1_000_000
}

#[expect(clippy::print_stderr, reason = "how a run can be repeated")]
fn say(text: &str) {
    eprintln!("{text}");
}
