#![expect(clippy::unwrap_used, reason = "tests")]

use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use waymark_identity::TrustDomain;
use waymark_rt::{Drain, ListenOptions, SystemClock, Task, listen, spawn};

use super::*;
use crate::ca::Tokens;
use crate::token::TokenKey;

#[derive(Default)]
struct View {
    ready: AtomicBool,
}

impl DebugView for View {
    fn ready(&self) -> Result<(), String> {
        if self.ready.load(Ordering::SeqCst) {
            Ok(())
        } else {
            Err("manifests are being read".to_owned())
        }
    }

    fn version(&self) -> Value {
        json!({"version": "0.1.0"})
    }

    fn metrics(&self, out: &mut String) {
        out.push_str("pilot_xds 1\n");
    }

    fn syncz(&self, namespace: Option<&str>) -> Value {
        json!([{"proxy": "waypoint-0.default", "namespace": namespace}])
    }

    fn config_dump(&self, dump: &DumpQuery<'_>) -> Result<Value, NoSuchProxy> {
        if dump.proxy == "waypoint-0.default" {
            Ok(json!({"types": dump.types, "eds": dump.include_eds}))
        } else {
            Err(NoSuchProxy)
        }
    }

    fn adsz(&self, proxy: Option<&str>) -> Value {
        json!({"proxy": proxy})
    }

    fn connections(&self) -> Value {
        json!({"totalClients": 1})
    }

    fn ambientz(&self) -> Value {
        json!({"workloads": []})
    }

    fn configz(&self) -> Value {
        json!([])
    }

    fn distribution(&self) -> Value {
        json!({"sent": 1})
    }

    fn status(&self) -> Value {
        json!({"gateways": []})
    }

    fn mesh(&self) -> Value {
        json!({"services": []})
    }
}

struct Running {
    addr: SocketAddr,
    view: Arc<View>,
    drain: Drain,
    server: Task<()>,
}

fn server() -> (DebugServer<View>, Arc<View>, Arc<TokenKey>) {
    let dir = tempfile::tempdir().unwrap();
    let tokens =
        Arc::new(TokenKey::load_or_create(&dir.path().join("k"), Arc::new(SystemClock)).unwrap());
    let view = Arc::new(View::default());
    let authenticator = Arc::new(Authenticator::new(
        TrustDomain::default(),
        Tokens::Issued(Arc::clone(&tokens)),
    ));
    (
        DebugServer::new(Arc::clone(&view), authenticator, "istio-system"),
        view,
        tokens,
    )
}

fn start() -> Running {
    let (server, view, _) = server();
    let listener = listen((Ipv4Addr::LOCALHOST, 0).into(), &ListenOptions::default()).unwrap();
    let addr = listener.local_addr();
    let drain = Drain::new(Duration::from_secs(10));
    Running {
        addr,
        view,
        server: spawn("debug", server.serve(listener, drain.shutdown())),
        drain,
    }
}

impl Running {
    /// Status, head and body.
    async fn send(&self, request: &str) -> (u16, String, String) {
        let mut stream = TcpStream::connect(self.addr).await.unwrap();
        stream
            .write_all(
                format!("{request} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").as_bytes(),
            )
            .await
            .unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).await.unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        (status, head.to_lowercase(), body.to_owned())
    }

    async fn get(&self, path: &str) -> (u16, String) {
        let (status, _, body) = self.send(&format!("GET {path}")).await;
        (status, body)
    }

    async fn stop(self) {
        self.drain.finish().await;
        self.server.await.unwrap();
    }
}

#[tokio::test]
async fn readiness_is_the_views() {
    let running = start();
    assert_eq!(
        running.get("/ready").await,
        (503, "not ready: manifests are being read\n".to_owned())
    );
    running.view.ready.store(true, Ordering::SeqCst);
    assert_eq!(running.get("/ready").await, (200, String::new()));
    running.stop().await;
}

#[tokio::test]
async fn metrics_have_those_of_the_process_too() {
    let running = start();
    let (status, head, body) = running.send("GET /metrics").await;
    assert_eq!(status, 200);
    assert!(head.contains("content-type: text/plain; version=0.0.4"));
    for name in [
        "pilot_xds 1",
        "process_cpu_seconds_total ",
        "process_resident_memory_bytes ",
        "process_open_fds ",
    ] {
        assert!(
            body.lines().any(|line| line.starts_with(name)),
            "{name} in\n{body}"
        );
    }
    running.stop().await;
}

