//! `metadata`.

use crate::ambient::{
    DataplaneMode, Enforcement, MeshLabels, Redirection, TrafficDistribution, TrafficType,
    UseWaypoint,
};
use crate::decode::object::{Field, Object};
use crate::host::{is_label, is_subdomain};
use crate::meta::{Map, ObjectMeta, OwnerReference, Timestamp};
use crate::names;
use crate::support::REFUSED_LABELS;
use crate::tree::quoted;

/// What names of a kind look like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NameRule {
    /// One DNS label: Namespace, Service.
    Label,
    /// A DNS name: the others.
    Subdomain,
}

/// Whether objects of a kind have a namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scope {
    Namespaced,
    Cluster,
}

/// Reads `metadata` and takes `apiVersion`, `kind` and `status` of the object as known.
pub(super) fn meta(object: &mut Object<'_>, names: NameRule, scope: Scope) -> ObjectMeta {
    object.skip("apiVersion");
    object.skip("kind");
    object.skip("status");
    let Some(mut meta) = object.required("metadata").and_then(|f| f.object()) else {
        return ObjectMeta::default();
    };
    let labels = meta.opt("labels");
    let annotations = meta.opt("annotations");
    let read = ObjectMeta {
        name: meta
            .required("name")
            .and_then(|f| match names {
                NameRule::Label => f.label(),
                NameRule::Subdomain => f.subdomain(),
            })
            .unwrap_or_default(),
        namespace: namespace(&mut meta, scope),
        mesh: mesh_labels(labels.as_ref(), annotations.as_ref()),
        labels: labels.map(|f| f.labels()).unwrap_or_default(),
        annotations: annotations.map(|f| f.string_map()).unwrap_or_default(),
        creation_timestamp: timestamp(&mut meta, "creationTimestamp"),
        deletion_timestamp: timestamp(&mut meta, "deletionTimestamp"),
        generation: meta.opt("generation").and_then(|f| f.int(0, i64::MAX)),
        resource_version: meta.text("resourceVersion"),
        uid: meta.text("uid"),
        owner_references: meta
            .list("ownerReferences")
            .iter()
            .filter_map(owner_reference)
            .collect(),
    };
    // managedFields, finalizers, generateName and the like are nobody's business here.
    meta.skip_all();
    read
}

fn namespace(meta: &mut Object<'_>, scope: Scope) -> String {
    let given = meta.opt("namespace");
    match scope {
        Scope::Namespaced => given
            .map_or(Some(DEFAULT_NAMESPACE.to_owned()), |f| f.label())
            .unwrap_or_default(),
        Scope::Cluster => {
            if let Some(field) = given {
                field.invalid(
                    "objects of this kind have no namespace",
                    "leave it out".to_owned(),
                );
            }
            String::new()
        }
    }
}

fn timestamp(meta: &mut Object<'_>, name: &'static str) -> Option<Timestamp> {
    let field = meta.opt(name)?;
    let text = field.text()?;
    let time = Timestamp::parse(text);
    if time.is_none() {
        field.invalid(
            format!("{} is not a time", quoted(text)),
            "RFC 3339, like 2026-01-31T12:00:00Z".to_owned(),
        );
    }
    time
}

fn owner_reference(field: &Field<'_>) -> Option<OwnerReference> {
    let mut object = field.object()?;
    object.skip("blockOwnerDeletion");
    Some(OwnerReference {
        api_version: object.required_name("apiVersion"),
        kind: object.required_name("kind"),
        name: object.required_name("name"),
        uid: object.text("uid"),
        controller: object.flag("controller"),
    })
}

/// The labels and annotations that steer the mesh, with the place of each.
struct Marks<'a> {
    labels: Vec<(&'a str, Field<'a>)>,
    annotations: Vec<(&'a str, Field<'a>)>,
}

impl<'a> Marks<'a> {
    fn label(&self, name: &str) -> Option<&Field<'a>> {
        self.labels.iter().find(|(n, _)| *n == name).map(|(_, f)| f)
    }

    fn annotation(&self, name: &str) -> Option<&Field<'a>> {
        self.annotations
            .iter()
            .find(|(n, _)| *n == name)
            .map(|(_, f)| f)
    }
}

