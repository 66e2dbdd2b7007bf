//! Changes of the configuration under load: they cost no request and no connection.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::routing::rules;
use super::{heavy, scenario};
use crate::cache::say;
use crate::http::{self, Connection};
use crate::scenarios::{Scenario, Site, Verdict};
use crate::wait::until_or;

/// Connections of the load.
const CLIENTS: u32 = 10;
/// Requests a second that it aims at; a machine that cannot keep up gets as many as it can.
const RATE: u32 = 1000;
/// Changes a second, each of which is waited for.
const CHANGES: u32 = 10;
/// A change has to be in force within this.
const IN_FORCE: Duration = Duration::from_secs(10);

/// How long a load lasts: that many seconds in CI, and less while people wait.
fn lasting(in_ci: u64) -> Duration {
    let ci = std::env::var("CI").is_ok_and(|v| v == "true");
    Duration::from_secs(if ci { in_ci } else { 6 })
}

/// What the clients of a load saw.
#[derive(Default)]
struct Tally {
    stop: AtomicBool,
    answered: AtomicU64,
    /// The newest change that an answer carried.
    change: AtomicU64,
    /// The pods that answered last, oldest first.
    pods: Mutex<Vec<String>>,
    /// What went wrong.
    wrong: Mutex<Vec<String>>,
}

impl Tally {
    /// One client: requests at its share of the rate, all on one connection.
    fn client(&self, site: &Site<'_>) -> Verdict {
        let pause = Duration::from_secs(1) * CLIENTS / RATE;
        let mut connection = site.connection(80)?;
        let mut next = Instant::now();
        while !self.stop.load(Ordering::Relaxed) {
            self.request(&mut connection)?;
            next += pause;
            let now = Instant::now();
            match next.checked_duration_since(now) {
                Some(rest) => std::thread::park_timeout(rest),
                // What was missed is not made up for in a burst.
                None => next = now,
            }
        }
        Ok(())
    }

    fn request(&self, connection: &mut Connection) -> Verdict {
        let answer = connection.get("/").map_err(|e| e.to_string())?;
        if answer.status != 200 {
            let body = String::from_utf8_lossy(&answer.body).into_owned();
            return Err(format!("status {}: {body}", answer.status));
        }
        if answer
            .header("connection")
            .is_some_and(|v| v.contains("close"))
        {
            return Err("the connection is drained".to_owned());
        }
        self.answered.fetch_add(1, Ordering::Relaxed);
        if let Some(change) = answer.header("x-change").and_then(|v| v.parse().ok()) {
            self.change.fetch_max(change, Ordering::Relaxed);
        }
        let pod = answer.header("x-pod").unwrap_or_default().to_owned();
        let mut pods = self.pods.lock().unwrap_or_else(PoisonError::into_inner);
        if pods.len() == LAST {
            pods.remove(0);
        }
        pods.push(pod);
        Ok(())
    }

    fn failed(&self) -> bool {
        !self
            .wrong
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .is_empty()
    }

    /// Whether exactly these pods answer.
    fn only(&self, want: &[&str]) -> bool {
        let pods = self.pods.lock().unwrap_or_else(PoisonError::into_inner);
        let got: BTreeSet<&str> = pods.iter().map(String::as_str).collect();
        pods.len() == LAST && got == want.iter().copied().collect()
    }
}

/// How many answers tell which pods are in use.
const LAST: usize = 40;

/// Makes changes under load, one after the other, each once the one before is in force and not faster than the rate.
///
/// `make` makes the change of that number; `seen` tells whether it is in force.
fn changing(
    site: &Site<'_>,
    lasting: Duration,
    make: impl Fn(u64) -> Verdict,
    seen: impl Fn(&Tally, u64) -> bool,
) -> Verdict {
    let tally = Tally::default();
    let drained_before = drained(site)?;
    let made = std::thread::scope(|scope| {
        for _ in 0..CLIENTS {
            scope.spawn(|| {
                if let Err(why) = tally.client(site) {
                    tally
                        .wrong
                        .lock()
                        .unwrap_or_else(PoisonError::into_inner)
                        .push(why);
                }
            });
        }
        let made = changes(&tally, lasting, make, seen);
        tally.stop.store(true, Ordering::Relaxed);
        made
    });
    let wrong = tally
        .wrong
        .into_inner()
        .unwrap_or_else(PoisonError::into_inner);
    let answered = tally.answered.into_inner();
    if !wrong.is_empty() {
        return Err(format!(
            "{} of {CLIENTS} connections failed after {answered} answers: {wrong:?}",
            wrong.len()
        ));
    }
    let made = made?;
    say(&format!(
        "{}: {made} changes and {answered} answers in {lasting:?}",
        site.host
    ));
    if drained(site)? != drained_before {
        return Err("listeners or filter chains were made anew".to_owned());
    }
    // As many as a machine manages that does much else.
    if made < lasting.as_secs() {
        return Err(format!("{made} changes, want one a second at least"));
    }
    Ok(())
}

/// What the waypoint says of listeners that changed and connections that are drained for it; ours has no such numbers.
fn drained(site: &Site<'_>) -> Result<Vec<String>, String> {
    let filter = "/stats?filter=listener_manager.(listener_modified|total_filter_chains_draining)";
    let answer = http::get(None, site.ground.admin, filter).map_err(|e| e.to_string())?;
    let text = String::from_utf8_lossy(&answer.body).into_owned();
    Ok(text.lines().map(str::to_owned).collect())
}

