#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use serde_json::json;
use waymark_proto::type_url;
use waymark_rt::ManualClock;
use waymark_xds::{Handler, Subscriptions, Update};

use super::*;
use crate::fixture::{REVIEWS_V2, bookinfo, resource};
use crate::program::Snapshot;
use crate::telemetry::ServerStats;

fn admin() -> Admin {
    let started = SystemTime::UNIX_EPOCH + Duration::from_millis(1_790_000_000_123);
    let clock: Arc<dyn Clock> = Arc::new(ManualClock::new(started + Duration::from_secs(61)));
    let (cell, stats) = (Snapshot::cell(), Arc::new(ServerStats::default()));
    let mut config = Config::new(Arc::clone(&cell), Arc::clone(&stats), Arc::clone(&clock));
    let mesh = bookinfo();
    let mut subscriptions = Subscriptions::new();
    let mut bad = mesh.listeners[2].clone();
    bad["transparent"] = json!(true);
    for (type_url, list) in [
        (type_url::CLUSTER, mesh.clusters),
        (type_url::ENDPOINT, mesh.endpoints),
        (type_url::LISTENER, mesh.listeners),
        (type_url::ROUTE, mesh.routes),
        (type_url::LISTENER, vec![bad]),
    ] {
        let resources = list.iter().map(|r| resource(r, "v1")).collect();
        let update = Update {
            type_url,
            system_version: "s1",
            resources,
            removed: Vec::new(),
        };
        let _ = config.apply(update, &mut subscriptions);
    }
    let v2 = cell
        .load()
        .cluster_by_name(REVIEWS_V2)
        .map(Arc::clone)
        .unwrap();
    v2.stats.upstream_rq_total.add(3);
    v2.stats.upstream_rq_2xx.add(3);
    v2.endpoints
        .load()
        .iter()
        .next()
        .unwrap()
        .stats
        .rq_total
        .add(3);
    let lifecycle = Arc::new(Lifecycle::new(Arc::clone(&stats)));
    Admin {
        config,
        snapshot: cell,
        telemetry: Arc::new(Telemetry::new(stats, started)),
        lifecycle,
        identity: None,
        log: None,
        node: NodeOptions {
            name: "reviews-0".into(),
            namespace: "default".into(),
            service_account: "reviews".into(),
            service_cluster: None,
            addresses: vec!["127.244.0.99".parse().unwrap()],
            gateway: "reviews".into(),
            cluster_id: "Kubernetes".into(),
            network: None,
            mesh_id: "cluster.local".into(),
            domain: "cluster.local".into(),
            locality: Default::default(),
            labels: BTreeMap::new(),
            istio_version: None,
            metadata: BTreeMap::new(),
        },
        places: Places {
            admin: "127.244.0.99:15000".parse().unwrap(),
            metrics: "127.244.0.99:15020".parse().unwrap(),
            readiness: "127.244.0.99:15021".parse().unwrap(),
            tunnels: vec!["127.244.0.99:15008".parse().unwrap()],
            control_plane: "127.0.0.1:15012".into(),
            ca: "localhost:15012".into(),
            workers: 2,
        },
        clock,
    }
}

fn get(admin: &Admin, target: &str) -> (u16, String) {
    let answer = admin.answer(&Method::GET, target);
    (
        answer.status.as_u16(),
        String::from_utf8(answer.body.to_vec()).unwrap(),
    )
}

fn text(admin: &Admin, target: &str) -> String {
    let (status, body) = get(admin, target);
    assert_eq!(status, 200, "{target}: {body}");
    // The program's own version changes with each release, and its kind with the profile.
    let kind = if cfg!(debug_assertions) {
        "DEBUG"
    } else {
        "RELEASE"
    };
    body.replace(env!("CARGO_PKG_VERSION"), "<version>")
        .replace(kind, "<type>")
}

#[test]
fn dumps_the_configuration() {
    let admin = admin();
    insta::assert_snapshot!(text(&admin, "/config_dump?include_eds"));
}

