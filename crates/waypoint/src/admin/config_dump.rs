//! `/config_dump`.

use http::StatusCode;
use prost::Message as _;
use regex::Regex;
use serde_json::{Value, json};
use waymark_proto::any::is;
use waymark_proto::envoy::envoy::config::cluster::v3::Cluster;
use waymark_proto::envoy::envoy::config::core::v3 as core;
use waymark_proto::envoy::envoy::config::endpoint::v3 as endpoint;
use waymark_proto::envoy::envoy::config::listener::v3 as listener;
use waymark_proto::envoy::envoy::config::route::v3::RouteConfiguration;
use waymark_proto::envoy::envoy::extensions::filters::network::http_connection_manager::v3 as hcm;
use waymark_proto::type_url;

use super::json::{any, object, timestamp};
use super::mask::Mask;
use super::query::Query;
use super::{Admin, Answer, bootstrap};
use crate::config::{Dump, Dumped, Received, Refused};

/// A section: its message, and its fields; repeated ones with the name of their elements' message.
struct Kind {
    name: &'static str,
    fields: &'static [&'static str],
    repeated: &'static [(&'static str, &'static str)],
}

const BOOTSTRAP: Kind = Kind {
    name: "BootstrapConfigDump",
    fields: &["bootstrap", "last_updated"],
    repeated: &[],
};
const CLUSTERS: Kind = Kind {
    name: "ClustersConfigDump",
    fields: &[
        "version_info",
        "static_clusters",
        "dynamic_active_clusters",
        "dynamic_warming_clusters",
    ],
    repeated: &[
        ("static_clusters", "StaticCluster"),
        ("dynamic_active_clusters", "DynamicCluster"),
        ("dynamic_warming_clusters", "DynamicCluster"),
    ],
};
const ENDPOINTS: Kind = Kind {
    name: "EndpointsConfigDump",
    fields: &["static_endpoint_configs", "dynamic_endpoint_configs"],
    repeated: &[
        ("static_endpoint_configs", "StaticEndpointConfig"),
        ("dynamic_endpoint_configs", "DynamicEndpointConfig"),
    ],
};
const LISTENERS: Kind = Kind {
    name: "ListenersConfigDump",
    fields: &["version_info", "static_listeners", "dynamic_listeners"],
    repeated: &[
        ("static_listeners", "StaticListener"),
        ("dynamic_listeners", "DynamicListener"),
    ],
};
const SCOPED_ROUTES: Kind = Kind {
    name: "ScopedRoutesConfigDump",
    fields: &[
        "inline_scoped_route_configs",
        "dynamic_scoped_route_configs",
    ],
    repeated: &[
        ("inline_scoped_route_configs", "InlineScopedRouteConfigs"),
        ("dynamic_scoped_route_configs", "DynamicScopedRouteConfigs"),
    ],
};
const ROUTES: Kind = Kind {
    name: "RoutesConfigDump",
    fields: &["static_route_configs", "dynamic_route_configs"],
    repeated: &[
        ("static_route_configs", "StaticRouteConfig"),
        ("dynamic_route_configs", "DynamicRouteConfig"),
    ],
};
const SECRETS: Kind = Kind {
    name: "SecretsConfigDump",
    fields: &[
        "static_secrets",
        "dynamic_active_secrets",
        "dynamic_warming_secrets",
    ],
    repeated: &[
        ("static_secrets", "StaticSecret"),
        ("dynamic_active_secrets", "DynamicSecret"),
        ("dynamic_warming_secrets", "DynamicSecret"),
    ],
};

/// A section and its contents.
struct Section {
    kind: &'static Kind,
    value: Value,
}

/// Which resources are wanted.
struct Names(Option<Regex>);

impl Names {
    fn wants(&self, name: &str) -> bool {
        self.0.as_ref().is_none_or(|r| r.is_match(name))
    }
}

