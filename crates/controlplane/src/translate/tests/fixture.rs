//! A small mesh to translate, and what comes out of it as JSON.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use serde_json::Value;
use waymark_api::ambient::Locality;
use waymark_api::host::Host;
use waymark_api::istio::ExportTo;
use waymark_api::istio::destination_rule::{DestinationRule, Subset, TrafficPolicy};
use waymark_api::istio::virtual_service::{
    Destination, Headers, HttpAction, HttpDestination, HttpMatch, HttpRule, VirtualService,
};
use waymark_api::meta::ObjectMeta;
use waymark_api::protocol::Protocol;
use waymark_proto::json::{self, JsonStyle};

use crate::translate::input::{
    AttachedWorkloads, Binding, Context, Destinations, EndpointAddress, EndpointInput, Flavour,
    Health, InternalTrafficPolicy, IpFamily, IstioVersion, MeshSettings, PortInput, Proxy,
    Registry, Resolution, ServiceInput, Tunnel, VirtualServiceInput,
};
use crate::translate::{self, Named};

pub(super) fn proxy(flavour: Flavour) -> Proxy {
    Proxy {
        namespace: "shop".to_owned(),
        gateway: "waypoint".to_owned(),
        deployment: "waypoint".to_owned(),
        service_account: "waypoint".to_owned(),
        cluster_id: "Kubernetes".to_owned(),
        network: None,
        locality: Locality {
            region: "r1".to_owned(),
            zone: "z1".to_owned(),
            subzone: String::new(),
        },
        node_name: Some("node-1".to_owned()),
        ip_family: IpFamily::V4,
        bind: None,
        flavour,
        istio_version: IstioVersion::NEWEST,
        labels: BTreeMap::new(),
        mesh_id: "cluster.local".to_owned(),
    }
}

/// Services bound to the waypoint, others that routes may name, and what else the listener is told.
pub(super) struct Mesh {
    pub(super) proxy: Proxy,
    pub(super) settings: MeshSettings,
    pub(super) hosts: BTreeMap<String, (Binding, Arc<ServiceInput>)>,
    pub(super) attached: AttachedWorkloads,
}

impl Mesh {
    pub(super) fn new(flavour: Flavour, services: Vec<ServiceInput>) -> Self {
        let hosts = services
            .into_iter()
            .map(|service| (service.host.clone(), (Binding::Owned, Arc::new(service))))
            .collect();
        Self {
            proxy: proxy(flavour),
            settings: MeshSettings::default(),
            hosts,
            attached: AttachedWorkloads::default(),
        }
    }

    pub(super) fn foreign(mut self, service: ServiceInput) -> Self {
        self.hosts
            .insert(service.host.clone(), (Binding::Foreign, Arc::new(service)));
        self
    }

    pub(super) fn attach(mut self, pods: &[&str]) -> Self {
        let pods = pods.iter().map(|pod| ip(pod));
        self.attached.pods_of_services = pods.collect::<BTreeSet<IpAddr>>();
        self
    }

    pub(super) fn context(&self) -> Context<'_> {
        Context {
            proxy: &self.proxy,
            mesh: &self.settings,
            destinations: &self.hosts as &dyn Destinations,
        }
    }

    pub(super) fn owned(&self) -> Vec<&ServiceInput> {
        let owned = self
            .hosts
            .values()
            .filter(|(binding, _)| *binding == Binding::Owned);
        owned.map(|(_, service)| service.as_ref()).collect()
    }

    /// Everything that the waypoint is sent.
    pub(super) fn resources(&self) -> Vec<Named> {
        let ctx = self.context();
        let owned = self.owned();
        let mut all = translate::base(ctx);
        all.push(translate::main_internal(ctx, &owned, &self.attached));
        for service in owned {
            all.extend(translate::clusters(ctx, service));
            all.extend(translate::endpoints(ctx, service));
            all.extend(translate::routes(ctx, service));
        }
        for (binding, service) in self.hosts.values() {
            if *binding == Binding::Foreign {
                all.extend(translate::outbound_clusters(ctx, service));
                all.extend(translate::outbound_endpoints(ctx, service));
            }
        }
        all
    }

    /// The same as JSON, by type and name.
    pub(super) fn json(&self) -> Value {
        let mut types: BTreeMap<String, BTreeMap<String, Value>> = BTreeMap::new();
        for resource in self.resources() {
            let kind = resource
                .type_url()
                .rsplit('.')
                .next()
                .unwrap_or_default()
                .to_owned();
            let value = json::any_to_value(&resource.any, JsonStyle::Snake);
            let previous = types
                .entry(kind)
                .or_default()
                .insert(resource.name.clone(), value);
            assert_eq!(previous, None, "{} is sent twice", resource.name);
        }
        serde_json::to_value(types).expect("maps of JSON values")
    }

    /// The routes of one chain, wherever the flavour keeps them.
    pub(super) fn routes(&self, name: &str) -> Value {
        let json = self.json();
        if let Some(routes) =
            json.pointer(&format!("/RouteConfiguration/{}", name.replace('/', "~1")))
        {
            return routes.clone();
        }
        let chains = json
            .pointer("/Listener/main_internal/filter_chains")
            .and_then(Value::as_array);
        let chain = chains
            .into_iter()
            .flatten()
            .find(|chain| chain["name"] == name)
            .expect("the chain");
        chain["filters"][0]["typed_config"]["route_config"].clone()
    }
}

