//! Any bytes as a remote cache's config: no panic, and what is taken over survives being written and read again.
#![no_main]

use kiln_remote::{CacheConfig, Contents};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Ok(config) = CacheConfig::parse(bytes) else { return };
    let contents = Contents { records: config.records, mounts: config.mounts };
    let Ok(written) = CacheConfig::write(&contents) else { panic!("what was read cannot be written") };
    match CacheConfig::parse(&written) {
        // Of several records under one key one is left.
        Ok(again) => assert!(again.records.len() <= contents.records.len()),
        Err(error) => panic!("what was written cannot be read: {error}"),
    }
});
