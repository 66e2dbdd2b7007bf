//! Time limits, retries, and applications that fail or are not there.

use std::net::SocketAddr;
use std::time::Duration;

use super::routing::{rules, with};
use super::{differs, scenario};
use crate::scenarios::{ANY, Known, Scenario, Site, Verdict};

/// The scenario's service in front of the pods of some application, with one port.
macro_rules! service {
    ($app:expr, $port:expr) => {
        concat!(
            "apiVersion: v1\nkind: Service\nmetadata: {name: HOST, namespace: scenarios}\nspec:\n  selector: {app: ",
            $app,
            "}\n  ports:\n  - {name: ",
            $port,
            "}\n"
        )
    };
}
pub(super) use service;

/// A tunnel that no chain serves is opened and closed at once.
fn unserved(site: &Site<'_>, to: SocketAddr) -> Verdict {
    site.logged_at(to, "NR");
    match site.tunnel(to, b"GET / HTTP/1.1\r\nhost: h\r\n\r\n") {
        Ok(bytes) if !bytes.is_empty() => Err(format!("{} bytes came back", bytes.len())),
        // Whether it is ended or reset is nothing that a client sees through its node proxy.
        Ok(_) | Err(_) => Ok(()),
    }
}

pub(super) const LIST: &[Scenario] = &[
    scenario(
        "timeout: of the rule",
        with!("    timeout: 0.3s\n    retries: {attempts: 0}\n"),
        |site| {
            let got = site
                .get("/")
                .having("delay=3000")
                .flags("UT")
                .send()?
                .status(504)?
                .text("upstream request timeout")?;
            got.with("server", "istio-envoy")?.within(280, 2900)?.done()
        },
    ),
    scenario("timeout: none without one", "", |site| {
        site.get("/")
            .having("delay=1200")
            .send()?
            .status(200)?
            .within(1200, 9000)?
            .done()
    }),
    scenario(
        "timeout: of each attempt, retried",
        with!("    retries: {attempts: 2, perTryTimeout: 0.2s, retryOn: 'gateway-error,reset'}\n"),
        |site| {
            site.get("/")
                .having("delay=3000")
                .flags("URX,UT")
                .send()?
                .status(504)?
                .within(580, 2900)?
                .done()
        },
    ),
    scenario(
        "timeout: of one attempt, and the next one answers",
        with!("    retries: {attempts: 2, perTryTimeout: 0.3s, retryOn: 'gateway-error,reset'}\n"),
        |site| {
            let got = site.get("/").having("fail=1 code=200 stall=3000").send()?;
            got.status(200)?.attempts(2)?.within(280, 2900)?.done()
        },
    ),
    scenario(
        "timeout: of the rule, amid the body, breaks the answer off",
        with!("    timeout: 0.5s\n    retries: {attempts: 0}\n"),
        |site| {
            let ask = site.get("/").having("hold size=1000").flags("UT");
            ask.start()?.broken_off(1000)
        },
    ),
    scenario(
        "timeout: of the rule, counted from the end of the request",
        with!("    timeout: 0.5s\n    retries: {attempts: 0}\n"),
        |site| {
            let ask = site.ask("POST", "/").body(vec![1; 10]);
            let mut slow = ask.start_with(5)?;
            // Longer than the timeout: time has to pass.
            std::thread::park_timeout(Duration::from_millis(700));
            slow.send(&[1; 5])?;
            slow.answer()?.status(200)?.within(700, 9000)?.done()
        },
    ),
    scenario(
        "retry: the default policy not on 503 of the application",
        "",
        |site| {
            site.get("/")
                .having("fail=1")
                .send()?
                .status(503)?
                .attempts(1)?
                .done()
        },
    ),
    scenario("retry: the default policy not on 500", "", |site| {
        site.get("/")
            .having("fail=1 code=500")
            .send()?
            .status(500)?
            .attempts(1)?
            .done()
    }),
    scenario(
        "retry: none with 0 attempts",
        with!("    retries: {attempts: 0}\n"),
        |site| {
            site.get("/")
                .having("fail=1")
                .send()?
                .status(503)?
                .attempts(1)?
                .done()
        },
    ),
    scenario(
        "retry: as often as allowed, then the last answer",
        with!("    retries: {attempts: 3, retryOn: 5xx, backoff: 10ms}\n"),
        |site| {
            site.get("/")
                .having("fail=9 code=500")
                .flags("URX")
                .send()?
                .status(500)?
                .attempts(4)?
                .done()
        },
    ),
    scenario(
        "retry: on 5xx",
        with!("    retries: {attempts: 2, retryOn: 5xx}\n"),
        |site| {
            site.get("/")
                .having("fail=1 code=500")
                .send()?
                .status(200)?
                .attempts(2)?
                .done()
        },
    ),
    scenario(
        "retry: on gateway errors, not on 500",
        with!("    retries: {attempts: 2, retryOn: gateway-error}\n"),
        |site| {
            site.get("/")
                .having("fail=1 code=502")
                .send()?
                .status(200)?
                .attempts(2)?;
            site.get("/")
                .having("fail=1 code=500")
                .send()?
                .status(500)?
                .attempts(1)?
                .done()
        },
    ),
    scenario(
        "retry: on a status code",
        with!("    retries: {attempts: 2, retryOn: '418'}\n"),
        |site| {
            site.get("/")
                .having("fail=1 code=418")
                .send()?
                .status(200)?
                .attempts(2)?;
            site.get("/")
                .having("fail=1 code=503")
                .send()?
                .status(503)?
                .attempts(1)?
                .done()
        },
    ),
    scenario(
        "retry: on 409 as retriable-4xx",
        with!("    retries: {attempts: 2, retryOn: retriable-4xx}\n"),
        |site| {
            site.get("/")
                .having("fail=1 code=409")
                .send()?
                .status(200)?
                .attempts(2)?;
            site.get("/")
                .having("fail=1 code=404")
                .send()?
                .status(404)?
                .attempts(1)?
                .done()
        },
    ),
    scenario(
        "retry: on a reset",
        with!("    retries: {attempts: 2, retryOn: reset}\n"),
        |site| {
            site.get("/")
                .having("reset fail=1")
                .send()?
                .status(200)?
                .attempts(2)?
                .done()
        },
    ),
    scenario(
        "retry: with the body again",
        with!("    retries: {attempts: 2, retryOn: 5xx}\n"),
        |site| {
            let got = site
                .ask("POST", "/")
                .having("fail=1")
                .body(vec![3; 20_000])
                .send()?
                .status(200)?
                .attempts(2)?;
            if got.seen("sum") == 60_000 {
                Ok(())
            } else {
                Err(format!("sum {}", got.seen("sum")))
            }
        },
    ),
    scenario(
        "retry: on another endpoint",
        with!("    retries: {attempts: 1, retryOn: 5xx, backoff: 1ms}\n"),
        |site| {
            let mut elsewhere = 0;
            for _ in 0..10 {
                let got = site
                    .get("/")
                    .having("fail=1")
                    .send()?
                    .status(200)?
                    .attempts(2)?;
                elsewhere += usize::from(got.pods.first() != got.pods.last());
            }
            // By chance it may be the same again, once in some hundred.
            if elsewhere >= 8 {
                Ok(())
            } else {
                Err(format!("{elsewhere} of 10 went elsewhere"))
            }
        },
    ),
    scenario(
        "retry: headers of the client have no say",
        with!("    retries: {attempts: 0}\n"),
        |site| {
            let ask = site
                .get("/")
                .having("fail=1 code=500")
                .header("x-envoy-retry-on", "5xx")
                .header("x-envoy-max-retries", "2");
            ask.send()?.status(500)?.attempts(1)?.done()
        },
    ),
    scenario(
        "failure: an application that resets is 503",
        with!("    retries: {attempts: 0}\n"),
        |site| {
            let got = site
                .get("/")
                .having("reset")
                .flags("UC")
                .send()?
                .status(503)?
                .attempts(1)?;
            got.containing("upstream connect error or disconnect/reset before headers.")?
                .done()
        },
    ),
    scenario(
        "failure: an answer that breaks off breaks off for the client",
        with!("    retries: {attempts: 0}\n"),
        |site| match site.get("/").having("cut size=100000").flags("UPE").send() {
            Err(why) if why.contains("cut short") || why.contains("reset") => Ok(()),
            other => Err(format!("{other:?}")),
        },
    ),
    scenario(
        "failure: an application that answers with what is no HTTP is 502",
        with!("    retries: {attempts: 0}\n"),
        |site| {
            let got = site.get("/").having("garbage").flags("UPE").send()?;
            got.status(502)?
                .containing("reset reason: protocol error")?
                .done()
        },
    ),
    scenario(
        "failure: a client that goes away while it waits",
        "",
        |site| {
            site.get("/")
                .having("delay=1500")
                .flags("DC")
                .start()
                .map(drop)
        },
    ),
    scenario(
        "failure: a service without endpoints is 503",
        service!("nobody", "http, port: 80"),
        |site| {
            site.get("/")
                .flags("UH")
                .send()?
                .status(503)?
                .text("no healthy upstream")?
                .done()
        },
    ),
    scenario(
        "failure: a subset without endpoints is 503",
        rules!("  - route: [{destination: {host: HOST, subset: none}}]\n"),
        |site| {
            site.get("/")
                .flags("UH")
                .send()?
                .status(503)?
                .text("no healthy upstream")?
                .done()
        },
    ),
    scenario(
        "failure: a subset that no rule defines is 503",
        rules!("  - route: [{destination: {host: HOST, subset: unheard-of}}]\n"),
        |site| {
            let got = site.get("/").flags("NC").send()?;
            got.status(503)?.text("")?.done()
        },
    ),
    scenario(
        "failure: an application that does not listen is 503",
        service!("absent", "http, port: 80, targetPort: 8080"),
        |site| {
            site.get("/")
                .flags(ANY)
                .send()?
                .status(503)?
                .containing("upstream connect error or disconnect/reset before headers.")?
                .done()
        },
    ),
    differs(
        Known {
            of: "waymark",
            reason: "deliberate, docs/decisions/0005: a tunnel that the application's node refuses with 503 is a connection that failed (flags UF, URX), so other endpoints are tried; Envoy gives up at once",
        },
        scenario(
            "failure: an application that does not listen counts as one that hung up",
            service!("absent", "http, port: 80, targetPort: 8080"),
            |site| site.get("/").flags("UC").send()?.status(503)?.done(),
        ),
    ),
    scenario(
        "failure: more requests than a circuit breaker admits are 503",
        concat!(
            "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: HOST, namespace: scenarios}\n",
            "spec:\n  host: HOST\n  trafficPolicy: {connectionPool: {http: {http2MaxRequests: 1}}}\n"
        ),
        |site| {
            let first = site.get("/").having("delay=1500").start()?;
            let got = site.get("/").flags("UO").send()?.status(503)?;
            got.with("x-envoy-overloaded", "true")?
                .containing("reset reason: overflow")?
                .attempts(0)?;
            first.answer()?.status(200)?.done()
        },
    ),
    scenario(
        "failure: a tunnel to an address that is no service's is closed",
        "",
        |site| unserved(site, SocketAddr::from(([127, 96, 250, 9], 80))),
    ),
    scenario(
        "failure: a tunnel to a port that the service has not is closed",
        "",
        |site| unserved(site, SocketAddr::new(site.vip, 81)),
    ),
];
