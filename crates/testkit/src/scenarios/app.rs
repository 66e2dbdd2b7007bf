//! The applications behind the waypoint: they answer with what they saw, and misbehave when they are asked to.
//!
//! HTTP/1.1 on port 8080; the header `x-do` says what else than answer 200 to do, several separated by spaces:
//! `status=503`, `fail=2` (503 for the first two attempts), `code=N` (with `fail`), `delay=300` (milliseconds), `reset`,
//! `cut` (half the body, then the end), `chunked`, `size=N` (a body of N bytes), `header=name:value`, `upgrade`,
//! `early` (before the body is read), `garbage` (what is no HTTP), `stall=300` (milliseconds, of the attempts that `fail`),
//! `hold` (half the body, the rest once [`Apps::go_on`] says so).
//!
//! HTTP/2 and gRPC on port 8081, by prior knowledge (HTTP/1.1 too): the same, and `grpc=N` (status), `message=text`,
//! `trailers-only`, `trailer=name:value`, `messages=N`, `echo` (as it comes), `rst=REASON` (before the answer),
//! `rst-after=REASON` (amid the body), `close` (the connection, before the answer), `goaway` (the stream was not looked
//! at), `last` (the connection ends after it). What ends amid the body does so once [`Apps::go_on`] says so.
//! Port 9000 echoes bytes, after the name of the pod; port 9001 speaks first. Bytes that end with `close!`, `half!` or
//! `reset!` have them end the connection, their half of it, or reset it.

pub(crate) mod h2;

use std::collections::{HashMap, HashSet};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::watch;

/// Versions and addresses of the pods.
pub const PODS: [(&str, &str); 3] = [
    ("v1", "127.244.10.1"),
    ("v2", "127.244.10.2"),
    ("v3", "127.244.10.3"),
];

/// How long an application waits for [`Apps::go_on`].
const TIMEOUT: Duration = Duration::from_secs(10);

/// What the applications saw.
#[derive(Debug, Clone)]
pub struct Apps {
    seen: Arc<Mutex<HashMap<String, Vec<String>>>>,
    /// Requests whose answers may go on.
    going_on: Arc<watch::Sender<HashSet<String>>>,
    runtime: Arc<tokio::runtime::Runtime>,
}

