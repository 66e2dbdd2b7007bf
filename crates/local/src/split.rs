//! Requests per second and how they split over versions, from what the waypoints count.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use serde::Deserialize;

use crate::http::{HttpClient, get_json};
use crate::roles::PodView;

/// Counters of one service: by version, and those that failed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    by_version: BTreeMap<String, u64>,
    errors: u64,
}

/// Key: host name of the service.
pub(crate) type Totals = BTreeMap<String, Counts>;

#[derive(Deserialize)]
struct Clusters {
    #[serde(default)]
    cluster_statuses: Vec<ClusterStatus>,
}

#[derive(Deserialize)]
struct ClusterStatus {
    name: String,
    #[serde(default)]
    host_statuses: Vec<HostStatus>,
}

#[derive(Deserialize)]
struct HostStatus {
    #[serde(default)]
    address: Address,
    #[serde(default)]
    stats: Vec<Stat>,
}

#[derive(Deserialize, Default)]
struct Address {
    envoy_internal_address: Option<InternalAddress>,
}

#[derive(Deserialize)]
struct InternalAddress {
    endpoint_id: Option<String>,
}

#[derive(Deserialize)]
struct Stat {
    name: String,
    #[serde(default)]
    value: String,
}

/// Adds up what the waypoints have counted since they started. A waypoint that gives no answer counts nothing.
pub(crate) async fn totals(
    client: &HttpClient,
    waypoints: impl Iterator<Item = SocketAddr>,
    pods: &[PodView],
) -> Totals {
    let mut totals = Totals::new();
    for admin in waypoints {
        let answer: Result<Clusters, _> = get_json(client, admin, "/clusters?format=json").await;
        if let Ok(clusters) = answer {
            add(&mut totals, &clusters, pods);
        }
    }
    totals
}

fn add(totals: &mut Totals, clusters: &Clusters, pods: &[PodView]) {
    for cluster in &clusters.cluster_statuses {
        let mut parts = cluster.name.split('|');
        let (Some("inbound-vip"), Some(host)) = (parts.next(), parts.nth(2)) else {
            continue;
        };
        for status in &cluster.host_statuses {
            let stat = |name: &str| {
                let stat = status.stats.iter().find(|s| s.name == name);
                stat.and_then(|s| s.value.parse::<u64>().ok()).unwrap_or(0)
            };
            let version = version_of(status, pods).unwrap_or_else(|| "?".to_owned());
            let counts = totals.entry(host.to_owned()).or_default();
            *counts.by_version.entry(version).or_default() += stat("rq_total");
            counts.errors += stat("rq_error");
        }
    }
}

fn version_of(status: &HostStatus, pods: &[PodView]) -> Option<String> {
    let id = status
        .address
        .envoy_internal_address
        .as_ref()?
        .endpoint_id
        .as_ref()?;
    let ip = id.parse::<SocketAddr>().ok()?.ip();
    let pod = pods.iter().find(|pod| pod.ip == ip)?;
    Some(pod.labels.get("version").unwrap_or(&pod.name).clone())
}

/// One line about the time between two readings, e.g. `reviews 98 req/s: v1 90.1 % v2 9.9 %`; `None` when nothing moved.
pub(crate) fn line(before: &Totals, after: &Totals, seconds: f64) -> Option<String> {
    let parts: Vec<String> = after
        .iter()
        .filter_map(|(host, now)| {
            let old = before.get(host).cloned().unwrap_or_default();
            // A restarted waypoint counts from zero.
            let grown: Vec<(&str, u64)> = now
                .by_version
                .iter()
                .map(|(version, n)| {
                    let was = old.by_version.get(version).copied().unwrap_or(0);
                    (version.as_str(), n.saturating_sub(was))
                })
                .filter(|(_, n)| *n > 0)
                .collect();
            let total: u64 = grown.iter().map(|(_, n)| n).sum();
            if total == 0 {
                return None;
            }
            let name = host.split('.').next().unwrap_or(host);
            #[expect(clippy::cast_precision_loss, reason = "display only")]
            let shares: Vec<String> = grown
                .iter()
                .map(|(v, n)| format!("{v} {:.1} %", *n as f64 * 100.0 / total as f64))
                .collect();
            #[expect(clippy::cast_precision_loss, reason = "display only")]
            let rate = total as f64 / seconds;
            let errors = now.errors.saturating_sub(old.errors);
            let errors = if errors == 0 {
                String::new()
            } else {
                format!("  {errors} failed")
            };
            Some(format!(
                "{name} {rate:.0} req/s: {}{errors}",
                shares.join("  ")
            ))
        })
        .collect();
    (!parts.is_empty()).then(|| parts.join("   "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(pairs: &[(&str, u64)], errors: u64) -> Totals {
        let by_version = pairs.iter().map(|(v, n)| ((*v).to_owned(), *n)).collect();
        Totals::from([(
            "reviews.default.svc.cluster.local".into(),
            Counts { by_version, errors },
        )])
    }

    #[test]
    fn shows_rate_shares_and_failures_of_the_interval() {
        let before = counts(&[("v1", 100), ("v2", 10)], 1);
        let after = counts(&[("v1", 190), ("v2", 20)], 3);
        assert_eq!(
            line(&before, &after, 2.0).as_deref(),
            Some("reviews 50 req/s: v1 90.0 %  v2 10.0 %  2 failed")
        );
        assert_eq!(line(&after, &after, 1.0), None);
    }

    #[test]
    fn reads_the_admin_interface_of_a_waypoint() {
        let clusters: Clusters = serde_json::from_value(serde_json::json!({"cluster_statuses": [
            {"name": "inbound-vip|9080|http/v1|reviews.default.svc.cluster.local", "host_statuses": [
                {"address": {"envoy_internal_address": {"server_listener_name": "connect_originate", "endpoint_id": "127.244.0.7:9080"}},
                 "stats": [{"name": "rq_total", "value": "7"}, {"name": "rq_error", "value": "2"}]}]},
            {"name": "encap"}]}))
        .expect("clusters");
        let pods: Vec<PodView> = serde_json::from_value(serde_json::json!([{"namespace": "default", "name": "reviews-v1",
            "serviceAccount": "bookinfo-reviews", "ip": "127.244.0.7", "appAddress": "127.245.0.7", "labels": {"version": "v1"}}]))
        .expect("pods");
        let mut totals = Totals::new();
        add(&mut totals, &clusters, &pods);
        assert_eq!(totals, counts(&[("v1", 7)], 2));
    }
}
