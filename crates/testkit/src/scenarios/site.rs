//! What a scenario has to ask with: its service, requests of HTTP/1.1, connections.

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::Scenario;
use super::access_log::{AccessLog, Expected};
use super::app::Apps;
use super::call::{Call, H2};
use super::got::Got;
use crate::hbone::{Client, Issuer};
use crate::http::Connection;
use crate::peers::Interop;
use crate::wait::until_or;

/// `Err` says what is not as it should be.
pub type Verdict = Result<(), String>;

/// What all scenarios of a run share.
#[derive(Debug)]
pub struct Ground {
    /// The applications behind the waypoint.
    pub apps: Apps,
    /// Where the waypoint takes tunnels.
    pub waypoint: SocketAddr,
    /// Where it shows what it does.
    pub admin: SocketAddr,
    /// The state directory of the mesh, for its CA.
    pub state: PathBuf,
    /// The directory of the manifests.
    pub manifests: PathBuf,
    /// The gRPC interoperability programs, where they can be had.
    pub interop: Option<Interop>,
}

/// A scenario's service, with a client before it and the applications behind it.
#[derive(Debug)]
pub struct Site<'a> {
    /// Name of the service.
    pub host: String,
    /// Its address.
    pub vip: IpAddr,
    /// What it shares with the others.
    pub ground: &'a Ground,
    scenario: &'a Scenario,
    pub(super) expected: Expected,
}

static REQUESTS: AtomicU64 = AtomicU64::new(0);
pub(super) const CLIENT: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 244, 20, 1));
pub(super) const TIMEOUT: Duration = Duration::from_secs(10);

/// An id for a request that no other has.
pub(super) fn next_id() -> String {
    REQUESTS.fetch_add(1, Ordering::Relaxed).to_string()
}

impl<'a> Site<'a> {
    /// The scenario with the name and address of its service.
    #[must_use]
    pub fn new(scenario: &'a Scenario, host: String, vip: IpAddr, ground: &'a Ground) -> Self {
        Self {
            host,
            vip,
            ground,
            scenario,
            expected: Expected::default(),
        }
    }

    /// Whether the access log says of the requests so far what it should.
    ///
    /// # Errors
    /// What it says else.
    pub fn logged(&self, log: &AccessLog) -> Verdict {
        self.expected.check(log, |address| address.ip() == self.vip)
    }

    /// The access log has to have a line with these flags for that port, of a request or connection without an id.
    pub fn also_logged(&self, port: u16, flags: &str) {
        self.logged_at(SocketAddr::new(self.vip, port), flags);
    }

    /// The same for an address that is not the service's.
    pub fn logged_at(&self, address: SocketAddr, flags: &str) {
        self.expected.other(address, flags);
    }

    /// There may be lines with these flags, without an id: what is logged is a matter of time.
    pub fn may_log(&self, flags: &str) {
        self.expected.perhaps(flags);
    }

    /// A gRPC call with one message, on port 90.
    #[must_use]
    pub fn grpc(&self, message: &[u8]) -> Call<'_> {
        Call::grpc(self, message)
    }

    /// An HTTP/2 request, on port 82.
    #[must_use]
    pub fn http2(&self, method: &'static str, path: &str) -> Call<'_> {
        Call::http2(self, method, path)
    }

    /// An HTTP/2 connection of the client.
    ///
    /// # Errors
    /// When there is none.
    pub fn http2_connection(&self, port: u16) -> Result<H2<'_>, String> {
        H2::connect(self, port)
    }

    /// Replaces the scenario's own manifests, at once.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn replace_manifests(&self, text: &str) -> Verdict {
        let path = self.ground.manifests.join(super::file_of(&self.host));
        let beside = path.with_extension("new");
        std::fs::write(&beside, super::text(self.scenario, text, &self.host))
            .and_then(|()| std::fs::rename(&beside, &path))
            .map_err(|e| format!("write {}: {e}", path.display()))
    }

    /// An id for a request of which the access log may say anything, or nothing.
    #[must_use]
    pub fn unlogged(&self) -> String {
        next_id()
    }

    /// Whether an application has seen a request.
    #[must_use]
    pub fn reached(&self, id: &str) -> bool {
        !self.pods_of(id).is_empty()
    }

    /// The pods that saw a request, in order.
    pub(super) fn pods_of(&self, id: &str) -> Vec<String> {
        self.ground.apps.pods(id)
    }

    /// Opens a tunnel to an address as the client's node proxy would, and gives what comes back of some bytes.
    ///
    /// # Errors
    /// When it is refused or breaks.
    pub fn tunnel(&self, to: SocketAddr, bytes: &[u8]) -> Result<Vec<u8>, String> {
        let leaf = Issuer::of_mesh(&self.ground.state)
            .leaf("spiffe://cluster.local/ns/scenarios/sa/client");
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|e| e.to_string())?;
        let exchange = async {
            let mut client =
                Client::connect(Some(CLIENT), self.ground.waypoint, Some(&leaf)).await?;
            client.exchange(&to.to_string(), &[], bytes).await
        };
        runtime
            .block_on(exchange)
            .map_err(|e: crate::hbone::DialError| e.to_string())
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
            flags: "-".to_owned(),
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
        self.raw_on(80, bytes)
    }

    /// The same on another port.
    ///
    /// # Errors
    /// When there is no connection.
    pub fn raw_on(&self, port: u16, bytes: &[u8]) -> Result<String, String> {
        let mut connection = self.connection(port)?;
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
    flags: String,
}

