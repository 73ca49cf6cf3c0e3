//! Any bytes as a header of a registry's answer. The rules are those of `kiln_image::fuzzing`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| kiln_image::fuzzing::headers(bytes));
