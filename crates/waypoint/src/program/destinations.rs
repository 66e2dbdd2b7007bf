//! `(IP, port) -> chain`: `main_internal`'s matcher tree, flattened.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use ipnet::IpNet;
use serde::Serialize;

use crate::program::{AccessLog, ChainId};

/// What serves a destination.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Target {
    /// One chain, HTTP or TCP as the chain says.
    Chain(ChainId),
    /// The first bytes decide.
    Sniff {
        /// For an HTTP/2 preface; `None` closes.
        h2c: Option<ChainId>,
        /// For a request line of HTTP/1.1; `None` closes.
        http11: Option<ChainId>,
        /// For a request line of HTTP/1.0; `None` closes.
        http10: Option<ChainId>,
        /// For anything else; `None` closes.
        other: Option<ChainId>,
    },
}

impl Target {
    /// The chain for a connection whose first bytes are of that protocol.
    #[must_use]
    pub fn chain_for(self, sniffed: SniffedProtocol) -> Option<ChainId> {
        match self {
            Target::Chain(id) => Some(id),
            Target::Sniff {
                h2c,
                http11,
                http10,
                other,
            } => match sniffed {
                SniffedProtocol::Http2 => h2c,
                SniffedProtocol::Http11 => http11,
                SniffedProtocol::Http10 => http10,
                SniffedProtocol::Other => other,
            },
        }
    }
}

/// What an inspector makes of a connection's first bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
pub enum SniffedProtocol {
    /// The HTTP/2 connection preface.
    Http2,
    /// A request line that ends in `HTTP/1.1`.
    Http11,
    /// A request line that ends in `HTTP/1.0`.
    Http10,
    /// Neither.
    Other,
}

/// The flat table from a CONNECT's destination to what serves it.
///
/// As Envoy's IP matcher: the most specific range first; when it has nothing for the port, the next less specific one; of
/// equal ranges the one listed first.
#[derive(Debug, Default, Clone, PartialEq)]
pub struct Destinations {
    hosts: HashMap<IpAddr, Ports>,
    /// Longest prefix first, then as listed.
    ranges: Vec<(IpNet, Ports)>,
    /// How long the first bytes may be waited for where they decide; after that the connection is of
    /// [`SniffedProtocol::Other`]. `None` is for ever.
    pub inspection_timeout: Option<Duration>,
    /// Tunnels to an unknown destination are logged there (flag `NR`).
    pub access_logs: Vec<AccessLog>,
}

#[derive(Debug, Default, Clone, PartialEq)]
struct Ports {
    /// Sorted by port.
    some: Vec<(u16, Target)>,
    any: Option<Target>,
    /// Is no fallback for an address that a more specific range holds.
    exclusive: bool,
}

impl Ports {
    fn find(&self, port: u16) -> Option<Target> {
        match self.some.binary_search_by_key(&port, |(p, _)| *p) {
            Ok(at) => Some(self.some[at].1),
            Err(_) => self.any,
        }
    }

    /// Adds what `less` has and `self` has not.
    fn fill(&mut self, less: &Ports) {
        if self.any.is_some() {
            return;
        }
        for (port, target) in &less.some {
            if let Err(at) = self.some.binary_search_by_key(port, |(p, _)| *p) {
                self.some.insert(at, (*port, *target));
            }
        }
        self.any = less.any;
    }
}

impl Destinations {
    /// What serves `to`; `None` when nothing does: the tunnel is closed, flag `NR`.
    #[must_use]
    pub fn find(&self, to: SocketAddr) -> Option<Target> {
        let ip = to.ip().to_canonical();
        let mut held = false;
        if let Some(ports) = self.hosts.get(&ip) {
            held = true;
            if let Some(target) = ports.find(to.port()) {
                return Some(target);
            }
        }
        for (range, ports) in &self.ranges {
            if range.contains(&ip) {
                if let Some(target) = ports.find(to.port()).filter(|_| !(held && ports.exclusive)) {
                    return Some(target);
                }
                held = true;
            }
        }
        None
    }

