//! Addresses and birthdays that manifests leave out, remembered across restarts.
//!
//! Services without `spec.clusterIP` get a VIP of 127.96.0.0/16, pods and waypoint replicas without `status.podIP` an
//! address of 127.244.0.0/16, in order of first sight. Objects without `metadata.creationTimestamp` get the time of first
//! sight. All of it is kept in one file that is replaced atomically, so that a restart gives the same answers and therefore
//! the same bytes on the wire.
//!
//! An allocation outlives its object: a manifest that is moved or re-created gets its address back. Such a reservation
//! gives way to an address that a manifest names, and to others when the pool runs dry.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::{fmt, fs, io};

use serde::{Deserialize, Serialize};

/// Who an address belongs to, in the form that is written to the file and to messages: `Service/default/reviews`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Owner(String);

impl Owner {
    /// A Kubernetes Service.
    pub fn service(namespace: &str, name: &str) -> Self {
        Self(format!("Service/{namespace}/{name}"))
    }

    /// One host of a ServiceEntry.
    pub fn service_entry(namespace: &str, name: &str, host: &str) -> Self {
        Self(format!("ServiceEntry/{namespace}/{name}/{host}"))
    }

    /// A Pod.
    pub fn pod(namespace: &str, name: &str) -> Self {
        Self(format!("Pod/{namespace}/{name}"))
    }

    /// The Service in front of a deployed waypoint.
    pub fn waypoint(namespace: &str, gateway: &str) -> Self {
        Self(format!("Gateway/{namespace}/{gateway}"))
    }

    /// One replica of a deployed waypoint.
    pub fn replica(namespace: &str, gateway: &str, ordinal: u32) -> Self {
        Self(format!("Gateway/{namespace}/{gateway}/{ordinal}"))
    }
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Where an address comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Pool {
    /// Service VIPs: 127.96.0.0/16.
    Vips,
    /// Pods and waypoint replicas: 127.244.0.0/16.
    Pods,
}

impl Pool {
    fn prefix(self) -> [u8; 2] {
        match self {
            Self::Vips => [127, 96],
            Self::Pods => [127, 244],
        }
    }

    /// Whether `address` lies in the pool's range.
    pub fn contains(self, address: IpAddr) -> bool {
        matches!(address, IpAddr::V4(v4) if v4.octets()[..2] == self.prefix())
    }
}

/// When an object came to be, for every rule that says "the oldest wins".
///
/// Orders by time, then by the order of first sight. Objects with a timestamp of their own sort before those first seen
/// in the same second.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct Created {
    /// Seconds since the Unix epoch.
    pub seconds: i64,
    /// Order of first sight; 0 when the manifest gives a timestamp.
    pub sequence: u64,
}

/// An address that two objects want.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("address {address} already belongs to {holder}")]
pub struct AddressConflict {
    /// The address.
    pub address: IpAddr,
    /// Who has it.
    pub holder: Owner,
}

/// No address is left in a pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no address is left in {}.{}.0.0/16", .pool.prefix()[0], .pool.prefix()[1])]
pub struct Exhausted {
    /// The pool.
    pub pool: Pool,
}

/// The file of remembered addresses could not be used.
#[derive(Debug, thiserror::Error)]
pub enum IpamError {
    /// Reading failed.
    #[error("read allocated addresses from {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The content is not ours.
    #[error("{} is not a file of allocated addresses", path.display())]
    Parse {
        /// The file.
        path: PathBuf,
        /// Why.
        source: serde_json::Error,
    },
    /// Writing failed.
    #[error("write allocated addresses to {}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// What is written to the file.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Saved {
    addresses: BTreeMap<Owner, Ipv4Addr>,
    first_seen: BTreeMap<String, Created>,
    programmed: BTreeMap<Owner, bool>,
    next_sequence: u64,
}

/// The address book.
#[derive(Debug)]
pub struct Ipam {
    path: Option<PathBuf>,
    saved: Saved,
    /// Every address that is taken or reserved.
    holders: HashMap<IpAddr, Owner>,
    /// Addresses that manifests name.
    explicit: HashMap<Owner, Vec<IpAddr>>,
    /// Owners that exist now; an allocation of any other is only a reservation.
    live: HashSet<Owner>,
    /// Where the search for a free host part begins.
    cursor: HashMap<Pool, u16>,
    changed: bool,
}

impl Ipam {
    /// An address book that lives as long as the process.
    pub fn in_memory() -> Self {
        Self::with(None, Saved::default())
    }

    /// Reads the address book at `path`; a missing file is an empty one.
    ///
    /// # Errors
    /// When the file exists but cannot be read or understood: starting afresh would hand out other addresses than before.
    pub fn load(path: &Path) -> Result<Self, IpamError> {
        let saved = match fs::read(path) {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(|source| IpamError::Parse {
                path: path.to_owned(),
                source,
            })?,
            Err(e) if e.kind() == io::ErrorKind::NotFound => Saved::default(),
            Err(source) => {
                return Err(IpamError::Read {
                    path: path.to_owned(),
                    source,
                });
            }
        };
        Ok(Self::with(Some(path.to_owned()), saved))
    }

