//! See `targets.rs`.
#![no_main]

#[allow(dead_code, reason = "each binary takes one of them")]
#[path = "../targets.rs"]
mod targets;

libfuzzer_sys::fuzz_target!(|data: &[u8]| targets::inflate(data));
