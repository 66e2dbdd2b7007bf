//! The version of HTTP that an application is spoken to in, and what is no HTTP/2.

use super::routing::rules;
use super::{differs, scenario};
use crate::scenarios::got::same;
use crate::scenarios::wire::{GET, Said, Wire};
use crate::scenarios::{Known, Scenario, Site, Verdict};

/// A DestinationRule of the scenario's service with settings of HTTP connections.
macro_rules! pool {
    ($settings:expr) => {
        concat!(
            "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: HOST, namespace: scenarios}\n",
            "spec:\n  host: HOST\n  trafficPolicy: {connectionPool: {http: {",
            $settings,
            "}}}\n"
        )
    };
}

/// What the application is spoken to in, by clients of both versions.
fn spoken(site: &Site<'_>, port: u16, to_http1: &str, to_http2: &str) -> Verdict {
    let got = site.get("/").port(port).send()?.status(200)?;
    same("for HTTP/1.1", &got.seen("protocol"), &to_http1.into())?;
    let got = site.http2("GET", "/").port(port).send()?.got.status(200)?;
    same("for HTTP/2", &got.seen("protocol"), &to_http2.into())
}

/// Fields of a request, and what is sent of its body.
type Bad = (Vec<(&'static str, &'static str)>, &'static [u8]);

/// Requests that are malformed in one way each.
fn malformed() -> Vec<Bad> {
    let with = |field| [&GET[..], &[field]].concat();
    vec![
        (with(("X-Upper", "1")), b""),
        (with(("connection", "close")), b""),
        (with(("transfer-encoding", "chunked")), b""),
        (with(("te", "gzip")), b""),
        (with((":path", "/again")), b""),
        (with((":status", "200")), b""),
        (with((":unheard-of", "1")), b""),
        ([&[("x-first", "1")], &GET[..]].concat(), b""),
        (GET[..2].to_vec(), b""),
        (with(("content-length", "3")), b"four"),
        (with(("x-line", "a\r\nb: c")), b""),
        (with(("x nul", "a")), b""),
    ]
}

pub(super) const LIST: &[Scenario] = &[
    scenario(
        "upstream protocol: HTTP/1.1 on a port named http, whatever the client speaks",
        "",
        |site| spoken(site, 83, "HTTP/1.1", "HTTP/1.1"),
    ),
    scenario(
        "upstream protocol: HTTP/2 on a port named http2, whatever the client speaks",
        "",
        |site| spoken(site, 82, "HTTP/2", "HTTP/2"),
    ),
    scenario(
        "upstream protocol: the client's where the port does not say",
        "",
        |site| spoken(site, 7003, "HTTP/1.1", "HTTP/2"),
    ),
    scenario(
        "upstream protocol: HTTP/2 with h2UpgradePolicy UPGRADE",
        pool!("h2UpgradePolicy: UPGRADE"),
        |site| spoken(site, 83, "HTTP/2", "HTTP/2"),
    ),
    scenario(
        "upstream protocol: the client's with useClientProtocol",
        pool!("useClientProtocol: true"),
        |site| spoken(site, 83, "HTTP/1.1", "HTTP/2"),
    ),
    scenario(
        "match: port",
        rules!(
            "  - match: [{port: 82}]\n    route: [{destination: {host: HOST, subset: v2}}]\n  - match: [{port: 83}]\n    route: [{destination: {host: HOST, subset: v1}}]\n"
        ),
        |site| {
            site.get("/").port(82).send()?.pod("echo-v2")?;
            site.get("/").port(83).send()?.pod("echo-v1")?;
            // A port that no rule is about has the routes of a service without rules.
            site.get("/").port(7003).send()?.status(200)?.done()
        },
    ),
    scenario(
        "http2: malformed requests never get to the application",
        "",
        |site| {
            // Envoy has a line for the connection that it ends.
            site.may_log("DPE");
            for (fields, body) in malformed() {
                let id = site.unlogged();
                let mut wire = Wire::connect(site, 82)?;
                let fields = [&fields[..], &[("x-id", id.as_str())]].concat();
                wire.open(1, &fields, body.is_empty())?;
                if !body.is_empty() {
                    wire.data(1, body, true)?;
                }
                let said = wire.said(1)?;
                if said == Said::Headers && site.reached(&id) {
                    return Err(format!("answered: {fields:?}"));
                }
            }
            Ok(())
        },
    ),
    differs(
        Known {
            of: "envoy",
            reason: "ends the whole connection over a malformed request; HTTP/2 asks that only its stream is reset (RFC 9113, 8.1.1)",
        },
        scenario(
            "http2: a malformed request costs the others on its connection nothing",
            "",
            |site| {
                let mut wire = Wire::connect(site, 82)?;
                let id = site.unlogged();
                let waits = [&GET[..], &[("x-id", &id), ("x-do", "hold")]].concat();
                wire.open(1, &waits, true)?;
                same("the answer", &wire.said(1)?, &Said::Headers)?;
                let bad = [&GET[..], &[("connection", "close")]].concat();
                wire.open(3, &bad, true)?;
                same("to the malformed one", &wire.said(3)?, &Said::Reset)?;
                site.ground.apps.go_on(&id);
                wire.open(5, &GET, true)?;
                same("the next answer", &wire.said(5)?, &Said::Headers)
            },
        ),
    ),
];
