//! The applications behind the waypoint: they answer with what they saw, and misbehave when they are asked to.
//!
//! HTTP on port 8080; the header `x-do` says what else than answer 200 to do, several separated by spaces:
//! `status=503`, `fail=2` (503 for the first two attempts), `code=N` (with `fail`), `delay=300` (milliseconds), `reset`,
//! `cut` (half the body, then the end), `chunked`, `size=N` (a body of N bytes), `header=name:value`, `upgrade`.
//! Port 9000 echoes bytes, after the name of the pod; port 9001 speaks first.

use std::collections::HashMap;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};

/// Versions and addresses of the pods.
pub const PODS: [(&str, &str); 3] = [
    ("v1", "127.244.10.1"),
    ("v2", "127.244.10.2"),
    ("v3", "127.244.10.3"),
];

/// What the applications saw.
#[derive(Debug, Clone, Default)]
pub struct Apps {
    seen: Arc<Mutex<HashMap<String, Vec<String>>>>,
}

impl Apps {
    /// Starts all of them; they end with the process.
    ///
    /// # Panics
    /// When an address cannot be listened on.
    #[must_use]
    pub fn start() -> Self {
        let apps = Self::default();
        for (place, (version, _)) in (1..).zip(PODS) {
            let pod = format!("echo-{version}");
            let own = Ipv4Addr::new(127, 245, 10, place);
            for port in [8080, 9000, 9001] {
                let listener = TcpListener::bind(SocketAddr::from((own, port))).expect("listen");
                let (apps, pod) = (apps.clone(), pod.clone());
                std::thread::spawn(move || {
                    for stream in listener.incoming().flatten() {
                        let (apps, pod) = (apps.clone(), pod.clone());
                        std::thread::spawn(move || {
                            // A client that goes away is nothing to tell.
                            let _ = match port {
                                8080 => apps.http(stream, &pod),
                                9000 => {
                                    echo(stream, format!("{pod}\n").as_bytes(), When::AfterClient)
                                }
                                _ => echo(stream, format!("{pod}\n").as_bytes(), When::First),
                            };
                        });
                    }
                });
            }
        }
        apps
    }

    /// The pods that saw a request, in order.
    #[must_use]
    pub fn pods(&self, id: &str) -> Vec<String> {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.get(id).cloned().unwrap_or_default()
    }

    fn http(&self, stream: TcpStream, pod: &str) -> io::Result<()> {
        stream.set_nodelay(true)?;
        let mut stream = BufReader::new(stream);
        while let Some(request) = Request::read(&mut stream)? {
            let attempt = {
                let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
                let pods = seen.entry(request.header("x-id").to_owned()).or_default();
                pods.push(pod.to_owned());
                pods.len()
            };
            if !answer(stream.get_mut(), pod, &request, attempt)? {
                return Ok(());
            }
            if request.wants("upgrade").is_some() {
                return echo_rest(stream);
            }
        }
        Ok(())
    }
}

struct Request {
    method: String,
    path: String,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

impl Request {
    fn read(stream: &mut BufReader<TcpStream>) -> io::Result<Option<Self>> {
        let first = line(stream)?;
        if first.is_empty() {
            return Ok(None);
        }
        let mut words = first.split(' ').map(str::to_owned);
        let mut request = Self {
            method: words.next().unwrap_or_default(),
            path: words.next().unwrap_or_default(),
            headers: Vec::new(),
            body: Vec::new(),
        };
        loop {
            let line = line(stream)?;
            let Some((name, value)) = line.split_once(':') else {
                break;
            };
            request
                .headers
                .push((name.to_lowercase(), value.trim().to_owned()));
        }
        if request.header("expect") == "100-continue" {
            stream
                .get_mut()
                .write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
        }
        if request
            .header("transfer-encoding")
            .eq_ignore_ascii_case("chunked")
        {
            loop {
                let size = line(stream)?;
                let size =
                    u64::from_str_radix(size.trim(), 16).map_err(|_| io::ErrorKind::InvalidData)?;
                stream.take(size).read_to_end(&mut request.body)?;
                line(stream)?;
                if size == 0 {
                    break;
                }
            }
        } else if let Ok(length) = request.header("content-length").parse() {
            stream.take(length).read_to_end(&mut request.body)?;
        }
        Ok(Some(request))
    }

    fn header(&self, name: &str) -> &str {
        self.headers
            .iter()
            .find(|(n, _)| n == name)
            .map_or("", |(_, value)| value)
    }

