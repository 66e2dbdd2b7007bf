//! The client's rules, and client and server together under any order of events.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use proptest::prelude::*;
use waymark_proto::envoy::envoy::config::core::v3::Node;
use waymark_proto::type_url::{ADDRESS, CLUSTER, ENDPOINT, ROUTE};

use super::*;
use crate::discovery::{DeltaDiscoveryRequest, DeltaDiscoveryResponse, Resource};
use crate::server::{Response, ServerStream, Warming};
use crate::{Encoded, ResourceMap, ResourceSet};

/// Keeps what it is given; refuses contents that are [`BAD`].
#[derive(Debug, Default)]
struct Store {
    have: BTreeMap<String, BTreeMap<String, Vec<u8>>>,
}

const BAD: u8 = 9;

impl Handler for Store {
    fn apply(&mut self, update: Update<'_>, _: &mut Subscriptions) -> Result<(), NackReason> {
        let have = self.have.entry(update.type_url.to_owned()).or_default();
        for name in &update.removed {
            have.remove(name);
        }
        let mut rejections = Vec::new();
        for resource in update.resources {
            let value = resource.resource.map(|any| any.value).unwrap_or_default();
            if value == [BAD] {
                rejections.push(Rejection {
                    name: resource.name,
                    reason: "bad".to_owned(),
                });
            } else {
                have.insert(resource.name, value);
            }
        }
        if rejections.is_empty() {
            Ok(())
        } else {
            Err(NackReason::Resources(rejections))
        }
    }
}

fn client(change: impl FnOnce(&mut Subscriptions)) -> AdsClient {
    let mut subscriptions = Subscriptions::new();
    change(&mut subscriptions);
    AdsClient::new(
        Node {
            id: "me".to_owned(),
            ..Node::default()
        },
        subscriptions,
    )
}

fn requests(client: &mut AdsClient) -> Vec<DeltaDiscoveryRequest> {
    std::iter::from_fn(|| client.poll_request()).collect()
}

fn response(type_url: &str, nonce: &str, resources: &[(&str, u8)]) -> DeltaDiscoveryResponse {
    DeltaDiscoveryResponse {
        type_url: type_url.to_owned(),
        nonce: nonce.to_owned(),
        resources: resources
            .iter()
            .map(|(name, content)| resource(&Encoded::new(*name, type_url, vec![*content])))
            .collect(),
        ..DeltaDiscoveryResponse::default()
    }
}

fn resource(encoded: &Encoded) -> Resource {
    Resource {
        name: encoded.name().to_owned(),
        version: encoded.version().to_owned(),
        resource: Some(encoded.to_any()),
        ..Resource::default()
    }
}

fn message(response: &Response) -> DeltaDiscoveryResponse {
    DeltaDiscoveryResponse {
        type_url: response.type_url.to_string(),
        nonce: response.nonce.clone(),
        resources: response
            .resources
            .iter()
            .map(|encoded| resource(encoded))
            .collect(),
        removed_resources: response.removed.clone(),
        ..DeltaDiscoveryResponse::default()
    }
}

#[test]
fn the_node_is_in_the_first_request_of_a_stream_only() {
    let mut client = client(|wanted| {
        wanted.all(CLUSTER);
        wanted.names(ENDPOINT, Vec::<String>::new());
        wanted.all(ADDRESS);
    });
    for _ in 0..2 {
        client.connected();
        let requests = requests(&mut client);
        assert_eq!(
            requests
                .iter()
                .map(|r| r.type_url.as_str())
                .collect::<Vec<_>>(),
            [CLUSTER, ADDRESS]
        );
        assert_eq!(
            requests
                .iter()
                .map(|r| r.node.is_some())
                .collect::<Vec<_>>(),
            [true, false]
        );
    }
}

#[test]
fn names_are_asked_for_and_dropped_as_they_change() {
    let mut client = client(|wanted| wanted.names(ENDPOINT, ["a", "b"]));
    client.connected();
    assert_eq!(
        requests(&mut client)[0].resource_names_subscribe,
        ["a", "b"]
    );
    client.subscribe(|wanted| wanted.names(ENDPOINT, ["b", "c"]));
    let request = requests(&mut client).remove(0);
    assert_eq!(
        (
            request.resource_names_subscribe,
            request.resource_names_unsubscribe
        ),
        (vec!["c".to_owned()], vec!["a".to_owned()])
    );
    client.subscribe(|wanted| wanted.names(ENDPOINT, ["b", "c"]));
    assert!(requests(&mut client).is_empty());
}

