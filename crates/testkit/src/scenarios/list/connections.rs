//! TCP, and protocols that are found out.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use super::failures::service;
use super::routing::rules;
use super::{differs, scenario};
use crate::scenarios::{Known, Scenario, Site, Verdict};

/// What comes back is a pod's name, the same bytes, and the application's good-bye after our end.
fn echoed(site: &Site<'_>, port: u16, bytes: &[u8]) -> Verdict {
    let got = site.exchange(port, bytes)?;
    let Some(rest) = got.strip_prefix(b"echo-v").and_then(|rest| rest.get(2..)) else {
        return Err(format!(
            "no greeting: {:?}",
            String::from_utf8_lossy(&got[..got.len().min(40)])
        ));
    };
    let want = [bytes, b"\nbye"].concat();
    if rest == want {
        Ok(())
    } else {
        Err(format!("{} bytes came back of {}", rest.len(), want.len()))
    }
}

/// The whole of what an application said that ended the connection.
fn ended(got: &[u8], want: &[u8]) -> Verdict {
    if got.starts_with(b"echo-v") && got.ends_with(want) {
        Ok(())
    } else {
        Err(format!("{:?}", String::from_utf8_lossy(got)))
    }
}

/// A connection on which nothing comes but its end.
fn closed(site: &Site<'_>, port: u16) -> Verdict {
    let mut stream = site.connect(port)?;
    // It may be over before that.
    let _ = stream.write_all(b"x");
    let mut got = Vec::new();
    match stream.read_to_end(&mut got) {
        Ok(0) => Ok(()),
        Err(e) if e.kind() == std::io::ErrorKind::ConnectionReset => Ok(()),
        other => Err(format!("{other:?} instead of the end")),
    }
}

/// A DestinationRule of the scenario's service with settings of TCP connections.
macro_rules! pool {
    ($settings:expr) => {
        concat!(
            "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: HOST, namespace: scenarios}\n",
            "spec:\n  host: HOST\n  trafficPolicy: {connectionPool: {tcp: {",
            $settings,
            "}}}\n"
        )
    };
}

/// One byte there and back, after the greeting of a connection.
fn byte(stream: &mut TcpStream) -> std::io::Result<()> {
    stream.write_all(b"x")?;
    stream.read_exact(&mut [0; 1])
}

/// How long a connection lasts on which a byte is exchanged every so often, or none.
fn lasts(site: &Site<'_>, pause: Option<Duration>) -> Result<Duration, String> {
    let mut stream = site.connect(9000)?;
    stream.write_all(b"x").map_err(|e| e.to_string())?;
    let began = Instant::now();
    stream
        .read_exact(&mut [0; 9])
        .map_err(|e| format!("greeting: {e}"))?;
    let Some(pause) = pause else {
        return match stream.read(&mut [0; 1]) {
            Ok(0) => Ok(began.elapsed()),
            other => Err(format!("{other:?} instead of the end")),
        };
    };
    while byte(&mut stream).is_ok() {
        if began.elapsed() > Duration::from_secs(8) {
            return Err("it does not end".to_owned());
        }
        std::thread::park_timeout(pause);
    }
    Ok(began.elapsed())
}

fn between(took: Duration, from: u64, to: u64) -> Verdict {
    if (from..=to).contains(&u64::try_from(took.as_millis()).unwrap_or(u64::MAX)) {
        Ok(())
    } else {
        Err(format!("it lasted {took:?}, want {from} to {to} ms"))
    }
}