impl Admin {
    pub(super) fn config_dump(&self, query: &Query) -> Answer {
        let refused = |status, why: String| Answer::refused(status, why);
        let names = match query
            .get("name_regex")
            .filter(|r| !r.is_empty())
            .map(Regex::new)
            .transpose()
        {
            Ok(names) => Names(names),
            Err(error) => {
                return refused(
                    StatusCode::BAD_REQUEST,
                    format!("Error while parsing name_regex: {error}\n"),
                );
            }
        };
        let mask = query.get("mask").filter(|m| !m.is_empty());
        let sections = self.sections(query.has("include_eds"), &names);
        let configs = match query.get("resource").filter(|r| !r.is_empty()) {
            None => match mask {
                None => sections.into_iter().map(|s| s.value).collect(),
                Some(text) => {
                    let mask = Mask::parse(text);
                    let masked = sections
                        .iter()
                        .filter_map(|s| mask.apply(&s.value, s.kind.fields));
                    let masked: Vec<_> = masked.collect();
                    if masked.is_empty() {
                        let why = format!(
                            "FieldMask {text} could not be successfully applied to any configs.\n"
                        );
                        return refused(StatusCode::BAD_REQUEST, why);
                    }
                    masked
                }
            },
            Some(resource) => match elements(&sections, resource, mask) {
                Ok(elements) => elements,
                Err(answer) => return answer,
            },
        };
        Answer::json(&json!({ "configs": configs }))
    }

    /// The sections in Envoy's order.
    fn sections(&self, include_eds: bool, names: &Names) -> Vec<Section> {
        let dump = self.config.dump();
        let started = timestamp(self.telemetry.started);
        let mut out = vec![
            section(
                &BOOTSTRAP,
                object([
                    ("bootstrap", self.bootstrap()),
                    ("last_updated", started.clone()),
                ]),
            ),
            section(&CLUSTERS, self.clusters_section(&dump, names, &started)),
        ];
        if include_eds {
            let endpoints = self.endpoints_section(&dump, names, &started);
            out.push(section(&ENDPOINTS, endpoints));
        }
        out.push(section(
            &LISTENERS,
            self.listeners_section(&dump, names, &started),
        ));
        out.push(section(&SCOPED_ROUTES, json!({})));
        out.push(section(&ROUTES, routes_section(&dump, names, &started)));
        let (active, warming) = self.secrets();
        let wanted = |secrets: Vec<Value>| {
            let named = |s: &Value| {
                s.get("name")
                    .and_then(Value::as_str)
                    .is_some_and(|n| names.wants(n))
            };
            Value::from(secrets.into_iter().filter(named).collect::<Vec<_>>())
        };
        let secrets = object([
            ("dynamic_active_secrets", wanted(active)),
            ("dynamic_warming_secrets", wanted(warming)),
        ]);
        out.push(section(&SECRETS, secrets));
        out
    }

    fn clusters_section(&self, dump: &Dump, names: &Names, started: &Value) -> Value {
        let own: Vec<_> = bootstrap::static_clusters(&self.places)
            .iter()
            .filter(|c| names.wants(c.name))
            .map(|c| json!({ "cluster": c.json(), "last_updated": started }))
            .collect();
        let (clusters, version) = &dump.clusters;
        let entry = |received: &Received, refused: Option<&Refused>| {
            object([
                ("version_info", Value::from(version_info(received, version))),
                ("cluster", any(type_url::CLUSTER, &received.bytes)),
                ("last_updated", timestamp(received.at)),
                ("error_state", failure(type_url::CLUSTER, refused)),
            ])
        };
        let (mut active, mut warming) = (Vec::new(), Vec::new());
        for cluster in clusters.iter().filter(|c| names.wants(&c.name)) {
            let refused = cluster.refused.as_ref();
            if let Some(received) = &cluster.active {
                active.push(entry(received, refused));
            }
            match (&cluster.active, &cluster.warming) {
                (active, Some(received)) => {
                    warming.push(entry(received, refused.filter(|_| active.is_none())))
                }
                // Never accepted: only what is wrong with it can be shown.
                (None, None) => warming.push(object([(
                    "error_state",
                    failure(type_url::CLUSTER, refused),
                )])),
                (Some(_), None) => {}
            }
        }
        object([
            ("version_info", Value::from(version.as_str())),
            ("static_clusters", Value::from(own)),
            ("dynamic_active_clusters", Value::from(active)),
            ("dynamic_warming_clusters", Value::from(warming)),
        ])
    }

