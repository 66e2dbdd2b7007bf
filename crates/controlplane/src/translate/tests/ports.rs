//! Ports of every protocol, services of every resolution, endpoints of every kind.

use std::collections::BTreeMap;
use std::sync::Arc;

use insta::assert_json_snapshot;
use ipnet::IpNet;
use waymark_api::ambient::TrafficDistribution;
use waymark_api::protocol::Protocol;

use super::fixture::{Mesh, ip, pod, service};
use crate::translate::input::{
    EndpointAddress, Flavour, Health, InternalTrafficPolicy, IpFamily, IstioVersion, PortInput,
    Registry, Resolution, ServiceInput, Tunnel,
};

fn all_ports() -> ServiceInput {
    let mut service = service("ports", "10.0.0.1", 80, Protocol::Http);
    let ports = [
        (80, Protocol::Http),
        (81, Protocol::Http2),
        (82, Protocol::GrpcWeb),
        (90, Protocol::Sniffed),
        (443, Protocol::Https),
        (53, Protocol::Udp),
        (5432, Protocol::Tcp),
        (27017, Protocol::Mongo),
    ];
    service.ports = ports
        .into_iter()
        .map(|(number, protocol)| PortInput {
            number,
            name: String::new(),
            protocol,
        })
        .collect();
    service
}

/// The same number is HTTP here and TCP elsewhere, the address is taken, there is none, there is a range.
fn neighbours() -> Vec<ServiceInput> {
    let mut clash = service("clash", "10.0.0.2", 80, Protocol::Tcp);
    clash.created += 1;
    let mut twin = service("twin", "10.0.0.2", 7000, Protocol::Tcp);
    twin.created += 2;
    let mut headless = service("headless", "", 9000, Protocol::Http);
    headless.resolution = Resolution::Passthrough;
    headless.created += 3;
    let mut range = service("range", "", 9001, Protocol::Tcp);
    range.vips = vec![
        "10.9.0.0/16".parse::<IpNet>().expect("a range"),
        ip("2001:db8::1").into(),
    ];
    range.resolution = Resolution::Passthrough;
    range.registry = Registry::ExternalExternal;
    range.created += 4;
    vec![clash, twin, headless, range]
}

/// The listener without its chains' filters, and the names of clusters.
fn outline(mesh: &Mesh) -> serde_json::Value {
    let json = mesh.json();
    let listener = &json["Listener"]["main_internal"];
    let chains = listener["filter_chains"].as_array().expect("chains");
    let outline: Vec<(String, Vec<String>)> = chains
        .iter()
        .map(|chain| {
            let filters = chain["filters"].as_array().into_iter().flatten();
            let names = filters
                .filter_map(|filter| filter["name"].as_str())
                .map(str::to_owned);
            (
                chain["name"].as_str().unwrap_or_default().to_owned(),
                names.collect(),
            )
        })
        .collect();
    serde_json::json!({
        "listener_filters": listener["listener_filters"],
        "filter_chain_matcher": listener["filter_chain_matcher"],
        "filter_chains": outline,
        "clusters": json["Cluster"].as_object().expect("clusters").keys().collect::<Vec<_>>(),
        "assignments": json["ClusterLoadAssignment"].as_object().expect("assignments").keys().collect::<Vec<_>>(),
    })
}

fn services() -> Vec<ServiceInput> {
    let mut services = vec![all_ports()];
    services.extend(neighbours());
    services
}

#[test]
fn stock() {
    assert_json_snapshot!(outline(&Mesh::new(Flavour::Stock, services())));
}

#[test]
fn stock_with_pods() {
    let mesh =
        Mesh::new(Flavour::Stock, services()).attach(&["10.1.0.9", "10.1.0.10", "2001:db8::2"]);
    let outline = outline(&mesh);
    assert_json_snapshot!(serde_json::json!({
        "listener_filters": outline["listener_filters"],
        "last_range": outline["filter_chain_matcher"]["matcher_tree"]["custom_match"]["typed_config"]["range_matchers"]
            .as_array().and_then(|ranges| ranges.last()),
    }));
}

#[test]
fn istio_proxy() {
    assert_json_snapshot!(outline(&Mesh::new(Flavour::IstioProxy, services())));
}

