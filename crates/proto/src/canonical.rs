//! One encoding for equal messages.
//!
//! Envoy's generated messages keep map fields in hash maps, whose order is another one each time. Where bytes are compared
//! or hashed, the entries of every map, at any depth and within every `Any` of a known type, are sorted by key.

use std::ops::Range;

use prost::encoding::{decode_varint, encode_varint};
use prost_reflect::{FieldDescriptor, Kind, MessageDescriptor};

use crate::any::{AnyMessage, type_name};
use crate::json::pool;

/// The encoded message with its maps sorted. Bytes that are no message of that type, or of a type that is not known, are
/// returned as they are.
pub fn message(full_name: &str, bytes: Vec<u8>) -> Vec<u8> {
    if OWN_PACKAGES
        .iter()
        .any(|package| full_name.starts_with(package))
    {
        return bytes;
    }
    let Some(descriptor) = pool::find(full_name).filter(pool::may_hold_map) else {
        return bytes;
    };
    let mut out = Vec::with_capacity(bytes.len());
    match sort(&descriptor, &bytes, &mut out, 0) {
        Some(()) => out,
        None => bytes,
    }
}

/// Packs a message like [`crate::any::pack`], but equal messages into equal bytes.
pub fn pack<M: prost::Name, A: AnyMessage>(value: &M) -> A {
    A::from_parts(
        M::type_url(),
        message(&M::full_name(), value.encode_to_vec()),
    )
}

/// `None` when the bytes are malformed.
fn sort(
    descriptor: &MessageDescriptor,
    bytes: &[u8],
    out: &mut Vec<u8>,
    depth: usize,
) -> Option<()> {
    if depth > MAX_DEPTH {
        return None;
    }
    let is_any = descriptor.full_name() == "google.protobuf.Any";
    let mut any_type: Option<&[u8]> = None;
    let mut map: Option<MapField<'_>> = None;
    let mut at = 0;
    while at < bytes.len() {
        let record = Record::read(bytes, at)?;
        at = record.end;
        if map.as_ref().is_some_and(|map| map.number != record.number) {
            flush(&mut map, out);
        }
        let contents = record.contents.as_ref().map(|range| &bytes[range.clone()]);
        let whole = &bytes[record.start..record.end];
        if is_any {
            match (record.number, contents) {
                (1, contents) => any_type = contents,
                (2, Some(contents)) => {
                    any_value(any_type, contents, out, depth);
                    continue;
                }
                _ => {}
            }
        }
        match (descriptor.get_field(record.number), contents) {
            (Some(field), Some(contents)) if field.is_map() => {
                let map = map.get_or_insert_with(|| MapField {
                    number: record.number,
                    entries: Vec::new(),
                });
                map.entries
                    .push((entry_key(contents)?, entry(&field, contents, depth)?));
            }
            (Some(field), Some(contents)) => match field.kind() {
                Kind::Message(inner) if pool::may_hold_map(&inner) => {
                    let mut sorted = Vec::with_capacity(contents.len());
                    sort(&inner, contents, &mut sorted, depth + 1)?;
                    length_delimited(record.number, &sorted, out);
                }
                _ => out.extend_from_slice(whole),
            },
            _ => out.extend_from_slice(whole),
        }
    }
    flush(&mut map, out);
    Some(())
}

/// Writes the `value` of an Any, sorted where its type is known and its bytes are of that type.
fn any_value(type_url: Option<&[u8]>, contents: &[u8], out: &mut Vec<u8>, depth: usize) {
    let descriptor = type_url
        .and_then(|url| std::str::from_utf8(url).ok())
        .and_then(|url| pool::find(type_name(url)))
        .filter(pool::may_hold_map);
    let mut sorted = Vec::with_capacity(contents.len());
    match descriptor.and_then(|descriptor| sort(&descriptor, contents, &mut sorted, depth + 1)) {
        Some(()) => length_delimited(2, &sorted, out),
        None => length_delimited(2, contents, out),
    }
}

/// A map entry with the maps in its value sorted.
fn entry(field: &FieldDescriptor, contents: &[u8], depth: usize) -> Option<Vec<u8>> {
    let Kind::Message(descriptor) = field.kind() else {
        return None;
    };
    let mut sorted = Vec::with_capacity(contents.len());
    sort(&descriptor, contents, &mut sorted, depth + 1)?;
    let mut record = Vec::with_capacity(sorted.len() + 8);
    length_delimited(field.number(), &sorted, &mut record);
    Some(record)
}

