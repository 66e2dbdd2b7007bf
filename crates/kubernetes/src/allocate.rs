//! Addresses of ServiceEntries that have none: each host is given one of each family, in the entry's status.
//!
//! What is given stays given; of two entries with one address the younger gets another. Only the leader runs it.
//! Spec: control-plane.md 10 (`istio-ip-autoallocate`).

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use futures_util::StreamExt;
use kube::api::{Api, ApiResource, DynamicObject, Patch, PatchParams};
use kube::core::GroupVersionKind;
use kube::runtime::watcher::{self, Event};
use kube::runtime::{WatchStreamExt, watcher as watch};
use kube::{Client, ResourceExt};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep_until};
use tracing::{debug, warn};

use crate::leader::is_conflict;

/// Gives addresses until it is dropped.
pub async fn run(client: Client) {
    let api: Api<DynamicObject> = Api::all_with(client.clone(), &resource());
    let mut events = watch(api, watcher::Config::default())
        .modify(|entry| entry.managed_fields_mut().clear())
        .default_backoff()
        .boxed();
    let mut entries: BTreeMap<Key, Entry> = BTreeMap::new();
    let mut listed = BTreeSet::new();
    let mut synced = false;
    let mut look_at: Option<Instant> = None;
    loop {
        let event = tokio::select! {
            biased;
            event = events.next() => event,
            () = sleep_until(look_at.unwrap_or_else(Instant::now)), if look_at.is_some() && synced => {
                look_at = give(&client, &mut entries).await;
                continue;
            }
        };
        match event {
            Some(Ok(Event::Apply(object) | Event::InitApply(object))) => {
                let key = (object.namespace().unwrap_or_default(), object.name_any());
                listed.insert(key.clone());
                entries.insert(key, Entry::read(&object));
            }
            Some(Ok(Event::Delete(object))) => {
                entries.remove(&(object.namespace().unwrap_or_default(), object.name_any()));
            }
            Some(Ok(Event::Init)) => listed.clear(),
            Some(Ok(Event::InitDone)) => {
                entries.retain(|key, _| listed.contains(key));
                synced = true;
            }
            Some(Err(error)) => debug!(%error, "ServiceEntries are watched again"),
            None => return,
        }
        look_at = look_at.or_else(|| Some(Instant::now() + GATHER));
    }
}

type Key = (String, String);

/// What counts of a ServiceEntry.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Entry {
    /// The older one keeps an address that two have.
    created: Option<String>,
    version: String,
    /// Hosts that are to have addresses.
    hosts: Vec<String>,
    /// `spec.addresses`, where they are addresses.
    own: Vec<IpAddr>,
    /// `status.addresses`.
    given: Vec<(String, IpAddr)>,
}

impl Entry {
    fn read(object: &DynamicObject) -> Self {
        let spec = &object.data["spec"];
        let texts = |value: &Value| -> Vec<String> {
            let list = value.as_array().into_iter().flatten();
            list.filter_map(|text| text.as_str().map(str::to_owned))
                .collect()
        };
        let addresses = texts(&spec["addresses"]);
        let resolution = spec["resolution"].as_str().unwrap_or("NONE");
        let refused = object.labels().get(LABEL).is_some_and(|on| on == "false");
        let wanted = addresses.is_empty() && resolution != "NONE" && !refused;
        let mut hosts = if wanted {
            texts(&spec["hosts"])
        } else {
            Vec::new()
        };
        // Whoever asks for a host of a wildcard is answered with the address of that very host.
        hosts.retain(|host| !host.starts_with('*') || resolution == "DYNAMIC_DNS");
        let given = object.data["status"]["addresses"].as_array();
        Self {
            created: object.creation_timestamp().map(|time| time.0.to_string()),
            version: object.resource_version().unwrap_or_default(),
            hosts,
            own: addresses
                .iter()
                .filter_map(|address| address.parse().ok())
                .collect(),
            given: given
                .into_iter()
                .flatten()
                .filter_map(|address| {
                    let host = address["host"].as_str().unwrap_or_default();
                    Some((host.to_owned(), address["value"].as_str()?.parse().ok()?))
                })
                .collect(),
        }
    }
}

/// Writes what is missing. When to look again.
async fn give(client: &Client, entries: &mut BTreeMap<Key, Entry>) -> Option<Instant> {
    let mut again = None;
    for (key, given) in plan(entries) {
        let Some(entry) = entries.get_mut(&key) else {
            continue;
        };
        let addresses: Vec<Value> = given
            .iter()
            .map(|(host, address)| json!({"host": host, "value": address}))
            .collect();
        // Bound to what was seen: whatever else is in the status stays, and nobody's newer word is undone.
        let patch = json!({
            "metadata": {"resourceVersion": entry.version},
            "status": {"addresses": addresses},
        });
        let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), &key.0, &resource());
        let params = PatchParams {
            field_manager: Some(MANAGER.to_owned()),
            ..PatchParams::default()
        };
        let (namespace, name) = (&key.0, &key.1);
        match api.patch_status(name, &params, &Patch::Merge(&patch)).await {
            Ok(object) => {
                debug!(namespace, name, "addresses given");
                *entry = Entry::read(&object);
            }
            Err(kube::Error::Api(status)) if status.code == 404 => {}
            Err(error) if is_conflict(&error) => again = Some(Instant::now() + GATHER),
            Err(error) => {
                warn!(namespace, name, %error, "addresses are not given");
                again = Some(Instant::now() + RETRY);
            }
        }
    }
    again
}

