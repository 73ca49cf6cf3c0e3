//! The sandbox on a real kernel.
#![allow(clippy::unwrap_used, clippy::print_stderr, missing_docs)]

mod support;

mod attacks;
mod commands;
mod mounts;
mod processes;
