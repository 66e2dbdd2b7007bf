//! Request lines. Spec: l7-semantics.md 3.1.

use super::chars;
use super::refusal::Refusal;
use crate::head::Head;

/// The versions that can be served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// HTTP/1.0.
    Http10,
    /// HTTP/1.1.
    Http11,
}

/// What form the target had (RFC 9112 3.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TargetForm {
    Origin,
    /// The authority is the URI's.
    Absolute,
    /// A URI without a path but with a query.
    AbsoluteWithoutPath,
    Authority,
    Asterisk,
}

/// Whether a line that has begun like that can be a request line. Looks at the first bytes only, so that the answer doesn't
/// depend on how much is there.
pub(super) fn may_begin(bytes: &[u8]) -> bool {
    let shown = &bytes[..bytes.len().min(super::lines::Lines::SHOWN)];
    match shown.get(chars::token_len(shown)) {
        None => shown.len() < super::lines::Lines::SHOWN,
        Some(b' ' | b'\r') => true,
        Some(_) => false,
    }
}

/// Reads a line without its end into `head`.
pub(super) fn read(line: &[u8], head: &mut Head) -> Result<(Version, TargetForm), Refusal> {
    let mut words = line.split(|b| *b == b' ');
    let (method, target, version) = (words.next(), words.next(), words.next());
    let method = method.filter(|m| is_method(m)).ok_or(Refusal::Method)?;
    let target = target
        .filter(|t| !t.is_empty())
        .ok_or(Refusal::RequestLine)?;
    if words.next().is_some() {
        return Err(Refusal::RequestLine);
    }
    if !chars::is_visible(target) {
        return Err(match target.iter().find(|b| !(0x21..=0x7e).contains(*b)) {
            Some(b'\t' | b'\r' | 0x80..) | None => Refusal::Target,
            Some(_) => Refusal::Characters,
        });
    }
    let version = match version {
        Some(version) => read_version(version)?,
        None => return Err(Refusal::LowVersion), // as HTTP/0.9 had it
    };
    head.set_method(method);
    let form = read_target(method, target, head)?;
    Ok((version, form))
}

fn read_version(version: &[u8]) -> Result<Version, Refusal> {
    match version {
        b"HTTP/1.1" => Ok(Version::Http11),
        b"HTTP/1.0" => Ok(Version::Http10),
        [b'H', b'T', b'T', b'P', b'/', b'0'..=b'9', b'.', b'0'..=b'9'] => Err(Refusal::LowVersion),
        _ => Err(Refusal::RequestLine),
    }
}

#[inline]
fn read_target(method: &[u8], target: &[u8], head: &mut Head) -> Result<TargetForm, Refusal> {
    if method == b"CONNECT" {
        if !chars::is_authority(target) {
            return Err(Refusal::Url);
        }
        head.set_authority(target);
        return Ok(TargetForm::Authority);
    }
    if target.starts_with(b"/") {
        head.set_scheme(b"http");
        head.set_path(target);
        return Ok(TargetForm::Origin);
    }
    if target == b"*" && method == b"OPTIONS" {
        head.set_scheme(b"http");
        head.set_path(target);
        return Ok(TargetForm::Asterisk);
    }
    read_absolute(target, head)
}

#[cold]
fn read_absolute(target: &[u8], head: &mut Head) -> Result<TargetForm, Refusal> {
    let colon = memchr::memchr(b':', target).ok_or(Refusal::Target)?;
    let (scheme, rest) = target.split_at(colon);
    let rest = rest.strip_prefix(b"://").ok_or(Refusal::Target)?;
    if scheme.eq_ignore_ascii_case(b"http") {
        head.set_scheme(b"http");
    } else if scheme.eq_ignore_ascii_case(b"https") {
        head.set_scheme(b"https");
    } else {
        return Err(Refusal::Scheme);
    }
    let is_end = |b: &u8| matches!(b, b'/' | b'?' | b'#');
    let (authority, path) = rest.split_at(rest.iter().position(is_end).unwrap_or(rest.len()));
    if authority.is_empty() || !chars::is_authority(authority) {
        return Err(Refusal::Url);
    }
    head.set_authority(authority);
    head.set_path(if path.is_empty() { b"/" } else { path });
    if path.is_empty() || path.starts_with(b"/") {
        Ok(TargetForm::Absolute)
    } else {
        Ok(TargetForm::AbsoluteWithoutPath)
    }
}

/// The methods that Envoy knows, as measured. Case counts.
fn is_method(method: &[u8]) -> bool {
    matches!(
        method,
        b"GET"
            | b"POST"
            | b"PUT"
            | b"HEAD"
            | b"DELETE"
            | b"OPTIONS"
            | b"PATCH"
            | b"CONNECT"
            | b"TRACE"
            | b"QUERY"
            | b"ACL"
            | b"BIND"
            | b"CHECKOUT"
            | b"COPY"
            | b"LINK"
            | b"LOCK"
            | b"MERGE"
            | b"MKACTIVITY"
            | b"MKCALENDAR"
            | b"MKCOL"
            | b"MOVE"
            | b"MSEARCH"
            | b"NOTIFY"
            | b"PROPFIND"
            | b"PROPPATCH"
            | b"PURGE"
            | b"REBIND"
            | b"REPORT"
            | b"SEARCH"
            | b"SOURCE"
            | b"SUBSCRIBE"
            | b"UNBIND"
            | b"UNLINK"
            | b"UNLOCK"
            | b"UNSUBSCRIBE"
    )
}