fn changes(
    tally: &Tally,
    lasting: Duration,
    make: impl Fn(u64) -> Verdict,
    seen: impl Fn(&Tally, u64) -> bool,
) -> Result<u64, String> {
    let until = Instant::now() + lasting;
    let pause = Duration::from_secs(1) / CHANGES;
    let mut change = 0;
    while Instant::now() < until {
        let next = Instant::now() + pause;
        change += 1;
        make(change)?;
        let in_force = until_or(IN_FORCE, || tally.failed() || seen(tally, change));
        if tally.failed() {
            return Ok(change);
        }
        if !in_force {
            return Err(format!(
                "change {change} is not in force after {IN_FORCE:?}"
            ));
        }
        std::thread::park_timeout(next.saturating_duration_since(Instant::now()));
    }
    Ok(change)
}

/// What the rules become with that change.
fn routes(change: u64) -> String {
    let weight = change % 101;
    let rules = ROUTES
        .replace("WEIGHT", &weight.to_string())
        .replace("REST", &(100 - weight).to_string());
    rules.replace("CHANGE", &change.to_string())
}

const ROUTES: &str = rules!(
    "  - route:\n    - {destination: {host: HOST, subset: v1}, weight: WEIGHT}\n    - {destination: {host: HOST, subset: v2}, weight: REST}\n    headers: {response: {set: {x-change: 'CHANGE'}}}\n"
);

/// The subset that all goes to with that change, made and routed to at once; the one before it is gone.
fn subset(change: u64) -> String {
    let version = 1 + change % 3;
    SUBSET
        .replace("SUBSET", &format!("c{change}"))
        .replace("VERSION", &format!("v{version}"))
        .replace("CHANGE", &change.to_string())
}

const SUBSET: &str = concat!(
    "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: HOST, namespace: scenarios}\n",
    "spec:\n  host: HOST\n  subsets: [{name: SUBSET, labels: {version: VERSION}}]\n---\n",
    rules!(
        "  - route: [{destination: {host: HOST, subset: SUBSET}}]\n    headers: {response: {set: {x-change: 'CHANGE'}}}\n"
    )
);

/// The pods behind the service with that change.
fn pods(change: u64) -> &'static [&'static str] {
    const SETS: [&[&str]; 5] = [
        &["echo-v1", "echo-v2"],
        &["echo-v2", "echo-v3"],
        &["echo-v3"],
        &["echo-v1", "echo-v2", "echo-v3"],
        &["echo-v1"],
    ];
    SETS[usize::try_from(change).unwrap_or(0) % SETS.len()]
}

fn endpoints(change: u64) -> String {
    let mut text = ENDPOINTS.to_owned();
    for pod in pods(change) {
        let address = pod.replace("echo-v", "127.244.10.");
        text.push_str(&format!(
            "- addresses: [{address}]\n  targetRef: {{kind: Pod, name: {pod}, namespace: scenarios}}\n"
        ));
    }
    text
}

const ENDPOINTS: &str = "apiVersion: v1\nkind: Service\nmetadata: {name: HOST, namespace: scenarios}\nspec:\n  ports:\n  - {name: http, port: 80, targetPort: 8080}\n---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {name: HOST, namespace: scenarios, labels: {kubernetes.io/service-name: HOST}}\naddressType: IPv4\nports:\n- {name: http, port: 8080}\nendpoints:\n";

pub(super) const LIST: &[Scenario] = &[
    heavy(scenario(
        "changes: ten of the routes a second under load cost no request and no connection",
        rules!("  - route: [{destination: {host: HOST, subset: v1}}]\n"),
        |site| {
            changing(
                site,
                lasting(60),
                |change| site.replace_manifests(&routes(change)),
                |tally, change| tally.change.load(Ordering::Relaxed) >= change,
            )
        },
    )),
    heavy(scenario(
        "changes: ten of the endpoints a second under load cost no request and no connection",
        "apiVersion: v1\nkind: Service\nmetadata: {name: HOST, namespace: scenarios}\nspec:\n  ports:\n  - {name: http, port: 80, targetPort: 8080}\n---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {name: HOST, namespace: scenarios, labels: {kubernetes.io/service-name: HOST}}\naddressType: IPv4\nports:\n- {name: http, port: 8080}\nendpoints:\n- addresses: [127.244.10.1]\n  targetRef: {kind: Pod, name: echo-v1, namespace: scenarios}\n",
        |site| {
            changing(
                site,
                lasting(15),
                |change| site.replace_manifests(&endpoints(change)),
                |tally, change| tally.only(pods(change)),
            )
        },
    )),
    heavy(scenario(
        "changes: subsets that are made and routed to at once, and removed with their routes, cost no request",
        "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: HOST, namespace: scenarios}\nspec:\n  host: HOST\n  subsets: [{name: c0, labels: {version: v1}}]\n",
        |site| {
            changing(
                site,
                lasting(15),
                |change| site.replace_manifests(&subset(change)),
                |tally, change| tally.change.load(Ordering::Relaxed) >= change,
            )
        },
    )),
];
