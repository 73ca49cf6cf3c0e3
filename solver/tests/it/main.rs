//! The solver from outside.
#![allow(clippy::unwrap_used, clippy::panic)]

mod corpus;
mod lint_page;
