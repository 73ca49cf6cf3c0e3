//! Any bytes as an ignore file, its last line as a path: no panic, and nothing kept below what is pruned.
#![no_main]

use kiln_parser::ignore::{IgnoreRules, Verdict};
use kiln_parser::pattern::Pattern;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &[u8]| {
    let cut = text.iter().rposition(|byte| *byte == b'\n').unwrap_or(0);
    let (rules, path) = text.split_at(cut);
    let path = String::from_utf8_lossy(path).trim_matches(['\n', '/']).to_owned();
    if let Ok(pattern) = Pattern::new(&String::from_utf8_lossy(rules)) {
        let _ = pattern.matches(&path);
    }
    let Ok(rules) = IgnoreRules::parse(rules) else { return };
    if rules.verdict(&path) == Verdict::Prune {
        for child in ["a", "a/b", ".x", "*"] {
            assert_eq!(rules.verdict(&format!("{path}/{child}")), Verdict::Prune);
        }
    }
});
