//! Headers as the application and the client see them: l7-semantics.md 3.4, 4.

use bytes::Bytes;
use http::{HeaderValue, Request, Response, StatusCode};
use http_body_util::BodyExt;
use waymark_waypoint::route::{Clusters, HeaderOp, HeaderOps, PathRewrite};

use crate::mesh::{Mesh, empty, full, get, post, streamed};
use crate::program::{HTTP, Program, destination, set_header};

/// An application that shows the request it got.
fn mirror(mesh: &Mesh) -> std::net::SocketAddr {
    mesh.app(|request| async move {
        let (head, body) = request.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        let mut text = format!("{} {}\n", head.method, head.uri);
        for (name, value) in &head.headers {
            text.push_str(&format!("{name}: {}\n", value.to_str().unwrap_or("?")));
        }
        text.push_str(&format!("\n{}", body.len()));
        let mut response = Response::new(full(text));
        let headers = response.headers_mut();
        headers.insert("server", HeaderValue::from_static("app/1.0"));
        headers.insert("x-app", HeaderValue::from_static("1"));
        headers.insert("keep-alive", HeaderValue::from_static("timeout=1"));
        headers.insert(
            "date",
            HeaderValue::from_static("Sun, 06 Nov 1994 08:49:37 GMT"),
        );
        response
    })
}

#[tokio::test]
async fn the_application_sees_two_headers_more_and_the_client_three() {
    let mesh = Mesh::start();
    mesh.publish(&Program::new(&[mirror(&mesh)]));
    let answer = mesh.get(HTTP, "/reviews/0?a=b").await;
    let seen: Vec<&str> = answer.text().lines().collect();
    assert_eq!(seen[0], "GET /reviews/0?a=b");
    let mut names: Vec<&str> = seen[1..]
        .iter()
        .filter_map(|l| l.split_once(": "))
        .map(|(n, _)| n)
        .collect();
    names.sort_unstable();
    assert_eq!(names, ["host", "x-forwarded-proto", "x-request-id"]);
    assert_eq!(seen[1], "host: reviews", "Host comes first");
    assert!(answer.text().contains("x-forwarded-proto: http\n"));
    assert_eq!(answer.header("server"), Some("istio-envoy"));
    assert_eq!(
        answer.header("x-envoy-decorator-operation"),
        Some("reviews:9080/*")
    );
    assert!(
        answer
            .header("x-envoy-upstream-service-time")
            .unwrap()
            .parse::<u64>()
            .is_ok()
    );
    assert_eq!(
        answer.header("date"),
        Some("Sun, 06 Nov 1994 08:49:37 GMT"),
        "the application's is kept"
    );
    assert_eq!(answer.header("keep-alive"), None);
    assert_eq!(answer.header("x-request-id"), None);
}

#[tokio::test]
async fn what_a_client_may_not_say_is_removed() {
    let mesh = Mesh::start();
    mesh.publish(&Program::new(&[mirror(&mesh)]));
    let request = Request::get("/")
        .header("host", "Reviews:80")
        .header("connection", "x-secret, close")
        .header("x-secret", "1")
        .header("te", "gzip, trailers")
        .header("x-envoy-max-retries", "9")
        .header("x-envoy-internal", "true")
        .header("x-forwarded-client-cert", "By=me")
        .header("x-forwarded-for", "1.2.3.4")
        .header("x-forwarded-proto", "https")
        .header("x-request-id", "mine")
        .header("x-envoy-attempt-count", "7")
        .header("x-envoy-decorator-operation", "op")
        .body(empty())
        .unwrap();
    let answer = mesh.http1(HTTP).await.send(request).await;
    let seen = answer.text();
    for gone in [
        "connection",
        "x-secret",
        "gzip",
        "max-retries",
        "x-envoy-internal",
        "client-cert",
        "decorator",
    ] {
        assert!(!seen.contains(gone), "{gone} in {seen}");
    }
    for kept in [
        "host: Reviews:80",
        "te: trailers",
        "x-forwarded-for: 1.2.3.4",
        "x-forwarded-proto: https",
        "x-request-id: mine",
        "x-envoy-attempt-count: 7",
    ] {
        assert!(seen.contains(kept), "{kept} not in {seen}");
    }
    assert_eq!(
        answer.header("x-envoy-decorator-operation"),
        None,
        "the client's own name counts"
    );
}

#[tokio::test]
async fn rewrites_tell_what_was_there_before() {
    let mesh = Mesh::start();
    let mut program = Program::new(&[mirror(&mesh)]);
    program.change_forward(|f| {
        f.path_rewrite = Some(PathRewrite::Prefix("/v2/".into()));
        f.host_rewrite = Some(HeaderValue::from_static("backend"));
    });
    mesh.publish(&program);
    let seen = mesh.get(HTTP, "/a/../b?q").await;
    for want in [
        "GET /v2/b?q\n",
        "host: backend\n",
        "x-envoy-original-path: /b?q\n",
        "x-envoy-original-host: reviews\n",
    ] {
        assert!(
            seen.text().contains(want),
            "{want:?} not in {}",
            seen.text()
        );
    }
}

