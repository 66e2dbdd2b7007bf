//! Header blocks of any bytes.

use crate::Head;
use crate::hpack::{Decoder, Encoder};

/// Decodes the input as header blocks, each preceded by its length; what they decode to has to survive encoding.
pub fn fuzz_hpack(mut input: &[u8]) {
    let mut decoder = Decoder::new();
    let mut encoder = Encoder::new(1024);
    let mut echo_decoder = Decoder::new();
    let mut head = Head::new();
    while let Some((&len, rest)) = input.split_first() {
        let (block, rest) = rest.split_at(rest.len().min(usize::from(len)));
        input = rest;
        head.begin(8 * 1024, 50);
        if decoder.decode(block, &mut head).is_err() {
            return;
        }
        assert!(head.bytes.len() <= 8 * 1024, "a head beyond its limits");
        let mut encoded = Vec::new();
        encoder.begin(&mut encoded);
        for field in head.fields() {
            encoder.field(field, &mut encoded);
        }
        let mut echo = Head::new();
        echo.begin(usize::MAX, usize::MAX);
        let decoded = echo_decoder.decode(&encoded, &mut echo);
        assert_eq!(decoded, Ok(()));
        let names_and_values = |head: &Head| -> Vec<(Vec<u8>, Vec<u8>)> {
            head.fields()
                .map(|field| (field.name.to_vec(), field.value.to_vec()))
                .collect()
        };
        assert_eq!(names_and_values(&echo), names_and_values(&head));
    }
}
