//! TCP, and protocols that are found out.

use std::io::{Read, Write};

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

pub(super) const LIST: &[Scenario] = &[
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
            reason: "closes a connection whose end arrives before its protocol is found out",
        },
        scenario(
            "undeclared protocol: other bytes and the client's end at once",
            "",
            |site| echoed(site, 7001, &[0, 1, 2, 3, 255, 254]),
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
];
