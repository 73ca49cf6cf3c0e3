//! Any bytes as the index and a blob of an image layout. The rules are those of `kiln_image::fuzzing`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| kiln_image::fuzzing::layout(bytes));
