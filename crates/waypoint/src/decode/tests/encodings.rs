//! Bytes that say the same in another way than our own encoder would.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::decode::{Decoder, Listener};
use crate::fixture::{self, REVIEWS, bookinfo, bytes};
use crate::program::Names;

/// What is made of a resource, as text; ids of names do not show.
fn meaning(resource: &Value, encoded: &[u8]) -> Result<String, String> {
    let mut names = Names::default();
    let mut decoder = Decoder::new(&mut names);
    let kind = resource["@type"]
        .as_str()
        .and_then(|t| t.rsplit('.').next());
    let text = match kind.expect("a type") {
        "Cluster" => decoder.cluster(encoded).map(|d| format!("{:?}", d.value)),
        "Listener" => decoder.listener(encoded).map(|d| match d.value.kind {
            Listener::Router(router) => {
                let rows = router.destinations.rows().map(|row| format!("{row:?}"));
                let rows: BTreeSet<_> = rows.collect();
                format!("{rows:?} {:?}", router.chains)
            }
            other => format!("{other:?}"),
        }),
        "RouteConfiguration" => decoder
            .route_configuration(encoded)
            .map(|d| format!("{:?}", d.value)),
        _ => decoder
            .endpoints(encoded)
            .map(|d| format!("{:?}", d.value.set)),
    };
    text.map_err(|e| e.to_string())
}

/// The top-level fields of a message, each with its tag.
fn fields(encoded: &[u8]) -> Vec<&[u8]> {
    let mut rest = encoded;
    let mut all = Vec::new();
    while !rest.is_empty() {
        let start = rest;
        let wire = varint(&mut rest) & 7;
        let skip = match wire {
            0 => {
                varint(&mut rest);
                0
            }
            1 => 8,
            2 => usize::try_from(varint(&mut rest)).expect("a length"),
            5 => 4,
            other => panic!("wire type {other}"),
        };
        rest = &rest[skip..];
        all.push(&start[..start.len() - rest.len()]);
    }
    all
}

fn varint(rest: &mut &[u8]) -> u64 {
    let mut value = 0;
    for shift in (0..).step_by(7) {
        let (first, after) = rest.split_first().expect("a varint");
        *rest = after;
        value |= u64::from(first & 0x7f) << shift;
        if first & 0x80 == 0 {
            break;
        }
    }
    value
}

fn all() -> Vec<Value> {
    let mesh = bookinfo();
    [mesh.clusters, mesh.listeners, mesh.routes, mesh.endpoints].concat()
}

#[test]
fn the_order_of_fields_does_not_matter() {
    for resource in all() {
        let encoded = bytes(&resource);
        let want = meaning(&resource, &encoded);
        assert!(want.is_ok(), "{want:?}");
        // Of a repeated field the order counts: the elements of each stay as they are.
        let mut parts = fields(&encoded);
        parts.sort_by_key(|field| std::cmp::Reverse(varint(&mut &field[..]) >> 3));
        assert_eq!(meaning(&resource, &parts.concat()), want);
    }
}

#[test]
fn fields_that_nobody_knows_yet_are_passed_over() {
    for resource in all() {
        let encoded = bytes(&resource);
        let want = meaning(&resource, &encoded);
        // Number 5000: a varint, and bytes.
        let more = [0xc0, 0xb8, 0x02, 0x07, 0xc2, 0xb8, 0x02, 0x02, b'h', b'i'];
        assert_eq!(meaning(&resource, &[&encoded, &more[..]].concat()), want);
        assert_eq!(meaning(&resource, &[&more[..], &encoded].concat()), want);
    }
}

#[test]
fn of_a_field_that_is_there_twice_the_last_counts() {
    let resource = fixture::cluster(REVIEWS);
    let encoded = bytes(&resource);
    let want = meaning(&resource, &encoded);
    // `name`, field 1: the one in front is overwritten.
    let twice = [&[0x0a, 0x01, b'x'][..], &encoded].concat();
    assert_eq!(meaning(&resource, &twice), want);
}

#[test]
fn bytes_that_are_no_message_are_refused_and_never_more() {
    for resource in all() {
        let encoded = bytes(&resource);
        for end in 0..encoded.len().min(400) {
            // Some prefixes are messages, with less in them.
            drop(meaning(&resource, &encoded[..end]));
        }
        let why = meaning(&resource, &[&encoded[..], &[0xff]].concat()).expect_err("refused");
        assert!(why.contains("is not the message it says it is"), "{why}");
    }
}
