//! DestinationRule.

use crate::decode::meta::{NameRule, Scope, meta};
use crate::decode::object::{Field, Object};
use crate::decode::policy::export_to;
use crate::decode::values::{decoded, plain, refuse_duplicates};
use crate::istio::DestinationRule;
use crate::istio::destination_rule::{
    ConnectionPool, ConsistentHash, H2UpgradePolicy, HashAlgorithm, HashKey, LoadBalancer,
    OutlierDetection, PortTrafficPolicy, Subset, TcpKeepalive, TrafficPolicy,
};
use crate::tree::quoted;

pub(super) fn destination_rule(root: &Field<'_>) -> Option<DestinationRule> {
    let mut object = root.object()?;
    let meta = meta(&mut object, NameRule::Subdomain, Scope::Namespaced);
    let mut spec = object.required("spec")?.object()?;
    let traffic_policy = spec
        .opt("trafficPolicy")
        .and_then(|f| traffic_policy(&f))
        .unwrap_or_default();
    let subset_fields = spec.list("subsets");
    let subsets = decoded(&subset_fields, subset);
    refuse_duplicates(&subsets, "subset", |s| Some(s.name.clone()));
    let subsets = plain(subsets);
    let export_to = export_to(&mut spec);
    Some(DestinationRule {
        meta,
        host: spec.required("host")?.host()?,
        traffic_policy,
        subsets,
        export_to,
    })
}

fn subset(field: &Field<'_>) -> Option<Subset> {
    let mut object = field.object()?;
    let labels = object.opt("labels").map(|f| f.labels()).unwrap_or_default();
    let traffic_policy = object
        .opt("trafficPolicy")
        .and_then(|f| traffic_policy(&f))
        .unwrap_or_default();
    let name_field = object.required("name")?;
    let name = name_field.label()?;
    if ["http", "tcp"].contains(&name.as_str()) {
        // Spec: waypoint-xds.md 16.2.4. Upstream accepts it and then filters the whole service by the subset's labels.
        name_field.invalid(
            format!("a subset cannot be called {}", quoted(&name)),
            "http and tcp name the whole service in the names of clusters".to_owned(),
        );
    }
    Some(Subset {
        name,
        labels,
        traffic_policy,
    })
}

fn traffic_policy(field: &Field<'_>) -> Option<TrafficPolicy> {
    let mut object = field.object()?;
    for refused in ["tunnel", "proxyProtocol", "retryBudget"] {
        object.skip(refused);
    }
    tls(&mut object);
    Some(TrafficPolicy {
        load_balancer: object.opt("loadBalancer").and_then(|f| load_balancer(&f)),
        connection_pool: object
            .opt("connectionPool")
            .and_then(|f| connection_pool(&f)),
        outlier_detection: object
            .opt("outlierDetection")
            .and_then(|f| outlier_detection(&f)),
        port_level_settings: object
            .list("portLevelSettings")
            .iter()
            .filter_map(port_traffic_policy)
            .collect(),
    })
}

/// Between workloads of the mesh TLS is always there, so a waypoint has nothing to do for `ISTIO_MUTUAL` and, like upstream's,
/// nothing to leave out for `DISABLE`. The other modes are refused by the table.
fn tls(policy: &mut Object<'_>) {
    let Some(mut tls) = policy.opt("tls").and_then(|f| f.object()) else {
        return;
    };
    if let Some(mode) = tls.required("mode") {
        mode.one_of(TLS_MODES);
    }
}

fn port_traffic_policy(field: &Field<'_>) -> Option<PortTrafficPolicy> {
    let mut object = field.object()?;
    tls(&mut object);
    Some(PortTrafficPolicy {
        load_balancer: object.opt("loadBalancer").and_then(|f| load_balancer(&f)),
        connection_pool: object
            .opt("connectionPool")
            .and_then(|f| connection_pool(&f)),
        outlier_detection: object
            .opt("outlierDetection")
            .and_then(|f| outlier_detection(&f)),
        port: object
            .required("port")?
            .object()?
            .required("number")?
            .port()?,
    })
}

fn load_balancer(field: &Field<'_>) -> Option<LoadBalancer> {
    let mut object = field.object()?;
    for refused in ["localityLbSetting", "warmup", "warmupDurationSecs"] {
        object.skip(refused);
    }
    let simple = object.opt("simple");
    let hash = object.opt("consistentHash");
    match (simple, hash) {
        (Some(simple), None) => simple.one_of(LOAD_BALANCERS),
        (None, Some(hash)) => consistent_hash(&hash).map(LoadBalancer::ConsistentHash),
        (None, None) => None,
        (Some(_), Some(_)) => {
            field.invalid(
                "simple and consistentHash exclude each other",
                "give one of them".to_owned(),
            );
            None
        }
    }
}

