//! The server's rules, one at a time.

use std::sync::Arc;

use waymark_proto::envoy::google::rpc;
use waymark_proto::type_url::{ADDRESS, AUTHORIZATION, CLUSTER, ENDPOINT, LISTENER, ROUTE};

use super::*;
use crate::discovery::DeltaDiscoveryRequest;
use crate::{Encoded, ResourceMap, ResourceSet};

fn encoded(name: &str, content: &str) -> Arc<Encoded> {
    Arc::new(Encoded::new(name, "t", content.as_bytes().to_vec()))
}

fn map(resources: &[(&str, &str)]) -> ResourceMap {
    resources
        .iter()
        .map(|(name, content)| encoded(name, content))
        .collect()
}

fn set(types: &[(&str, &[(&str, &str)])]) -> ResourceSet {
    types
        .iter()
        .fold(ResourceSet::new("v"), |set, (type_url, resources)| {
            set.with(type_url, map(resources))
        })
}

fn stream(types: &[(&str, &[(&str, &str)])]) -> ServerStream {
    ServerStream::new(set(types), "n", Warming::KeepsEndpoints)
}

fn ask(type_url: &str, subscribe: &[&str], held: &[(&str, &str)]) -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest {
        type_url: type_url.to_owned(),
        resource_names_subscribe: subscribe.iter().map(|name| (*name).to_owned()).collect(),
        initial_resource_versions: held
            .iter()
            .map(|(name, content)| {
                (
                    (*name).to_owned(),
                    encoded(name, content).version().to_owned(),
                )
            })
            .collect(),
        ..DeltaDiscoveryRequest::default()
    }
}

fn unsubscribe(type_url: &str, names: &[&str]) -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest {
        type_url: type_url.to_owned(),
        resource_names_unsubscribe: names.iter().map(|name| (*name).to_owned()).collect(),
        ..DeltaDiscoveryRequest::default()
    }
}

fn ack(response: &Response) -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest {
        type_url: response.type_url.to_string(),
        response_nonce: response.nonce.clone(),
        ..DeltaDiscoveryRequest::default()
    }
}

fn nack(response: &Response, reason: &str) -> DeltaDiscoveryRequest {
    let error = rpc::Status {
        code: 13,
        message: reason.to_owned(),
        ..rpc::Status::default()
    };
    DeltaDiscoveryRequest {
        error_detail: Some(error),
        ..ack(response)
    }
}

/// Short form: type, resources, removed.
fn short(response: &Response) -> (&str, Vec<&str>, Vec<&str>) {
    (
        response.type_url.rsplit('.').next().unwrap_or_default(),
        response
            .resources
            .iter()
            .map(|resource| resource.name())
            .collect(),
        response.removed.iter().map(String::as_str).collect(),
    )
}

/// Asks, and expects and acknowledges one response.
#[track_caller]
fn exchange(stream: &mut ServerStream, request: DeltaDiscoveryRequest) -> Response {
    stream.handle(request).expect("a good request");
    let response = stream.poll().expect("a response");
    assert_eq!(stream.handle(ack(&response)), Ok(Handled::Ack));
    response
}

#[track_caller]
fn assert_silent(stream: &mut ServerStream) {
    assert_eq!(stream.poll(), None);
}

#[test]
fn the_first_request_of_a_type_is_answered_even_with_nothing() {
    let mut stream = stream(&[]);
    for type_url in [AUTHORIZATION, CLUSTER, "type.googleapis.com/what.is.This"] {
        let response = exchange(&mut stream, ask(type_url, &[], &[]));
        assert_eq!((response.resources.len(), response.removed.len()), (0, 0));
        assert_silent(&mut stream);
    }
}

