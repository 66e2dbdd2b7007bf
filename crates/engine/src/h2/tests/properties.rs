use proptest::prelude::*;

use crate::fuzz::{fuzz_client, fuzz_pair, fuzz_server};

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]
    #[test]
    fn two_ends_agree_whatever_they_do(input in prop::collection::vec(any::<u8>(), 0..3000)) {
        fuzz_pair(&input);
    }

    #[test]
    fn no_bytes_upset_a_server(input in frames()) {
        fuzz_server(&input);
    }

    #[test]
    fn no_bytes_upset_a_client(input in frames()) {
        fuzz_client(&input);
    }
}

/// Eight bytes of choices, then frames that are right more often than not.
fn frames() -> impl Strategy<Value = Vec<u8>> {
    let payload = prop_oneof![
        prop::collection::vec(any::<u8>(), 0..40),
        Just(vec![0, 0, 0, 1]),
        Just(vec![0x82, 0x86, 0x84, 0x41, 1, b'a']),
        Just(vec![0x88]),
        (0usize..2000).prop_map(|len| vec![0; len]),
    ];
    let flags = prop_oneof![Just(0u8), Just(4), Just(5), Just(1), any::<u8>()];
    let stream = prop_oneof![4 => 0u8..12, 1 => any::<u8>()];
    let frame = (0u8..11, flags, stream, payload).prop_map(|(kind, flags, stream, payload)| {
        let [_, l0, l1, l2] = (payload.len() as u32).to_be_bytes();
        let mut frame = vec![l0, l1, l2, kind, flags, 0, 0, 0, stream];
        frame.extend(payload);
        frame
    });
    (any::<[u8; 8]>(), prop::collection::vec(frame, 0..60)).prop_map(|(choices, frames)| {
        let mut input = choices.to_vec();
        input.extend(frames.concat());
        input
    })
}