    /// What `x-do` says of something.
    fn wants(&self, what: &str) -> Option<&str> {
        self.header("x-do").split(' ').find_map(|word| {
            let (name, value) = word.split_once('=').unwrap_or((word, ""));
            (name == what).then_some(value)
        })
    }

    fn number(&self, what: &str) -> Option<usize> {
        self.wants(what)?.parse().ok()
    }
}

/// Answers; `false` when the connection is over.
fn answer(
    stream: &mut TcpStream,
    pod: &str,
    request: &Request,
    attempt: usize,
) -> io::Result<bool> {
    if let Some(delay) = request.number("delay") {
        std::thread::park_timeout(Duration::from_millis(delay as u64));
    }
    let failing = request
        .number("fail")
        .is_some_and(|failures| attempt <= failures);
    if request.wants("reset").is_some() && (request.number("fail").is_none() || failing) {
        socket2::SockRef::from(&*stream).set_linger(Some(Duration::ZERO))?;
        return Ok(false);
    }
    let status = match (failing, request.number("status")) {
        (true, _) => request.number("code").unwrap_or(503),
        (false, Some(status)) => status,
        (false, None) if request.wants("upgrade").is_some() => 101,
        (false, None) => 200,
    };
    let body = match request.number("size") {
        Some(size) => vec![b'x'; size],
        None => seen(pod, request, attempt).to_string().into_bytes(),
    };
    let mut head = format!("HTTP/1.1 {status} Status\r\nx-pod: {pod}\r\n");
    if let Some((name, value)) = request.wants("header").and_then(|h| h.split_once(':')) {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    let bodiless = status == 101 || status == 204 || status == 304;
    if status == 101 {
        head.push_str("connection: upgrade\r\nupgrade: websocket\r\n\r\n");
    } else if bodiless {
        head.push_str("\r\n");
    } else if request.wants("chunked").is_some() {
        head.push_str("transfer-encoding: chunked\r\n\r\n");
    } else {
        head.push_str(&format!(
            "content-type: application/json\r\ncontent-length: {}\r\n\r\n",
            body.len()
        ));
    }
    stream.write_all(head.as_bytes())?;
    if bodiless || request.method == "HEAD" {
        return Ok(true);
    }
    if request.wants("cut").is_some() {
        stream.write_all(&body[..body.len() / 2])?;
        return Ok(false);
    }
    if request.wants("chunked").is_some() {
        for piece in body.chunks(10_000) {
            stream.write_all(format!("{:x}\r\n", piece.len()).as_bytes())?;
            stream.write_all(piece)?;
            stream.write_all(b"\r\n")?;
        }
        stream.write_all(b"0\r\n\r\n")?;
    } else {
        stream.write_all(&body)?;
    }
    Ok(true)
}

fn seen(pod: &str, request: &Request, attempt: usize) -> Value {
    json!({
        "pod": pod,
        "method": request.method,
        "path": request.path,
        "headers": request.headers,
        "bytes": request.body.len(),
        "sum": request.body.iter().map(|b| u64::from(*b)).sum::<u64>(),
        "attempt": attempt,
    })
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum When {
    First,
    AfterClient,
}

/// Sends bytes back, and its own end only after the client's.
fn echo(mut stream: TcpStream, greeting: &[u8], when: When) -> io::Result<()> {
    if when == When::First {
        stream.write_all(greeting)?;
    }
    let mut buffer = [0; 16384];
    let mut greeted = when == When::First;
    loop {
        let read = stream.read(&mut buffer)?;
        if !std::mem::replace(&mut greeted, true) {
            stream.write_all(greeting)?;
        }
        if read == 0 {
            stream.write_all(b"\nbye")?;
            return stream.shutdown(Shutdown::Write);
        }
        stream.write_all(&buffer[..read])?;
    }
}

fn echo_rest(mut stream: BufReader<TcpStream>) -> io::Result<()> {
    let mut buffer = [0; 4096];
    loop {
        let read = stream.read(&mut buffer)?;
        if read == 0 {
            return Ok(());
        }
        stream.get_mut().write_all(&buffer[..read])?;
    }
}

fn line(stream: &mut BufReader<TcpStream>) -> io::Result<String> {
    let mut line = String::new();
    stream.read_line(&mut line)?;
    Ok(line.trim_end_matches(['\r', '\n']).to_owned())
}
