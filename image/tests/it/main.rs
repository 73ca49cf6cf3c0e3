//! kiln-image against real registries, real archives, and servers that lie.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stderr)]

mod corpus;
mod hostile;
mod layout;
mod login;
mod push;
mod registry;
mod support;
mod token_server;
mod upload_registry;
