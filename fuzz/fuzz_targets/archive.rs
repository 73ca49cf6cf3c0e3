//! Any bytes as an archive of images (docker or OCI, compressed or not). The rules are those of `kiln_image::fuzzing`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| kiln_image::fuzzing::archive(bytes));
