//! The solver from outside.
#![allow(clippy::unwrap_used)]

mod lint_page;
