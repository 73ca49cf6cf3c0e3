//! Any bytes as a layer, compressed or not. The rules are those of `kiln_image::fuzzing`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| kiln_image::fuzzing::layer(bytes));
