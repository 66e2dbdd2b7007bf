//! HBONE connections on one thread: sockets, TLS and HTTP/2, driven by what a [`Role`] makes of the frames.
//!
//! Each wake-up reads every readable socket dry, lets the role work, then flushes each touched connection once. Load, destination
//! and floor relay are roles on it, so what they cost is little and the same whoever is measured.

use std::io::{self, BufRead, Read, Write};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, ServerConfig, ServerConnection};
use waymark_engine::WriteBuf;
use waymark_engine::h2::{Config, Connection, ConnectionError, Event, Limits, Rate};

const READ_BYTES: usize = 256 * 1024;
/// Tokens below are listeners'.
const FIRST_LINK: usize = 16;

/// A connection of a [`Hub`]; never used again for another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct LinkId(pub(crate) usize);

/// The HTTP/2 end of a connection.
pub(crate) struct End {
    pub(crate) h2: Connection,
    pub(crate) out: WriteBuf,
}

/// What is done with the frames of all connections.
pub(crate) trait Role {
    /// Something came on `id`, whose end is `end`; others are reached through `hub`.
    fn event(&mut self, hub: &mut Hub, id: LinkId, end: &mut End, event: Event<'_>);
    /// A connection is gone; `error` when that was not in good order.
    fn closed(&mut self, hub: &mut Hub, id: LinkId, error: Option<LinkError>);
    /// After each wake-up, before output is flushed.
    fn woken(&mut self, hub: &mut Hub);
}

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LinkError {
    #[error("the socket")]
    Io(#[from] io::Error),
    #[error("TLS")]
    Tls(#[from] rustls::Error),
    #[error("HTTP/2")]
    H2(#[from] ConnectionError),
}

struct Link {
    socket: TcpStream,
    tls: rustls::Connection,
    end: End,
    /// Whether the kernel has finished connecting.
    connected: bool,
    touched: bool,
}

/// All connections, and what wakes them.
pub(crate) struct Hub {
    poll: Poll,
    events: Events,
    listeners: Vec<(TcpListener, Arc<ServerConfig>)>,
    links: Vec<Option<Box<Link>>>,
    touched: Vec<LinkId>,
    scratch: Box<[u8]>,
    h2: Arc<Config>,
    /// When the last wake-up was.
    pub(crate) now: Instant,
}

impl Hub {
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self {
            poll: Poll::new()?,
            events: Events::with_capacity(1024),
            listeners: Vec::new(),
            links: Vec::new(),
            touched: Vec::new(),
            scratch: vec![0; READ_BYTES].into_boxed_slice(),
            h2: Arc::new(config()),
            now: Instant::now(),
        })
    }

    /// Accepts HBONE.
    pub(crate) fn listen(&mut self, address: SocketAddr, tls: Arc<ServerConfig>) -> io::Result<()> {
        let mut listener = TcpListener::bind(address)?;
        let token = Token(self.listeners.len());
        assert!(token.0 < FIRST_LINK, "few listeners");
        self.poll
            .registry()
            .register(&mut listener, token, Interest::READABLE)?;
        self.listeners.push((listener, tls));
        Ok(())
    }

    /// Connects; what is sent meanwhile waits.
    pub(crate) fn dial(
        &mut self,
        target: SocketAddr,
        source: Option<IpAddr>,
        tls: &Arc<ClientConfig>,
    ) -> Result<LinkId, LinkError> {
        let socket = dial(target, source)?;
        let name = ServerName::IpAddress(target.ip().into());
        let mut tls = ClientConnection::new(Arc::clone(tls), name)?;
        tls.set_buffer_limit(None);
        let mut out = WriteBuf::new();
        let h2 = Connection::client(Arc::clone(&self.h2), &mut out);
        Ok(self.add(socket, tls.into(), End { h2, out }, false)?)
    }

    /// The end of another connection than the one that an event is of, which will be flushed.
    pub(crate) fn end(&mut self, id: LinkId) -> Option<&mut End> {
        let link = self.links.get_mut(id.0)?.as_mut()?;
        if !link.touched {
            link.touched = true;
            self.touched.push(id);
        }
        Some(&mut link.end)
    }

    /// Ends a connection other than the one that an event is of.
    pub(crate) fn close(&mut self, id: LinkId) {
        if let Some(mut link) = self.links.get_mut(id.0).and_then(Option::take) {
            link.tls.send_close_notify();
            let _ = link.flush();
            let _ = self.poll.registry().deregister(&mut link.socket);
        }
    }

    /// The poll's registry, for a timer.
    pub(crate) fn registry(&self) -> &mio::Registry {
        self.poll.registry()
    }

    /// Waits for something and does all that can be done then.
    pub(crate) fn turn<R: Role>(
        &mut self,
        role: &mut R,
        timeout: Option<Duration>,
    ) -> io::Result<()> {
        let mut events = std::mem::replace(&mut self.events, Events::with_capacity(0));
        match self.poll.poll(&mut events, timeout) {
            Err(e) if e.kind() != io::ErrorKind::Interrupted => return Err(e),
            _ => {}
        }
        self.now = Instant::now();
        for event in &events {
            match event.token() {
                Token(usize::MAX) => {} // a timer, which the role reads
                Token(n) if n < FIRST_LINK => self.accept(n)?,
                Token(n) => {
                    let id = LinkId(n - FIRST_LINK);
                    if event.is_writable() {
                        self.connected(id);
                    }
                    if event.is_readable() || event.is_error() || event.is_read_closed() {
                        self.read(id, role);
                    }
                }
            }
        }
        self.events = events;
        role.woken(self);
        while let Some(id) = self.touched.pop() {
            self.flush(id, role);
        }
        Ok(())
    }

    fn accept(&mut self, listener: usize) -> io::Result<()> {
        loop {
            let (listener, tls) = &self.listeners[listener];
            let (socket, _) = match listener.accept() {
                Ok(accepted) => accepted,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(e) => return Err(e),
            };
            let Ok(mut tls) = ServerConnection::new(Arc::clone(tls)) else {
                continue;
            };
            tls.set_buffer_limit(None);
            let mut out = WriteBuf::new();
            let h2 = Connection::server(Arc::clone(&self.h2), &mut out);
            self.add(socket, tls.into(), End { h2, out }, true)?;
        }
    }

    fn add(
        &mut self,
        mut socket: TcpStream,
        tls: rustls::Connection,
        end: End,
        connected: bool,
    ) -> io::Result<LinkId> {
        if connected {
            socket.set_nodelay(true)?;
        }
        let id = LinkId(self.links.len());
        self.poll.registry().register(
            &mut socket,
            Token(FIRST_LINK + id.0),
            Interest::READABLE | Interest::WRITABLE,
        )?;
        self.links.push(Some(Box::new(Link {
            socket,
            tls,
            end,
            connected,
            touched: true,
        })));
        self.touched.push(id);
        Ok(id)
    }

    fn connected(&mut self, id: LinkId) {
        if let Some(Some(link)) = self.links.get_mut(id.0) {
            link.connected = true;
            if !link.touched {
                link.touched = true;
                self.touched.push(id);
            }
        }
    }

    fn read<R: Role>(&mut self, id: LinkId, role: &mut R) {
        let Some(mut link) = self.links.get_mut(id.0).and_then(Option::take) else {
            return;
        };
        let mut scratch = std::mem::take(&mut self.scratch);
        let read = link.read(&mut scratch, |end, event| role.event(self, id, end, event));
        self.scratch = scratch;
        let sends = !link.end.out.is_empty() || link.tls.wants_write();
        if sends && link.connected && !link.touched {
            link.touched = true;
            self.touched.push(id);
        }
        self.put_back(id, link, read, role);
    }

    fn flush<R: Role>(&mut self, id: LinkId, role: &mut R) {
        let Some(mut link) = self.links.get_mut(id.0).and_then(Option::take) else {
            return;
        };
        link.touched = false;
        let flushed = link.flush_and_tell(self.now, |end, event| role.event(self, id, end, event));
        self.put_back(id, link, flushed, role);
    }

    /// Keeps a link that lives on.
    fn put_back<R: Role>(
        &mut self,
        id: LinkId,
        mut link: Box<Link>,
        went: Result<bool, LinkError>,
        role: &mut R,
    ) {
        match went {
            Ok(true) => self.links[id.0] = Some(link),
            Ok(false) => role.closed(self, id, None),
            Err(error) => {
                let _ = link.flush();
                role.closed(self, id, Some(error));
            }
        }
    }
}

impl Link {
    /// Reads all that there is. Whether the connection lives on.
    fn read(
        &mut self,
        scratch: &mut [u8],
        mut on: impl FnMut(&mut End, Event<'_>),
    ) -> Result<bool, LinkError> {
        let now = Instant::now();
        loop {
            let count = match self.socket.read(scratch) {
                Ok(0) => return Ok(false),
                Ok(count) => count,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(true),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) => return Err(e.into()),
            };
            if !self.take_in(&scratch[..count], now, &mut on)? {
                return Ok(false);
            }
            if count < scratch.len() {
                return Ok(true); // what comes later is another wake-up
            }
        }
    }

    fn take_in(
        &mut self,
        mut records: &[u8],
        now: Instant,
        on: &mut impl FnMut(&mut End, Event<'_>),
    ) -> Result<bool, LinkError> {
        while !records.is_empty() {
            self.tls.read_tls(&mut records)?;
            let state = self.tls.process_new_packets()?;
            let mut left = state.plaintext_bytes_to_read();
            while left > 0 {
                let mut reader = self.tls.reader();
                let mut input = reader.fill_buf()?;
                let count = input.len();
                self.end.tell(&mut input, now, on)?;
                reader.consume(count);
                left -= count;
            }
            if state.peer_has_closed() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Sends, and tells who waited for room.
    fn flush_and_tell(
        &mut self,
        now: Instant,
        mut on: impl FnMut(&mut End, Event<'_>),
    ) -> Result<bool, LinkError> {
        if !self.connected {
            return Ok(true);
        }
        loop {
            self.flush()?;
            if self.stuck() {
                return Ok(true);
            }
            self.end.tell(&mut &[][..], now, &mut on)?;
            if self.end.out.is_empty() {
                return Ok(true);
            }
        }
    }

    /// Gives the socket what it takes; what it doesn't take yet isn't encrypted either, one batch aside.
    fn flush(&mut self) -> Result<(), LinkError> {
        loop {
            while self.tls.wants_write() {
                match self.tls.write_tls(&mut self.socket) {
                    Ok(_) => {}
                    Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                    Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                    Err(e) => return Err(e.into()),
                }
            }
            if self.end.out.is_empty() {
                return Ok(());
            }
            let count = self.tls.writer().write(self.end.out.unsent())?;
            self.end.out.advance(count);
            if !self.tls.wants_write() {
                return Ok(()); // kept until the handshake is over
            }
        }
    }

    /// Whether the socket takes no more now.
    fn stuck(&self) -> bool {
        self.tls.wants_write()
    }
}

impl End {
    fn tell(
        &mut self,
        input: &mut &[u8],
        now: Instant,
        on: &mut impl FnMut(&mut Self, Event<'_>),
    ) -> Result<(), ConnectionError> {
        while let Some(event) = self.h2.recv(input, &mut self.out, now)? {
            on(self, event);
        }
        Ok(())
    }
}

/// Large windows and no limits that load could meet: what is measured is the proxy.
pub(crate) fn config() -> Config {
    let unlimited = Rate {
        burst: u32::MAX,
        per_second: u32::MAX,
        per_work: 0,
    };
    Config {
        stream_window_bytes: 16 << 20,
        connection_window_bytes: 64 << 20,
        max_concurrent_streams: 10_000,
        output_bytes: 4 << 20,
        limits: Limits {
            memory_bytes: 1 << 30,
            backlog_bytes: 64 << 20,
            resets: unlimited,
            settings: unlimited,
            pings: unlimited,
            empty_frames: unlimited,
            idle_frames: unlimited,
            window_updates: unlimited,
            ..Limits::default()
        },
        ..Config::default()
    }
}

fn dial(target: SocketAddr, source: Option<IpAddr>) -> io::Result<TcpStream> {
    use socket2::{Domain, Socket, Type};
    let socket = Socket::new(Domain::for_address(target), Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    socket.set_tcp_nodelay(true)?;
    if let Some(source) = source {
        socket.bind(&SocketAddr::new(source, 0).into())?;
    }
    match socket.connect(&target.into()) {
        Err(e) if e.raw_os_error() != Some(rustix::io::Errno::INPROGRESS.raw_os_error()) => Err(e),
        _ => Ok(TcpStream::from_std(socket.into())),
    }
}