    /// Number of addresses and ranges.
    #[must_use]
    pub fn len(&self) -> usize {
        self.hosts.len() + self.ranges.len()
    }

    /// Whether nothing is served.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Every row: range, port (`None` is any) and target, in no particular order.
    pub fn rows(&self) -> impl Iterator<Item = (IpNet, Option<u16>, Target)> {
        fn each(net: IpNet, ports: &Ports) -> impl Iterator<Item = (IpNet, Option<u16>, Target)> {
            let some = ports
                .some
                .iter()
                .map(move |(port, target)| (net, Some(*port), *target));
            some.chain(ports.any.map(|target| (net, None, target)))
        }
        let hosts = self
            .hosts
            .iter()
            .flat_map(|(ip, ports)| each(IpNet::from(*ip), ports));
        hosts.chain(
            self.ranges
                .iter()
                .flat_map(|(net, ports)| each(*net, ports)),
        )
    }
}

/// Collects rows in the order of the matcher tree.
#[derive(Debug, Default)]
pub struct DestinationsBuilder {
    rows: Vec<(IpNet, Ports)>,
}

impl DestinationsBuilder {
    /// Adds one range matcher. `port` `None` is any port that no other row of the same call names.
    pub fn add(&mut self, ranges: &[IpNet], exclusive: bool, ports: &[(Option<u16>, Target)]) {
        let mut table = Ports {
            exclusive,
            ..Ports::default()
        };
        for (port, target) in ports {
            match port {
                None => table.any = table.any.or(Some(*target)),
                Some(port) => {
                    if let Err(at) = table.some.binary_search_by_key(port, |(p, _)| *p) {
                        table.some.insert(at, (*port, *target));
                    }
                }
            }
        }
        for range in ranges {
            self.rows.push((range.trunc(), table.clone()));
        }
    }

    /// The finished table.
    #[must_use]
    pub fn build(self) -> Destinations {
        let mut out = Destinations::default();
        for (net, ports) in self.rows {
            let whole = net.prefix_len() == net.max_prefix_len();
            let known = if whole {
                out.hosts.get_mut(&net.addr())
            } else {
                out.ranges
                    .iter_mut()
                    .find(|(n, _)| *n == net)
                    .map(|(_, ports)| ports)
            };
            match known {
                Some(known) => known.fill(&ports),
                None if whole => drop(out.hosts.insert(net.addr(), ports)),
                None => out.ranges.push((net, ports)),
            }
        }
        out.ranges
            .sort_by_key(|(net, _)| std::cmp::Reverse(net.prefix_len()));
        out
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn chain(n: u32) -> Target {
        Target::Chain(ChainId(n))
    }

    type Row<'a> = (&'a str, &'a [(Option<u16>, u32)]);

    fn table(rows: &[Row<'_>]) -> Destinations {
        let mut b = DestinationsBuilder::default();
        for (net, ports) in rows {
            let ports: Vec<_> = ports.iter().map(|(p, n)| (*p, chain(*n))).collect();
            b.add(&[net.parse().unwrap()], false, &ports);
        }
        b.build()
    }

    #[test]
    fn picks_the_most_specific_range_that_has_the_port() {
        let t = table(&[
            ("10.0.0.0/8", &[(Some(80), 1), (None, 2)]),
            ("10.1.0.0/16", &[(Some(80), 3)]),
            ("10.1.2.3/32", &[(Some(443), 4)]),
            ("10.1.2.3/32", &[(Some(443), 5), (Some(8080), 6)]),
            ("fd00::1/128", &[(None, 7)]),
        ]);
        for (to, want) in [
            ("10.1.2.3:443", Some(4)),
            ("10.1.2.3:8080", Some(6)),
            ("10.1.2.3:80", Some(3)),
            ("10.1.2.3:81", Some(2)),
            ("10.2.0.0:80", Some(1)),
            ("11.0.0.0:80", None),
            ("[fd00::1]:9", Some(7)),
            ("[::ffff:10.1.2.3]:443", Some(4)),
        ] {
            assert_eq!(t.find(to.parse().unwrap()), want.map(chain), "{to}");
        }
    }
}