#[test]
fn masks_resources_and_names() {
    let admin = admin();
    let configs = |target: &str| -> Vec<Value> {
        let dump: Value = serde_json::from_str(&text(&admin, target)).unwrap();
        dump["configs"].as_array().unwrap().clone()
    };
    let kinds = |configs: &[Value]| -> Vec<String> {
        let kind = |c: &Value| {
            c["@type"]
                .as_str()
                .unwrap()
                .rsplit("v3.")
                .next()
                .unwrap()
                .to_owned()
        };
        configs.iter().map(kind).collect()
    };
    for (mask, section) in [
        (
            "dynamic_active_clusters,dynamic_warming_clusters,static_clusters",
            "ClustersConfigDump",
        ),
        ("dynamic_listeners,static_listeners", "ListenersConfigDump"),
        (
            "dynamic_route_configs,static_route_configs",
            "RoutesConfigDump",
        ),
        (
            "dynamic_active_secrets,dynamic_warming_secrets",
            "SecretsConfigDump",
        ),
        ("bootstrap", "BootstrapConfigDump"),
    ] {
        assert_eq!(
            kinds(&configs(&format!("/config_dump?mask={mask}"))),
            [section]
        );
    }
    let node = configs("/config_dump?mask=bootstrap.node.id");
    assert_eq!(
        node[0]["bootstrap"],
        json!({ "node": { "id": "waypoint~127.244.0.99~reviews-0.default~default.svc.cluster.local" } })
    );
    let listeners =
        configs("/config_dump?resource=dynamic_listeners&mask=name&name_regex=connect_.*");
    assert_eq!(
        listeners,
        [
            json!({ "@type": "type.googleapis.com/envoy.admin.v3.ListenersConfigDump.DynamicListener", "name": "connect_terminate" }),
            json!({ "@type": "type.googleapis.com/envoy.admin.v3.ListenersConfigDump.DynamicListener", "name": "connect_originate" })
        ]
    );
    assert_eq!(get(&admin, "/config_dump?mask=nothing").0, 400);
    assert_eq!(get(&admin, "/config_dump?resource=nothing").0, 404);
    assert_eq!(get(&admin, "/config_dump?resource=version_info").0, 400);
    assert_eq!(get(&admin, "/config_dump?name_regex=(").0, 400);
}

#[test]
fn lists_clusters() {
    let admin = admin();
    insta::assert_snapshot!("clusters_json", text(&admin, "/clusters?format=json"));
    insta::assert_snapshot!("clusters_text", text(&admin, "/clusters"));
}

#[test]
fn shows_figures() {
    let admin = admin();
    let probe = text(
        &admin,
        "/stats?usedonly&filter=^(cluster_manager\\.cds|listener_manager\\.lds)\\.(update_success|update_rejected)$",
    );
    assert_eq!(
        probe,
        "cluster_manager.cds.update_success: 1\nlistener_manager.lds.update_rejected: 1\nlistener_manager.lds.update_success: 1\n"
    );
    assert_eq!(
        text(&admin, "/stats?usedonly&filter=^server\\.state"),
        "server.state: 2\n"
    );
    admin.lifecycle.set(Phase::Live);
    let live = text(
        &admin,
        "/stats?usedonly&filter=^(server\\.state|listener_manager\\.workers_started)",
    );
    assert_eq!(
        live,
        "listener_manager.workers_started: 1\nserver.state: 0\n"
    );
    let used = text(&admin, "/stats/prometheus?usedonly&filter=^cluster\\..*v2");
    assert_eq!(
        used,
        "# TYPE envoy_cluster_membership_change counter\n\
         envoy_cluster_membership_change{cluster_name=\"inbound-vip|9080|http/v2|reviews.default.svc.cluster.local\"} 1\n\
         # TYPE envoy_cluster_membership_healthy gauge\n\
         envoy_cluster_membership_healthy{cluster_name=\"inbound-vip|9080|http/v2|reviews.default.svc.cluster.local\"} 1\n\
         # TYPE envoy_cluster_membership_total gauge\n\
         envoy_cluster_membership_total{cluster_name=\"inbound-vip|9080|http/v2|reviews.default.svc.cluster.local\"} 1\n\
         # TYPE envoy_cluster_update_success counter\n\
         envoy_cluster_update_success{cluster_name=\"inbound-vip|9080|http/v2|reviews.default.svc.cluster.local\"} 1\n\
         # TYPE envoy_cluster_upstream_rq_total counter\n\
         envoy_cluster_upstream_rq_total{cluster_name=\"inbound-vip|9080|http/v2|reviews.default.svc.cluster.local\"} 3\n\
         # TYPE envoy_cluster_upstream_rq_xx counter\n\
         envoy_cluster_upstream_rq_xx{response_code_class=\"2xx\",cluster_name=\"inbound-vip|9080|http/v2|reviews.default.svc.cluster.local\"} 3\n"
    );
    let json: Value =
        serde_json::from_str(&text(&admin, "/stats?format=json&filter=update_rejected$")).unwrap();
    assert_eq!(
        json,
        json!({ "stats": [
            { "name": "cluster_manager.cds.update_rejected", "value": 0 },
            { "name": "listener_manager.lds.update_rejected", "value": 1 },
        ] })
    );
    assert_eq!(get(&admin, "/stats?filter=(").0, 400);
    assert_eq!(get(&admin, "/stats?format=xml").0, 400);
    let _ = admin.answer(&Method::POST, "/reset_counters");
    assert_eq!(text(&admin, "/stats?usedonly&type=Counters"), "");
}

