//! What a scenario asks, and what it says about the answers.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::app::Apps;
use crate::http::{Answer, Connection};

/// `Err` says what is not as it should be.
pub type Verdict = Result<(), String>;

/// A scenario's service, with a client before it and the applications behind it.
#[derive(Debug)]
pub struct Site<'a> {
    /// Name of the service.
    pub host: String,
    /// Its address.
    pub vip: IpAddr,
    apps: &'a Apps,
}

static REQUESTS: AtomicU64 = AtomicU64::new(0);
const CLIENT: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 244, 20, 1));
const TIMEOUT: Duration = Duration::from_secs(10);

impl<'a> Site<'a> {
    /// The service of that name and address.
    #[must_use]
    pub fn new(host: String, vip: IpAddr, apps: &'a Apps) -> Self {
        Self { host, vip, apps }
    }

    /// `GET` on port 80.
    #[must_use]
    pub fn get(&self, path: &str) -> Ask<'_> {
        self.ask("GET", path)
    }

    /// A request on port 80.
    #[must_use]
    pub fn ask(&self, method: &str, path: &str) -> Ask<'_> {
        Ask {
            site: self,
            method: method.to_owned(),
            path: path.to_owned(),
            port: 80,
            headers: Vec::new(),
            body: Vec::new(),
        }
    }

    /// A connection of the client to a port of the service.
    ///
    /// # Errors
    /// When there is none.
    pub fn connect(&self, port: u16) -> Result<TcpStream, String> {
        let open = || -> std::io::Result<TcpStream> {
            let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None)?;
            socket.bind(&SocketAddr::new(CLIENT, 0).into())?;
            socket.connect_timeout(&SocketAddr::new(self.vip, port).into(), TIMEOUT)?;
            let stream: TcpStream = socket.into();
            stream.set_read_timeout(Some(TIMEOUT))?;
            stream.set_nodelay(true)?;
            Ok(stream)
        };
        open().map_err(|e| format!("connect to port {port}: {e}"))
    }

    /// Sends bytes and the end, and gives all that comes back until the peer's end.
    ///
    /// # Errors
    /// When the connection breaks.
    pub fn exchange(&self, port: u16, bytes: &[u8]) -> Result<Vec<u8>, String> {
        let mut stream = self.connect(port)?;
        let mut writer = stream.try_clone().map_err(|e| e.to_string())?;
        let bytes = bytes.to_owned();
        let sender = std::thread::spawn(move || {
            writer.write_all(&bytes)?;
            writer.shutdown(Shutdown::Write)
        });
        let mut got = Vec::new();
        let read = stream.read_to_end(&mut got);
        let sent = sender
            .join()
            .map_err(|_| "the sender panicked".to_owned())?;
        sent.map_err(|e| format!("send: {e}"))?;
        read.map_err(|e| format!("receive after {} bytes: {e}", got.len()))?;
        Ok(got)
    }

    /// Sends raw bytes to port 80 and gives what comes back as text, until the peer's end.
    ///
    /// # Errors
    /// When there is no connection.
    pub fn raw(&self, bytes: &[u8]) -> Result<String, String> {
        let mut connection = self.connection(80)?;
        let got = connection.raw(bytes, 1 << 20).map_err(|e| e.to_string())?;
        Ok(String::from_utf8_lossy(&got).into_owned())
    }

    /// An HTTP connection of the client.
    ///
    /// # Errors
    /// When there is none.
    pub fn connection(&self, port: u16) -> Result<Connection, String> {
        let to = SocketAddr::new(self.vip, port);
        Connection::open(Some(CLIENT), to).map_err(|e| format!("connect to port {port}: {e}"))
    }

    /// Sends a request `n` times on some connections and counts the pods that answered.
    ///
    /// # Errors
    /// When one is not answered with 200.
    pub fn pods(&self, path: &str, n: usize) -> Result<BTreeMap<String, usize>, String> {
        let mut counts = BTreeMap::new();
        for _ in 0..n {
            let got = self.get(path).send()?.status(200)?;
            *counts.entry(got.header("x-pod").to_owned()).or_default() += 1;
        }
        Ok(counts)
    }
}

/// A request that is being put together.
#[derive(Debug)]
pub struct Ask<'a> {
    site: &'a Site<'a>,
    method: String,
    path: String,
    port: u16,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

