//! The destination: node proxy and application in one process. Accepts HBONE, answers HTTP in the tunnel; or, for a node proxy
//! under test, is the application alone and answers plain HTTP/1.1.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;
use waymark_engine::h2::{self, End as Last, Event, StreamRef};
use waymark_engine::{Field, Head, WriteBuf};

use crate::certs::{Ca, CertError};
use crate::hub::{End, Hub, LinkError, LinkId, Role};

const PREFACE: &[u8] = b"PRI * HTTP/2.0";

#[derive(Debug, Clone, Args)]
pub(crate) struct BackendArgs {
    /// Addresses to accept HBONE on.
    #[arg(long, value_delimiter = ',')]
    pub(crate) listen: Vec<SocketAddr>,
    /// Addresses to accept plain HTTP/1.1 on.
    #[arg(long, value_delimiter = ',')]
    pub(crate) plain: Vec<SocketAddr>,
    /// Directory with ca-cert.pem, ca-key.pem, root-cert.pem.
    #[arg(long)]
    pub(crate) ca_dir: PathBuf,
    /// Own identity.
    #[arg(long, default_value = "spiffe://cluster.local/ns/bench/sa/backend")]
    pub(crate) identity: String,
    /// Bytes of a response body.
    #[arg(long, default_value_t = 1024)]
    pub(crate) bytes: usize,
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum BackendError {
    #[error(transparent)]
    Certs(#[from] CertError),
    #[error("listen on {0}")]
    Listen(SocketAddr, #[source] io::Error),
    #[error("the destination's sockets")]
    Io(#[from] io::Error),
}

/// Answers until killed.
pub(crate) fn run(args: &BackendArgs) -> Result<(), BackendError> {
    let answers = Answers::new(args.bytes);
    for &address in &args.plain {
        let listener =
            std::net::TcpListener::bind(address).map_err(|e| BackendError::Listen(address, e))?;
        let answer = Arc::clone(&answers.h1);
        std::thread::spawn(move || crate::plain::serve(listener, &answer));
    }
    let tls = Ca::load(&args.ca_dir)?.server(&args.identity)?;
    let mut hub = Hub::new()?;
    for &address in &args.listen {
        hub.listen(address, Arc::clone(&tls))
            .map_err(|e| BackendError::Listen(address, e))?;
    }
    let mut destination = Destination {
        answers,
        tunnels: Vec::new(),
    };
    loop {
        hub.turn(&mut destination, None)?;
    }
}

/// The responses, made once.
struct Answers {
    h1: Arc<[u8]>,
    body: Vec<u8>,
    inner: Arc<h2::Config>,
}

impl Answers {
    fn new(bytes: usize) -> Self {
        let body = vec![b'x'; bytes];
        let mut h1 = format!(
            "HTTP/1.1 200 OK\r\ncontent-length: {bytes}\r\ncontent-type: text/plain\r\n\r\n"
        )
        .into_bytes();
        h1.extend_from_slice(&body);
        Self {
            h1: h1.into(),
            body,
            inner: Arc::new(crate::hub::config()),
        }
    }
}

struct Destination {
    answers: Answers,
    /// By connection and slot.
    tunnels: Vec<Vec<Option<Tunnel>>>,
}

struct Tunnel {
    stream: StreamRef,
    spoken: Spoken,
    /// Answers that the tunnel has no room for yet.
    pending: WriteBuf,
    ended: bool,
}

enum Spoken {
    /// The beginning of the first message.
    Unknown(Vec<u8>),
    /// How much of the blank line that ends a head was seen.
    H1 {
        matched: usize,
    },
    H2(Box<h2::Connection>),
}

impl Destination {
    fn tunnel(&mut self, id: LinkId, stream: StreamRef) -> Option<(&mut Tunnel, &Answers)> {
        let slot = self.tunnels.get_mut(id.0)?.get_mut(stream.slot())?;
        let tunnel = slot.as_mut().filter(|tunnel| tunnel.stream == stream)?;
        Some((tunnel, &self.answers))
    }

    fn open(&mut self, id: LinkId, end: &mut End, stream: StreamRef) {
        if self.tunnels.len() <= id.0 {
            self.tunnels.resize_with(id.0 + 1, Vec::new);
        }
        let slots = &mut self.tunnels[id.0];
        if slots.len() <= stream.slot() {
            slots.resize_with(stream.slot() + 1, || None);
        }
        let is_connect = end.h2.head().method() == Some(b"CONNECT");
        let head = Head::response(if is_connect { 200 } else { 400 });
        let last = Last::from(!is_connect);
        let _ = end
            .h2
            .send_response(stream, head.wire_fields(), last, &mut end.out);
        slots[stream.slot()] = is_connect.then(|| Tunnel {
            stream,
            spoken: Spoken::Unknown(Vec::new()),
            pending: WriteBuf::new(),
            ended: false,
        });
    }
}

impl Role for Destination {
    fn event(&mut self, hub: &mut Hub, id: LinkId, end: &mut End, event: Event<'_>) {
        match event {
            Event::Head { stream, .. } => self.open(id, end, stream),
            Event::Data {
                stream,
                data,
                end: last,
            } => {
                end.h2.consume(stream, data.len(), &mut end.out);
                if let Some((tunnel, answers)) = self.tunnel(id, stream) {
                    tunnel.take_in(data, answers, hub);
                    tunnel.ended |= last;
                    tunnel.send(end);
                }
            }
            Event::Writable { stream } => {
                if let Some((tunnel, _)) = self.tunnel(id, stream) {
                    tunnel.send(end);
                }
            }
            Event::Reset { .. }
            | Event::Trailers { .. }
            | Event::Informational { .. }
            | Event::Settings
            | Event::Pong { .. }
            | Event::GoAway { .. } => {}
        }
    }

    fn closed(&mut self, _: &mut Hub, id: LinkId, _: Option<LinkError>) {
        if let Some(slots) = self.tunnels.get_mut(id.0) {
            *slots = Vec::new();
        }
    }

    fn woken(&mut self, _: &mut Hub) {}
}

impl Tunnel {
    fn take_in(&mut self, data: &[u8], answers: &Answers, hub: &Hub) {
        match &mut self.spoken {
            Spoken::Unknown(begun) => {
                begun.extend_from_slice(data);
                let shown = begun.len().min(PREFACE.len());
                let is_h2 = begun[..shown] == PREFACE[..shown];
                if is_h2 && shown < PREFACE.len() {
                    return;
                }
                let begun = std::mem::take(begun);
                self.spoken = if is_h2 {
                    let config = Arc::clone(&answers.inner);
                    Spoken::H2(Box::new(h2::Connection::server(config, &mut self.pending)))
                } else {
                    Spoken::H1 { matched: 0 }
                };
                self.take_in(&begun, answers, hub);
            }
            Spoken::H1 { matched } => {
                for _ in 0..crate::plain::heads(data, matched) {
                    self.pending.put(&answers.h1);
                }
            }
            Spoken::H2(inner) => {
                if answer_h2(inner, data, &mut self.pending, answers, hub).is_err() {
                    self.ended = true;
                }
            }
        }
    }

    fn send(&mut self, end: &mut End) {
        let last = Last::from(self.ended);
        if self.pending.is_empty() && !self.ended {
            return;
        }
        let unsent = self.pending.unsent();
        if let Ok(count) = end.h2.send_data(self.stream, unsent, last, &mut end.out) {
            self.pending.advance(count);
        }
    }
}

fn answer_h2(
    inner: &mut h2::Connection,
    mut data: &[u8],
    out: &mut WriteBuf,
    answers: &Answers,
    hub: &Hub,
) -> Result<(), h2::ConnectionError> {
    while let Some(event) = inner.recv(&mut data, out, hub.now)? {
        let (stream, whole) = match event {
            Event::Head { stream, end } => (stream, end),
            Event::Data { stream, data, end } => {
                inner.consume(stream, data.len(), out);
                (stream, end)
            }
            _ => continue,
        };
        if whole {
            let mut head = Head::response(200);
            head.push(Field::new(b"content-type", b"application/grpc"));
            let _ = inner.send_response(stream, head.wire_fields(), Last::No, out);
            let _ = inner.send_data(stream, &answers.body, Last::No, out);
            let trailers = [Field::new(b"grpc-status", b"0")];
            let _ = inner.send_trailers(stream, trailers, out);
        }
    }
    Ok(())
}
