//! Clusters whose endpoints are host names: resolved now and then, by the system's resolver.
//!
//! Runs beside the workers, which only ever see finished endpoint sets. A name that cannot be resolved keeps the addresses
//! that it had; a cluster has none until its names were resolved once.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};
use tracing::{debug, warn};
use waymark_rt::Tasks;

use crate::program::{
    Cluster, Discovery, DnsHost, DnsSettings, Endpoint, EndpointHealth, EndpointKind, EndpointSet,
    LocalityEndpoints, Priority, SnapshotCell,
};
use crate::telemetry::EndpointStats;

/// How often it is looked for clusters that are due.
const TICK: Duration = Duration::from_millis(250);
/// Queries at once; the next ones wait.
const MAX_QUERIES: usize = 16;
/// For one name.
const QUERY_TIMEOUT: Duration = Duration::from_secs(5);
/// No name is asked for more often.
const MIN_REFRESH: Duration = Duration::from_secs(1);
/// The overprovisioning factor where nobody says another.
const OVERPROVISIONING_PERCENT: u32 = 140;

/// Keeps the endpoints of all DNS clusters of `snapshot` up to date, until it is dropped.
pub(crate) async fn resolve_clusters(snapshot: SnapshotCell) {
    let queries = Arc::new(Semaphore::new(MAX_QUERIES));
    let tasks = Tasks::new();
    let mut due: HashMap<Arc<str>, (DnsSettings, Instant)> = HashMap::new();
    let mut tick = interval(TICK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        let now = Instant::now();
        let snapshot = snapshot.load_full();
        due.retain(|name, _| snapshot.cluster_by_name(name).is_some());
        for cluster in snapshot.clusters() {
            let Discovery::Dns(settings) = &cluster.discovery else {
                continue;
            };
            let waits = due
                .get(&cluster.name)
                .is_some_and(|(of, at)| of == settings && *at > now);
            if waits {
                continue;
            }
            let next = now + settings.refresh.max(MIN_REFRESH);
            due.insert(Arc::clone(&cluster.name), (settings.clone(), next));
            let (cluster, settings) = (Arc::clone(cluster), settings.clone());
            let queries = Arc::clone(&queries);
            tasks.spawn("dns", async move {
                // The semaphore is never closed.
                let Ok(_permit) = queries.acquire().await else {
                    return;
                };
                update(&cluster, &settings).await;
            });
        }
    }
}

/// Resolves a cluster's names and puts the outcome in place, if it is another one.
async fn update(cluster: &Cluster, settings: &DnsSettings) {
    let old = cluster.endpoints.load_full();
    let mut answers = Vec::with_capacity(settings.hosts.len());
    for host in &settings.hosts {
        let answer = timeout(QUERY_TIMEOUT, lookup(host)).await;
        match answer.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
            Ok(addresses) => answers.push((host, choose(settings, host, addresses, &old))),
            Err(e) => {
                warn!(cluster = %cluster.name, host = %host.host, error = %e, "name was not resolved");
                let kept: Vec<_> = addresses_of(&old, host).collect();
                if kept.is_empty() && !old.received {
                    return; // not even a part of it is known yet
                }
                answers.push((host, kept));
            }
        }
    }
    let set = endpoint_set(&answers, &old);
    let same = old.received && set.iter().map(|e| e.kind).eq(old.iter().map(|e| e.kind));
    if !same {
        debug!(cluster = %cluster.name, endpoints = set.len(), "names resolved");
        let count = i64::try_from(set.len()).unwrap_or(i64::MAX);
        cluster.stats.membership_change.inc();
        cluster.stats.membership_total.set(count);
        cluster.stats.membership_healthy.set(count);
        cluster.endpoints.store(Arc::new(set));
    }
    cluster.stats.update_success.inc();
}

async fn lookup(host: &DnsHost) -> io::Result<Vec<SocketAddr>> {
    Ok(tokio::net::lookup_host((&*host.host, host.port))
        .await?
        .collect())
}

/// The addresses of a wanted family, in a stable order; where one is enough, the one that is in use if it still counts.
fn choose(
    settings: &DnsSettings,
    host: &DnsHost,
    answer: Vec<SocketAddr>,
    old: &EndpointSet,
) -> Vec<SocketAddr> {
    let mut wanted: Vec<_> = answer
        .into_iter()
        .filter(|a| {
            if a.is_ipv4() {
                settings.v4
            } else {
                settings.v6
            }
        })
        .collect();
    if settings.all_addresses {
        wanted.sort_unstable();
        wanted.dedup();
    } else {
        let kept = addresses_of(old, host).find(|a| wanted.contains(a));
        let first = kept.or(wanted.first().copied());
        wanted = first.into_iter().collect();
    }
    wanted
}

fn addresses_of<'a>(
    set: &'a EndpointSet,
    host: &'a DnsHost,
) -> impl Iterator<Item = SocketAddr> + 'a {
    let of_host = |e: &&Arc<Endpoint>| e.hostname.as_deref() == Some(&*host.host);
    set.iter()
        .filter(of_host)
        .map(|e| e.kind.address())
        .filter(|a| a.port() == host.port)
}