impl Apps {
    /// Starts all of them; they end with the process.
    ///
    /// # Panics
    /// When an address cannot be listened on.
    #[must_use]
    pub fn start() -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("runtime");
        let apps = Self {
            seen: Arc::default(),
            going_on: Arc::default(),
            runtime: Arc::new(runtime),
        };
        for (place, (version, _)) in (1..).zip(PODS) {
            let pod: Arc<str> = format!("echo-{version}").into();
            let own = Ipv4Addr::new(127, 245, 10, place);
            for port in [8080, 8081, 9000, 9001] {
                let listener = TcpListener::bind(SocketAddr::from((own, port))).expect("listen");
                let (apps, pod) = (apps.clone(), Arc::clone(&pod));
                std::thread::spawn(move || {
                    for stream in listener.incoming().flatten() {
                        let (apps, pod) = (apps.clone(), Arc::clone(&pod));
                        std::thread::spawn(move || {
                            // A client that goes away is nothing to tell.
                            let _ = apps.connection(stream, port, &pod);
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

    /// Tells the application that holds back a part of its answer to a request to go on.
    pub fn go_on(&self, id: &str) {
        self.going_on.send_modify(|ids| {
            ids.insert(id.to_owned());
        });
    }

    /// Waits for [`Apps::go_on`], not for ever.
    async fn told_to_go_on(&self, id: &str) -> io::Result<()> {
        let mut ids = self.going_on.subscribe();
        let told = ids.wait_for(|ids| ids.contains(id));
        match tokio::time::timeout(TIMEOUT, told).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) | Err(_) => Err(io::ErrorKind::TimedOut.into()),
        }
    }

    /// Notes that a pod saw a request; which attempt it was.
    fn note(&self, id: &str, pod: &str) -> usize {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let pods = seen.entry(id.to_owned()).or_default();
        pods.push(pod.to_owned());
        pods.len()
    }

    fn connection(&self, stream: TcpStream, port: u16, pod: &Arc<str>) -> io::Result<()> {
        stream.set_nodelay(true)?;
        match port {
            8080 => self.http(stream, pod),
            8081 if starts_http2(&stream)? => {
                let work = h2::serve(self.clone(), Arc::clone(pod), stream);
                // What a client did wrong it is told by HTTP/2.
                let _ = self.runtime.block_on(work);
                Ok(())
            }
            8081 => self.http(stream, pod),
            9000 => echo(stream, format!("{pod}\n").as_bytes(), When::AfterClient),
            _ => echo(stream, format!("{pod}\n").as_bytes(), When::First),
        }
    }

    fn http(&self, stream: TcpStream, pod: &str) -> io::Result<()> {
        let mut stream = BufReader::new(stream);
        while let Some(request) = Request::read(&mut stream, |request| {
            self.note(request.header("x-id"), pod)
        })? {
            if !answer(self, stream.get_mut(), pod, &request)? {
                return Ok(());
            }
            if request.wants("upgrade").is_some() {
                return echo_rest(stream);
            }
        }
        Ok(())
    }
}

/// Whether the first bytes are those of HTTP/2.
fn starts_http2(stream: &TcpStream) -> io::Result<bool> {
    let mut first = [0; 3];
    for _ in 0..1000 {
        match stream.peek(&mut first)? {
            0 => return Ok(false),
            3 => return Ok(first == *b"PRI"),
            // Until there is enough to tell.
            _ => std::thread::park_timeout(Duration::from_millis(1)),
        }
    }
    Ok(false)
}

struct Request {
    protocol: String,
    method: String,
    path: String,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
    trailers: Vec<(String, String)>,
    attempt: usize,
}

impl Request {
    /// A request of HTTP/2 without its body; its authority counts as host.
    fn of(parts: &http::request::Parts) -> Self {
        let mut headers = h2::lines(Some(&parts.headers));
        if let Some(authority) = parts.uri.authority() {
            headers.push(("host".to_owned(), authority.to_string()));
        }
        Self {
            protocol: "HTTP/2".to_owned(),
            method: parts.method.to_string(),
            path: parts
                .uri
                .path_and_query()
                .map_or_else(String::new, ToString::to_string),
            headers,
            body: Vec::new(),
            trailers: Vec::new(),
            attempt: 1,
        }
    }

    /// The next one of a connection; `note` is told its head and says which attempt it is.
    fn read(
        stream: &mut BufReader<TcpStream>,
        note: impl FnOnce(&Self) -> usize,
    ) -> io::Result<Option<Self>> {
        let first = line(stream)?;
        if first.is_empty() {
            return Ok(None);
        }
        let mut words = first.split(' ').map(str::to_owned);
        let mut request = Self {
            method: words.next().unwrap_or_default(),
            path: words.next().unwrap_or_default(),
            protocol: words.next().unwrap_or_default(),
            headers: Vec::new(),
            body: Vec::new(),
            trailers: Vec::new(),
            attempt: 1,
        };
        request.headers = header_lines(stream)?;
        request.attempt = note(&request);
        if request.wants("early").is_some() {
            return Ok(Some(request));
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
                if size == 0 {
                    request.trailers = header_lines(stream)?;
                    break;
                }
                stream.take(size).read_to_end(&mut request.body)?;
                line(stream)?;
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

    /// Whether this attempt is one of the first ones that are to fail.
    fn fails(&self) -> bool {
        self.number("fail")
            .is_some_and(|failures| self.attempt <= failures)
    }

    /// How long the answer takes.
    fn delay(&self) -> Duration {
        let stall = self.number("stall").filter(|_| self.fails());
        let millis = self.number("delay").unwrap_or(0) + stall.unwrap_or(0);
        Duration::from_millis(millis as u64)
    }
}

/// Answers; `false` when the connection is over.
fn answer(apps: &Apps, stream: &mut TcpStream, pod: &str, request: &Request) -> io::Result<bool> {
    let failing = request.fails();
    std::thread::park_timeout(request.delay());
    if request.wants("reset").is_some() && (request.number("fail").is_none() || failing) {
        socket2::SockRef::from(&*stream).set_linger(Some(Duration::ZERO))?;
        return Ok(false);
    }
    if request.wants("early").is_some() {
        let pod = format!("x-pod: {pod}\r\n");
        let status = request.number("status").unwrap_or(200);
        let head = format!("HTTP/1.1 {status} Early\r\n{pod}content-length: 0\r\n\r\n");
        stream.write_all(head.as_bytes())?;
        // The rest of the body is taken, so that the end is no reset.
        let _ = io::copy(stream, &mut io::sink());
        return Ok(false);
    }
    if request.wants("garbage").is_some() {
        stream.write_all(b"\0\0garbage\r\n\r\n")?;
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
        None => seen(pod, request).to_string().into_bytes(),
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
    send_body(apps, stream, request, &body)
}

/// The body of an answer; `false` when the connection is over.
fn send_body(
    apps: &Apps,
    stream: &mut TcpStream,
    request: &Request,
    body: &[u8],
) -> io::Result<bool> {
    let half = body.len() / 2;
    if request.wants("cut").is_some() {
        stream.write_all(&body[..half])?;
        return Ok(false);
    }
    if request.wants("hold").is_some() {
        stream.write_all(&body[..half])?;
        let told = apps.told_to_go_on(request.header("x-id"));
        apps.runtime.block_on(told)?;
        stream.write_all(&body[half..])?;
        return Ok(true);
    }
    if request.wants("chunked").is_none() {
        stream.write_all(body)?;
        return Ok(true);
    }
    for piece in body.chunks(10_000) {
        stream.write_all(format!("{:x}\r\n", piece.len()).as_bytes())?;
        stream.write_all(piece)?;
        stream.write_all(b"\r\n")?;
    }
    let trailer = request.wants("trailer").and_then(|t| t.split_once(':'));
    let trailer = trailer.map_or_else(String::new, |(n, v)| format!("{n}: {v}\r\n"));
    stream.write_all(format!("0\r\n{trailer}\r\n").as_bytes())?;
    Ok(true)
}

fn seen(pod: &str, request: &Request) -> Value {
    json!({
        "pod": pod,
        "protocol": request.protocol,
        "method": request.method,
        "path": request.path,
        "headers": request.headers,
        "bytes": request.body.len(),
        "sum": request.body.iter().map(|b| u64::from(*b)).sum::<u64>(),
        "trailers": request.trailers,
        "attempt": request.attempt,
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
        if buffer[..read].ends_with(b"close!") {
            return Ok(());
        }
        if buffer[..read].ends_with(b"half!") {
            stream.shutdown(Shutdown::Write)?;
            // What the client still sends is taken until its end.
            return io::copy(&mut stream, &mut io::sink()).map(drop);
        }
        if buffer[..read].ends_with(b"reset!") {
            return socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO));
        }
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
        if buffer[..read].ends_with(b"close!") {
            return Ok(());
        }
    }
}

fn header_lines(stream: &mut BufReader<TcpStream>) -> io::Result<Vec<(String, String)>> {
    let mut lines = Vec::new();
    loop {
        let line = line(stream)?;
        let Some((name, value)) = line.split_once(':') else {
            return Ok(lines);
        };
        lines.push((name.to_lowercase(), value.trim().to_owned()));
    }
}

fn line(stream: &mut BufReader<TcpStream>) -> io::Result<String> {
    let mut line = String::new();
    stream.read_line(&mut line)?;
    Ok(line.trim_end_matches(['\r', '\n']).to_owned())
}