    fn with(path: Option<PathBuf>, saved: Saved) -> Self {
        let holders = saved
            .addresses
            .iter()
            .map(|(owner, ip)| (IpAddr::V4(*ip), owner.clone()))
            .collect();
        Self {
            path,
            saved,
            holders,
            explicit: HashMap::new(),
            live: HashSet::new(),
            cursor: HashMap::new(),
            changed: false,
        }
    }

    /// Writes the file if anything changed since the last time.
    ///
    /// # Errors
    /// When the new file cannot be put in place; the old one is left as it was and the next call tries again.
    pub fn save(&mut self) -> Result<(), IpamError> {
        let Some(path) = self.path.clone().filter(|_| self.changed) else {
            return Ok(());
        };
        let failed = |source| IpamError::Write {
            path: path.clone(),
            source,
        };
        let mut text =
            serde_json::to_vec_pretty(&self.saved).map_err(|e| failed(io::Error::other(e)))?;
        text.push(b'\n');
        crate::file::replace(&path, &text).map_err(failed)?;
        self.changed = false;
        Ok(())
    }

    /// Takes the addresses that a manifest names for `owner`, in place of what it named before.
    ///
    /// # Errors
    /// When one of them belongs to another object that exists; then nothing changes.
    pub fn claim(&mut self, owner: &Owner, addresses: &[IpAddr]) -> Result<(), AddressConflict> {
        for address in addresses {
            if let Some(holder) = self.holders.get(address)
                && holder != owner
                && self.live.contains(holder)
            {
                return Err(AddressConflict {
                    address: *address,
                    holder: holder.clone(),
                });
            }
        }
        self.give_back_explicit(owner);
        for address in addresses {
            let reserved = self.holders.insert(*address, owner.clone());
            if let Some(reserved) = reserved.filter(|holder| holder != owner) {
                self.forget_allocation(&reserved);
            }
        }
        // What was allocated before the manifest named an address is free again.
        if !addresses.is_empty() {
            if let Some(ip) = self.saved.addresses.get(owner).map(|ip| IpAddr::V4(*ip))
                && !addresses.contains(&ip)
            {
                self.holders.remove(&ip);
            }
            self.forget_allocation(owner);
            self.explicit.insert(owner.clone(), addresses.to_vec());
        }
        self.live.insert(owner.clone());
        Ok(())
    }

    /// The address allocated to `owner`, the same one each time.
    ///
    /// # Errors
    /// When every address of the pool belongs to an object that exists.
    pub fn assign(&mut self, owner: &Owner, pool: Pool) -> Result<Ipv4Addr, Exhausted> {
        self.give_back_explicit(owner);
        self.live.insert(owner.clone());
        if let Some(ip) = self.saved.addresses.get(owner) {
            return Ok(*ip);
        }
        let ip = self.free_address(pool).ok_or(Exhausted { pool })?;
        if let Some(reserved) = self.holders.insert(IpAddr::V4(ip), owner.clone()) {
            self.forget_allocation(&reserved);
        }
        self.saved.addresses.insert(owner.clone(), ip);
        self.changed = true;
        Ok(ip)
    }

    /// Notes that `owner` no longer exists. What a manifest named is free, what was allocated stays reserved.
    pub fn release(&mut self, owner: &Owner) {
        self.give_back_explicit(owner);
        self.live.remove(owner);
    }

    /// When the object called `key` came to be: what its manifest says, else when it was first seen.
    pub fn created(
        &mut self,
        key: &str,
        timestamp_seconds: Option<i64>,
        now_seconds: i64,
    ) -> Created {
        if let Some(seconds) = timestamp_seconds {
            return Created {
                seconds,
                sequence: 0,
            };
        }
        if let Some(created) = self.saved.first_seen.get(key) {
            return *created;
        }
        self.saved.next_sequence += 1;
        let created = Created {
            seconds: now_seconds,
            sequence: self.saved.next_sequence,
        };
        self.saved.first_seen.insert(key.to_owned(), created);
        self.changed = true;
        created
    }

    /// Whether a waypoint has ever been ready. Its address, once published, is never taken back while the Gateway exists.
    pub fn was_programmed(&self, waypoint: &Owner) -> bool {
        self.saved.programmed.contains_key(waypoint)
    }

    /// Remembers that a waypoint has been ready, or forgets it with its Gateway.
    pub fn set_programmed(&mut self, waypoint: &Owner, programmed: bool) {
        let before = if programmed {
            self.saved
                .programmed
                .insert(waypoint.clone(), true)
                .is_some()
        } else {
            self.saved.programmed.remove(waypoint).is_some()
        };
        self.changed |= before != programmed;
    }

    fn give_back_explicit(&mut self, owner: &Owner) {
        for address in self.explicit.remove(owner).unwrap_or_default() {
            self.holders.remove(&address);
        }
    }

    fn forget_allocation(&mut self, owner: &Owner) {
        self.changed |= self.saved.addresses.remove(owner).is_some();
    }

