//! An HTTP/1.1 client and server that do anything that is allowed, in any order.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| waymark_engine::http1::fuzz::fuzz_exchange(data));
