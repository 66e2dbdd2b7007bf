//! Bodies, framing, and the connection of an HTTP/1.1 client.

use std::io::{Read, Write};
use std::net::TcpStream;

use super::scenario;
use crate::scenarios::{Scenario, Site, Verdict};

fn chunked(pieces: &[&[u8]]) -> Vec<u8> {
    let mut text =
        b"POST / HTTP/1.1\r\nhost: h\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n"
            .to_vec();
    for piece in pieces {
        text.extend_from_slice(format!("{:x}\r\n", piece.len()).as_bytes());
        text.extend_from_slice(piece);
        text.extend_from_slice(b"\r\n");
    }
    text.extend_from_slice(b"0\r\n\r\n");
    text
}

fn containing(got: &str, want: &str) -> Result<(), String> {
    if got.contains(want) {
        Ok(())
    } else {
        Err(format!(
            "{:?}, want {want:?} in it",
            got.chars().take(400).collect::<String>()
        ))
    }
}

/// Reads a head, up to its empty line.
fn head(stream: &mut TcpStream) -> Result<String, String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream
            .read_exact(&mut byte)
            .map_err(|e| format!("{:?}: {e}", String::from_utf8_lossy(&head)))?;
        head.push(byte[0]);
    }
    Ok(String::from_utf8_lossy(&head).into_owned())
}

/// A WebSocket on which each of the words came back.
fn websocket(site: &Site<'_>, words: &[&str]) -> Result<TcpStream, String> {
    let mut stream = site.connect(80)?;
    let text = b"GET / HTTP/1.1\r\nhost: h\r\nx-do: upgrade\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\r\n";
    stream.write_all(text).map_err(|e| e.to_string())?;
    containing(&head(&mut stream)?, "HTTP/1.1 101 Switching Protocols\r\n")?;
    for word in words {
        stream
            .write_all(word.as_bytes())
            .map_err(|e| e.to_string())?;
        let mut back = vec![0; word.len()];
        stream
            .read_exact(&mut back)
            .map_err(|e| format!("{word}: {e}"))?;
        if back != word.as_bytes() {
            return Err(format!("{back:?} for {word}"));
        }
    }
    Ok(stream)
}

/// The other side has nothing more to say.
fn ended(mut stream: TcpStream) -> Verdict {
    match stream.read(&mut [0; 1]) {
        Ok(0) => Ok(()),
        other => Err(format!("{other:?} instead of the end")),
    }
}