pub(super) const LIST: &[Scenario] = &[
    scenario(
        "tcp: an idle connection ends after idleTimeout, one in use does not",
        pool!("idleTimeout: 1s"),
        |site| {
            between(lasts(site, None)?, 950, 6000)?;
            let mut used = site.connect(9000)?;
            used.write_all(b"x").map_err(|e| e.to_string())?;
            used.read_exact(&mut [0; 9]).map_err(|e| e.to_string())?;
            for _ in 0..8 {
                std::thread::park_timeout(Duration::from_millis(250));
                byte(&mut used).map_err(|e| format!("in use: {e}"))?;
            }
            Ok(())
        },
    ),
    scenario(
        "tcp: a connection in use ends after maxConnectionDuration",
        pool!("maxConnectionDuration: 1s"),
        |site| {
            site.also_logged(9000, "DT");
            between(lasts(site, Some(Duration::from_millis(50)))?, 950, 6000)
        },
    ),
    scenario(
        "tcp: bytes both ways, and a half-closed connection",
        "",
        |site| echoed(site, 9000, b"hello"),
    ),
    scenario("tcp: 5 MB both ways", "", |site| {
        echoed(site, 9000, &vec![42; 5_000_000])
    }),
    scenario("tcp: HTTP on a TCP port stays bytes", "", |site| {
        echoed(site, 9000, b"GET / HTTP/1.1\r\nhost: h\r\n\r\n")
    }),
    scenario("tcp: over all endpoints", "", |site| {
        let mut pods = std::collections::BTreeSet::new();
        for _ in 0..40 {
            pods.insert(
                site.exchange(9000, b"x")?
                    .into_iter()
                    .take(7)
                    .collect::<Vec<_>>(),
            );
        }
        if pods.len() == 3 {
            Ok(())
        } else {
            Err(format!("{} pods", pods.len()))
        }
    }),
    scenario("undeclared protocol: HTTP is found out", "", |site| {
        site.get("/found")
            .port(7000)
            .send()?
            .status(200)?
            .path("/found")?
            .with("server", "istio-envoy")?
            .done()
    }),
    scenario("undeclared protocol: other bytes are passed", "", |site| {
        let mut stream = site.connect(7001)?;
        stream
            .write_all(&[0, 1, 2, 3, 255, 254])
            .map_err(|e| e.to_string())?;
        let mut back = [0; 14];
        stream.read_exact(&mut back).map_err(|e| e.to_string())?;
        if back.starts_with(b"echo-v") && back.ends_with(&[0, 1, 2, 3, 255, 254]) {
            Ok(())
        } else {
            Err(format!("{back:?}"))
        }
    }),
    differs(
        Known {
            of: "envoy",
            reason: "closes a connection whose end arrives before its protocol is found out, and what was sent is lost",
        },
        scenario(
            "undeclared protocol: other bytes and the client's end at once",
            "",
            // Now and then the bytes are read before the end arrives, and Envoy passes them.
            |site| (0..20).try_for_each(|_| echoed(site, 7001, &[0, 1, 2, 3, 255, 254])),
        ),
    ),
    scenario(
        "undeclared protocol: an application that speaks first is heard once the client has spoken",
        "",
        |site| {
            let mut stream = site.connect(7002)?;
            stream.write_all(&[0, 1, 2]).map_err(|e| e.to_string())?;
            let mut greeting = [0; 8];
            stream
                .read_exact(&mut greeting)
                .map_err(|e| format!("greeting: {e}"))?;
            if greeting.starts_with(b"echo-v") {
                Ok(())
            } else {
                Err(format!("{greeting:?}"))
            }
        },
    ),
    scenario("tcp: the application ends the connection", "", |site| {
        let mut stream = site.connect(9000)?;
        stream.write_all(b"close!").map_err(|e| e.to_string())?;
        let mut got = Vec::new();
        stream.read_to_end(&mut got).map_err(|e| e.to_string())?;
        ended(&got, b"close!")
    }),
    scenario("tcp: the application ends its half", "", |site| {
        let mut stream = site.connect(9000)?;
        stream.write_all(b"half!").map_err(|e| e.to_string())?;
        let mut got = Vec::new();
        stream.read_to_end(&mut got).map_err(|e| e.to_string())?;
        // The other half is still open.
        stream
            .write_all(&[1; 100_000])
            .map_err(|e| format!("send after its end: {e}"))?;
        ended(&got, b"half!")
    }),
    scenario("tcp: the application resets the connection", "", |site| {
        let mut stream = site.connect(9000)?;
        stream.write_all(b"reset!").map_err(|e| e.to_string())?;
        let mut got = Vec::new();
        // What was sent may be overtaken; the connection is over in any case.
        match stream.read_to_end(&mut got) {
            Err(e) if e.kind() != std::io::ErrorKind::ConnectionReset => Err(e.to_string()),
            Ok(_) | Err(_) => Ok(()),
        }
    }),
    scenario(
        "tcp: a service without endpoints",
        service!("nobody", "tcp, port: 9000"),
        |site| {
            site.also_logged(9000, "UH");
            closed(site, 9000)
        },
    ),
    scenario(
        "tcp: an application that does not listen",
        service!("absent", "tcp, port: 9000"),
        |site| {
            site.may_log("UF,URX");
            site.may_log("UR");
            closed(site, 9000)
        },
    ),
    differs(
        Known {
            of: "waymark",
            reason: "deliberate, docs/decisions/0005: a tunnel that the application's node refuses with 503 is a connection that failed (flags UF, URX), so other endpoints are tried; Envoy gives up at once",
        },
        scenario(
            "tcp: an application that does not listen counts as one that reset",
            service!("absent", "tcp, port: 9000"),
            |site| {
                site.also_logged(9000, "UR");
                closed(site, 9000)
            },
        ),
    ),
    scenario(
        "tcp: more connections than a circuit breaker admits are closed",
        concat!(
            "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: HOST, namespace: scenarios}\n",
            "spec:\n  host: HOST\n  trafficPolicy: {connectionPool: {tcp: {maxConnections: 1}}}\n"
        ),
        |site| {
            let mut first = site.connect(9000)?;
            first.write_all(b"x").map_err(|e| e.to_string())?;
            first.read_exact(&mut [0; 9]).map_err(|e| e.to_string())?;
            site.also_logged(9000, "UO");
            closed(site, 9000)
        },
    ),
    scenario(
        "undeclared protocol: no route for what turns out to be HTTP is 404",
        rules!("  - match: [{uri: {prefix: /only}}]\n    route: [{destination: {host: HOST}}]\n"),
        |site| {
            site.get("/")
                .port(7000)
                .flags("NR")
                .send()?
                .status(404)?
                .done()
        },
    ),
];
