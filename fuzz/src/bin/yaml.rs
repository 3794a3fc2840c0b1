//! Runs `corral_fuzz::yaml` on whatever libFuzzer comes up with.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| corral_fuzz::yaml(data));