#[tokio::test]
async fn header_operations_run_on_the_way_there_and_back() {
    let mesh = Mesh::start();
    let mut program = Program::new(&[mirror(&mesh)]);
    let mut to = destination(program.names.get_mut(), "one");
    to.headers.request = HeaderOps::new(vec![
        HeaderOp::Remove("x-gone".parse().unwrap()),
        set_header("x-path", "%REQ(:PATH)%"),
    ]);
    to.headers.response = HeaderOps::new(vec![
        HeaderOp::Remove("x-app".parse().unwrap()),
        set_header("x-new", "1"),
    ]);
    program.change_forward(|f| f.clusters = Clusters::One(to));
    mesh.publish(&program);
    let mut request = get("/p");
    request
        .headers_mut()
        .insert("x-gone", HeaderValue::from_static("1"));
    let answer = mesh.http1(HTTP).await.send(request).await;
    assert!(answer.text().contains("x-path: /p\n"));
    assert!(!answer.text().contains("x-gone"));
    assert_eq!(answer.header("x-app"), None);
    assert_eq!(answer.header("x-new"), Some("1"));
}

#[tokio::test]
async fn bodies_are_framed_anew() {
    let mesh = Mesh::start();
    mesh.publish(&Program::new(&[mirror(&mesh)]));
    let mut client = mesh.http1(HTTP).await;
    let answer = client.send(post("/", full("hello"))).await;
    assert!(
        answer.text().contains("content-length: 5\n") && answer.text().ends_with("\n5"),
        "{}",
        answer.text()
    );
    let (send, body) = streamed();
    let request = post("/", body);
    let writer = waymark_rt::spawn("writer", async move {
        for _ in 0..100 {
            send.send(Bytes::from_static(&[7; 10_000])).await.unwrap();
        }
    });
    let answer = client.send(request).await;
    writer.await.unwrap();
    assert!(
        answer.text().contains("transfer-encoding: chunked\n")
            && answer.text().ends_with("\n1000000")
    );
    let answer = client.send(post("/", empty())).await;
    assert!(
        answer.text().contains("content-length: 0\n"),
        "{}",
        answer.text()
    );
    let answer = client.send(get("/")).await;
    assert!(
        !answer.text().contains("content-length"),
        "{}",
        answer.text()
    );
}

#[tokio::test]
async fn head_keeps_the_length_without_a_body() {
    let mesh = Mesh::start();
    let app = mesh.app(|_| async { crate::mesh::text(StatusCode::OK, "0123456789") });
    mesh.publish(&Program::new(&[app]));
    let request = Request::head("/")
        .header("host", "h")
        .body(empty())
        .unwrap();
    let mut client = mesh.http1(HTTP).await;
    let answer = client.send(request).await;
    assert_eq!(
        (
            answer.status,
            answer.header("content-length"),
            answer.body.len()
        ),
        (200, Some("10"), 0)
    );
    assert_eq!(
        client.get("/").await.text(),
        "0123456789",
        "the connection goes on"
    );
}

#[tokio::test]
async fn a_client_that_waits_for_100_gets_the_upstreams() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mesh = Mesh::start();
    let app = mesh.raw_app(|mut tcp| async move {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(tcp.read_u8().await.unwrap());
        }
        let head = String::from_utf8(head).unwrap();
        assert!(head.contains("expect: 100-continue"), "{head}");
        tcp.write_all(b"HTTP/1.1 100 Continue\r\n\r\n")
            .await
            .unwrap();
        let mut body = [0; 4];
        tcp.read_exact(&mut body).await.unwrap();
        tcp.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\n")
            .await
            .unwrap();
        tcp.write_all(&body).await.unwrap();
    });
    mesh.publish(&Program::new(&[app]));
    let mut tunnel = mesh.connect(HTTP).await;
    tunnel
        .write_all(
            b"POST / HTTP/1.1\r\nhost: h\r\nexpect: 100-continue\r\ncontent-length: 4\r\n\r\n",
        )
        .await
        .unwrap();
    let mut first = [0; 25];
    tunnel.read_exact(&mut first).await.unwrap();
    assert_eq!(&first, b"HTTP/1.1 100 Continue\r\n\r\n");
    tunnel.write_all(b"body").await.unwrap();
    while !tunnel.peeked().ends_with(b"\r\n\r\nbody") {
        assert!(tunnel.peek_more().await.unwrap());
    }
    assert!(tunnel.peeked().starts_with(b"HTTP/1.1 200 OK\r\n"));
}

#[tokio::test]
async fn early_hints_are_passed_on_before_the_response() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mesh = Mesh::start();
    let app = mesh.raw_app(|mut tcp| async move {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(tcp.read_u8().await.unwrap());
        }
        let answer = b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
        tcp.write_all(answer).await.unwrap();
    });
    mesh.publish(&Program::new(&[app]));
    let mut tunnel = mesh.connect(HTTP).await;
    tunnel
        .write_all(b"GET / HTTP/1.1\r\nhost: h\r\n\r\n")
        .await
        .unwrap();
    while !tunnel.peeked().ends_with(b"\r\n\r\nok") {
        assert!(tunnel.peek_more().await.unwrap());
    }
    let answer = String::from_utf8_lossy(tunnel.peeked()).into_owned();
    let hints = "HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n";
    let rest = answer
        .strip_prefix(hints)
        .unwrap_or_else(|| panic!("{answer}"));
    assert!(rest.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
}
