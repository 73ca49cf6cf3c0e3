//! Any text as a word: no panic, and no result that is larger than the limit allows.
#![no_main]

use kiln_parser::expand::{Variables, expand, expand_heredoc, expand_to_words};
use libfuzzer_sys::fuzz_target;

struct Some3;

impl Variables for Some3 {
    fn get(&self, name: &str) -> Option<&str> {
        match name {
            "a" => Some("value"),
            "b" => Some(""),
            "c" => Some("/usr/lib/*.so 'x' \"y\" $a\n"),
            _ => None,
        }
    }
}

fuzz_target!(|word: &str| {
    for escape in ['\\', '`'] {
        let _ = expand(word, &Some3, escape);
        let _ = expand_to_words(word, &Some3, escape);
        let _ = expand_heredoc(word, &Some3, escape);
    }
});
