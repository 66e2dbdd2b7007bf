//! Clusters and endpoints for tests.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;

use crate::program::{
    Breakers, Cluster, Discovery, Endpoint, EndpointHealth, EndpointKind, EndpointSet, LbPolicy,
    LocalityEndpoints, LocalityName, Names, Priority, Thresholds, UpstreamHttp, UpstreamHttp2,
    UpstreamProtocol,
};

const UNLIMITED: Thresholds = Thresholds {
    max_connections: u32::MAX,
    max_pending_requests: u32::MAX,
    max_requests: u32::MAX,
    max_retries: u32::MAX,
    retry_budget: None,
};

/// A cluster as istiod sends them, without endpoints.
pub(crate) fn cluster(lb: LbPolicy) -> Cluster {
    named("c", lb, &mut Names::default())
}

/// The same with a name of its own.
pub(crate) fn named(name: &str, lb: LbPolicy, names: &mut Names) -> Cluster {
    let reference = names.cluster(name);
    Cluster {
        id: reference.id,
        name: reference.name,
        discovery: Discovery::Eds {
            service_name: name.into(),
        },
        lb,
        panic_threshold_percent: 0.0,
        locality_weighted: false,
        connect_timeout: Duration::from_secs(10),
        breakers: Breakers {
            default: UNLIMITED,
            high: UNLIMITED,
        },
        protocol: UpstreamProtocol::Http1,
        http: UpstreamHttp {
            idle_timeout: Some(Duration::from_secs(3600)),
            max_connection_duration: None,
            max_requests_per_connection: None,
            http2: UpstreamHttp2 {
                max_concurrent_streams: 1024,
                initial_stream_window_bytes: 1 << 20,
                initial_connection_window_bytes: 4 << 20,
                keep_alive: None,
            },
        },
        service: None,
        subset: None,
        config: None,
        stat_name: name.into(),
        endpoints: Arc::new(ArcSwap::from_pointee(EndpointSet::default())),
        stats: Arc::default(),
    }
}

/// A plain, healthy endpoint.
pub(crate) fn endpoint(address: &str) -> Endpoint {
    Endpoint {
        kind: EndpointKind::Plain(address.parse().expect("an address")),
        text: address.into(),
        health: EndpointHealth::Healthy,
        weight: 1,
        locality: LocalityName::default(),
        priority: 0,
        hostname: None,
        workload: None,
        stats: Arc::default(),
    }
}

/// Endpoints by priority, all of one locality.
pub(crate) fn set(endpoints: impl IntoIterator<Item = (Endpoint, u32)>) -> EndpointSet {
    let mut priorities: Vec<Priority> = Vec::new();
    for (mut endpoint, priority) in endpoints {
        endpoint.priority = priority;
        priorities.resize_with(
            priorities.len().max(priority as usize + 1),
            Priority::default,
        );
        let localities = &mut priorities[priority as usize].localities;
        if localities.is_empty() {
            localities.push(LocalityEndpoints {
                locality: LocalityName::default(),
                weight: None,
                endpoints: Vec::new(),
            });
        }
        localities[0].endpoints.push(Arc::new(endpoint));
    }
    EndpointSet {
        generation: 1,
        received: true,
        priorities,
        overprovisioning_percent: 140,
    }
}
