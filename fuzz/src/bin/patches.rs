//! Runs `corral_fuzz::patches` on whatever libFuzzer comes up with.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| corral_fuzz::patches(data));
