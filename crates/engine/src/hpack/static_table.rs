//! The entries that every connection has (RFC 7541 appendix A).

use crate::head::Class;

use super::table::hash;

/// How many entries there are; the dynamic table's begin at `LEN + 1`.
pub(super) const LEN: usize = 61;

/// Name and value of entry `index`, counted from 1.
pub(super) fn entry(index: usize) -> Option<(&'static [u8], &'static [u8], Class)> {
    let place = index.checked_sub(1)?;
    let (name, value) = ENTRIES.get(place)?;
    Some((name.as_bytes(), value.as_bytes(), CLASSES[place]))
}

/// The entry of `cookie`.
pub(super) const COOKIE: usize = 32;

/// The name of entry `index`, which there is.
pub(super) const fn name(index: usize) -> &'static [u8] {
    ENTRIES[index - 1].0.as_bytes()
}

/// The first entry with this name, whose [`hash`] the caller knows.
pub(super) fn find(name: &[u8], name_hash: u32) -> Option<usize> {
    let mut slot = name_hash as usize % SLOTS;
    loop {
        let index = usize::from(BY_NAME[slot]);
        if index == 0 {
            return None;
        }
        if ENTRIES[index - 1].0.as_bytes() == name {
            return Some(index);
        }
        slot = (slot + 1) % SLOTS;
    }
}

/// The entry with this value, of those that have the name of entry `first`.
pub(super) fn find_value(first: usize, value: &[u8]) -> Option<usize> {
    if first > LAST_VALUE {
        return None;
    }
    let name = ENTRIES[first - 1].0;
    // Entries of one name lie together.
    (first..=LAST_VALUE)
        .take_while(|&index| ENTRIES[index - 1].0 == name)
        .find(|&index| ENTRIES[index - 1].1.as_bytes() == value)
        .filter(|_| !value.is_empty())
}

const ENTRIES: [(&str, &str); LEN] = [
    (":authority", ""),
    (":method", "GET"),
    (":method", "POST"),
    (":path", "/"),
    (":path", "/index.html"),
    (":scheme", "http"),
    (":scheme", "https"),
    (":status", "200"),
    (":status", "204"),
    (":status", "206"),
    (":status", "304"),
    (":status", "400"),
    (":status", "404"),
    (":status", "500"),
    ("accept-charset", ""),
    ("accept-encoding", "gzip, deflate"),
    ("accept-language", ""),
    ("accept-ranges", ""),
    ("accept", ""),
    ("access-control-allow-origin", ""),
    ("age", ""),
    ("allow", ""),
    ("authorization", ""),
    ("cache-control", ""),
    ("content-disposition", ""),
    ("content-encoding", ""),
    ("content-language", ""),
    ("content-length", ""),
    ("content-location", ""),
    ("content-range", ""),
    ("content-type", ""),
    ("cookie", ""),
    ("date", ""),
    ("etag", ""),
    ("expect", ""),
    ("expires", ""),
    ("from", ""),
    ("host", ""),
    ("if-match", ""),
    ("if-modified-since", ""),
    ("if-none-match", ""),
    ("if-range", ""),
    ("if-unmodified-since", ""),
    ("last-modified", ""),
    ("link", ""),
    ("location", ""),
    ("max-forwards", ""),
    ("proxy-authenticate", ""),
    ("proxy-authorization", ""),
    ("range", ""),
    ("referer", ""),
    ("refresh", ""),
    ("retry-after", ""),
    ("server", ""),
    ("set-cookie", ""),
    ("strict-transport-security", ""),
    ("transfer-encoding", ""),
    ("user-agent", ""),
    ("vary", ""),
    ("via", ""),
    ("www-authenticate", ""),
];

/// The last entry with a value.
const LAST_VALUE: usize = 16;

const SLOTS: usize = 256;
const BY_NAME: [u8; SLOTS] = index_by_name();
const CLASSES: [Class; LEN] = classes();

const fn index_by_name() -> [u8; SLOTS] {
    let mut slots = [0; SLOTS];
    let mut index = LEN;
    // From the end, so that of several entries of a name the first is what is found.
    while index > 0 {
        let name = ENTRIES[index - 1].0.as_bytes();
        let mut slot = hash(name, 0) as usize % SLOTS;
        while slots[slot] != 0 && !same(ENTRIES[slots[slot] as usize - 1].0.as_bytes(), name) {
            slot = (slot + 1) % SLOTS;
        }
        slots[slot] = index as u8;
        index -= 1;
    }
    slots
}

const fn classes() -> [Class; LEN] {
    let mut classes = [Class::Regular; LEN];
    let mut place = 0;
    while place < LEN {
        classes[place] = Class::of_name(ENTRIES[place].0.as_bytes());
        place += 1;
    }
    classes
}

const fn same(a: &[u8], b: &[u8]) -> bool {
    if a.len() != b.len() {
        return false;
    }
    let mut i = 0;
    while i < a.len() {
        if a[i] != b[i] {
            return false;
        }
        i += 1;
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_found_at_its_first_entry() {
        for (place, (name, value)) in ENTRIES.iter().enumerate() {
            let found = find(name.as_bytes(), hash(name.as_bytes(), 0));
            let first = ENTRIES.iter().position(|(n, _)| n == name).map(|p| p + 1);
            assert_eq!(found, first, "{name}");
            if let Some(first) = first.filter(|_| !value.is_empty()) {
                assert_eq!(
                    find_value(first, value.as_bytes()),
                    Some(place + 1),
                    "{name}: {value}"
                );
            }
        }
        assert_eq!(name(COOKIE), b"cookie");
        assert!(
            ENTRIES[LAST_VALUE..]
                .iter()
                .all(|(_, value)| value.is_empty())
        );
        assert_eq!(find(b"x-unknown", hash(b"x-unknown", 0)), None);
    }
}
