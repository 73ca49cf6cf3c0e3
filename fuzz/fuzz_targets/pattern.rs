//! A pattern and a path, on two lines: the matcher agrees with the rules of `filepath.Match` tried in every way.
#![no_main]

use kiln_parser::pattern::Pattern;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let Some((source, name)) = text.split_once('\n') else { return };
    let Ok(pattern) = Pattern::new(source) else { return };
    let matches = pattern.matches(name);
    if !Pattern::is_wildcard(source) && !source.contains('\\') {
        assert_eq!(matches, source == name);
    }
    if source.len() + name.len() < 24 && !source.contains(['[', '\\']) {
        let (source, name): (Vec<char>, Vec<char>) = (source.chars().collect(), name.chars().collect());
        assert_eq!(matches, slow(&source, &name));
    }
});

fn slow(pattern: &[char], name: &[char]) -> bool {
    match (pattern, name) {
        ([], []) => true,
        (['*', more @ ..], _) => {
            slow(more, name) || name.split_first().is_some_and(|(ch, rest)| *ch != '/' && slow(pattern, rest))
        }
        (['?', more @ ..], [ch, rest @ ..]) => *ch != '/' && slow(more, rest),
        ([wanted, more @ ..], [ch, rest @ ..]) => wanted == ch && slow(more, rest),
        _ => false,
    }
}