#[test]
fn an_empty_subscription_is_everything_or_by_name_nothing() {
    let mut stream = stream(&[
        (CLUSTER, &[("a", "1"), ("b", "1")]),
        (ENDPOINT, &[("a", "1"), ("b", "1")]),
    ]);
    assert_eq!(
        short(&exchange(&mut stream, ask(CLUSTER, &[], &[]))),
        ("Cluster", vec!["a", "b"], vec![])
    );
    assert_eq!(
        short(&exchange(&mut stream, ask(ENDPOINT, &[], &[]))),
        ("ClusterLoadAssignment", vec![], vec![])
    );
    assert_eq!(
        short(&exchange(&mut stream, ask(ENDPOINT, &["b", "c"], &[]))),
        ("ClusterLoadAssignment", vec!["b"], vec!["c"])
    );
    assert_silent(&mut stream);
}

#[test]
fn subscribing_to_everything_and_at_once_not_is_an_empty_subscription() {
    let mut stream = stream(&[(ADDRESS, &[("a", "1")])]);
    let mut request = ask(ADDRESS, &["*"], &[]);
    request.resource_names_unsubscribe = vec!["*".to_owned()];
    assert_eq!(
        short(&exchange(&mut stream, request)),
        ("Address", vec![], vec![])
    );
    assert_eq!(
        short(&exchange(&mut stream, ask(ADDRESS, &["a"], &[]))),
        ("Address", vec!["a"], vec![])
    );
}

#[test]
fn only_what_differs_is_sent() {
    let mut stream = stream(&[(CLUSTER, &[("a", "1"), ("b", "1"), ("c", "1")])]);
    exchange(&mut stream, ask(CLUSTER, &[], &[]));
    stream.offer(set(&[(CLUSTER, &[("a", "1"), ("b", "2"), ("d", "1")])]));
    let response = stream.poll().expect("a response");
    assert_eq!(short(&response), ("Cluster", vec!["b", "d"], vec!["c"]));
    stream.handle(ack(&response)).expect("ack");
    stream.offer(set(&[(CLUSTER, &[("a", "1"), ("b", "2"), ("d", "1")])]));
    assert_silent(&mut stream);
}

#[test]
fn what_a_client_says_that_it_has_is_not_sent_for_any_type() {
    let mut stream = stream(&[
        (CLUSTER, &[("a", "1"), ("b", "2")]),
        (ENDPOINT, &[("a", "1"), ("b", "1")]),
    ]);
    let held = [("a", "1"), ("b", "1"), ("c", "1")];
    assert_eq!(
        short(&exchange(&mut stream, ask(CLUSTER, &[], &held))),
        ("Cluster", vec!["b"], vec!["c"])
    );
    assert_eq!(
        short(&exchange(
            &mut stream,
            ask(ENDPOINT, &["a", "b", "c"], &held)
        )),
        ("ClusterLoadAssignment", vec![], vec!["c"])
    );
    assert_silent(&mut stream);
}

#[test]
fn changes_coalesce_while_a_response_is_in_flight() {
    let mut stream = stream(&[(CLUSTER, &[("a", "1")])]);
    stream.handle(ask(CLUSTER, &[], &[])).expect("request");
    let first = stream.poll().expect("a response");
    for content in ["2", "3", "4"] {
        stream.offer(set(&[(CLUSTER, &[("a", content), ("b", content)])]));
        assert_silent(&mut stream);
    }
    stream.handle(ack(&first)).expect("ack");
    let second = stream.poll().expect("a response");
    assert_eq!(second.resources, vec![encoded("a", "4"), encoded("b", "4")]);
}

#[test]
fn a_refused_resource_comes_again_only_when_it_changes() {
    let mut stream = stream(&[(LISTENER, &[("a", "1")])]);
    stream.handle(ask(LISTENER, &[], &[])).expect("request");
    let response = stream.poll().expect("a response");
    assert_eq!(
        stream.handle(nack(&response, "a: no")),
        Ok(Handled::Nack("a: no".to_owned()))
    );
    assert_silent(&mut stream);
    let status = stream.take_changed_status().remove(0).1;
    assert_eq!(
        (
            status.nacks,
            status.last_error.as_deref(),
            status.is_synced()
        ),
        (1, Some("a: no"), false)
    );

    stream.offer(set(&[(LISTENER, &[("a", "1"), ("b", "1")])]));
    let response = stream.poll().expect("a response");
    assert_eq!(short(&response), ("Listener", vec!["b"], vec![]));
    stream.handle(ack(&response)).expect("ack");
    stream.offer(set(&[(LISTENER, &[("a", "2"), ("b", "1")])]));
    let response = stream.poll().expect("a response");
    assert_eq!(short(&response), ("Listener", vec!["a"], vec![]));
    stream.handle(ack(&response)).expect("ack");
    let status = stream.take_changed_status().remove(0).1;
    assert_eq!(
        (status.nacks, status.last_error, status.resources_sent),
        (1, None, 3)
    );
}