pub(super) fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

/// A service of namespace `shop` with one port.
pub(super) fn service(name: &str, vip: &str, port: u16, protocol: Protocol) -> ServiceInput {
    ServiceInput {
        host: format!("{name}.shop.svc.cluster.local"),
        name: name.to_owned(),
        namespace: "shop".to_owned(),
        registry: Registry::Kubernetes,
        created: 1_700_000_000,
        vips: (!vip.is_empty())
            .then(|| IpNet::from(ip(vip)))
            .into_iter()
            .collect(),
        ports: vec![PortInput {
            number: port,
            name: String::new(),
            protocol,
        }],
        resolution: Resolution::ClientSide,
        endpoints: Vec::new(),
        destination_rule: None,
        virtual_services: Vec::new(),
        traffic_distribution: None,
        internal_traffic_policy: InternalTrafficPolicy::Cluster,
    }
}

/// A captured pod, ready, that serves every port of a service on the same number.
pub(super) fn pod(
    service: &ServiceInput,
    version: &str,
    address: &str,
    zone: &str,
) -> Arc<EndpointInput> {
    Arc::new(EndpointInput {
        address: EndpointAddress::Ip(ip(address), Vec::new()),
        ports: service
            .ports
            .iter()
            .map(|port| (port.number, port.number))
            .collect(),
        health: Health::Healthy,
        weight: 1,
        locality: Locality {
            region: "r1".to_owned(),
            zone: zone.to_owned(),
            subzone: String::new(),
        },
        labels: BTreeMap::from([("version".to_owned(), version.to_owned())]),
        tunnel: Tunnel::Hbone,
        workload: format!("{}-{version}", service.name),
        namespace: service.namespace.clone(),
        canonical_name: service.name.clone(),
        canonical_revision: version.to_owned(),
        cluster: "Kubernetes".to_owned(),
        network: String::new(),
        node: format!("node-{zone}"),
    })
}

pub(super) fn destination_rule(
    name: &str,
    policy: TrafficPolicy,
    subsets: &[(&str, TrafficPolicy)],
) -> DestinationRule {
    DestinationRule {
        meta: ObjectMeta::named("shop", name),
        host: Host::parse(name).expect("a host"),
        traffic_policy: policy,
        subsets: subsets
            .iter()
            .map(|(version, policy)| Subset {
                name: (*version).to_owned(),
                labels: BTreeMap::from([("version".to_owned(), (*version).to_owned())]),
                traffic_policy: policy.clone(),
            })
            .collect(),
        export_to: ExportTo::All,
    }
}

/// The one resource of a manifest.
pub(super) fn parse(yaml: &str) -> waymark_api::Resource {
    let mut documents = waymark_api::yaml::parse_documents("test.yaml", yaml).into_iter();
    let document = documents
        .next()
        .expect("a document")
        .expect("a good document");
    assert!(documents.next().is_none(), "one document");
    document.resource
}

pub(super) fn virtual_service(name: &str, http: Vec<HttpRule>) -> VirtualServiceInput {
    VirtualServiceInput::native(Arc::new(VirtualService {
        meta: ObjectMeta::named("shop", name),
        hosts: vec![Host::parse(name).expect("a host")],
        gateways: vec!["mesh".to_owned()],
        http,
        export_to: ExportTo::All,
    }))
}

pub(super) fn rule(name: &str, condition: Option<HttpMatch>, action: HttpAction) -> HttpRule {
    HttpRule {
        name: (!name.is_empty()).then(|| name.to_owned()),
        matches: condition.into_iter().collect(),
        action,
        rewrite: None,
        timeout: None,
        retries: None,
        headers: Headers::default(),
        fault: None,
        cors: None,
        mirrors: Vec::new(),
    }
}

/// `host[/subset][:port]`, weight.
pub(super) fn to(destinations: &[(&str, u32)]) -> HttpAction {
    let destination = |text: &str| {
        let (rest, port) = match text.split_once(':') {
            Some((rest, port)) => (rest, Some(port.parse().expect("a port"))),
            None => (text, None),
        };
        let (host, subset) = match rest.split_once('/') {
            Some((host, subset)) => (host, Some(subset.to_owned())),
            None => (rest, None),
        };
        Destination {
            host: Host::parse(host).expect("a host"),
            subset,
            port,
        }
    };
    HttpAction::Route(
        destinations
            .iter()
            .map(|(text, weight)| HttpDestination {
                destination: destination(text),
                weight: *weight,
                headers: Headers::default(),
            })
            .collect(),
    )
}
