//! gRPC: calls of every form, statuses, deadlines, retries, and streams that break.

use h2::Reason;

use super::routing::{rules, with};
use super::scenario;
use crate::scenarios::got::same;
use crate::scenarios::{Call, Reply, Scenario, Verdict};

const NOBODY: &str = "apiVersion: v1\nkind: Service\nmetadata: {name: HOST, namespace: scenarios}\nspec:\n  selector: {app: nobody}\n  ports:\n  - {name: grpc, port: 90}\n";

/// It has to have failed, and in this way.
fn broken<T>(result: Result<T, String>, how: &str) -> Verdict {
    match result {
        Ok(_) => Err("it did not break".to_owned()),
        Err(why) if why.contains(how) => Ok(()),
        Err(why) => Err(format!("{why}, want {how:?} in it")),
    }
}

/// The answer to a call that the application ends once half of its four messages of 1000 bytes are there.
fn amid(call: &Call<'_>) -> Result<Reply, String> {
    let mut stream = call.open()?;
    stream.finish()?;
    stream.bytes(2 * 1005)?;
    stream.go_on();
    stream.reply()
}

pub(super) const LIST: &[Scenario] = &[
    scenario("grpc: unary, the status in the trailers", "", |site| {
        let reply = site
            .grpc(b"hello")
            .send()?
            .grpc(0)?
            .with_trailer("grpc-status", "0")?;
        same("bytes", &reply.seen("bytes")?, &10.into())?;
        same(
            "content type",
            &reply.got.header("content-type"),
            &"application/grpc",
        )?;
        same("server", &reply.got.header("server"), &"istio-envoy")
    }),
    scenario(
        "grpc: metadata both ways, in headers and trailers",
        "",
        |site| {
            let reply = site
                .grpc(b"")
                .header("x-key-bin", "AAEC")
                .header("x-key", "one")
                .header("x-key", "two")
                .having("header=x-first:1 trailer=x-last-bin:AwQF")
                .send()?
                .grpc(0)?
                .with_trailer("x-last-bin", "AwQF")?;
            same("x-first", &reply.got.header("x-first"), &"1")?;
            let headers = reply.seen("headers")?.to_string();
            for want in [r#"["x-key-bin","AAEC"]"#, r#"["te","trailers"]"#] {
                if !headers.contains(want) {
                    return Err(format!("{want} is not in {headers}"));
                }
            }
            let both = [
                r#"["x-key","one"],["x-key","two"]"#,
                r#"["x-key","one,two"]"#,
            ];
            if both.iter().any(|both| headers.contains(both)) {
                Ok(())
            } else {
                Err(headers)
            }
        },
    ),
    scenario(
        "grpc: an error without messages stays trailers-only",
        "",
        |site| {
            let reply = site
                .grpc(b"")
                .having("trailers-only grpc=5 message=gone")
                .send()?
                .grpc(5)?
                .trailers_only()?;
            same("message", &reply.got.header("grpc-message"), &"gone")
        },
    ),
    scenario(
        "grpc: an error after messages stays in the trailers",
        "",
        |site| {
            let reply = site
                .grpc(b"")
                .having("grpc=13 messages=3 size=10 message=late")
                .send()?;
            same("messages", &reply.messages()?.len(), &3)?;
            reply.grpc(13)?.with_trailer("grpc-message", "late")?.done()
        },
    ),
    scenario("grpc: server streaming", "", |site| {
        let reply = site.grpc(b"").having("messages=200 size=1000").send()?;
        let messages = reply.messages()?;
        same("messages", &messages.len(), &200)?;
        same(
            "all of them",
            &messages.iter().all(|m| m.len() == 1000),
            &true,
        )?;
        reply.grpc(0)?.done()
    }),
    scenario("grpc: client streaming", "", |site| {
        let mut stream = site.grpc(b"").open()?;
        for _ in 0..200 {
            stream.message(&[7; 1000])?;
        }
        stream.finish()?;
        let reply = stream.reply()?.grpc(0)?;
        same("bytes", &reply.seen("bytes")?, &201_000.into())
    }),
    scenario(
        "grpc: both stream, each message answered before the next",
        "",
        |site| {
            let mut stream = site.grpc(b"").having("echo").open()?;
            for round in 0..50_u8 {
                stream.message(&[round; 100])?;
                let back = stream.bytes(105)?;
                same("echo", &back[5..], &[round; 100][..])?;
            }
            stream.finish()?;
            stream
                .reply()?
                .with_trailer("x-last", "bye")?
                .grpc(0)?
                .done()
        },
    ),
    scenario(
        "grpc: headers come before the first message is sent",
        "",
        |site| {
            let mut stream = site.grpc(b"").having("echo").open()?;
            same("status", &stream.status()?, &200)?;
            stream.finish()?;
            stream.reply()?.grpc(0)?.done()
        },
    ),
    scenario(
        "grpc: messages of 4 MB, larger than any window",
        "",
        |site| {
            let message = vec![5; 4 << 20];
            let reply = site.grpc(&message).having("size=4194304").send()?;
            same(
                "messages",
                &reply.messages()?.first().map(|m| m.len()),
                &Some(4 << 20),
            )?;
            reply.grpc(0)?.done()
        },
    ),
    scenario(
        "grpc: a stream that is not read holds no other back",
        "",
        |site| {
            let mut connection = site.http2_connection(90)?;
            let mut stalled = connection.open(&site.grpc(b"").having("size=8000000"))?;
            stalled.finish()?;
            same("status", &stalled.status()?, &200)?;
            for _ in 0..20 {
                site.grpc(b"x").send_on(&mut connection)?.grpc(0)?;
            }
            let reply = stalled.reply()?.grpc(0)?;
            same("bytes", &reply.got.answer.body.len(), &8_000_005)
        },
    ),
    scenario("grpc: many calls at once on one connection", "", |site| {
        let mut connection = site.http2_connection(90)?;
        let call = site.grpc(b"").having("delay=200");
        let mut streams = Vec::new();
        for _ in 0..50 {
            let mut stream = connection.open(&call)?;
            stream.finish()?;
            streams.push(stream);
        }
        for stream in streams {
            stream.reply()?.grpc(0)?;
        }
        Ok(())
    }),
    scenario(
        "grpc: routed by service and method",
        rules!(
            "  - match: [{uri: {prefix: /echo.Echo/}}]\n    route: [{destination: {host: HOST, subset: v2}}]\n  - route: [{destination: {host: HOST, subset: v1}}]\n"
        ),
        |site| {
            let reply = site.grpc(b"").send()?.grpc(0)?;
            same("pod", &reply.got.header("x-pod"), &"echo-v2")
        },
    ),
    scenario(
        "grpc: over all endpoints, whatever connection it comes on",
        "",
        |site| {
            let mut connection = site.http2_connection(90)?;
            let mut pods = std::collections::BTreeSet::new();
            for _ in 0..40 {
                let reply = site.grpc(b"").send_on(&mut connection)?.grpc(0)?;
                pods.insert(reply.got.header("x-pod").to_owned());
            }
            same("pods", &pods.len(), &3)
        },
    ),
    scenario(
        "grpc: no route is UNIMPLEMENTED",
        rules!("  - match: [{uri: {prefix: /only}}]\n    route: [{destination: {host: HOST}}]\n"),
        |site| {
            site.grpc(b"")
                .flags("NR")
                .send()?
                .grpc(12)?
                .trailers_only()?
                .done()
        },
    ),
    scenario("grpc: no endpoints is UNAVAILABLE", NOBODY, |site| {
        let reply = site
            .grpc(b"")
            .flags("UH")
            .send()?
            .grpc(14)?
            .trailers_only()?;
        same(
            "message",
            &reply.got.header("grpc-message"),
            &"no healthy upstream",
        )
    }),
    scenario(
        "grpc: timeout of the rule is UNAVAILABLE",
        with!("    timeout: 0.3s\n    retries: {attempts: 0}\n"),
        |site| {
            let call = site.grpc(b"").having("delay=3000").flags("UT");
            let reply = call.send()?.grpc(14)?.trailers_only()?;
            same(
                "message",
                &reply.got.header("grpc-message"),
                &"upstream request timeout",
            )?;
            reply.got.within(280, 2900)?.done()
        },
    ),
    scenario(
        "grpc: the client's deadline is kept by the proxy",
        "",
        |site| {
            let call = site
                .grpc(b"")
                .header("grpc-timeout", "300m")
                .having("delay=3000");
            let reply = call.send()?.grpc(4)?.trailers_only()?;
            reply.got.within(280, 2900)?.done()
        },
    ),
    scenario(
        "grpc: a deadline that is not reached changes nothing",
        "",
        |site| {
            let reply = site
                .grpc(b"")
                .header("grpc-timeout", "30S")
                .send()?
                .grpc(0)?;
            let headers = reply.seen("headers")?.to_string();
            if headers.contains(r#"["grpc-timeout","30000m"]"#) {
                Ok(())
            } else {
                Err(headers)
            }
        },
    ),
    scenario(
        "grpc retry: UNAVAILABLE and CANCELLED by default",
        "",
        |site| {
            for code in ["14", "1"] {
                let call = site.grpc(b"x").having(&format!("fail=1 grpc={code}"));
                call.send()?.grpc(0)?.got.attempts(2)?;
            }
            Ok(())
        },
    ),
    scenario(
        "grpc retry: INTERNAL and RESOURCE_EXHAUSTED not by default",
        "",
        |site| {
            for code in [13, 8] {
                let call = site.grpc(b"x").having(&format!("fail=1 grpc={code}"));
                call.send()?.grpc(code)?.got.attempts(1)?;
            }
            Ok(())
        },
    ),
    scenario(
        "grpc retry: on the statuses that the rule names",
        with!(
            "    retries: {attempts: 2, retryOn: 'internal,resource-exhausted,deadline-exceeded'}\n"
        ),
        |site| {
            for code in ["13", "8", "4"] {
                let call = site.grpc(b"x").having(&format!("fail=1 grpc={code}"));
                call.send()?.grpc(0)?.got.attempts(2)?;
            }
            let call = site.grpc(b"x").having("fail=1 grpc=14");
            call.send()?.grpc(14)?.got.attempts(1)?.done()
        },
    ),
    scenario(
        "grpc retry: as often as allowed, then the last status",
        "",
        |site| {
            let call = site.grpc(b"x").having("fail=9 grpc=14").flags("URX");
            call.send()?.grpc(14)?.got.attempts(3)?.done()
        },
    ),
    scenario("grpc retry: not once the answer has begun", "", |site| {
        let call = site.grpc(b"x").having("grpc=14");
        call.send()?
            .grpc(14)?
            .with_trailer("grpc-status", "14")?
            .got
            .attempts(1)?
            .done()
    }),
    scenario("grpc retry: with the message again", "", |site| {
        let reply = site.grpc(&[1; 20_000]).having("fail=1").send()?.grpc(0)?;
        same("bytes", &reply.seen("bytes")?, &20_005.into())?;
        reply.got.attempts(2)?.done()
    }),
    scenario("grpc retry: REFUSED_STREAM by default", "", |site| {
        let call = site.grpc(b"x").having("rst=refused fail=1");
        call.send()?.grpc(0)?.got.attempts(2)?.done()
    }),
    scenario(
        "grpc retry: a stream that a GOAWAY disowns, by default",
        "",
        |site| {
            let call = site.grpc(b"x").having("goaway fail=1");
            call.send()?.grpc(0)?.got.attempts(2)?.done()
        },
    ),
    scenario(
        "grpc: a stream that is reset before the answer is UNAVAILABLE",
        "",
        |site| {
            for (reason, flags) in [
                ("internal", "UR"),
                ("cancel", "UR"),
                ("calm", "UR"),
                ("no-error", "UR"),
                ("protocol", "UPE"),
            ] {
                let call = site
                    .grpc(b"x")
                    .having(&format!("rst={reason}"))
                    .flags(flags);
                let reply = call.send()?.grpc(14)?.trailers_only()?;
                reply
                    .got
                    .attempts(1)
                    .map_err(|e| format!("{reason}: {e}"))?;
            }
            Ok(())
        },
    ),
    scenario(
        "grpc: a connection that ends before the answer is UNAVAILABLE",
        "",
        |site| {
            let reply = site
                .grpc(b"x")
                .having("close")
                .flags("UC")
                .send()?
                .grpc(14)?;
            reply.got.attempts(1)?.done()
        },
    ),
    scenario(
        "grpc retry: on a reset where the rule says so",
        with!("    retries: {attempts: 2, retryOn: reset}\n"),
        |site| {
            for how in ["rst=internal", "close"] {
                let call = site.grpc(b"x").having(&format!("{how} fail=1"));
                call.send()?.grpc(0)?.got.attempts(2)?;
            }
            Ok(())
        },
    ),
    scenario(
        "grpc: a stream that is reset amid the answer is reset for the client",
        "",
        |site| {
            for reason in ["internal", "cancel"] {
                let call = site
                    .grpc(b"x")
                    .having(&format!("messages=4 size=1000 rst-after={reason}"));
                broken(amid(&call.flags("UR")), "stream error")?;
            }
            Ok(())
        },
    ),
    scenario(
        "grpc: a connection that ends amid the answer is a reset for the client",
        "",
        |site| {
            let call = site
                .grpc(b"x")
                .having("messages=4 size=1000 cut")
                .flags("UC");
            broken(amid(&call), "stream error")
        },
    ),
    scenario("grpc: the client resets a stream that waits", "", |site| {
        let mut connection = site.http2_connection(90)?;
        let mut stream = connection.open(&site.grpc(b"").having("echo").flags("DR"))?;
        stream.message(b"hello")?;
        stream.bytes(10)?;
        stream.reset(Reason::CANCEL);
        site.grpc(b"x").send_on(&mut connection)?.grpc(0)?.done()
    }),
    scenario(
        "grpc: the client's connection ends amid a stream",
        "",
        |site| {
            let mut stream = site.grpc(b"").having("echo").flags("DC").open()?;
            stream.message(b"hello")?;
            stream.bytes(10).map(drop)
        },
    ),
    scenario(
        "grpc: an application that says GOAWAY loses no call",
        "",
        |site| {
            let mut connection = site.http2_connection(90)?;
            for _ in 0..12 {
                site.grpc(b"x")
                    .having("last")
                    .send_on(&mut connection)?
                    .grpc(0)?;
            }
            Ok(())
        },
    ),
];
