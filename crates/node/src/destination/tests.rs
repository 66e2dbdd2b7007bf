//! hbone-and-l4.md 9.2, 9.3, 9.4.

use super::*;
use crate::fixture::{by_host, ip, pod, service, store};
use crate::state::model::{ApplicationTunnel, WeightedWaypoint};

fn outcome(store: &Store, name: &str, local: &str, authority: &str) -> String {
    let workload = store
        .workload(&format!("Kubernetes//Pod/default/{name}"))
        .unwrap();
    let authority: Authority = authority.parse().unwrap();
    let asked = Asked {
        workload,
        local: ip(local),
        authority: &authority,
    };
    match find(store, &asked) {
        Ok(Delivery {
            destination,
            application,
            proxy_header,
            ..
        }) => {
            let header = proxy_header
                .map(|to| format!(" PROXY {to}"))
                .unwrap_or_default();
            format!("{destination} at {application}{header}")
        }
        Err(error) => format!("{}: {error}", error.status().as_u16()),
    }
}

#[test]
fn authorities_are_taken_as_the_spec_says() {
    let mut server = pod("server", "10.0.0.1")
        .serving("named", &[(80, 9999)])
        .serving("s", &[]);
    server.extension.application_address = Some(ip("127.245.0.1"));
    let store = store([
        server.into(),
        pod("other", "10.0.0.2").into(),
        service("named", Some("10.96.0.1"), &[(80, 0)]).into(),
        service("s", Some("10.96.0.2"), &[(80, 8080), (81, 0)]).into(),
        service("foreign", Some("10.96.0.3"), &[(80, 0)]).into(),
    ]);
    for (authority, want) in [
        ("10.0.0.1:8080", "10.0.0.1:8080 at 127.245.0.1:8080"),
        (
            "[::ffff:10.0.0.1]:8080",
            "10.0.0.1:8080 at 127.245.0.1:8080",
        ),
        ("10.0.0.2:8080", "400: ip mismatch: 10.0.0.1 != 10.0.0.2"),
        ("10.96.0.1:80", "400: ip mismatch: 10.0.0.1 != 10.96.0.1"),
        (
            "10.0.0.1:15008",
            "503: attempted recursive call to ourselves",
        ),
        ("named:80", "10.0.0.1:9999 at 127.245.0.1:9999"),
        ("s:80", "10.0.0.1:8080 at 127.245.0.1:8080"),
        (
            "s:81",
            "503: requested service s:81 found, but cannot resolve port",
        ),
        (
            "s:82",
            "503: requested service s:82 found, but cannot resolve port",
        ),
        (
            "foreign:80",
            "503: requested service foreign:80 found, but cannot resolve port",
        ),
        (
            "nobody:80",
            "503: no service or workload for hostname: nobody",
        ),
    ] {
        assert_eq!(
            outcome(&store, "server", "10.0.0.1", authority),
            want,
            "{authority}"
        );
    }
}

#[test]
fn a_sandwiched_waypoint_takes_what_it_is_the_waypoint_of() {
    let bound = |weighted: bool| {
        let mut guarded = service("guarded", Some("10.96.0.1"), &[(80, 8080)]);
        if weighted {
            guarded.weighted_waypoints = vec![WeightedWaypoint {
                destination: by_host("wp"),
                weight: 1,
            }];
        } else {
            guarded = guarded.behind("wp");
        }
        store([
            pod("wp-0", "10.0.0.9")
                .serving("wp", &[(15008, 15008)])
                .into(),
            service("wp", None, &[(15008, 15008)]).into(),
            guarded.into(),
            pod("pod", "10.0.0.2").behind("wp").into(),
            service("free", Some("10.96.0.2"), &[(80, 8080)]).into(),
        ])
    };
    for store in [bound(false), bound(true)] {
        for (authority, want) in [
            ("10.96.0.1:80", "10.0.0.9:80 at 10.0.0.9:80"),
            ("10.0.0.2:8080", "10.0.0.9:8080 at 10.0.0.9:8080"),
            ("10.96.0.2:80", "400: ip mismatch: 10.0.0.9 != 10.96.0.2"),
        ] {
            assert_eq!(
                outcome(&store, "wp-0", "10.0.0.9", authority),
                want,
                "{authority}"
            );
        }
    }
}

#[test]
fn an_application_tunnel_takes_everything_at_its_port() {
    let with = |protocol, port| {
        let mut wp = pod("wp-0", "10.0.0.9").serving("guarded", &[]);
        wp.application_tunnel = Some(ApplicationTunnel { protocol, port });
        store([
            wp.into(),
            service("guarded", Some("10.96.0.1"), &[(80, 8080)]).into(),
        ])
    };
    let store = with(TunnelHeader::Proxy, Some(15088));
    for (authority, want) in [
        (
            "10.96.0.7:80",
            "10.0.0.9:15088 at 10.0.0.9:15088 PROXY 10.96.0.7:80",
        ),
        (
            "guarded:80",
            "10.0.0.9:15088 at 10.0.0.9:15088 PROXY 10.96.0.1:80",
        ),
    ] {
        assert_eq!(outcome(&store, "wp-0", "10.0.0.9", authority), want);
    }
    let store = with(TunnelHeader::None, None);
    assert_eq!(
        outcome(&store, "wp-0", "10.0.0.9", "10.96.0.7:80"),
        "10.0.0.9:80 at 10.0.0.9:80"
    );
}
