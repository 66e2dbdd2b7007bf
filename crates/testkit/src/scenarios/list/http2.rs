//! HTTP/2 without gRPC, and conversions between it and HTTP/1.1.

use super::routing::{rules, with};
use super::scenario;
use crate::scenarios::{Scenario, Verdict};

fn length(got: usize, want: usize) -> Verdict {
    if got == want {
        Ok(())
    } else {
        Err(format!("{got} bytes, want {want}"))
    }
}

pub(super) const LIST: &[Scenario] = &[
    scenario("http2: as it came, with an id and the scheme", "", |site| {
        let host = format!("{}:82", site.vip);
        let got = site
            .http2("GET", "/a/b?c=d")
            .header("x-mine", "1")
            .send()?
            .got;
        let got = got.status(200)?.path("/a/b?c=d")?.saw("x-mine", "1")?;
        if got.seen_header("x-request-id").len() != 36 {
            return Err("no x-request-id".to_owned());
        }
        got.saw("x-forwarded-proto", "http")?
            .saw("host", &host)?
            .with("server", "istio-envoy")?
            .done()
    }),
    scenario("http2: bodies of 5 MB both ways", "", |site| {
        let reply = site
            .http2("POST", "/")
            .body(vec![7; 5_000_000])
            .having("size=5000000")
            .send()?;
        length(reply.got.status(200)?.answer.body.len(), 5_000_000)
    }),
    scenario(
        "http2: trailers of the request and of the answer",
        "",
        |site| {
            let call = site
                .http2("POST", "/")
                .body(b"x".to_vec())
                .trailer("x-end", "1");
            let reply = call
                .having("trailer=x-sum:2")
                .send()?
                .with_trailer("x-sum", "2")?;
            let trailers = reply.got.seen("trailers").to_string();
            if trailers == r#"[["x-end","1"]]"# {
                Ok(())
            } else {
                Err(format!("trailers of the request {trailers}"))
            }
        },
    ),
    scenario("http2: no body for HEAD and with 204", "", |site| {
        let head = site.http2("HEAD", "/").send()?.got;
        head.status(200)?.text("")?;
        let none = site
            .http2("GET", "/")
            .having("status=204 size=0")
            .send()?
            .got;
        none.status(204)?.text("")?.done()
    }),
    scenario("http2: a client of HTTP/1.1 in front of it", "", |site| {
        let got = site.get("/x").port(82).send()?.status(200)?.path("/x")?;
        got.with("server", "istio-envoy")?.done()
    }),
    scenario(
        "http2: a client of HTTP/1.1 with a chunked body in front of it",
        "",
        |site| {
            let text = b"POST / HTTP/1.1\r\nhost: h\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n4\r\ndefg\r\n0\r\n\r\n";
            let got = site.raw_on(82, text)?;
            if got.contains("\"bytes\":7") {
                Ok(())
            } else {
                Err(got)
            }
        },
    ),
    scenario("http2: on a port that is named http", "", |site| {
        let call = site.http2("GET", "/x").port(83);
        call.send()?.got.status(200)?.path("/x")?.done()
    }),
    scenario("http2: found out where the port does not say", "", |site| {
        let call = site.http2("POST", "/x").port(7003).body(b"abc".to_vec());
        call.send()?.got.status(200)?.path("/x")?.done()
    }),
    scenario(
        "http2: gRPC found out where the port does not say",
        "",
        |site| {
            site.grpc(b"x")
                .port(7003)
                .send()?
                .grpc(0)?
                .with_trailer("grpc-status", "0")?
                .done()
        },
    ),
    scenario(
        "http2: matches, rewrites and header changes",
        rules!(
            "  - match: [{uri: {prefix: /old}, method: {exact: PUT}, headers: {x-user: {exact: jason}}}]\n    rewrite: {uri: /new, authority: other.example}\n    headers: {request: {set: {x-set: new}}, response: {add: {x-add: more}}}\n    route: [{destination: {host: HOST, subset: v2}}]\n  - route: [{destination: {host: HOST, subset: v1}}]\n"
        ),
        |site| {
            let call = site.http2("PUT", "/old/x?y=z").header("x-user", "jason");
            let got = call.send()?.got.status(200)?.pod("echo-v2")?;
            got.path("/new/x?y=z")?
                .saw("x-set", "new")?
                .saw("host", "other.example")?
                .with("x-add", "more")?;
            site.http2("PUT", "/old").send()?.got.pod("echo-v1")?.done()
        },
    ),
    scenario(
        "http2: a redirect and a direct response",
        rules!(
            "  - match: [{uri: {prefix: /r}}]\n    redirect: {uri: /there}\n  - directResponse: {status: 418, body: {string: tea}}\n"
        ),
        |site| {
            let want = format!("http://{}:82/there", site.vip);
            site.http2("GET", "/r")
                .send()?
                .got
                .status(301)?
                .with("location", &want)?;
            site.http2("GET", "/")
                .send()?
                .got
                .status(418)?
                .text("tea")?
                .done()
        },
    ),
    scenario("http2: an answer before the body is complete", "", |site| {
        let call = site
            .http2("POST", "/")
            .body(vec![1; 3_000_000])
            .having("early status=413 size=3");
        call.send()?.got.status(413)?.done()
    }),
    scenario("http2: headers of 50 kB pass", "", |site| {
        let long = "x".repeat(50_000);
        let got = site
            .http2("GET", "/")
            .header("x-long", &long)
            .send()?
            .got
            .status(200)?;
        length(got.seen_header("x-long").len(), 50_000)
    }),
    scenario(
        "http2: the slow hold back no other on the connection",
        "",
        |site| {
            let mut connection = site.http2_connection(82)?;
            let slow = connection.open(&site.http2("GET", "/").having("delay=1500"))?;
            for _ in 0..10 {
                let reply = site.http2("GET", "/").send_on(&mut connection)?;
                reply.got.status(200)?.within(0, 1400)?;
            }
            slow.reply()?.got.status(200)?.within(1400, 9000)?.done()
        },
    ),
    scenario(
        "http2: timeout of the rule",
        with!("    timeout: 0.3s\n    retries: {attempts: 0}\n"),
        |site| {
            let call = site.http2("GET", "/").having("delay=3000").flags("UT");
            let got = call
                .send()?
                .got
                .status(504)?
                .text("upstream request timeout")?;
            got.within(280, 2900)?.done()
        },
    ),
    scenario(
        "http2: a stream that is reset before the answer is 503",
        "",
        |site| {
            let call = site.http2("GET", "/").having("rst=internal").flags("UR");
            let got = call.send()?.got.status(503)?.attempts(1)?;
            got.containing("upstream connect error or disconnect/reset before headers.")?
                .done()
        },
    ),
    scenario("http2: REFUSED_STREAM is retried, then 503", "", |site| {
        let call = site.http2("GET", "/").having("rst=refused fail=1");
        call.send()?.got.status(200)?.attempts(2)?;
        let call = site.http2("GET", "/").having("rst=refused").flags("URX,UR");
        call.send()?.got.status(503)?.attempts(3)?.done()
    }),
];