#[test]
fn a_stale_nonce_acknowledges_nothing() {
    let mut stream = stream(&[(CLUSTER, &[("a", "1")])]);
    stream.handle(ask(CLUSTER, &[], &[])).expect("request");
    let response = stream.poll().expect("a response");
    let mut stale = ack(&response);
    stale.response_nonce = "other-1".to_owned();
    assert_eq!(stream.handle(stale), Ok(Handled::Stale));
    stream.offer(set(&[(CLUSTER, &[("a", "2")])]));
    assert_silent(&mut stream);
    assert_eq!(stream.handle(ack(&response)), Ok(Handled::Ack));
    assert_eq!(stream.handle(ack(&response)), Ok(Handled::Stale));
    assert!(stream.poll().is_some());
}

#[test]
fn types_are_sent_in_push_order() {
    let types = [AUTHORIZATION, ROUTE, LISTENER, ADDRESS, ENDPOINT, CLUSTER];
    let mut stream = stream(&[]);
    for type_url in types {
        exchange(&mut stream, ask(type_url, &["*"], &[]));
    }
    stream.offer(types.iter().fold(ResourceSet::new("v"), |set, type_url| {
        set.with(type_url, map(&[("a", "1")]))
    }));
    let order: Vec<String> = std::iter::from_fn(|| {
        let response = stream.poll()?;
        assert_eq!(stream.handle(ack(&response)), Ok(Handled::Ack));
        Some(response)
    })
    .map(|response| response.type_url.to_string())
    .collect();
    assert_eq!(
        order,
        [CLUSTER, ENDPOINT, LISTENER, ROUTE, ADDRESS, AUTHORIZATION]
    );
}

#[test]
fn clusters_go_after_the_routes_to_them() {
    let mut stream = stream(&[
        (CLUSTER, &[("v1", "1")]),
        (ENDPOINT, &[("v1", "1")]),
        (ROUTE, &[("r", "to v1")]),
    ]);
    exchange(&mut stream, ask(CLUSTER, &[], &[]));
    exchange(&mut stream, ask(ENDPOINT, &["v1"], &[]));
    exchange(&mut stream, ask(ROUTE, &["r"], &[]));
    stream.offer(set(&[
        (CLUSTER, &[("v2", "1")]),
        (ENDPOINT, &[("v2", "1")]),
        (ROUTE, &[("r", "to v2")]),
    ]));

    let clusters = stream.poll().expect("new clusters");
    assert_eq!(short(&clusters), ("Cluster", vec!["v2"], vec![]));
    assert_silent(&mut stream);
    stream.handle(ack(&clusters)).expect("ack");
    let routes = stream.poll().expect("routes");
    assert_eq!(short(&routes), ("RouteConfiguration", vec!["r"], vec![]));
    assert_silent(&mut stream);
    // The client keeps the old routes, so it keeps the old cluster.
    stream.handle(nack(&routes, "no")).expect("nack");
    assert_silent(&mut stream);
    stream.offer(set(&[
        (CLUSTER, &[("v2", "1")]),
        (ENDPOINT, &[("v2", "1")]),
        (ROUTE, &[("r", "to v2 again")]),
    ]));
    let routes = stream.poll().expect("routes");
    stream.handle(ack(&routes)).expect("ack");
    let clusters = stream.poll().expect("removal");
    assert_eq!(short(&clusters), ("Cluster", vec![], vec!["v1"]));
    assert_silent(&mut stream);
    stream
        .handle(unsubscribe(ENDPOINT, &["v1"]))
        .expect("unsubscribe");
    stream.handle(ack(&clusters)).expect("ack");
    assert_silent(&mut stream);
}

