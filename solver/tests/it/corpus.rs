//! What fuzzing of addresses found worth keeping (`fuzz/corpus/git_url`), read again by the target's own rules.

use std::path::Path;

use kiln_solver::git_url::{GitUrl, redacted};

#[test]
fn addresses_of_the_corpus_have_nothing_that_git_takes_for_an_option() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus/git_url");
    let files: Vec<_> = std::fs::read_dir(folder).unwrap().collect();
    assert!(!files.is_empty());
    for file in files {
        let bytes = std::fs::read(file.unwrap().path()).unwrap();
        let text = String::from_utf8_lossy(&bytes);
        for parsed in [GitUrl::parse(&text), GitUrl::parse_context(&text)] {
            let Ok(Some(url)) = parsed else { continue };
            let source = url.source;
            assert!(!source.remote.starts_with('-') && !source.reference.starts_with('-'), "{text}");
            assert!(!source.subdir.split('/').any(|part| part == ".."), "{text}");
        }
        let _ = redacted(&text);
    }
}
