//! An HTTP/1.1 client and a peer that says anything.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| waymark_engine::http1::fuzz::fuzz_response(data));