#[test]
fn routes_wait_until_the_client_has_what_they_lead_to() {
    let mut stream = stream(&[
        (CLUSTER, &[("v1", "1")]),
        (ENDPOINT, &[("v1", "1")]),
        (ROUTE, &[("r", "to v1")]),
    ]);
    exchange(&mut stream, ask(CLUSTER, &[], &[]));
    exchange(&mut stream, ask(ENDPOINT, &["v1"], &[]));
    exchange(&mut stream, ask(ROUTE, &["r"], &[]));
    let to = |version: &str, route: &str| {
        set(&[
            (CLUSTER, &[("v1", "1"), (version, "1")]),
            (ENDPOINT, &[("v1", "1"), (version, "1")]),
            (ROUTE, &[("r", route)]),
        ])
    };
    stream.offer(to("v2", "to v2"));
    let clusters = stream.poll().expect("clusters");
    // A newer state waits: however many of them come, this one is carried through.
    stream.offer(to("v3", "to v3"));
    stream.offer(to("v4", "to v4"));
    assert_silent(&mut stream);
    stream
        .handle(ask(ENDPOINT, &["v2"], &[]))
        .expect("subscription");
    let endpoints = stream.poll().expect("endpoints");
    stream.handle(ack(&clusters)).expect("ack");
    assert_silent(&mut stream);
    stream.handle(ack(&endpoints)).expect("ack");
    let routes = stream.poll().expect("routes");
    assert_eq!(routes.resources, vec![encoded("r", "to v2")]);
    // Its routes are on their way: the newest state is next, what was between is not sent.
    let clusters = stream.poll().expect("clusters");
    assert_eq!(short(&clusters), ("Cluster", vec!["v4"], vec![]));
    stream.handle(ack(&routes)).expect("ack");
    assert_silent(&mut stream);
    // A client that refuses the cluster is not waited for any longer.
    stream.handle(nack(&clusters, "no")).expect("nack");
    let routes = stream.poll().expect("routes");
    assert_eq!(routes.resources, vec![encoded("r", "to v4")]);
    stream.handle(ack(&routes)).expect("ack");
    let gone = stream.poll().expect("a removal");
    assert_eq!(short(&gone).2, ["v2"]);
}

#[test]
fn endpoints_alone_are_held_up_by_nothing() {
    let mut stream = stream(&[(ENDPOINT, &[("a", "1")]), (ROUTE, &[("r", "1")])]);
    exchange(&mut stream, ask(ENDPOINT, &["a"], &[]));
    exchange(&mut stream, ask(ROUTE, &["r"], &[]));
    for content in ["2", "3", "4"] {
        stream.offer(set(&[
            (ENDPOINT, &[("a", content)]),
            (ROUTE, &[("r", "1")]),
        ]));
        let response = stream.poll().expect("endpoints");
        assert_eq!(response.resources, vec![encoded("a", content)]);
        stream.handle(ack(&response)).expect("ack");
    }
}

