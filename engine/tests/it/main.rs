//! Whole builds, from a Dockerfile's text to what was asked for.
//!
//! Those that start from a base image make it (`kiln_fixtures::Bases`) and run steps as root; where they cannot, they say
//! so and pass.
#![allow(clippy::unwrap_used, clippy::print_stderr, clippy::panic, clippy::result_large_err)]

mod adds;
mod builds;
mod contexts;
mod copies;
mod servers;
mod support;