fn endpoint_set(answers: &[(&DnsHost, Vec<SocketAddr>)], old: &EndpointSet) -> EndpointSet {
    let known: HashMap<EndpointKind, &Arc<EndpointStats>> =
        old.iter().map(|e| (e.kind, &e.stats)).collect();
    let mut set = EndpointSet {
        generation: old.generation + 1,
        received: true,
        priorities: Vec::new(),
        overprovisioning_percent: OVERPROVISIONING_PERCENT,
    };
    for (host, addresses) in answers {
        let at = host.priority as usize;
        if set.priorities.len() <= at {
            set.priorities.resize_with(at + 1, Priority::default);
        }
        let localities = &mut set.priorities[at].localities;
        let place = match localities.iter().position(|l| l.locality == host.locality) {
            Some(place) => place,
            None => {
                localities.push(LocalityEndpoints {
                    locality: host.locality.clone(),
                    weight: None,
                    endpoints: Vec::new(),
                });
                localities.len() - 1
            }
        };
        for address in addresses {
            let kind = EndpointKind::Plain(*address);
            let endpoints = &mut localities[place].endpoints;
            if endpoints.iter().any(|e| e.kind == kind) {
                continue; // two names of one address are one endpoint
            }
            endpoints.push(Arc::new(Endpoint {
                kind,
                text: address.to_string().into(),
                health: EndpointHealth::Healthy,
                weight: host.weight.max(1),
                locality: host.locality.clone(),
                priority: host.priority,
                hostname: Some(Arc::from(&*host.host)),
                workload: host.workload.clone(),
                stats: known
                    .get(&kind)
                    .map_or_else(Arc::default, |s| Arc::clone(s)),
            }));
        }
    }
    set
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::cluster::fixture;
    use crate::program::{LbPolicy, LocalityName};

    fn host(name: &str, priority: u32) -> DnsHost {
        DnsHost {
            host: name.into(),
            port: 80,
            weight: 1,
            locality: LocalityName::default(),
            priority,
            workload: None,
        }
    }

    fn settings(hosts: Vec<DnsHost>, all_addresses: bool) -> DnsSettings {
        DnsSettings {
            hosts,
            all_addresses,
            refresh: Duration::from_secs(60),
            respect_ttl: true,
            v4: true,
            v6: false,
        }
    }

    fn addresses(texts: &[&str]) -> Vec<SocketAddr> {
        texts.iter().map(|t| t.parse().unwrap()).collect()
    }

    fn texts(set: &EndpointSet) -> Vec<String> {
        set.iter().map(|e| e.text.to_string()).collect()
    }

    #[test]
    fn all_addresses_of_the_family_or_the_one_in_use() {
        let strict = settings(vec![host("a", 0)], true);
        let answer = || addresses(&["10.0.0.2:80", "10.0.0.1:80", "[::1]:80", "10.0.0.2:80"]);
        let none = EndpointSet::default();
        let all = choose(&strict, &strict.hosts[0], answer(), &none);
        assert_eq!(all, addresses(&["10.0.0.1:80", "10.0.0.2:80"]));
        let logical = settings(vec![host("a", 0)], false);
        let first = choose(&logical, &logical.hosts[0], answer(), &none);
        assert_eq!(first, addresses(&["10.0.0.2:80"]));
        let used = endpoint_set(&[(&logical.hosts[0], addresses(&["10.0.0.1:80"]))], &none);
        let kept = choose(&logical, &logical.hosts[0], answer(), &used);
        assert_eq!(kept, addresses(&["10.0.0.1:80"]), "no change without need");
    }

    #[test]
    fn figures_outlive_another_answer() {
        let a = host("a", 0);
        let first = endpoint_set(
            &[(&a, addresses(&["10.0.0.1:80"]))],
            &EndpointSet::default(),
        );
        first.iter().next().unwrap().stats.rq_total.add(7);
        let b = host("b", 1);
        let answers = [
            (&a, addresses(&["10.0.0.1:80", "10.0.0.2:80"])),
            (&b, addresses(&["10.0.0.3:80"])),
        ];
        let second = endpoint_set(&answers, &first);
        assert_eq!(
            texts(&second),
            ["10.0.0.1:80", "10.0.0.2:80", "10.0.0.3:80"]
        );
        assert_eq!(second.iter().next().unwrap().stats.rq_total.value(), 7);
        assert_eq!(second.priorities.len(), 2);
    }

    #[tokio::test]
    async fn a_cluster_gets_what_its_names_resolve_to_and_keeps_it() {
        let mut cluster = fixture::cluster(LbPolicy::Random);
        let local = settings(vec![host("localhost", 0)], true);
        cluster.discovery = Discovery::Dns(local.clone());
        update(&cluster, &local).await;
        assert_eq!(texts(&cluster.endpoints.load()), ["127.0.0.1:80"]);
        let before = cluster.endpoints.load_full();
        update(&cluster, &local).await;
        assert!(
            Arc::ptr_eq(&before, &cluster.endpoints.load_full()),
            "the same answer changes nothing"
        );
        let gone = settings(
            vec![host("localhost", 0), host("no-such-name.invalid", 0)],
            true,
        );
        update(&cluster, &gone).await;
        assert_eq!(texts(&cluster.endpoints.load()), ["127.0.0.1:80"]);
    }
}