#[test]
fn tells_whether_it_is_ready() {
    let admin = admin();
    assert_eq!(get(&admin, "/ready"), (503, "PRE_INITIALIZING\n".into()));
    assert_eq!(
        admin
            .answer_readiness(&Method::GET, "/healthz/ready")
            .status,
        503
    );
    admin.lifecycle.set(Phase::Live);
    assert_eq!(get(&admin, "/ready"), (200, "LIVE\n".into()));
    assert_eq!(
        admin
            .answer_readiness(&Method::GET, "/healthz/ready")
            .status,
        200
    );
    assert_eq!(admin.answer(&Method::POST, "/healthcheck/fail").status, 200);
    assert_eq!(get(&admin, "/ready"), (503, "DRAINING\n".into()));
    let _ = admin.answer(&Method::POST, "/healthcheck/ok");
    admin.lifecycle.set(Phase::Draining);
    admin.lifecycle.set(Phase::Live);
    assert_eq!(get(&admin, "/ready"), (503, "DRAINING\n".into()));
}

#[test]
fn changes_need_a_post() {
    let admin = admin();
    let wishes = admin.lifecycle.wishes();
    assert_eq!(
        get(&admin, "/quitquitquit"),
        (405, "Method GET not allowed, POST required.".into())
    );
    assert_eq!(get(&admin, "/drain_listeners").0, 405);
    assert_eq!(*wishes.borrow(), Wish::Run);
    assert_eq!(
        admin
            .answer(&Method::POST, "/drain_listeners?graceful")
            .body,
        "OK\n"
    );
    assert_eq!(*wishes.borrow(), Wish::Drain);
    assert_eq!(admin.answer(&Method::POST, "/quitquitquit").body, "OK\n");
    assert_eq!(admin.answer(&Method::POST, "/drain_listeners").body, "OK\n");
    assert_eq!(*wishes.borrow(), Wish::Quit);
    assert_eq!(admin.answer(&Method::POST, "/logging").status, 501);
}

#[test]
fn only_the_machine_itself_drains_and_ends_a_waypoint() {
    let local = "::ffff:127.0.0.1".parse().unwrap();
    let remote = "10.244.1.7".parse().unwrap();
    for (path, wish) in [("/drain", Wish::Drain), ("/quitquitquit", Wish::Quit)] {
        let admin = admin();
        let wishes = admin.lifecycle.wishes();
        assert_eq!(
            admin.answer_metrics(remote, &Method::POST, path).status,
            403
        );
        assert_eq!(admin.answer_metrics(local, &Method::GET, path).status, 405);
        assert_eq!(*wishes.borrow(), Wish::Run);
        let answer = admin.answer_metrics(local, &Method::POST, path);
        assert_eq!(
            (answer.status.as_u16(), &answer.body[..]),
            (200, &b"OK"[..])
        );
        assert_eq!(*wishes.borrow(), wish);
        assert_eq!(
            admin
                .answer_metrics(remote, &Method::GET, "/stats/prometheus")
                .status,
            200
        );
        assert_eq!(
            admin.answer_prometheus("/stats/prometheus?usedonly").status,
            200
        );
        assert_eq!(admin.answer_prometheus("/metrics").status, 404);
    }
}

#[test]
fn says_what_it_is() {
    let admin = admin();
    insta::assert_snapshot!(text(&admin, "/server_info"));
    assert_eq!(
        text(&admin, "/listeners"),
        "127.244.0.99_15021::127.244.0.99:15021\n127.244.0.99_15020::127.244.0.99:15020\n\
         connect_terminate::127.244.0.99:15008\n"
    );
    assert_eq!(text(&admin, "/certs"), "{\n \"certificates\": []\n}\n");
    assert!(text(&admin, "/").contains("<a href=\"/config_dump\">"));
    let (status, body) = get(&admin, "/nowhere");
    assert!(status == 404 && body.contains("/config_dump"));
    for path in PATHS.iter().filter(|p| !p.changes) {
        assert_eq!(
            get(&admin, path.path).0,
            if path.path == "/ready" { 503 } else { 200 },
            "{}",
            path.path
        );
    }
}

#[tokio::test]
async fn is_served_over_http() {
    use http_body_util::{BodyExt, Empty};
    use hyper_util::rt::TokioIo;

    let listener = waymark_rt::listen("127.0.0.1:0".parse().unwrap(), &Default::default()).unwrap();
    let at = listener.local_addr();
    let drain = waymark_rt::Drain::new(Duration::ZERO);
    let server = waymark_rt::spawn(
        "admin",
        serve(
            listener,
            Arc::new(admin()),
            |admin, _, method, target| admin.answer(method, target),
            drain.shutdown(),
        ),
    );
    let stream = tokio::net::TcpStream::connect(at).await.unwrap();
    let (mut client, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .unwrap();
    let connection = waymark_rt::spawn("client", connection);
    let request = http::Request::builder()
        .uri("/clusters?format=json")
        .header("host", "x");
    let response = client
        .send_request(request.body(Empty::<Bytes>::new()).unwrap())
        .await
        .unwrap();
    assert_eq!(response.status(), 200);
    assert_eq!(response.headers()["content-type"], "application/json");
    let body = response.into_body().collect().await.unwrap().to_bytes();
    assert!(serde_json::from_slice::<Value>(&body).unwrap()["cluster_statuses"].is_array());
    server.abort();
    drop((client, connection));
}
