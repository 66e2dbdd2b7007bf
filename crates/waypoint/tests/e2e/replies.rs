//! Answers of the waypoint's own: l7-semantics.md 10.1.

use http::{Request, StatusCode};
use waymark_waypoint::program::EndpointHealth;
use waymark_waypoint::route::Action;

use crate::mesh::{Answer, Mesh, empty, get};
use crate::program::{HTTP, Program, route};

fn assert_reply(answer: &Answer, status: u16, body: &str) {
    assert_eq!((answer.status, answer.text()), (status, body));
    assert_eq!(answer.header("server"), Some("istio-envoy"));
    assert!(answer.header("date").is_some());
    let kind = (!body.is_empty()).then_some("text/plain");
    assert_eq!(answer.header("content-type"), kind);
}

const BEFORE: &str = "upstream connect error or disconnect/reset before headers.";

#[tokio::test]
async fn no_route_is_404() {
    let mesh = Mesh::start();
    let mut program = Program::new(&[]);
    program.routes = Vec::new();
    mesh.publish(&program);
    assert_reply(&mesh.get(HTTP, "/").await, 404, "");
}

#[tokio::test]
async fn a_missing_cluster_is_503_or_what_the_route_says() {
    let mesh = Mesh::start();
    let mut program = Program::new(&[]);
    program.split(&[(1, "missing")]);
    mesh.publish(&program);
    assert_reply(&mesh.get(HTTP, "/").await, 503, "");
    program.change_forward(|f| f.cluster_not_found = StatusCode::INTERNAL_SERVER_ERROR);
    mesh.publish(&program);
    assert_reply(&mesh.get(HTTP, "/").await, 500, "");
}

#[tokio::test]
async fn no_healthy_endpoint_is_503() {
    let mesh = Mesh::start();
    let program = Program::new(&[]);
    mesh.publish(&program);
    assert_reply(&mesh.get(HTTP, "/").await, 503, "no healthy upstream");
    let mut set = crate::program::endpoint_set(&[mesh.named("sick")]);
    let endpoints = &mut set.priorities[0].localities[0].endpoints;
    std::sync::Arc::get_mut(&mut endpoints[0]).unwrap().health = EndpointHealth::Unhealthy;
    program.clusters[0]
        .endpoints
        .store(std::sync::Arc::new(set));
    assert_reply(&mesh.get(HTTP, "/").await, 503, "no healthy upstream");
}

#[tokio::test]
async fn a_refused_connection_is_503_after_two_retries() {
    let mesh = Mesh::start();
    let program = Program::new(&[mesh.nowhere()]);
    mesh.publish(&program);
    let answer = mesh.get(HTTP, "/").await;
    let body = format!("{BEFORE} retried and the latest reset reason: remote connection failure");
    assert_reply(&answer, 503, &body);
    assert_eq!(program.clusters[0].stats.upstream_rq_retry.value(), 2);
    assert_eq!(
        program.clusters[0]
            .stats
            .upstream_rq_retry_limit_exceeded
            .value(),
        1
    );
}

#[tokio::test]
async fn a_denied_tunnel_is_503_at_once() {
    let mesh = Mesh::start();
    let program = Program::new(&["127.0.0.1:403".parse().unwrap()]);
    mesh.publish(&program);
    let body = format!("{BEFORE} reset reason: remote connection failure");
    assert_reply(&mesh.get(HTTP, "/").await, 503, &body);
    assert_eq!(program.clusters[0].stats.upstream_rq_retry.value(), 0);
    let unavailable = Program::new(&["127.0.0.1:503".parse().unwrap()]);
    mesh.publish(&unavailable);
    mesh.get(HTTP, "/").await;
    assert_eq!(
        unavailable.clusters[0].stats.upstream_rq_retry.value(),
        2,
        "a node that cannot connect is retried"
    );
}

