//! HTTP/2 and gRPC, on both sides.

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode, Version};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use waymark_waypoint::program::UpstreamProtocol;

use crate::mesh::{Mesh, empty, full, get, streamed, text};
use crate::program::{HTTP, Program};

fn versions(mesh: &Mesh) -> std::net::SocketAddr {
    mesh.app(|request| async move {
        let authority = request.uri().authority().map(ToString::to_string);
        let host = request
            .headers()
            .get("host")
            .map(|h| h.to_str().unwrap().to_owned());
        let text_body = format!(
            "{:?} {}",
            request.version(),
            authority.or(host).unwrap_or_default()
        );
        text(StatusCode::OK, text_body)
    })
}

#[tokio::test]
async fn the_upstreams_version_is_the_clusters_business() {
    let mesh = Mesh::start();
    for (protocol, http1, http2) in [
        (UpstreamProtocol::Http1, "HTTP/1.1", "HTTP/1.1"),
        (UpstreamProtocol::Http2, "HTTP/2.0", "HTTP/2.0"),
        (UpstreamProtocol::Downstream, "HTTP/1.1", "HTTP/2.0"),
    ] {
        let mut program = Program::new(&[versions(&mesh)]);
        program.change_cluster(|c| c.protocol = protocol);
        mesh.publish(&program);
        let answer = mesh.http1(HTTP).await.send(get("/")).await;
        assert_eq!(answer.text(), format!("{http1} reviews"), "{protocol:?}");
        let request = Request::get("http://reviews/").body(empty()).unwrap();
        let answer = mesh.http2(HTTP).await.send(request).await;
        assert_eq!(answer.text(), format!("{http2} reviews"), "{protocol:?}");
        assert_eq!(answer.header("server"), Some("istio-envoy"));
    }
}

#[tokio::test]
async fn grpc_streams_both_ways_with_trailers() {
    let mesh = Mesh::start();
    // Answers each piece of the request at once, and the status in trailers.
    let app = mesh.app(|request| async move {
        assert_eq!(request.version(), Version::HTTP_2);
        let body = request.into_body();
        let frames = futures_util::stream::unfold(Some(body), |state| async move {
            let mut body = state?;
            match body.frame().await {
                Some(Ok(frame)) => Some((Ok(frame), Some(body))),
                Some(Err(e)) => Some((Err(e), None)),
                None => {
                    let mut trailers = HeaderMap::new();
                    trailers.insert("grpc-status", "0".parse().unwrap());
                    Some((Ok(Frame::trailers(trailers)), None))
                }
            }
        });
        let mut response = Response::new(BodyExt::boxed(StreamBody::new(SyncStream::new(frames))));
        response
            .headers_mut()
            .insert("content-type", "application/grpc".parse().unwrap());
        response
    });
    let mut program = Program::new(&[app]);
    program.change_cluster(|c| c.protocol = UpstreamProtocol::Http2);
    mesh.publish(&program);
    let mut client = mesh.http2(HTTP).await;
    let (send, body) = streamed();
    let request = Request::post("http://reviews/s/m")
        .header("content-type", "application/grpc")
        .body(body)
        .unwrap();
    send.send(Bytes::from_static(b"one")).await.unwrap();
    let mut answer = client
        .sender
        .send_request(request)
        .await
        .unwrap()
        .into_body();
    for piece in ["one", "two", "three"] {
        let got = answer.frame().await.unwrap().unwrap().into_data().unwrap();
        assert_eq!(got, piece);
        match piece {
            "one" => send.send(Bytes::from_static(b"two")).await.unwrap(),
            "two" => send.send(Bytes::from_static(b"three")).await.unwrap(),
            _ => {}
        }
    }
    drop(send);
    let trailers = answer
        .frame()
        .await
        .unwrap()
        .unwrap()
        .into_trailers()
        .unwrap();
    assert_eq!(trailers["grpc-status"], "0");
}

#[tokio::test]
async fn trailers_are_dropped_towards_http1() {
    let mesh = Mesh::start();
    let app = mesh.app(|_| async {
        let mut trailers = HeaderMap::new();
        trailers.insert("x-t", "1".parse().unwrap());
        let frames: Vec<Result<Frame<Bytes>, hyper::Error>> = vec![
            Ok(Frame::data(Bytes::from_static(b"data"))),
            Ok(Frame::trailers(trailers)),
        ];
        Response::new(BodyExt::boxed(StreamBody::new(futures_util::stream::iter(
            frames,
        ))))
    });
    let mut program = Program::new(&[app]);
    program.change_cluster(|c| c.protocol = UpstreamProtocol::Http2);
    mesh.publish(&program);
    let mut request = get("/");
    request
        .headers_mut()
        .insert("te", "trailers".parse().unwrap());
    let answer = mesh.http1(HTTP).await.send(request).await;
    assert_eq!((answer.text(), answer.trailers.is_none()), ("data", true));
    let request = Request::get("http://reviews/").body(empty()).unwrap();
    let answer = mesh.http2(HTTP).await.send(request).await;
    assert_eq!(answer.trailers.unwrap()["x-t"], "1");
}

#[tokio::test]
async fn many_requests_share_one_connection_each_way() {
    let mesh = Mesh::start();
    let mut program = Program::new(&[versions(&mesh)]);
    program.change_cluster(|c| c.protocol = UpstreamProtocol::Http2);
    mesh.publish(&program);
    let client = mesh.http2(HTTP).await;
    let mut work = tokio::task::JoinSet::new();
    for _ in 0..200 {
        let mut sender = client.sender.clone();
        work.spawn(async move {
            let request = Request::post("http://reviews/")
                .body(full(vec![1; 3000]))
                .unwrap();
            sender.send_request(request).await.unwrap().status()
        });
    }
    assert!(work.join_all().await.iter().all(|s| *s == StatusCode::OK));
    let stats = &program.clusters[0].stats;
    assert_eq!(stats.upstream_cx_http2_total.value(), 1);
    assert_eq!(stats.upstream_rq_2xx.value(), 200);
}

/// A stream that is polled from one place only, as `Sync`.
struct SyncStream<S>(std::sync::Mutex<std::pin::Pin<Box<S>>>);

impl<S> SyncStream<S> {
    fn new(stream: S) -> Self {
        Self(std::sync::Mutex::new(Box::pin(stream)))
    }
}

impl<S: futures_util::Stream> futures_util::Stream for SyncStream<S> {
    type Item = S::Item;

    fn poll_next(
        self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<S::Item>> {
        self.0.lock().unwrap().as_mut().poll_next(cx)
    }
}