pub(super) const LIST: &[Scenario] = &[
    scenario("body: request of 5 MB", "", |site| {
        let got = site
            .ask("POST", "/")
            .body(vec![7; 5_000_000])
            .send()?
            .status(200)?;
        let (bytes, sum) = (got.seen("bytes"), got.seen("sum"));
        if bytes == 5_000_000 && sum == 35_000_000 {
            Ok(())
        } else {
            Err(format!("{bytes} bytes, sum {sum}"))
        }
    }),
    scenario("body: chunked request", "", |site| {
        let pieces: Vec<Vec<u8>> = (1..40).map(|n| vec![1; n * 1000]).collect();
        let pieces: Vec<&[u8]> = pieces.iter().map(Vec::as_slice).collect();
        containing(&site.raw(&chunked(&pieces))?, "\"bytes\":780000")
    }),
    scenario("body: answer of 5 MB", "", |site| {
        let got = site.get("/").having("size=5000000").send()?.status(200)?;
        if got.answer.body.len() == 5_000_000 {
            Ok(())
        } else {
            Err(format!("{} bytes", got.answer.body.len()))
        }
    }),
    scenario("body: chunked answer", "", |site| {
        let got = site
            .get("/")
            .having("chunked size=300000")
            .send()?
            .status(200)?
            .with("transfer-encoding", "chunked")?;
        if got.answer.body.len() == 300_000 {
            Ok(())
        } else {
            Err(format!("{} bytes", got.answer.body.len()))
        }
    }),
    scenario("body: of the request, passed on as it comes", "", |site| {
        let mut slow = site.ask("POST", "/").body(vec![7; 100_000]).start_with(0)?;
        for _ in 0..10 {
            slow.send(&[7; 10_000])?;
        }
        let got = slow.answer()?.status(200)?;
        containing(&got.seen("sum").to_string(), "700000")
    }),
    scenario("body: of the answer, passed on as it comes", "", |site| {
        let rest = site.get("/").having("hold size=100000").start()?;
        let rest = rest.answer_in_two(100_000)?;
        containing(&String::from_utf8_lossy(&rest), "xxxxxxxxxx")
    }),
    scenario(
        "body: none for HEAD, with the length that GET has",
        "",
        |site| {
            let got = site
                .ask("HEAD", "/")
                .having("size=1234")
                .send()?
                .status(200)?
                .text("")?;
            got.with("content-length", "1234")?.done()
        },
    ),
    scenario("body: none with 204", "", |site| {
        site.get("/")
            .having("status=204")
            .send()?
            .status(204)?
            .text("")?
            .with("content-length", "")?
            .done()
    }),
    scenario("body: none with 304", "", |site| {
        site.get("/")
            .having("status=304")
            .send()?
            .status(304)?
            .text("")?
            .done()
    }),
    scenario(
        "body: 100-continue is answered before the body is sent",
        "",
        |site| {
            let mut stream = site.connect(80)?;
            let mut send = |bytes: &[u8]| stream.write_all(bytes).map_err(|e| e.to_string());
            send(b"POST / HTTP/1.1\r\nhost: h\r\nconnection: close\r\nexpect: 100-continue\r\ncontent-length: 5\r\n\r\n")?;
            let want = b"HTTP/1.1 100 Continue\r\n\r\n";
            let mut first = [0; 25];
            stream
                .read_exact(&mut first)
                .map_err(|e| format!("100: {e}"))?;
            if first != *want {
                return Err(format!("{:?}", String::from_utf8_lossy(&first)));
            }
            stream.write_all(b"hello").map_err(|e| e.to_string())?;
            let mut rest = String::new();
            stream
                .read_to_string(&mut rest)
                .map_err(|e| format!("answer: {e}"))?;
            containing(&rest, "\"bytes\":5")
        },
    ),
    scenario(
        "body: 100-continue is not answered where the application declines",
        "",
        |site| {
            let mut stream = site.connect(80)?;
            let text = b"POST / HTTP/1.1\r\nhost: h\r\nx-do: early status=417\r\nexpect: 100-continue\r\ncontent-length: 5\r\n\r\n";
            stream.write_all(text).map_err(|e| e.to_string())?;
            containing(&head(&mut stream)?, "HTTP/1.1 417 Expectation Failed\r\n")
        },
    ),
    scenario(
        "body: an answer before the request is complete",
        "",
        |site| {
            site.may_log("DC");
            let mut stream = site.connect(80)?;
            let text = b"POST / HTTP/1.1\r\nhost: h\r\nx-do: early status=413\r\ncontent-length: 100000\r\n\r\nbegin";
            stream.write_all(text).map_err(|e| e.to_string())?;
            containing(&head(&mut stream)?, "HTTP/1.1 413 Payload Too Large\r\n")
        },
    ),
    scenario(
        "body: extensions and trailers of chunks go no further",
        "",
        |site| {
            let text = b"POST / HTTP/1.1\r\nhost: h\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n3;ext=1\r\nabc\r\n0\r\nx-end: 1\r\n\r\n";
            let got = site.raw(text)?;
            containing(&got, "\"bytes\":3")?;
            containing(&got, "\"trailers\":[]")
        },
    ),
    scenario(
        "body: trailers of a chunked answer go no further",
        "",
        |site| {
            let text = b"GET / HTTP/1.1\r\nhost: h\r\nconnection: close\r\nx-do: chunked size=10 trailer=x-sum:1\r\n\r\n";
            let got = site.raw(text)?;
            containing(&got, "xxxxxxxxxx\r\n0\r\n\r\n")
        },
    ),
    scenario("body: an empty one keeps its length of 0", "", |site| {
        let text = b"POST / HTTP/1.1\r\nhost: h\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";
        containing(&site.raw(text)?, "[\"content-length\",\"0\"]")
    }),
    scenario("body: GET may have one", "", |site| {
        let got = site
            .ask("GET", "/")
            .body(vec![1; 1000])
            .send()?
            .status(200)?;
        containing(&got.seen("bytes").to_string(), "1000")
    }),
    scenario("connection: a target with scheme and host", "", |site| {
        let text = b"GET http://other.example/x?y HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n";
        let got = site.raw(text)?;
        containing(&got, "\"path\":\"/x?y\"")?;
        containing(&got, "[\"host\",\"other.example\"]")
    }),
    scenario(
        "connection: two lengths of content that differ are refused",
        "",
        |site| {
            site.also_logged(80, "DPE");
            let text =
                b"POST / HTTP/1.1\r\nhost: h\r\ncontent-length: 3\r\ncontent-length: 4\r\n\r\nabc";
            containing(&site.raw(text)?, "HTTP/1.1 400 Bad Request\r\n")
        },
    ),
    scenario("connection: CONNECT is refused", "", |site| {
        site.also_logged(80, "NR");
        let text = b"CONNECT other.example:443 HTTP/1.1\r\nhost: other.example:443\r\n\r\n";
        containing(&site.raw(text)?, "HTTP/1.1 404 Not Found\r\n")
    }),
    scenario("connection: stays for the next request", "", |site| {
        let mut connection = site.connection(80)?;
        for _ in 0..5 {
            site.get("/").send_on(&mut connection)?.status(200)?;
        }
        Ok(())
    }),
    scenario(
        "connection: pipelined requests are answered in order",
        "",
        |site| {
            let one =
                |path: &str, more: &str| format!("GET {path} HTTP/1.1\r\nhost: h\r\n{more}\r\n");
            let text = one("/one", "x-do: delay=100\r\n") + &one("/two", "connection: close\r\n");
            let got = site.raw(text.as_bytes())?;
            let (first, second) = (got.find("\"path\":\"/one\""), got.find("\"path\":\"/two\""));
            if first.is_some() && first < second {
                Ok(())
            } else {
                Err(format!("{got:?}"))
            }
        },
    ),
    scenario(
        "connection: is closed when the client asks for it",
        "",
        |site| {
            let got = site.raw(b"GET / HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n")?;
            containing(&got, "connection: close\r\n")
        },
    ),
    scenario("connection: hop-by-hop headers go no further", "", |site| {
        let got = site
            .get("/")
            .header("connection", "keep-alive, x-hop")
            .header("x-hop", "1")
            .header("keep-alive", "timeout=5");
        got.send()?
            .status(200)?
            .saw("keep-alive", "")?
            .saw("connection", "")?
            .done()
    }),
    scenario("connection: HTTP/1.0 is refused", "", |site| {
        site.also_logged(80, "DPE");
        containing(
            &site.raw(b"GET / HTTP/1.0\r\nhost: h\r\n\r\n")?,
            "HTTP/1.1 426 Upgrade Required\r\n",
        )
    }),
    scenario("connection: what is no HTTP is refused", "", |site| {
        site.also_logged(80, "DPE");
        containing(
            &site.raw(b"GET / HTTP/1.1\r\nbad header line\r\n\r\n")?,
            "HTTP/1.1 400 Bad Request\r\n",
        )
    }),
    scenario("connection: two lengths are refused", "", |site| {
        site.also_logged(80, "DPE");
        let text = b"POST / HTTP/1.1\r\nhost: h\r\ncontent-length: 3\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n";
        containing(&site.raw(text)?, "HTTP/1.1 400 Bad Request\r\n")
    }),
    scenario(
        "connection: a request without host is refused",
        "",
        |site| {
            containing(
                &site.raw(b"GET / HTTP/1.1\r\n\r\n")?,
                "HTTP/1.1 400 Bad Request\r\n",
            )
        },
    ),
    scenario(
        "connection: headers that are too long are refused",
        "",
        |site| {
            site.also_logged(80, "DPE");
            let text = format!(
                "GET / HTTP/1.1\r\nhost: h\r\nx-long: {}\r\n\r\n",
                "x".repeat(70_000)
            );
            containing(
                &site.raw(text.as_bytes())?,
                "HTTP/1.1 431 Request Header Fields Too Large\r\n",
            )
        },
    ),
    scenario("connection: headers of 50 kB pass", "", |site| {
        let long = "x".repeat(50_000);
        let got = site.get("/").header("x-long", &long).send()?.status(200)?;
        if got.seen_header("x-long") == long {
            Ok(())
        } else {
            Err("another value".to_owned())
        }
    }),
    scenario(
        "connection: a path with a fragment is refused or cut, never passed",
        "",
        |site| {
            let got = site.raw(b"GET /a#b HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n")?;
            if got.contains("\"path\":\"/a#b\"") {
                Err(got)
            } else {
                Ok(())
            }
        },
    ),
    scenario(
        "path: dot segments are resolved, slashes stay",
        "",
        |site| {
            site.get("/a/../b//c/%2e%2e/d")
                .send()?
                .status(200)?
                .path("/b//d")?
                .done()
        },
    ),
    scenario("upgrade: WebSocket passes bytes both ways", "", |site| {
        site.may_log("DC");
        websocket(site, &["hello", "again"]).map(drop)
    }),
    scenario("upgrade: WebSocket that the application ends", "", |site| {
        site.may_log("UC");
        ended(websocket(site, &["hello", "close!"])?)
    }),
    scenario(
        "upgrade: which side ended a WebSocket is in the access log",
        "",
        |site| {
            site.also_logged(80, "UC");
            ended(websocket(site, &["hello", "close!"])?)?;
            site.also_logged(80, "DC");
            websocket(site, &["hello"]).map(drop)
        },
    ),
    scenario(
        "upgrade: an application that does not switch answers",
        "",
        |site| {
            let text = b"GET / HTTP/1.1\r\nhost: h\r\nx-do: status=400 size=0\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\r\n";
            let mut stream = site.connect(80)?;
            stream.write_all(text).map_err(|e| e.to_string())?;
            containing(&head(&mut stream)?, "HTTP/1.1 400 Bad Request\r\n")
        },
    ),
    scenario(
        "upgrade: one that is not for WebSocket is refused",
        "",
        |site| {
            let text =
                b"GET / HTTP/1.1\r\nhost: h\r\nconnection: Upgrade\r\nupgrade: other\r\n\r\n";
            containing(&site.raw(text)?, "HTTP/1.1 403 Forbidden\r\n")
        },
    ),
];
