//! The `kiln` binary against real base images, registries, kernels and other tools.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stderr)]

mod bad_input;
mod commands;
mod conformance;
mod crash;
mod interop;
mod kiln;
mod network;
mod ordinary;
mod registries;
mod rootless;
mod sharing;
mod single_id;
mod storage;
mod threats;
mod tutorials;