/// Where nothing depends on the protocol, nobody waits for the client's first bytes.
#[test]
fn stock_inspects_only_where_it_decides() {
    let filters = |services| -> Vec<String> {
        let json = Mesh::new(Flavour::Stock, services).json();
        let filters = json["Listener"]["main_internal"]["listener_filters"].as_array();
        filters
            .into_iter()
            .flatten()
            .filter_map(|filter| filter["name"].as_str())
            .map(str::to_owned)
            .collect()
    };
    assert_eq!(
        filters(vec![service("a", "10.0.0.1", 443, Protocol::Tls)]),
        ["envoy.filters.listener.original_dst"]
    );
    assert_eq!(
        filters(vec![service("a", "10.0.0.1", 7000, Protocol::Sniffed)]),
        [
            "envoy.filters.listener.original_dst",
            "envoy.filters.listener.http_inspector"
        ]
    );
}

/// A waypoint that serves nothing has its listeners all the same.
#[test]
fn nothing_to_serve() {
    for flavour in [Flavour::Stock, Flavour::IstioProxy] {
        let json = Mesh::new(flavour, Vec::new()).json();
        let main = &json["Listener"]["main_internal"];
        let ranges = &main["filter_chain_matcher"]["matcher_tree"]["custom_match"]["typed_config"]
            ["range_matchers"];
        assert!(ranges.is_null(), "{ranges}");
        let chains = main["filter_chains"].as_array().map_or(0, Vec::len);
        assert_eq!(chains, if flavour == Flavour::Stock { 0 } else { 2 });
    }
}

#[test]
fn endpoints() {
    let mut web = service("web", "10.0.0.1", 80, Protocol::Http);
    let mut plain = (*pod(&web, "v1", "10.1.0.1", "z1")).clone();
    plain.tunnel = Tunnel::None;
    let mut dual = plain.clone();
    dual.address = EndpointAddress::Ip(ip("10.1.0.2"), vec![ip("2001:db8::2")]);
    dual.weight = 3;
    let mut six = (*pod(&web, "v1", "2001:db8::3", "z2")).clone();
    six.ports = BTreeMap::from([(80, 8080)]);
    let mut elsewhere = (*pod(&web, "v1", "10.1.0.4", "z2")).clone();
    elsewhere.ports = BTreeMap::from([(81, 8081)]);
    web.endpoints = [plain, dual, six, elsewhere]
        .into_iter()
        .map(Arc::new)
        .collect();
    assert_json_snapshot!(Mesh::new(Flavour::Stock, vec![web]).json()["ClusterLoadAssignment"]);
}

#[test]
fn dns_endpoints_are_in_the_cluster() {
    let mut api = service("api", "240.240.0.1", 443, Protocol::Tls);
    api.registry = Registry::ExternalExternal;
    api.resolution = Resolution::Dns;
    let mut endpoint = (*pod(&api, "", "10.1.0.1", "z1")).clone();
    endpoint.address = EndpointAddress::Hostname("api.example.com".to_owned());
    endpoint.tunnel = Tunnel::None;
    endpoint.health = Health::Unknown;
    endpoint.workload.clear();
    api.endpoints = vec![Arc::new(endpoint)];
    let json = Mesh::new(Flavour::Stock, vec![api]).json();
    assert!(json.get("ClusterLoadAssignment").is_none());
    assert_json_snapshot!(json["Cluster"]["inbound-vip|443|tcp|api.shop.svc.cluster.local"]);
}

#[test]
fn a_domain_of_hosts() {
    let mut any = service("any", "240.240.0.2", 80, Protocol::Http);
    any.host = "*.example.com".to_owned();
    any.registry = Registry::ExternalExternal;
    any.resolution = Resolution::DynamicDns;
    let json = Mesh::new(Flavour::Stock, vec![any]).json();
    let name = "inbound-vip|80|http|*.example.com";
    assert_eq!(
        json["RouteConfiguration"][name]["virtual_hosts"][0]["domains"][0],
        "*.example.com"
    );
    assert_json_snapshot!(json["Cluster"][name]);
}

