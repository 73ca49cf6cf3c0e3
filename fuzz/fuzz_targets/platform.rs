//! Any text as a platform: no panic, and what is printed is read as the same.
#![no_main]

use kiln_image::Platform;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let Ok(platform) = text.parse::<Platform>() else { return };
    let printed = platform.to_string();
    assert_eq!(printed.parse::<Platform>().as_ref(), Ok(&platform), "{printed}");
});
