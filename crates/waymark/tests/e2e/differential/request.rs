//! Random requests, of the words that the routes are made of.

use std::net::SocketAddr;

use proptest::collection::vec;
use proptest::prelude::{Strategy, any};
use proptest::sample::{Index, select};

use super::mesh::Mesh;
use super::route::names_of_service;

/// A request to a mesh, wherever it is.
#[derive(Clone, Debug)]
pub(super) struct Request {
    service: Index,
    port: Index,
    host: Index,
    method: &'static str,
    path: &'static str,
    headers: Vec<(&'static str, &'static str)>,
}

const PATHS: [&str; 22] = [
    "/",
    "/a",
    "/a/",
    "/a/b",
    "/a/b/c",
    "/ab",
    "/A",
    "/A/B",
    "/b",
    "/b/",
    "/b/c",
    "/c",
    "/?q=one",
    "/a?q=one&r=two",
    "/a/b?q=two&q=one",
    "/b?r=",
    "/a%2Fb",
    "/a%62",
    "//a",
    "/a/../b",
    "/a/./b",
    "/a/b;x?q=on",
];

pub(super) fn request() -> impl Strategy<Value = Request> {
    let header = (
        select(vec!["x-one", "x-two", "X-One"]),
        select(vec!["one", "two", "on", "", "ones", "ONE"]),
    );
    (
        any::<Index>(),
        any::<Index>(),
        any::<Index>(),
        select(vec![
            "GET", "GET", "GET", "POST", "PUT", "DELETE", "OPTIONS",
        ]),
        select(PATHS.to_vec()),
        vec(header, 0..=3),
    )
        .prop_map(|(service, port, host, method, path, headers)| Request {
            service,
            port,
            host,
            method,
            path,
            headers,
        })
}

impl Request {
    /// Where it goes, for a mesh at a place.
    pub(super) fn to(&self, mesh: &Mesh, place: usize) -> SocketAddr {
        let service = self.service.index(mesh.services.len());
        let port = self.port.get(&mesh.services[service].ports).0;
        SocketAddr::new(Mesh::vip(place, service).into(), port)
    }

    /// The bytes of it.
    pub(super) fn bytes(&self, mesh: &Mesh, place: usize) -> Vec<u8> {
        let service = self.service.index(mesh.services.len());
        let port = self.port.get(&mesh.services[service].ports).0;
        let names = names_of_service(&format!("m{place}"), service);
        let [short, with_namespace, full] = &names;
        let hosts = [
            short.clone(),
            with_namespace.clone(),
            full.clone(),
            format!("{full}:{port}"),
            format!("{short}:{port}"),
            "other.example".to_owned(),
            format!("{}:{port}", Mesh::vip(place, service)),
        ];
        let host = self.host.get(&hosts);
        let mut head = format!("{} {} HTTP/1.1\r\nhost: {host}\r\n", self.method, self.path);
        for (name, value) in &self.headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        if matches!(self.method, "POST" | "PUT") {
            head.push_str("content-length: 0\r\n");
        }
        head.push_str("\r\n");
        head.into_bytes()
    }
}
