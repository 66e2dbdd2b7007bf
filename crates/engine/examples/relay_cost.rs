//! What relaying costs: user instructions per request, without TLS.
//!
//! ```text
//! cargo build --release -p waymark-engine --example relay_cost
//! valgrind --tool=callgrind --callgrind-out-file=/dev/null --toggle-collect='*relay_turn*' \
//!     target/release/examples/relay_cost tunnel 10000
//! ```
//!
//! The `Collected` number is for all requests, and only of the relay in the middle, not of the two ends.
#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::hint::black_box;
use std::sync::Arc;
use std::time::Instant;

use waymark_engine::h2::{Config, Connection, End, Event, StreamRef};
use waymark_engine::{Field, Head, WriteBuf};

const BODY: [u8; 1024] = [b'x'; 1024];

/// One end of a connection, and what it has to send.
struct Leg {
    conn: Connection,
    out: WriteBuf,
    /// By slot, the other leg's stream.
    twins: Vec<Option<StreamRef>>,
}

impl Leg {
    fn server() -> Self {
        let mut out = WriteBuf::new();
        let conn = Connection::server(Arc::new(Config::default()), &mut out);
        Self::new(conn, out)
    }

    fn client() -> Self {
        let mut out = WriteBuf::new();
        let conn = Connection::client(Arc::new(Config::default()), &mut out);
        Self::new(conn, out)
    }

    fn new(conn: Connection, out: WriteBuf) -> Self {
        Self {
            conn,
            out,
            twins: vec![None; 256],
        }
    }

    fn twin(&self, stream: StreamRef) -> StreamRef {
        self.twins[stream.slot()].expect("a stream of both legs")
    }
}

/// Takes what came on one leg and passes it on to the other: the code whose instructions are counted.
#[inline(never)]
fn relay_turn(from: &mut Leg, to: &mut Leg, mut input: &[u8], now: Instant) {
    while let Some(event) = from
        .conn
        .recv(&mut input, &mut from.out, now)
        .expect("ends that obey")
    {
        match event {
            Event::Data { stream, data, end } => {
                let twin = from.twin(stream);
                let taken = to.conn.send_data(twin, data, End::from(end), &mut to.out);
                from.conn
                    .consume(stream, taken.expect("an open stream"), &mut from.out);
            }
            Event::Head { stream, end } if from.conn.head().method().is_some() => {
                let twin = to
                    .conn
                    .send_request(from.conn.head().wire_fields(), End::from(end), &mut to.out)
                    .expect("a free stream");
                from.twins[stream.slot()] = Some(twin);
                to.twins[twin.slot()] = Some(stream);
            }
            Event::Head { stream, end } => {
                let twin = from.twin(stream);
                to.conn
                    .send_response(
                        twin,
                        from.conn.head().wire_fields(),
                        End::from(end),
                        &mut to.out,
                    )
                    .expect("an open stream");
            }
            Event::Trailers { stream } => {
                let twin = from.twin(stream);
                to.conn
                    .send_trailers(twin, from.conn.head().wire_fields(), &mut to.out)
                    .expect("an open stream");
            }
            Event::Reset { .. }
            | Event::Informational { .. }
            | Event::Writable { .. }
            | Event::Settings
            | Event::Pong { .. }
            | Event::GoAway { .. } => {}
        }
    }
}

/// A client, the relay's two legs, a server.
struct Bench {
    client: Leg,
    down: Leg,
    up: Leg,
    server: Leg,
    now: Instant,
    /// Bytes of bodies that came back to the client.
    received: usize,
}

impl Bench {
    fn new() -> Self {
        let mut bench = Self {
            client: Leg::client(),
            down: Leg::server(),
            up: Leg::client(),
            server: Leg::server(),
            now: Instant::now(),
            received: 0,
        };
        bench.run();
        bench
    }

    /// Lets everything that was sent arrive.
    fn run(&mut self) {
        loop {
            let mut moved = false;
            if !self.client.out.is_empty() {
                moved = true;
                let sent = self.client.out.unsent();
                relay_turn(&mut self.down, &mut self.up, sent, self.now);
                self.client.out.advance(self.client.out.len());
            }
            if !self.server.out.is_empty() {
                moved = true;
                let sent = self.server.out.unsent();
                relay_turn(&mut self.up, &mut self.down, sent, self.now);
                self.server.out.advance(self.server.out.len());
            }
            if !self.up.out.is_empty() {
                moved = true;
                answer(&mut self.server, self.up.out.unsent(), self.now);
                self.up.out.advance(self.up.out.len());
            }
            if !self.down.out.is_empty() {
                moved = true;
                self.received += drain(&mut self.client, self.down.out.unsent(), self.now);
                self.down.out.advance(self.down.out.len());
            }
            if !moved {
                return;
            }
        }
    }
}