    fn listeners_section(&self, dump: &Dump, names: &Names, started: &Value) -> Value {
        let named = |l: &Value| {
            l.get("name")
                .and_then(Value::as_str)
                .is_some_and(|n| names.wants(n))
        };
        let own: Vec<_> = bootstrap::static_listeners(&self.places)
            .into_iter()
            .filter(named)
            .map(|l| json!({ "listener": l, "last_updated": started }))
            .collect();
        let (listeners, version) = &dump.listeners;
        let state = |received: &Received| {
            object([
                ("version_info", Value::from(version_info(received, version))),
                ("listener", any(type_url::LISTENER, &received.bytes)),
                ("last_updated", timestamp(received.at)),
            ])
        };
        let dynamic: Vec<_> = listeners
            .iter()
            .filter(|l| names.wants(&l.name))
            .map(|l| {
                object([
                    ("name", Value::from(l.name.as_str())),
                    (
                        "active_state",
                        l.active.as_ref().map(state).unwrap_or_default(),
                    ),
                    (
                        "warming_state",
                        l.warming.as_ref().map(state).unwrap_or_default(),
                    ),
                    (
                        "error_state",
                        failure(type_url::LISTENER, l.refused.as_ref()),
                    ),
                ])
            })
            .collect();
        object([
            ("version_info", Value::from(version.as_str())),
            ("static_listeners", Value::from(own)),
            ("dynamic_listeners", Value::from(dynamic)),
        ])
    }

    /// Endpoints as received, with the health that they have here.
    fn endpoints_section(&self, dump: &Dump, names: &Names, started: &Value) -> Value {
        let configs: Vec<_> = dump
            .endpoints
            .iter()
            .filter(|e| names.wants(&e.name))
            .filter_map(|e| {
                let received = e.active.as_ref()?;
                Some(object([
                    ("version_info", Value::from(received.version.as_str())),
                    (
                        "endpoint_config",
                        any(type_url::ENDPOINT, &effective(&received.bytes)),
                    ),
                    ("last_updated", timestamp(received.at)),
                    (
                        "error_state",
                        failure(type_url::ENDPOINT, e.refused.as_ref()),
                    ),
                ]))
            })
            .collect();
        object([
            (
                "static_endpoint_configs",
                self.own_endpoints(dump, names, started),
            ),
            ("dynamic_endpoint_configs", Value::from(configs)),
        ])
    }

    /// Endpoints that clusters have themselves.
    fn own_endpoints(&self, dump: &Dump, names: &Names, started: &Value) -> Value {
        let healthy = |assignment: Value| {
            let mut config = json!({ "@type": type_url::ENDPOINT });
            if let (Some(fields), Value::Object(assignment)) = (config.as_object_mut(), assignment)
            {
                fields.extend(assignment);
            }
            json!({ "endpoint_config": config, "last_updated": started })
        };
        let of_process = bootstrap::static_clusters(&self.places);
        let of_process = of_process
            .iter()
            .filter(|c| names.wants(c.name))
            .map(|c| healthy(c.load_assignment(Some("HEALTHY"))));
        let (clusters, _) = &dump.clusters;
        let received = clusters
            .iter()
            .filter(|c| names.wants(&c.name))
            .filter_map(|c| {
                let received = c.active.as_ref()?;
                // It was decoded before it was accepted.
                let cluster = Cluster::decode(&*received.bytes).ok()?;
                let assignment = cluster.load_assignment?.encode_to_vec();
                Some(object([
                    (
                        "endpoint_config",
                        any(type_url::ENDPOINT, &effective(&assignment)),
                    ),
                    ("last_updated", timestamp(received.at)),
                ]))
            });
        of_process.chain(received).collect::<Vec<_>>().into()
    }
}

fn section(kind: &'static Kind, contents: Value) -> Section {
    let mut value = json!({ "@type": format!("type.googleapis.com/envoy.admin.v3.{}", kind.name) });
    if let (Some(fields), Value::Object(contents)) = (value.as_object_mut(), contents) {
        fields.extend(contents);
    }
    Section { kind, value }
}

/// The elements of one repeated field.
fn elements(
    sections: &[Section],
    resource: &str,
    mask: Option<&str>,
) -> Result<Vec<Value>, Answer> {
    let Some(section) = sections.iter().find(|s| s.kind.fields.contains(&resource)) else {
        return Err(Answer::refused(
            StatusCode::NOT_FOUND,
            format!("{resource} not found in config dump\n"),
        ));
    };
    let Some((_, element)) = section
        .kind
        .repeated
        .iter()
        .find(|(field, _)| *field == resource)
    else {
        let why = format!(
            "{resource} is not a repeated field. Use ?mask={resource} to get only this field\n"
        );
        return Err(Answer::refused(StatusCode::BAD_REQUEST, why));
    };
    let kind = format!(
        "type.googleapis.com/envoy.admin.v3.{}.{element}",
        section.kind.name
    );
    let list = section
        .value
        .get(resource)
        .and_then(Value::as_array)
        .into_iter()
        .flatten();
    let typed = list.map(|value| {
        let mut out = json!({ "@type": kind });
        if let (Some(out), Some(fields)) = (out.as_object_mut(), value.as_object()) {
            out.extend(fields.clone());
        }
        out
    });
    let Some(text) = mask else {
        return Ok(typed.collect());
    };
    let mask = Mask::parse(text);
    let masked: Vec<_> = typed
        .map(|value| {
            let known: Vec<_> = value
                .as_object()
                .into_iter()
                .flatten()
                .map(|(k, _)| k.as_str())
                .collect();
            let empty = json!({ "@type": kind });
            mask.apply(&value, &known).unwrap_or(empty)
        })
        .collect();
    Ok(masked)
}