#[tokio::test]
async fn an_upstream_that_closes_without_an_answer_is_503_and_not_retried() {
    let mesh = Mesh::start();
    let closer = mesh.raw_app(|mut tcp| async move {
        let _ = tokio::io::AsyncReadExt::read(&mut tcp, &mut [0; 1024]).await;
    });
    let program = Program::new(&[closer]);
    mesh.publish(&program);
    let body = format!("{BEFORE} reset reason: connection termination");
    assert_reply(&mesh.get(HTTP, "/").await, 503, &body);
    assert_eq!(program.clusters[0].stats.upstream_rq_total.value(), 1);
}

#[tokio::test]
async fn an_upstream_that_does_not_speak_http_is_502() {
    let mesh = Mesh::start();
    let babbler = mesh.raw_app(|mut tcp| async move {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let _ = tcp.read(&mut [0; 1024]).await;
        let _ = tcp.write_all(b"SSH-2.0-OpenSSH_9.6\r\n\r\n").await;
        let _ = tcp.read(&mut [0; 1024]).await;
    });
    mesh.publish(&Program::new(&[babbler]));
    assert_reply(
        &mesh.get(HTTP, "/").await,
        502,
        &format!("{BEFORE} reset reason: protocol error"),
    );
}

#[tokio::test]
async fn an_open_circuit_breaker_is_503_and_says_so() {
    let mesh = Mesh::start();
    let mut program = Program::new(&[mesh.named("v1")]);
    program.change_cluster(|c| c.breakers.default.max_requests = 0);
    mesh.publish(&program);
    let answer = mesh.get(HTTP, "/").await;
    assert_reply(&answer, 503, &format!("{BEFORE} reset reason: overflow"));
    assert_eq!(answer.header("x-envoy-overloaded"), Some("true"));
    let mut program = Program::new(&[mesh.named("v1")]);
    program.change_cluster(|c| c.breakers.default.max_pending_requests = 0);
    mesh.publish(&program);
    assert_eq!(
        mesh.get(HTTP, "/").await.header("x-envoy-overloaded"),
        Some("true")
    );
}

#[tokio::test]
async fn a_grpc_client_is_answered_in_grpc() {
    let mesh = Mesh::start();
    mesh.publish(&Program::new(&[]));
    let request = Request::post("http://reviews/pkg.Service/Method")
        .header("content-type", "application/grpc")
        .body(empty())
        .unwrap();
    let answer = mesh.http2(HTTP).await.send(request).await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.header("content-type"), Some("application/grpc"));
    assert_eq!(answer.header("grpc-status"), Some("14"));
    assert_eq!(answer.header("grpc-message"), Some("no healthy upstream"));
}

