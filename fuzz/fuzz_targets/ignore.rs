//! Any bytes as an ignore file, its last line as a path: no panic, nothing kept below what is pruned, and the same answer
//! with and without a memory.
#![no_main]

use kiln_parser::ignore::{IgnoreMemory, IgnoreRules, Verdict};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &[u8]| {
    let cut = text.iter().rposition(|byte| *byte == b'\n').unwrap_or(0);
    let (rules, path) = text.split_at(cut);
    let path = String::from_utf8_lossy(path).trim_matches(['\n', '/']).to_owned();
    let Ok(rules) = IgnoreRules::parse(rules) else { return };
    let verdict = rules.verdict(&path);
    let memory = IgnoreMemory::new(rules.clone());
    assert_eq!((memory.verdict(&path), memory.verdict(&path)), (verdict, verdict));
    if verdict == Verdict::Prune {
        for child in ["a", "a/b", ".x", "*"] {
            let below = format!("{path}/{child}");
            assert_eq!((rules.verdict(&below), memory.verdict(&below)), (Verdict::Prune, Verdict::Prune));
        }
    }
});
