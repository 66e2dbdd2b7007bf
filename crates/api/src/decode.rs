//! From a tree to types. Every problem is noted with its place, and decoding goes on with something in its stead: what is
//! decoded is handed out only when nothing was noted.

mod authorization_policy;
mod destination_rule;
mod gateway;
mod http_route;
mod k8s;
mod meta;
mod object;
mod policy;
mod service_entry;
mod values;
mod virtual_service;

use std::cell::RefCell;

use crate::error::ErrorClass;
use crate::meta::Kind;
use crate::resource::Resource;
use crate::tree::{Node, Position};

pub(crate) use destination_rule::{LOAD_BALANCERS, TLS_MODES};
pub(crate) use object::Field;

/// Something wrong at one place of an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Problem {
    pub(crate) at: Position,
    pub(crate) field: Option<String>,
    pub(crate) class: ErrorClass,
    pub(crate) message: String,
    pub(crate) allowed: Option<String>,
}

/// Where problems are noted.
#[derive(Debug)]
pub(crate) struct Notes {
    kind: &'static str,
    unknown_fields: UnknownFields,
    problems: RefCell<Vec<Problem>>,
}

/// What is done about fields that are not known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum UnknownFields {
    /// They are errors: Istio's kinds and those of the Gateway API.
    Refuse,
    /// They are left out: kinds of the Kubernetes core, which have hundreds.
    Ignore,
}

/// Decodes an object of a known kind, written in `version` of its group.
pub(crate) fn decode(kind: Kind, version: &str, node: &Node) -> Result<Resource, Vec<Problem>> {
    let unknown_fields = match kind {
        Kind::Namespace
        | Kind::Node
        | Kind::ServiceAccount
        | Kind::Service
        | Kind::Pod
        | Kind::EndpointSlice => UnknownFields::Ignore,
        Kind::GatewayClass
        | Kind::Gateway
        | Kind::HttpRoute
        | Kind::WorkloadEntry
        | Kind::ServiceEntry
        | Kind::VirtualService
        | Kind::DestinationRule => UnknownFields::Refuse,
    };
    with_notes(kind.as_str(), unknown_fields, node, |root| {
        Some(match kind {
            Kind::Namespace => k8s::namespace(root)?.into(),
            Kind::Node => k8s::node(root)?.into(),
            Kind::ServiceAccount => k8s::service_account(root)?.into(),
            Kind::Service => k8s::service(root)?.into(),
            Kind::Pod => k8s::pod(root)?.into(),
            Kind::EndpointSlice => k8s::endpoint_slice(root)?.into(),
            Kind::GatewayClass => gateway::gateway_class(root)?.into(),
            Kind::Gateway => gateway::gateway(root, version)?.into(),
            Kind::HttpRoute => http_route::http_route(root)?.into(),
            Kind::WorkloadEntry => service_entry::workload_entry(root)?.into(),
            Kind::ServiceEntry => service_entry::service_entry(root)?.into(),
            Kind::VirtualService => virtual_service::virtual_service(root)?.into(),
            Kind::DestinationRule => destination_rule::destination_rule(root)?.into(),
        })
    })
}

/// Decodes an AuthorizationPolicy, so that its errors are told although it is refused in the end.
pub(crate) fn authorization_policy(
    node: &Node,
) -> Result<crate::istio::AuthorizationPolicy, Vec<Problem>> {
    with_notes(
        "AuthorizationPolicy",
        UnknownFields::Refuse,
        node,
        authorization_policy::authorization_policy,
    )
}

fn with_notes<T>(
    kind: &'static str,
    unknown_fields: UnknownFields,
    node: &Node,
    decode: impl FnOnce(&Field<'_>) -> Option<T>,
) -> Result<T, Vec<Problem>> {
    let notes = Notes {
        kind,
        unknown_fields,
        problems: RefCell::default(),
    };
    let decoded = decode(&Field::root(node, &notes));
    let mut problems = notes.problems.into_inner();
    problems.sort_by_key(|p| (p.at.line, p.at.column));
    match decoded {
        Some(decoded) if problems.is_empty() => Ok(decoded),
        _ => Err(problems),
    }
}

impl Notes {
    fn add(&self, problem: Problem) {
        let mut problems = self.problems.borrow_mut();
        if problems.len() < MAX_PROBLEMS {
            problems.push(problem);
        }
    }
}

/// More than anybody reads.
const MAX_PROBLEMS: usize = 20;
