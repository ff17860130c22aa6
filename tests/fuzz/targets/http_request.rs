#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| farmhand::fuzzing::http_request(data));