fn mesh_labels(labels: Option<&Field<'_>>, annotations: Option<&Field<'_>>) -> MeshLabels {
    let mapping = |f: Option<&Field<'_>>| {
        f.is_some_and(|f| matches!(f.node().value, crate::tree::Value::Map(_)))
    };
    let marks = Marks {
        labels: labels
            .filter(|f| mapping(Some(f)))
            .map(|f| f.entries())
            .unwrap_or_default(),
        annotations: annotations
            .filter(|f| mapping(Some(f)))
            .map(|f| f.entries())
            .unwrap_or_default(),
    };
    for (name, field) in marks.labels.iter().chain(&marks.annotations) {
        if let Some(refused) = REFUSED_LABELS.iter().find(|r| r.name == *name) {
            field.unsupported(refused.reason);
        }
    }
    refuse_misplaced(&marks);
    MeshLabels {
        use_waypoint: use_waypoint(&marks),
        waypoint_for: marks
            .label(names::WAYPOINT_FOR)
            .and_then(|f| f.one_of(TrafficType::ALLOWED)),
        enforcement: marks
            .label(names::WAYPOINT_ENFORCEMENT)
            .and_then(|f| f.one_of(Enforcement::ALLOWED)),
        dataplane_mode: marks
            .label(names::DATAPLANE_MODE)
            .and_then(|f| f.one_of(DataplaneMode::ALLOWED)),
        redirection: marks
            .annotation(names::REDIRECTION)
            .and_then(|f| f.one_of(Redirection::ALLOWED)),
        native_tunnel: [marks.annotation(names::TUNNEL), marks.label(names::TUNNEL)]
            .into_iter()
            .flatten()
            .any(|f| {
                f.one_of(&[("http", true), ("none", false)])
                    .unwrap_or_default()
            }),
        traffic_distribution: marks
            .annotation(names::TRAFFIC_DISTRIBUTION)
            .and_then(|f| f.one_of(TrafficDistribution::ALLOWED)),
    }
}

/// Notes mesh labels that are written as annotations, and the other way round: they would have no effect.
fn refuse_misplaced(marks: &Marks<'_>) {
    for (name, field) in &marks.annotations {
        if LABELS.contains(name) {
            field.invalid(
                "is a label, not an annotation",
                "move it to metadata.labels".to_owned(),
            );
        }
    }
    for (name, field) in &marks.labels {
        if ANNOTATIONS.contains(name) {
            field.invalid(
                "is an annotation, not a label",
                "move it to metadata.annotations".to_owned(),
            );
        }
    }
}

fn use_waypoint(marks: &Marks<'_>) -> Option<UseWaypoint> {
    let namespace = marks.label(names::USE_WAYPOINT_NAMESPACE);
    let Some(field) = marks.label(names::USE_WAYPOINT) else {
        if let Some(namespace) = namespace {
            namespace.invalid(
                format!("has no effect without {}", names::USE_WAYPOINT),
                None,
            );
        }
        return None;
    };
    let name = field.text()?;
    if name == "none" {
        return Some(UseWaypoint::None);
    }
    if !is_subdomain(name) {
        field.invalid(
            format!("{} cannot be a Gateway's name", quoted(name)),
            "allowed: none, or the name of a Gateway".to_owned(),
        );
    }
    let namespace = namespace.and_then(|f| {
        let text = f.text()?;
        if !is_label(text) {
            f.invalid(format!("{} cannot be a namespace", quoted(text)), None);
        }
        Some(text.to_owned())
    });
    Some(UseWaypoint::Named {
        namespace,
        name: name.to_owned(),
    })
}

/// An annotation, with its place, for kinds that read some of their own.
pub(super) fn annotation<'a>(object: &mut Object<'a>, name: &str) -> Option<Field<'a>> {
    let annotations = object.opt("metadata")?.object_silently("annotations")?;
    annotations
        .entries()
        .into_iter()
        .find(|(n, _)| *n == name)
        .map(|(_, f)| f)
}

/// All annotations whose names begin with `prefix`: the rest of the name, and the value.
pub(super) fn annotations_with_prefix(object: &mut Object<'_>, prefix: &str) -> Map {
    let annotations = object
        .opt("metadata")
        .and_then(|f| f.object_silently("annotations"));
    let pairs = annotations.map(|f| f.entries()).unwrap_or_default();
    let pair = |(name, f): (&str, Field<'_>)| {
        Some((name.strip_prefix(prefix)?.to_owned(), f.text()?.to_owned()))
    };
    pairs.into_iter().filter_map(pair).collect()
}

const DEFAULT_NAMESPACE: &str = "default";
const LABELS: &[&str] = &[
    names::USE_WAYPOINT,
    names::USE_WAYPOINT_NAMESPACE,
    names::WAYPOINT_FOR,
    names::WAYPOINT_ENFORCEMENT,
    names::DATAPLANE_MODE,
];
const ANNOTATIONS: &[&str] = &[
    names::REDIRECTION,
    names::FOR_SERVICE_ACCOUNT,
    names::GATEWAY_SERVICE_ACCOUNT,
    names::GATEWAY_NAME_OVERRIDE,
    names::TRAFFIC_DISTRIBUTION,
    names::COMMAND,
    names::APP_ADDRESS,
    names::REPLICAS,
];
