//! Any bytes as an archive that ADD or a piped context takes out. The rules are those of `kiln_image::fuzzing`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| kiln_image::fuzzing::context(bytes));
