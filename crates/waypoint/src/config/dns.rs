//! Endpoints of clusters that are named rather than numbered.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{BoxFuture, join_all};
use tokio::time::{Instant, sleep_until};
use tracing::{debug, warn};
use waymark_rt::Shutdown;

use super::Config;
use super::clusters::{membership, replace};
use crate::program::{
    Cluster, ClusterId, Discovery, DnsHost, DnsSettings, Endpoint, EndpointHealth, EndpointKind,
    EndpointSet, LocalityEndpoints, Priority,
};

/// Who knows the addresses of names.
pub trait Resolve: Send + Sync {
    /// The addresses of a host name, best first.
    fn resolve<'a>(&'a self, host: &'a str) -> BoxFuture<'a, io::Result<Vec<IpAddr>>>;
}

/// The machine's own resolver.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemResolver;

impl Resolve for SystemResolver {
    fn resolve<'a>(&'a self, host: &'a str) -> BoxFuture<'a, io::Result<Vec<IpAddr>>> {
        Box::pin(async move {
            let found = tokio::net::lookup_host((host, 0)).await?;
            Ok(found.map(|a| a.ip()).collect())
        })
    }
}

/// A query that takes longer has failed.
const QUERY_TIMEOUT: Duration = Duration::from_secs(5);

impl Config {
    /// Keeps the endpoints of DNS clusters up to date until `shutdown` kills. A name that does not resolve keeps the
    /// addresses that it had.
    pub async fn resolve_names(self, resolver: Arc<dyn Resolve>, shutdown: Shutdown) {
        let mut changes = self.changes.subscribe();
        // What was resolved, and when that is due again.
        let mut done: HashMap<ClusterId, (DnsSettings, Instant)> = HashMap::new();
        loop {
            let named = self.named_clusters();
            done.retain(|id, (settings, _)| {
                named.iter().any(|(c, s)| c.id == *id && s == settings)
            });
            let now = Instant::now();
            let due = named
                .iter()
                .filter(|(c, _)| done.get(&c.id).is_none_or(|(_, at)| *at <= now));
            let queries = due.map(|(cluster, settings)| async {
                update(&*resolver, cluster, settings).await;
                (
                    cluster.id,
                    (settings.clone(), Instant::now() + settings.refresh),
                )
            });
            done.extend(join_all(queries).await);
            let next = done.values().map(|(_, at)| *at).min();
            let wait = async {
                match next {
                    Some(at) => sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                () = shutdown.killed() => return,
                changed = changes.changed() => if changed.is_err() { return },
                () = wait => {}
            }
        }
    }

    fn named_clusters(&self) -> Vec<(Arc<Cluster>, DnsSettings)> {
        let snapshot = self.state().cell.load_full();
        let named = snapshot.clusters().filter_map(|c| match &c.discovery {
            Discovery::Dns(settings) => Some((Arc::clone(c), settings.clone())),
            Discovery::Eds { .. }
            | Discovery::Static
            | Discovery::OriginalDstTunnel
            | Discovery::OriginalDst { .. } => None,
        });
        named.collect()
    }
}

/// Resolves a cluster's names and replaces its endpoints.
async fn update(resolver: &dyn Resolve, cluster: &Cluster, settings: &DnsSettings) {
    let answers = settings
        .hosts
        .iter()
        .map(|host| addresses(resolver, host, settings));
    let mut endpoints = Vec::new();
    for (host, answer) in settings.hosts.iter().zip(join_all(answers).await) {
        match answer {
            Ok(addresses) => endpoints.extend(addresses.into_iter().map(|ip| endpoint(host, ip))),
            Err(error) => {
                warn!(cluster = &*cluster.name, host = &*host.host, %error, "name does not resolve");
                let known = cluster.endpoints.load();
                let kept = known
                    .iter()
                    .filter(|e| e.hostname.as_deref() == Some(&*host.host))
                    .cloned();
                endpoints.extend(kept.collect::<Vec<_>>());
            }
        }
    }
    let set = endpoint_set(endpoints);
    let known = cluster.endpoints.load();
    if known.received && known.iter().map(|e| e.kind).eq(set.iter().map(|e| e.kind)) {
        return;
    }
    debug!(
        cluster = &*cluster.name,
        endpoints = set.len(),
        "names resolved"
    );
    cluster.stats.update_success.inc();
    replace(&cluster.endpoints, set);
    membership(cluster);
}

async fn addresses(
    resolver: &dyn Resolve,
    host: &DnsHost,
    settings: &DnsSettings,
) -> io::Result<Vec<IpAddr>> {
    if let Ok(ip) = host.host.parse() {
        return Ok(vec![ip]);
    }
    let query = tokio::time::timeout(QUERY_TIMEOUT, resolver.resolve(&host.host));
    let mut found = query
        .await
        .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
    found.retain(|ip| {
        if ip.is_ipv4() {
            settings.v4
        } else {
            settings.v6
        }
    });
    if settings.all_addresses {
        // An order that does not change from answer to answer; a resolver may turn it round each time.
        found.sort_unstable();
        found.dedup();
    } else {
        found.truncate(1);
    }
    if found.is_empty() {
        Err(io::Error::from(io::ErrorKind::NotFound))
    } else {
        Ok(found)
    }
}

fn endpoint(host: &DnsHost, ip: IpAddr) -> Arc<Endpoint> {
    let address = SocketAddr::new(ip, host.port);
    Arc::new(Endpoint {
        kind: EndpointKind::Plain(address),
        text: address.to_string().into(),
        health: EndpointHealth::Healthy,
        weight: host.weight,
        locality: host.locality.clone(),
        priority: host.priority,
        hostname: Some(Arc::from(&*host.host)),
        workload: host.workload.clone(),
        stats: Arc::default(),
    })
}

fn endpoint_set(endpoints: Vec<Arc<Endpoint>>) -> EndpointSet {
    let mut set = EndpointSet {
        received: true,
        overprovisioning_percent: 140,
        ..EndpointSet::default()
    };
    for endpoint in endpoints {
        let at = endpoint.priority as usize;
        if set.priorities.len() <= at {
            set.priorities.resize_with(at + 1, Priority::default);
        }
        let localities = &mut set.priorities[at].localities;
        match localities
            .iter_mut()
            .find(|l| l.locality == endpoint.locality)
        {
            Some(locality) => locality.endpoints.push(endpoint),
            None => localities.push(LocalityEndpoints {
                locality: endpoint.locality.clone(),
                weight: Some(1),
                endpoints: vec![endpoint],
            }),
        }
    }
    set
}
