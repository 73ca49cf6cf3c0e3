//! Any bytes as a step's output: no panic, and nothing that a terminal obeys is left, on lines and in the small terminal.
#![no_main]

use std::num::NonZero;

use libfuzzer_sys::fuzz_target;

#[allow(dead_code)]
#[path = "../../frontend-cli/src/printable.rs"]
mod printable;

fuzz_target!(|bytes: &[u8]| {
    let harmless = |text: &str| assert!(!text.chars().any(|char| char.is_control() && char != '\t'), "{text:?}");
    for line in bytes.split(|byte| *byte == b'\n') {
        harmless(&printable::log_line(line));
    }
    let size = |count| NonZero::new(count).expect("more than none");
    let mut terminal = vt100::Parser::new(size(6), size(80), 0);
    terminal.process(bytes);
    for row in terminal.screen().rows(0, 80) {
        harmless(&printable::printable(&row));
    }
});
