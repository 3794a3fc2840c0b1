//! Runs `corral_fuzz::selectors` on whatever libFuzzer comes up with.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| corral_fuzz::selectors(data));
