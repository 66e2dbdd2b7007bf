//! PROXY protocol v2, in front of what a sandwiched waypoint gets.
//!
//! Spec: hbone-and-l4.md 9.4.

use std::net::{IpAddr, SocketAddr};

use bytes::{BufMut, Bytes, BytesMut};
use waymark_identity::SpiffeId;

const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
const VERSION_2_PROXY: u8 = 0x21;
const TCP4: u8 = 0x11;
const TCP6: u8 = 0x21;
/// The peer's SPIFFE ID, as text.
const TLV_AUTHORITY: u8 = 0xD0;

/// The header for a connection from `source` to `destination`. Addresses of different families are both written as IPv6.
pub fn v2(source: SocketAddr, destination: SocketAddr, identity: Option<&SpiffeId>) -> Bytes {
    let mut body = BytesMut::with_capacity(128);
    let family = match (source.ip(), destination.ip()) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            body.put_slice(&source.octets());
            body.put_slice(&destination.octets());
            TCP4
        }
        (source, destination) => {
            body.put_slice(&v6(source));
            body.put_slice(&v6(destination));
            TCP6
        }
    };
    body.put_u16(source.port());
    body.put_u16(destination.port());
    if let Some(id) = identity {
        let text = id.as_str().as_bytes();
        body.put_u8(TLV_AUTHORITY);
        // A SPIFFE ID is at most 2 KiB long.
        body.put_u16(u16::try_from(text.len()).unwrap_or(u16::MAX));
        body.put_slice(text);
    }
    let mut header = BytesMut::with_capacity(SIGNATURE.len() + 4 + body.len());
    header.put_slice(SIGNATURE);
    header.put_u8(VERSION_2_PROXY);
    header.put_u8(family);
    header.put_u16(u16::try_from(body.len()).unwrap_or(u16::MAX));
    header.put_slice(&body);
    header.freeze()
}

fn v6(ip: IpAddr) -> [u8; 16] {
    match ip {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_what_the_protocol_says() {
        let identity: SpiffeId = "spiffe://td/ns/a/sa/b".parse().unwrap();
        let header = v2(
            "10.0.0.1:258".parse().unwrap(),
            "10.0.0.2:80".parse().unwrap(),
            Some(&identity),
        );
        let text = identity.as_str();
        let mut want = b"\r\n\r\n\0\r\nQUIT\n\x21\x11".to_vec();
        want.extend([
            0,
            12 + 3 + text.len() as u8,
            10,
            0,
            0,
            1,
            10,
            0,
            0,
            2,
            1,
            2,
            0,
            80,
            0xD0,
            0,
            text.len() as u8,
        ]);
        want.extend(text.bytes());
        assert_eq!(header, want);
    }

    #[test]
    fn mixed_families_are_written_as_v6() {
        let header = v2(
            "10.0.0.1:1".parse().unwrap(),
            "[::1]:2".parse().unwrap(),
            None,
        );
        assert_eq!(header[13], TCP6);
        assert_eq!(header.len(), 16 + 36);
    }
}
