//! Which request goes where, and how it is changed on the way.

use super::scenario;
use crate::scenarios::{Scenario, Site, Verdict};

/// A VirtualService for the scenario's service with these rules.
macro_rules! rules {
    ($rules:expr) => {
        concat!(
            "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: HOST, namespace: scenarios}\n",
            "spec:\n  hosts: [HOST]\n  http:\n",
            $rules
        )
    };
}
pub(super) use rules;

/// Rules that send what matches to v2 and everything else to v1.
macro_rules! matching {
    ($matching:expr) => {
        rules!(concat!(
            "  - match: [",
            $matching,
            "]\n    route: [{destination: {host: HOST, subset: v2}}]\n",
            "  - route: [{destination: {host: HOST, subset: v1}}]\n"
        ))
    };
}

/// Rules whose only destination is the service, with something besides.
macro_rules! with {
    ($besides:expr) => {
        rules!(concat!(
            "  - route: [{destination: {host: HOST}}]\n",
            $besides
        ))
    };
}
pub(super) use with;

/// Two requests: the first matches, the second does not.
fn tells_apart(site: &Site<'_>, yes: &[(&str, &str)], no: &[(&str, &str)]) -> Verdict {
    for (headers, pod) in [(yes, "echo-v2"), (no, "echo-v1")] {
        let ask = headers
            .iter()
            .fold(site.get("/p"), |ask, (name, value)| ask.header(name, value));
        ask.send()?
            .status(200)?
            .pod(pod)
            .map_err(|e| format!("{headers:?}: {e}"))?;
    }
    Ok(())
}

pub(super) fn paths(site: &Site<'_>, yes: &[&str], no: &[&str]) -> Verdict {
    for (paths, pod) in [(yes, "echo-v2"), (no, "echo-v1")] {
        for path in paths {
            site.get(path)
                .send()?
                .status(200)?
                .pod(pod)
                .map_err(|e| format!("{path}: {e}"))?;
        }
    }
    Ok(())
}

/// Headers by which a client could steer a proxy that trusts it.
const STEERING: [&str; 14] = [
    "x-envoy-expected-rq-timeout-ms",
    "x-envoy-force-trace",
    "x-envoy-hedge-on-per-try-timeout",
    "x-envoy-internal",
    "x-envoy-ip-tags",
    "x-envoy-max-retries",
    "x-envoy-retriable-header-names",
    "x-envoy-retriable-status-codes",
    "x-envoy-retry-grpc-on",
    "x-envoy-retry-on",
    "x-envoy-upstream-alt-stat-name",
    "x-envoy-upstream-rq-per-try-timeout-ms",
    "x-envoy-upstream-rq-timeout-ms",
    "x-forwarded-client-cert",
];

