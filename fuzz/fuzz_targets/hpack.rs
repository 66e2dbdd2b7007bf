//! Header blocks of any bytes.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| waymark_engine::fuzz::fuzz_hpack(data));
