//! The floor: mTLS HBONE in, HBONE out, frames relayed, nothing looked at. What this hardware and this TLS allow.
//!
//! One thread; every tunnel goes to the first destination over one connection, as a pool would have it.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;
use rustls::ClientConfig;
use waymark_engine::h2::{End as Last, ErrorCode, Event, StreamRef};

use crate::certs::{Ca, CertError};
use crate::hub::{End, Hub, LinkError, LinkId, Role};

#[derive(Debug, Clone, Args)]
pub(crate) struct FloorArgs {
    /// Where to accept HBONE.
    #[arg(long)]
    pub(crate) listen: SocketAddr,
    /// Where all tunnels go.
    #[arg(long)]
    pub(crate) upstream: SocketAddr,
    /// Directory with ca-cert.pem, ca-key.pem, root-cert.pem.
    #[arg(long)]
    pub(crate) ca_dir: PathBuf,
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum FloorError {
    #[error(transparent)]
    Certs(#[from] CertError),
    #[error("the relay's sockets")]
    Io(#[from] io::Error),
}

pub(crate) fn run(args: &FloorArgs) -> Result<(), FloorError> {
    let ca = Ca::load(&args.ca_dir)?;
    let identity = "spiffe://cluster.local/ns/bench/sa/waypoint";
    let mut hub = Hub::new()?;
    hub.listen(args.listen, ca.server(identity)?)?;
    let mut relay = Relay {
        upstream: args.upstream,
        tls: ca.client(identity)?,
        pooled: None,
        twins: Vec::new(),
    };
    loop {
        hub.turn(&mut relay, None)?;
    }
}

struct Relay {
    upstream: SocketAddr,
    tls: Arc<ClientConfig>,
    pooled: Option<LinkId>,
    /// By connection and slot, the stream on the other side.
    twins: Vec<Vec<Option<Twin>>>,
}

struct Twin {
    own: StreamRef,
    link: LinkId,
    stream: StreamRef,
    /// What came for this stream and could not be sent on it yet.
    pending: Vec<u8>,
    pending_end: bool,
}

impl Relay {
    fn pair(&mut self, link: LinkId, own: StreamRef, other: LinkId, stream: StreamRef) {
        let needed = link.0 + 1;
        if self.twins.len() < needed {
            self.twins.resize_with(needed, Vec::new);
        }
        let slots = &mut self.twins[link.0];
        if slots.len() <= own.slot() {
            slots.resize_with(own.slot() + 1, || None);
        }
        slots[own.slot()] = Some(Twin {
            own,
            link: other,
            stream,
            pending: Vec::new(),
            pending_end: false,
        });
    }

    fn twin(&mut self, link: LinkId, own: StreamRef) -> Option<&mut Twin> {
        let slot = self.twins.get_mut(link.0)?.get_mut(own.slot())?;
        slot.as_mut().filter(|twin| twin.own == own)
    }

    fn head(&mut self, hub: &mut Hub, id: LinkId, end: &mut End, stream: StreamRef, last: bool) {
        if end.h2.head().method().is_none() {
            let Some((link, twin)) = self.twin(id, stream).map(|t| (t.link, t.stream)) else {
                return;
            };
            if let Some(other) = hub.end(link) {
                let fields = end.h2.head().wire_fields();
                let _ = other
                    .h2
                    .send_response(twin, fields, Last::from(last), &mut other.out);
            }
            return;
        }
        let up = match self.pooled {
            Some(up) if hub.end(up).is_some() => up,
            _ => match hub.dial(self.upstream, None, &self.tls) {
                Ok(up) => up,
                Err(_) => return end.h2.reset(stream, ErrorCode::CONNECT_ERROR, &mut end.out),
            },
        };
        self.pooled = Some(up);
        let Some(other) = hub.end(up) else { return };
        let fields = end.h2.head().wire_fields();
        match other
            .h2
            .send_request(fields, Last::from(last), &mut other.out)
        {
            Ok(twin) => {
                self.pair(id, stream, up, twin);
                self.pair(up, twin, id, stream);
            }
            Err(_) => end
                .h2
                .reset(stream, ErrorCode::REFUSED_STREAM, &mut end.out),
        }
    }

    fn data(
        &mut self,
        hub: &mut Hub,
        id: LinkId,
        end: &mut End,
        stream: StreamRef,
        data: &[u8],
        last: bool,
    ) {
        let Some((link, to)) = self.twin(id, stream).map(|t| (t.link, t.stream)) else {
            return end.h2.consume(stream, data.len(), &mut end.out);
        };
        let waits = self.twin(link, to).is_some_and(|t| !t.pending.is_empty());
        let mut taken = 0;
        if !waits && let Some(other) = hub.end(link) {
            taken = other
                .h2
                .send_data(to, data, Last::from(last), &mut other.out)
                .unwrap_or(data.len());
        }
        end.h2.consume(stream, taken, &mut end.out);
        if taken < data.len()
            && let Some(twin) = self.twin(link, to)
        {
            twin.pending.extend_from_slice(&data[taken..]);
            twin.pending_end = last;
        }
    }

    fn writable(&mut self, hub: &mut Hub, id: LinkId, end: &mut End, stream: StreamRef) {
        let Some(twin) = self.twin(id, stream) else {
            return;
        };
        if twin.pending.is_empty() {
            return;
        }
        let last = Last::from(twin.pending_end);
        let taken = end
            .h2
            .send_data(stream, &twin.pending, last, &mut end.out)
            .unwrap_or(twin.pending.len());
        twin.pending.drain(..taken);
        let (from, source) = (twin.link, twin.stream);
        if let Some(other) = hub.end(from) {
            other.h2.consume(source, taken, &mut other.out);
        }
    }
}

impl Role for Relay {
    fn event(&mut self, hub: &mut Hub, id: LinkId, end: &mut End, event: Event<'_>) {
        match event {
            Event::Head { stream, end: last } => self.head(hub, id, end, stream, last),
            Event::Data {
                stream,
                data,
                end: last,
            } => self.data(hub, id, end, stream, data, last),
            Event::Writable { stream } => self.writable(hub, id, end, stream),
            Event::Reset { stream, code, .. } => {
                if let Some((link, twin)) = self.twin(id, stream).map(|t| (t.link, t.stream))
                    && let Some(other) = hub.end(link)
                {
                    other.h2.reset(twin, code, &mut other.out);
                }
            }
            Event::Trailers { .. }
            | Event::Informational { .. }
            | Event::Settings
            | Event::Pong { .. }
            | Event::GoAway { .. } => {}
        }
    }

    fn closed(&mut self, hub: &mut Hub, id: LinkId, _: Option<LinkError>) {
        let twins = self.twins.get_mut(id.0).map(std::mem::take);
        for twin in twins.into_iter().flatten().flatten() {
            if let Some(other) = hub.end(twin.link) {
                other
                    .h2
                    .reset(twin.stream, ErrorCode::CANCEL, &mut other.out);
            }
        }
        if self.pooled == Some(id) {
            self.pooled = None;
        }
    }

    fn woken(&mut self, _: &mut Hub) {}
}
