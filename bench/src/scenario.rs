//! What is measured.

use crate::load::{Inner, Mode};

/// Where a proxy stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    /// Between tunnels, with HTTP in them.
    Waypoint,
    /// At the destination: tunnels in, plain TCP to the application.
    Node,
}

/// One load. `cAsB` in a name: A TLS connections with B tunnels each, closed loop; `iK`: K inner HTTP/2 streams a tunnel.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Scenario {
    pub(crate) name: &'static str,
    pub(crate) place: Place,
    pub(crate) connections: usize,
    pub(crate) streams: usize,
    pub(crate) inner: Inner,
    pub(crate) inner_streams: usize,
    pub(crate) mode: Mode,
    /// Requests per second; 0: closed loop.
    pub(crate) rate: u32,
    /// Bytes of an answer's body.
    pub(crate) bytes: usize,
    /// Requests of the shorter counted run; the longer has six times as many.
    pub(crate) counted: u64,
}

const H1: Scenario = Scenario {
    name: "",
    place: Place::Waypoint,
    connections: 4,
    streams: 8,
    inner: Inner::H1,
    inner_streams: 1,
    mode: Mode::Requests,
    rate: 0,
    bytes: 1024,
    counted: 2000,
};

pub(crate) const C4S8: Scenario = Scenario {
    name: "1 KiB c4s8",
    ..H1
};
pub(crate) const C16S16: Scenario = Scenario {
    name: "1 KiB c16s16",
    connections: 16,
    streams: 16,
    ..H1
};
pub(crate) const C1S1: Scenario = Scenario {
    name: "1 KiB c1s1",
    connections: 1,
    streams: 1,
    counted: 500,
    ..H1
};
pub(crate) const LARGE: Scenario = Scenario {
    name: "64 KiB c4s8",
    bytes: 65536,
    counted: 200,
    ..H1
};
pub(crate) const GRPC: Scenario = Scenario {
    name: "gRPC 64 B c4s4i8",
    streams: 4,
    inner: Inner::H2,
    inner_streams: 8,
    bytes: 64,
    ..H1
};
pub(crate) const PACED_1000: Scenario = Scenario {
    name: "paced 1,000/s",
    rate: 1000,
    ..H1
};
pub(crate) const PACED_4000: Scenario = Scenario {
    name: "paced 4,000/s",
    rate: 4000,
    ..H1
};
pub(crate) const NEW_CONNECT: Scenario = Scenario {
    name: "new CONNECT",
    streams: 4,
    mode: Mode::Connects,
    counted: 200,
    ..H1
};
pub(crate) const NEW_CONNECTION: Scenario = Scenario {
    name: "new mTLS connection",
    connections: 1,
    mode: Mode::Connections,
    counted: 50,
    ..H1
};
pub(crate) const L4_C4S8: Scenario = Scenario {
    name: "L4 1 KiB c4s8",
    place: Place::Node,
    ..C4S8
};
pub(crate) const L4_C1S1: Scenario = Scenario {
    name: "L4 1 KiB c1s1",
    place: Place::Node,
    ..C1S1
};
pub(crate) const L4_NEW_CONNECT: Scenario = Scenario {
    name: "L4 new CONNECT",
    place: Place::Node,
    ..NEW_CONNECT
};
/// RSS is read at its end.
pub(crate) const THOUSAND: Scenario = Scenario {
    name: "1,000 connections after requests",
    connections: 1000,
    streams: 1,
    rate: 2000,
    ..H1
};

/// What a comparison measures, in this order.
pub(crate) const ALL: &[Scenario] = &[
    C4S8,
    C16S16,
    C1S1,
    LARGE,
    GRPC,
    PACED_1000,
    PACED_4000,
    NEW_CONNECT,
    NEW_CONNECTION,
    L4_C4S8,
    L4_C1S1,
    L4_NEW_CONNECT,
];
