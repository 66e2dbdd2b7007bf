//! Questions to pods through the API server. The node is the test's own (`testkit::kubernetes::Forwarder`).

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};

use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use waymark_kubernetes::port_forward::{PodPort, PortForwardError, ask};
use waymark_testkit::kubernetes::{ApiServer, Forwarder};

use super::client;

const MAX_BODY_BYTES: usize = 4 << 20;
/// More than is under way at once on a port-forward.
const LARGE: usize = 3 << 20;

/// Answers one request a connection: with its path, or a large body.
fn server() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                let mut byte = [0];
                if stream.read(&mut byte).unwrap_or(0) == 0 {
                    break;
                }
                head.extend(byte);
            }
            let head = String::from_utf8(head).unwrap();
            let path = head.split(' ').nth(1).unwrap_or_default().to_owned();
            let body = match path.as_str() {
                "/large" => "x".repeat(LARGE),
                path => format!("you asked for {path}"),
            };
            let status = if path == "/none" {
                "404 Not Found"
            } else {
                "200 OK"
            };
            let _ = write!(
                stream,
                "HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n{body}",
                body.len()
            );
        }
    });
    address
}

fn get(path: &str) -> Request<Full<Bytes>> {
    Request::get(path)
        .header("host", "localhost")
        .body(Full::default())
        .unwrap()
}

fn pod(namespace: &str, name: &str, node: &str) -> String {
    format!(
        "apiVersion: v1\nkind: ServiceAccount\nmetadata: {{ name: default, namespace: {namespace} }}\n---\n\
         apiVersion: v1\nkind: Pod\nmetadata: {{ name: {name}, namespace: {namespace} }}\n\
         spec: {{ nodeName: {node}, containers: [{{ name: c, image: i }}] }}\n---\n"
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_are_asked_through_the_api_server() {
    let Some(api) = ApiServer::shared() else {
        return;
    };
    let namespace = api.namespace();
    let address = server();
    let _node = Forwarder::start(api, &namespace, move |_, pod, port| match (pod, port) {
        ("waypoint", 15000) => TcpStream::connect(address),
        _ => Err(ErrorKind::ConnectionRefused.into()),
    });
    api.apply(&pod(&namespace, "waypoint", &namespace));
    let to = |pod: &str, port| PodPort {
        namespace: namespace.clone(),
        pod: pod.to_owned(),
        port,
    };
    let client = client(&api.kubeconfig()).await;
    let ask = async |to: PodPort, path: &str| ask(&client, &to, get(path), MAX_BODY_BYTES).await;

    let answer = ask(to("waypoint", 15000), "/stats?a=b").await.unwrap();
    assert_eq!(answer.status(), 200);
    assert_eq!(&answer.body()[..], b"you asked for /stats?a=b");
    assert_eq!(
        ask(to("waypoint", 15000), "/none").await.unwrap().status(),
        404
    );
    let large = ask(to("waypoint", 15000), "/large").await.unwrap();
    assert_eq!(large.body().len(), LARGE);

    let error = ask(to("waypoint", 15001), "/").await.unwrap_err();
    assert!(
        matches!(&error, PortForwardError::Node { reason, .. } if reason.contains("connection refused")),
        "{error:?}"
    );
    let error = ask(to("nobody", 15000), "/").await.unwrap_err();
    assert!(
        matches!(&error, PortForwardError::Open { source, .. } if matches!(&**source, kube::Error::Api(s) if s.code == 404)),
        "{error:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_missing_to_ask_a_pod_is_said() {
    let Some(api) = ApiServer::shared() else {
        return;
    };
    let namespace = api.namespace();
    let address = server();
    let _node = Forwarder::start(api, &namespace, move |_, _, _| TcpStream::connect(address));
    api.apply(&pod(&namespace, "waypoint", &namespace));
    let to = PodPort {
        namespace: namespace.clone(),
        pod: "waypoint".to_owned(),
        port: 15000,
    };
    for (verbs, want) in [
        ("", "the verb get, create is missing"),
        ("get", "the verb create is missing"),
        ("create", "the verb get is missing"),
        ("get, create", ""),
    ] {
        let account = format!("reader-{}", verbs.replace(", ", "-"));
        let account = account.trim_end_matches('-');
        api.apply(&format!(
            "apiVersion: v1\nkind: ServiceAccount\nmetadata: {{ name: {account}, namespace: {namespace} }}\n---\n\
             apiVersion: rbac.authorization.k8s.io/v1\nkind: Role\n\
             metadata: {{ name: {account}, namespace: {namespace} }}\n\
             rules: [{{ apiGroups: [''], resources: [pods/portforward], verbs: [{verbs}] }}]\n---\n\
             apiVersion: rbac.authorization.k8s.io/v1\nkind: RoleBinding\n\
             metadata: {{ name: {account}, namespace: {namespace} }}\n\
             roleRef: {{ apiGroup: rbac.authorization.k8s.io, kind: Role, name: {account} }}\n\
             subjects: [{{ kind: ServiceAccount, name: {account}, namespace: {namespace} }}]\n"
        ).replace("rules: [{ apiGroups: [''], resources: [pods/portforward], verbs: [] }]", "rules: []"));
        let client = client(&api.kubeconfig_of(&namespace, account)).await;
        let said = match ask(&client, &to, get("/"), MAX_BODY_BYTES).await {
            Ok(answer) => format!("{}", answer.status()),
            Err(error) => error.to_string(),
        };
        if want.is_empty() {
            assert_eq!(said, "200 OK", "{verbs}");
        } else {
            let whole = format!("no access to pods/portforward in namespace {namespace}: {want}");
            assert_eq!(said, whole, "{verbs}");
        }
    }
}