/// A resource's own version, or that of the response it came in.
fn version_info(received: &Received, system: &str) -> String {
    if received.version.is_empty() {
        system.to_owned()
    } else {
        received.version.clone()
    }
}

fn failure(type_url: &str, refused: Option<&Refused>) -> Value {
    let Some(Refused { received, why }) = refused else {
        return Value::Null;
    };
    object([
        ("failed_configuration", any(type_url, &received.bytes)),
        ("last_update_attempt", timestamp(received.at)),
        ("details", Value::from(why.as_str())),
        ("version_info", Value::from(received.version.as_str())),
    ])
}

/// Routes inside listeners are static to Envoy, those of RDS dynamic.
fn routes_section(dump: &Dump, names: &Names, started: &Value) -> Value {
    let wanted = |config: &Value| {
        config
            .get("name")
            .and_then(Value::as_str)
            .is_none_or(|n| names.wants(n))
    };
    let entry = |config: Value, at: &Value| json!({ "route_config": config, "last_updated": at });
    let mut inline: Vec<_> = bootstrap::static_routes()
        .into_iter()
        .filter(wanted)
        .map(|c| entry(c, started))
        .collect();
    for received in dump.listeners.0.iter().filter_map(|l| l.active.as_ref()) {
        let at = timestamp(received.at);
        let configs = inline_routes(&received.bytes)
            .into_iter()
            .filter(|c| names.wants(&c.name));
        inline.extend(configs.map(|c| entry(any(type_url::ROUTE, &c.encode_to_vec()), &at)));
    }
    let dynamic: Vec<_> = dump
        .routes
        .iter()
        .filter(|r| names.wants(&r.name))
        .map(dynamic_route)
        .collect();
    object([
        ("static_route_configs", Value::from(inline)),
        ("dynamic_route_configs", Value::from(dynamic)),
    ])
}

fn dynamic_route(route: &Dumped) -> Value {
    let received = route.active.as_ref();
    object([
        (
            "version_info",
            Value::from(received.map(|r| r.version.as_str()).unwrap_or_default()),
        ),
        (
            "route_config",
            received
                .map(|r| any(type_url::ROUTE, &r.bytes))
                .unwrap_or_default(),
        ),
        (
            "last_updated",
            received.map(|r| timestamp(r.at)).unwrap_or_default(),
        ),
        (
            "error_state",
            failure(type_url::ROUTE, route.refused.as_ref()),
        ),
    ])
}

/// The route configurations in a listener's connection managers.
fn inline_routes(bytes: &[u8]) -> Vec<RouteConfiguration> {
    // It was decoded before it was accepted.
    let listener = listener::Listener::decode(bytes).unwrap_or_default();
    let mut out = Vec::new();
    for filter in listener.filter_chains.into_iter().flat_map(|c| c.filters) {
        let Some(listener::filter::ConfigType::TypedConfig(config)) = filter.config_type else {
            continue;
        };
        if !is::<hcm::HttpConnectionManager>(&config) {
            continue;
        }
        let manager =
            hcm::HttpConnectionManager::decode(config.value.as_slice()).unwrap_or_default();
        if let Some(hcm::http_connection_manager::RouteSpecifier::RouteConfig(config)) =
            manager.route_specifier
        {
            out.push(config);
        }
    }
    out
}

/// A load assignment with unknown health made healthy, which is what it counts as.
fn effective(bytes: &[u8]) -> Vec<u8> {
    let mut assignment = endpoint::ClusterLoadAssignment::decode(bytes).unwrap_or_default();
    for endpoint in assignment
        .endpoints
        .iter_mut()
        .flat_map(|l| &mut l.lb_endpoints)
    {
        if endpoint.health_status == core::HealthStatus::Unknown as i32 {
            endpoint.health_status = core::HealthStatus::Healthy as i32;
        }
    }
    assignment.encode_to_vec()
}