/// The encoded key of a map entry; empty for the default key, which may be left out.
fn entry_key(entry: &[u8]) -> Option<&[u8]> {
    let mut at = 0;
    while at < entry.len() {
        let record = Record::read(entry, at)?;
        at = record.end;
        if record.number == 1 {
            return Some(match record.contents {
                Some(range) => &entry[range],
                None => &entry[record.start..record.end],
            });
        }
    }
    Some(&[])
}

/// A map field that is being read.
struct MapField<'a> {
    number: u32,
    /// Key to sort by, whole record.
    entries: Vec<(&'a [u8], Vec<u8>)>,
}

fn flush(map: &mut Option<MapField<'_>>, out: &mut Vec<u8>) {
    if let Some(MapField { mut entries, .. }) = map.take() {
        entries.sort_by_key(|(key, _)| *key);
        for (_, record) in entries {
            out.extend_from_slice(&record);
        }
    }
}

fn length_delimited(number: u32, contents: &[u8], out: &mut Vec<u8>) {
    encode_varint(u64::from(number) << 3 | 2, out);
    encode_varint(contents.len() as u64, out);
    out.extend_from_slice(contents);
}

/// One field of an encoded message.
struct Record {
    number: u32,
    start: usize,
    end: usize,
    /// Of a length-delimited field, where its contents are.
    contents: Option<Range<usize>>,
}

impl Record {
    fn read(bytes: &[u8], start: usize) -> Option<Self> {
        let mut at = start;
        let key = varint(bytes, &mut at)?;
        let number = u32::try_from(key >> 3).ok()?;
        let mut contents = None;
        match key & 7 {
            0 => {
                varint(bytes, &mut at)?;
            }
            1 => at = at.checked_add(8)?,
            2 => {
                let length = usize::try_from(varint(bytes, &mut at)?).ok()?;
                let end = at.checked_add(length)?;
                contents = Some(at..end);
                at = end;
            }
            5 => at = at.checked_add(4)?,
            // Groups are not of proto3.
            _ => return None,
        }
        (at <= bytes.len()).then_some(Self {
            number,
            start,
            end: at,
            contents,
        })
    }
}

fn varint(bytes: &[u8], at: &mut usize) -> Option<u64> {
    let mut rest = bytes.get(*at..)?;
    let before = rest.len();
    let value = decode_varint(&mut rest).ok()?;
    *at += before - rest.len();
    Some(value)
}

/// Our own generated code keeps maps in order.
const OWN_PACKAGES: [&str; 4] = ["istio.", "waymark.", "stats.", "io.istio."];

/// Deeper than this, bytes are left as they are.
const MAX_DEPTH: usize = 200;

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;
    use crate::envoy::envoy::config::core::v3::{Metadata, TypedExtensionConfig};
    use crate::envoy::google::protobuf::{Struct, Value, value::Kind as ValueKind};

    fn metadata(order: impl Iterator<Item = usize>) -> Metadata {
        let order: Vec<usize> = order.collect();
        let fields = |prefix: usize| {
            order.iter().map(move |i| {
                (
                    format!("key-{prefix}-{i}"),
                    Value {
                        kind: Some(ValueKind::NumberValue(*i as f64)),
                    },
                )
            })
        };
        let filter_metadata: HashMap<String, Struct> = order
            .iter()
            .map(|i| {
                (
                    format!("filter-{i}"),
                    Struct {
                        fields: fields(*i).collect(),
                    },
                )
            })
            .collect();
        Metadata {
            filter_metadata,
            typed_filter_metadata: HashMap::new(),
        }
    }

    #[test]
    fn equal_messages_have_equal_bytes() {
        let pack_all = |metadata: &Metadata| {
            let inner = pack(metadata);
            let config = TypedExtensionConfig {
                name: "a".to_owned(),
                typed_config: Some(inner),
            };
            pack::<_, prost_types::Any>(&config)
        };
        let (one, other) = (metadata(0..20), metadata((0..20).rev()));
        assert_eq!(one, other);
        assert_eq!(pack_all(&one), pack_all(&other));
        let back: TypedExtensionConfig = crate::any::unpack(&pack_all(&one)).expect("unpack");
        let back: Metadata =
            crate::any::unpack(&back.typed_config.expect("config")).expect("unpack");
        assert_eq!(back, one);
    }

    #[test]
    fn malformed_bytes_are_left_alone() {
        let bytes = vec![0x0a, 0xff, 0x01];
        assert_eq!(
            message("envoy.config.core.v3.Metadata", bytes.clone()),
            bytes
        );
        assert_eq!(message("no.such.Type", bytes.clone()), bytes);
    }
}
