//! The solver from outside.
#![allow(clippy::unwrap_used, clippy::panic)]

mod lint_page;