pub(super) const LIST: &[Scenario] = &[
    scenario(
        "headers: what only a proxy may say goes no further",
        "",
        |site| {
            let ask = STEERING
                .iter()
                .fold(site.get("/"), |ask, name| ask.header(name, "1"));
            let got = ask
                .header("x-envoy-attempt-count", "7")
                .send()?
                .status(200)?;
            let got = STEERING
                .iter()
                .try_fold(got, |got, name| got.saw(name, ""))?;
            got.saw("x-envoy-attempt-count", "7")?.done()
        },
    ),
    scenario(
        "routing: without rules, as it came with an id and the scheme",
        "",
        |site| {
            let got = site
                .get("/a/b?c=d")
                .header("x-mine", "1")
                .send()?
                .status(200)?
                .path("/a/b?c=d")?;
            if got.seen_header("x-request-id").len() != 36 {
                return Err(format!(
                    "x-request-id {:?}",
                    got.seen_header("x-request-id")
                ));
            }
            let host = format!("{}:80", site.vip);
            got.saw("x-forwarded-proto", "http")?
                .saw("x-mine", "1")?
                .saw("host", &host)?
                .saw("x-forwarded-for", "")?
                .done()
        },
    ),
    scenario(
        "routing: without rules, the answer names the proxy and the time",
        "",
        |site| {
            let got = site
                .get("/")
                .send()?
                .status(200)?
                .with("server", "istio-envoy")?;
            let time = got.header("x-envoy-upstream-service-time");
            time.parse::<u32>()
                .map_err(|_| format!("x-envoy-upstream-service-time {time:?}"))?;
            got.with("content-type", "application/json")?.done()
        },
    ),
    scenario("routing: without rules, over all endpoints", "", |site| {
        let pods = site.pods("/", 60)?;
        if pods.len() == 3 && pods.values().all(|n| *n >= 5) {
            Ok(())
        } else {
            Err(format!("{pods:?}"))
        }
    }),
    scenario(
        "routing: a request id that the client brings is replaced",
        "",
        |site| {
            let id = "11111111-1111-1111-1111-111111111111";
            site.get("/")
                .header("x-request-id", id)
                .send()?
                .status(200)?
                .saw("x-request-id", id)?
                .done()
        },
    ),
    scenario(
        "match: exact path",
        matching!("{uri: {exact: /exact}}"),
        |site| {
            paths(
                site,
                &["/exact", "/exact?q=1"],
                &["/exact/", "/exactly", "/EXACT"],
            )
        },
    ),
    scenario(
        "match: prefix",
        matching!("{uri: {prefix: /pre}}"),
        |site| {
            paths(
                site,
                &["/pre", "/prefix", "/pre/x?y=z"],
                &["/", "/x/pre", "/PRE"],
            )
        },
    ),
    scenario(
        "match: prefix with a slash at its end",
        matching!("{uri: {prefix: /pre/}}"),
        |site| paths(site, &["/pre/", "/pre/x"], &["/pre", "/prefix"]),
    ),
    scenario(
        "match: regex is of the whole path",
        matching!("{uri: {regex: '/item/[0-9]+'}}"),
        |site| {
            paths(
                site,
                &["/item/42", "/item/42?a"],
                &["/item/x", "/item/42/more", "/an/item/42"],
            )
        },
    ),
    scenario(
        "match: ignoring case",
        matching!("{uri: {exact: /Case}, ignoreUriCase: true}"),
        |site| paths(site, &["/case", "/CASE"], &["/cas"]),
    ),
    scenario(
        "match: method",
        matching!("{method: {exact: DELETE}}"),
        |site| {
            site.ask("DELETE", "/")
                .send()?
                .status(200)?
                .pod("echo-v2")?;
            site.get("/").send()?.status(200)?.pod("echo-v1")?.done()
        },
    ),
    scenario(
        "match: header, exact",
        matching!("{headers: {x-user: {exact: jason}}}"),
        |site| tells_apart(site, &[("x-user", "jason")], &[("x-user", "Jason")]),
    ),
    scenario(
        "match: header, name in any case",
        matching!("{headers: {x-user: {exact: jason}}}"),
        |site| tells_apart(site, &[("X-User", "jason")], &[]),
    ),
    scenario(
        "match: header, prefix",
        matching!("{headers: {x-user: {prefix: ja}}}"),
        |site| tells_apart(site, &[("x-user", "james")], &[("x-user", "bob")]),
    ),
    scenario(
        "match: header, regex",
        matching!("{headers: {x-user: {regex: '[a-c]+'}}}"),
        |site| tells_apart(site, &[("x-user", "abc")], &[("x-user", "abcd")]),
    ),
    scenario(
        "match: header, present",
        matching!("{headers: {x-user: {}}}"),
        |site| tells_apart(site, &[("x-user", "anybody")], &[]),
    ),
    scenario(
        "match: header, any of several lines",
        matching!("{headers: {x-user: {exact: b}}}"),
        |site| {
            tells_apart(
                site,
                &[("x-user", "a"), ("x-user", "b")],
                &[("x-user", "a,b")],
            )
        },
    ),
    scenario(
        "match: without a header",
        matching!("{withoutHeaders: {x-user: {exact: bad}}}"),
        |site| tells_apart(site, &[("x-user", "good")], &[("x-user", "bad")]),
    ),
    scenario(
        "match: query parameter, exact",
        matching!("{queryParams: {v: {exact: '2'}}}"),
        |site| paths(site, &["/?v=2", "/?a=1&v=2"], &["/", "/?v=22", "/?w=2"]),
    ),
    scenario(
        "match: query parameter, regex",
        matching!("{queryParams: {v: {regex: '[0-9]+'}}}"),
        |site| paths(site, &["/?v=2", "/?v=33"], &["/?v=x"]),
    ),
    scenario(
        "match: authority",
        matching!("{authority: {prefix: special}}"),
        |site| {
            // The host header is the connection's own, unless one is given: then there are two, and both proxies refuse.
            let got =
                site.raw(b"GET / HTTP/1.1\r\nhost: special.example\r\nconnection: close\r\n\r\n")?;
            if got.contains("x-pod: echo-v2") {
                Ok(())
            } else {
                Err(format!("{got:?}"))
            }
        },
    ),
    scenario(
        "match: all conditions of one match",
        matching!("{uri: {prefix: /a}, headers: {x-b: {exact: '1'}}}"),
        |site| {
            site.get("/a").header("x-b", "1").send()?.pod("echo-v2")?;
            site.get("/a").send()?.pod("echo-v1")?;
            site.get("/c")
                .header("x-b", "1")
                .send()?
                .pod("echo-v1")?
                .done()
        },
    ),
    scenario(
        "match: any of several matches",
        matching!("{uri: {exact: /a}}, {uri: {exact: /b}}"),
        |site| paths(site, &["/a", "/b"], &["/c"]),
    ),
    scenario(
        "match: the first rule that matches",
        rules!(
            "  - match: [{uri: {prefix: /a}}]\n    route: [{destination: {host: HOST, subset: v1}}]\n  - match: [{uri: {prefix: /a/b}}]\n    route: [{destination: {host: HOST, subset: v2}}]\n"
        ),
        |site| site.get("/a/b").send()?.status(200)?.pod("echo-v1")?.done(),
    ),
    scenario(
        "match: none is 404",
        rules!("  - match: [{uri: {prefix: /only}}]\n    route: [{destination: {host: HOST}}]\n"),
        |site| {
            site.get("/other")
                .flags("NR")
                .send()?
                .status(404)?
                .text("")?
                .with("server", "istio-envoy")?
                .attempts(0)?
                .done()
        },
    ),
    scenario(
        "split: by weight",
        rules!(
            "  - route:\n    - {destination: {host: HOST, subset: v1}, weight: 80}\n    - {destination: {host: HOST, subset: v2}, weight: 20}\n"
        ),
        |site| {
            let pods = site.pods("/", 500)?;
            let v2 = pods.get("echo-v2").copied().unwrap_or(0);
            if (55..=150).contains(&v2) && !pods.contains_key("echo-v3") {
                Ok(())
            } else {
                Err(format!("{pods:?}"))
            }
        },
    ),
    scenario(
        "split: weight 0 gets nothing",
        rules!(
            "  - route:\n    - {destination: {host: HOST, subset: v1}, weight: 0}\n    - {destination: {host: HOST, subset: v2}, weight: 100}\n"
        ),
        |site| {
            let pods = site.pods("/", 50)?;
            if pods.len() == 1 && pods.contains_key("echo-v2") {
                Ok(())
            } else {
                Err(format!("{pods:?}"))
            }
        },
    ),
    scenario(
        "headers: of the request, set, added, removed",
        with!(
            "    headers: {request: {set: {x-set: new}, add: {x-add: more}, remove: [x-gone]}}\n"
        ),
        |site| {
            let ask = site
                .get("/")
                .header("x-set", "old")
                .header("x-add", "first")
                .header("x-gone", "1");
            ask.send()?
                .status(200)?
                .saw("x-set", "new")?
                .saw("x-add", "first,more")?
                .saw("x-gone", "")?
                .done()
        },
    ),
    scenario(
        "headers: of the answer, set, added, removed",
        with!(
            "    headers: {response: {set: {x-pod: hidden}, add: {x-add: more}, remove: [x-gone]}}\n"
        ),
        |site| {
            let got = site
                .get("/")
                .having("header=x-gone:1")
                .send()?
                .status(200)?;
            got.with("x-pod", "hidden")?
                .with("x-add", "more")?
                .with("x-gone", "")?
                .done()
        },
    ),
    scenario(
        "headers: of one destination, within those of the rule",
        rules!(
            "  - route:\n    - destination: {host: HOST, subset: v1}\n      headers: {request: {set: {x-who: destination}}, response: {set: {x-where: destination}}}\n    headers: {request: {set: {x-rule: rule}}}\n"
        ),
        |site| {
            site.get("/")
                .send()?
                .status(200)?
                .saw("x-who", "destination")?
                .saw("x-rule", "rule")?
                .with("x-where", "destination")?
                .done()
        },
    ),
    scenario(
        "headers: a value with what the proxy knows",
        with!(
            "    headers: {request: {set: {x-path: '%REQ(:PATH)%', x-protocol: '%PROTOCOL%'}}}\n"
        ),
        |site| {
            site.get("/here")
                .send()?
                .status(200)?
                .saw("x-path", "/here")?
                .saw("x-protocol", "HTTP/1.1")?
                .done()
        },
    ),
    scenario(
        "rewrite: a prefix, with the query kept",
        rules!(
            "  - match: [{uri: {prefix: /old}}]\n    rewrite: {uri: /new}\n    route: [{destination: {host: HOST}}]\n"
        ),
        |site| {
            site.get("/old/x?y=z")
                .send()?
                .status(200)?
                .path("/new/x?y=z")?
                .done()
        },
    ),
    scenario(
        "rewrite: a prefix to the root, where a slash more is the user's",
        rules!(
            "  - match: [{uri: {prefix: /old}}]\n    rewrite: {uri: /}\n    route: [{destination: {host: HOST}}]\n"
        ),
        |site| {
            site.get("/old").send()?.status(200)?.path("/")?;
            site.get("/old/x").send()?.status(200)?.path("//x")?.done()
        },
    ),
    scenario(
        "rewrite: an exact path",
        rules!(
            "  - match: [{uri: {exact: /old}}]\n    rewrite: {uri: /new}\n    route: [{destination: {host: HOST}}]\n"
        ),
        |site| {
            site.get("/old?y=z")
                .send()?
                .status(200)?
                .path("/new?y=z")?
                .done()
        },
    ),
    scenario(
        "rewrite: by regex with groups",
        with!("    rewrite: {uriRegexRewrite: {match: '/a/([0-9]+)', rewrite: '/b/\\1/c'}}\n"),
        |site| {
            site.get("/a/42?q=1")
                .send()?
                .status(200)?
                .path("/b/42/c?q=1")?
                .done()
        },
    ),
    scenario(
        "rewrite: the authority",
        with!("    rewrite: {authority: other.example}\n"),
        |site| {
            site.get("/")
                .send()?
                .status(200)?
                .saw("host", "other.example")?
                .done()
        },
    ),
    scenario(
        "redirect: path, with 301, and the query kept",
        rules!("  - redirect: {uri: /there}\n"),
        |site| {
            let want = format!("http://{}:80/there?q=1", site.vip);
            site.get("/here?q=1")
                .send()?
                .status(301)?
                .with("location", &want)?
                .text("")?
                .attempts(0)?
                .done()
        },
    ),
    scenario(
        "redirect: host, scheme, code",
        rules!("  - redirect: {authority: other.example, scheme: https, redirectCode: 308}\n"),
        |site| {
            site.get("/here?q=1")
                .send()?
                .status(308)?
                .with("location", "https://other.example/here?q=1")?
                .done()
        },
    ),
    scenario(
        "redirect: port",
        rules!("  - redirect: {authority: other.example, port: 8443}\n"),
        |site| {
            site.get("/x")
                .send()?
                .status(301)?
                .with("location", "http://other.example:8443/x")?
                .done()
        },
    ),
    scenario(
        "direct response: status and body",
        rules!("  - directResponse: {status: 418, body: {string: tea}}\n"),
        |site| {
            site.get("/")
                .send()?
                .status(418)?
                .text("tea")?
                .with("content-type", "text/plain")?
                .attempts(0)?
                .done()
        },
    ),
    scenario(
        "direct response: without body",
        rules!("  - directResponse: {status: 503}\n"),
        |site| site.get("/").send()?.status(503)?.text("")?.done(),
    ),
];
