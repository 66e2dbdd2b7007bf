//! Envoy's admin ConfigDump, of what a proxy should have.

use std::sync::Arc;

use serde_json::{Value, json};
use waymark_proto::json::{JsonStyle, any_to_value};
use waymark_proto::type_url;
use waymark_xds::{Encoded, ResourceMap, ResourceSet};

use crate::debug::DumpQuery;

/// One section: its type, the short name that asks for it, and how a resource stands in it.
struct Section {
    dump: &'static str,
    short: &'static str,
    type_url: &'static str,
    list: &'static str,
    wrap: fn(&str, Value) -> Value,
}

const SECTIONS: [Section; 4] = [
    Section {
        dump: "type.googleapis.com/envoy.admin.v3.ClustersConfigDump",
        short: "cds",
        type_url: type_url::CLUSTER,
        list: "dynamic_active_clusters",
        wrap: |_, cluster| json!({"cluster": cluster}),
    },
    Section {
        dump: "type.googleapis.com/envoy.admin.v3.ListenersConfigDump",
        short: "lds",
        type_url: type_url::LISTENER,
        list: "dynamic_listeners",
        wrap: |name, listener| json!({"name": name, "active_state": {"listener": listener}}),
    },
    Section {
        dump: "type.googleapis.com/envoy.admin.v3.RoutesConfigDump",
        short: "rds",
        type_url: type_url::ROUTE,
        list: "dynamic_route_configs",
        wrap: |_, routes| json!({"route_config": routes}),
    },
    Section {
        dump: "type.googleapis.com/envoy.admin.v3.EndpointsConfigDump",
        short: "eds",
        type_url: type_url::ENDPOINT,
        list: "dynamic_endpoint_configs",
        wrap: |_, endpoints| json!({"endpoint_config": endpoints}),
    },
];

/// The sections of a waypoint's set.
pub(super) fn envoy(set: &ResourceSet, query: &DumpQuery<'_>) -> Vec<Value> {
    let asked: Option<Vec<&str>> = query
        .types
        .map(|types| types.split(',').map(str::trim).collect());
    let wanted = |section: &&Section| match &asked {
        Some(types) => types
            .iter()
            .any(|asked| *asked == section.type_url || asked.eq_ignore_ascii_case(section.short)),
        None => section.type_url != type_url::ENDPOINT || query.include_eds,
    };
    let dump = |section: &Section| {
        let resources = set.get(section.type_url).map(sorted).unwrap_or_default();
        let entries: Vec<Value> = resources
            .iter()
            .map(|resource| (section.wrap)(resource.name(), json(resource)))
            .collect();
        let mut dump = json!({"@type": section.dump, "version_info": set.version()});
        dump[section.list] = Value::Array(entries);
        dump
    };
    SECTIONS.iter().filter(wanted).map(dump).collect()
}

/// What a node proxy has: addresses, as they are.
pub(super) fn addresses(addresses: &ResourceMap) -> Vec<Value> {
    sorted(addresses)
        .iter()
        .map(|resource| json(resource))
        .collect()
}

fn sorted(map: &ResourceMap) -> Vec<&Arc<Encoded>> {
    let mut resources: Vec<&Arc<Encoded>> = map.iter().collect();
    resources.sort_by(|a, b| a.name().cmp(b.name()));
    resources
}

fn json(resource: &Encoded) -> Value {
    any_to_value(&resource.to_any::<prost_types::Any>(), JsonStyle::Snake)
}
