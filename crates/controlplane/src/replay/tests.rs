#![expect(clippy::unwrap_used, reason = "tests")]

use std::sync::Mutex;

use serde_json::{Value, json};
use waymark_proto::type_url;
use waymark_xds::discovery::DeltaDiscoveryRequest;

use super::stream::Session;
use super::*;

fn capture() -> Value {
    json!({"nodes": {
        "waypoint~10.0.0.1~w-x.shop~shop.svc.cluster.local": {
            "node": {"metadata": {"NAMESPACE": "shop", "SERVICE_ACCOUNT": "w"}},
            "Cluster": {
                "b": {"@type": type_url::CLUSTER, "name": "b", "connect_timeout": "10s"},
                "a": {"name": "a", "field_of_the_future": {"x": 1}},
            },
            "ClusterLoadAssignment": {"b": {"cluster_name": "b"}},
            "Listener": {},
            "Secret": {},
            "order": ["cds", "lds", "eds"],
        },
        "waypoint~10.0.0.2~w-x.other~other.svc.cluster.local": {},
        "ztunnel~10.0.0.3~z.istio-system~istio-system.svc.cluster.local": {"Address": {}},
    }})
}

fn read(node: Option<&str>) -> Result<(Capture, Vec<String>), CaptureError> {
    Capture::of(Path::new("c.json"), &capture(), node)
}

#[test]
fn a_client_gets_what_its_node_was_sent() {
    let (capture, skipped) = read(None).unwrap();
    assert_eq!(
        skipped,
        [
            "waypoint~10.0.0.1~w-x.shop~shop.svc.cluster.local: Cluster a: field_of_the_future: no such field in envoy.config.cluster.v3.Cluster",
            "waypoint~10.0.0.1~w-x.shop~shop.svc.cluster.local: Secret: no type of resources",
        ]
    );
    for (client, node) in [
        (
            "waypoint~10.0.0.2~w-x.other~other.svc.cluster.local",
            Ok("waypoint~10.0.0.2~w-x.other~other.svc.cluster.local"),
        ),
        (
            "waypoint~127.0.0.9~mine.shop~shop.svc.cluster.local",
            Ok("waypoint~10.0.0.1~w-x.shop~shop.svc.cluster.local"),
        ),
        (
            "ztunnel~1.1.1.1~z.x~x.svc.cluster.local",
            Ok("ztunnel~10.0.0.3~z.istio-system~istio-system.svc.cluster.local"),
        ),
        (
            "waypoint~1.1.1.1~w.third~third.svc.cluster.local",
            Err("is not in the capture, which has waypoint~10.0.0.1"),
        ),
        ("nobody", Err("has 1 parts")),
    ] {
        match (capture.of_client(client), node) {
            (Ok((got, _)), Ok(want)) => assert_eq!(got, want),
            (Err(got), Err(want)) => assert!(got.contains(want), "{got}"),
            (got, want) => panic!("{client}: {got:?}, want {want:?}"),
        }
    }
    let accounts: Vec<_> = capture.accounts().map(|(_, ns, sa)| (ns, sa)).collect();
    assert_eq!(accounts, [("shop", "w")]);

    let forced = "waypoint~10.0.0.2~w-x.other~other.svc.cluster.local";
    let (capture, _) = read(Some(forced)).unwrap();
    let client = "waypoint~127.0.0.9~mine.shop~shop.svc.cluster.local";
    assert_eq!(capture.of_client(client).unwrap().0, forced);
    let error = read(Some("x")).unwrap_err().to_string();
    assert!(
        error.starts_with("c.json has no node x, only waypoint~10.0.0.1"),
        "{error}"
    );
}

