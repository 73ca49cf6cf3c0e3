//! Any bytes as a database of rpm's: no panic, no end of time or memory.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| kiln::fuzzing::rpm_database(bytes));
