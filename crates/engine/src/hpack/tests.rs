use std::collections::VecDeque;

use proptest::prelude::*;

use super::table::Table;
use super::*;
use crate::head::{Class, Field, Head};

fn bytes(hex: &str) -> Vec<u8> {
    let digits: Vec<u8> = hex
        .bytes()
        .filter(|b| !b.is_ascii_whitespace())
        .map(|b| (b as char).to_digit(16).unwrap() as u8)
        .collect();
    digits
        .chunks(2)
        .map(|pair| pair[0] << 4 | pair[1])
        .collect()
}

fn decode(decoder: &mut Decoder, block: &[u8]) -> Result<Vec<(String, String)>, HpackError> {
    let mut head = Head::new();
    head.begin(usize::MAX, usize::MAX);
    decoder.decode(block, &mut head)?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Ok(head
        .wire_fields()
        .map(|field| (text(field.name), text(field.value)))
        .collect())
}

/// Decodes blocks one after the other, checking the fields, given as `name: value` lines, and the table's size after each.
fn check(decoder: &mut Decoder, steps: &[(&str, &str, usize)]) {
    for (block, fields, size) in steps {
        let decoded = decode(decoder, &bytes(block)).unwrap();
        let lines: Vec<String> = decoded.iter().map(|(n, v)| format!("{n}: {v}")).collect();
        let want: Vec<&str> = fields.lines().map(str::trim).collect();
        assert_eq!(lines, want);
        assert_eq!(decoder.table_size(), *size);
    }
}

#[test]
fn single_fields_of_appendix_c() {
    for (block, fields, size) in [
        (
            "400a 6375 7374 6f6d 2d6b 6579 0d63 7573 746f 6d2d 6865 6164 6572",
            "custom-key: custom-header",
            55,
        ),
        (
            "040c 2f73 616d 706c 652f 7061 7468",
            ":path: /sample/path",
            0,
        ),
        (
            "1008 7061 7373 776f 7264 0673 6563 7265 74",
            "password: secret",
            0,
        ),
        ("82", ":method: GET", 0),
    ] {
        check(&mut Decoder::new(), &[(block, fields, size)]);
    }
}

const REQUESTS: [&str; 3] = [
    ":method: GET
    :scheme: http
    :authority: www.example.com
    :path: /",
    ":method: GET
    :scheme: http
    :authority: www.example.com
    :path: /
    cache-control: no-cache",
    ":method: GET
    :scheme: https
    :authority: www.example.com
    :path: /index.html
    custom-key: custom-value",
];

#[test]
fn requests_of_appendix_c() {
    let plain = [
        "8286 8441 0f77 7777 2e65 7861 6d70 6c65 2e63 6f6d",
        "8286 84be 5808 6e6f 2d63 6163 6865",
        "8287 85bf 400a 6375 7374 6f6d 2d6b 6579 0c63 7573 746f 6d2d 7661 6c75 65",
    ];
    let huffman = [
        "8286 8441 8cf1 e3c2 e5f2 3a6b a0ab 90f4 ff",
        "8286 84be 5886 a8eb 1064 9cbf",
        "8287 85bf 4088 25a8 49e9 5ba9 7d7f 8925 a849 e95b b8e8 b4bf",
    ];
    for blocks in [plain, huffman] {
        let sizes = [57, 110, 164];
        let mut decoder = Decoder::new();
        for ((block, fields), size) in blocks.into_iter().zip(REQUESTS).zip(sizes) {
            check(&mut decoder, &[(block, fields, size)]);
        }
    }
}

const RESPONSES: [&str; 3] = [
    ":status: 302
    cache-control: private
    date: Mon, 21 Oct 2013 20:13:21 GMT
    location: https://www.example.com",
    ":status: 307
    cache-control: private
    date: Mon, 21 Oct 2013 20:13:21 GMT
    location: https://www.example.com",
    ":status: 200
    cache-control: private
    date: Mon, 21 Oct 2013 20:13:22 GMT
    location: https://www.example.com
    content-encoding: gzip
    set-cookie: foo=ASDJKHQKBZXOQWEOPIUAXQWEOIU; max-age=3600; version=1",
];

