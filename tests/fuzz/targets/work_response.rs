#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| farmhand::fuzzing::work_response(data));