#[test]
fn what_is_no_capture_is_said() {
    for (value, want) in [
        (json!({}), "c.json: no object \"nodes\""),
        (
            json!({"nodes": {"n": 1}}),
            "c.json: node n is not an object",
        ),
        (
            json!({"nodes": {"n": {"Cluster": {"a": {"name": 5}}}}}),
            "c.json: n: Cluster a",
        ),
    ] {
        let error = Capture::of(Path::new("c.json"), &value, None).unwrap_err();
        assert_eq!(error.to_string(), want);
    }
}

fn session() -> (Session, Arc<Mutex<Vec<ReplayEvent>>>) {
    let events = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&events);
    let (capture, _) = read(None).unwrap();
    let (_, resources) = capture
        .of_client("waypoint~10.0.0.1~w-x.shop~shop.svc.cluster.local")
        .unwrap();
    let watcher: Watcher = Arc::new(move |event| seen.lock().unwrap().push(event));
    (Session::new(resources, watcher), events)
}

fn request(kind: &str, subscribe: &[&str], nonce: &str) -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest {
        type_url: kind.to_owned(),
        resource_names_subscribe: subscribe.iter().map(|s| (*s).to_owned()).collect(),
        response_nonce: nonce.to_owned(),
        ..DeltaDiscoveryRequest::default()
    }
}

/// What is due: type, names; and the nonces.
fn due(session: &mut Session) -> (Vec<(String, Vec<String>)>, Vec<String>) {
    let responses: Vec<_> = session.due.drain(..).collect();
    assert!(
        responses
            .iter()
            .flat_map(|r| &r.resources)
            .all(|r| r.version.is_empty())
    );
    let told = |r: &waymark_xds::discovery::DeltaDiscoveryResponse| {
        let kind = r.type_url.rsplit('.').next().unwrap().to_owned();
        (kind, r.resources.iter().map(|r| r.name.clone()).collect())
    };
    (
        responses.iter().map(told).collect(),
        responses.iter().map(|r| r.nonce.clone()).collect(),
    )
}

fn told(kind: &str, names: &[&str]) -> (String, Vec<String>) {
    (
        kind.to_owned(),
        names.iter().map(|s| (*s).to_owned()).collect(),
    )
}

#[test]
fn it_answers_as_istiod_does() {
    let (mut session, events) = session();
    session.handle(request(type_url::CLUSTER, &[], ""));
    session.handle(request(type_url::LISTENER, &[], ""));
    session.handle(request(type_url::ENDPOINT, &["b", "nowhere"], ""));
    let (answers, nonces) = due(&mut session);
    assert_eq!(
        answers,
        [
            told("Cluster", &["b", "a"]),
            told("Listener", &[]),
            told("ClusterLoadAssignment", &["b", "nowhere"]),
        ]
    );
    // Accepted, refused, and names that are known already: no answer.
    session.handle(request(type_url::CLUSTER, &[], &nonces[0]));
    let mut refusal = request(type_url::LISTENER, &[], &nonces[1]);
    refusal.error_detail = Some(waymark_proto::envoy::google::rpc::Status {
        message: "no".to_owned(),
        ..Default::default()
    });
    session.handle(refusal);
    session.handle(request(type_url::ENDPOINT, &["b"], ""));
    assert_eq!(due(&mut session).0, []);
    let accepted = ReplayEvent::Accepted {
        kind: "Cluster".to_owned(),
        resources: 2,
    };
    let refused = ReplayEvent::Refused {
        kind: "Listener".to_owned(),
        why: "no".to_owned(),
    };
    assert_eq!(*events.lock().unwrap(), [accepted, refused]);
    // Endpoints follow clusters.
    session.handle(request(type_url::CLUSTER, &["*"], ""));
    let (answers, _) = due(&mut session);
    let both = [
        told("Cluster", &["b", "a"]),
        told("ClusterLoadAssignment", &["b", "nowhere"]),
    ];
    assert_eq!(answers, both);
    session.push();
    let (answers, _) = due(&mut session);
    assert_eq!(
        (&answers[..2], &answers[2]),
        (&both[..], &told("Listener", &[]))
    );
}