#[test]
fn a_refused_resource_is_told_and_not_claimed() {
    let mut client = client(|wanted| wanted.all(CLUSTER));
    let mut store = Store::default();
    client.connected();
    requests(&mut client);
    let result = client.handle(response(CLUSTER, "n1", &[("a", 1), ("b", BAD)]), &mut store);
    assert!(result.is_err());
    let nack = requests(&mut client).remove(0);
    assert_eq!(nack.response_nonce, "n1");
    assert_eq!(
        nack.error_detail.map(|error| error.message).as_deref(),
        Some("b: bad")
    );
    client
        .handle(response(CLUSTER, "n2", &[("c", 1)]), &mut store)
        .expect("good");
    assert_eq!(requests(&mut client).remove(0).error_detail, None);

    client.connected();
    let claimed = requests(&mut client).remove(0).initial_resource_versions;
    assert_eq!(
        claimed.keys().collect::<BTreeSet<_>>(),
        BTreeSet::from([&"a".to_owned(), &"c".to_owned()])
    );
}

#[test]
fn what_follows_from_a_response_is_asked_for_before_its_acknowledgement() {
    struct Follow;
    impl Handler for Follow {
        fn apply(
            &mut self,
            update: Update<'_>,
            wanted: &mut Subscriptions,
        ) -> Result<(), NackReason> {
            if update.type_url == CLUSTER {
                wanted.names(
                    ENDPOINT,
                    update.resources.into_iter().map(|resource| resource.name),
                );
            }
            Ok(())
        }
    }
    let mut client = client(|wanted| wanted.all(CLUSTER));
    client.connected();
    requests(&mut client);
    client
        .handle(response(CLUSTER, "n1", &[("a", 1)]), &mut Follow)
        .expect("good");
    assert!(!client.is_answered());
    let requests = requests(&mut client);
    assert_eq!(
        (
            requests[0].type_url.as_str(),
            requests[1].response_nonce.as_str()
        ),
        (ENDPOINT, "n1")
    );
    client
        .handle(response(ENDPOINT, "n2", &[("a", 1)]), &mut Follow)
        .expect("good");
    assert!(client.is_answered());
}

/// What can happen to a client and a server.
#[derive(Debug, Clone)]
enum Event {
    /// The server's resource `name` of a type becomes this content, or goes.
    Change(usize, u8, Option<u8>),
    /// The client's next request reaches the server.
    Request,
    /// The server's next response is put on the wire.
    Poll,
    /// The next response reaches the client.
    Response,
    /// The stream breaks, with all that is on the wire.
    Reconnect,
    /// The client wants these names of a type, or all of it.
    Want(usize, Option<Vec<u8>>),
}

const TYPES: [&str; 4] = [CLUSTER, ENDPOINT, ROUTE, ADDRESS];

fn event() -> impl Strategy<Value = Event> {
    let content = prop_oneof![4 => (0..3_u8).prop_map(Some), 1 => Just(Some(BAD)), 2 => Just(None)];
    prop_oneof![
        6 => (0..TYPES.len(), 0..6_u8, content).prop_map(|(t, n, c)| Event::Change(t, n, c)),
        6 => Just(Event::Request),
        6 => Just(Event::Poll),
        6 => Just(Event::Response),
        1 => Just(Event::Reconnect),
        2 => (0..TYPES.len(), prop_oneof![
            3 => prop::collection::vec(0..6_u8, 0..5).prop_map(Some),
            1 => Just(None),
        ]).prop_map(|(t, names)| Event::Want(t, names)),
    ]
}

struct World {
    warming: Warming,
    set: ResourceSet,
    server: ServerStream,
    client: AdsClient,
    store: Store,
    to_client: VecDeque<Response>,
    /// Version of each resource that was sent on this stream and that the client has not asked for again.
    sent: BTreeMap<(String, String), String>,
    /// Streams that were opened after the first.
    streams: u32,
}

impl World {
    fn new(warming: Warming) -> Self {
        let set = ResourceSet::new("0");
        let mut client = client(|wanted| {
            wanted.all(CLUSTER);
            wanted.names(ENDPOINT, ["r1", "r2"]);
            wanted.names(ROUTE, ["r1"]);
            wanted.all(ADDRESS);
        });
        client.connected();
        Self {
            warming,
            server: ServerStream::new(set.clone(), "0", warming),
            set,
            client,
            store: Store::default(),
            to_client: VecDeque::new(),
            sent: BTreeMap::new(),
            streams: 0,
        }
    }