#[tokio::test]
async fn requests_that_no_proxy_should_pass_are_refused() {
    let mesh = Mesh::start();
    mesh.publish(&Program::new(&[mesh.named("v1")]));
    for (request, status) in [
        ("GET / HTTP/1.0\r\n\r\n", 426),
        ("GET / HTTP/1.1\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: a b\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: a\r\nConnection: host\r\n\r\n", 400),
        ("GET /a%00b HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        ("CONNECT a:80 HTTP/1.1\r\nHost: a:80\r\n\r\n", 404),
        ("OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", 404),
        (
            "GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: strange\r\n\r\n",
            403,
        ),
        (
            "GET / HTTP/1.1\r\nHost: a\r\nContent-Length: x\r\n\r\n",
            400,
        ),
        (
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            400,
        ),
        (
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
            501,
        ),
        ("GET / HTTP/1.1\r\nHost: a\r\nx y: z\r\n\r\n", 400),
        ("BREW / HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: a\r\n\r\n", 200),
        ("GET http://b/ HTTP/1.1\r\nHost: a\r\n\r\n", 200),
    ] {
        let mut tunnel = mesh.connect(HTTP).await;
        tokio::io::AsyncWriteExt::write_all(&mut tunnel, request.as_bytes())
            .await
            .unwrap();
        while !tunnel.peeked().windows(4).any(|w| w == b"\r\n\r\n")
            && tunnel.peek_more().await.unwrap()
        {}
        let head = String::from_utf8_lossy(tunnel.peeked()).into_owned();
        let got = head.split(' ').nth(1).unwrap_or_default();
        assert_eq!(got, status.to_string(), "{request:?}: {head}");
    }
}

#[tokio::test]
async fn response_header_operations_of_a_route_apply_to_its_own_replies() {
    let mesh = Mesh::start();
    let mut program = Program::new(&[]);
    let mut names = std::mem::take(program.names.get_mut());
    let mut to = crate::program::destination(&mut names, "one");
    *program.names.get_mut() = names;
    to.headers.response =
        waymark_waypoint::route::HeaderOps::new(vec![crate::program::set_header("x-route", "yes")]);
    program.change_forward(|f| f.clusters = waymark_waypoint::route::Clusters::One(to));
    mesh.publish(&program);
    assert_eq!(mesh.get(HTTP, "/").await.header("x-route"), Some("yes"));
}

#[tokio::test]
async fn faults_abort_before_any_upstream() {
    use waymark_waypoint::route::{Fault, FaultAbort, FaultDelay, Fraction};
    let mesh = Mesh::start();
    let mut program = Program::new(&[mesh.named("v1")]);
    let action = program.forward("one");
    let mut broken = route("/broken", action);
    broken.fault = Some(Fault {
        delay: Some(FaultDelay {
            fixed: std::time::Duration::from_millis(30),
            share: Fraction::ALL,
        }),
        abort: Some(FaultAbort::Http {
            status: StatusCode::IM_A_TEAPOT,
            share: Fraction::ALL,
        }),
    });
    program.routes.insert(0, broken);
    mesh.publish(&program);
    let start = std::time::Instant::now();
    assert_reply(&mesh.get(HTTP, "/broken").await, 418, "fault filter abort");
    assert!(start.elapsed() >= std::time::Duration::from_millis(30));
    assert_eq!(program.clusters[0].stats.upstream_rq_total.value(), 0);
    assert_eq!(mesh.get(HTTP, "/").await.status, 200);
}

#[tokio::test]
async fn preflights_are_answered_and_origins_echoed() {
    use http::HeaderValue;
    use waymark_waypoint::program::StringMatch;
    use waymark_waypoint::route::{Cors, Fraction};
    let mesh = Mesh::start();
    let mut program = Program::new(&[mesh.named("v1")]);
    program.routes[0].cors = Some(Cors {
        allow_origins: vec![StringMatch::Exact {
            value: "https://good".into(),
            ignore_case: false,
        }],
        allow_methods: Some(HeaderValue::from_static("GET,POST")),
        allow_headers: Some(HeaderValue::from_static("*")),
        expose_headers: Some(HeaderValue::from_static("x-a")),
        max_age: Some(HeaderValue::from_static("24")),
        allow_credentials: true,
        enabled: Fraction::ALL,
        forward_not_matching_preflights: false,
    });
    mesh.publish(&program);
    let preflight = |origin: &str| {
        Request::options("/")
            .header("host", "reviews")
            .header("origin", origin)
            .header("access-control-request-method", "PUT")
            .header("access-control-request-headers", "x-b")
            .body(empty())
            .unwrap()
    };
    let mut client = mesh.http1(HTTP).await;
    let answer = client.send(preflight("https://good")).await;
    assert_eq!(answer.status, 200);
    for (name, want) in [
        ("access-control-allow-origin", "https://good"),
        ("access-control-allow-credentials", "true"),
        ("access-control-allow-methods", "GET,POST"),
        ("access-control-allow-headers", "x-b"),
        ("access-control-max-age", "24"),
    ] {
        assert_eq!(answer.header(name), Some(want), "{name}");
    }
    let answer = client.send(preflight("https://bad")).await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.header("access-control-allow-origin"), None);
    assert_eq!(
        program.clusters[0].stats.upstream_rq_total.value(),
        0,
        "answered here"
    );
    let mut request = get("/");
    request
        .headers_mut()
        .insert("origin", HeaderValue::from_static("https://good"));
    let answer = client.send(request).await;
    assert_eq!(answer.text(), "v1");
    assert_eq!(
        answer.header("access-control-allow-origin"),
        Some("https://good")
    );
    assert_eq!(answer.header("access-control-expose-headers"), Some("x-a"));
}