impl<'a> Ask<'a> {
    /// What the access log has to say about it; no flag unless this is called.
    #[must_use]
    pub fn flags(mut self, flags: &str) -> Self {
        flags.clone_into(&mut self.flags);
        self
    }

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
        let id = self.begin();
        let started = Instant::now();
        let answer = connection
            .request(&self.method, &self.path, &self.lines(&id), &self.body)
            .map_err(|e| format!("{} {}: {e}", self.method, self.path))?;
        let took = started.elapsed();
        self.site.expected.answered(&id, answer.status);
        Ok(Got {
            answer,
            took,
            pods: self.site.pods_of(&id),
        })
    }

    /// Sends it on a connection of its own and comes back once an application has it.
    ///
    /// # Errors
    /// When no application gets it.
    pub fn start(self) -> Result<Pending<'a>, String> {
        let whole = self.body.len();
        self.start_with(whole)
    }

    /// The same with so many bytes of the body; the others are left to [`Pending::send`].
    ///
    /// # Errors
    /// When no application gets it.
    pub fn start_with(self, bytes: usize) -> Result<Pending<'a>, String> {
        let id = self.begin();
        let started = Instant::now();
        let mut connection = self.site.connection(self.port)?;
        let lines = self.lines(&id);
        connection
            .send_head(&self.method, &self.path, &lines, self.body.len())
            .and_then(|()| connection.write(&self.body[..bytes]))
            .map_err(|e| format!("{} {}: {e}", self.method, self.path))?;
        if !until_or(TIMEOUT, || !self.site.pods_of(&id).is_empty()) {
            return Err("no application got it".to_owned());
        }
        Ok(Pending {
            site: self.site,
            method: self.method,
            id,
            connection,
            started,
        })
    }

    fn begin(&self) -> String {
        let id = next_id();
        self.site.expected.request(&id, &self.flags);
        id
    }

    fn lines<'l>(&'l self, id: &'l str) -> Vec<(&'l str, &'l str)> {
        let lines = self.headers.iter().map(|(n, v)| (n.as_str(), v.as_str()));
        lines.chain([("x-id", id)]).collect()
    }
}

/// A request that an application has and that is not answered yet. Dropped, its client goes away.
#[derive(Debug)]
pub struct Pending<'a> {
    site: &'a Site<'a>,
    method: String,
    id: String,
    connection: Connection,
    started: Instant,
}

impl Pending<'_> {
    /// Sends some more of the body.
    ///
    /// # Errors
    /// When the connection breaks.
    pub fn send(&mut self, bytes: &[u8]) -> Verdict {
        self.connection.write(bytes).map_err(|e| e.to_string())
    }

    /// Waits for the head of the answer and so many bytes of its body; lets the application go on, and gives the rest of the
    /// body of that length.
    ///
    /// # Errors
    /// When the connection breaks.
    pub fn answer_in_two(mut self, length: usize) -> Result<Vec<u8>, String> {
        let mut half = || -> std::io::Result<u16> {
            let status = self.connection.head()?.status;
            self.connection.bytes(length / 2)?;
            Ok(status)
        };
        let status = half().map_err(|e| format!("half the answer: {e}"))?;
        self.site.expected.answered(&self.id, status);
        self.site.ground.apps.go_on(&self.id);
        let rest = self.connection.bytes(length - length / 2);
        rest.map_err(|e| format!("the rest of the answer: {e}"))
    }

    /// Waits for the end of an answer of which the application holds back half.
    ///
    /// # Errors
    /// When the whole of it comes.
    pub fn broken_off(mut self, length: usize) -> Verdict {
        let status = self.connection.head().map_err(|e| e.to_string())?.status;
        self.site.expected.answered(&self.id, status);
        match self.connection.bytes(length) {
            Err(e)
                if matches!(
                    e.kind(),
                    ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset
                ) =>
            {
                Ok(())
            }
            Err(e) => Err(format!("the answer: {e}")),
            Ok(_) => Err("the answer is complete".to_owned()),
        }
    }

    /// Waits for the answer.
    ///
    /// # Errors
    /// When there is none.
    pub fn answer(mut self) -> Result<Got, String> {
        let answer = self.connection.answer(&self.method);
        let answer = answer.map_err(|e| format!("the answer: {e}"))?;
        self.site.expected.answered(&self.id, answer.status);
        Ok(Got {
            answer,
            took: self.started.elapsed(),
            pods: self.site.pods_of(&self.id),
        })
    }
}