impl Ask<'_> {
    /// To another port.
    #[must_use]
    pub fn port(mut self, port: u16) -> Self {
        self.port = port;
        self
    }

    /// With a header.
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Has the application do something, see [`super::app`].
    #[must_use]
    pub fn having(self, what: &str) -> Self {
        self.header("x-do", what)
    }

    /// With a body of known length.
    #[must_use]
    pub fn body(mut self, body: Vec<u8>) -> Self {
        self.body = body;
        self
    }

    /// Sends it on a connection of its own.
    ///
    /// # Errors
    /// When there is no answer.
    pub fn send(self) -> Result<Got, String> {
        let mut connection = self.site.connection(self.port)?;
        self.send_on(&mut connection)
    }

    /// Sends it on a connection.
    ///
    /// # Errors
    /// When there is no answer.
    pub fn send_on(self, connection: &mut Connection) -> Result<Got, String> {
        let id = REQUESTS.fetch_add(1, Ordering::Relaxed).to_string();
        let mut headers: Vec<(&str, &str)> = self
            .headers
            .iter()
            .map(|(n, v)| (n.as_str(), v.as_str()))
            .collect();
        headers.push(("x-id", &id));
        let started = Instant::now();
        let answer = connection
            .request(&self.method, &self.path, &headers, &self.body)
            .map_err(|e| format!("{} {}: {e}", self.method, self.path))?;
        let took = started.elapsed();
        Ok(Got {
            answer,
            took,
            pods: self.site.apps.pods(&id),
        })
    }
}

/// An answer, and what can be said about it.
#[derive(Debug)]
pub struct Got {
    /// The answer.
    pub answer: Answer,
    /// How long it took.
    pub took: Duration,
    /// The pods that had seen the request by then, in order.
    pub pods: Vec<String>,
}

impl Got {
    /// A header, empty when it is not there.
    #[must_use]
    pub fn header(&self, name: &str) -> &str {
        self.answer.header(name).unwrap_or("")
    }

    /// What the application saw.
    #[must_use]
    pub fn seen(&self, what: &str) -> Value {
        self.answer.json()[what].clone()
    }

    /// All values of a header that the application saw, joined by commas.
    #[must_use]
    pub fn seen_header(&self, name: &str) -> String {
        let headers = self.seen("headers");
        let values = headers.as_array().into_iter().flatten();
        let values = values
            .filter(|pair| pair[0] == name)
            .filter_map(|pair| pair[1].as_str());
        values.collect::<Vec<_>>().join(",")
    }

    /// The status has to be this.
    ///
    /// # Errors
    /// When it is another.
    pub fn status(self, want: u16) -> Result<Self, String> {
        if self.answer.status == want {
            return Ok(self);
        }
        let body = String::from_utf8_lossy(&self.answer.body)
            .chars()
            .take(120)
            .collect::<String>();
        Err(format!(
            "status {}, want {want}; body {body:?}",
            self.answer.status
        ))
    }

    /// The pod that answered has to be this.
    ///
    /// # Errors
    /// When it is another.
    pub fn pod(self, want: &str) -> Result<Self, String> {
        let got = self.header("x-pod").to_owned();
        same("pod", &got, want).map(|()| self)
    }

    /// A header of the answer has to be this; empty: has not to be there.
    ///
    /// # Errors
    /// When it is another.
    pub fn with(self, name: &str, want: &str) -> Result<Self, String> {
        let got = self.header(name).to_owned();
        same(name, &got, want).map(|()| self)
    }

    /// A header of the request, as the application saw it, has to be this; empty: has not to be there.
    ///
    /// # Errors
    /// When it is another.
    pub fn saw(self, name: &str, want: &str) -> Result<Self, String> {
        let got = self.seen_header(name);
        same(&format!("request header {name}"), &got, want).map(|()| self)
    }

    /// The path that the application saw has to be this.
    ///
    /// # Errors
    /// When it is another.
    pub fn path(self, want: &str) -> Result<Self, String> {
        let got = self.seen("path");
        same("path", got.as_str().unwrap_or(""), want).map(|()| self)
    }

    /// The body has to be this.
    ///
    /// # Errors
    /// When it is another.
    pub fn text(self, want: &str) -> Result<Self, String> {
        let got = String::from_utf8_lossy(&self.answer.body).into_owned();
        same("body", &got, want).map(|()| self)
    }

    /// The body has to contain this.
    ///
    /// # Errors
    /// When it does not.
    pub fn containing(self, want: &str) -> Result<Self, String> {
        let got = String::from_utf8_lossy(&self.answer.body).into_owned();
        if got.contains(want) {
            Ok(self)
        } else {
            Err(format!("body {got:?}, want {want:?} in it"))
        }
    }

    /// The applications have to have seen it so often.
    ///
    /// # Errors
    /// When it was another number.
    pub fn attempts(self, want: usize) -> Result<Self, String> {
        same("attempts", &self.pods.len().to_string(), &want.to_string()).map(|()| self)
    }

    /// It has to have taken so long, in milliseconds.
    ///
    /// # Errors
    /// When it did not.
    pub fn within(self, from: u64, to: u64) -> Result<Self, String> {
        let took = self.took.as_millis();
        if (u128::from(from)..=u128::from(to)).contains(&took) {
            Ok(self)
        } else {
            Err(format!("took {took} ms, want {from} to {to}"))
        }
    }

    /// The end of the chain.
    ///
    /// # Errors
    /// Never.
    pub fn done(self) -> Verdict {
        Ok(())
    }
}

/// Two texts have to be the same.
fn same(what: &str, got: &str, want: &str) -> Verdict {
    if got == want {
        Ok(())
    } else {
        Err(format!("{what} {got:?}, want {want:?}"))
    }
}
