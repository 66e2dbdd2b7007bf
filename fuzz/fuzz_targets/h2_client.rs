//! An HTTP/2 client with requests under way and a peer that says anything.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| waymark_engine::fuzz::fuzz_client(data));