#[test]
fn responses_of_appendix_c_evict_from_a_small_table() {
    let plain = [
        "4803 3330 3258 0770 7269 7661 7465 611d 4d6f 6e2c 2032 3120 4f63 7420 3230 3133 2032 303a 3133 3a32 3120 474d
         546e 1768 7474 7073 3a2f 2f77 7777 2e65 7861 6d70 6c65 2e63 6f6d",
        "4803 3330 37c1 c0bf",
        "88c1 611d 4d6f 6e2c 2032 3120 4f63 7420 3230 3133 2032 303a 3133 3a32 3220 474d 54c0 5a04 677a 6970 7738 666f
         6f3d 4153 444a 4b48 514b 425a 584f 5157 454f 5049 5541 5851 5745 4f49 553b 206d 6178 2d61 6765 3d33 3630 303b
         2076 6572 7369 6f6e 3d31",
    ];
    let huffman = [
        "4882 6402 5885 aec3 771a 4b61 96d0 7abe 9410 54d4 44a8 2005 9504 0b81 66e0 82a6 2d1b ff6e 919d 29ad 1718 63c7
         8f0b 97c8 e9ae 82ae 43d3",
        "4883 640e ffc1 c0bf",
        "88c1 6196 d07a be94 1054 d444 a820 0595 040b 8166 e084 a62d 1bff c05a 839b d9ab 77ad 94e7 821d d7f2 e6c7 b335
         dfdf cd5b 3960 d5af 2708 7f36 72c1 ab27 0fb5 291f 9587 3160 65c0 03ed 4ee5 b106 3d50 07",
    ];
    for blocks in [plain, huffman] {
        let sizes = [222, 222, 215];
        let mut decoder = Decoder::new();
        decoder.set_limit(256);
        // The change of the table's size that has to come first, for a table that begins with 4096.
        assert_eq!(decode(&mut decoder, &[0x3f, 0xe1, 0x01]), Ok(Vec::new()));
        for ((block, fields), size) in blocks.into_iter().zip(RESPONSES).zip(sizes) {
            check(&mut decoder, &[(block, fields, size)]);
        }
    }
}

#[test]
fn broken_blocks_are_refused() {
    for (block, want) in [
        ("80", HpackError::Index),
        ("be", HpackError::Index),
        ("ff", HpackError::Truncated),
        ("40", HpackError::Truncated),
        ("4003 6161", HpackError::Truncated),
        ("4001 61", HpackError::Truncated),
        ("ffff ffff ff7f", HpackError::IntegerOverflow),
        ("4081 ff01 61", HpackError::Huffman),
        ("3fe2 1f", HpackError::TableSize),
        ("8220", HpackError::TableSize),
    ] {
        assert_eq!(
            decode(&mut Decoder::new(), &bytes(block)),
            Err(want),
            "{block}"
        );
    }
}

#[test]
fn a_lowered_limit_has_to_be_followed() {
    let mut decoder = Decoder::new();
    decoder.set_limit(100);
    assert_eq!(decode(&mut decoder, &[0x82]), Err(HpackError::TableSize));
}

#[test]
fn a_head_that_came_before_takes_a_byte_a_field() {
    let mut encoder = Encoder::new(4096);
    let mut head = Head::request(b"POST");
    head.set_scheme(b"http");
    head.set_authority(b"reviews.default.svc.cluster.local:9080");
    head.set_path(b"/");
    for number in 0..20 {
        let name = format!("x-header-{number}");
        head.push(Field::new(
            name.as_bytes(),
            b"a value that is always the same",
        ));
    }
    let mut encode = || {
        let mut block = Vec::new();
        encoder.begin(&mut block);
        head.wire_fields()
            .for_each(|field| encoder.field(field, &mut block));
        block
    };
    encode();
    assert_eq!(encode().len(), 24);
}

