//! The routes of an HTTP port: from virtual services, or one that takes everything.

use waymark_api::istio::virtual_service::{HttpAction, HttpMatch, HttpRule};

use super::input::{
    Context, Flavour, PortInput, Resolution, Semantics, ServiceInput, VirtualServiceInput,
};
use super::names::{self, Family};
use super::traffic_policy::Effective;
use super::tunnel;
use super::wire::{bool_value, metadata, route, string, structure, u32_value};

mod action;
mod destination;
mod filters;
mod headers;
mod matches;
mod retry;

/// Name of the route that takes everything where nothing else is said.
const DEFAULT: &str = "default";
/// A direct response may be this long.
const MAX_DIRECT_RESPONSE: u32 = 1 << 20;

/// One rule of a virtual service on one port of a service: what its parts need to know.
#[derive(Clone, Copy)]
struct Scope<'a> {
    ctx: Context<'a>,
    port: &'a PortInput,
    virtual_service: &'a VirtualServiceInput,
}

impl Scope<'_> {
    fn semantics(&self) -> Semantics {
        self.virtual_service.semantics
    }
}

/// The routes of one port of a service.
pub(super) fn service(
    ctx: Context<'_>,
    service: &ServiceInput,
    port: &PortInput,
) -> route::RouteConfiguration {
    let name = names::inbound_vip(port.number, Family::Http, &service.host);
    let routes = virtual_service_routes(ctx, service, port);
    if !routes.is_empty() {
        return configuration(service, &name, port.number, routes);
    }
    let mut default = everything(ctx, &name, &format!("{}:{}/*", service.host, port.number));
    let policy = Effective::of(service.destination_rule.as_deref(), None, port.number);
    if let (Some(key), Some(route::route::Action::Route(action))) =
        (policy.hash_key(), &mut default.action)
    {
        action.hash_policy = vec![action::hash_policy(key)];
    }
    let mut routes = configuration(service, &name, port.number, vec![default]);
    routes.max_direct_response_body_size_bytes = Some(u32_value(MAX_DIRECT_RESPONSE));
    routes
}

/// The routes of requests that are addressed to a pod.
pub(super) fn direct(ctx: Context<'_>) -> route::RouteConfiguration {
    let routes = vec![everything(ctx, tunnel::ENCAP, ":0/*")];
    route::RouteConfiguration {
        name: tunnel::ENCAP.to_owned(),
        virtual_hosts: vec![virtual_host(0, "*", routes)],
        validate_clusters: Some(bool_value(false)),
        max_direct_response_body_size_bytes: Some(u32_value(MAX_DIRECT_RESPONSE)),
        ..Default::default()
    }
}

fn configuration(
    service: &ServiceInput,
    name: &str,
    port: u16,
    routes: Vec<route::Route>,
) -> route::RouteConfiguration {
    // Who is called is decided by the address, not by the Host header, unless the service is all hosts of a domain.
    let domain = if service.resolution == Resolution::DynamicDns {
        &*service.host
    } else {
        "*"
    };
    let answers_long = routes
        .iter()
        .any(|route| action::direct_response_length(route) > ENVOYS_LIMIT);
    route::RouteConfiguration {
        name: name.to_owned(),
        virtual_hosts: vec![virtual_host(port, domain, routes)],
        validate_clusters: Some(bool_value(false)),
        max_direct_response_body_size_bytes: answers_long.then(|| u32_value(MAX_DIRECT_RESPONSE)),
        ..Default::default()
    }
}

/// Longer bodies of direct responses make Envoy refuse the configuration, unless told otherwise.
const ENVOYS_LIMIT: usize = 4096;

fn virtual_host(port: u16, domain: &str, routes: Vec<route::Route>) -> route::VirtualHost {
    route::VirtualHost {
        name: format!("inbound|http|{port}"),
        domains: vec![domain.to_owned()],
        routes,
        ..Default::default()
    }
}

fn everything(ctx: Context<'_>, cluster: &str, operation: &str) -> route::Route {
    let mut action = action::to_cluster(ctx, None, Semantics::VirtualService);
    action.cluster_specifier = Some(route::route_action::ClusterSpecifier::Cluster(
        cluster.to_owned(),
    ));
    action.retry_policy = retry::policy(ctx.mesh, None, retry::PreviousHosts::Avoid);
    route::Route {
        name: DEFAULT.to_owned(),
        r#match: Some(matches::everything()),
        decorator: Some(decorator(operation.to_owned())),
        action: Some(route::route::Action::Route(action)),
        ..Default::default()
    }
}

