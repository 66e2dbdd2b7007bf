//! Encodes responses from shared resources, without building messages first.

use bytes::BufMut;
use prost::Message;
use prost::encoding::{encode_varint, encoded_len_varint};
use tonic::Status;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};

use super::type_state::Response;
use crate::discovery::DeltaDiscoveryRequest;
use crate::resource::Encoded;

/// Delta discovery, as the server sees it.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct DeltaCodec;

impl Codec for DeltaCodec {
    type Encode = Response;
    type Decode = DeltaDiscoveryRequest;
    type Encoder = ResponseEncoder;
    type Decoder = RequestDecoder;

    fn encoder(&mut self) -> Self::Encoder {
        ResponseEncoder
    }

    fn decoder(&mut self) -> Self::Decoder {
        RequestDecoder
    }
}

#[derive(Debug)]
pub(super) struct ResponseEncoder;

impl Encoder for ResponseEncoder {
    type Item = Response;
    type Error = Status;

    fn encode(&mut self, response: Response, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.reserve(encoded_len(&response));
        encode(&response, buffer);
        Ok(())
    }
}

#[derive(Debug)]
pub(super) struct RequestDecoder;

impl Decoder for RequestDecoder {
    type Item = DeltaDiscoveryRequest;
    type Error = Status;

    fn decode(
        &mut self,
        buffer: &mut DecodeBuf<'_>,
    ) -> Result<Option<DeltaDiscoveryRequest>, Status> {
        DeltaDiscoveryRequest::decode(buffer)
            .map(Some)
            .map_err(|error| {
                Status::invalid_argument(format!("decode DeltaDiscoveryRequest: {error}"))
            })
    }
}

/// The length of the encoded `DeltaDiscoveryResponse`.
pub(super) fn encoded_len(response: &Response) -> usize {
    let resources: usize = response
        .resources
        .iter()
        .map(|resource| delimited_len(resource_len(resource)))
        .sum();
    let removed: usize = response
        .removed
        .iter()
        .map(|name| delimited_len(name.len()))
        .sum();
    optional_len(&response.system_version)
        + resources
        + optional_len(&response.type_url)
        + optional_len(&response.nonce)
        + removed
}

/// Writes a `DeltaDiscoveryResponse`.
fn encode(response: &Response, out: &mut impl BufMut) {
    optional(1, &response.system_version, out);
    for resource in &response.resources {
        header(2, resource_len(resource), out);
        optional(1, resource.version(), out);
        header(2, any_len(resource), out);
        optional(1, resource.type_url(), out);
        if !resource.value().is_empty() {
            delimited(2, resource.value(), out);
        }
        optional(3, resource.name(), out);
        for alias in resource.aliases() {
            delimited(4, alias.as_bytes(), out);
        }
    }
    optional(4, &response.type_url, out);
    optional(5, &response.nonce, out);
    for name in &response.removed {
        delimited(6, name.as_bytes(), out);
    }
}

fn resource_len(resource: &Encoded) -> usize {
    let aliases: usize = resource
        .aliases()
        .iter()
        .map(|alias| delimited_len(alias.len()))
        .sum();
    optional_len(resource.version())
        + delimited_len(any_len(resource))
        + optional_len(resource.name())
        + aliases
}

fn any_len(resource: &Encoded) -> usize {
    let value = resource.value().len();
    optional_len(resource.type_url()) + if value == 0 { 0 } else { delimited_len(value) }
}

/// Every field number here is below 16: one byte of key.
fn delimited_len(len: usize) -> usize {
    1 + encoded_len_varint(len as u64) + len
}

fn optional_len(text: &str) -> usize {
    if text.is_empty() {
        0
    } else {
        delimited_len(text.len())
    }
}

fn header(field: u8, len: usize, out: &mut impl BufMut) {
    out.put_u8(field << 3 | 2);
    encode_varint(len as u64, out);
}

fn delimited(field: u8, bytes: &[u8], out: &mut impl BufMut) {
    header(field, bytes.len(), out);
    out.put_slice(bytes);
}

fn optional(field: u8, text: &str, out: &mut impl BufMut) {
    if !text.is_empty() {
        delimited(field, text.as_bytes(), out);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::discovery::{DeltaDiscoveryResponse, Resource};

    #[test]
    fn writes_what_prost_would() {
        let resources = vec![
            Arc::new(
                Encoded::new("a", "t/x", vec![7; 300])
                    .with_aliases(vec!["b".to_owned(), "c".to_owned()]),
            ),
            Arc::new(Encoded::new("empty", "t/x", Vec::new())),
        ];
        let response = Response {
            type_url: "t/x".into(),
            system_version: "v1".to_owned(),
            nonce: "n-1".to_owned(),
            resources: resources.clone(),
            removed: vec!["gone".to_owned(), "x".repeat(200)],
        };
        let message = DeltaDiscoveryResponse {
            system_version_info: "v1".to_owned(),
            resources: resources
                .iter()
                .map(|resource| Resource {
                    name: resource.name().to_owned(),
                    version: resource.version().to_owned(),
                    aliases: resource.aliases().to_vec(),
                    resource: Some(resource.to_any()),
                    ..Resource::default()
                })
                .collect(),
            type_url: "t/x".to_owned(),
            nonce: "n-1".to_owned(),
            removed_resources: response.removed.clone(),
            ..DeltaDiscoveryResponse::default()
        };
        let mut bytes = Vec::new();
        encode(&response, &mut bytes);
        assert_eq!(bytes, message.encode_to_vec());
        assert_eq!(bytes.len(), encoded_len(&response));
    }
}
