//! What belongs to one connection and isn't passed on. Spec: l7-semantics.md 3.4.

use super::chars;
use super::fields::Notes;
use crate::head::{Field, Head};

/// What `Connection` asks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Wishes {
    pub(super) close: bool,
    pub(super) keep_alive: bool,
    pub(super) upgrade: bool,
    /// `Host` is nominated for removal, which no honest client does.
    pub(super) nominates_host: bool,
    /// Something is nominated that isn't an option of the connection: a field.
    nominates: bool,
}

/// `Connection` nominates what it must not, or too much.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct BadConnection;

/// How many nominations Envoy takes.
const MAX_NOMINATIONS: usize = 9;

/// Reads the `Connection` fields of a request.
pub(super) fn request_wishes(head: &Head) -> Result<Wishes, BadConnection> {
    let mut wishes = Wishes::default();
    let mut count = 0;
    for field in head.fields() {
        match field.name {
            b"connection" if field.value == b"keep-alive" => {
                wishes.keep_alive = true; // what nearly all say
                count += 1;
            }
            b"connection" => {
                for token in chars::elements(field.value) {
                    wishes.add(token)?;
                    count += 1;
                }
            }
            b"proxy-connection" => wishes.close |= says_close(field.value),
            _ => {}
        }
    }
    if count > MAX_NOMINATIONS {
        return Err(BadConnection);
    }
    Ok(wishes)
}

impl Wishes {
    fn add(&mut self, token: &[u8]) -> Result<(), BadConnection> {
        let is = |name: &[u8]| token.eq_ignore_ascii_case(name);
        if is(b"close") {
            self.close = true;
        } else if is(b"keep-alive") {
            self.keep_alive = true;
        } else if is(b"upgrade") {
            self.upgrade = true;
        } else if is(b"host") {
            self.nominates_host = true;
        } else if token.starts_with(b":")
            || is(b"x-forwarded-for")
            || is(b"x-forwarded-host")
            || is(b"x-forwarded-proto")
        {
            return Err(BadConnection);
        } else {
            self.nominates = true;
        }
        Ok(())
    }
}

/// Reads the `Connection` fields of a response.
pub(super) fn response_wishes(head: &Head) -> Wishes {
    let mut wishes = Wishes::default();
    for token in head.get_all(b"connection").flat_map(chars::elements) {
        let is = |name: &[u8]| token.eq_ignore_ascii_case(name);
        wishes.close |= is(b"close");
        wishes.keep_alive |= is(b"keep-alive");
        wishes.upgrade |= is(b"upgrade");
    }
    wishes.close |= head.get_all(b"proxy-connection").any(says_close);
    wishes
}

/// `Proxy-Connection` is no standard, but Envoy heeds its `close`.
fn says_close(value: &[u8]) -> bool {
    chars::elements(value).any(|token| token.eq_ignore_ascii_case(b"close"))
}

/// Whether a request wants to change the protocol. To `h2c` is ignored.
pub(super) fn wants_upgrade(head: &Head, notes: &Notes, wishes: Wishes) -> bool {
    notes.has_upgrade()
        && wishes.upgrade
        && head
            .get(b"upgrade")
            .is_some_and(|to| !to.is_empty() && !to.eq_ignore_ascii_case(b"h2c"))
}

/// Removes from a request what isn't passed on. An upgrade keeps `connection` and `upgrade`.
pub(super) fn strip_request(head: &mut Head, wishes: Wishes, upgrade: bool) {
    let nominated: Vec<Box<[u8]>> = if wishes.nominates {
        let tokens = head.get_all(b"connection").flat_map(chars::elements);
        tokens.map(|t| t.to_ascii_lowercase().into()).collect()
    } else {
        Vec::new()
    };
    let mut trailers = false;
    head.retain(|Field { name, value, .. }| match name {
        b"connection" | b"upgrade" => upgrade,
        b"keep-alive" | b"proxy-connection" | b"transfer-encoding" | b"http2-settings" => false,
        b"content-length" => true, // re-framed in any case
        b"te" => {
            trailers |= chars::elements(value).any(|coding| coding == b"trailers");
            false
        }
        _ => !nominated.iter().any(|n| &**n == name),
    });
    if trailers {
        head.push(Field::new(b"te", b"trailers"));
    }
}

/// Removes from a response what isn't passed on. 101 keeps `connection` and `upgrade`. What `Connection` nominates stays, as
/// measured.
pub(super) fn strip_response(head: &mut Head, switches: bool) {
    head.retain(|field| match field.name {
        b"connection" | b"upgrade" => switches,
        b"keep-alive" | b"proxy-connection" | b"transfer-encoding" => false,
        _ => true,
    });
}