#[test]
fn endpoints_of_changed_clusters_come_again_where_the_client_needs_them() {
    let clusters = |content| {
        set(&[
            (CLUSTER, &[("a", content), ("b", "1")]),
            (ENDPOINT, &[("a", "1"), ("b", "1")]),
        ])
    };
    for (warming, again) in [
        (Warming::NeedsEndpoints, true),
        (Warming::KeepsEndpoints, false),
    ] {
        let mut stream = ServerStream::new(clusters("1"), "n", warming);
        exchange(&mut stream, ask(CLUSTER, &[], &[]));
        exchange(&mut stream, ask(ENDPOINT, &["a", "b"], &[]));
        assert_silent(&mut stream);
        stream.offer(clusters("2"));
        let response = stream.poll().expect("clusters");
        assert_eq!(short(&response), ("Cluster", vec!["a"], vec![]));
        match again {
            true => assert_eq!(
                short(&stream.poll().expect("endpoints")),
                ("ClusterLoadAssignment", vec!["a"], vec![])
            ),
            false => assert_silent(&mut stream),
        }

        // After a reconnect too, though the client says that it has the endpoints.
        let mut stream = ServerStream::new(clusters("2"), "n", warming);
        exchange(&mut stream, ask(CLUSTER, &[], &[("a", "1"), ("b", "1")]));
        let response = exchange(
            &mut stream,
            ask(ENDPOINT, &["a", "b"], &[("a", "1"), ("b", "1")]),
        );
        assert_eq!(short(&response).1, if again { vec!["a"] } else { vec![] });
    }
}

#[test]
fn names_that_come_and_go_are_told() {
    let mut stream = stream(&[(ENDPOINT, &[("a", "1")])]);
    assert_eq!(
        short(&exchange(&mut stream, ask(ENDPOINT, &["a", "b"], &[]))).2,
        ["b"]
    );
    stream.offer(set(&[(ENDPOINT, &[("b", "1"), ("c", "1")])]));
    let response = stream.poll().expect("a response");
    assert_eq!(
        short(&response),
        ("ClusterLoadAssignment", vec!["b"], vec!["a"])
    );
    stream.handle(ack(&response)).expect("ack");
    stream
        .handle(unsubscribe(ENDPOINT, &["b"]))
        .expect("unsubscribe");
    stream.offer(set(&[(ENDPOINT, &[("c", "2")])]));
    assert_silent(&mut stream);
}

#[test]
fn a_name_that_is_asked_for_again_is_answered_again() {
    let mut stream = stream(&[(ENDPOINT, &[("a", "1")])]);
    exchange(&mut stream, ask(ENDPOINT, &["a", "x"], &[]));
    assert_eq!(
        short(&exchange(&mut stream, ask(ENDPOINT, &["a", "x"], &[]))),
        ("ClusterLoadAssignment", vec!["a"], vec!["x"])
    );
}

#[test]
fn a_name_that_is_dropped_under_a_wildcard_comes_again() {
    let mut stream = stream(&[(ADDRESS, &[("a", "1"), ("b", "1")])]);
    exchange(&mut stream, ask(ADDRESS, &["*", "a"], &[]));
    assert_eq!(
        short(&exchange(&mut stream, unsubscribe(ADDRESS, &["a"]))),
        ("Address", vec!["a"], vec![])
    );
    // Not subscribed to by name: nothing was dropped.
    stream
        .handle(unsubscribe(ADDRESS, &["b"]))
        .expect("unsubscribe");
    assert_silent(&mut stream);
}

#[test]
fn a_wildcard_that_ends_leaves_the_names() {
    let mut stream = stream(&[(ADDRESS, &[("a", "1"), ("b", "1")])]);
    exchange(&mut stream, ask(ADDRESS, &["*", "a"], &[]));
    stream
        .handle(unsubscribe(ADDRESS, &["*"]))
        .expect("unsubscribe");
    stream.offer(set(&[(ADDRESS, &[("a", "1"), ("b", "2")])]));
    assert_silent(&mut stream);
    stream.offer(set(&[(ADDRESS, &[("a", "2"), ("b", "2")])]));
    assert_eq!(
        short(&stream.poll().expect("a response")),
        ("Address", vec!["a"], vec![])
    );
}

#[test]
fn bad_requests_end_the_stream() {
    let mut stream = stream(&[]);
    assert_eq!(
        stream.handle(DeltaDiscoveryRequest::default()),
        Err(RequestError::NoType)
    );
    let result = (0..100)
        .map(|n| stream.handle(ask(&format!("t{n}"), &[], &[])))
        .find(Result::is_err);
    assert_eq!(result, Some(Err(RequestError::TooManyTypes)));
}
