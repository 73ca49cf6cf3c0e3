//! What the binary says and how it exits, where no registry is needed.
#![allow(clippy::unwrap_used, clippy::print_stderr)]

mod check;
mod images;
mod usage;