/// The server: a tunnel is accepted, a KiB of body is answered with one, and what ends is ended.
fn answer(server: &mut Leg, mut input: &[u8], now: Instant) {
    let mut received: HashMap<StreamRef, usize> = HashMap::new();
    while let Some(event) = server
        .conn
        .recv(&mut input, &mut server.out, now)
        .expect("ends that obey")
    {
        match event {
            Event::Head { stream, .. } => {
                let mut head = Head::response(200);
                if server.conn.head().method() == Some(b"POST") {
                    head.push(Field::new(b"content-type", b"application/grpc"));
                }
                server
                    .conn
                    .send_response(stream, head.wire_fields(), End::No, &mut server.out)
                    .expect("an open stream");
            }
            Event::Data { stream, data, end } => {
                server.conn.consume(stream, data.len(), &mut server.out);
                let total = received.entry(stream).or_default();
                *total += data.len();
                if *total >= BODY.len() || end {
                    let body = &BODY[..(*total).min(BODY.len())];
                    server
                        .conn
                        .send_data(stream, body, End::No, &mut server.out)
                        .expect("an open stream");
                    *total = 0;
                }
                if end {
                    let status = [Field::new(b"grpc-status", b"0")];
                    server
                        .conn
                        .send_trailers(stream, status, &mut server.out)
                        .expect("an open stream");
                }
            }
            _ => {}
        }
    }
}

fn drain(client: &mut Leg, mut input: &[u8], now: Instant) -> usize {
    let mut received = 0;
    while let Some(event) = client
        .conn
        .recv(&mut input, &mut client.out, now)
        .expect("ends that obey")
    {
        if let Event::Data { stream, data, .. } = event {
            received += data.len();
            client.conn.consume(stream, data.len(), &mut client.out);
        }
    }
    received
}

fn connect() -> Head {
    let mut head = Head::request(b"CONNECT");
    head.set_authority(b"127.96.0.3:9080");
    head.push(Field::new(
        b"baggage",
        b"k8s.cluster.name=Kubernetes,k8s.namespace.name=default,k8s.deployment.name=productpage-v1",
    ));
    head
}

fn grpc() -> Head {
    let mut head = Head::request(b"POST");
    head.set_scheme(b"http");
    head.set_authority(b"reviews.default.svc.cluster.local:9080");
    head.set_path(b"/reviews.Reviews/Get");
    for (name, value) in [
        ("content-type", "application/grpc"),
        ("te", "trailers"),
        ("user-agent", "grpc-go/1.76.0"),
        ("grpc-accept-encoding", "gzip"),
        ("x-request-id", "1d0d1f3e-5d3b-4b5e-8a52-3f6f0c6f1c11"),
    ] {
        head.push(Field::new(name.as_bytes(), value.as_bytes()));
    }
    head
}

#[expect(clippy::print_stdout, reason = "the result is what it is run for")]
fn main() {
    let mut arguments = std::env::args().skip(1);
    let mode = arguments.next().unwrap_or_else(|| "tunnel".into());
    let count: usize = arguments
        .next()
        .and_then(|n| n.parse().ok())
        .unwrap_or(1000);
    let mut bench = Bench::new();
    let head = if mode == "grpc" { grpc() } else { connect() };
    let open = |bench: &mut Bench| {
        bench
            .client
            .conn
            .send_request(head.wire_fields(), End::No, &mut bench.client.out)
            .expect("a free stream")
    };
    let start = Instant::now();
    let tunnel = (mode == "tunnel").then(|| open(&mut bench));
    bench.run();
    for _ in 0..count {
        let stream = tunnel.unwrap_or_else(|| open(&mut bench));
        if mode == "connect" {
            // HBONE waits for the answer before it sends.
            bench.run();
        }
        let (body, end) = match mode.as_str() {
            "tunnel" => (&BODY[..], End::No),
            "grpc" => (&BODY[..64], End::Yes),
            _ => (&BODY[..], End::Yes),
        };
        let client = &mut bench.client;
        client
            .conn
            .send_data(stream, body, end, &mut client.out)
            .expect("an open stream");
        bench.run();
    }
    println!(
        "{mode}: {count} requests, {} bytes back, {:.0} ns each with both ends, connections of {} and {} bytes",
        black_box(bench.received),
        start.elapsed().as_nanos() as f64 / count as f64,
        bench.down.conn.memory(),
        bench.up.conn.memory(),
    );
}