    fn step(&mut self, event: Event) {
        match event {
            Event::Change(t, name, content) => {
                let mut map = self.set.get(TYPES[t]).cloned().unwrap_or_default();
                match content {
                    Some(content) => {
                        map.insert(Encoded::new(format!("r{name}"), TYPES[t], vec![content]))
                    }
                    None => drop(map.remove(&format!("r{name}"))),
                }
                self.set.set(TYPES[t], map);
                self.server.offer(self.set.clone());
            }
            Event::Request => {
                if let Some(request) = self.client.poll_request() {
                    self.request(request);
                }
            }
            Event::Poll => {
                if let Some(response) = self.server.poll() {
                    self.check(&response);
                    self.to_client.push_back(response);
                }
            }
            Event::Response => {
                if let Some(response) = self.to_client.pop_front() {
                    let _ = self.client.handle(message(&response), &mut self.store);
                }
            }
            Event::Reconnect => {
                self.streams += 1;
                self.server =
                    ServerStream::new(self.set.clone(), self.streams.to_string(), self.warming);
                self.to_client.clear();
                self.sent.clear();
                self.client.connected();
            }
            Event::Want(t, names) => {
                let names = names.map(|names| {
                    names
                        .iter()
                        .map(|name| format!("r{name}"))
                        .collect::<BTreeSet<_>>()
                });
                if let (Some(names), Some(have)) = (&names, self.store.have.get_mut(TYPES[t])) {
                    have.retain(|name, _| names.contains(name));
                }
                self.client.subscribe(|wanted| match names {
                    Some(names) => wanted.names(TYPES[t], names),
                    None => wanted.all(TYPES[t]),
                });
            }
        }
    }

    fn request(&mut self, request: DeltaDiscoveryRequest) {
        for name in request
            .resource_names_subscribe
            .iter()
            .chain(&request.resource_names_unsubscribe)
        {
            self.sent.retain(|(type_url, sent), _| {
                *type_url != request.type_url || (name != "*" && sent != name)
            });
        }
        self.server.handle(request).expect("a good request");
    }

    /// Nothing is sent twice, and no route before the clusters and endpoints that were sent are taken.
    fn check(&mut self, response: &Response) {
        let type_url = response.type_url.to_string();
        let on_the_way = |type_url: &str| self.to_client.iter().any(|r| *r.type_url == *type_url);
        assert!(type_url != ROUTE || !(on_the_way(CLUSTER) || on_the_way(ENDPOINT)));
        for resource in &response.resources {
            let key = (type_url.clone(), resource.name().to_owned());
            if type_url == CLUSTER && self.warming == Warming::NeedsEndpoints {
                self.sent
                    .remove(&(ENDPOINT.to_owned(), resource.name().to_owned()));
            }
            let before = self.sent.insert(key, resource.version().to_owned());
            assert_ne!(
                before.as_deref(),
                Some(resource.version()),
                "{} was sent twice",
                resource.name()
            );
        }
        for name in &response.removed {
            self.sent.remove(&(type_url.clone(), name.clone()));
        }
    }

    /// The bad resources become good, and everything is delivered.
    fn settle(&mut self) {
        for (t, type_url) in TYPES.iter().enumerate() {
            let resources = self.set.get(type_url).cloned().unwrap_or_default();
            for resource in resources
                .iter()
                .filter(|resource| **resource.value() == [BAD])
            {
                let number = resource
                    .name()
                    .trim_start_matches('r')
                    .parse()
                    .expect("a number");
                self.step(Event::Change(t, number, Some(1)));
            }
        }
        loop {
            let mut moved = false;
            while let Some(request) = self.client.poll_request() {
                self.request(request);
                moved = true;
            }
            while let Some(response) = self.server.poll() {
                self.check(&response);
                self.to_client.push_back(response);
                moved = true;
            }
            while !self.to_client.is_empty() {
                self.step(Event::Response);
                moved = true;
            }
            if !moved {
                return;
            }
        }
    }

    fn assert_agreed(&self) {
        for type_url in TYPES {
            let names = self.client.subscriptions().wanted_names(type_url);
            let want: BTreeMap<String, Vec<u8>> = self
                .set
                .get(type_url)
                .into_iter()
                .flat_map(ResourceMap::iter)
                .filter(|resource| names.is_none_or(|names| names.contains(resource.name())))
                .map(|resource| (resource.name().to_owned(), resource.value().to_vec()))
                .collect();
            let have = self.store.have.get(type_url).cloned().unwrap_or_default();
            assert_eq!(have, want, "{type_url}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, max_shrink_iters: 20_000, ..ProptestConfig::default() })]

    #[test]
    fn any_order_of_events_ends_in_agreement(
        events in prop::collection::vec(event(), 0..120),
        envoy in any::<bool>(),
    ) {
        let mut world = World::new(if envoy { Warming::NeedsEndpoints } else { Warming::KeepsEndpoints });
        for event in events {
            world.step(event);
        }
        world.settle();
        world.assert_agreed();
        // And a client that comes back is sent nothing that it has.
        world.step(Event::Reconnect);
        while let Some(request) = world.client.poll_request() {
            world.request(request);
        }
        while let Some(response) = world.server.poll() {
            let have = world.store.have.get(&*response.type_url).cloned().unwrap_or_default();
            prop_assert_eq!(response.resources, vec![]);
            prop_assert!(response.removed.iter().all(|name| !have.contains_key(name)));
        }
    }
}
