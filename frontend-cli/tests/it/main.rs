//! What the binary says and how it exits where no engine is needed.
#![allow(clippy::unwrap_used)]

mod usage;