fn consistent_hash(field: &Field<'_>) -> Option<ConsistentHash> {
    let mut object = field.object()?;
    let mut keys = Vec::new();
    keys.extend(
        object
            .opt("httpHeaderName")
            .and_then(|f| f.name())
            .map(HashKey::Header),
    );
    keys.extend(
        object
            .opt("httpQueryParameterName")
            .and_then(|f| f.name())
            .map(HashKey::QueryParameter),
    );
    keys.extend(object.flag("useSourceIp").then_some(HashKey::SourceIp));
    keys.extend(object.opt("httpCookie").and_then(|f| cookie(&f)));
    if keys.len() != 1 {
        field.invalid(
            "hashes nothing, or several things",
            "it needs one of httpHeaderName, httpCookie, useSourceIp, httpQueryParameterName"
                .to_owned(),
        );
    }
    let (ring, maglev) = (object.opt("ringHash"), object.opt("maglev"));
    if ring.is_some() && maglev.is_some() {
        field.invalid(
            "ringHash and maglev exclude each other",
            "give one of them".to_owned(),
        );
    }
    let size = |f: Option<Field<'_>>, name, default| {
        let given = f.and_then(|f| f.object()).and_then(|mut o| o.count(name));
        given.filter(|n| *n > 0).map_or(default, u64::from)
    };
    let old_ring_size = object
        .count("minimumRingSize")
        .filter(|n| *n > 0)
        .map_or(1024, u64::from);
    let algorithm = match maglev {
        Some(maglev) => HashAlgorithm::Maglev {
            table_size: size(Some(maglev), "tableSize", 65537),
        },
        None => HashAlgorithm::RingHash {
            minimum_ring_size: size(ring, "minimumRingSize", old_ring_size),
        },
    };
    Some(ConsistentHash {
        key: keys.into_iter().next()?,
        algorithm,
    })
}

fn cookie(field: &Field<'_>) -> Option<HashKey> {
    let mut object = field.object()?;
    object.skip("attributes");
    Some(HashKey::Cookie {
        path: object.text("path"),
        ttl: object.opt("ttl").and_then(|f| f.duration()),
        name: object.required("name")?.name()?,
    })
}

fn connection_pool(field: &Field<'_>) -> Option<ConnectionPool> {
    let mut object = field.object()?;
    let mut pool = ConnectionPool::default();
    if let Some(mut tcp) = object.opt("tcp").and_then(|f| f.object()) {
        pool.max_connections = tcp.positive_count("maxConnections");
        pool.connect_timeout = tcp
            .opt("connectTimeout")
            .and_then(|f| f.positive_duration());
        // 0 switches it off.
        pool.tcp_idle_timeout = tcp.opt("idleTimeout").and_then(|f| f.duration());
        pool.max_connection_duration = tcp
            .opt("maxConnectionDuration")
            .and_then(|f| f.positive_duration());
        pool.tcp_keepalive = tcp.opt("tcpKeepalive").and_then(|f| tcp_keepalive(&f));
    }
    if let Some(mut http) = object.opt("http").and_then(|f| f.object()) {
        pool.http1_max_pending_requests = http.positive_count("http1MaxPendingRequests");
        pool.http2_max_requests = http.positive_count("http2MaxRequests");
        pool.max_requests_per_connection = http.positive_count("maxRequestsPerConnection");
        pool.max_retries = http.positive_count("maxRetries");
        pool.http_idle_timeout = http.opt("idleTimeout").and_then(|f| f.positive_duration());
        pool.h2_upgrade_policy = http
            .opt("h2UpgradePolicy")
            .and_then(|f| f.one_of(H2UpgradePolicy::ALLOWED))
            .unwrap_or_default();
        pool.use_client_protocol = http.flag("useClientProtocol");
        pool.max_concurrent_streams = http.positive_count("maxConcurrentStreams");
        if pool.use_client_protocol && pool.h2_upgrade_policy == H2UpgradePolicy::Upgrade {
            http.field().invalid(
                "h2UpgradePolicy UPGRADE has no effect with useClientProtocol",
                None,
            );
        }
    }
    Some(pool)
}

fn tcp_keepalive(field: &Field<'_>) -> Option<TcpKeepalive> {
    let mut object = field.object()?;
    Some(TcpKeepalive {
        probes: object.count("probes"),
        time: object.opt("time").and_then(|f| f.positive_duration()),
        interval: object.opt("interval").and_then(|f| f.positive_duration()),
    })
}

fn outlier_detection(field: &Field<'_>) -> Option<OutlierDetection> {
    let mut object = field.object()?;
    let mut percent = |name| {
        object
            .opt(name)
            .and_then(|f| f.int(0, 100))
            .and_then(|n| u32::try_from(n).ok())
    };
    let (max_ejection_percent, min_health_percent) =
        (percent("maxEjectionPercent"), percent("minHealthPercent"));
    if object.has("consecutiveErrors") {
        object.field().invalid(
            "consecutiveErrors has no effect",
            "use consecutive5xxErrors".to_owned(),
        );
    }
    object.skip("consecutiveErrors");
    Some(OutlierDetection {
        split_external_local_origin_errors: object.flag("splitExternalLocalOriginErrors"),
        consecutive_local_origin_failures: object.count("consecutiveLocalOriginFailures"),
        consecutive_gateway_errors: object.count("consecutiveGatewayErrors"),
        consecutive_5xx_errors: object.count("consecutive5xxErrors"),
        interval: object.opt("interval").and_then(|f| f.positive_duration()),
        base_ejection_time: object
            .opt("baseEjectionTime")
            .and_then(|f| f.positive_duration()),
        max_ejection_percent,
        min_health_percent,
    })
}

/// `loadBalancer.simple`.
pub(crate) const LOAD_BALANCERS: &[(&str, LoadBalancer)] = &[
    ("LEAST_REQUEST", LoadBalancer::LeastRequest),
    ("ROUND_ROBIN", LoadBalancer::RoundRobin),
    ("RANDOM", LoadBalancer::Random),
    ("PASSTHROUGH", LoadBalancer::Passthrough),
    ("LEAST_CONN", LoadBalancer::LeastRequest),
    ("UNSPECIFIED", LoadBalancer::LeastRequest),
];

/// `tls.mode`.
pub(crate) const TLS_MODES: &[(&str, ())] = &[
    ("DISABLE", ()),
    ("SIMPLE", ()),
    ("MUTUAL", ()),
    ("ISTIO_MUTUAL", ()),
];
