//! GatewayClass and Gateway.

use crate::decode::meta::{NameRule, Scope, annotation, meta};
use crate::decode::object::{Field, Object};
use crate::decode::policy::label_selector;
use crate::gateway::{
    AllowedNamespaces, Gateway, GatewayAddress, GatewayApiVersion, GatewayClass, GatewaySpec,
    Listener, ListenerProtocol, WaypointBinary,
};
use crate::names;
use crate::tree::quoted;
use crate::waypoint::WaypointClass;

pub(super) fn gateway_class(root: &Field<'_>) -> Option<GatewayClass> {
    let mut object = root.object()?;
    let meta = meta(&mut object, NameRule::Subdomain, Scope::Cluster);
    let mut spec = object.required("spec")?.object()?;
    spec.skip("description");
    Some(GatewayClass {
        meta,
        controller_name: spec.required_name("controllerName"),
    })
}

pub(super) fn gateway(root: &Field<'_>, version: &str) -> Option<Gateway> {
    let mut object = root.object()?;
    let meta = meta(&mut object, NameRule::Subdomain, Scope::Namespaced);
    let for_service_account =
        annotation(&mut object, names::FOR_SERVICE_ACCOUNT).and_then(|f| f.subdomain());
    let own_service_account =
        annotation(&mut object, names::GATEWAY_SERVICE_ACCOUNT).and_then(|f| f.subdomain());
    let name_override =
        annotation(&mut object, names::GATEWAY_NAME_OVERRIDE).and_then(|f| f.label());
    let replicas = annotation(&mut object, names::REPLICAS)
        .and_then(|f| replicas(&f))
        .unwrap_or(1);
    let binary = annotation(&mut object, names::WAYPOINT_BINARY).and_then(|f| binary(&f));
    let status_addresses = status_addresses(&mut object);
    let mut spec = object.required("spec")?.object()?;
    let class = spec.required("gatewayClassName")?;
    let class_name = class.name()?;
    if WaypointClass::of_name(&class_name).is_none() {
        class.unsupported(&format!(
            "{} is not a class of waypoints; allowed: {}",
            quoted(&class_name),
            WaypointClass::ALL.map(WaypointClass::name).join(", ")
        ));
        // All else that could be said is about waypoints.
        spec.skip_all();
        return None;
    }
    let addresses = spec.list("addresses").iter().filter_map(address).collect();
    let (infrastructure_labels, infrastructure_annotations) = infrastructure(&mut spec);
    Some(Gateway {
        meta,
        version: if version == "v1beta1" {
            GatewayApiVersion::V1Beta1
        } else {
            GatewayApiVersion::V1
        },
        spec: GatewaySpec {
            class_name,
            listeners: listeners(&mut spec),
            addresses,
            infrastructure_labels,
            infrastructure_annotations,
        },
        for_service_account,
        own_service_account,
        name_override,
        replicas,
        binary,
        status_addresses,
    })
}

fn status_addresses(gateway: &mut Object<'_>) -> Vec<GatewayAddress> {
    let Some(mut status) = gateway.opt("status").and_then(|f| f.object()) else {
        return Vec::new();
    };
    let addresses = status.list("addresses");
    // Conditions and the like are for others to read.
    status.skip_all();
    let address = |field: &Field<'_>| {
        let mut object = field.object()?;
        match object.text("type").as_deref() {
            None | Some("IPAddress") => Some(GatewayAddress::Ip(object.required("value")?.ip()?)),
            Some("Hostname") => Some(GatewayAddress::Hostname(object.required_name("value"))),
            Some(_) => {
                object.skip_all();
                None
            }
        }
    };
    addresses.iter().filter_map(address).collect()
}

fn binary(field: &Field<'_>) -> Option<WaypointBinary> {
    match field.text()? {
        "waymark" => Some(WaypointBinary::Waymark),
        "envoy" => Some(WaypointBinary::Envoy),
        other => {
            field.invalid(
                format!("{} is not allowed", quoted(other)),
                "waymark or envoy".to_owned(),
            );
            None
        }
    }
}

