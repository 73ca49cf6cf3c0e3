//! Any text as the address of a repository: no panic, and nothing that git could take for an option.
#![no_main]

use kiln_solver::git_url::{GitUrl, redacted};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    for parsed in [GitUrl::parse(text), GitUrl::parse_context(text)] {
        let Ok(Some(url)) = parsed else { continue };
        let source = url.source;
        assert!(!source.remote.starts_with('-') && !source.reference.starts_with('-'));
        assert!(!source.subdir.split('/').any(|part| part == ".."));
    }
    let _ = redacted(text);
});