#[test]
fn secrets_are_marked_and_in_no_table() {
    let mut encoder = Encoder::new(4096);
    let mut decoder = Decoder::new();
    for _ in 0..2 {
        let mut block = Vec::new();
        encoder.field(Field::new(b"authorization", b"Bearer x"), &mut block);
        let own = Field {
            sensitive: true,
            ..Field::new(b"x-key", b"y")
        };
        encoder.field(own, &mut block);
        let mut head = Head::new();
        head.begin(1000, 10);
        decoder.decode(&block, &mut head).unwrap();
        assert!(head.fields().all(|field| field.sensitive));
        assert_eq!(decoder.table_size(), 0);
        assert!(!format!("{head:?}").contains("Bearer"));
    }
}

#[test]
fn a_head_beyond_its_limits_is_dropped_but_followed() {
    let mut encoder = Encoder::new(4096);
    let mut decoder = Decoder::new();
    let mut block = Vec::new();
    for name in [b"a", b"b", b"c"] {
        encoder.field(Field::new(name, &[b'x'; 500]), &mut block);
    }
    let mut head = Head::new();
    head.begin(1100, 10);
    decoder.decode(&block, &mut head).unwrap();
    assert!(head.outgrown().is_some());
    assert!(head.bytes.len() <= 1100);
    block.clear();
    encoder.field(Field::new(b"c", &[b'x'; 500]), &mut block);
    assert_eq!(block.len(), 1, "in the encoder's table");
    let decoded = decode(&mut decoder, &block).unwrap();
    assert_eq!(decoded[0].0, "c", "and in the decoder's");
}

fn field() -> impl Strategy<Value = (String, String)> {
    let name = prop_oneof![
        Just("content-type".to_owned()),
        Just("cookie".to_owned()),
        Just("etag".to_owned()),
        Just("x-request-id".to_owned()),
        "[a-d]{1,2}",
        "x-[a-z-]{1,30}[a-z]",
    ];
    let value = prop_oneof!["[a-c]?", "[ -~]{0,80}", "[a-z]{100,1500}"];
    (name, value.prop_map(|value| value.trim().to_owned()))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn decode_inverts_encode(
        cap in prop_oneof![Just(0usize), 30usize..200, Just(4096)],
        blocks in prop::collection::vec(
            (prop::collection::vec(field(), 0..12), prop::option::of(0usize..5000)), 1..20),
    ) {
        let mut encoder = Encoder::new(cap);
        let mut decoder = Decoder::new();
        for (fields, limit) in blocks {
            if let Some(limit) = limit {
                // As between a SETTINGS frame and its acknowledgement.
                encoder.set_limit(limit);
                decoder.set_limit(limit);
            }
            let mut block = Vec::new();
            encoder.begin(&mut block);
            for (name, value) in &fields {
                encoder.field(Field::new(name.as_bytes(), value.as_bytes()), &mut block);
            }
            prop_assert_eq!(decode(&mut decoder, &block), Ok(fields));
        }
    }

    #[test]
    fn the_table_agrees_with_a_list(
        max in 0usize..400,
        steps in prop::collection::vec((field(), prop::option::weighted(0.1, 0usize..400)), 0..100),
    ) {
        let mut table = Table::new(max);
        let mut model: VecDeque<(String, String)> = VecDeque::new();
        let mut bound = max;
        let shrink = |model: &mut VecDeque<(String, String)>, to: usize| {
            while model.iter().map(|(n, v)| n.len() + v.len() + 32).sum::<usize>() > to {
                model.pop_back();
            }
        };
        for ((name, value), new_max) in steps {
            if let Some(new_max) = new_max {
                table.set_max(new_max);
                bound = new_max;
                shrink(&mut model, bound);
            }
            table.insert(name.as_bytes(), value.as_bytes(), Class::Regular);
            let number = table.inserted();
            model.push_front((name, value));
            shrink(&mut model, bound);
            for (age, (name, value)) in model.iter().enumerate() {
                let found = table.get(age).map(|(n, v, _)| (n, v));
                prop_assert_eq!(found, Some((name.as_bytes(), value.as_bytes())));
                prop_assert_eq!(table.age_of(number.wrapping_sub(age as u32)), Some(age));
            }
            prop_assert!(table.get(model.len()).is_none());
            prop_assert!(table.size() <= bound);
        }
    }
}
