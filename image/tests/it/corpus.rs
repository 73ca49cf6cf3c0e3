//! What fuzzing found worth keeping (`fuzz/corpus`): what is printed is read as the same.

use std::path::Path;

use kiln_image::{ImageRef, Platform};

fn replay(target: &str, each: impl Fn(&str)) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus").join(target);
    let mut count = 0;
    for entry in std::fs::read_dir(&folder).unwrap() {
        let Ok(text) = std::fs::read_to_string(entry.unwrap().path()) else { continue };
        each(&text);
        count += 1;
    }
    assert!(count > 0, "{}", folder.display());
}

#[test]
fn names_of_the_corpus_print_and_read_as_the_same() {
    replay("reference", |text| {
        if let Ok(reference) = text.parse::<ImageRef>() {
            assert_eq!(reference.to_string().parse::<ImageRef>(), Ok(reference));
        }
    });
}

#[test]
fn platforms_of_the_corpus_print_and_read_as_the_same() {
    replay("platform", |text| {
        if let Ok(platform) = text.parse::<Platform>() {
            assert_eq!(platform.to_string().parse::<Platform>(), Ok(platform));
        }
    });
}
