//! An HTTP/2 server and a peer that says anything.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| waymark_engine::fuzz::fuzz_server(data));
