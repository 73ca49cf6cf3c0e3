//! Any text as an image's name: no panic, and what is printed is read as the same.
#![no_main]

use kiln_image::ImageRef;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let Ok(reference) = text.parse::<ImageRef>() else { return };
    let printed = reference.to_string();
    assert_eq!(printed.parse::<ImageRef>().as_ref(), Ok(&reference), "{printed}");
});
