//! The sandbox on a real kernel.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stderr, clippy::print_stdout, missing_docs)]

mod support;

mod attacks;
mod chroot;
mod commands;
mod inspection;
mod limits;
mod mounts;
mod network;
mod processes;
mod terminal;
