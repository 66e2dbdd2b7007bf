//! Which addresses lead to which ports of which services.

use std::collections::BTreeMap;

use ipnet::IpNet;

use super::input::Flavour;
use super::matcher::Target;

/// Ranges in the order in which they are matched, each with its ports.
pub(super) struct Ranges {
    flavour: Flavour,
    entries: Vec<Entry>,
}

struct Entry {
    addresses: Vec<IpNet>,
    ports: BTreeMap<u16, Target>,
}

impl Ranges {
    pub(super) fn new(flavour: Flavour) -> Self {
        Self {
            flavour,
            entries: Vec::new(),
        }
    }

    /// Adds the addresses of a service, the oldest service first.
    ///
    /// Upstream lists an address that two services have twice, and only the first service is reached. The stock flavour
    /// lists it once, with the ports of both; a port that both have is the first one's.
    pub(super) fn add(&mut self, addresses: Vec<IpNet>, ports: BTreeMap<u16, Target>) {
        if ports.is_empty() {
            return;
        }
        let (shared, own) = match self.flavour {
            Flavour::IstioProxy => (Vec::new(), addresses),
            Flavour::Stock => addresses
                .into_iter()
                .partition(|address| self.has(*address)),
        };
        for address in shared {
            let merged = self.entry_of(address);
            for (port, target) in &ports {
                merged.entry(*port).or_insert_with(|| target.clone());
            }
        }
        if !own.is_empty() {
            self.entries.push(Entry {
                addresses: own,
                ports,
            });
        }
    }

    /// Whether exactly this address is listed.
    pub(super) fn has(&self, address: IpNet) -> bool {
        self.entries
            .iter()
            .any(|entry| entry.addresses.contains(&address))
    }

    /// What was added, in order.
    pub(super) fn into_entries(self) -> impl Iterator<Item = (Vec<IpNet>, BTreeMap<u16, Target>)> {
        self.entries
            .into_iter()
            .map(|entry| (entry.addresses, entry.ports))
    }

    /// The ports of an address, which is taken out of a list of several to have ports of its own.
    fn entry_of(&mut self, address: IpNet) -> &mut BTreeMap<u16, Target> {
        let found = self
            .entries
            .iter()
            .position(|entry| entry.addresses.contains(&address));
        let index = match found {
            Some(index) if self.entries[index].addresses.len() == 1 => index,
            Some(index) => {
                let entry = &mut self.entries[index];
                entry.addresses.retain(|other| *other != address);
                let ports = entry.ports.clone();
                self.entries.insert(
                    index + 1,
                    Entry {
                        addresses: vec![address],
                        ports,
                    },
                );
                index + 1
            }
            None => {
                self.entries.push(Entry {
                    addresses: vec![address],
                    ports: BTreeMap::new(),
                });
                self.entries.len() - 1
            }
        };
        &mut self.entries[index].ports
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn net(text: &str) -> IpNet {
        text.parse().expect("a network")
    }

    fn ports(ports: &[(u16, &str)]) -> BTreeMap<u16, Target> {
        ports
            .iter()
            .map(|(port, chain)| (*port, Target::Chain((*chain).to_owned())))
            .collect()
    }

    fn list(ranges: Ranges) -> Vec<(Vec<IpNet>, BTreeMap<u16, Target>)> {
        ranges.into_entries().collect()
    }

    #[test]
    fn shared_addresses_have_the_ports_of_both() {
        let (a, b) = (net("10.0.0.1/32"), net("10.0.0.2/32"));
        let mut ranges = Ranges::new(Flavour::Stock);
        ranges.add(vec![a, b], ports(&[(80, "first"), (81, "first")]));
        ranges.add(vec![b], ports(&[(81, "second"), (82, "second")]));
        assert_eq!(
            list(ranges),
            [
                (vec![a], ports(&[(80, "first"), (81, "first")])),
                (
                    vec![b],
                    ports(&[(80, "first"), (81, "first"), (82, "second")])
                ),
            ]
        );
    }

    #[test]
    fn upstream_lists_them_twice() {
        let a = net("10.0.0.1/32");
        let mut ranges = Ranges::new(Flavour::IstioProxy);
        ranges.add(vec![a], ports(&[(80, "first")]));
        ranges.add(vec![a], ports(&[(81, "second")]));
        ranges.add(vec![a], BTreeMap::new());
        assert_eq!(
            list(ranges),
            [
                (vec![a], ports(&[(80, "first")])),
                (vec![a], ports(&[(81, "second")]))
            ]
        );
    }
}