    /// The next address nobody has; failing that, the first one that is only reserved.
    fn free_address(&mut self, pool: Pool) -> Option<Ipv4Addr> {
        let [a, b] = pool.prefix();
        let start = self.cursor.get(&pool).copied().unwrap_or(1);
        let candidates = || {
            (start..=u16::MAX)
                .chain(0..start)
                .filter(|host| usable(*host))
        };
        let address = |host: u16| Ipv4Addr::new(a, b, host.to_be_bytes()[0], host.to_be_bytes()[1]);
        let free =
            candidates().find(|host| !self.holders.contains_key(&IpAddr::V4(address(*host))));
        let host = free.or_else(|| {
            candidates().find(|host| {
                let holder = self.holders.get(&IpAddr::V4(address(*host)));
                holder.is_some_and(|owner| !self.live.contains(owner))
            })
        })?;
        self.cursor.insert(pool, host.wrapping_add(1));
        Some(address(host))
    }
}

/// `.0` and `.255` look like network and broadcast addresses, and some programs treat them so.
fn usable(host: u16) -> bool {
    !matches!(host & 0xff, 0 | 0xff)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn a_restart_gives_the_same_addresses_and_birthdays() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ipam.json");
        let (reviews, pod) = (
            Owner::service("default", "reviews"),
            Owner::pod("default", "reviews-v1"),
        );
        let mut first = Ipam::load(&path).unwrap();
        let vip = first.assign(&reviews, Pool::Vips).unwrap();
        let address = first.assign(&pod, Pool::Pods).unwrap();
        let created = first.created("Service/default/reviews", None, 1000);
        first.save().unwrap();

        let mut second = Ipam::load(&path).unwrap();
        assert_eq!(
            second
                .assign(&Owner::pod("default", "other"), Pool::Pods)
                .unwrap(),
            Ipv4Addr::new(127, 244, 0, 2)
        );
        assert_eq!(second.assign(&reviews, Pool::Vips).unwrap(), vip);
        assert_eq!(second.assign(&pod, Pool::Pods).unwrap(), address);
        assert_eq!(
            second.created("Service/default/reviews", None, 2000),
            created
        );
    }

    #[test]
    fn a_named_address_is_refused_when_an_existing_object_has_it() {
        let mut ipam = Ipam::in_memory();
        let (a, b) = (
            Owner::service("default", "a"),
            Owner::service("default", "b"),
        );
        ipam.claim(&a, &[ip("127.96.0.9")]).unwrap();
        let refused = ipam.claim(&b, &[ip("127.96.0.9")]).unwrap_err();
        assert_eq!(
            refused.to_string(),
            "address 127.96.0.9 already belongs to Service/default/a"
        );
        ipam.release(&a);
        ipam.claim(&b, &[ip("127.96.0.9")]).unwrap();
    }

    #[test]
    fn a_named_address_takes_a_reservation_but_not_an_allocation_in_use() {
        let mut ipam = Ipam::in_memory();
        let (a, b) = (
            Owner::service("default", "a"),
            Owner::service("default", "b"),
        );
        let vip = IpAddr::V4(ipam.assign(&a, Pool::Vips).unwrap());
        assert!(ipam.claim(&b, &[vip]).is_err());
        ipam.release(&a);
        ipam.claim(&b, &[vip]).unwrap();
        assert_ne!(IpAddr::V4(ipam.assign(&a, Pool::Vips).unwrap()), vip);
    }

    #[test]
    fn an_object_that_comes_back_gets_its_address_back() {
        let mut ipam = Ipam::in_memory();
        let a = Owner::pod("default", "a");
        let before = ipam.assign(&a, Pool::Pods).unwrap();
        ipam.release(&a);
        ipam.assign(&Owner::pod("default", "b"), Pool::Pods)
            .unwrap();
        assert_eq!(ipam.assign(&a, Pool::Pods).unwrap(), before);
    }

    #[test]
    fn network_and_broadcast_like_addresses_are_skipped() {
        let mut ipam = Ipam::in_memory();
        let hosts: Vec<u8> = (0..300)
            .map(|n| {
                ipam.assign(&Owner::pod("default", &n.to_string()), Pool::Pods)
                    .unwrap()
                    .octets()[3]
            })
            .collect();
        assert!(!hosts.contains(&0) && !hosts.contains(&255));
    }

    #[test]
    fn a_named_address_frees_the_allocated_one() {
        let mut ipam = Ipam::in_memory();
        let a = Owner::service("default", "a");
        let vip = IpAddr::V4(ipam.assign(&a, Pool::Vips).unwrap());
        ipam.claim(&a, &[ip("127.96.7.7")]).unwrap();
        ipam.claim(&Owner::service("default", "b"), &[vip]).unwrap();
    }

    #[test]
    fn a_damaged_file_is_an_error_not_a_fresh_start() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ipam.json");
        fs::write(&path, "nonsense").unwrap();
        assert!(matches!(Ipam::load(&path), Err(IpamError::Parse { .. })));
    }
}
