//! A body in chunks, of any bytes.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| waymark_engine::http1::fuzz::fuzz_chunked(data));
