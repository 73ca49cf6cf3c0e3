//! The `kiln` binary: arguments to a request, events to the screen. No build logic.

fn main() {}
