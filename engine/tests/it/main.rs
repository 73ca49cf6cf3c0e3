//! Whole builds, from a Dockerfile's text to what was asked for.
//!
//! Those that start from a base image want a registry with `busybox` at `KILN_TEST_REGISTRY` (127.0.0.1:5000 unless set)
//! and, for RUN, root; without them they say so and pass.
#![allow(clippy::unwrap_used, clippy::print_stderr, clippy::panic, clippy::result_large_err)]

mod adds;
mod builds;
mod contexts;
mod copies;
mod servers;
mod support;
