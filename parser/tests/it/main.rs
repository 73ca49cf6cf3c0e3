//! The parser as its users see it: whole files in, typed instructions, errors and warnings out.
#![allow(clippy::unwrap_used, clippy::panic)]

mod corpus;
mod errors;
mod files;
mod limits;
mod lint;
mod oddities;
mod print;
mod triggers;
