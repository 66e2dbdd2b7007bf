//! Malformed input on 15008: refused as specified, and the process lives on without a leak.

use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use waymark_testkit::hbone::{Client, DialError, Issuer, tls};
use waymark_testkit::mesh::Mesh;
use waymark_testkit::netns::isolated;
use waymark_testkit::wait::until;

use crate::{WAYPOINT, block_on, waymark};

const PRODUCTPAGE: &str = "spiffe://cluster.local/ns/default/sa/bookinfo-productpage";

#[test]
fn a_hundred_malformed_inputs_leave_waypoint_and_node_proxy_as_they_were() {
    isolated(|| {
        let mesh = Mesh::bookinfo(waymark());
        let waypoint = SocketAddr::new(mesh.waypoint_admin(WAYPOINT).ip(), 15008);
        let node = SocketAddr::new(mesh.pod("reviews-v1"), 15008);
        let pids = [
            mesh.waypoint_pid(WAYPOINT).unwrap(),
            u32::try_from(mesh.info["node"]["pid"].as_u64().unwrap()).unwrap(),
        ];
        let _ = mesh.split(Some("productpage-v1"), mesh.service("reviews"), 100);
        round(&mesh, waypoint, &mesh.service("reviews").to_string());
        round(&mesh, node, &format!("{}:9080", node.ip()));
        let before = pids.map(descriptors);
        let mut inputs = 0;
        for _ in 0..4 {
            inputs += round(&mesh, waypoint, &mesh.service("reviews").to_string());
            inputs += round(&mesh, node, &format!("{}:9080", node.ip()));
        }
        assert!(inputs >= 100, "{inputs}");
        let _ = mesh.split(Some("productpage-v1"), mesh.service("reviews"), 100);
        for (pid, before) in pids.into_iter().zip(before) {
            until(
                &format!("descriptors of {pid} are back to about {before}"),
                Duration::from_secs(30),
                || (descriptors(pid) <= before + 8).then_some(()),
            );
        }
    });
}

fn descriptors(pid: u32) -> usize {
    std::fs::read_dir(format!("/proc/{pid}/fd")).map_or(usize::MAX, Iterator::count)
}

/// One of each kind; returns how many.
fn round(mesh: &Mesh, target: SocketAddr, good: &str) -> usize {
    let raw: &[&[u8]] = &[
        b"",
        b"GET / HTTP/1.1\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        &[0x16, 3, 1, 0, 0],
        &[0x16, 3, 1, 0xff, 0xff, 1],
        &[0x80; 64],
        &[0; 2048],
    ];
    for bytes in raw {
        let mut stream = TcpStream::connect(target).unwrap();
        let _ = stream.write_all(bytes);
        let _ = stream.shutdown(std::net::Shutdown::Write);
    }
    let leaf = Issuer::of_mesh(mesh.state()).leaf(PRODUCTPAGE);
    let source = Some(mesh.pod("productpage-v1"));
    // Inside TLS: no preface, a bad one, frames of no sense.
    let inner: &[&[u8]] = &[
        b"",
        b"GET / HTTP/1.1\r\nhost: x\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\xff\xff\xff\x00\x00\x00\x00\x00\x00",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x05\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00",
    ];
    for bytes in inner {
        block_on(async {
            let mut stream = tls(source, target, Some(&leaf)).await.unwrap();
            let _ = stream.write_all(bytes).await;
            let _ = stream.shutdown().await;
            let mut rest = Vec::new();
            let _ = tokio::time::timeout(Duration::from_secs(15), stream.read_to_end(&mut rest))
                .await
                .expect("the peer ends a connection that makes no sense");
        });
    }
    let big = "x".repeat(200_000);
    let statuses: Vec<Option<u16>> = block_on(async {
        let mut statuses = Vec::new();
        for (authority, headers) in [
            ("nonsense", vec![]),
            ("host-without-port.example", vec![]),
            ("203.0.113.9:80", vec![]),
            (good, vec![("x-big", big.as_str())]),
        ] {
            let result = async {
                let mut client = Client::connect(source, target, Some(&leaf)).await?;
                client
                    .exchange(
                        authority,
                        &headers,
                        b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n",
                    )
                    .await
            }
            .await;
            statuses.push(match result {
                Err(DialError::Status(status)) => Some(status.as_u16()),
                Err(_) => None,
                // An unknown VIP at a waypoint: 200, then closed without a byte, as Envoy does.
                Ok(bytes) => {
                    assert!(
                        bytes.is_empty(),
                        "{authority}: {}",
                        String::from_utf8_lossy(&bytes)
                    );
                    Some(200)
                }
            });
        }
        statuses
    });
    assert!(
        !statuses.iter().take(2).any(|s| *s == Some(200)),
        "{target}: {statuses:?}"
    );
    raw.len() + inner.len() + statuses.len()
}
