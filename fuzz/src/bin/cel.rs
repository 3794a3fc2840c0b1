//! Runs `corral_fuzz::cel` on whatever libFuzzer comes up with.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| corral_fuzz::cel(data));