/// The entries whose addresses are not as they should be, and what they should be.
fn plan(entries: &BTreeMap<Key, Entry>) -> Vec<(Key, Vec<(String, IpAddr)>)> {
    let mut by_age: Vec<(&Key, &Entry)> = entries.iter().collect();
    by_age.sort_by_key(|(key, entry)| (entry.created.clone(), (*key).clone()));
    let mut taken: BTreeSet<IpAddr> = entries
        .values()
        .flat_map(|entry| entry.own.iter().copied())
        .collect();
    let mut kept: HashMap<(&Key, &str, Family), IpAddr> = HashMap::new();
    for (key, entry) in &by_age {
        for (host, address) in &entry.given {
            let Some(family) = Family::of(*address) else {
                continue;
            };
            let wanted = entry.hosts.contains(host);
            let slot = (*key, host.as_str(), family);
            if wanted && !kept.contains_key(&slot) && taken.insert(*address) {
                kept.insert(slot, *address);
            }
        }
    }
    let mut changed = Vec::new();
    for (key, entry) in by_age {
        let mut given = Vec::new();
        for host in &entry.hosts {
            for family in [Family::V4, Family::V6] {
                let address = match kept.get(&(key, host.as_str(), family)) {
                    Some(address) => Some(*address),
                    None => family.free(key, host, &mut taken),
                };
                given.extend(address.map(|address| (host.clone(), address)));
            }
        }
        // Nothing is taken back from an entry that asks no more.
        if !entry.hosts.is_empty() && given != entry.given {
            changed.push((key.clone(), given));
        }
    }
    changed
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Family {
    V4,
    V6,
}

impl Family {
    /// The range that an address is of.
    fn of(address: IpAddr) -> Option<Self> {
        match address {
            IpAddr::V4(v4) if v4.octets()[..2] == V4[..] => Some(Self::V4),
            IpAddr::V6(v6) if v6.segments()[..3] == V6[..] => Some(Self::V6),
            IpAddr::V4(_) | IpAddr::V6(_) => None,
        }
    }

    /// An address that nobody has; where it is looked for first is decided by who asks, so that replicas that know the same
    /// agree. `None` when the range is full.
    fn free(self, key: &Key, host: &str, taken: &mut BTreeSet<IpAddr>) -> Option<IpAddr> {
        let mut hasher = DefaultHasher::new();
        (key, host).hash(&mut hasher);
        let first = u32::try_from(hasher.finish() % u64::from(SIZE)).unwrap_or_default();
        (0..SIZE)
            .map(|step| self.nth((first + step) % SIZE))
            .find(|address| taken.insert(*address))
    }

    /// The first and the last address of the range are nobody's.
    fn nth(self, n: u32) -> IpAddr {
        let [_, _, high, low] = (n + 1).to_be_bytes();
        match self {
            Self::V4 => Ipv4Addr::new(V4[0], V4[1], high, low).into(),
            Self::V6 => {
                let host = u16::from_be_bytes([high, low]);
                Ipv6Addr::new(V6[0], V6[1], V6[2], 0, 0, 0, 0, host).into()
            }
        }
    }
}

fn resource() -> ApiResource {
    let kind = GroupVersionKind::gvk("networking.istio.io", "v1", "ServiceEntry");
    ApiResource::from_gvk_with_plural(&kind, "serviceentries")
}

/// Spec: istiod `PILOT_IP_AUTOALLOCATE_IPV4_PREFIX`, 240.240.0.0/16.
const V4: [u8; 2] = [240, 240];
/// Spec: istiod `PILOT_IP_AUTOALLOCATE_IPV6_PREFIX`, 2001:2::/48; of it as many addresses are used as of the other.
const V6: [u16; 3] = [0x2001, 2, 0];
const SIZE: u32 = (1 << 16) - 2;
/// Label: whether addresses are given.
const LABEL: &str = "networking.istio.io/enable-autoallocate-ip";
/// As upstream's controller is called.
const MANAGER: &str = "istio-ip-autoallocate";
/// What comes quickly after one another is looked at together.
const GATHER: Duration = Duration::from_millis(50);
const RETRY: Duration = Duration::from_secs(5);

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn entry(created: &str, hosts: &[&str], given: &[(&str, &str)]) -> Entry {
        Entry {
            created: Some(created.to_owned()),
            hosts: hosts.iter().map(|host| (*host).to_owned()).collect(),
            given: given
                .iter()
                .map(|(host, address)| ((*host).to_owned(), address.parse().unwrap()))
                .collect(),
            ..Entry::default()
        }
    }

    fn of(entries: &[(&str, Entry)]) -> BTreeMap<Key, Entry> {
        entries
            .iter()
            .map(|(name, entry)| (("ns".to_owned(), (*name).to_owned()), entry.clone()))
            .collect()
    }

    #[test]
    fn each_host_is_given_one_of_each_family_and_keeps_it() {
        let mut entries = of(&[("a", entry("1", &["a.example", "b.example"], &[]))]);
        let planned = plan(&entries);
        let [(key, given)] = planned.as_slice() else {
            panic!("{planned:?}")
        };
        let families: Vec<_> = given
            .iter()
            .map(|(host, address)| (host.as_str(), Family::of(*address).unwrap()))
            .collect();
        let want = [
            ("a.example", Family::V4),
            ("a.example", Family::V6),
            ("b.example", Family::V4),
            ("b.example", Family::V6),
        ];
        assert_eq!(families, want);
        entries.get_mut(key).unwrap().given.clone_from(given);
        assert_eq!(plan(&entries), []);
        // A host less gives back what it had; the other keeps its own.
        entries.get_mut(key).unwrap().hosts.remove(0);
        assert_eq!(plan(&entries)[0].1, given[2..]);
    }

    #[test]
    fn of_two_with_one_address_the_younger_gets_another() {
        let both = [("a.example", "240.240.0.9"), ("a.example", "2001:2::9")];
        let entries = of(&[
            ("young", entry("2", &["a.example"], &both)),
            ("old", entry("1", &["a.example"], &both)),
        ]);
        let planned = plan(&entries);
        assert_eq!(planned.len(), 1);
        assert_eq!(planned[0].0.1, "young");
        assert!(planned[0].1.iter().all(|given| {
            !entries[&("ns".to_owned(), "old".to_owned())]
                .given
                .contains(given)
        }));
    }

    #[test]
    fn what_somebody_has_written_down_is_not_given() {
        let mut named = entry("2", &[], &[]);
        named.own = vec!["240.240.0.9".parse().unwrap()];
        let given = [("a.example", "240.240.0.9"), ("a.example", "2001:2::9")];
        let entries = of(&[
            ("given", entry("1", &["a.example"], &given)),
            ("named", named),
        ]);
        let planned = plan(&entries);
        assert_eq!(planned[0].0.1, "given");
        assert_ne!(planned[0].1[0].1, "240.240.0.9".parse::<IpAddr>().unwrap());
        assert_eq!(planned[0].1[1].1, "2001:2::9".parse::<IpAddr>().unwrap());
    }

    #[test]
    fn a_full_range_gives_nothing() {
        let key = ("ns".to_owned(), "a".to_owned());
        let mut taken = (0..SIZE).map(|n| Family::V4.nth(n)).collect();
        assert_eq!(Family::V4.free(&key, "a.example", &mut taken), None);
        assert!(taken.contains(&"240.240.0.1".parse().unwrap()));
        assert!(taken.contains(&"240.240.255.254".parse().unwrap()));
        assert!(!taken.contains(&"240.240.255.255".parse().unwrap()));
    }

    #[test]
    fn entries_that_want_none_are_told_from_those_that_do() {
        let read = |spec: Value, labels: Value| {
            let object = json!({
                "apiVersion": "networking.istio.io/v1", "kind": "ServiceEntry",
                "metadata": {"name": "a", "namespace": "ns", "labels": labels},
                "spec": spec,
            });
            Entry::read(&serde_json::from_value(object).unwrap()).hosts
        };
        let hosts = json!(["a.example", "*.example"]);
        let none = json!({});
        for (spec, want) in [
            (
                json!({"hosts": hosts, "resolution": "DNS"}),
                &["a.example"][..],
            ),
            (
                json!({"hosts": hosts, "resolution": "STATIC"}),
                &["a.example"],
            ),
            (
                json!({"hosts": hosts, "resolution": "DYNAMIC_DNS"}),
                &["a.example", "*.example"],
            ),
            (json!({"hosts": hosts, "resolution": "NONE"}), &[]),
            (json!({"hosts": hosts}), &[]),
            (
                json!({"hosts": hosts, "resolution": "DNS", "addresses": ["10.0.0.1"]}),
                &[],
            ),
        ] {
            assert_eq!(read(spec.clone(), none.clone()), want, "{spec}");
        }
        let off = json!({LABEL: "false"});
        assert!(read(json!({"hosts": hosts, "resolution": "DNS"}), off).is_empty());
    }
}