fn decorator(operation: String) -> route::Decorator {
    route::Decorator {
        operation,
        ..Default::default()
    }
}

/// The routes of all virtual services, oldest first. What follows a catch-all in one of them is never reached and
/// left out.
fn virtual_service_routes(
    ctx: Context<'_>,
    service: &ServiceInput,
    port: &PortInput,
) -> Vec<route::Route> {
    let mut virtual_services: Vec<&VirtualServiceInput> = service
        .virtual_services
        .iter()
        .filter(|virtual_service| virtual_service.spec.is_for_mesh())
        .collect();
    virtual_services.sort_by(|left, right| {
        let by_age = left.spec.meta.age_key().cmp(&right.spec.meta.age_key());
        by_age.then(left.semantics.cmp(&right.semantics))
    });
    let mut routes = Vec::new();
    for virtual_service in virtual_services {
        let scope = Scope {
            ctx,
            port,
            virtual_service,
        };
        for (rule, condition) in conditions(scope) {
            let route = one_route(scope, rule, condition);
            let ends = route.r#match.as_ref().is_some_and(matches::is_catch_all);
            routes.push(route);
            if ends {
                break;
            }
        }
    }
    routes
}

/// Every rule with each of its matches that can hold here.
///
/// Upstream sorts the rules of the Gateway API so that one that takes every path comes before all regular expressions,
/// which then never hold. The stock flavour puts it behind them.
fn conditions<'a>(scope: Scope<'a>) -> Vec<(&'a HttpRule, Option<&'a HttpMatch>)> {
    let rules = scope.virtual_service.spec.http.iter();
    let mut conditions: Vec<_> = rules
        .flat_map(|rule| {
            let unconditional = rule.matches.is_empty().then_some((rule, None));
            let matching = rule
                .matches
                .iter()
                .filter(|condition| applies(scope, condition));
            unconditional
                .into_iter()
                .chain(matching.map(move |condition| (rule, Some(condition))))
        })
        .collect();
    if (scope.ctx.proxy.flavour, scope.semantics()) == (Flavour::Stock, Semantics::GatewayApi) {
        conditions.sort_by_key(|(_, condition)| {
            matches::is_catch_all(&matches::of(*condition, Semantics::GatewayApi))
        });
    }
    conditions
}

/// What can be decided now: the port, the gateway, and who the client is, of which only the namespace is known, and
/// only as that of the waypoint.
fn applies(scope: Scope<'_>, condition: &HttpMatch) -> bool {
    condition.is_for_mesh()
        && condition.port.is_none_or(|port| port == scope.port.number)
        && condition.source_labels.is_empty()
        && condition
            .source_namespace
            .as_ref()
            .is_none_or(|namespace| *namespace == scope.ctx.proxy.namespace)
}

fn one_route(scope: Scope<'_>, rule: &HttpRule, condition: Option<&HttpMatch>) -> route::Route {
    let meta = &scope.virtual_service.spec.meta;
    let path = names::config_path("virtual-service", &meta.namespace, &meta.name);
    let mut route = route::Route {
        name: route_name(rule, condition),
        r#match: Some(matches::of(condition, scope.semantics())),
        metadata: Some(metadata([("istio", structure([("config", string(path))]))])),
        ..Default::default()
    };
    headers::apply_to_route(&mut route, &rule.headers);
    let mut target = None;
    route.action = Some(match &rule.action {
        HttpAction::Redirect(redirect) => route::route::Action::Redirect(action::redirect(
            redirect,
            scope.port.number,
            scope.semantics(),
        )),
        HttpAction::DirectResponse(response) => {
            route::route::Action::DirectResponse(action::direct_response(response))
        }
        HttpAction::Route(destinations) => {
            let (action, only) = action::forward(scope, rule, condition, destinations, &mut route);
            target = only;
            route::route::Action::Route(action)
        }
    });
    let (host, port) = target.unwrap_or_else(|| (meta.name.clone(), scope.port.number));
    let path = route
        .r#match
        .as_ref()
        .map_or_else(|| "/*".to_owned(), matches::path_text);
    route.decorator = Some(decorator(format!("{host}:{port}{path}")));
    filters::apply(&mut route, rule);
    route
}

fn route_name(rule: &HttpRule, condition: Option<&HttpMatch>) -> String {
    let rule = rule.name.as_deref().unwrap_or_default();
    match condition.and_then(|condition| condition.name.as_deref()) {
        Some(name) => format!("{rule}.{name}"),
        None => rule.to_owned(),
    }
}