fn replicas(field: &Field<'_>) -> Option<u32> {
    let text = field.text()?;
    let count = text.parse().ok().filter(|n| (1..=MAX_REPLICAS).contains(n));
    if count.is_none() {
        field.invalid(
            format!("{} is not allowed", quoted(text)),
            format!("a number between 1 and {MAX_REPLICAS}, in quotes"),
        );
    }
    count
}

fn infrastructure(spec: &mut Object<'_>) -> (crate::meta::Map, crate::meta::Map) {
    let Some(mut object) = spec.opt("infrastructure").and_then(|f| f.object()) else {
        return Default::default();
    };
    object.skip("parametersRef");
    let labels = object.opt("labels").map(|f| f.labels()).unwrap_or_default();
    (
        labels,
        object
            .opt("annotations")
            .map(|f| f.string_map())
            .unwrap_or_default(),
    )
}

fn listeners(spec: &mut Object<'_>) -> Vec<Listener> {
    let fields = spec.required_list("listeners");
    for extra in fields.iter().skip(1) {
        extra.unsupported("a waypoint has one listener: protocol HBONE, port 15008");
    }
    fields.iter().filter_map(listener).collect()
}

fn listener(field: &Field<'_>) -> Option<Listener> {
    let mut object = field.object()?;
    object.skip("tls");
    let hostname = object.opt("hostname").and_then(|f| f.host());
    let name = object.required("name").and_then(|f| f.subdomain());
    let allowed_namespaces = object
        .opt("allowedRoutes")
        .and_then(|f| allowed_routes(&f))
        .unwrap_or(AllowedNamespaces::Same);
    let protocol = object.required("protocol");
    let port = object.required("port");
    let protocol_text = protocol.as_ref().and_then(|f| f.text());
    if let (Some(field), Some(text)) = (&protocol, protocol_text)
        && text != "HBONE"
    {
        field.unsupported("allowed: HBONE");
    }
    let number = port.as_ref().and_then(|f| f.port());
    if let (Some(field), Some(number)) = (&port, number)
        && number != names::HBONE_PORT
    {
        field.unsupported("a waypoint listens on 15008");
    }
    Some(Listener {
        name: name?,
        hostname,
        port: number?,
        protocol: ListenerProtocol::Hbone,
        allowed_namespaces,
    })
}

fn allowed_routes(field: &Field<'_>) -> Option<AllowedNamespaces> {
    let mut object = field.object()?;
    object.skip("kinds");
    let mut namespaces = object.opt("namespaces")?.object()?;
    let selector = namespaces.opt("selector");
    let from = namespaces.opt("from");
    let from_text = from.as_ref().map_or(Some("Same"), |f| f.text())?;
    match (from_text, selector) {
        ("Selector", Some(selector)) => label_selector(&selector).map(AllowedNamespaces::Selector),
        ("Selector", None) => {
            namespaces.missing("selector");
            None
        }
        (_, Some(selector)) => {
            selector.invalid("has a meaning only with from: Selector", None);
            None
        }
        ("All", None) => Some(AllowedNamespaces::All),
        ("Same", None) => Some(AllowedNamespaces::Same),
        (other, None) => {
            if let Some(field) = from {
                field.not_one_of(other, ["Same", "All", "Selector"].into_iter());
            }
            None
        }
    }
}

fn address(field: &Field<'_>) -> Option<GatewayAddress> {
    let mut object = field.object()?;
    let hostname = object.opt("type").map_or(Some(false), |f| {
        f.one_of(&[("IPAddress", false), ("Hostname", true)])
    })?;
    let value = object.required("value")?;
    Some(if hostname {
        GatewayAddress::Hostname(value.subdomain()?)
    } else {
        GatewayAddress::Ip(value.ip()?)
    })
}

/// What one machine can be asked for.
const MAX_REPLICAS: u32 = 100;