#[tokio::test]
async fn dumps_are_of_the_proxy_that_is_asked_for() {
    let running = start();
    let (status, body) = running
        .get("/debug/config_dump?proxyID=waypoint-0%2Edefault&types=lds&include_eds")
        .await;
    assert_eq!(
        (status, body.as_str()),
        (200, "{\"types\":\"lds\",\"eds\":true}\n")
    );
    let (_, body) = running
        .get("/debug/config_dump?proxyID=waypoint-0.default&include_eds=false")
        .await;
    assert_eq!(body, "{\"types\":null,\"eds\":false}\n");
    let (status, body) = running
        .get("/debug/config_dump?proxyID=other.default")
        .await;
    assert_eq!(status, 404);
    assert!(body.starts_with("Proxy not connected to this Pilot instance"));
    assert_eq!(running.get("/debug/config_dump").await.0, 400);
    running.stop().await;
}

#[tokio::test]
async fn every_endpoint_answers() {
    let running = start();
    running.view.ready.store(true, Ordering::SeqCst);
    for (path, _) in ENDPOINTS
        .iter()
        .filter(|(path, _)| !path.ends_with("config_dump"))
    {
        assert_eq!(running.get(path).await.0, 200, "{path}");
    }
    let (_, body) = running.get("/debug/syncz?namespace=default").await;
    assert_eq!(
        body,
        "[{\"proxy\":\"waypoint-0.default\",\"namespace\":\"default\"}]\n"
    );
    let (_, body) = running.get("/debug/mesh?pretty").await;
    assert_eq!(body, "{\n  \"services\": []\n}\n");
    for path in ["/", "/debug", "/debug/"] {
        let (status, head, body) = running.send(&format!("GET {path}")).await;
        assert!(
            status == 200 && head.contains("text/html") && body.contains("href=\"/debug/syncz\"")
        );
    }
    running.stop().await;
}

#[tokio::test]
async fn what_is_not_there_is_answered_with_what_is() {
    let running = start();
    for path in ["/debug/nothing", "/nothing", "/debug/../ready"] {
        let (status, body) = running.get(path).await;
        assert_eq!(status, 404);
        assert!(body.contains("/debug/syncz "), "{body}");
    }
    running.stop().await;
}

#[tokio::test]
async fn only_get_and_head() {
    let running = start();
    let (status, head, _) = running.send("POST /debug/syncz").await;
    assert!(status == 405 && head.contains("allow: get, head"));
    let (status, head, body) = running.send("HEAD /version").await;
    assert!(
        status == 200 && body.is_empty() && head.contains("content-length: 20"),
        "{head}"
    );
    running.stop().await;
}

#[tokio::test]
async fn callers_from_elsewhere_need_a_token_of_the_system_namespace() {
    let (server, view, tokens) = server();
    view.ready.store(true, Ordering::SeqCst);
    let ask = async |path: &str, account: Option<&str>, from: &str| {
        let mut request = Request::get(path);
        if let Some(account) = account {
            let token = tokens.issue(&account.parse().unwrap(), Duration::from_secs(60));
            request = request.header("authorization", format!("Bearer {token}"));
        }
        server
            .respond(&request.body(()).unwrap(), from.parse().unwrap())
            .await
            .status()
            .as_u16()
    };
    assert_eq!(ask("/ready", None, "192.0.2.1").await, 200);
    assert_eq!(ask("/debug/syncz", None, "192.0.2.1").await, 401);
    assert_eq!(
        ask("/debug/syncz", Some("default/reviews"), "192.0.2.1").await,
        403
    );
    assert_eq!(
        ask("/debug/syncz", Some("istio-system/default"), "192.0.2.1").await,
        200
    );
    for loopback in ["127.0.0.1", "127.244.0.9", "::1", "::ffff:127.0.0.1"] {
        assert_eq!(ask("/debug/syncz", None, loopback).await, 200, "{loopback}");
    }
}

#[tokio::test]
async fn an_idle_connection_does_not_hold_up_the_end() {
    let running = start();
    let mut idle = TcpStream::connect(running.addr).await.unwrap();
    idle.write_all(b"GET /version HTTP/1.1\r\nhost: x\r\n\r\n")
        .await
        .unwrap();
    let mut some = [0; 16];
    idle.read_exact(&mut some).await.unwrap();
    tokio::time::timeout(Duration::from_secs(5), running.stop())
        .await
        .unwrap();
}