/// Same zone 0, same region 1, elsewhere 2: dense, whatever is missing.
#[test]
fn near_endpoints_come_first() {
    let mut web = service("web", "10.0.0.1", 80, Protocol::Http);
    web.traffic_distribution = Some(TrafficDistribution::PreferSameZone);
    let near = pod(&web, "v1", "10.1.0.1", "z1");
    let next = pod(&web, "v1", "10.1.0.2", "z2");
    let mut far = (*next).clone();
    far.locality.region = "r2".to_owned();
    far.address = EndpointAddress::Ip(ip("10.1.0.3"), Vec::new());
    web.endpoints = vec![Arc::new(far), next.clone(), near];
    let name = "inbound-vip|80|http|web.shop.svc.cluster.local";
    let priorities = |web: ServiceInput| -> Vec<(String, u64)> {
        let json = Mesh::new(Flavour::Stock, vec![web]).json();
        assert!(
            json["Cluster"][name]["common_lb_config"]["locality_weighted_lb_config"].is_object()
        );
        let localities = json["ClusterLoadAssignment"][name]["endpoints"].as_array();
        localities
            .into_iter()
            .flatten()
            .map(|one| {
                let locality = &one["locality"];
                let label = format!("{}/{}", locality["region"], locality["zone"]).replace('"', "");
                (label, one["priority"].as_u64().unwrap_or(0))
            })
            .collect()
    };
    let expected = [("r1/z1", 0), ("r1/z2", 1), ("r2/z2", 2)].map(|(zone, n)| (zone.to_owned(), n));
    assert_eq!(priorities(web.clone()), expected);
    web.endpoints = vec![next];
    assert_eq!(priorities(web), [("r1/z2".to_owned(), 0)]);
}

#[test]
fn node_local_traffic_stays() {
    let mut web = service("web", "10.0.0.1", 80, Protocol::Http);
    web.internal_traffic_policy = InternalTrafficPolicy::Local;
    web.endpoints = vec![
        pod(&web, "v1", "10.1.0.1", "z1"),
        pod(&web, "v1", "10.1.0.2", "z2"),
    ];
    let count = |node: Option<&str>| {
        let mut mesh = Mesh::new(Flavour::Stock, vec![web.clone()]);
        mesh.proxy.node_name = node.map(str::to_owned);
        let json = mesh.json();
        let assignment =
            &json["ClusterLoadAssignment"]["inbound-vip|80|http|web.shop.svc.cluster.local"];
        assignment["endpoints"].as_array().map_or(0, Vec::len)
    };
    assert_eq!(
        (count(Some("node-z2")), count(Some("node-z3")), count(None)),
        (1, 0, 0)
    );
}

#[test]
fn addresses_of_the_proxys_families() {
    let listens = |family| {
        let mut mesh = Mesh::new(Flavour::Stock, Vec::new());
        mesh.proxy.ip_family = family;
        let listener = mesh.json()["Listener"]["connect_terminate"].clone();
        let address = listener["address"]["socket_address"]["address"]
            .as_str()
            .map(str::to_owned);
        (
            address,
            listener["additional_addresses"]
                .as_array()
                .map_or(0, Vec::len),
        )
    };
    assert_eq!(listens(IpFamily::V4), (Some("0.0.0.0".to_owned()), 0));
    assert_eq!(listens(IpFamily::V6), (Some("::".to_owned()), 0));
    assert_eq!(listens(IpFamily::Dual), (Some("0.0.0.0".to_owned()), 1));
}

/// Older proxies do not know the factory that hashes.
#[test]
fn filter_state_of_the_proxys_version() {
    let factory = |flavour, version: &str| {
        let mut mesh = Mesh::new(flavour, Vec::new());
        mesh.proxy.istio_version = IstioVersion::parse(version);
        let text = mesh.json()["Listener"]["connect_terminate"].to_string();
        [
            "istio.hashable_string",
            "envoy.hashable_string",
            "envoy.string",
        ]
        .into_iter()
        .find(|name| text.contains(name))
    };
    assert_eq!(
        factory(Flavour::IstioProxy, "1.29.2"),
        Some("istio.hashable_string")
    );
    assert_eq!(
        factory(Flavour::IstioProxy, "1.32.0"),
        Some("istio.hashable_string")
    );
    assert_eq!(
        factory(Flavour::IstioProxy, ""),
        Some("istio.hashable_string")
    );
    assert_eq!(factory(Flavour::IstioProxy, "1.29.1"), Some("envoy.string"));
    assert_eq!(
        factory(Flavour::Stock, "1.29.1"),
        Some("envoy.hashable_string")
    );
}