#[tokio::test]
async fn a_rule_of_the_route_may_redirect_escaped_slashes() {
    let mesh = Mesh::start();
    let mut program = Program::new(&[mesh.named("v1")]);
    program.http.path.escaped_slashes = waymark_waypoint::program::EscapedSlashes::Redirect;
    mesh.publish(&program);
    let answer = mesh.get(HTTP, "/a%2Fb").await;
    assert_eq!(
        (answer.status, answer.header("location")),
        (307, Some("/a/b"))
    );
    assert!(matches!(program.routes[0].action, Action::Forward(_)));
}

#[tokio::test]
async fn heads_that_are_too_large_are_told_so_and_logged() {
    use waymark_waypoint::program::{AccessLog, LogTarget};
    use waymark_waypoint::route::{LogFormat, Template};
    let mesh = Mesh::start();
    let mut program = Program::new(&[mesh.named("v1")]);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("access.log");
    let line = "%RESPONSE_CODE% %RESPONSE_FLAGS% %RESPONSE_CODE_DETAILS% [%ROUTE_NAME%]\n";
    program.http.access_logs = vec![AccessLog {
        format: std::sync::Arc::new(LogFormat::Text(Template::parse(line).unwrap())),
        to: LogTarget::File(path.to_str().unwrap().into()),
        only: None,
    }];
    mesh.publish(&program);
    let large = format!(
        "GET / HTTP/1.1\r\nHost: a\r\nx: {}\r\n\r\n",
        "y".repeat(62 * 1024)
    );
    let many = format!(
        "GET / HTTP/1.1\r\nHost: a\r\n{}\r\n",
        "x: y\r\n".repeat(101)
    );
    for (request, want) in [
        (large, "431 DPE http1.headers_too_large [-]\n"),
        (many, "431 DPE http1.too_many_headers [-]\n"),
    ] {
        let mut tunnel = mesh.connect(HTTP).await;
        tokio::io::AsyncWriteExt::write_all(&mut tunnel, request.as_bytes())
            .await
            .unwrap();
        let mut answer = Vec::new();
        // It ends with the answer.
        let _ = tokio::io::AsyncReadExt::read_to_end(&mut tunnel, &mut answer).await;
        let answer = String::from_utf8(answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 431 "), "{answer}");
        assert!(answer.contains("connection: close\r\n"), "{answer}");
        assert!(
            answer.ends_with("\r\n\r\nRequest Header Fields Too Large"),
            "{answer}"
        );
        let logged = || std::fs::read_to_string(&path).unwrap_or_default();
        crate::mesh::eventually("an entry in the log", || logged().ends_with(want)).await;
    }
}

#[tokio::test]
async fn a_head_that_does_not_get_complete_is_408() {
    let mesh = Mesh::start();
    let mut program = Program::new(&[mesh.named("v1")]);
    program.http.timeouts.request_headers = Some(std::time::Duration::from_millis(60));
    mesh.publish(&program);
    let mut tunnel = mesh.connect(HTTP).await;
    tokio::io::AsyncWriteExt::write_all(&mut tunnel, b"GET / HTTP/1.1\r\nHost: a\r\nx-slow")
        .await
        .unwrap();
    let mut answer = Vec::new();
    let _ = tokio::io::AsyncReadExt::read_to_end(&mut tunnel, &mut answer).await;
    let answer = String::from_utf8(answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
    assert!(
        answer.ends_with("\r\n\r\nrequest header timeout"),
        "{answer}"
    );
}
