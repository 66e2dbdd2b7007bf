//! What is refused before anything else looks at a request, and what its path becomes. Spec: l7-semantics.md 3.
//!
//! An HTTP/1 codec refuses most of it itself; what is left are rules of the chain's, and HTTP/2's share.

use std::borrow::Cow;

use http::StatusCode;
use waymark_engine::Head;

use super::local_reply::LocalReply;
use super::path::{Normalized, normalize};
use crate::program::{HttpChain, Underscores};
use crate::telemetry::ResponseFlag;

/// Admits a request, whose path is normalized then.
pub(super) fn admit(head: &mut Head, chain: &HttpChain, http2: bool) -> Result<(), LocalReply> {
    if http2 {
        admit_http2(head, chain)?;
    }
    let Some(target) = head.path().and_then(|p| std::str::from_utf8(p).ok()) else {
        return Err(path_rejected());
    };
    if !target.starts_with('/') {
        return Err(LocalReply::new(
            StatusCode::NOT_FOUND,
            "absolute_path_rejected",
        ));
    }
    match normalize(target, &chain.path) {
        Normalized::Path(Cow::Borrowed(_)) => Ok(()),
        Normalized::Path(Cow::Owned(path)) => {
            head.set_path(path.as_bytes());
            Ok(())
        }
        Normalized::Reject => Err(path_rejected()),
        Normalized::Redirect(path) => {
            let mut reply =
                LocalReply::new(StatusCode::TEMPORARY_REDIRECT, "path_normalization_failed");
            reply.location = Some(path);
            Err(reply)
        }
    }
}

fn path_rejected() -> LocalReply {
    LocalReply::new(StatusCode::BAD_REQUEST, "path_normalization_failed").close()
}

/// What an HTTP/1 codec does by itself: `host` is the authority, and there is one.
fn admit_http2(head: &mut Head, chain: &HttpChain) -> Result<(), LocalReply> {
    if head.method() == Some(b"CONNECT") {
        return Err(LocalReply::no_route().close());
    }
    match head.authority().map(<[u8]>::to_vec) {
        None => {
            let reply = LocalReply::new(StatusCode::BAD_REQUEST, "missing_host_header");
            return Err(reply.close());
        }
        Some(authority) if !is_valid_authority(&authority) => {
            return Err(codec_error(
                StatusCode::BAD_REQUEST,
                "http.invalid_authority",
            ));
        }
        Some(authority) => {
            if head.remove(b"host") {
                head.set_authority(&authority);
            }
        }
    }
    let underscored = |head: &Head| head.fields().any(|f| f.name.contains(&b'_'));
    match chain.underscores {
        Underscores::Allow => Ok(()),
        Underscores::Reject if underscored(head) => Err(codec_error(
            StatusCode::BAD_REQUEST,
            "http2.unexpected_underscore",
        )),
        Underscores::Reject => Ok(()),
        Underscores::Drop => {
            head.retain(|field| !field.name.contains(&b'_'));
            Ok(())
        }
    }
}

fn codec_error(status: StatusCode, details: &'static str) -> LocalReply {
    LocalReply::new(status, details)
        .body(status.canonical_reason().unwrap_or_default())
        .flag(ResponseFlag::DPE)
        .close()
}

fn is_valid_authority(authority: &[u8]) -> bool {
    authority
        .iter()
        .all(|b| b.is_ascii_alphanumeric() || b"-._~%!$&'()*+,;=:[]".contains(b))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use waymark_engine::Field;

    use super::*;
    use crate::http::fixture;

    fn request(path: &str, authority: Option<&str>, fields: &[(&str, &str)]) -> Head {
        let mut head = Head::request(b"GET");
        head.set_path(path.as_bytes());
        if let Some(authority) = authority {
            head.set_authority(authority.as_bytes());
        }
        for (name, value) in fields {
            head.push(Field::new(name.as_bytes(), value.as_bytes()));
        }
        head
    }

    #[test]
    fn paths_are_normalized_or_refused() {
        let chain = fixture::chain();
        let mut head = request("/a/../b?q", Some("h"), &[]);
        assert_eq!(admit(&mut head, &chain, false), Ok(()));
        assert_eq!(head.path(), Some(&b"/b?q"[..]));
        for (path, status, closes) in [("*", 404, false), ("/a%00", 400, true), ("/a#b", 400, true)]
        {
            let reply = admit(&mut request(path, Some("h"), &[]), &chain, false).unwrap_err();
            assert_eq!((reply.status.as_u16(), reply.close), (status, closes));
        }
    }

    #[test]
    fn http2_names_its_authority_one_way_or_the_other() {
        let chain = fixture::chain();
        let mut head = request("/", None, &[("host", "reviews")]);
        assert_eq!(admit(&mut head, &chain, true), Ok(()));
        assert_eq!(head.authority(), Some(&b"reviews"[..]));
        assert!(!head.contains(b"host"));
        for (authority, details) in [
            (None, "missing_host_header"),
            (Some("a b"), "http.invalid_authority"),
        ] {
            let reply = admit(&mut request("/", authority, &[]), &chain, true).unwrap_err();
            assert_eq!((reply.status.as_u16(), &*reply.details), (400, details));
        }
    }

    #[test]
    fn underscores_are_the_chains_business() {
        let mut chain = fixture::chain();
        let fields = &[("a_b", "1"), ("c", "2")];
        assert_eq!(
            admit(&mut request("/", Some("h"), fields), &chain, true),
            Ok(())
        );
        chain.underscores = Underscores::Drop;
        let mut head = request("/", Some("h"), fields);
        assert_eq!(admit(&mut head, &chain, true), Ok(()));
        assert!(!head.contains(b"a_b") && head.contains(b"c"));
        chain.underscores = Underscores::Reject;
        let reply = admit(&mut request("/", Some("h"), fields), &chain, true).unwrap_err();
        assert_eq!(reply.status.as_u16(), 400);
    }
}
